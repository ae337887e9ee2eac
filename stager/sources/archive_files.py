"""The files of an image that lies on a file system, in a directory or in a tar archive."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Protocol

from stager.errors import DamagedImage, NotAnImage, NotFound
from stager.sources.archive_members import Member, follow, members
from stager.sources.file import FileStream, open_regular, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stager.interfaces import Stream, Validators


class Files(Protocol):
    """Files by their names in an image; used by several threads at once."""

    path: str
    """Of the directory or archive, for people."""

    def open(self, name: str, start: int = 0) -> Stream | None:
        """Return a file's bytes from `start` on, or None if there is no file of that name in the image.

        Raises NotFound if there is no image, AccessDenied, OriginUnavailable, NotAnImage, DamagedImage, ImageRefused.
        """


class Directory:
    """Files below a directory. Links in it are followed with the rights of whoever we are, as by any program."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self, name: str, start: int = 0) -> FileStream | None:
        """As Files.open; `name` is trusted."""
        place = os.path.join(self.path, name)
        try:
            fd, status = open_regular(place)
        except NotFound:
            if os.path.isdir(self.path) and not os.path.lexists(place):
                return None
            raise
        return FileStream(place, fd, min(start, status.st_size), status.st_size)


class Archive:
    """Files in an uncompressed tar archive, whose members are looked up once for each version of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._version: Validators | None = None
        self._members: Mapping[str, Member] = {}

    def open(self, name: str, start: int = 0) -> Section | None:
        """As Files.open."""
        fd, status = self._opened()
        try:
            member = follow(self._found(fd, status), name, self.path)
        except BaseException:
            os.close(fd)
            raise
        if member is None:
            os.close(fd)
            return None
        begin, stop = member.offset, member.offset + member.size
        return Section(FileStream(self.path, fd, begin + min(start, member.size), stop), begin, member.size)

    def _opened(self) -> tuple[int, os.stat_result]:
        if os.path.isdir(self.path):
            raise NotAnImage(f"{self.path} is a directory", hint=f"write oci:{self.path} if it is an OCI layout")
        return open_regular(self.path)

    def _found(self, fd: int, status: os.stat_result) -> Mapping[str, Member]:
        version = version_of(status)
        with self._lock:
            if self._version != version:
                self._members = members(lambda position, n: os.pread(fd, n, position), status.st_size, self.path)
                self._version = version
            return self._members


class Section:
    """A part of a file as a stream of its own."""

    ranges = True

    def __init__(self, whole: FileStream, begin: int, size: int) -> None:
        self._whole = whole
        self.offset = whole.offset - begin
        self.size = size
        self.validators = whole.validators
        self.private = whole.private

    def chunks(self) -> Iterator[bytes]:
        return self._whole.chunks()

    def close(self) -> None:
        self._whole.close()


def whole(stream: Stream, limit: int, what: str) -> bytes:
    """Return all of a stream, and close it. Raises DamagedImage if it is longer than `limit` bytes."""
    parts, length = [], 0
    try:
        for piece in stream.chunks():
            parts.append(piece)
            length += len(piece)
            if length > limit:
                raise DamagedImage(f"{what} is longer than {limit} bytes")
    finally:
        stream.close()
    return b"".join(parts)
