from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from stager import mountinfo
from tests.property.strategies import hostile_text
from tests.support.effort import effort

words = st.text("ab \t\n\\#0147-:\xe4\udcff", max_size=6)
paths = st.lists(words.filter(bool), max_size=3).map(lambda parts: "/" + "/".join(parts))


def mangled(text: str) -> str:
    """As mangle() of fs/proc_namespace.c does."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in text)


@given(root=paths, mountpoint=paths, source=words, optional=st.lists(st.sampled_from(["shared:1", "master:22"])))
@effort(25)
def test_what_the_kernel_escapes_comes_back(root: str, mountpoint: str, source: str, optional: list[str]) -> None:
    middle = "".join(f" {field}" for field in optional)
    line = f"7 6 8:1 {mangled(root)} {mangled(mountpoint)} rw,nosuid{middle} - ext4 {mangled(source)} ro"
    (found,) = mountinfo.parse(f"{line}\n")
    assert (found.root, found.mountpoint, found.source) == (root, mountpoint, source)
    assert (found.options, found.super_options) == (["rw", "nosuid"], ["ro"])


near_lines = st.builds(
    "{} {} 0:1 {}{} / rw {}{}{}".format,
    *(st.integers(0, 9), st.sampled_from("09٣"), st.sampled_from(["", "\\"]), st.text("0189٣", max_size=5)),
    *(st.sampled_from(["", "- ", "- - "]), st.sampled_from(["", "x ", "x x x "])),
    hostile_text.map(lambda text: text.replace(" ", "")),
)


@given(hostile_text | near_lines)
@effort(25)
def test_no_text_makes_the_parser_fail(text: str) -> None:
    for mount in mountinfo.parse(text):
        mountinfo.covering([mount], mount.mountpoint)


@dataclass
class Tree:
    """What a kernel knows of its mounts; paths are tuples of names."""

    mounts: list[tuple[int, int, tuple[str, ...]]]

    def lookup(self, path: tuple[str, ...]) -> int:
        """Walk a path name by name, stepping onto whatever is mounted at each step, as path_lookup does."""
        here = 1
        for depth in range(len(path) + 1):
            while (above := self._on(here, path[:depth])) is not None:
                here = above
        return here

    def mount(self, path: tuple[str, ...]) -> None:
        self.mounts.append((len(self.mounts) + 1, self.lookup(path), path))

    def _on(self, parent: int, path: tuple[str, ...]) -> int | None:
        return next((own for own, above, at in self.mounts if above == parent and at == path and own != parent), None)

    def table(self) -> str:
        return "".join(f"{own} {above} 0:{own} / /{'/'.join(at)} rw - tmpfs t rw\n" for own, above, at in self.mounts)


places = st.lists(st.sampled_from("abc"), max_size=3).map(tuple)


@given(mounted=st.lists(places, max_size=8), path=places, chroot=st.booleans())
@effort(25)
def test_the_table_says_where_the_kernel_would_go(
    mounted: list[tuple[str, ...]], path: tuple[str, ...], chroot: bool
) -> None:
    tree = Tree([(1, 0, ())])
    for place in mounted:
        tree.mount(place)
    table = mountinfo.parse(tree.table())
    if chroot:  # the mount of the root directory is not shown then
        table = [mount for mount in table if mount.id != 1]
    found = mountinfo.covering(table, "/" + "/".join(path))
    expected = tree.lookup(path)
    assert (found.id if found else None) == (None if chroot and expected == 1 else expected)
