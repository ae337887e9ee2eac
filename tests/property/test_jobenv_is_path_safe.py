from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from stager.jobenv import LOCAL_RANKS, NODE_RANKS, OF_SCHEDULERS, RANKS, from_environ
from tests.property.strategies import hostile_text
from tests.support.effort import effort

_variables = st.sampled_from(
    (
        *("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "LSB_JOBINDEX", "JOB_ID", "SGE_ROOT", "SGE_TASK_ID", "FLUX_JOB_ID"),
        *("_CONDOR_SCRATCH_DIR", *LOCAL_RANKS, *NODE_RANKS, *RANKS, "RANK"),
        *(name for table in OF_SCHEDULERS.values() for names in table.values() for name in names),
    )
)
_values = hostile_text | st.text(string.digits + ".[]", max_size=70) | st.integers().map(str)
_values |= st.sampled_from(["/a/dir_7", "Y", "n[1-3]", "a 4 b 4", "\u01922Xk1"])
environs = st.dictionaries(_variables, _values, max_size=8)


@given(environs)
@effort(25)
def test_scope_is_a_plain_file_name_or_empty(environ: dict[str, str]) -> None:
    scope = from_environ(environ).scope
    assert set(scope) <= set(string.ascii_letters + string.digits + "._-")
    assert len(scope) <= 71
    assert not scope.startswith(".")


@given(environs)
@effort(25)
def test_scheduler_and_job_come_together(environ: dict[str, str]) -> None:
    job = from_environ(environ)
    assert bool(job.scheduler) == bool(job.job) == bool(job.scope)


@given(environs, st.dictionaries(st.sampled_from([*LOCAL_RANKS, *NODE_RANKS, *RANKS, "RANK"]), _values))
@effort(25)
def test_all_tasks_of_a_job_share_its_scope(environ: dict[str, str], ranks: dict[str, str]) -> None:
    assert from_environ(environ | ranks).scope == from_environ(environ).scope


@given(environs)
@effort(25)
def test_what_is_said_beside_the_job_is_of_a_scheduler_and_harmless(environ: dict[str, str]) -> None:
    job = from_environ(environ)
    words = (job.array, job.step, job.node, job.node_list)
    assert job.scheduler or not any((*words, job.node_file, job.restart is not None))
    assert set().union(*words) <= set(string.ascii_letters + string.digits + "._-[],/ ")
    assert job.node_file == "" or (job.node_file.startswith("/") and job.node_file.isprintable())
    numbers = (job.restart, job.rank, job.local_rank, job.node_rank)
    assert all(number is None or 0 <= number < 10**9 for number in numbers)


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=2, unique=True), st.integers(0, 99), st.integers(0, 99))
@effort(25)
def test_different_jobs_never_share_a_scope(jobs: list[int], task: int, other: int) -> None:
    def scopes(job: int, index: int) -> set[str]:
        rows: list[dict[str, str]] = [
            {"SLURM_JOB_ID": f"{job}"},
            {"PBS_JOBID": f"{job}[{index}].host"},
            {"LSB_JOBID": f"{job}", "LSB_JOBINDEX": f"{index}"},
            {"SGE_ROOT": "/", "JOB_ID": f"{job}", "SGE_TASK_ID": f"{index}"},
            {"FLUX_JOB_ID": f"{job}"},
            {"_CONDOR_SCRATCH_DIR": f"/execute/dir_{job}"},
        ]
        found = {from_environ(row).scope for row in rows}
        assert len(found) == len(rows)
        return found

    assert not scopes(jobs[0], task) & scopes(jobs[1], other)
