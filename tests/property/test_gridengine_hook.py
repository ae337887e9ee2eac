"""Whatever a user puts into a job's environment, a hook of Grid Engine refuses it in one line, or takes it as it is."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from stager.errors import ConfigError, InvalidReference
from stager.schedulers import qsub
from stager.schedulers.gridengine_hook import GridEngineHook
from stager.schedulers.request import VARIABLES

NAMES = ("JOB_ID", "SGE_TASK_ID", "RESTARTED", "PATH", *VARIABLES)
WORDS = st.one_of(st.text(max_size=20), st.integers(0, 10**13).map(str), st.sampled_from(["undefined", "0", "../1"]))
TEXTS = st.one_of(WORDS, st.from_regex(r"(https://h|/)[ -~]{0,30}", fullmatch=True))
ENVIRONS = st.dictionaries(st.sampled_from(NAMES), TEXTS)
SCOPE = re.compile(r"sge-[1-9][0-9]{0,11}(\.[1-9][0-9]{0,11})?")


@given(words=st.lists(WORDS, max_size=4), environ=ENVIRONS, euid=st.sampled_from([0, 1234]))
def test_whatever_is_told(words: list[str], environ: dict[str, str], euid: int) -> None:
    said = ""
    try:
        hook = GridEngineHook.read(words, environ, euid)
        assert SCOPE.fullmatch(hook.scope)
        assert not euid or hook.uid == euid
        references = hook.request().references
        assert set(references) <= {environ[name] for name in VARIABLES if name in environ}
    except (ConfigError, InvalidReference) as error:
        said = error.message
    assert said.isprintable()


@given(words=st.lists(WORDS.map(str)), environ=ENVIRONS, lies=ENVIRONS)
def test_roots_job_is_that_of_its_arguments(words: list[str], environ: dict[str, str], lies: dict[str, str]) -> None:
    def scope(of: dict[str, str]) -> str:
        try:
            return GridEngineHook.read(words, of, 0).scope
        except ConfigError as error:
            return error.message

    assert scope(environ) == scope(lies)


@given(before=st.lists(st.sampled_from(["-cwd", "-V", "-N", "-pe", "-l", "a=b", "x", "--", "-", "-b", "y"])))
def test_nothing_of_the_users_is_lost(before: list[str]) -> None:
    line = qsub.read([*before, "--stage-image=/a", "job"], "qsub")
    kept = [*line.options, *line.rest]
    assert kept == ([*before, "job"] if line.images else [*before, "--stage-image=/a", "job"])
