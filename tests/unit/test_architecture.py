"""Imports go downwards only, adapters do not know each other, and the warm path imports next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.source_trees import ROOT, nodes, walked

if TYPE_CHECKING:
    from collections.abc import Iterable

LAYERS = {
    0: {"errors", "reference", "container_references", "image_names", "layout", "quantity", "py.typed"},
    1: {
        "interfaces",
        "oci",
        "trailer",
        "config",
        "registry_setting",
        "settings",
        "settings_file",
        "kinds",
        "jobenv",
        "clock",
        "process",
        "program",
        "retry",
        "mountinfo",
        "filesystem",
        "variables",
    },
    3: {"election", "sources", "images", "mounts", "relay", "layers"},
    4: {"schedulers"},
    5: {"cli", "log", "progress", "progress_bar", "__main__"},
}
"""Everything else is layer 2, the core."""
CORE = 2
ADAPTERS = LAYERS[3]

HEAVY = frozenset(
    (
        *("argparse", "dataclasses", "typing", "json", "re", "subprocess", "logging", "pathlib", "socket", "tomllib"),
        *("requests", "filelock", "tenacity", "kazoo", "rich", "stager.config", "stager.settings"),
    )
)


def part_of(module: str) -> str:
    """Return the first name below `stager`; empty for the package itself, which holds the version only."""
    return module.split(".")[1] if "." in module else ""


def layer_of(part: str) -> int:
    return next((layer for layer, parts in LAYERS.items() if part in parts), CORE)


def imports_of(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the modules of stager that are imported, wherever in the file."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            found |= {
                f"{node.module}.{alias.name}" if node.module == "stager" else f"{node.module}" for alias in node.names
            }
    return {name for name in found if name.split(".")[0] == "stager"}


def violations(module: str, nodes: Iterable[ast.AST]) -> list[str]:
    """Return what a module imports and should not."""
    part = part_of(module)
    layer = layer_of(part)
    others = {name for name in imports_of(nodes) if part_of(name) not in {"", "__version__", part}}
    ceiling = 1 if part in ADAPTERS else layer
    return sorted(f"{module} (layer {layer}) imports {name}" for name in others if layer_of(part_of(name)) > ceiling)


def name_of(path: str) -> str:
    """Return the dotted name of a module."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def test_imports_go_downwards_only() -> None:
    assert [line for path, found in nodes().items() for line in violations(name_of(path), found)] == []


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("stager.layout", "from stager.errors import NotFound", True),
        ("stager.layout", "from stager import __version__", True),
        ("stager.layout", "from stager import config", False),
        ("stager.layout", "def f():\n    import stager.config", False),
        ("stager.config", "from stager.store.images import Store", False),
        ("stager.stage", "from stager.store import Store", True),
        ("stager.stage", "from stager.sources.http import HttpSource", False),
        ("stager.sources.http", "from stager.sources.file import FileSource", True),
        ("stager.sources.http", "from stager.mounts.loop import LoopMounter", False),
        ("stager.sources.http", "from stager.stage import stage", False),
        ("stager.sources.http", "from stager.interfaces import Stream", True),
        ("stager.cli.main", "from stager.sources.http import HttpSource", True),
    ],
)
def test_the_law_can_be_broken(module: str, line: str, *, allowed: bool) -> None:
    assert (violations(module, walked(line)) == []) is allowed


def test_warm_path_is_light() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import stager.cli.main; print(*sys.modules)"
    # -I -S: no site, so nothing of what a .pth file loads is put down to us.
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert sorted(HEAVY.intersection(run.stdout.split())) == []
