"""Images on a real Grid Engine: hosts that have them are preferred, others stage them, and a job downloads once."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.schedulers.gridengine_setup import TOLD
from stager.schedulers.sensor import IMAGES
from tests.support.gridengine import Bed, Machine, gridengine
from tests.support.leftovers import GRACE
from tests.support.tasks import ROOT, image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("gridengine", "nginx")

HOOKS = ROOT / "sbatch-wrapper" / "gridengine"
FRONT = {"PATH": f"{HOOKS}:/usr/local/bin:/usr/bin:/bin"}
"""Where users find the front before Grid Engine's own qsub."""
TELL = '#!/bin/sh\necho "$(hostname) $STAGE_IMAGE_PATH"\nsha256sum "$STAGE_IMAGE_PATH"\n'
SLOTS = 4
LINGER = 4
"""Seconds for which who has staged stays there for other hosts: longer than it takes to start a task on one."""
# Each task is a script of its own: qrsh makes one line of its words, without quotes.
PARALLEL = """\
#!/bin/sh
printf '#!/bin/sh\\necho "$(hostname) $(sha256sum <"$STAGE_IMAGE_PATH")"\\n' >"$HOME/task-$JOB_ID"
chmod +x "$HOME/task-$JOB_ID"
while read -r host slots rest; do
    for _ in $(seq "$slots"); do qrsh -inherit -nostdin "$host" "$HOME/task-$JOB_ID" & done
done <"$PE_HOSTFILE"
wait
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with gridengine(tmp_path_factory.mktemp("images"), slots=SLOTS, sensor=True, hooks=True) as bed:
        yield bed
        assert bed.leftovers() == []
        assert set(bed.queue_states().values()) == {""}


def item(name: str, content: bytes) -> str:
    return f"{name}@{sha256(content).hexdigest()[:12]}"


def warm(bed: Bed, host: Machine, name: str, content: bytes) -> str:
    """Stage an image on one host; return its URL once qmaster knows."""
    url = bed.origin.put(name, content)
    ran = bed.root.run("stage-image", "path", url, node=host)
    assert ran.code == 0, ran.err
    bed.await_value(host, IMAGES[0], lambda value: f";{item(name, content)};" in value)
    return url


def downloads(bed: Bed, name: str) -> float:
    """Return how often an image was sent to execution hosts: also parts count. Who submits reads it, too, to pin it."""
    hosts = {host.address for host in bed.hosts}
    size = sum(served.size for served in bed.origin.requests if served.path == f"/{name}" and served.client in hosts)
    return size / (bed.origin.host.folder / "www" / name).stat().st_size


def said(bed: Bed, job: str, task: int = 0) -> list[str]:
    """Return the lines of a job's output that are its own."""
    return [line for line in bed.output(job, task).splitlines() if not line.startswith("stage-image: ")]


def occupied(bed: Bed, host: Machine) -> str:
    """Fill a host; return the job that does."""
    job = bed.qsub("#!/bin/sh\nexec sleep 1000\n", "-t", f"1-{SLOTS}", "-l", f"hostname={host}")
    bed.wait_for(lambda: bed.states(job).count("r") == SLOTS, f"{host} to be full")
    return job


def test_a_hard_request_runs_where_the_image_is_and_waits_where_it_is_nowhere(bed: Bed) -> None:
    warm(bed, bed.host("e2"), "hard.sqsh", image(seed=1))
    request = f"{IMAGES[0]}=*;hard.sqsh@*"
    for _ in range(2):
        job = bed.qsub("#!/bin/sh\nhostname\n", "-l", request)
        assert bed.await_job(job) == "0"
        assert bed.output(job) == "e2\n"
    for nothing in ("hard.sqs", "ard.sqsh", "hard.sqsh2"):
        ran = bed.user.run("qsub", "-w", "p", "-b", "y", "-l", f"{IMAGES[0]}=*;{nothing}@*", "/bin/true")
        assert "no suitable queues" in ran.out + ran.err
    ran = bed.user.run("qsub", "-w", "p", "-b", "y", "-l", request, "/bin/true")
    assert "found suitable queue" in ran.out + ran.err


def test_a_soft_request_prefers_the_warm_host_and_a_cold_one_stages_when_that_is_full(bed: Bed) -> None:
    name, content = "soft.sqsh", image(seed=2)
    url = warm(bed, bed.host("e3"), name, content)
    digest = sha256(content).hexdigest()
    assert downloads(bed, name) == 1
    for _ in range(2):
        job = bed.qsub(TELL, f"--stage-image={url}", env=FRONT)
        assert bed.await_job(job) == "0", bed.output(job)
        assert said(bed, job)[0].startswith("e3 /var/cache/stage-image/images/"), bed.output(job)
    assert downloads(bed, name) == 1

    full = occupied(bed, bed.host("e3"))
    job = bed.qsub(TELL, f"--stage-image={url}", env=FRONT)
    assert bed.await_job(job) == "0", bed.output(job)
    bed.root.run("qdel", full)
    host, _, path = said(bed, job)[0].partition(" ")
    assert host in ("e1", "e2")
    assert path.startswith("/var/cache/stage-image/images/")
    assert said(bed, job)[1].startswith(digest)
    assert downloads(bed, name) == 2
    bed.await_value(host, IMAGES[0], lambda value: f";{item(name, content)};" in value)
    bed.wait_for(lambda: not bed.states(full), "the host to be empty")


def test_without_a_warm_host_a_job_runs_all_the_same(bed: Bed) -> None:
    url = bed.origin.put("cold.sqsh", image(seed=3))
    job = bed.qsub(TELL, f"--stage-image={url}", env=FRONT)
    assert bed.await_job(job) == "0", bed.output(job)
    assert sha256(image(seed=3)).hexdigest() in bed.output(job)


def test_a_parallel_job_stages_once_on_each_host(bed: Bed) -> None:
    url = bed.origin.put("parallel.sqsh", image(8 << 20, seed=6))
    job = bed.qsub(PARALLEL, "-pe", "spread", "12", f"--stage-image={url}", env=FRONT)
    assert bed.await_job(job, patience=55) == "0", bed.output(job)
    lines = Counter(said(bed, job))
    digest = sha256(image(8 << 20, seed=6)).hexdigest()
    assert lines == {f"{host} {digest}  -": SLOTS for host in bed.hosts}, bed.output(job)
    assert downloads(bed, "parallel.sqsh") == len(bed.hosts)


@pytest.mark.needs("zookeeper")
def test_a_parallel_job_of_a_cluster_makes_one_download(tmp_path: Path) -> None:
    # Run as the job's user: root, and the user that slave tasks run as, do not believe each other's images.
    own = {name: f"{HOOKS}/{name} {TOLD}" for name in ("prolog", "epilog")}
    site = {"cluster.linger": f"{LINGER}s"}
    with gridengine(tmp_path, slots=SLOTS, hooks=True, conf=own, zookeeper=True, site=site) as bed:
        content = image(16 << 20, seed=7)
        url = bed.origin.put("cluster.sqsh", content)
        job = bed.qsub(PARALLEL, "-pe", "spread", "12", f"--stage-image={url}", env=FRONT)
        assert bed.await_job(job, patience=55) == "0", bed.output(job)
        digest = sha256(content).hexdigest()
        assert Counter(said(bed, job)) == {f"{host} {digest}  -": SLOTS for host in bed.hosts}
        assert downloads(bed, "cluster.sqsh") == 1
        assert bed.leftovers(grace=LINGER + GRACE) == []
