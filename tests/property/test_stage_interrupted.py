"""At whatever system call a staging dies, or the disk is full: the next one makes it good, and wastes no byte."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import collect
from stager.errors import StageImageError
from stager.lease import Lease
from stager.stage import Policy
from stager.store import images
from tests.support.effort import effort
from tests.support.fake_mounter import FakeMounter
from tests.support.fake_node import Death, FakeNode, Kill, bad_images, fake_node, origin, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stager.stage import Staging
    from stager.store.images import StagedImage

WRITES = ("open", "mkdir", "link", "rename", "replace", "pwrite", "ftruncate", "mkfifo", "unlink", "chmod", "utime")
"""The system calls by which a store changes; opening counts only when it makes something."""
NEED_SPACE = ("open", "mkdir", "link", "rename", "replace", "pwrite", "mkfifo")
MOST = 90
"""More of them than one staging makes, so that some examples are not interrupted at all."""

steps = st.integers(0, MOST)
RETRY = Policy(retry=True)


class Interruption:
    """Calls `strike` before (or after) the nth write below a directory."""

    def __init__(self, root: str, nth: int, strike: Callable[[], None], *, after: bool = False) -> None:
        self.left = nth
        self.struck = False
        self._root = root
        self._strike = strike
        self._after = after

    def install(self, patch: pytest.MonkeyPatch, calls: Iterable[str] = WRITES) -> None:
        for name in calls:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **how: object) -> object:
            now = not self.struck and self._counts(name, args) and self._is_due()
            self.struck |= now
            if now and not self._after:
                self._strike()
            result = real(*args, **how)
            if now and self._after:
                if name == "open":
                    os.close(int(str(result)))
                self._strike()
            return result

        return call

    def _counts(self, name: str, args: tuple[object, ...]) -> bool:
        if name == "open" and not int(str(args[1])) & os.O_CREAT:
            return False
        return not isinstance(args[0], str) or args[0].startswith(("/proc",)) or args[0].startswith(self._root)

    def _is_due(self) -> bool:
        self.left -= 1
        return self.left < 0


def outcome(wish: Staging) -> StagedImage | StageImageError:
    """Return what a task gets: the image, or why not."""
    try:
        return wish.run()
    except StageImageError as error:
        return error


@given(nth=steps, after=st.booleans(), moves=st.booleans(), warm=st.booleans())
@effort(18)
def test_a_death_at_any_write_costs_nothing(
    tmp_path_factory: pytest.TempPathFactory, nth: int, *, after: bool, moves: bool, warm: bool
) -> None:
    root = f"{tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())}/store"
    with pytest.MonkeyPatch.context() as patch, fake_node(root, patch) as node:
        source = origin()
        if warm:
            node.staging(source, scope="job-0").run()
            source.version = version(2)
        begun = source.served
        with Kill(root, "") as kill, node.processes.victim(), pytest.MonkeyPatch.context() as mine:
            Interruption(root, nth, lambda: kill(""), after=after).install(mine)
            node.staging(source, policy=RETRY).run()
        before = source.served - begun
        if moves:
            source.version = version(3)
        node.clock.advance(1)
        image = node.staging(source, policy=RETRY).run()
        assert images.lookup(node.layout, image.digest) == image
        assert bad_images(node.layout) == []
        size = len(source.version.content)
        # A death while a chunk is written loses that chunk; a whole beginning is fetched anew only if it is another's.
        assert source.served - begun <= size + (before if moves else source.piece)
        assert left_by_the_dead(node) == []


@given(nth=steps, number=st.sampled_from([errno.ENOSPC, errno.EDQUOT, errno.EIO]), warm=st.booleans())
@effort(18)
def test_a_write_that_fails_is_told_and_made_good(
    tmp_path_factory: pytest.TempPathFactory, nth: int, number: int, *, warm: bool
) -> None:
    root = f"{tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())}/store"
    with pytest.MonkeyPatch.context() as patch, fake_node(root, patch) as node:
        source = origin()
        if warm:
            node.staging(source, scope="job-0").run()
            source.version = version(2)
        begun = source.served

        def fail() -> None:
            raise OSError(number, os.strerror(number))

        with pytest.MonkeyPatch.context() as mine, node.processes.victim():
            trouble = Interruption(root, nth, fail)
            trouble.install(mine, NEED_SPACE)
            first = outcome(node.staging(source, policy=RETRY))
        if isinstance(first, StageImageError):
            assert trouble.struck
            assert os.strerror(number) in first.message
        else:
            assert images.lookup(node.layout, first.digest) == first
        node.clock.advance(1)
        image = node.staging(source, policy=RETRY).run()
        assert images.lookup(node.layout, image.digest) == image
        assert bad_images(node.layout) == []
        assert source.served - begun <= len(source.version.content) + source.piece
        assert left_by_the_dead(node) == []


def left_by_the_dead(node: FakeNode) -> list[str]:
    """Collect, and return what is then left of the dead: leases, unfinished images, copies of what is published."""
    mounter = FakeMounter()
    collect.Collector(node.layout, node.election, lambda _kind: mounter).run()
    left = []
    for folder, _, names in os.walk(f"{node.layout.root}/leases"):
        left += [f"{folder}/{name}" for name in names if (x := Lease.parse(name)) is None or not x.holder.alive]
    for parent in os.listdir(node.layout.images):
        left += [name for name in os.listdir(f"{node.layout.images}/{parent}") if name.startswith(".")]
    return left


def test_every_write_is_within_reach(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = f"{tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())}/store"
    with pytest.MonkeyPatch.context() as patch, fake_node(root, patch) as node:
        counting = Interruption(root, 10**6, lambda: None)
        with pytest.MonkeyPatch.context() as mine:
            counting.install(mine)
            node.staging(origin()).run()
        assert 20 < 10**6 - counting.left < MOST


def test_a_death_is_a_death() -> None:
    assert not issubclass(Death, Exception)
