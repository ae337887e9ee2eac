"""A process that contends in an election once, says `leads` or `lost`, and holds on until its stdin ends."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stager.election.cluster import ClusterElection
from stager.election.ensemble import Ensemble
from stager.election.file_lock import FileLockElection
from stager.election.zookeeper import ZooKeeperRendezvous

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.interfaces import Election

ROOT = Path(__file__).parents[2]


@contextmanager
def contenders(count: int, kind: str, *arguments: str) -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """Start so many, and give each process with what it said; at the end none is left."""
    command = [sys.executable, "-m", __name__, kind, *arguments]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT, "text": True}
    crowd = [subprocess.Popen(command, **streams) for _ in range(count)]  # type: ignore[call-overload]
    try:
        yield [(process, process.stdout.readline().strip()) for process in crowd]
    finally:
        for process in crowd:
            process.kill()
            process.communicate()


def election(kind: str, *arguments: str) -> Election:
    """Return one of the node's lock files in a folder, or one of a cluster at some servers."""
    if kind == "file-lock":
        (folder,) = arguments
        return FileLockElection(lambda name: f"{folder}/{name}.lock")
    hosts, cluster = arguments
    ensemble = Ensemble(hosts=hosts, session_timeout=2, connect_timeout=20)
    rendezvous = ZooKeeperRendezvous(ensemble, name=cluster, owner="site")
    rendezvous.connect()
    return ClusterElection(rendezvous, b"record")


def main(kind: str, *arguments: str) -> None:
    """Contend for `x`."""
    with election(kind, *arguments).lead("x") as won:
        print("leads" if won else "lost", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
