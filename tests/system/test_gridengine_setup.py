"""`gridengine setup` and pushing, on a real qmaster: what it takes, what it shows, and that all of it goes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.gridengine import gridengine
from tests.support.tasks import ROOT, image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gridengine import Bed, Ran

pytestmark = pytest.mark.needs("gridengine", "nginx")

SETUP = ("stage-image", "gridengine", "setup", f"--hooks={ROOT}/sbatch-wrapper/gridengine")
JOB = '#!/bin/sh\nhostname; stage-image "$STAGE_IMAGE_REFERENCE"\n'


@pytest.fixture
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with gridengine(tmp_path_factory.mktemp("bed"), hosts=2) as bed:
        yield bed


def state(bed: Bed) -> list[list[str]]:
    """Return all that setup may touch, whatever the blanks between words."""
    shown = (["-sc"], ["-sconf", "global"], ["-sq", "all.q"])
    return [bed.qconf(*words).replace("\\\n", "").split() for words in shown]


def setup(bed: Bed, *words: str) -> Ran:
    ran = bed.root.run(*SETUP, *words)
    assert ran.code == 0, ran.err
    return ran


def is_told(value: str) -> bool:
    return value.startswith(";tool.sqsh@")


def test_all_comes_and_all_goes(bed: Bed) -> None:
    before = state(bed)
    shown = setup(bed).out
    assert state(bed) == before
    assert setup(bed, "--apply").out == shown
    assert setup(bed, "--apply").out == "nothing to change\n"
    host = bed.hosts[0]
    bed.await_value(host, "stage_images", lambda value: value == "none")
    url = bed.origin.put("tool.sqsh", image())
    assert bed.root.run("stage-image", url, node=host).code == 0
    bed.await_value(host, "stage_images", is_told)
    job = bed.qsub(JOB, "-l", "stage_images=*;tool.sqsh@*", "-v", f"STAGE_IMAGE_REFERENCE={url}")
    assert bed.await_job(job) == "0"
    assert str(host) in bed.output(job).splitlines()
    setup(bed, "--undo")
    assert state(bed) == before
    assert setup(bed, "--undo").out == "nothing to change\n"
    assert set(bed.queue_states().values()) == {""}


def test_what_is_pushed_is_known_and_taken_back(bed: Bed) -> None:
    before = state(bed)
    setup(bed, "--apply", "--push", "--only=complexes", "--only=sensor")
    host = bed.hosts[0]
    bed.qconf("-ah", str(host))  # who pushes has to be an administrative host
    url = bed.origin.put("tool.sqsh", image())
    pushing = {"STAGE_IMAGE_GRIDENGINE_PUSH": "true"}
    ran = bed.root.run("stage-image", url, node=host, env=pushing)
    assert (ran.code, "warning" in ran.err) == (0, False), ran.err
    assert is_told(bed.qhost_values(host)["stage_images"]), "it is there when the staging ends"
    ran = bed.root.run("stage-image", "remove", "--force", url, node=host, env=pushing)
    assert (ran.code, ran.err) == (0, "")
    assert bed.qhost_values(host)["stage_images"] == "none"
    setup(bed, "--undo", "--push")
    assert state(bed) == before


def test_who_may_not_is_told_so(bed: Bed) -> None:
    ran = bed.user.run(*SETUP, "--apply", "--only=complexes")
    assert ran.code == 67, ran
    assert "Grid Engine refuses: denied" in ran.err
