"""Every squashfs-tools there is: the system's, and those in the directories that $STAGE_IMAGE_TEST_SQUASHFS names.

That is a list as $PATH is one, of directories with a mksquashfs and an unsquashfs each.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from stager import layers
from stager.errors import ConverterMissing, ImageRefused
from stager.layers import mksquashfs
from stager.layers.options import LEVELS
from stager.layers.settle import IDS_MAX
from tests.support.converting import converted
from tests.support.layer_strategies import layer_lists, listing, same
from tests.support.layered_images import Entry, Layer, directory, file, layer
from tests.support.mounting import forked
from tests.system.test_layers import EVERYTHING, accepted, in_kernel, unpacked, unpacked_by_umoci

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs("mksquashfs", "unsquashfs")]

FOLDERS = [folder for folder in os.environ.get("STAGE_IMAGE_TEST_SQUASHFS", "").split(":") if folder]
KERNEL_LACKS = frozenset({"lzo", "lz4"})
"""What kernels are often built without (CONFIG_SQUASHFS_LZ4, _LZO): no failure of ours."""

MANY = layer(
    [
        directory("d", xattrs={"user.x": b"1"}),  # the kernel refuses to list attributes where a whole image has none
        *(file(f"f{number}", os.urandom(number * 37 % 3000) + b"abc" * number, uid=number) for number in range(600)),
        *(file(f"same{number}", b"same" * 50_000) for number in range(3)),
        file("whole", os.urandom(3 << 20)),
    ]
)


@pytest.fixture(params=["", *FOLDERS], ids=lambda folder: folder or "system")
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put one of them at the head of PATH; return its version. One that is too old has to say so."""
    if request.param:
        monkeypatch.setenv("PATH", f"{request.param}:{os.environ['PATH']}")
    program = mksquashfs.program()
    said = subprocess.run([program, "-version"], check=False, capture_output=True, timeout=20).stdout
    if re.match(rb"mksquashfs version 4\.[0-4]\b", said):
        with pytest.raises(ConverterMissing, match="the first that is enough"):
            mksquashfs.version(program)
        pytest.skip(f"{program} is too old")
    return mksquashfs.version(program)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.needs("root", "umoci")
@pytest.mark.usefixtures("tool")
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(layer_lists)
def test_any_tool_makes_what_umoci_unpacks(
    tmp_path_factory: pytest.TempPathFactory, described: list[list[Entry]]
) -> None:
    folder = tmp_path_factory.mktemp("layers")
    since = time.time()
    built = [layer(entries) for entries in accepted(described)[0]]
    theirs = unpacked_by_umoci(built, folder)
    assert theirs is not None
    assert same(unpacked(converted(built, folder / "image"), folder / "ours"), theirs, since)
    shutil.rmtree(folder)


@pytest.mark.needs("root", "loop")
@pytest.mark.parametrize("built", [EVERYTHING, [MANY]])
def test_the_kernel_and_the_tool_agree(tool: str, built: list[Layer], tmp_path: Path) -> None:
    made = converted(built, tmp_path / "image")
    assert in_kernel(made, tmp_path, listing) == unpacked(made, tmp_path / "ours"), tool


@pytest.mark.needs("root", "loop")
def test_images_of_nothing(tool: str, tmp_path: Path) -> None:
    root = directory("./", mode=0o711, uid=9, gid=70_000, mtime=8)
    nothing = (0o40755, 0, 0, 0)
    for built, told in (([], nothing), ([layer([])], nothing), ([layer([root])], (0o40711, 9, 70_000, 8))):
        made = converted(built, tmp_path / "image")
        assert in_kernel(made, tmp_path, _root) == ([], told), tool


def _root(path: Path) -> tuple[list[str], tuple[int, int, int, int]]:
    status = path.stat()
    return os.listdir(path), (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime))


@pytest.mark.needs("root", "loop")
@pytest.mark.parametrize("block", [4 << 10, 128 << 10, 1 << 20])
@pytest.mark.parametrize(
    ("compression", "level"), [(name, end) for name, of in LEVELS.items() for end in {*of[:1], *of[-1:]} or {None}]
)
def test_every_compression(tool: str, compression: str, level: int | None, block: int, tmp_path: Path) -> None:
    options = layers.Options(compression, level, block)
    made = converted([MANY], tmp_path / "image", options=options)
    expected = unpacked(converted([MANY], tmp_path / "usual"), tmp_path / "expected")
    assert unpacked(made, tmp_path / "ours") == expected, tool
    try:
        assert in_kernel(made, tmp_path, listing) == expected, tool
    except subprocess.CalledProcessError:
        assert compression in KERNEL_LACKS


@pytest.mark.parametrize("block", [4 << 10, 128 << 10, 1 << 20])
def test_same_bytes_by_any_number_of_processors(
    tool: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for processors in (1, 3, 16, 512):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, count=processors: range(count))
        options = layers.Options(block_size=block)
        digests.add(sha256(converted([*EVERYTHING, MANY], tmp_path / "image", options=options)))
    assert len(digests) == 1, tool


@pytest.mark.needs("root")
@pytest.mark.parametrize("built", [EVERYTHING, [MANY], []])
def test_same_bytes_by_any_caller_at_any_time(tool: str, built: list[Layer], tmp_path: Path) -> None:
    ours = sha256(converted(built, tmp_path / "image"))
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.05)

    def theirs() -> str:
        folder = tmp_path / "theirs"
        folder.mkdir()
        os.chown(folder, 12_345, 54_321)
        os.chdir(folder)
        os.setegid(54_321)
        os.setgid(54_321)
        return sha256(converted(built, folder / "image"))

    assert forked(theirs) == ours, tool


def test_as_many_identities_as_fit(tool: str, tmp_path: Path) -> None:
    files = [file(f"{uid % 256}/{uid}", uid=uid) for uid in range(IDS_MAX)]
    made = converted([layer(files)], tmp_path / "image")
    assert struct.unpack_from("<H", made.read_bytes(), 26)[0] == IDS_MAX, tool
    with pytest.raises(ImageRefused, match="users and groups"):
        converted([layer(files), layer([file("more", uid=IDS_MAX)])], tmp_path / "image")
