from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from docs import generate, links

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Top\n\n[docs](docs/a.md)\n")
    (tmp_path / "docs" / "a.md").write_text("# A `b` page!\n\n[up](../README.md#top)\n[self](#a-b-page)\n")
    return tmp_path


def test_good_links(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert links.main(project) == 0
    assert capsys.readouterr().err == "all links lead somewhere\n"


@pytest.mark.parametrize("link", ["gone.md", "../gone/", "../README.md#bottom", "#nowhere"])
@pytest.mark.parametrize("shape", ["[x]({})", "[x]: {}"])
def test_bad_links(project: Path, capsys: pytest.CaptureFixture[str], link: str, shape: str) -> None:
    with (project / "docs" / "a.md").open("a") as page:
        page.write(shape.format(link) + "\n")
    assert links.main(project) == 1
    assert capsys.readouterr().err == f"docs/a.md: {link} leads nowhere\n"


@pytest.mark.parametrize("text", ["`[x](gone.md)`", "```\n[x](gone.md)\n```", "[x](https://gone.example)", "\\[x](y)"])
def test_no_links(project: Path, text: str) -> None:
    (project / "docs" / "b.md").write_text(text)
    assert links.main(project) == 0


def test_generated_pages_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is out of date") == len(generate.PAGES)
    assert generate.main(["exit-codes"]) == 0
    assert generate.main(["--check", "exit-codes"]) == 0
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
