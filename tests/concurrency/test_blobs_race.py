"""Many processes and one layer: one fetches it, whoever dies or stops holds nobody up, who holds it keeps it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest

from stager.reference import Digest
from stager.store import folder
from stager.store.blobs import Blobs
from tests.support.within import within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.store.blob_hold import Hold

ROOT = Path(__file__).parents[2]
CROWD = 6
CONTENT = bytes(range(256)) * 256
SIZE = len(CONTENT)
DIGEST = Digest(sha256(CONTENT).hexdigest())

PROGRAM = """
import sys
from stager.layout import Layout
from stager.reference import Digest
from stager.store.blobs import Blobs

root, digest, size = sys.argv[1], Digest(sys.argv[2]), int(sys.argv[3])
content, blobs, copy, hold = bytes(range(256)) * 256, Blobs(Layout(root)), None, None
print("up", flush=True)
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word in ("claim", "aside"):
        copy = blobs.claim(digest, size, aside=word == "aside")
        answer = "busy" if copy is None else copy.held
    elif word == "append":
        copy.append(content[copy.held : copy.held + int(number)])
        answer = copy.held
    elif word == "commit":
        hold, answer = copy.commit(), "whole"
    elif word == "hold":
        hold = blobs.hold(digest, size)
        answer = "none" if hold is None else "held"
    elif word == "fetch":
        fetched = 0
        while (hold := blobs.hold(digest, size)) is None:
            if (copy := blobs.claim(digest, size)) is not None:
                with copy:
                    while not copy.complete:
                        piece = content[copy.held : copy.held + 4096]
                        copy.append(piece)
                        fetched += len(piece)
                    copy.commit().close()
        answer = fetched
    print(answer, flush=True)
"""


class Player:
    """A process that does what it is told, one word at a time."""

    def __init__(self, root: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, root, str(DIGEST), str(SIZE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.hear() == "up"

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, word: str) -> str:
        self.say(word)
        return self.hear()

    def stop(self) -> None:
        """Stop it, and see that it has."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(autouse=True)
def _bound() -> Iterator[None]:
    with within(30):
        yield


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(folder.open_store(str(tmp_path / "store")))


@pytest.fixture
def players(blobs: Blobs) -> Iterator[list[Player]]:
    with ExitStack() as stack:
        made: list[Player] = []
        for _ in range(CROWD):
            made.append(Player(blobs.layout.root))
            stack.callback(made[-1].end)
        yield made


def test_one_of_a_crowd_fills_it(players: list[Player]) -> None:
    for player in players:
        player.say("claim")
    assert sorted(player.hear() for player in players) == ["0", *["busy"] * (CROWD - 1)]


def test_every_byte_is_fetched_once(players: list[Player], blobs: Blobs) -> None:
    for player in players:
        player.say("fetch")
    assert sum(int(player.hear()) for player in players) == SIZE
    assert blobs.drop(DIGEST) == 0, "all of them hold it"
    for player in players:
        player.end()
    assert blobs.drop(DIGEST) == SIZE
    assert os.listdir(blobs.layout.blob_partials) == []


def test_the_dead_are_followed_by_one_who_goes_on(players: list[Player]) -> None:
    held = 0
    for player, *others in (players[number:] for number in range(CROWD - 1)):
        assert player.does("claim") == str(held)
        held = int(player.does("append 1000"))
        assert [other.does("claim") for other in others] == ["busy"] * len(others)
        player.end()
    assert players[-1].does("fetch") == str(SIZE - held)


def test_a_stopped_one_is_passed_over_and_comes_to_no_harm(players: list[Player], blobs: Blobs) -> None:
    slow, fast, late = players[:3]
    slow.does("claim")
    slow.does("append 1000")
    slow.stop()
    assert fast.does("claim") == "busy"
    assert fast.does("aside") == "0"
    fast.does("append 5000")
    fast.end()
    assert late.does("aside") == "5000", "what a dead one had beside it is gone on with"
    late.does(f"append {SIZE}")
    assert late.does("commit") == "whole"
    slow.process.send_signal(signal.SIGCONT)
    slow.does(f"append {SIZE}")
    assert slow.does("commit") == "whole"
    assert Path(blobs.layout.blob(DIGEST)).read_bytes() == CONTENT
    assert os.listdir(blobs.layout.blob_partials) == []


def test_a_stopped_holder_keeps_it_and_a_dead_one_does_not(players: list[Player], blobs: Blobs) -> None:
    assert players[0].does("hold") == "none"
    assert players[0].does("fetch") == str(SIZE)
    assert players[1].does("hold") == "held"
    players[0].end()
    players[1].stop()
    assert blobs.drop(DIGEST) == 0
    players[1].end()
    assert blobs.drop(DIGEST) == SIZE
    assert players[2].does("hold") == "none"
    assert players[2].does("claim") == "0"


LIVES, DEEDS, DEADLY = 30, 60, 0.02
"""Processes in the storm, of which four live at a time; what each does; how likely a named point is its last."""


def live(blobs: Blobs, fate: Random) -> None:
    """Do at random what processes do with a layer; whatever is found must be right."""
    hold: Hold | None = None
    for _ in range(DEEDS):
        deed = fate.randrange(5)
        if deed == 0:
            blobs.drop(DIGEST)
        elif deed == 1:
            for one in blobs.spare():
                one.drop()
        elif deed == 2 and hold is not None:
            hold.close()
            hold = None
        elif deed == 2:
            hold = blobs.hold(DIGEST, SIZE)
        elif (copy := blobs.claim(DIGEST, SIZE, aside=deed == 3)) is not None:
            with copy:
                while not copy.complete and fate.random() < 0.8:
                    copy.append(CONTENT[copy.held : copy.held + SIZE // 4])
                if copy.complete:
                    copy.commit().close()
        if hold is not None:
            with hold.open() as file:
                assert file.read() == CONTENT


def born(blobs: Blobs, seed: int) -> int:
    """Start one that may be killed at any of the named points; return its process id."""
    child = os.fork()
    if child:
        return child
    fate, code = Random(seed), 1
    try:
        live(Blobs(blobs.layout, lambda _: os.kill(os.getpid(), SIGKILL) if fate.random() < DEADLY else None), fate)
        code = 0
    finally:
        os._exit(code)


def test_in_a_storm_of_claims_deaths_and_evictions_nothing_is_wrong_nor_left(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _fd: None)
    ends, living = [], 0
    for seed in range(LIVES):
        born(blobs, seed)
        living += 1
        if living == 4 or seed == LIVES - 1:
            for _ in range(living if seed == LIVES - 1 else 1):
                ends.append(os.wait()[1])
                living -= 1
    assert {os.waitstatus_to_exitcode(status) for status in ends} <= {0, -SIGKILL}
    for one in blobs.spare():
        one.drop()
    assert (blobs.all(), os.listdir(blobs.layout.blob_partials)) == ([], [])
