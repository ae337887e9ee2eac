"""Small modules, small functions, few arguments: the numbers that CONTRIBUTING.md asks for."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from tests.support import source_trees

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Function = ast.FunctionDef | ast.AsyncFunctionDef

MODULE_MEDIAN, MODULE_MAX = 150, 350
FUNCTION_MEDIAN, FUNCTION_P95, FUNCTION_MAX = 8, 30, 60
POSITIONAL_MAX = 4
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "handler", "worker", "misc"}


def functions(modules: Mapping[str, tuple[ast.AST, ...]]) -> Iterator[tuple[str, Function]]:
    for name, nodes in modules.items():
        for node in nodes:
            if isinstance(node, Function):
                yield f"{name}:{node.lineno} {node.name}", node


def length(function: Function) -> int:
    """Return the number of lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def positional(function: Function) -> int:
    arguments = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return len(arguments) - (arguments[:1] in (["self"], ["cls"]))


def test_modules() -> None:
    lines = {name: text.count("\n") for name, text in source_trees.texts().items() if text}
    assert {name: n for name, n in lines.items() if n > MODULE_MAX} == {}
    assert median(lines.values()) <= MODULE_MEDIAN


def test_functions() -> None:
    lines = {name: length(node) for name, node in functions(source_trees.nodes())}
    assert {name: n for name, n in lines.items() if n > FUNCTION_MAX} == {}
    assert median(lines.values()) <= FUNCTION_MEDIAN
    assert quantiles(lines.values(), n=20)[-1] <= FUNCTION_P95


def test_arguments() -> None:
    counts = {name: positional(node) for name, node in functions(source_trees.nodes())}
    assert {name: n for name, n in counts.items() if n > POSITIONAL_MAX} == {}


def test_names_say_something() -> None:
    assert [name for name in source_trees.texts() if VAGUE.intersection(Path(name).with_suffix("").parts)] == []


def test_the_ruler() -> None:
    text = (
        'def f(a, /, b, *, c):\n    """Say."""\n    x = 1\n\n    return x\n\nclass C:\n    def m(self, a): return a\n'
    )
    measured = [(length(node), positional(node)) for _, node in functions({"f.py": source_trees.walked(text)})]
    assert measured == [(3, 2), (1, 1)]
