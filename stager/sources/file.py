"""Images from a file system, usually one that nodes share."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from stager.errors import AccessDenied, NotFound, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.sources.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20
"""Bytes a read: the most that Stream.chunks may yield, and a multiple of what parallel file systems stripe by."""

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_DIRECTORY = "name the image file; an OCI layout is written oci:DIR, and sandbox directories cannot be staged"
_NAME = "check the path; an image in a registry is written docker://host/name:tag"
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


class FileSource:
    """One file. Every `open` has a descriptor of its own, so that several threads may do it at a time."""

    def __init__(self, path: str) -> None:
        self.name = path

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> FileStream | None:
        """As Source.open."""
        fd, status = open_regular(self.name)
        version = version_of(status)
        if unless and unless == version:
            os.close(fd)
            return None
        same = not if_range or (if_range.etag, if_range.modified) == (version.etag, version.modified)
        offset = start if same and start <= status.st_size else 0
        stop = status.st_size if end is None else min(end, status.st_size)
        return FileStream(self.name, fd, offset, stop)


def version_of(status: os.stat_result) -> Validators:
    """Return what tells versions of a file apart: rewriting changes its time, replacing changes the inode."""
    return Validators(modified=f"{status.st_mtime_ns}:{status.st_ino}", size=status.st_size)


class FileStream:
    """The bytes [offset, stop) of an open file, whose descriptor it owns."""

    ranges = True

    def __init__(self, path: str, fd: int, offset: int, stop: int) -> None:
        self._path = path
        self._fd = fd
        self._stop = stop
        self._closing = Closing(lambda: os.close(fd))
        status = os.fstat(fd)
        self.validators = version_of(status)
        self.offset = offset
        self.size = self.validators.size
        self.private = not _is_public(path, status)

    def chunks(self) -> Iterator[bytes]:
        """As Stream.chunks; also raises OriginUnavailable if the file was written to in the meantime."""
        position = self.offset
        while position < self._stop:
            piece = self._read(position, min(PIECE, self._stop - position))
            position += len(piece)
            yield piece

    def close(self) -> None:
        self._closing.close()

    def _read(self, position: int, length: int) -> bytes:
        with self._closing.reading() as is_open:
            if not is_open:
                raise OriginUnavailable(f"the copy of {self._path} was given up")
            try:
                piece = os.pread(self._fd, length, position)
                # After the last byte, and not before: no later change can matter.
                is_last = not piece or position + len(piece) >= self._stop
                changed = is_last and version_of(os.fstat(self._fd)) != self.validators
            except OSError as error:
                raise _failure(self._path, error) from error
        if changed or not piece:
            raise OriginUnavailable(
                f"{self._path} changed while being copied",
                hint="wait until whoever writes it is done; writing aside and renaming avoids this",
            )
        return piece


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading that is no device, FIFO or socket. Raises NotFound, AccessDenied, OriginUnavailable."""
    try:
        # Looked at before it is opened: opening a device may do something (rewind a tape).
        _require_regular(path, os.stat(path).st_mode)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _failure(path, error) from error
    try:
        status = os.fstat(fd)
        _require_regular(path, status.st_mode)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _require_regular(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise NotFound(f"{path} is a directory", hint=_DIRECTORY)
    if not stat.S_ISREG(mode):
        raise NotFound(f"{path} is not a regular file")


def _failure(path: str, error: OSError | ValueError) -> StageImageError:
    number = error.errno if isinstance(error, OSError) else errno.ENOENT
    reason = os.strerror(number or 0)
    if number in _ABSENT:
        hint = _NAME if ":" in path.rpartition("/")[2] else ""
        return NotFound(f"{path} cannot be found: {reason}", hint=hint)
    if number in _FORBIDDEN:
        return AccessDenied(f"{path} cannot be read: {reason}", hint="ask the image's owner for read permission")
    return OriginUnavailable(f"{path} cannot be read: {reason}")


def _is_public(path: str, opened: os.stat_result) -> bool:
    """Whether every user may read the file that was opened, going by modes: its own, and those above it.

    What the path leads to by now may be another file: who may exchange a link in it may choose the moment.
    """
    try:
        real = os.path.realpath(path)
        above = real
        while (above := os.path.dirname(above)) != "/":
            if not os.stat(above).st_mode & stat.S_IXOTH:
                return False
        return bool(opened.st_mode & stat.S_IROTH) and os.path.samestat(os.stat(real), opened)
    except OSError:
        return False
