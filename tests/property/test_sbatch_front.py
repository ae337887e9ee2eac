"""Laws of command lines with `--stage-image`: what is the user's stays, and what the Prolog reads is what was asked."""

from __future__ import annotations

import re
from getopt import GetoptError, getopt
from itertools import chain

from hypothesis import assume, given
from hypothesis import strategies as st

from stager.schedulers import request, sbatch
from stager.schedulers.submit_options import NOT_OF_SBATCH, PLAIN, SHORT, VALUED, takes_value

MAYBE = frozenset({"exclusive", "get-user-env", "nice", "no-kill", "propagate"})
"""Options of sbatch with a value behind `=` only, or none: Python's getopt knows no such thing."""

LONG = sorted((VALUED | PLAIN | {"wait"}) - NOT_OF_SBATCH - MAYBE)
LETTERS = sorted(letter for letter, name in SHORT.items() if name in LONG)
OFTEN = ["comment", "wrap", "job-name", "nodes", "hold", "wait", "parsable", "export", "prefer"]

texts = st.one_of(
    st.sampled_from(["", "x", "-", "--", ":", "--hold", "-N", "--stage-image=/a", "--stage-image", "job.sh", "a b"]),
    st.text(max_size=8),
)
images = st.lists(st.from_regex(r"/[a-z0-9%._@+-]{1,12}", fullmatch=True), min_size=1, max_size=4, unique=True)


@st.composite
def an_option(draw: st.DrawFn) -> list[str]:
    """One option of sbatch, as somebody may write it."""
    if draw(st.booleans()):
        name = draw(st.sampled_from([*OFTEN, *LONG]))
        valued = takes_value(name, "sbatch")
        form = draw(st.sampled_from(["--{}={}", "--{} {}"])) if valued else "--{}"
        return [form.split(" ")[0].format(name, draw(texts)), *([draw(texts)] if " " in form else [])]
    letters = draw(st.text(st.sampled_from(LETTERS), min_size=1, max_size=3))
    return [f"-{letters}", *([draw(texts)] if draw(st.booleans()) else [])]


options = st.lists(an_option(), max_size=4).map(lambda found: list(chain(*found)))
lines = st.one_of(
    st.lists(texts, max_size=6), st.tuples(options, st.lists(texts, max_size=3)).map(lambda p: p[0] + p[1])
)


def is_ours(words: list[str]) -> bool:
    return any(word.startswith("--stage-image") for word in words)


@given(lines, st.sampled_from(sbatch.PROGRAMS))
def test_what_is_not_ours_is_not_touched(words: list[str], program: str) -> None:
    assume(not is_ours(words))
    assert sbatch.read(words, program).words() == words


@given(lines)
def test_options_end_where_getopt_says(words: list[str]) -> None:
    assume(not is_ours(words) and ":" not in words and "--" not in words)
    short = "".join(f"{letter}:" if takes_value(SHORT[letter], "sbatch") else letter for letter in LETTERS)
    long = [f"{name}=" if takes_value(name, "sbatch") else name for name in LONG]
    try:
        found, rest = getopt(words, short, long)
    except GetoptError:
        return  # and so does sbatch
    line = sbatch.read(words, "sbatch")
    assert line.rest == rest
    said = {SHORT[name[1]] if name[1] != "-" else name[2:]: value for name, value in found}
    assert line.components[0].options == said


@given(options, images, st.booleans(), lines)
def test_ours_is_taken_out_and_nothing_else(before: list[str], asked: list[str], joined: bool, rest: list[str]) -> None:
    ours = ",".join(asked)
    assume(not is_ours(before) and _complete(before))
    words = [*before, *([f"--stage-image={ours}"] if joined else ["--stage-image", ours]), "job.sh", *rest]
    found = sbatch.read(words, "sbatch")
    assert found.components[0].images == tuple(asked)
    assert found.words() == [*before, "job.sh", *rest]


def _complete(words: list[str]) -> bool:
    """Whether these are options of one component, and none waits for a value: then a script is one."""
    line = sbatch.read([*words, "job.sh"], "sbatch")
    return line.rest == ["job.sh"] and len(line.components) == 1


@given(images, st.text(max_size=40))
def test_the_prolog_reads_what_was_asked(asked: list[str], comment: str) -> None:
    assume("stage-image=" not in comment)
    component = sbatch.Component()
    sbatch.tell(component, asked, comment)
    (told,) = component.words
    assert request.read(told.removeprefix("--comment="), "", "").references == tuple(asked)
    assert told.endswith(comment)


@given(st.text(max_size=200))
def test_no_script_is_a_surprise(text: str) -> None:
    assume("--stage-image" not in text)
    sbatch.script_options(f"#SBATCH {text}")
    sbatch.script_options(text)
    sbatch.read_nodes(text)


@given(st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=8), min_size=1, max_size=4))
def test_what_a_script_quotes_is_one_value(values: list[str]) -> None:
    lines = [f'#SBATCH --comment="{re.sub(chr(34) + "|" + chr(92) * 2, _escaped, value)}"' for value in values]
    assert sbatch.script_options("\n".join(("#!/bin/sh", *lines, "ls"))) == {"comment": values[-1]}


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"
