from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest

from stager.errors import NoSpace, NotFound, StoreUnusable
from stager.store.trouble import REFUSED, as_error, storage_errors

if TYPE_CHECKING:
    from pathlib import Path

SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@pytest.mark.parametrize("number", {*REFUSED, *SPACE})
def test_a_refusal_names_store_file_and_reason(tmp_path: Path, number: int) -> None:
    error = as_error(OSError(number, os.strerror(number), "/s/data"), str(tmp_path))
    assert type(error) is (NoSpace if number in SPACE else StoreUnusable)
    assert error.message.startswith(f"the store {tmp_path} ")
    assert f"{os.strerror(number)} (/s/data)" in error.message


def test_a_full_store_says_what_is_free(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert re.search(r"; [0-9.]+ [A-Z]?i?B are free$", as_error(full, str(tmp_path)).message)
    assert as_error(full, str(tmp_path / "none")).message.endswith("; 0 B are free")


def test_an_error_without_words_or_file(tmp_path: Path) -> None:
    assert as_error(OSError("odd"), str(tmp_path)).message == f"the store {tmp_path} cannot be used: odd"


def test_only_errors_of_the_system_become_ours(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable) as caught, storage_errors(str(tmp_path)):
        (tmp_path / "none").read_text()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    for other in (NotFound("no such image"), KeyError("a bug"), KeyboardInterrupt()):
        with pytest.raises(type(other)), storage_errors(str(tmp_path)):
            raise other
    with storage_errors(str(tmp_path)):
        pass
