"""A process that meets others in ZooKeeper and does what its parent says: one line of JSON in, one out."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stager.election.ensemble import Ensemble
from stager.election.zookeeper import ZooKeeperRendezvous
from stager.errors import StageImageError
from tests.support.tasks import PATIENCE

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


class Member:
    """The process, as its parent sees it: connected once it is made."""

    def __init__(self, hosts: str, name: str, session_timeout: float = 6.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, hosts, name, str(session_timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self._heard = b""

    def tell(self, method: str, *arguments: object) -> None:
        """Have it do something; `answer` returns what came of it."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([method, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:  # noqa: ANN401
        """Return what the oldest of our calls returned, None if it raised."""
        assert self.process.stdout
        end = time.monotonic() + PATIENCE
        while b"\n" not in self._heard:
            if not select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("no answer from a member")
            piece = os.read(self.process.stdout.fileno(), 65536)
            assert piece, "the member ended"
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """Have it do something and return what came of it."""
        self.tell(method, *arguments)
        return self.answer()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Members:
    """Starts members, as a context manager: at its end none is left."""

    def __init__(self, hosts: str, name: str) -> None:
        self._hosts = hosts
        self._name = name
        self._members: list[Member] = []

    def start(self, count: int, session_timeout: float = 6.0) -> list[Member]:
        """Start so many; they are connected when this returns."""
        started = [Member(self._hosts, self._name, session_timeout) for _ in range(count)]
        self._members += started
        for member in started:
            assert member.answer() == "connected"
        return started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.process.kill()
            for stream in (member.process.stdin, member.process.stdout):
                if stream:
                    stream.close()
            member.process.wait()


def _call(rendezvous: ZooKeeperRendezvous, method: str, arguments: list[Any]) -> object:
    if method in ("claim", "write_node"):
        arguments[-1] = arguments[-1].encode()
    found: object = getattr(rendezvous, method)
    act: Callable[..., object] = found if callable(found) else lambda: found
    try:
        result = act(*arguments)
    except StageImageError as error:
        sys.stderr.write(f"{error}\n")
        return None
    return result.decode() if isinstance(result, bytes) else result


def main(hosts: str, name: str, session_timeout: str) -> None:
    """Connect and do what stdin says, until it ends."""
    ensemble = Ensemble(hosts=hosts, session_timeout=float(session_timeout), connect_timeout=PATIENCE / 2)
    rendezvous = ZooKeeperRendezvous(ensemble, name=name, owner="site")
    rendezvous.connect()
    print(json.dumps(rendezvous.state), flush=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(_call(rendezvous, method, arguments)), flush=True)
    rendezvous.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
