from __future__ import annotations

import posixpath
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from stager.layout import FORMAT_SUFFIXES, Layout, warm_name
from stager.reference import REGISTRIES, parse
from tests.property.strategies import absolute_paths, digests, hex_digests, hostile_text, reference_texts
from tests.support.effort import effort

if TYPE_CHECKING:
    from stager.reference import Digest

ROOT = "/store"

verbs = st.sampled_from(["stage", "mount", "exec"])
mounts = st.sampled_from(["auto", "loop", "fuse", "none"])
runtimes = st.sampled_from(["auto", "apptainer", "singularity", "none"])
scopes = st.builds("{}-{}".format, st.sampled_from(["slurm", "sge", "pbs"]), st.integers(0, 999_999))
texts = reference_texts | hostile_text | st.text("ab/%,.:@-_ ", max_size=12).map("/".__add__)
questions = st.tuples(verbs, mounts, runtimes, texts)


def every_path(root: str, digest: Digest, key: str, scope: str, name: str) -> list[str]:
    """Return one path of every sort."""
    layout = Layout(root)
    return [
        *(layout.image_file(digest, image_format) for image_format in FORMAT_SUFFIXES),
        *(layout.twin(digest), layout.sidecar(digest), layout.quarantine(name), layout.reference_record(key)),
        *(layout.partials(key), layout.lock(name), layout.leader(name), layout.leases(digest)),
        *(layout.pin(scope, key), layout.warm(scope, name), layout.failure(key)),
        *(
            path
            for kind in ("loop", "fuse")
            for path in (layout.mountpoint(digest, kind), layout.mount_ready(digest, kind))
        ),
    ]


@given(digests, digests, hex_digests, hex_digests)
@effort(25)
def test_different_things_have_different_paths(one: Digest, two: Digest, key: str, other: str) -> None:
    paths = Counter(every_path(ROOT, one, key, "slurm-1", key))
    assert max(paths.values()) == 1
    again = every_path(ROOT, two, other, "slurm-2", other)
    differ = [a != b for a, b in zip(paths, again, strict=True)]
    assert all(differ) or one == two or key == other


@given(absolute_paths, digests, hex_digests, scopes)
@effort(25)
def test_everything_lies_below_a_folder_of_the_store(root: str, digest: Digest, key: str, scope: str) -> None:
    layout = Layout(root)
    for path in every_path(root, digest, key, scope, key):
        assert path.startswith(tuple(f"{folder}/" for folder in layout.folders))
        inside = path.removeprefix(f"{root}/")
        assert posixpath.normpath(inside) == inside
        assert not inside.startswith("..")


def test_folders_come_parents_first() -> None:
    folders = Layout(ROOT).folders
    known = {ROOT}
    for folder in folders:
        assert posixpath.dirname(folder) in known | {f"{ROOT}/images"}
        known.add(folder)
    assert len(known) == len(folders) + 1


@given(questions, questions)
@effort(25)
def test_different_questions_have_different_warm_answers(one: tuple[str, ...], two: tuple[str, ...]) -> None:
    names = [warm_name(*question) for question in (one, two)]
    assert one == two or None in names or names[0] != names[1]


@given(questions)
@effort(25)
def test_warm_names_are_plain_file_names(question: tuple[str, str, str, str]) -> None:
    name = warm_name(*question)
    if name is not None:
        assert len(name.encode()) <= 255, "NAME_MAX of Linux"
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set("/ \\'\"$`*[]|;()<>!#")
        assert not name.startswith((".", "-"))


@given(questions)
@effort(25)
def test_warm_names_can_be_undone(question: tuple[str, str, str, str]) -> None:
    name = warm_name(*question)
    if name is not None:
        verb, mount, runtime, text = name.split(",", 3)
        assert (verb, mount, runtime, text.replace("%", "/")) == question


@given(reference_texts.filter(lambda text: len(text) <= 200 and text.isascii()))
@effort(25)
def test_ordinary_references_have_warm_names(text: str) -> None:
    from string import ascii_letters, digits

    plain = set(text) <= set(ascii_letters + digits + "._:/@-") and text[:4] == text[:4].lower()
    has_user = "@" in (text.rpartition("@sha256:")[0] or text) and parse(text).scheme in REGISTRIES
    if plain:
        assert (warm_name("stage", "none", "none", text) is None) == has_user
