"""The demo, end to end: what the README promises of its first command."""

from __future__ import annotations

import subprocess
import sys

from stager.demo import squashfs
from stager.mountinfo import read
from tests.support.image_factory import recognised


def test_one_request_whatever_the_machine_can_mount() -> None:
    words = [sys.executable, "-m", "stager", "demo", "--tasks", "4", "--size", "2", "--rate", "8"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the origin saw 1 request: GET /image.sqsh HTTP/1.1" in done.stdout
    assert "4 tasks once more" in done.stdout
    assert [mount for mount in read() if "stage-image-demo-" in mount.mountpoint] == []


def test_its_image_is_one(tmp_path: object) -> None:
    path = f"{tmp_path}/image.sqsh"
    with open(path, "wb") as file:
        squashfs.write(file, {"hello": b"hello\n", "empty": b"", "payload": bytes(3 << 20)})
    with open(path, "rb") as file:
        info = recognised(file.read())
    assert (info.format, info.size % 4096) == ("squashfs", 0)
