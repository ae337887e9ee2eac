"""Private directories of jobs by their names: what a site may ask for, and where they would be."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.errors import ConfigError
from stager.schedulers.private import DEFAULT_BASE, MOST, Directory, Place, directories, parse

names = st.text("ab_", min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
settings = st.lists(st.one_of(paths, st.tuples(paths, paths).map("=".join)), max_size=5).map(tuple)
hostile = st.lists(st.text("/.=a \n\0\x7fé", max_size=8), max_size=3).map(tuple)


def hides(above: str, path: str) -> bool:
    return path == above or path.startswith(above + "/")


@given(settings)
def test_what_is_accepted_can_be_bound_in_its_order(given: tuple[str, ...]) -> None:
    try:
        places = parse(given)
    except ConfigError:
        return
    assert [place.mount for place in places] == [setting.partition("=")[0] for setting in given]
    made = directories(places, "7", 0)
    for number, (place, directory) in enumerate(zip(places, made, strict=True)):
        hidden = [earlier.mount for earlier in places[:number] if hides(earlier.mount, directory.path)]
        assert not hidden, f"{directory.path} of {place} is not to be seen any more"
    assert len({directory.path for directory in made}) == len(made)
    assert len({directory.mount for directory in made}) == len(made)


@given(settings, st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 99), st.integers(0, 99))
def test_no_two_runs_share_a_directory(given: tuple[str, ...], job: int, other: int, run: int, later: int) -> None:
    try:
        places = parse(given)
    except ConfigError:
        return
    mine = {directory.path for directory in directories(places, str(job), run)}
    theirs = {directory.path for directory in directories(places, str(other), later)}
    assert mine.isdisjoint(theirs) or (job, run) == (other, later) or not mine


@given(hostile)
def test_odd_settings_are_refused_or_normal(given: tuple[str, ...]) -> None:
    try:
        places = parse(given)
    except ConfigError:
        return
    for place in places:
        for path in (place.mount, place.base):
            assert path.startswith("/")
            assert path == os.path.normpath(path)
            assert path.isprintable()


def test_a_pair_is_taken_apart() -> None:
    assert parse(("/tmp=/scratch/tmp", "/var/tmp")) == (
        Place("/tmp", "/scratch/tmp"),
        Place("/var/tmp", DEFAULT_BASE),
    )


def test_the_order_is_kept_and_the_parent_of_a_base_is_last() -> None:
    given = ("/var/tmp=/tmp/slurm", "/tmp=/tmp/slurm")
    assert [place.mount for place in parse(given)] == ["/var/tmp", "/tmp"]
    with pytest.raises(ConfigError, match=r"/tmp in slurm\.private hides the base /tmp/slurm: it has to be the last"):
        parse(given[::-1])


def test_the_names_are_those_of_private_tmpdir() -> None:
    places = parse(("/var/tmp=/scratch/tmp", "/tmp=/scratch/tmp"))
    assert directories(places, "123", 2) == (
        Directory("/var/tmp", "/scratch/tmp.123.2/_var_tmp"),
        Directory("/tmp", "/scratch/tmp.123.2/_tmp"),
    )


def test_not_too_many() -> None:
    many = tuple(f"/scratch/{number}" for number in range(MOST + 1))
    assert len(parse(many[:-1])) == MOST
    with pytest.raises(ConfigError, match="17 places, 16 are the most"):
        parse(many)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("tmp",), "absolute"),
        (("/",), "absolute"),
        (("",), "absolute"),
        (("/tmp/",), "absolute"),
        (("//tmp",), "absolute"),
        (("/tmp/../etc",), "absolute"),
        (("/tmp=",), "absolute"),
        (("/tmp=scratch",), "absolute"),
        (("/tmp=/a=/b/..",), "absolute"),
        (("/tmp\n",), "printable"),
        (("/" + "x" * 255,), "too long"),
        (("/etc",), "the system needs it"),
        (("/usr/local/tmp",), "the system needs it"),
        (("/run",), "the system needs it"),
        (("/run/stage-image/jobs",), "the system needs it"),
        (("/run/stage-image",), "the system needs it"),
        (("/dev",), "the system needs it"),
        (("/dev/pts",), "the system needs it"),
        (("/var",), "the system needs it"),
        (("/tmp", "/tmp=/scratch/a"), "hide each other"),
        (("/tmp", "/tmp/a"), "hide each other"),
        (("/tmp/a", "/tmp"), "hide each other"),
        (("/a/b=/s", "/a_b=/s"), "two bases"),
    ],
)
def test_refused(given: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(given)


@pytest.mark.parametrize(
    "given", [("/dev/shm",), ("/var/tmp",), ("/var/tmp", "/var/lock"), ("/a/b=/s", "/a_b=/t"), ("/tmpx", "/tmp")]
)
def test_accepted(given: tuple[str, ...]) -> None:
    assert len(parse(given)) == len(given)


@pytest.mark.parametrize(("job", "restart"), [("", 0), ("1/../2", 0), ("-1", 0), ("1_2", 0), ("٣", 0), ("7", -1)])
def test_a_job_is_a_number(job: str, restart: int) -> None:
    with pytest.raises(ConfigError, match="no job of Slurm's"):
        directories(parse(("/tmp",)), job, restart)
