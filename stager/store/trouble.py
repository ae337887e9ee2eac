"""The operating system's refusals to read and write a store, as errors of ours."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stager.errors import NoSpace, StageImageError, StoreUnusable
from stager.store.room import free_bytes, show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
"""What a file system, a quota or a limit says; any other error number is rather a bug of ours."""


def as_error(error: OSError, root: str) -> StageImageError:
    """Return what to tell of an OSError met in the store at `root`."""
    reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    if error.errno in FULL:
        return NoSpace(f"the store {root} is full: {reason}; {show_bytes(_free(root))} are free")
    return StoreUnusable(f"the store {root} cannot be used: {reason}")


@contextmanager
def storage_errors(root: str) -> Iterator[None]:
    """Raise StoreUnusable or NoSpace for an OSError."""
    try:
        yield
    except OSError as error:
        raise as_error(error, root) from error


def _free(root: str) -> int:
    try:
        return free_bytes(root)
    except OSError:
        return 0
