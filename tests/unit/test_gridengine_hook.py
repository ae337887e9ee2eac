"""Which job a hook of Grid Engine runs for, what of its environment counts, and what it ends with."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest

from stager import errors
from stager.cli import gridengine_epilog, gridengine_prolog, slurm_epilog, slurm_prolog
from stager.cli.parser import parse
from stager.config import load
from stager.errors import ConfigError, InvalidReference, StageImageError
from stager.jobenv import from_environ
from stager.schedulers import gridengine_hook
from stager.schedulers.gridengine_hook import GridEngineHook, trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Whoever runs the tests may have no account, as in a container; then root's will do.
OWNER = next((entry for entry in pwd.getpwall() if entry.pw_uid == os.getuid()), pwd.getpwuid(0))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
URL = "https://h/tool.sif"
LIES = {
    "JOB_ID": "5",
    "SGE_TASK_ID": "6",
    "LOGNAME": "root",
    "PATH": "/evil",
    "PYTHONPATH": "/evil",
    "STAGE_IMAGE_CONFIG": "/evil",
    "STAGE_IMAGE_GRIDENGINE_ALLOW": "/",
    "STAGE_IMAGE_REFERENCE": URL,
    "STAGE_IMAGE_REFERENCE_3": "/a.sqsh",
}


def as_root(*words: str) -> GridEngineHook:
    return GridEngineHook.read(words, LIES, 0)


def test_root_believes_its_arguments_only() -> None:
    hook = as_root(OWNER.pw_name, "77", "0")
    assert (hook.job, hook.scope, hook.uid, hook.gid) == ("77", "sge-77", OWNER.pw_uid, OWNER.pw_gid)
    assert (hook.restart, hook.private_tmp, hook.node_rank) == (0, False, None)


def test_a_task_of_an_array() -> None:
    assert as_root(OWNER.pw_name, "77", "3").scope == "sge-77.3"


@pytest.mark.parametrize(("task", "told"), [("0", "undefined"), ("3", "3"), ("10", "10"), ("undefined", "undefined")])
def test_scopes_are_those_of_the_jobs_tasks(task: str, told: str) -> None:
    environ = {"SGE_ROOT": "/s", "JOB_ID": "77", "SGE_TASK_ID": told}
    assert as_root(OWNER.pw_name, "77", task).scope == from_environ(environ).scope


@pytest.mark.parametrize("task", ["", "../x", "-1", "1/2", "9" * 13, "\u0663"])
def test_absurd_tasks_are_none(task: str) -> None:
    assert as_root(OWNER.pw_name, "77", task).scope == "sge-77"


@pytest.mark.parametrize("words", [(), ("alice",), ("alice", "77"), ("alice", "77", "0", "x")])
def test_root_wants_all_arguments(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        as_root(*words)


@pytest.mark.parametrize("job", ["", "0", "077", "7a", "-7", "../7", "7\n", "9" * 13, "\u0667"])
def test_no_job(job: str) -> None:
    with pytest.raises(ConfigError):
        as_root(OWNER.pw_name, job, "0")


@pytest.mark.parametrize("owner", ["", "nobody-of-that-name", "a\0b", "../x"])
def test_an_owner_whom_nobody_knows(owner: str) -> None:
    hook = as_root(owner, "77", "0")
    assert (hook.uid, hook.gid) == (None, None)


def test_a_users_own_hook_is_told_by_the_environment() -> None:
    hook = GridEngineHook.read((), LIES | {"RESTARTED": "1"}, 1234)
    assert (hook.scope, hook.uid, hook.as_root, hook.restart) == ("sge-5.6", 1234, False, 1)
    assert GridEngineHook.read(("alice", "7", "0"), LIES, 1234).scope == "sge-7"


def test_what_is_asked_for() -> None:
    assert as_root(OWNER.pw_name, "7", "0").request().references == (URL, "/a.sqsh")


@pytest.mark.parametrize("text", ["tool.sif", "-x", "/a b", "https://h/a\nb", "/ä", "https://h/" + "x" * 2000])
def test_what_cannot_be_asked_for(text: str) -> None:
    hook = GridEngineHook.read((OWNER.pw_name, "7", "0"), {"STAGE_IMAGE_REFERENCE": text}, 0)
    with pytest.raises(InvalidReference):
        hook.request()


def test_only_root_needs_leave() -> None:
    config = load({}, {"gridengine_allow": ("/apps",), "gridengine_budget": 3.0, "gridengine_strict": True})
    site = as_root(OWNER.pw_name, "7", "0").site(config)
    assert (site.table, site.allow, site.budget, site.strict) == ("gridengine", ("/apps",), 3.0, True)
    assert GridEngineHook.read((), LIES, 1234).site(config).allow is None


def test_what_root_goes_on_with() -> None:
    assert trusted(LIES | {"SGE_ROOT": "/s", "SGE_QMASTER_PORT": "1"}) == {"PATH": PATH, "SGE_ROOT": "/s"}


def test_roots_environment_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = dict(LIES)
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    hook = gridengine_prolog.read((OWNER.pw_name, "77", "0"))
    assert hook.request().references == (URL, "/a.sqsh")
    assert environ == {"PATH": PATH}


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StageImageError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_codes_are_none_that_stop_a_queue(kind: type[StageImageError]) -> None:
    error = kind("why")
    first = gridengine_hook.exit_code(error, restarted=False)
    assert first in (99, 100)
    assert gridengine_hook.exit_code(error, restarted=True) == 100
    assert not error.retryable or first == 99


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((errors.InvalidReference("x"), 100), (errors.NotFound("x"), 100), (errors.AccessDenied("x"), 100)),
        *((errors.DigestMismatch("x"), 100), (errors.NotAnImage("x"), 100), (errors.ConfigError("x"), 100)),
        *((errors.OriginUnavailable("x"), 99), (errors.NoSpace("x"), 99), (errors.StoreUnusable("x"), 99)),
    ],
)
def test_codes(error: StageImageError, code: int) -> None:
    assert gridengine_hook.exit_code(error, restarted=False) == code


def _ends_with(failure: StageImageError | None) -> Callable[[object], StageImageError | None]:
    return lambda _read: failure


def _run(words: Sequence[str]) -> int:
    arguments = parse(["gridengine", *words])
    code: int = arguments.run(arguments)
    return code


def test_a_prolog_that_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_prolog, "attempt", _ends_with(None))
    assert _run(["prolog", "alice", "7", "0"]) == 0


def test_a_prolog_where_the_site_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_prolog, "attempt", _ends_with(errors.NoSpace("full")))
    assert _run(["prolog"]) == 99
    monkeypatch.setenv("RESTARTED", "1")
    assert _run(["prolog"]) == 100


@pytest.mark.parametrize("stayed", [True, False])
def test_an_epilog_never_fails(monkeypatch: pytest.MonkeyPatch, stayed: bool) -> None:
    monkeypatch.setattr(slurm_epilog, "attempt", lambda _read: stayed)
    assert _run(["epilog", "alice", "7", "0"]) == 0
    assert gridengine_epilog.__doc__
