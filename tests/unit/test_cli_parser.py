from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import __version__, warm
from stager.cli.parser import VERBS, build, module_of, parse
from tests.support.effort import effort

if TYPE_CHECKING:
    from pathlib import Path

REF = "https://example.org/tool.sif"


@pytest.mark.parametrize("words", [[REF], ["path", REF]])
def test_path_is_the_verb_of_a_reference(words: list[str]) -> None:
    arguments = parse(words)
    assert arguments.run is import_module("stager.cli.path_verb").run
    assert (arguments.reference, arguments.words) == (REF, [REF])


def test_options_may_come_first() -> None:
    assert parse(["--json", REF]).json
    assert parse(["--freshness=always", REF]).freshness == "always"


words_of_a_command = st.lists(st.sampled_from(["--", "-x", "--json", "a b", "--help", "--mount=loop", ""]), min_size=1)


@given(words_of_a_command)
@effort(25)
def test_the_command_of_exec_is_its_own(command: list[str]) -> None:
    arguments = parse(["exec", "--mount=none", REF, "--", *command])
    assert (arguments.command, arguments.reference, arguments.mount) == (command, REF, "none")
    question = warm.parse(arguments.words)
    assert question is not None
    assert question.command == command


def test_only_exec_has_a_command() -> None:
    assert parse(["path", "--", "-odd-name"]).reference == "-odd-name"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["path", REF, "more"], "unrecognized arguments: more"),
        (["list", "--nope"], "unrecognized arguments: --nope"),
        (["path", "--fresh=job", REF], "unrecognized arguments: --fresh=job"),
        (["path"], "the following arguments are required: REF"),
    ],
)
def test_what_is_not_understood_is_told_by_the_verb(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"stage-image: error: {said}", f"stage-image: try: `stage-image {words[0]} --help`"]


@pytest.mark.parametrize(("word", "hint"), [("lst", "list"), ("moutn", "mount"), ("zzzzz", "--help")])
def test_a_mistyped_verb_is_no_reference(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        parse([word])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"stage-image: error: there is no verb and no file {word!r}\nstage-image: try: `stage-image {hint}`\n"
    )
    (tmp_path / word).touch()
    assert parse([word]).reference == word


def test_no_words_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse([])
    assert end.value.code == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert [verb for verb in VERBS if verb not in found.err] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"stage-image {__version__}\n")


def test_one_verb_imports_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in VERBS:
        monkeypatch.delitem(sys.modules, module_of(verb), raising=False)
    build(only="list")
    assert {verb for verb in VERBS if module_of(verb) in sys.modules} == {"list"}


def test_every_verb_has_a_module_with_what_is_needed() -> None:
    build()
    for verb in VERBS:
        module = import_module(module_of(verb))
        assert module.EPILOG
        assert callable(module.run)
