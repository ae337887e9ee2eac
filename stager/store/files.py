"""Writing that survives a crash at any instruction, in directories that somebody else may have tampered with."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_RECORD = 1 << 20
"""Bytes read of any file that is not an image: a sidecar has some hundred, a hostile one must not fill memory."""

_serial = 0


def unique() -> str:
    """Return a name part that no other process or call uses: pid.start.boot.random."""
    from stager.process import current

    return f"{current()}.{os.urandom(6).hex()}"


def read_record(path: str) -> dict[str, str] | None:
    """Return the `key value` lines of a record, or None if there is no readable regular file of ours or root's."""
    text = read_text(path)
    if text is None:
        return None
    pairs = (line.partition(" ") for line in text.split("\n"))
    return {key: _unescaped(value) for key, _, value in pairs if key}


def write_record(path: str, record: dict[str, str], mode: int = 0o644, *, durable: bool = False) -> None:
    """Write `key value` lines to `path`, whole or not at all."""
    write_text(path, record_text(record), mode, durable=durable)


def record_text(record: dict[str, str]) -> str:
    """Return the text that `read_record` reads back."""
    escaped = ((key, value.replace("\\", "\\\\").replace("\n", "\\n")) for key, value in record.items())
    return "".join(f"{key} {value}\n" for key, value in escaped)


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    return "\\".join(part.replace("\\n", "\n") for part in value.split("\\\\"))


def whole_number(text: str | None) -> int:
    """Return the number that a record's text means; 0 for anything that is no sensible number."""
    return int(text) if text and len(text) < 19 and text.isascii() and text.isdigit() else 0


def read_text(path: str) -> str | None:
    """Return the text of a regular file that belongs to us or root, or None. No link is followed at its name."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not (stat.S_ISREG(status.st_mode) and is_trusted(status)):
            return None
        return os.read(fd, LARGEST_RECORD).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    finally:
        os.close(fd)


def is_trusted(status: os.stat_result) -> bool:
    """Whether a file's owner is us or root, and nobody else may write it."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022


def write_text(path: str, text: str, mode: int = 0o644, *, durable: bool = False) -> None:
    """Write a file aside and rename it to `path`, in a directory made when missing.

    Without `durable` a power loss may leave an empty file, which reads as no record: for what can be had again.
    """
    aside = write_aside(path, text, mode, durable=durable)
    os.replace(aside, path)
    if durable:
        sync_directory(os.path.dirname(path))


def create_text(path: str, text: str, mode: int = 0o644) -> bool:
    """Write a file to `path` unless there is one; tell whether it was us. The first of many wins, with a whole file."""
    aside = write_aside(path, text, mode)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(aside)
    return True


def write_aside(path: str, text: str, mode: int, *, durable: bool = False) -> str:
    """Write `text` to a new file beside `path`, hidden by a leading dot; return its name."""
    global _serial
    _serial += 1
    folder, name = os.path.split(path)
    aside = f"{folder}/.{name[:100]}.{os.getpid()}.{_serial}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(aside, flags, mode)
    except FileNotFoundError:
        make_folders(folder)
        fd = os.open(aside, flags, mode)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            if durable:
                os.fsync(fd)
    except OSError:
        discard(aside)
        raise
    return aside


def make_folders(path: str) -> None:
    """Make a directory and its parents, never writable by others whatever the umask (os.makedirs uses 0777)."""
    if os.path.isdir(path):
        return
    make_folders(os.path.dirname(path))
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return


def drop_cached(path: str) -> None:
    """Let the kernel forget a file's pages, which a download or a hash left in memory.

    With direct I/O below the mount nobody reads them again: the mount has its own cache, so each byte would be held
    twice (measured on 6.18: 2.0 times the image against 1.0).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def discard(path: str) -> None:
    """Remove a file, if it is there and may be removed."""
    try:
        os.unlink(path)
    except OSError:
        return


def discard_tree(path: str) -> None:
    """Remove a directory tree, or whatever else is at `path`, without following links; what cannot be removed stays."""
    if not is_folder(path):
        discard(path)
    elif not _discard_flat(path):
        import shutil  # 3 ms of CPU, with all the ways to compress

        shutil.rmtree(path, ignore_errors=True)


def _discard_flat(folder: str) -> bool:
    """Remove a directory that holds files only, as far as it goes; whether it is gone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(folder)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def is_folder(path: str) -> bool:
    """Whether there is a directory at `path`, itself and not by a link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def names(folder: str) -> list[str]:
    """Return the sorted names in a directory that are not hidden; none if it is a link or cannot be read."""
    return [name for name in _all_names(folder) if not name.startswith(".")]


def hidden_names(folder: str) -> list[str]:
    """Return the names in a directory that are hidden: what is being written aside, or was."""
    return [name for name in _all_names(folder) if name.startswith(".")]


def _all_names(folder: str) -> list[str]:
    # A walk that came through a link, and removes what it finds, removes somebody else's files.
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def walk_pairs(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (directory name, entry name) for the two-level tree below `folder`."""
    for parent in names(folder):
        for child in names(f"{folder}/{parent}"):
            yield parent, child
