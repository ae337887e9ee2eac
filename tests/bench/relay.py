"""One node of a relay, unshaped: what it takes to receive, verify, write and pass on an image; and in how much memory.

Three processes: one that holds the image and feeds, the node, one that drains it and does nothing with the bytes (the
kernel throws them away). Alone: `python -m tests.bench.relay [BYTES]`.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from stager.clock import SystemClock
from stager.relay.answers import chunks_path, image_path
from stager.relay.holding import ChunkHasher, Holding
from stager.relay.link import Link
from stager.relay.secret import Guard, Secret
from stager.relay.server import Server
from stager.relay.upstream import Upstream
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import Row, details, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.bench.ground import Ground

STAGING = "be9c" * 8
SECRET = Secret(b"b" * 32)
MEMORY = "/dev/shm"
"""Where the image and the node's copy lie: the disk is out of the picture."""

ROUNDS = 3
DEFAULT = 1 << 30
OBSTACLE = (
    "with two cores for the three processes, the CPU time of all of them: sha256 of each chunk, one copy out of the "
    "socket and one into the page cache make up most of the node's"
)


@dataclass(frozen=True)
class Passed:
    """One round: wall-clock and CPU seconds of the node, those of its verifying thread, its memory's peak in bytes."""

    seconds: float
    cpu: float
    verifier: float
    peak: int


def rows(ground: Ground) -> list[Row]:
    """Measure one node against the same bytes fetched by curl and checked afterwards."""
    return _rows(ground.scale.image, ground.scale.rounds)


def _rows(size: int, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, ExitStack() as stack:
        image, copy = Path(folder, "image"), Path(folder, "copy")
        _write(image, size)
        _write(copy, size)  # a virtual machine may have to ask its host for pages; that is not measured
        _write(Path(folder, "small"), size // 16)
        whole = stack.enter_context(_feeder(image))
        small = stack.enter_context(_feeder(Path(folder, "small")))
        checked, passed = interleaved(rounds, lambda: _fetched(image, copy), lambda: _passed(whole, copy, size))
        tiny = [_passed(small, copy, size // 16) for _ in range(rounds)]
    return [*_of_time(size, checked, passed), _of_memory(size, passed, tiny)]


def _of_time(size: int, checked: list[float], passed: list[Passed]) -> list[Row]:
    seconds, cpu = Sample([one.seconds for one in passed]), Sample([one.cpu for one in passed])
    rate = size / 1e9 / seconds.median
    verifier = Sample([one.verifier for one in passed]).median / size * 1e9
    return [
        Row(
            what=f"relay of one node, {size / 1e6:.0f} MB, unshaped, verified",
            measured=seconds,
            against="`cat` of it into a file, then `openssl dgst -sha256`",
            reference=Sample(checked),
            goal=Goal(plus=size / 1e9),
            obstacle=OBSTACLE,
            notes=(f"{rate:.2f} GB/s; the goal is 1 GB/s, whatever is compared to",),
        ),
        Row(
            what="the same, its CPU time",
            measured=cpu,
            goal=Goal(plus=2 * size / 1e9),
            notes=(f"{cpu.median / size * 1e9:.2f} CPU-s/GB, of which {verifier:.2f} in the thread that hashes",),
        ),
    ]


def _of_memory(size: int, passed: list[Passed], tiny: list[Passed]) -> Row:
    small = Sample([float(one.peak) for one in tiny])
    return Row(
        what="the same, its memory",
        measured=Sample([float(one.peak) for one in passed]),
        against=f"with {size // 16 / 1e6:.0f} MB",
        reference=small,
        unit="B",
        goal=Goal(plus=48 << 20),
    )


def _write(path: Path, size: int) -> None:
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(start.to_bytes(8, "big") + block[8 : min(len(block), size - start)])


def _fetched(image: Path, copy: Path) -> float:
    begun = time.perf_counter()
    script = 'cat "$1" 1<>"$2" && openssl dgst -sha256 "$2"'
    subprocess.run(["/bin/sh", "-c", script, "sh", str(image), str(copy)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


@contextmanager
def _feeder(image: Path) -> Iterator[str]:
    with _role("feed", str(image)) as feeder:
        yield _line(feeder)


def _passed(feeder: str, copy: Path, size: int) -> Passed:
    with _role("relay", feeder, str(copy), str(size)) as node, _role("drain", _line(node)) as drain:
        _line(drain)
        for process in (node, drain):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return Passed(**json.loads(_line(node)))


@contextmanager
def _role(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.bench.relay", *arguments]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()  # the end of its input is the end of its work


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# The three processes.


def feed(path: str) -> None:
    """Serve a whole image."""
    with open(path, "rb") as file:
        holding = _holding(file.fileno())
        size = os.fstat(file.fileno()).st_size
        holding.size = size
        hasher = ChunkHasher(holding, lambda: size)
        while hasher.step():
            pass
        server = _server(holding)
        _say(server.address)
        sys.stdin.read()
        server.close()


def relay(feeder: str, path: str, size: str) -> None:
    """Be the node."""
    with open(path, "r+b", buffering=0) as file:
        holding = _holding(file.fileno())
        holding.size = int(size)
        server = _server(holding)
        verifier = [0.0]

        def advance(_: int) -> None:
            verifier[0] = time.thread_time()

        upstream = Upstream(feeder, staging=STAGING, generation=1, secret=SECRET, holding=holding, advance=advance)
        _say(server.address)
        sys.stdin.readline()
        begun, before = time.perf_counter(), _cpu()
        upstream.start()
        upstream.join()
        while server.sent < int(size) and holding.complete:
            time.sleep(0.001)
        seconds, cpu = time.perf_counter() - begun, _cpu() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if not holding.complete:
            sys.exit(f"the node was not fed: {upstream.why}")
        _say(json.dumps({"seconds": seconds, "cpu": cpu, "verifier": verifier[0], "peak": peak}))
        sys.stdin.read()
        server.close()


def drain(node: str) -> None:
    """Ask for everything and keep nothing."""
    _say("ready")
    sys.stdin.readline()
    records = Thread(target=_discard, args=(node, chunks_path(STAGING, 1)))
    records.start()
    _discard(node, image_path(STAGING, 1))
    records.join()


def _discard(node: str, path: str) -> None:
    link = Link(node, SECRET)
    link.connect(5)
    left = link.ask("GET", path, fields={"Range": "bytes=0-"}).length or 0
    room = memoryview(bytearray(1 << 20))
    left -= link.fill(room[: min(left, len(room))])  # what came with the head, and more
    while left and (got := link.receive(room[: min(left, len(room))], socket.MSG_TRUNC | socket.MSG_WAITALL)):
        left -= got
    link.close()


def _holding(fd: int) -> Holding:
    return Holding(fd, staging=STAGING, generation=1, secret=SECRET, folder=MEMORY)


def _server(holding: Holding) -> Server:
    server = Server("127.0.0.1", guard=Guard(SECRET, SystemClock()), log=_say)
    server.start()
    server.offer(STAGING, 1, holding)
    return server


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


ROLES: dict[str, Callable[..., None]] = {"feed": feed, "relay": relay, "drain": drain}


def main(arguments: Sequence[str]) -> None:
    """Be one of the three processes, or start them and print the table."""
    if arguments and arguments[0] in ROLES:
        ROLES[arguments[0]](*arguments[1:])
        return
    table = _rows(int(arguments[0]) if arguments else DEFAULT, ROUNDS)
    _say(f"{markdown(table)}\n\n{details(table)}")


if __name__ == "__main__":
    main(sys.argv[1:])
