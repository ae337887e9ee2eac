"""Sites that are set up otherwise, each a Slurm of its own, side by side: most of their time is spent waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.scenarios import Outcomes, Scenarios
from tests.support.slurm import slurm
from tests.support.slurm.pictures import READ, picture
from tests.support.tasks import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("slurm", "nginx", "mksquashfs", "loop", "zookeeper")

scenarios = Scenarios()
outcomes = scenarios.fixture()

SITE = {"slurm.budget": "1s", "deadline": "3s", "failure_backoff": "0s"}
TASK = f'if [ -n "$STAGE_IMAGE_ROOT" ]; then {READ}; else echo without; fi'
SCRIPT = f"#!/bin/sh\nsrun --ntasks-per-node=1 sh -c '{TASK}'\n"


@scenarios
def requeue(folder: Path) -> None:
    # A slurmd runs no Prolog for a job that it has known within the life of a credential, so slurmctld has a requeued
    # one wait for that time: 120 s by default.
    with slurm(folder, nodes=2, hooks=True, site=SITE, conf={"AuthInfo": "cred_expire=5"}) as bed:
        url = bed.origin.put("tool.sqsh", picture(folder, "requeued"))
        runs = bed.user.home / "runs"
        again = '[ -n "$SLURM_RESTART_COUNT" ] || sleep 1000'
        script = f'#!/bin/sh\necho "run $SLURM_RESTART_COUNT" >>runs\n{READ} >>runs\n{again}\n'
        job = bed.sbatch(script, "-N2", "--requeue", f"--comment=stage-image={url}")
        until(lambda: runs.exists() and "requeued" in runs.read_text("ascii"), "the first run")
        bed.scontrol("requeue", job)
        bed.await_state(job, "PENDING")
        assert bed.leftovers() == []
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
        assert runs.read_text("ascii").splitlines() == ["run ", "requeued", "run 1", "requeued"]
        assert len([request for request in bed.origin.requests if request.size]) == 2
        assert bed.leftovers() == []


@scenarios
def strict_site(folder: Path) -> None:
    """Where it wants so: the node drains, and the job is requeued."""
    site = {**SITE, "slurm.strict": True}
    conf = {"SchedulerParameters": "batch_sched_delay=0,sched_interval=1,nohold_on_prolog_fail"}
    with slurm(folder, nodes=1, hooks=True, site=site, conf=conf) as bed:
        assert bed.user.run("srun", "-N1", "true").code == 0
        job = bed.sbatch(SCRIPT, "--comment=stage-image=http://10.79.0.1/there-is-no-such.sqsh")
        bed.wait_for(lambda: bed.drained() == ["n1"], "n1 to drain")
        bed.await_state(job, "PENDING")
        assert "404" in bed.log(bed.nodes[0])
        assert bed.leftovers() == []


@scenarios
def killed_prolog(folder: Path) -> None:
    """Slurm drains the node of a Prolog that it had to kill; nothing is left there all the same."""
    site = {**SITE, "slurm.budget": "10m"}
    with slurm(folder, nodes=1, hooks=True, site=site, conf={"PrologEpilogTimeout": "2"}) as bed:
        url = bed.origin.put("tool.sqsh", picture(folder, "killed"))
        bed.shape(bed.origin.host, 1)
        job = bed.sbatch(SCRIPT, f"--comment=stage-image={url}")
        bed.wait_for(lambda: bed.drained() == ["n1"], "n1 to drain")
        assert bed.user.run("scancel", job).code == 0
        assert bed.await_job(job) == "CANCELLED"
        assert bed.leftovers() == []
        bed.shape(bed.origin.host, 0)
        bed.scontrol("update", "NodeName=n1", "State=RESUME")
        ran = bed.user.run("srun", f"--comment=stage-image={url}", "sh", "-c", TASK)
        assert ran.out.splitlines()[-1] == "killed", ran.err
        assert bed.leftovers() == []


@scenarios
def zookeeper_down(folder: Path) -> None:
    site = {**SITE, "slurm.budget": "20s", "cluster.session_timeout": "2s", "cluster.connect_timeout": "1s"}
    with slurm(folder, nodes=2, hooks=True, zookeeper=True, site=site) as bed:
        url = bed.origin.put("tool.sqsh", picture(folder, "alone"))
        assert bed.zookeeper
        bed.zookeeper.kill()
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
        lines = bed.output(job).splitlines()
        assert [line for line in lines if not line.startswith("stage-image: ")] == ["alone"] * 2
        assert bed.drained() == []
        assert bed.leftovers() == []


@pytest.mark.parametrize("scenario", scenarios.names)
def test_scenario(scenario: str, outcomes: Outcomes) -> None:
    outcomes[scenario].result()
