"""Container images on a real Slurm: the Prolog pulls and converts once on a node, and jobs find what came of it."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.registry import digest_of, tar_layer
from tests.support.registry_host import PORT, RegistryHost, plain_http, registry_on
from tests.support.slurm import Bed, slurm
from tests.support.slurm.bed import ORIGIN
from tests.support.slurm.site import STORE
from tests.support.tasks import ROOT, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("slurm", "nginx", "docker-registry", "mksquashfs", "loop")

LAYERS = [tar_layer({"word": b"lower\n", "etc/lower": b"x" * 100_000}), tar_layer({"word": b"tool\n"})]
LARGE = [tar_layer({"word": b"large\n", "ballast": Random(1).randbytes(8 << 20)})]
TEAM = f"docker://{ORIGIN}:{PORT}/team/"
BUDGET = "0.5s"
SITE = {
    "slurm.allow": [TEAM],
    "slurm.budget": BUDGET,
    "convert.compression": "xz",
    "runtime": "none",
    **plain_http(ORIGIN),
}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), nodes=2, cpus=4, hooks=True, site=SITE) as bed:
        yield bed


@pytest.fixture(scope="module")
def registry(bed: Bed) -> Iterator[RegistryHost]:
    with registry_on(
        bed.origin.host, ORIGIN, {"team/tool:1": LAYERS, "other/tool:1": LAYERS, "team/large:1": LARGE}
    ) as registry:
        yield registry


def test_the_prolog_pulls_once_for_each_node_and_a_command_asks_nobody_again(bed: Bed, registry: RegistryHost) -> None:
    reference = registry.name("team/tool:1")
    script = f"""#!/bin/sh
srun -n8 sh -c 'echo "$STAGE_IMAGE_PATH $(cat "$STAGE_IMAGE_ROOT/word")"'
srun -n8 sh -c 'echo "$(stage-image path {reference}) $(stage-image exec {reference} -- cat "$STAGE_IMAGE_ROOT/word")"'
"""
    job = bed.sbatch(script, "-N2", "--ntasks-per-node=4", f"--comment=stage-image={reference}")
    assert bed.await_job(job) == "COMPLETED", bed.output(job)
    lines = [line for line in bed.output(job).splitlines() if line.startswith(STORE)]
    assert len(set(lines)) == 1, bed.output(job)
    line = lines[0]
    path, _, word = line.partition(" ")
    assert (len(lines), word) == (16, "tool"), bed.output(job)
    assert path.startswith(f"{STORE}/images/sha256/")
    assert len(registry.asked("manifests")) == len(bed.nodes), registry.asked()
    assert len(registry.asked("blobs")) == len(bed.nodes) * (len(LAYERS) + 1), registry.asked()
    bed.check_tidy()


def test_what_jobs_may_not_choose_is_refused_before_anybody_is_asked(bed: Bed, registry: RegistryHost) -> None:
    before = len(registry.asked())
    wanted = {
        registry.name("other/tool:1"): "is not what this site stages for jobs",
        registry.name("team/tool:1").replace("//", "//joe@"): "asked for as a certain user",
    }
    for reference, word in wanted.items():
        job = bed.sbatch('#!/bin/sh\necho "path $STAGE_IMAGE_PATH"\n', f"--comment=stage-image={reference}")
        assert bed.await_job(job) == "COMPLETED"
        *_, last = bed.output(job).splitlines()
        assert last == "path ", bed.output(job)
        assert word in bed.output(job)
    assert len(registry.asked()) == before
    bed.check_tidy()


def test_jobs_go_where_what_the_tag_means_has_been_converted(bed: Bed, registry: RegistryHost) -> None:
    reference = registry.name("team/tool:1")
    warm = bed.nodes[1]
    for node in bed.nodes:
        bed.root.run("sh", "-c", f"rm -r {STORE}/images/* {STORE}/refs/*", node=node)
    assert bed.root.run("stage-image", "path", reference, node=warm).code == 0
    told = bed.root.run("stage-image", "slurm", "features", node=warm)
    assert told.out.startswith(f"{warm}: added img_"), told.err
    assert told.out.endswith("(1 image)\n")
    judged = bed.root.run("stage-image", "slurm", "doctor", node=warm)
    assert f"Slurm knows what {warm} holds: 1 image" in judged.out
    front = bed.user.home / "front"
    front.mkdir(mode=0o755)
    (front / "sbatch").symlink_to(ROOT / "sbatch-wrapper" / "sbatch")
    path = {"PATH": "/home/alice/front:/usr/local/bin:/usr/bin:/bin"}
    options = ("-N1", f"--stage-image={reference}", "--stage-image-affinity")
    for _ in range(2):
        job = bed.sbatch("#!/bin/sh\nhostname\n", *options, env=path)
        assert bed.await_job(job) == "COMPLETED"
        assert bed.output(job).splitlines()[-1] == warm.name, bed.output(job)
    assert bed.root.run("stage-image", "slurm", "features", node=bed.nodes[0]).out.endswith(
        "nothing to change (0 images)\n"
    )
    bed.check_tidy()


def converters(bed: Bed) -> list[int]:
    return [pid for pid, line in bed.nodes[0].host.commands().items() if "mksquashfs" in line.partition(" ")[0]]


@contextmanager
def halted(bed: Bed) -> Iterator[None]:
    """Stop the conversion on the first node, as soon as there is one, for the time of the context."""
    (pid,) = until(lambda: converters(bed), "a conversion")
    os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_a_conversion_outlasts_its_prolog_and_ends_with_its_job(bed: Bed, registry: RegistryHost) -> None:
    options = ("-N1", "--nodelist=n1", f"--comment=stage-image={registry.name('team/large:1')}")
    script = '#!/bin/sh\ncat "$STAGE_IMAGE_ROOT/word"\n'
    job = bed.sbatch(script, *options)
    with halted(bed):
        assert bed.user.run("scancel", job).code == 0
        assert bed.await_job(job) == "CANCELLED"
        assert bed.leftovers() == []
        assert converters(bed) == []
    assert not list(bed.nodes[0].store.glob("partial/work/*"))

    job = bed.sbatch(script, *options)
    with halted(bed):
        bed.await_state(job, "RUNNING")
    assert bed.await_job(job) == "COMPLETED"
    told, word = bed.output(job).splitlines()
    assert (word, "/1 layers" in told, "(converting " in told) == ("large", False, True), told
    assert registry.asked("blobs").count(f"GET /v2/team/large/blobs/{digest_of(LARGE[0])}") == 1, "it was kept"
    bed.check_tidy()
