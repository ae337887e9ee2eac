"""A node of the cluster: a host with a store and a home, whose tasks stage images."""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import TYPE_CHECKING

from tests.support.tasks import COMMAND, NOTHING, ROOT, held, published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.cluster.bed import Cluster
    from tests.support.cluster.hosts import Host, Process


class Node:
    """One node; `number` is its place in the job's list of nodes."""

    def __init__(self, host: Host, cluster: Cluster, number: int) -> None:
        self.host = host
        self.number = number
        self._cluster = cluster
        self.home = host.folder / "home"
        self.store = host.folder / "store"
        self.seen = self.store
        self.home.mkdir()

    def __repr__(self) -> str:
        return self.host.name

    @property
    def address(self) -> str:
        return self._cluster.switch.address(self.host)

    def environ(self, job: str = "1") -> dict[str, str]:
        """Return the environment of a task: of a job of Slurm's, and configured for the cluster."""
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.host.folder),
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": job,
            "SLURM_NODEID": str(self.number),
            "STAGE_IMAGE_STORE": str(self.store),
            "STAGE_IMAGE_SCOPE": "cluster",
            "STAGE_IMAGE_CLUSTER_ZOOKEEPER": self._cluster.zookeeper.address,
            **self._cluster.environ,
        }

    def start(self, *words: str, env: Mapping[str, str] = NOTHING, job: str = "1") -> Process:
        """Start any command as a task would; `env` is added, what is empty in it left out."""
        environ = {name: value for name, value in {**self.environ(job), **env}.items() if value}
        return self.host.start(*words, env=environ)

    def stage(self, *words: str, tasks: int = 1, env: Mapping[str, str] = NOTHING, job: str = "1") -> list[Process]:
        """Start so many tasks that run `stage-image words`."""
        return [self.start(*COMMAND, *words, env=env, job=job) for _ in range(tasks)]

    def python(self, text: str, *words: str, env: Mapping[str, str] = NOTHING) -> Process:
        """Start a program of Python's."""
        return self.start(sys.executable, "-c", text, *words, env=env)

    def small_disk(self, size: int) -> None:
        """Let the store be a disk of its own with so many bytes, as only the node sees it."""
        self.store.mkdir(mode=0o700)
        self.host.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(self.store))
        self.seen = self.host.view(self.store)

    def held(self) -> int:
        """Return how many bytes the fullest copy in flight has."""
        return held(self.seen)

    def copies(self) -> list[Path]:
        """Return the files of all copies in flight."""
        return sorted(self.seen.glob("partial/*/*/data"))

    def has(self, content: bytes) -> bool:
        """Whether the image is published, whole and unchanged."""
        path = published(self.seen, content)
        return path.exists() and sha256(path.read_bytes()).digest() == sha256(content).digest()

    def kill(self, *, silent: bool = False) -> None:
        """End all processes at once; `silent`: as a power cut does, nobody is told and no call is answered."""
        if silent:
            self.cut()
        self.host.kill()

    def cut(self) -> None:
        """Drop every packet from and to the node, silently."""
        self._cluster.switch.cut(self.host)

    def heal(self) -> None:
        self._cluster.switch.heal(self.host)

    def slow(self, rate: float) -> None:
        """Shape its link anew, in Mbit/s."""
        self._cluster.switch.shape(self.host, rate)

    def freeze(self) -> None:
        """Stop all its processes."""
        self.host.freeze()

    def thaw(self) -> None:
        self.host.thaw()

    @property
    def sent(self) -> int:
        return self.host.sent

    @property
    def received(self) -> int:
        return self.host.received

    def leftovers(self) -> list[str]:
        """Return one line for each process, listening port and mount (but that of a small disk)."""
        mounts = [point for point in self.host.mounts() if point != str(self.store)]
        return [
            *(f"{self}: process {pid}: {command}" for pid, command in self.host.commands().items()),
            *(f"{self}: port {port}" for port in self.host.listening()),
            *(f"{self}: mount on {point}" for point in mounts),
        ]
