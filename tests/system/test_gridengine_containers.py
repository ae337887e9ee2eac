"""Container images on a real Grid Engine: prologs pull and convert, jobs find it, sensors tell its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stager.schedulers.sensor import IMAGES
from tests.support.gridengine import Bed, gridengine
from tests.support.gridengine.bed import ORIGIN
from tests.support.registry import tar_layer
from tests.support.registry_host import PORT, plain_http, registry_on
from tests.support.tasks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("gridengine", "nginx", "docker-registry", "mksquashfs", "loop")

FRONT = {"PATH": f"{ROOT}/sbatch-wrapper/gridengine:/usr/local/bin:/usr/bin:/bin"}
LAYERS = [tar_layer({"etc/lower": b"x" * 100_000}), tar_layer({"word": b"tool\n"})]
OTHERS = [tar_layer({"word": b"other\n"})]
SITE = {"gridengine.allow": [f"docker://{ORIGIN}:{PORT}/team/"], "runtime": "none", **plain_http(ORIGIN)}


def script(reference: str) -> str:
    return f"""#!/bin/sh
echo "$(hostname) $STAGE_IMAGE_PATH"
cat "$STAGE_IMAGE_ROOT/word"
stage-image path {reference}
"""


def said(bed: Bed, job: str) -> list[str]:
    return [line for line in bed.output(job).splitlines() if not line.startswith("stage-image: ")]


def test_a_job_finds_what_its_prolog_pulled_and_the_next_one_goes_where_it_is(tmp_path: Path) -> None:
    with gridengine(tmp_path, hosts=2, sensor=True, hooks=True, site=SITE) as bed:
        with registry_on(bed.origin.host, ORIGIN, {"team/tool:1": LAYERS, "other/tool:1": OTHERS}) as registry:
            reference = registry.name("team/tool:1")
            job = bed.qsub(script(reference), f"--stage-image={reference}", "-l", "hostname=e2", env=FRONT)
            assert bed.await_job(job) == "0", bed.output(job)
            where, word, again = said(bed, job)
            host, _, path = where.partition(" ")
            assert (host, word, again) == ("e2", "tool", path), bed.output(job)
            assert path.startswith("/var/cache/stage-image/images/")
            digest = path.split("/")[-2]
            bed.await_value("e2", IMAGES[0], lambda value: f";tool:1@{digest[:12]};" in value)
            asked = bed.user.run("qsub", "-w", "p", "-b", "y", "-l", f"{IMAGES[0]}=*;tool:1@*", "/bin/true")
            assert "found suitable queue" in asked.out + asked.err
            blobs = registry.asked("blobs")
            assert len(blobs) == len(LAYERS) + 1

            for _ in range(2):
                job = bed.qsub(script(reference), f"--stage-image={reference}", env=FRONT)
                assert bed.await_job(job) == "0", bed.output(job)
                assert said(bed, job)[0] == f"e2 {path}", "known by the manifest, wherever it is submitted"
            assert registry.asked("blobs") == blobs

            other = registry.name("other/tool:1")
            job = bed.qsub(script(other), f"--stage-image={other}", env=FRONT)
            assert bed.await_job(job) == "0", bed.output(job)
            _, path = said(bed, job)[0].split()
            assert path.startswith("/var/tmp/stage-image-20001/"), "the job's own: the site stages it for nobody"
            assert "not what this site stages for jobs" in bed.output(job)
        assert bed.leftovers() == []
