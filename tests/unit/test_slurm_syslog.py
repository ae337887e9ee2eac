from __future__ import annotations

import os
import re
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stager.schedulers.syslog import INFO, MAX_BYTES, WARNING, Syslog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RFC3164 = re.compile(rb"<(\d{1,3})>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d stage-image\[(\d+)\]: ([ -~]*)")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # sun_path has 108 bytes
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as log:
        log.bind("log")
        log.setblocking(False)
        yield log


def text_of(**fields: object) -> str:
    match = RFC3164.fullmatch(Syslog().packet(0.0, INFO, fields))
    assert match
    return match[3].decode()


def test_one_datagram(device: socket.socket) -> None:
    Syslog(device="log").line(job="20", image="https://h/x", action="stage", result="ok", seconds=1.25)
    match = RFC3164.fullmatch(device.recv(65536))
    assert match
    assert match.groups() == (
        b"30",
        str(os.getpid()).encode(),
        b"job=20 image=https://h/x action=stage result=ok seconds=1.250",
    )
    with pytest.raises(BlockingIOError):
        device.recv(1)


def test_severity() -> None:
    assert Syslog().packet(0.0, WARNING, {"job": "1"}).startswith(b"<28>")


def test_the_days_of_a_month_are_padded_with_a_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.localtime", time.gmtime)
    assert Syslog().packet(0.0, INFO, {"job": "1"})[4:19] == b"Jan  1 00:00:00"
    assert Syslog().packet(86400 * 364.5, INFO, {"job": "1"})[4:19] == b"Dec 31 12:00:00"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb\0c\x1b[2J\x7f", "a?b?c?[2J?"),
        ("\xe9\u2028\udcff\x85", "????"),
        ("two words", '"two words"'),
        ('a" job="9', "\"a' job='9\""),
        ("https://h/?job=9", '"https://h/?job=9"'),
        (7, "7"),
        (float("nan"), "nan"),
    ],
)
def test_values_cannot_become_lines_or_fields(value: object, shown: str) -> None:
    assert text_of(job="1", image=value, result="ok") == f"job=1 image={shown} result=ok"


def test_fields_without_a_value_are_left_out() -> None:
    assert text_of(job="1", image="", action=None, seconds=0.0, restart=0) == "job=1 seconds=0.000 restart=0"


def test_lines_have_their_limit() -> None:
    packet = Syslog().packet(0.0, INFO, {"job": "1", "image": "x" * 1_000_000})
    assert len(packet) == MAX_BYTES
    assert RFC3164.fullmatch(packet)


def test_without_a_log_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as other:
        other.bind("stream")
        other.listen()
        for device in ("absent", "file", ".", "stream", "x" * 200):
            Syslog(device=device).line(job="1")


def test_a_log_that_nobody_reads_holds_nobody_up(device: socket.socket) -> None:
    log = Syslog(device="log")
    for number in range(2000):  # more than net.unix.max_dgram_qlen, and than any receive buffer
        log.line(job=str(number), image="x" * 900)
    received = []
    while True:
        try:
            received.append(device.recv(65536))
        except BlockingIOError:
            break
    assert 0 < len(received) < 2000
    assert b"job=0 " in received[0]
