"""What the pages show exists: options, settings, exit codes, messages."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs import links
from docs.commands import known_options
from stager import config, errors, jobenv, variables
from stager.cli.parser import VERBS
from stager.settings import FILE_ONLY
from tests.support import source_trees

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in links.pages(ROOT)}

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
CALL = re.compile(r"(?<![\w.-])stage-image +([^\n]+)")
VARIABLE = re.compile(r"STAGE_IMAGE_[A-Z_]*[A-Z]")
EVERYWHERE = {"--help", "--version"}
OPTIONS = known_options()


def calls(text: str) -> Iterator[list[str]]:
    """Yield the words after each `stage-image` in code, up to the end of the command."""
    code = [block for _, block in FENCE.findall(text)] + SPAN.findall(FENCE.sub("", text))
    for line in (line for block in code for line in CALL.findall(block)):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        yield list(words_of(lexer))


def words_of(lexer: shlex.shlex) -> Iterator[str]:
    try:
        for word in lexer:
            if not set(word) - set("();<>|&") or word == "--":
                return
            yield word
    except ValueError:  # a quotation that the span cuts off
        return


def wrong(words: list[str]) -> set[str]:
    """Return what does not exist of a call: the verb, or options of it."""
    if words and re.fullmatch("[a-z]+", words[0]) and words[0] not in VERBS:
        return {words[0]}
    verb = words[0] if words and words[0] in VERBS else "path"
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    return options - OPTIONS[verb] - EVERYWHERE


@pytest.mark.parametrize("page", TEXTS)
def test_every_call_is_understood(page: str) -> None:
    found = {" ".join(words): bad for words in calls(TEXTS[page]) if (bad := wrong(words))}
    assert found == {}


def test_the_pages_show_every_verb() -> None:
    shown = {words[0] for text in TEXTS.values() for words in calls(text) if words}
    assert set(VERBS) - shown == set()


@pytest.mark.parametrize("line", ["lst", "list --nope", "--nope REF", "exec --json REF -- x", "REF --jsn | head"])
def test_the_ruler_sees_what_is_wrong(line: str) -> None:
    (words,) = calls(f"`stage-image {line}`")
    assert wrong(words)


@pytest.mark.parametrize("line", ["list --json", "exec --mount=loop REF -- ls --all", "REF > x --nope", "prune --help"])
def test_the_ruler_passes_what_is_right(line: str) -> None:
    (words,) = calls(f"```sh\n$(stage-image {line}\n```")
    assert not wrong(words)


def test_every_variable_exists() -> None:
    known = {key.variable for key in config.KEYS.values()} | set(variables.RESERVED)
    shown = {(page, name) for page, text in TEXTS.items() for name in VARIABLE.findall(text)}
    assert {(page, name) for page, name in shown if name not in known and "_TEST_" not in name} == set()


def test_the_page_of_variables_has_them_all() -> None:
    names = [key.variable for key in config.KEYS.values() if key.name not in FILE_ONLY]
    names += [*variables.RESERVED, *jobenv.LOCAL_RANKS]
    page = TEXTS["docs/reference/environment-variables.md"]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_settings_file_is_valid(tmp_path: Path) -> None:
    blocks = [block for text in TEXTS.values() for language, block in FENCE.findall(text) if language == "toml"]
    assert len(blocks) > 5
    file = tmp_path / "config.toml"
    for block in blocks:
        lines = [line.strip() for line in block.splitlines()]
        file.write_text("\n".join(lines))
        assert tomllib.loads(file.read_text())
        config.load({}, site_file="/dev/null", user_file=str(file))


def subclasses(cls: type[errors.StageImageError]) -> set[type[errors.StageImageError]]:
    return {cls}.union(*(subclasses(sub) for sub in cls.__subclasses__()))


CODES = {cls.exit_code for cls in subclasses(errors.StageImageError)}


def test_every_exit_code_has_its_section() -> None:
    sections = re.findall(r"^## Exit code (\d+): ", TEXTS["docs/how-to/troubleshooting.md"], re.MULTILINE)
    assert [int(code) for code in sections] == sorted(CODES)


def test_every_exit_code_exists() -> None:
    shown = {(page, int(code)) for page, text in TEXTS.items() for code in re.findall(r"(?i)exit code (\d+)", text)}
    assert {(page, code) for page, code in shown if code not in CODES | {0}} == set()


@cache
def messages() -> list[str]:
    """Return every text of the code, with … where something is put in."""
    modules = [*source_trees.nodes().values(), source_trees.walked(Path(argparse.__file__).read_text(encoding="utf-8"))]
    return [text for nodes in modules for node in nodes if (text := text_of(node))]


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def is_said(symptom: str, texts: list[str]) -> bool:
    """Whether some text holds what a symptom quotes, in this order; what stands for … or a number may be anything."""
    pieces = [re.escape(piece.strip()) for piece in re.split(r"…|\d+", symptom) if piece.strip()]
    pattern = re.compile(".*".join(pieces), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_every_symptom_is_said() -> None:
    headings = re.findall(r"^### Symptom: (.*)", TEXTS["docs/how-to/troubleshooting.md"], re.MULTILINE)
    quoted = [span for heading in headings for span in SPAN.findall(heading)]
    texts = messages()
    assert len(quoted) > 40
    assert [symptom for symptom in quoted if not is_said(symptom, texts)] == []


def test_nobody_says_just_anything() -> None:
    assert not is_said("… has gone fishing", messages())
    assert is_said("… answered 404", messages())
