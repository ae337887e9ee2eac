"""The load sensor and a store on a file system that does not answer any more: a real mount, whose server is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.execd import DIRECTLY, Site
from tests.support.image_factory import squashfs
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("fuse", "squashfuse_ll", "mksquashfs")


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """A directory below which every look lasts until the test is over."""
    tree, root = tmp_path / "tree", tmp_path / "root"
    (tree / "store").mkdir(parents=True)
    root.mkdir()
    server = subprocess.Popen(["squashfuse_ll", "-f", str(squashfs(tmp_path / "image", tree)), str(root)])
    try:
        until(lambda: os.path.ismount(root), "the mount")
        server.send_signal(signal.SIGSTOP)
        yield root
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", str(root)], check=True)
        server.wait()


@pytest.mark.parametrize("program", [DIRECTLY, ()], ids=["directly", "script"])
def test_a_dead_mount_is_waited_for_once(tmp_path: Path, dead: Path, program: tuple[str, ...]) -> None:
    site = Site(tmp_path)
    environ = {"STAGE_IMAGE_STORE": str(dead / "store")}
    if program:
        environ["STAGE_IMAGE_PROGRESS"] = "none"  # as the script sets it
    with site.execd(*program, **environ) as execd:
        seconds = []
        for _ in range(4):
            begun = time.monotonic()
            told = execd.ask()
            seconds.append(time.monotonic() - begun)
            assert told["stage_images"] == "none"
        assert max(seconds) < 2.8
        assert max(seconds[-2:]) < 0.9, "what is known to be stuck is waited for again"
        assert execd.end() == 0
    assert site.errors.read_bytes() == b""
