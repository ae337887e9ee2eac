"""Whatever Slurm's hooks are told, they know it for what it is, and what they write to the log stays one line."""

from __future__ import annotations

import re
import string

from hypothesis import given
from hypothesis import strategies as st

from stager.errors import ConfigError
from stager.schedulers.hook import CONTEXTS, MAX_ID, HookEnvironment
from stager.schedulers.syslog import INFO, MAX_BYTES, Syslog
from tests.property.strategies import hostile_text, long_hostile_text
from tests.support.effort import effort

NAMES = (
    *("SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_GID", "SLURM_JOB_USER", "SLURM_JOB_RESTART_COUNT"),
    *("SLURMD_NODENAME", "SLURM_SCRIPT_CONTEXT", "SPANK_STAGE_IMAGE_PRIVATE_TMP"),
)
node_lists = st.lists(
    st.sampled_from(["n", "[", "]", "1", "-", "9", ",", "/", " ", "\n", "@", "!", "&", "0" * 20, "{", "%", "x1"])
    | hostile_text,
    max_size=10,
).map("".join)
values = hostile_text | st.integers().map(str) | st.text(string.digits, max_size=30) | st.sampled_from(CONTEXTS)
environs = st.dictionaries(st.sampled_from(NAMES), values)


@given(environs, st.sampled_from(["7", None]), node_lists, hostile_text)
@effort(60)
def test_whatever_the_variables_say(environ: dict[str, str], job: str | None, nodes: str, words: str) -> None:
    told = environ | {"SLURM_NODELIST": nodes, "SLURM_JOB_COMMENT": words} | ({"SLURM_JOB_ID": job} if job else {})
    try:
        hook = HookEnvironment.read(told)
    except ConfigError as error:
        assert error.message.isprintable()  # noqa: PT017 - raising is one of two right answers
        assert not job
        return
    assert re.fullmatch("slurm-[1-9][0-9]{0,18}", hook.scope, re.ASCII)
    assert hook.comment == words
    for number in (hook.uid, hook.gid):
        assert number is None or 0 <= number <= MAX_ID
    assert 0 <= hook.restart <= 2**31
    assert hook.context in ("", *CONTEXTS)
    assert not set(hook.user + hook.node) - set(string.ascii_letters + string.digits + "-_.@\\$")
    rank = hook.node_rank
    assert rank is None or 0 <= rank < len(nodes)


@given(st.text(string.digits, min_size=1, max_size=12), st.integers(0, MAX_ID), st.integers(0, 2**31))
@effort(20)
def test_numbers_arrive(job: str, user: int, restart: int) -> None:
    job = job.lstrip("0") or "1"
    told = {"SLURM_JOB_ID": job, "SLURM_JOB_UID": str(user), "SLURM_JOB_RESTART_COUNT": str(restart)}
    hook = HookEnvironment.read(told)
    assert (hook.job, hook.uid, hook.restart) == (job, user, restart)


@given(
    st.dictionaries(
        st.sampled_from(["job", "image", "action", "result", "seconds"]),
        hostile_text | long_hostile_text | st.floats() | st.integers() | st.none(),
    )
)
@effort(60)
def test_a_line_is_one_line_with_these_fields_and_no_others(fields: dict[str, object]) -> None:
    packet = Syslog().packet(0.0, INFO, fields)
    assert len(packet) <= MAX_BYTES
    text = packet.decode("ascii")
    assert text.isprintable()
    if len(packet) < MAX_BYTES:
        said = text.partition("]: ")[2]
        found = re.findall(r'(?:^| )(\w+)=("[^"]*"|[^ "=]+)', said)
        assert [name for name, _ in found] == [name for name, value in fields.items() if value not in (None, "")]
        assert said == " ".join(f"{name}={value}" for name, value in found)
