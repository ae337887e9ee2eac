"""Decisions about mounts that need no mount."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import mounts
from stager.errors import InUse, MountFailed, MountUnavailable
from stager.interfaces import ImageInfo, Partition
from stager.mounts import fuse, fuse_setting, linux
from stager.mounts.erofs import ErofsMounter
from stager.mounts.fuse import FuseMounter, Served
from stager.mounts.fuse_setting import FuseSetting
from stager.mounts.loop import BLOCKS, LoopMounter, stretch

if TYPE_CHECKING:
    from pathlib import Path


def info(kind: str = "squashfs", compression: str = "gzip", offset: int = 0) -> ImageInfo:
    root = Partition(offset, 4096, kind, primary=True)
    return ImageInfo("sif" if offset else kind, offset + 4096, compression, root)


@pytest.mark.parametrize(
    ("mode", "kind", "privileged", "ways"),
    [
        ("auto", "squashfs", True, ["loop", "fuse"]),
        ("auto", "squashfs", False, ["fuse"]),
        ("auto", "erofs", True, ["erofs", "loop", "fuse"]),
        ("auto", "erofs", False, ["fuse"]),
        ("loop", "squashfs", False, ["loop", "fuse"]),
        ("loop", "erofs", True, ["erofs", "loop", "fuse"]),
        ("fuse", "squashfs", True, ["fuse"]),
        ("fuse", "erofs", True, ["fuse"]),
    ],
)
def test_the_order_of_ways(
    monkeypatch: pytest.MonkeyPatch, mode: mounts.Mode, kind: str, privileged: bool, ways: list[str]
) -> None:
    monkeypatch.setattr(linux, "privileged", lambda: privileged)
    assert [way.kind for way in mounts.order(mode, info(kind))] == ways


def test_every_kind_has_its_way_back() -> None:
    assert {kind: mounts.way_of(kind).kind for kind in ("loop", "erofs", "fuse")} == {
        k: k for k in ("loop", "erofs", "fuse")
    }
    with pytest.raises(ValueError, match="'nfs'"):
        mounts.way_of("nfs")


def test_unprivileged_users_learn_what_is_in_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "privileged", lambda: False)
    assert LoopMounter().obstacle(info()) == "loop devices need root"
    assert ErofsMounter().obstacle(info("erofs")) == "mounting EROFS needs root"


def test_kinds_that_nobody_mounts() -> None:
    assert LoopMounter().obstacle(info("ext3")) == "the kernel does not mount ext3 images"
    assert ErofsMounter().obstacle(info("squashfs")) == "a squashfs image is no EROFS"
    assert FuseMounter().obstacle(info("ext3")) == "no FUSE server for ext3 is known"


def test_kernels_without_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "privileged", lambda: True)
    monkeypatch.setattr(linux, "knows", lambda kind: False)
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    assert LoopMounter().obstacle(info()) == "this kernel has no squashfs"
    assert ErofsMounter().obstacle(info("erofs")) == "this kernel has no EROFS"


def test_nodes_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_setting, "RUNTIME_FOLDERS", ())
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    mounter = FuseMounter(setting=FuseSetting(str(tmp_path)))
    assert mounter.obstacle(info()) == "squashfuse_ll is not installed"
    assert mounter.obstacle(info("erofs")) == "erofsfuse is not installed"
    with pytest.raises(MountUnavailable, match="squashfuse_ll is not installed"):
        mounter.mount("/x", info(), "/y")


def test_the_best_server_is_taken_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "defpath", "")
    first, bundled = tmp_path / "first", tmp_path / "libexec"
    monkeypatch.setattr(fuse_setting, "RUNTIME_FOLDERS", (str(bundled),))
    for program in (first / "squashfuse", bundled / "squashfuse_ll"):
        program.parent.mkdir()
        program.touch(0o755)
    assert FuseSetting(str(first)).server("squashfs") == str(bundled / "squashfuse_ll")
    (bundled / "squashfuse_ll").chmod(0o644)
    assert FuseSetting(str(first)).server("squashfs") == str(first / "squashfuse")


def command(program: str, offset: int, *more: str, image: str = "/store/x.sif") -> list[str]:
    return Served(f"/usr/bin/{program}", image, 7, offset).command("/mnt", *more)


def test_the_command_of_squashfuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "privileged", lambda: False)
    options = "ro,nosuid,nodev,fsname=/store/x.sif,subtype=squashfuse_ll"
    assert command("squashfuse_ll", 0) == ["/usr/bin/squashfuse_ll", "-f", "-o", options, "/proc/self/fd/7", "/mnt"]
    assert command("squashfuse_ll", 4096)[3] == f"{options},offset=4096"
    assert command("squashfuse_ll", 0, "nonempty")[3] == f"{options},nonempty"


def test_the_command_of_erofsfuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "privileged", lambda: False)
    assert "--offset=4096" in command("erofsfuse", 4096)
    assert not [word for word in command("erofsfuse", 0) if "offset" in word]
    assert "offset" not in command("erofsfuse", 4096)[4]


def test_root_mounts_for_everybody_but_lets_modes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "privileged", lambda: True)
    assert command("squashfuse_ll", 0)[3].endswith(",allow_other,default_permissions")


@given(st.text("ab,\\ =", max_size=10))
def test_no_image_name_adds_an_option(name: str) -> None:
    options = command("squashfuse_ll", 0, image=f"/{name}")[3]
    found, word, escaped = [], "", False
    for character in options:  # as fuse_opt_parse of libfuse reads them
        if escaped or character not in ",\\":
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        else:
            found.append(word)
            word = ""
    found.append(word)
    assert found[:5] == ["ro", "nosuid", "nodev", f"fsname=/{name}", "subtype=squashfuse_ll"]


@given(
    kind=st.sampled_from(sorted(BLOCKS)),
    offset=st.integers(0, 9000),
    size=st.integers(1, 20000),
    more=st.integers(0, 9000),
)
def test_a_stretch_holds_the_whole_partition_or_is_refused(kind: str, offset: int, size: int, more: int) -> None:
    partition = Partition(offset, size, kind)
    end = offset + size + more
    unit = BLOCKS[kind]
    try:
        part = stretch(partition, end, "x")
    except MountUnavailable:
        assert offset + -(-size // unit) * unit > end, "it would have fitted"
    else:
        assert part.offset == offset
        assert part.size >= size
        assert part.size % unit == 0
        assert part.offset + part.size <= end


@pytest.mark.parametrize(
    ("number", "kind", "compression", "error", "why"),
    [
        (errno.EINVAL, "squashfs", "gzip", MountFailed, "the kernel refuses the squashfs: Invalid argument"),
        (errno.EINVAL, "squashfs", "zstd", MountUnavailable, "built without zstd"),
        (errno.EINVAL, "erofs", "lz4", MountFailed, "the kernel refuses the erofs"),
        (errno.EOPNOTSUPP, "erofs", "lzma", MountUnavailable, "built without lzma"),
        (errno.ENODEV, "squashfs", "gzip", MountUnavailable, "this kernel has no squashfs"),
        (errno.EPERM, "squashfs", "gzip", MountUnavailable, "forbidden here: Operation not permitted"),
        (errno.EIO, "squashfs", "zstd", MountFailed, "Input/output error"),
    ],
)
def test_what_a_refusal_means(number: int, kind: str, compression: str, error: type[Exception], why: str) -> None:
    refused = linux.refusal(OSError(number, os.strerror(number)), info(kind, compression))
    assert type(refused) is error
    assert why in str(refused)


def test_unmount_errors_tell_busy_from_the_rest() -> None:
    assert isinstance(linux.unmount_error("/x", "y", busy=True), InUse)
    assert str(linux.unmount_error("/x", "not allowed", busy=False)) == "/x cannot be unmounted: not allowed"


def test_a_settled_mountpoint_is_not_followed_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "point").symlink_to("/")
    assert linux.settled(f"{tmp_path}/link/./point") == f"{tmp_path.resolve()}/real/point"


def test_a_file_system_without_a_module_is_unknown() -> None:
    assert linux.knows("proc")
    listed = os.path.exists(f"/lib/modules/{os.uname().release}/modules.dep")
    assert linux.knows("no-such-file-system") is not listed


def test_status_fields() -> None:
    assert linux.status("Pid") == str(os.getpid())
    assert linux.status("NoSuchField") == ""


def test_nothing_lives_at_a_path_that_is_not_there(tmp_path: Path) -> None:
    assert not fuse.is_dead(str(tmp_path / "nowhere"))
    assert linux.mounted(str(tmp_path)) is None
