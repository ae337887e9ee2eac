"""What a job's tasks are told comes back as it was told, or not at all."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.layout import Layout
from stager.process import current
from stager.schedulers import registry, told
from stager.schedulers.registry import Directory, JobRecord, Registry
from stager.schedulers.told import Told

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPE = "slurm-7"
PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=40)
LINES = st.lists(st.builds("{} {}".format, st.sampled_from(["export", "print"]), PRINTABLE), max_size=10)
LASTS = st.one_of(
    st.just("ready"),
    st.builds("failed {} {}".format, st.integers(1, 99), PRINTABLE),
    st.builds(f"staging {current()} {{}} {{}} {{}}".format, st.integers(0), st.integers(0), PRINTABLE),
)
REFERENCES = st.lists(
    st.text(string.ascii_letters + string.digits + "/=%?&-._~", min_size=1, max_size=30).map("https://h/{}".format),
    min_size=1,
    max_size=8,
    unique=True,
)


@pytest.fixture(autouse=True, scope="module")
def _run() -> Iterator[None]:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "RUN", f"{folder}/stage-image/jobs")
        yield


def leave(content: bytes) -> None:
    told.write(SCOPE, Told((), "ready"), os.getuid())
    os.chmod(told.path(SCOPE), 0o600)
    Path(told.path(SCOPE)).write_bytes(content)


@given(LINES, LASTS)
def test_it_comes_back(lines: list[str], last: str) -> None:
    told.write(SCOPE, Told(lines, last), os.getuid())
    found = told.read(SCOPE)
    assert found is not None
    assert (list(found.lines), found.last) == (lines, last)


@given(LINES, LASTS, st.data())
def test_no_part_of_it_passes_for_the_whole(lines: list[str], last: str, data: st.DataObject) -> None:
    content = Told(lines, last).text().encode()
    leave(content[: data.draw(st.integers(0, len(content) - 1))])
    assert told.read(SCOPE) is None


@given(
    st.one_of(st.binary(max_size=200), st.lists(st.one_of(PRINTABLE, LASTS)).map(lambda rows: "\n".join(rows).encode()))
)
def test_whatever_stands_there_nothing_is_raised(content: bytes) -> None:
    leave(content)
    found = told.read(SCOPE)
    if found is not None:
        done, total = found.progress
        assert done >= 0 <= total
        assert found.stager in (None, current())
        assert isinstance(found.digests, dict)
        assert isinstance(found.failure + "".join(found.wanted), str)


@given(REFERENCES)
def test_each_reference_has_its_digest(references: list[str]) -> None:
    lines = []
    for number, reference in enumerate(references, 1):
        behind = f"_{number}" if number > 1 else ""
        lines += [f"export STAGE_IMAGE_REFERENCE{behind}={reference}", f"export STAGE_IMAGE_DIGEST{behind}={number}"]
    assert Told(lines, "ready").digests == {reference: str(n) for n, reference in enumerate(references, 1)}


PATHS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
NUMBERS = st.integers(0, 2**63)
RECORDS = st.builds(
    JobRecord,
    scope=st.just(SCOPE),
    uid=NUMBERS,
    gid=NUMBERS,
    restart=NUMBERS,
    boot=PATHS,
    references=st.lists(PATHS, max_size=8).map(tuple),
    directories=st.lists(st.builds(Directory, PATHS, PATHS, NUMBERS, NUMBERS), max_size=4).map(tuple),
    namespace=PATHS,
    process=PATHS,
)


@given(RECORDS)
def test_a_record_comes_back(record: JobRecord) -> None:
    with TemporaryDirectory() as folder:
        kept = Registry(Layout(folder))
        kept.write(record)
        assert kept.read(SCOPE) == record
        assert list(kept.records()) == [record]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["scope", "uid", "gid", "directories", "references", "path", "mount"]), inner),
    ),
    max_leaves=8,
)


@given(st.one_of(st.binary(max_size=100), JSON.map(lambda value: json.dumps(value).encode())))
def test_a_record_that_is_none_is_no_error(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        kept = Registry(Layout(folder))
        kept.write(JobRecord(scope=SCOPE, uid=1, gid=1))
        Path(kept.path(SCOPE)).write_bytes(content)
        found = kept.read(SCOPE)
        assert found is None or found.scope == SCOPE
