"""Images as real tools make them, and the kernel as the judge of what is an image."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from stager.errors import DamagedImage
from stager.images import recognise
from stager.interfaces import ImageInfo
from tests.support import image_factory as factory

if TYPE_CHECKING:
    from pathlib import Path


def recognised(path: Path) -> ImageInfo:
    with path.open("rb") as file:
        return recognise(file.fileno(), os.fstat(file.fileno()).st_size)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.small_tree(tmp_path_factory.mktemp("images") / "tree")


def mounts(path: Path, kind: str, *, offset: int = 0, size: int = 0) -> bool:
    """Whether the kernel mounts a loop device over `path`. The mount namespace takes both along when it ends.

    Sizes are rounded up to 4096 bytes: squashfs reads whole device blocks of 1 or 4 KiB, past its end if need be.
    """
    padded = path.with_suffix(".padded")
    shutil.copy(path, padded)
    os.truncate(padded, -(-path.stat().st_size // 4096) * 4096)
    mountpoint = path.parent / "mountpoint"
    mountpoint.mkdir(exist_ok=True)
    options = f"loop,ro,offset={offset}" + (f",sizelimit={-(-size // 4096) * 4096}" if size else "")
    script = 'mount -t "$0" -o "$1" "$2" "$3" && ls -lR "$3" && umount "$3"'
    command = ["unshare", "--mount", "sh", "-c", script, kind, options, str(padded), str(mountpoint)]
    return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0


@pytest.mark.needs("mksquashfs")
@pytest.mark.parametrize("name", ["gzip", "lzma", "lzo", "xz", "lz4", "zstd"])
def test_every_compression_of_mksquashfs_is_told(name: str, tree: Path, tmp_path: Path) -> None:
    path = factory.squashfs(tmp_path / "image", tree, name)
    assert recognised(path).format == "squashfs"
    assert recognised(path).compression == name


@pytest.mark.needs("mksquashfs")
@pytest.mark.parametrize(
    "options",
    [
        ("-nopad",), ("-b", "4K"), ("-b", "1M"), ("-no-fragments",), ("-always-use-fragments",), ("-no-exports",),
        ("-no-xattrs",), ("-noI", "-noD", "-noF", "-noX"), ("-no-duplicates", "-exports"),
    ],
)  # fmt: skip
def test_no_option_of_mksquashfs_makes_something_damaged(options: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    assert recognised(factory.squashfs(tmp_path / "image", tree, "gzip", *options)).compression == "gzip"


@pytest.mark.needs("mksquashfs")
def test_an_empty_tree_and_extended_attributes_are_images_too(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert recognised(factory.squashfs(tmp_path / "image", empty)).format == "squashfs"
    os.setxattr(empty, "user.note", b"here")
    assert recognised(factory.squashfs(tmp_path / "image2", empty)).format == "squashfs"


@pytest.mark.needs("mksquashfs")
def test_every_real_squashfs_that_is_cut_short_is_damaged(tree: Path, tmp_path: Path) -> None:
    whole = factory.squashfs(tmp_path / "image", tree, "zstd", "-nopad").read_bytes()
    for length in (*range(4, 200), *range(200, len(whole), 97), len(whole) - 1):
        with pytest.raises(DamagedImage, match="truncated"):
            factory.recognised(whole[:length])


@pytest.mark.needs("mkfs.erofs")
@pytest.mark.parametrize(
    ("options", "compression"),
    [
        ((), "none"),
        (("-zlz4",), "lz4"),
        (("-zlz4hc,9",), "lz4"),
        (("-zlz4", "-C65536"), "lz4"),
        (("-Eztailpacking", "-zlz4"), "lz4"),
    ],
)
def test_what_mkfs_erofs_makes_is_told(options: tuple[str, ...], compression: str, tree: Path, tmp_path: Path) -> None:
    path = factory.erofs(tmp_path / "image", tree, *options)
    info = recognised(path)
    assert (info.format, info.compression, info.size) == ("erofs", compression, path.stat().st_size)


@pytest.mark.needs("mkfs.erofs")
def test_every_real_erofs_that_is_cut_short_is_damaged(tree: Path, tmp_path: Path) -> None:
    whole = factory.erofs(tmp_path / "image", tree, "-zlz4").read_bytes()
    for length in (*range(1028, 1200), *range(1200, len(whole), 97), len(whole) - 1):
        with pytest.raises(DamagedImage, match="truncated"):
            factory.recognised(whole[:length])


@pytest.mark.needs("mkfs.erofs")
def test_an_erofs_with_its_data_elsewhere_is_incomplete(tree: Path, tmp_path: Path) -> None:
    path = factory.erofs(tmp_path / "image", tree, "--chunksize=4096", f"--blobdev={tmp_path / 'blob'}")
    with pytest.raises(DamagedImage, match="keeps data in 1 other files"):
        recognised(path)


@pytest.mark.needs("mksquashfs", "siftool")
@pytest.mark.parametrize("arch", ["386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "s390x", "riscv64"])
def test_a_sif_of_siftool_tells_what_siftool_tells(arch: str, tree: Path, tmp_path: Path) -> None:
    inner = factory.squashfs(tmp_path / "inner", tree, "zstd")
    info = recognised(factory.sif(tmp_path / "image", inner, arch))
    assert (info.format, info.compression, info.arch) == ("sif", "zstd", arch)
    assert (info.root.size, info.root.kind, info.root.primary) == (inner.stat().st_size, "squashfs", True)
    with (tmp_path / "image").open("rb") as file:
        assert os.pread(file.fileno(), info.root.size, info.root.offset) == inner.read_bytes()


@pytest.mark.needs("mksquashfs", "mkfs.erofs", "siftool")
def test_the_root_is_found_among_partitions(tree: Path, tmp_path: Path) -> None:
    squashfs, erofs = factory.squashfs(tmp_path / "a", tree, "xz"), factory.erofs(tmp_path / "b", tree)
    path = factory.sif(tmp_path / "image", squashfs, parttype=3)
    with pytest.raises(DamagedImage, match="no primary system partition"):
        recognised(path)
    factory.add_to_sif(path, erofs, fstype=4)
    info = recognised(path)
    assert [(p.kind, p.primary) for p in info.partitions] == [("squashfs", False), ("erofs", True)]
    assert (info.root, info.compression) == (info.partitions[1], "none")


@pytest.mark.needs("mksquashfs", "siftool")
def test_a_partition_deleted_by_siftool_is_gone(tree: Path, tmp_path: Path) -> None:
    inner = factory.squashfs(tmp_path / "inner", tree)
    path = factory.add_to_sif(factory.sif(tmp_path / "image", inner, parttype=3), inner)
    subprocess.run(["siftool", "del", "1", str(path)], check=True, timeout=30)
    assert len(recognised(path).partitions) == 1
    subprocess.run(["siftool", "del", "2", str(path)], check=True, timeout=30)
    with pytest.raises(DamagedImage, match="no primary system partition"):
        recognised(path)


@pytest.mark.needs("mksquashfs", "siftool")
def test_every_real_sif_that_is_cut_short_is_damaged(tree: Path, tmp_path: Path) -> None:
    whole = factory.sif(tmp_path / "image", factory.squashfs(tmp_path / "inner", tree)).read_bytes()
    for length in (*range(42, 130), *range(130, len(whole), 211), len(whole) - 1):
        with pytest.raises(DamagedImage, match="truncated"):
            factory.recognised(whole[:length])


@pytest.mark.needs("mksquashfs", "siftool")
def test_a_file_system_of_siftools_ext3_kind_is_refused(tree: Path, tmp_path: Path) -> None:
    inner = factory.squashfs(tmp_path / "inner", tree)
    with pytest.raises(DamagedImage, match="ext3"):
        recognised(factory.sif(tmp_path / "image", inner, fstype=2))


@pytest.mark.needs("siftool")
def test_siftool_reads_the_minimal_sif(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(factory.minimal_sif(partarch=b"04"))
    listed = subprocess.run(["siftool", "list", str(path)], check=True, capture_output=True, text=True, timeout=30)
    assert "4096-4246" in listed.stdout
    assert "FS (Squashfs/*System/arm64)" in listed.stdout


@pytest.mark.needs("loop", "erofs")
@pytest.mark.parametrize("payload", [b"", b"x" * 5000])
def test_the_kernel_mounts_the_minimal_images(payload: bytes, tmp_path: Path) -> None:
    for kind, content in (("squashfs", factory.minimal_squashfs(payload)), ("erofs", factory.minimal_erofs(payload))):
        path = tmp_path / kind
        path.write_bytes(content)
        assert mounts(path, kind)
        path.write_bytes(factory.minimal_sif(content))
        root = recognised(path).root
        assert root.kind == kind
        assert mounts(path, kind, offset=root.offset, size=root.size)


FIELDS: dict[str, tuple[int, str, list[int] | list[tuple[int, int]]]] = {
    "block_size": (12, "<I", [0, 2048, 8192, 131072, 1 << 20, 1 << 21]),
    "compression": (20, "<H", [0, 1, 7, 65535]),
    "block_log": (22, "<H", [0, 16, 17, 18, 65535]),
    "version": (28, "<HH", [(3, 1), (4, 0), (4, 1), (5, 0)]),
    "bytes_used": (40, "<Q", [0, 95, 149, 150, 5000, 1 << 62, 1 << 63]),
    "id_table": (48, "<Q", [0, 95, 142, 150, 5000, 2**64 - 1]),
    "xattr_table": (56, "<Q", [0, 95, 142, 150, 5000, 2**64 - 1]),
    "inode_table": (64, "<Q", [0, 96, 130, 140, 5000, 2**64 - 1]),
    "directory_table": (72, "<Q", [0, 95, 96, 130, 140, 5000, 2**64 - 1]),
    "fragment_table": (80, "<Q", [0, 95, 150, 5000, 2**64 - 1]),
    "export_table": (88, "<Q", [0, 95, 150, 5000, 2**64 - 1]),
}


@pytest.mark.needs("loop")
@pytest.mark.parametrize("field", FIELDS)
def test_nothing_that_the_kernel_mounts_is_refused(field: str, tmp_path: Path) -> None:
    offset, form, values = FIELDS[field]
    path, mounted = tmp_path / "image", 0
    for value in values:
        image = bytearray(factory.minimal_squashfs())
        struct.pack_into(form, image, offset, *(value if isinstance(value, tuple) else (value,)))
        path.write_bytes(image)
        if mounts(path, "squashfs"):
            mounted += 1
            assert recognised(path).format == "squashfs", value
    assert mounted, "the kernel mounts at least the unchanged image"
