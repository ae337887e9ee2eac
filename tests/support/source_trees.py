"""The code of stager, read and parsed once for all the tests that look at it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def texts() -> dict[str, str]:
    """Return each module's text by its path below the project, `/`-separated, in order."""
    files = sorted((ROOT / "stager").rglob("*.py"))
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


@cache
def nodes() -> dict[str, tuple[ast.AST, ...]]:
    """Return all that each module consists of, by the same path."""
    return {name: walked(text) for name, text in texts().items()}


def walked(text: str) -> tuple[ast.AST, ...]:
    """Return all nodes of a text."""
    return tuple(ast.walk(ast.parse(text)))
