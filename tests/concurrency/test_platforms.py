"""What was staged for another platform is found by whoever names that platform, by all verbs that take a reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.layered_images import file, image, layer, oci_layout
from tests.support.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("mksquashfs")

OTHER = "--platform=linux/arm64"


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path, STAGE_IMAGE_STORE=str(tmp_path / "store")) as started:
        yield started


def answer(tasks: Tasks, *words: str, code: int = 0) -> str:
    task = tasks.run(*words)
    assert task.done() == code, task.err
    return task.out.strip()


def test_verbs_find_what_another_platform_is_called(tasks: Tasks, tmp_path: Path) -> None:
    images = [image([layer([file("arch", name.encode())])], platform=f"linux/{name}") for name in ("amd64", "arm64")]
    reference = f"oci:{oci_layout(tmp_path / 'layout', images)}"
    path = answer(tasks, "path", OTHER, reference)
    for verb in ("inspect", "verify", "remove"):
        answer(tasks, verb, "--platform=linux/amd64", reference, code=82)
    found: Any = json.loads(answer(tasks, "inspect", "--json", OTHER, reference))
    assert (found["path"], found["config"]["Platform"]) == (path, "linux/arm64")
    assert answer(tasks, "verify", OTHER, reference).endswith("sound")
    assert answer(tasks, "status", OTHER, reference).startswith("nothing is being staged")
    answer(tasks, "umount", OTHER, reference)
    answer(tasks, "remove", OTHER, reference)
    answer(tasks, "inspect", OTHER, reference, code=82)


def test_prefetch_passes_the_platform_on(tasks: Tasks, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\necho /x\n')
    program.chmod(0o755)
    answer(
        tasks,
        "prefetch",
        "docker://x.example/a:1",
        OTHER,
        "--nodes=n1",
        "--launcher=env NODE={node} {words}",
        f"--program={program}",
    )
    assert OTHER in (tmp_path / "words").read_text().split()
