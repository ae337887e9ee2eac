"""docs/how-to/grid-engine.md, done by an admin who does what it says: every command with a prompt, in order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.gridengine import gridengine
from tests.support.image_factory import minimal_sif
from tests.support.tasks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gridengine import Bed, Ran

pytestmark = pytest.mark.needs("gridengine", "nginx")

PAGE = ROOT / "docs" / "how-to" / "grid-engine.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^(host#|qm#|\$) (.*)")
REFERENCE = "https://images.example.org/tool.sif"
ABSOLUTE = re.compile(r"(?<![\w.:/-])/[\w./-]+")


def commands() -> list[tuple[str, str]]:
    """Return (prompt, command) of the whole page."""
    lines = [line for block in CONSOLE.findall(PAGE.read_text("utf-8")) for line in block.splitlines()]
    matches = [PROMPT.match(line) for line in lines]
    assert all(matches), "a command without a prompt"
    return [(match[1], match[2]) for match in matches if match]


def follow(bed: Bed, prompt: str, command: str) -> list[Ran]:
    """Run a command as whom, and where, its prompt says."""
    if prompt == "$":
        return [bed.user.run("sh", "-c", f"cd && {command}")]
    assert [path for path in ABSOLUTE.findall(command) if not path.startswith("/usr/local/share/")] == []
    machines = bed.hosts if prompt == "host#" else [bed.master]
    return [bed.root.run("sh", "-c", f"cd {ROOT} && {command}", node=machine) for machine in machines]


def test_the_page(tmp_path: Path) -> None:
    with gridengine(tmp_path, hosts=2) as bed:
        url = bed.origin.put("tool.sif", minimal_sif())
        ran: dict[str, list[Ran]] = {}
        for prompt, command in commands():
            answers = follow(bed, prompt, command.replace(REFERENCE, url))
            assert [each.code for each in answers] == [0] * len(answers), (command, answers)
            ran[command] = answers
            if "--apply" in command:
                for host in bed.hosts:
                    bed.await_value(host, "stage_images", lambda value: value == "none")
            if command.startswith("qsub"):
                assert "image.sif" in (bed.user.home / "tool.sh.o1").read_text("utf-8")
                bed.wait_for(lambda: any(map(_tells, [bed.qhost_values(host) for host in bed.hosts])), "a warm host")
        assert "+load_sensor" in ran["stage-image gridengine setup --dry-run"][0].out
        assert "begin\ne1:stage_images:none" in ran["echo | stage-image load-sensor"][0].out
        assert "stage_free" in ran["qhost -F stage_images,stage_free"][0].out
        assert "stage_images" not in bed.qconf("-sc")
        assert set(bed.queue_states().values()) == {""}


def _tells(values: dict[str, str]) -> bool:
    return values.get("stage_images", "").startswith(";tool.sif@")
