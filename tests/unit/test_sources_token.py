from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager.errors import ConfigError
from stager.sources.token import MAX_TOKEN, read_token

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    return path


def test_token_without_the_line_end(file: Path) -> None:
    file.write_text("abc.DEF-1_2~3+4/5==\n")
    assert read_token(str(file)) == "abc.DEF-1_2~3+4/5=="


@pytest.mark.parametrize("content", ["", "\n", "two words", "a\r\nHost: evil", "ä", "=", "a" * (MAX_TOKEN + 1), "\0"])
def test_what_is_no_token(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match="holds no bearer token"):
        read_token(str(file))


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o602, 0o666])
def test_others_may_read_or_write_it(file: Path, mode: int) -> None:
    file.write_text("abc")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"read by others \(mode {mode:04o}\)"):
        read_token(str(file))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_token(str(tmp_path / "none"))


def test_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_token(str(tmp_path / "token"))


def test_somebody_elses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("abc")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        read_token(str(file))


def test_the_token_is_never_in_a_message(file: Path) -> None:
    file.write_text("secret word")
    with pytest.raises(ConfigError) as caught:
        read_token(str(file))
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
