from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kazoo.security import make_digest_acl_credential

from stager.election import credentials
from stager.election.credentials import MAX_FILE, Credentials, refusal
from stager.errors import ConfigError
from tests.support.effort import effort
from tests.support.within import within

if TYPE_CHECKING:
    from pathlib import Path

printable = st.characters(min_codepoint=33, max_codepoint=126)
users = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=64)
passwords = st.text(printable, min_size=1, max_size=256)


def written(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "credentials"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("content", [b"node:secret\n", b"node:secret"])
def test_one_line(tmp_path: Path, content: bytes) -> None:
    assert credentials.read(written(tmp_path, content)) == Credentials("node", "secret")


def test_colons_belong_to_the_password(tmp_path: Path) -> None:
    assert credentials.read(written(tmp_path, b"node:a:b\n")) == Credentials("node", "a:b")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"node", b":secret", b"node:", b"node:secret\nmore:lines\n", b"node:secret\n\n", b"no de:secret"),
        *(b"node:se cret", b"node:\xc3\xa4", b"node:sec\0ret", b"node:secret\r\n", b"n:" + b"x" * 2 * MAX_FILE),
    ],
)
def test_anything_else_is_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="does not hold one line") as caught:
        credentials.read(written(tmp_path, content))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o601, 0o660, 0o777])
def test_nobody_else_may_read_or_write(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"is open to others \\(mode 0{mode:o}\\)"):
        credentials.read(written(tmp_path, b"node:secret", mode))


@pytest.mark.parametrize(
    ("owner", "mode", "euid", "reason"),
    [
        (0, 0o600, 0, ""),
        (0, 0o640, 0, ""),
        (0, 0o640, 1000, ""),
        (0, 0o644, 1000, "is open to others (mode 0644)"),
        (0, 0o660, 1000, "is open to others (mode 0660)"),
        (1000, 0o600, 1000, ""),
        (1000, 0o400, 1000, ""),
        (1000, 0o640, 1000, "is open to others (mode 0640)"),
        (1000, 0o600, 0, "belongs to another user (uid 1000)"),
        (1001, 0o600, 1000, "belongs to another user (uid 1001)"),
    ],
)
def test_whose_file_is_believed(owner: int, mode: int, euid: int, reason: str) -> None:
    status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    assert refusal(status, euid) == reason


def test_only_a_file_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "link").symlink_to(written(tmp_path, b"node:secret"))
    for name, reason in [
        ("fifo", "is not a regular file"),
        (".", "is not a regular file"),
        ("link", "cannot be read: it is a symbolic link"),
        ("missing", "cannot be read: No such file"),
    ]:
        with within(10), pytest.raises(ConfigError, match=reason):
            credentials.read(str(tmp_path / name))


@effort(40)
@given(user=users, password=passwords)
def test_the_identity_is_the_one_that_zookeeper_knows(user: str, password: str) -> None:
    assert Credentials(user, password).identity == make_digest_acl_credential(user, password)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("node", "secret"))


@effort(40)
@given(record=st.binary(max_size=50), path=st.text(max_size=10), other=st.text(max_size=10), bit=st.integers(0, 400))
def test_seals_hold_for_one_record_path_and_password(record: bytes, path: str, other: str, bit: int) -> None:
    ours = Credentials("node", "secret")
    sealed = ours.seal(path, record)
    assert ours.unseal(path, sealed) == record
    assert (ours.unseal(other, sealed) is None) == (path != other)
    assert Credentials("node", "guess").unseal(path, sealed) is None
    assert ours.unseal(path, sealed[:31]) is None
    changed = bytearray(sealed)
    changed[bit // 8 % len(sealed)] ^= 1 << bit % 8
    assert ours.unseal(path, bytes(changed)) is None
