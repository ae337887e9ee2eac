from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from stager.errors import AccessDenied, NotFound, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.sources.file import PIECE, FileSource, FileStream, open_regular

if TYPE_CHECKING:
    from pathlib import Path

BODY = bytes(range(256)) * 16


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "x.sif"
    path.write_bytes(BODY)
    return path


def opened(path: Path, start: int = 0, end: int | None = None, *, if_range: Validators | None = None) -> FileStream:
    stream = FileSource(str(path)).open(start, end, if_range=if_range)
    assert stream is not None
    return stream


def read(stream: FileStream) -> bytes:
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


def test_whole_file(image: Path) -> None:
    stream = opened(image)
    status = image.stat()
    assert stream.validators == Validators("", f"{status.st_mtime_ns}:{status.st_ino}", len(BODY))
    assert (stream.offset, stream.size, stream.ranges) == (0, len(BODY), True)
    assert read(stream) == BODY


def test_pieces_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(2 * PIECE + 1))
    stream = opened(path)
    assert [len(chunk) for chunk in stream.chunks()] == [PIECE, PIECE, 1]
    stream.close()


@pytest.mark.parametrize(
    ("start", "end"), [(0, 10), (10, 20), (10, None), (len(BODY), None), (len(BODY) - 1, len(BODY) + 5), (0, 0)]
)
def test_parts(image: Path, start: int, end: int | None) -> None:
    stream = opened(image, start, end)
    assert (stream.offset, stream.size, read(stream)) == (start, len(BODY), BODY[start:end])


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    stream = opened(tmp_path / "empty")
    assert (stream.size, read(stream)) == (0, b"")


def test_start_behind_the_end_starts_over(image: Path) -> None:
    stream = opened(image, len(BODY) + 1)
    assert (stream.offset, read(stream)) == (0, BODY)


def test_going_on_with_the_same_version(image: Path) -> None:
    version = opened(image)
    version.close()
    stream = opened(image, 10, if_range=version.validators)
    assert (stream.offset, read(stream)) == (10, BODY[10:])


def rewrite(image: Path) -> None:
    image.write_bytes(BODY)
    os.utime(image, ns=(1, 1))


def replace(image: Path) -> None:
    other = image.with_suffix(".new")
    other.write_bytes(BODY)
    os.utime(other, ns=(image.stat().st_mtime_ns, image.stat().st_mtime_ns))
    other.rename(image)


@pytest.mark.parametrize("change", [rewrite, replace])
def test_another_version_starts_over(image: Path, change: object) -> None:
    before = opened(image)
    before.close()
    assert callable(change)
    change(image)
    stream = opened(image, 10, if_range=before.validators)
    assert (stream.offset, read(stream)) == (0, BODY)
    after = FileSource(str(image)).open(unless=before.validators)
    assert after is not None
    after.close()


def test_unchanged_leaves_no_descriptor(image: Path) -> None:
    before = opened(image)
    before.close()
    descriptors = os.listdir("/proc/self/fd")
    assert FileSource(str(image)).open(unless=before.validators) is None
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


@pytest.mark.parametrize("content", [b"short", BODY + b"more", BODY[::-1]])
def test_changed_while_being_copied(image: Path, content: bytes) -> None:
    stream = opened(image)
    image.write_bytes(content)
    os.utime(image, ns=(7, 7))  # times are coarse: two writes within a few milliseconds may carry the same
    with pytest.raises(OriginUnavailable, match="changed while being copied") as caught:
        read(stream)
    assert caught.value.retryable


def test_a_replaced_file_is_read_to_its_end(image: Path) -> None:
    stream = opened(image)
    other = image.with_suffix(".new")
    other.write_bytes(b"new")
    other.rename(image)
    assert read(stream) == BODY


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        FileSource(str(tmp_path / "none")).open()


@pytest.mark.parametrize("path", ["x.sif/below", "y" * 300, "nul\0byte"])
def test_impossible_paths(image: Path, path: str) -> None:
    with pytest.raises(NotFound):
        FileSource(str(image.parent / path)).open()


def test_symlinks_are_followed_but_not_in_circles(image: Path) -> None:
    (image.parent / "link").symlink_to(image)
    assert read(opened(image.parent / "link")) == BODY
    (image.parent / "loop").symlink_to("loop")
    with pytest.raises(NotFound, match="symbolic links"):
        FileSource(str(image.parent / "loop")).open()


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is a directory") as caught:
        FileSource(str(tmp_path)).open()
    assert "oci:DIR" in caught.value.hint


def test_who_forgot_docker_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot be found") as caught:
        FileSource(f"{tmp_path}/ubuntu:24.04").open()
    assert "docker://host/name:tag" in caught.value.hint
    with pytest.raises(NotFound, match="cannot be found") as caught:
        FileSource(f"{tmp_path}/tool.sif").open()
    assert "docker" not in caught.value.hint


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotFound, match="not a regular file"):
        FileSource(str(tmp_path / "fifo")).open()


def test_socket_and_device(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "s"))
        with pytest.raises(NotFound, match="not a regular file"):
            FileSource(str(tmp_path / "s")).open()
    with pytest.raises(NotFound, match="not a regular file"):
        FileSource("/dev/null").open()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.ESTALE, OriginUnavailable),
        (errno.EIO, OriginUnavailable),
        (errno.ENOENT, NotFound),
    ],
)
def test_errors_of_the_file_system(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StageImageError]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    stream = opened(image)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(kind) as caught:
            FileSource(str(image)).open()
    assert str(image) in caught.value.message
    assert os.strerror(number) in caught.value.message
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(kind):
            read(stream)


def test_closing_ends_it_and_leaves_no_descriptor(image: Path) -> None:
    before = os.listdir("/proc/self/fd")
    stream = opened(image)
    chunks = stream.chunks()
    stream.close()
    stream.close()
    with pytest.raises(OriginUnavailable, match="given up"):
        next(chunks)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_failures_leave_no_descriptor(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    os.mkfifo(image.parent / "fifo")
    real = os.stat
    # As if the file had become a FIFO between the look and the opening.
    monkeypatch.setattr(os, "stat", lambda path: real(image))
    with pytest.raises(NotFound):
        FileSource(str(image.parent / "fifo")).open()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_private_by_mode(image: Path, public_path: Path) -> None:
    shared = public_path / "x.sif"
    shared.write_bytes(BODY)
    for mode, private in ((0o644, False), (0o640, True), (0o600, True)):
        shared.chmod(mode)
        stream = opened(shared)
        stream.close()
        assert stream.private is private


def test_private_by_a_directory_above(public_path: Path) -> None:
    folder = public_path / "mine"
    folder.mkdir()
    image = folder / "x.sif"
    image.write_bytes(BODY)
    image.chmod(0o644)
    (public_path / "link").symlink_to(image)
    for mode, private in ((0o755, False), (0o711, False), (0o700, True)):
        folder.chmod(mode)
        for path in (image, public_path / "link"):
            stream = opened(path)
            stream.close()
            assert stream.private is private


def test_private_by_what_was_opened(public_path: Path) -> None:
    """Not by what the path means by then: who may exchange a link in it has shown two files."""
    secret, public, link = (public_path / name for name in ("secret", "public", "link"))
    for path, mode in ((secret, 0o600), (public, 0o644)):
        path.write_bytes(BODY)
        path.chmod(mode)
    link.symlink_to(secret)
    fd, status = open_regular(str(link))
    link.unlink()
    link.symlink_to(public)
    stream = FileStream(str(link), fd, 0, status.st_size)
    stream.close()
    assert stream.private


def test_private_by_where_it_is_by_then(public_path: Path) -> None:
    """A file that everybody may read, in a directory that is closed, is not made public by another of its name."""
    hidden, public, link = public_path / "hidden", public_path / "public", public_path / "link"
    hidden.mkdir(0o700)
    for path in (hidden / "x", public):
        path.write_bytes(BODY)
        path.chmod(0o644)
    link.symlink_to(hidden / "x")
    fd, status = open_regular(str(link))
    link.unlink()
    link.symlink_to(public)
    stream = FileStream(str(link), fd, 0, status.st_size)
    stream.close()
    assert stream.private
