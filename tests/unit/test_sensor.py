"""What a load sensor says, to the byte, and its conversation: whoever talks to it, and whatever it looks at."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

import pytest

from stager.schedulers import sensor
from stager.schedulers.sensor_loop import Bounded, serve

if TYPE_CHECKING:
    from collections.abc import Callable

ITEM = "tool.sif@0123456789ab"


def test_a_report_to_the_byte() -> None:
    assert sensor.report("n1.example.org", [ITEM, "a@1"], free=12345, busy=2) == (
        "begin\n"
        f"n1.example.org:stage_images:;{ITEM};a@1;\n"
        + "".join(f"n1.example.org:stage_images{number}:none\n" for number in range(2, 9))
        + "n1.example.org:stage_images_cut:0\n"
        "n1.example.org:stage_free:12345\n"
        "n1.example.org:stage_busy:2\n"
        "end\n"
    )


def test_without_images_there_is_a_word() -> None:
    assert sensor.values([]) == (["none"] * 8, False)  # an empty value would make execd drop the line


def test_a_value_is_full_at_900_bytes() -> None:
    items = [f"{number:02}" + "n" * 87 for number in range(10)]  # 90 bytes each with its delimiter, and one before
    first, second = sensor.values(items)[0][:2]
    assert (len(first), first.count(";"), second) == (811, 10, f";{items[9]};")
    items[0] = items[0][:-1]
    assert len(sensor.values(items)[0][0]) == 900


def test_what_does_not_fit_is_told_of() -> None:
    items = [f"{number:03}" + "n" * 895 for number in range(9)]
    values, is_cut = sensor.values(items)
    assert (values, is_cut) == ([f";{item};" for item in items[:8]], True)
    assert sensor.values(items[:8]) == (values, False)
    assert sensor.named_values(items)["stage_images_cut"] == "1"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("n1.example.org", "n1.example.org"),
        ("n1", "n1"),
        ("", "node"),
        ("a:b", "node"),
        ("a\nb", "node"),
        ("n\xe9", "node"),
        ("n" * 256, "node"),
    ],
)
def test_the_host_is_what_execd_calls_it(told: str, name: str) -> None:
    assert sensor.host_name({"HOST": told}, "node") == name
    assert sensor.host_name({}, "node") == "node"


def talk(text: bytes, answer: Callable[[], str] = lambda: "begin\nend\n") -> bytes:
    """Return what `serve` says to all of a text."""
    ask, hear = os.pipe(), os.pipe()
    os.write(ask[1], text)
    os.close(ask[1])
    try:
        serve(answer, ask[0], hear[1])
        os.close(hear[1])
        return os.read(hear[0], 1 << 16)
    finally:
        os.close(ask[0])
        os.close(hear[0])


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"\n\n\n", 3),
        (b"quit\n", 0),
        (b"\nquit\n\n", 1),
        (b" quit \n\n", 0),
        (b"quiet\n", 1),
        (b"\0\xff\n", 1),
        (b"no end of line", 0),
        (b"x" * 10000 + b"\n\n", 2),
    ],
)
def test_each_line_is_answered_until_quit(text: bytes, answers: int) -> None:
    assert talk(text) == b"begin\nend\n" * answers


def test_a_line_may_come_in_pieces() -> None:
    ask, hear = os.pipe(), os.pipe()

    def send() -> None:
        for piece in (b"q", b"uit", b" not\n", b"qui", b"t\n", b"\n"):
            os.write(ask[1], piece)
            while select.select([ask[0]], [], [], 0)[0]:
                time.sleep(0.001)
        os.close(ask[1])

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    serve(lambda: "x", ask[0], hear[1])
    os.close(hear[1])
    assert os.read(hear[0], 100) == b"x"
    os.close(hear[0])
    os.read(ask[0], 100)
    sender.join(10)
    os.close(ask[0])


def test_words_beyond_ascii_are_not_sent() -> None:
    assert talk(b"\n", lambda: "\xe4\udcff\n") == b"??\n"


def test_nobody_who_listens_is_no_end() -> None:
    asked = iter("ab")
    ask, hear = os.pipe(), os.pipe()
    os.close(hear[0])
    os.write(ask[1], b"\n\n")
    os.close(ask[1])
    serve(lambda: next(asked), ask[0], hear[1])
    os.close(ask[0])
    os.close(hear[1])
    assert list(asked) == []


def test_what_is_bounded_answers_or_not() -> None:
    assert Bounded(lambda: 7, 10).ask() == 7

    def fail() -> int:
        raise OSError(5, "Input/output error")

    failing = Bounded(fail, 10)
    assert (failing.ask(), failing.ask()) == (None, None)


def test_what_is_stuck_is_not_waited_for_twice_and_comes_back() -> None:
    go, stuck = threading.Event(), threading.Event()

    def action() -> int:
        stuck.set()
        go.wait(10)
        return 7

    bounded = Bounded(action, 0.01)
    assert bounded.ask() is None
    assert stuck.wait(10)
    assert not bounded.start()
    go.set()
    slow = Bounded(lambda: 8, 10)
    assert slow.ask() == 8
    while (answer := bounded.ask()) is None:
        pass
    assert answer == 7
