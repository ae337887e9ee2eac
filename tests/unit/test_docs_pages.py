"""The pages hang together: links lead somewhere, generated pages are current, every page can be reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate, links, manual
from docs.commands import Block, blocks, commands
from stager import config
from stager.settings import FILE_ONLY

ROOT = Path(__file__).parents[2]
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox"
DEMO_COMMAND = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/stage-image demo"

MACROS = {
    "Dd",
    "Dt",
    "Os",
    "Sh",
    "Ss",
    "Nm",
    "Nd",
    "Pp",
    "Ar",
    "Pq",
    "Li",
    "Ic",
    "Pa",
    "Ev",
    "Bl",
    "It",
    "El",
    "Bd",
    "Ed",
}
MACROS |= {"Xr"}


def test_every_link_leads_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert links.main(ROOT) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", ["cli", "store-layout", "stage-image.1"])
def test_generated_pages_are_current(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check", page]) == 0, capsys.readouterr().err


def test_every_page_is_reached_from_the_index() -> None:
    start = ROOT / "docs" / "index.md"
    seen, waiting = {start}, [start]
    while waiting:
        page = waiting.pop()
        targets = re.findall(r"\]\(([^)#\s]+\.(?:md|1))", page.read_text(encoding="utf-8"))
        found = {(page.parent / target).resolve() for target in targets if "://" not in target} - seen
        seen |= found
        waiting += [page for page in found if page.suffix == ".md"]
    pages = {*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "man").glob("*.1")}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - seen) == []


def test_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```sh\n{DEMO_COMMAND}\n```" in readme
    assert f"```sh\n{TEST_COMMAND}\n```" in readme
    assert f"\n{TEST_COMMAND}\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"```sh\n{TEST_COMMAND}\n```" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_usage() -> None:
    usages = {command.verb: command.usage for command in commands()}
    assert usages["path"] == "stage-image [path] [OPTION…] REF"
    assert usages["exec"] == "stage-image exec [OPTION…] REF [-- CMD [ARG…]]"
    assert usages["umount"] == "stage-image umount (REF | --scope ID | --all) [OPTION…]"
    assert usages["remove"] == "stage-image remove [OPTION…] REF…"
    assert usages["verify"] == "stage-image verify [OPTION…] [REF]"


def test_help_texts_are_cut_into_blocks() -> None:
    text = "One\ntwo.\n\n  $ three\n    four\n\nfive\n"
    assert list(blocks(text)) == [
        Block("One\ntwo.", literal=False),
        Block("$ three\n  four", literal=True),
        Block("five", literal=False),
    ]


def test_the_man_page_is_plain_mdoc() -> None:
    page = manual.page()
    assert page.isascii()
    lines = page.splitlines()
    assert [line for line in lines if line != line.rstrip() or not line] == []
    used = {line[1:].split(" ")[0] for line in lines if line.startswith(".") and not line.startswith('.\\"')}
    assert used - MACROS == set()
    for begin, end in ((".Bl", ".El"), (".Bd", ".Ed")):
        assert sum(line.startswith(begin) for line in lines) == sum(line == end for line in lines) > 0


def test_the_man_page_has_every_verb_and_variable() -> None:
    page = manual.page()
    assert [command.verb for command in commands() if f"\n.Ss {manual.roff(command.verb)}\n" not in page] == []
    variables = [key.variable for key in config.KEYS.values() if key.name not in FILE_ONLY]
    assert [name for name in variables if f"\n.It Ev {name}\n" not in page] == []
