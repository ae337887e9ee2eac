"""The shell wrapper and stager.warm decide alike, whatever is wrong, however a question is put, whichever job asks."""

from __future__ import annotations

import string
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stager import jobenv
from tests.property.strategies import reference_texts
from tests.support.warm_scene import CLI, FORMS, apply, faults, set_up, shells

some_shell = st.sampled_from(sorted(shells()))
verbs = st.sampled_from(sorted(FORMS))

_job_ids = st.text(string.ascii_letters + string.digits + "._-[]@ /$*\n", min_size=1, max_size=8)
_ids = _job_ids | st.from_regex(r"[0-9]{1,7}(\[[0-9]{1,3}\])?(\.[a-z]{1,5})?", fullmatch=True) | st.just("7" * 65)
_ids |= st.sampled_from(["\u01922Xk1", "/x/dir_4711", "/x/dir_", "dir_4a", "/x/dir_1/", "/srv"])
_variables = (
    "SLURM_JOB_ID",
    "PBS_JOBID",
    "LSB_JOBID",
    "LSB_JOBINDEX",
    "SGE_ROOT",
    "JOB_ID",
    "SGE_TASK_ID",
    "FLUX_JOB_ID",
    "_CONDOR_SCRATCH_DIR",
)
jobs = st.dictionaries(st.sampled_from(_variables), _ids | st.sampled_from(["", "0", "undefined"]), max_size=3)

_words = st.sampled_from(
    ["", "--", "-h", "--json", "--mount=loop", "--mount=", "--runtime=none", "mount", "exec", "/other"]
)
edits = st.lists(st.tuples(st.integers(0, 3), st.booleans(), _words), min_size=1, max_size=2)


@settings(max_examples=40)
@given(some_shell, verbs, st.data())
def test_any_fault_ends_at_the_cli(shell: str, verb: str, data: st.DataObject) -> None:
    known = faults(verb)
    chosen = data.draw(st.sets(st.sampled_from(sorted(known)), max_size=4))
    scene = set_up(_folder(), verb)
    apply(scene, chosen)
    for name, answer in (("shell", scene.by_wrapper(shell)), ("python", scene.by_python())):
        assert answer == (CLI if any(known[fault].unseen != name for fault in chosen) else scene.answer)


@settings(max_examples=25)
@given(some_shell, jobs)
@example(min(shells()), {"PBS_JOBID": "12[3].host"})
@example(min(shells()), {"FLUX_JOB_ID": "\u01922Xk1"})
@example(min(shells()), {"_CONDOR_SCRATCH_DIR": "/var/lib/condor/execute/dir_4711"})
@example(min(shells()), {"_CONDOR_SCRATCH_DIR": "/srv"})
def test_every_job_finds_its_own_records(shell: str, job: dict[str, str]) -> None:
    scene = set_up(_folder(), job=job)
    assert scene.by_python() == scene.answer
    # A job with an id that is none is no job to Python. The wrapper asks rather than follow it there.
    named = any(job.get(name) for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID"))
    odd = named and not jobenv.from_environ(job).scope
    assert scene.by_wrapper(shell) in ([scene.answer, CLI] if odd else [scene.answer])


@settings(max_examples=25)
@given(some_shell, verbs, reference_texts.filter(lambda text: "@sha256:" not in text))
def test_every_reference_finds_its_own_record(shell: str, verb: str, text: str) -> None:
    scene = set_up(_folder(), verb, text)
    assert scene.by_wrapper(shell) == scene.by_python() == (scene.answer if scene.record.exists() else CLI)


@settings(max_examples=25)
@given(some_shell, verbs, edits)
def test_other_command_lines_are_other_questions(shell: str, verb: str, edits: list[tuple[int, bool, str]]) -> None:
    scene = set_up(_folder(), verb)
    end = scene.words.index("--") if verb == "exec" else len(scene.words)
    words, command = scene.words[:end], scene.words[end:]
    for place, instead, word in edits:
        # Another `--` makes a command of what follows, and one that begins with a dash is left to the CLI.
        words[place : place + instead] = ["-h" if word == "--" and command else word]
    scene.words = [*words, *command]
    assert scene.by_wrapper(shell) == scene.by_python()


def _folder() -> Path:
    return Path(mkdtemp())
