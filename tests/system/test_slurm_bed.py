"""The Slurm of the tests: real daemons, an ordinary user, nodes that lose their power; and nothing outlives it."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.leftovers import Traces
from tests.support.slurm import Bed, slurm
from tests.support.slurm.site import ALICE, STORE
from tests.support.tasks import image, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("slurm", "nginx")

HOOKS = {
    "prolog": 'echo "$SLURM_JOB_ID $SLURM_JOB_COMMENT $(id -u)" >>/var/tmp/prologs',
    "epilog": 'echo "$SLURM_JOB_ID" >>/var/tmp/epilogs',
    "task-prolog": "echo export TOLD=yes",
}
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("bed")
    hooks = folder / "hooks"
    hooks.mkdir()
    for name, line in HOOKS.items():
        (hooks / name).write_text(f"#!/bin/sh\n{line}\n", encoding="ascii")
        (hooks / name).chmod(0o755)
    with slurm(folder, hooks=hooks) as bed:
        yield bed


def words(bed: Bed, name: str, file: str) -> list[str]:
    (node,) = (node for node in bed.nodes if node.name == name)
    path = node.view(f"/var/tmp/{file}")
    return path.read_text("ascii").splitlines() if path.exists() else []


def test_64_tasks_of_an_ordinary_user(bed: Bed) -> None:
    text = 'echo "$SLURMD_NODENAME $(hostname) $(id -u) $TOLD"'
    ran = bed.user.run("srun", "-N4", "--ntasks-per-node=16", "sh", "-c", text)
    assert ran.code == 0, ran.err
    assert Counter(ran.out.splitlines()) == {f"{node} {node} {ALICE} yes": 16 for node in bed.nodes}


def test_batch_job_its_hooks_and_its_output(bed: Bed) -> None:
    job = bed.sbatch("#!/bin/sh\nhostname\nexit 3\n", "-N2", "-w", "n2,n3", "--comment=a b")
    assert bed.await_job(job) == "FAILED"
    assert bed.job(job)["ExitCode"] == "3:0"
    assert bed.output(job) == "n2\n"
    for name in ("n2", "n3"):
        assert f"{job} a b 0" in words(bed, name, "prologs")
        assert job in words(bed, name, "epilogs")
    assert bed.drained() == []


def test_array(bed: Bed) -> None:
    job = bed.sbatch("#!/bin/sh\necho $SLURM_ARRAY_TASK_ID\n", "--array=0-2", "--output=array-%a")
    assert bed.await_job(job) == "COMPLETED"
    assert [(bed.user.home / f"array-{number}").read_text("ascii") for number in range(3)] == ["0\n", "1\n", "2\n"]


def test_the_program_is_there_for_everybody(bed: Bed) -> None:
    url = bed.origin.put("tool.sqsh", image())
    ran = bed.user.run("srun", "-N2", "stage-image", "path", url, env={"STAGE_IMAGE_STORE": "/var/tmp/own"})
    assert ran.code == 0, ran.err
    assert len(bed.origin.requests) >= 2
    ran = bed.root.run("stage-image", "path", url, node=bed.nodes[3])
    assert ran.out.startswith(f"{STORE}/images/"), ran.err
    assert (bed.nodes[3].store / ran.out.strip().removeprefix(f"{STORE}/")).read_bytes() == image()


def test_a_machine_writes_to_copies_only(bed: Bed) -> None:
    for place in (
        "/etc",
        "/usr/local",
        "/opt",
        "/var/lib",
        "/run",
        "/tmp",
        "/var/tmp",
        "/var/cache",
        "/var/spool",
        "/dev/shm",
        "/home",
    ):
        bed.nodes[0].run("touch", f"{place}/of-a-node")
        assert not Path(place, "of-a-node").exists()
        assert not bed.nodes[1].view(f"{place}/of-a-node").exists()
        bed.nodes[0].run("rm", f"{place}/of-a-node")
    for place in ("/", "/usr", "/var"):
        ran = bed.root.run("test", "-w", place, node=bed.nodes[0])
        assert ran.code == 1, place


def test_a_killed_node_comes_back_with_its_disk(bed: Bed) -> None:
    node = bed.nodes[2]
    for place in (STORE, "/run", "/tmp"):
        node.run("touch", f"{place}/before")
    boot = node.run("cat", BOOT_ID)
    job = bed.sbatch("#!/bin/sh\nsleep 1000\n", "-w", "n3", "--no-requeue")
    bed.await_state(job, "RUNNING")
    node.kill()
    assert bed.await_job(job) == "NODE_FAIL"
    assert bed.states()["n3"] == "down"
    node.start()
    assert node.run("cat", BOOT_ID) != boot
    assert [place for place in (STORE, "/run", "/tmp") if node.view(f"{place}/before").exists()] == [STORE]
    node.run("rm", f"{STORE}/before")
    assert bed.user.run("srun", "-w", "n3", "hostname").out == "n3\n"


def test_a_dead_daemon_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="ended with"),
        slurm(tmp_path, nodes=1, conf={"AuthType": "no/such"}),
    ):
        pass


def test_leftovers_are_seen(bed: Bed) -> None:
    node = bed.nodes[1]
    bed.idle()
    assert bed.leftovers() == []
    with open(node.store / "file", "wb") as file:
        file.truncate(1 << 20)
    device = node.run("losetup", "--find", "--show", f"{STORE}/file").strip()
    process = bed.user.start("sleep", "1000", node=node)
    node.run("mkdir", "-p", "/run/stage-image/jobs/slurm-1", f"{STORE}/jobs", f"{STORE}/leases/aa", f"{STORE}/m")
    node.run("touch", f"{STORE}/jobs/slurm-1.json", f"{STORE}/leases/aa/slurm-1@0.0.12345678")
    node.run("mount", "-t", "tmpfs", "tmpfs", f"{STORE}/m")
    node.run("mkdir", "/var/tmp/private.1.0")
    bed.site.bases.add("/var/tmp/private")
    assert bed.leftovers(grace=0) == [
        f"n2: process {process.pid}: sleep 1000",
        f"n2: mount on {STORE}/m",
        f"n2: {device} of a file in the store",
        "n2: lease leases/aa/slurm-1@0.0.12345678",
        "n2: record slurm-1.json",
        "n2: /run/stage-image/jobs/slurm-1",
        "n2: /var/tmp/private.1.0",
    ]
    process.kill()
    node.run("umount", f"{STORE}/m")
    node.run("losetup", "--detach", device)
    node.run(
        "rm", "-r", "/run/stage-image", f"{STORE}/jobs", f"{STORE}/leases", f"{STORE}/file", "/var/tmp/private.1.0"
    )
    assert bed.leftovers() == []


def test_nothing_outlives_it(tmp_path: Path) -> None:
    with slurm(tmp_path, nodes=1, cpus=2) as bed:
        job = bed.sbatch("#!/bin/sh\nsetsid sleep 1000 & sleep 1000\n")
        bed.await_state(job, "RUNNING")
        hosts = [bed.ctl.host, bed.nodes[0].host, bed.origin.host]
        until(
            lambda: len([c for c in bed.nodes[0].host.commands().values() if c == "sleep 1000"]) == 2, "both to sleep"
        )
        pids = [pid for host in hosts for pid in (host.pid, *host.pids())]
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert Traces("none", (str(tmp_path),)).after_grace() == []
    assert "slurm" not in subprocess.run(("findmnt", "-o", "TARGET"), check=True, capture_output=True, text=True).stdout
