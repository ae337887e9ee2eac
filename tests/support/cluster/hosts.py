"""Hosts that are namespaces of this kernel: network, host name, mounts and processes of their own.

Nothing has to be cleaned up. Each host's first process reads from a pipe that only its owner, the test's process, can
write to, and ends with it; then the kernel ends whatever runs on the host and takes its interfaces and mounts away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.support.tasks import NOTHING, Task, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

# The environment of the first process is what marks it as ours; SIGCHLD ignored lets the kernel bury all orphans.
# bbr, the default on some machines, needs pacing that tbf spoils; a namespace may choose among the allowed ones only.
_FIRST = """\
hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up || exit
echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/all/disable_ipv6
for name in cubic reno; do echo "$name" 2>/dev/null >/proc/sys/net/ipv4/tcp_congestion_control && break; done
echo ready
exec env --ignore-signal=CHLD cat >/dev/null
"""
_UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_NEW_NET = 0x40000000
"""CLONE_NEWNET of linux/sched.h."""
_LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
_ESTABLISHED = "01"

_libc = ctypes.CDLL(None, use_errno=True)


class Process(Task):
    """A process on a host: `pid` is its number out here, where the number of `process` is that of its messenger."""

    @property
    def pid(self) -> int:
        (found,) = children(self.process.pid)
        return found

    def send(self, number: signal.Signals) -> None:
        if number == signal.SIGCONT:
            self.resume()
        else:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.resume()
        self.done()

    def is_stopped(self) -> bool:
        """Whether the messenger is stopped, as nsenter(1) stops itself when its child has been."""
        return _state(self.process.pid) == "T"

    def resume(self) -> None:
        """Continue the messenger, which then continues the process."""
        until(lambda: self.is_stopped() or self._state() != "T", "nsenter to stop")
        self.process.send_signal(signal.SIGCONT)

    def _state(self) -> str:
        return next(iter(_state(pid) for pid in children(self.process.pid)), "")


class Host:
    """One host without any link; its files lie in `folder`. Starts at once, `wait` returns when it is there."""

    def __init__(self, name: str, folder: Path, hosts: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        command = [*_UNSHARE, "sh", "-c", _FIRST, "sh", name, str(hosts)]
        self._outer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes: list[Process] = []
        self.pid = 0

    def wait(self) -> None:
        assert self._outer.stdout
        if self._outer.stdout.readline() != "ready\n":
            raise RuntimeError(f"host {self.name} did not come up")
        (self.pid,) = children(self._outer.pid)

    def destroy(self) -> None:
        """Take it all away: processes, interfaces, mounts; return when it is gone."""
        for process in self._processes:
            process.process.send_signal(signal.SIGCONT)
        # Of the first process of a PID namespace, the end is told when all others are gone: pid_namespaces(7).
        self._outer.communicate()
        for process in self._processes:
            process.done()

    def enter(self, *words: str) -> list[str]:
        """Return the command line that runs `words` on the host."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid", "--", *words]

    def tool(self, *words: str) -> list[str]:
        """Return the command line that runs `words` out here, but with the host's network."""
        return ["nsenter", "--target", str(self.pid), "--net", "--", *words]

    def start(self, *words: str, env: Mapping[str, str] = NOTHING) -> Process:
        """Start a command on the host, in its folder, with an environment of nothing but `env` and a PATH."""
        files = self.folder / f"process-{len(self._processes)}"
        files.mkdir()
        with (files / "out").open("wb") as out, (files / "err").open("wb") as err:
            process = subprocess.Popen(
                # nsenter goes to / when it enters a mount namespace.
                [*self.enter("env", "--chdir", str(self.folder)), *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **env},
                # In our session: a stopped nsenter whose parent is killed is then continued by the kernel.
                process_group=0,
            )
        task = Process(process, files)
        self._processes.append(task)
        # Before it is there, it could escape from a kill of all.
        while not children(process.pid) and task.running:
            time.sleep(0.0005)
        return task

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a command on the host to its end; return its output. Raises CalledProcessError."""
        return subprocess.run(
            self.enter(*words), input=stdin, check=True, stdout=subprocess.PIPE, text=True, timeout=60
        ).stdout

    def within(self, call: Callable[[], T]) -> T:
        """Return `call()`, made in a thread whose sockets are the host's; threads that it starts are there, too."""
        result: list[T] = []
        failure: list[Exception] = []

        def visit() -> None:
            try:
                _join_network(self.pid)
                result.append(call())
            except Exception as error:  # noqa: BLE001
                failure.append(error)

        thread = threading.Thread(target=visit, name=f"on {self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def connect(self, address: str, port: int, timeout: float = 5) -> socket.socket:
        """Return a connection made from the host."""
        return self.within(lambda: socket.create_connection((address, port), timeout))

    def view(self, path: Path | str) -> Path:
        """Return the path out here of what is at `path` for the host, its own mounts included."""
        return Path(f"/proc/{self.pid}/root{path}")

    def pids(self) -> list[int]:
        """Return the processes on the host, by their numbers out here, without the first."""
        home = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        return [
            pid
            for pid in _all_pids()
            if pid != self.pid and _namespace(pid) == home and _state(pid) not in ("", "Z", "X")
        ]

    def commands(self) -> dict[int, str]:
        """Return the command line of each of these processes."""
        return {pid: _command(pid) for pid in self.pids()}

    def signal(self, name: str) -> None:
        """Send a signal to all processes at once, as kill(2) does for -1: none can fork its way out."""
        self.run("sh", "-c", f"kill -s {name} -- -1 2>/dev/null || :")

    def kill(self) -> None:
        """End all processes; the interfaces stay, so that the kernel answers whoever still calls: reset, refused."""
        self.signal("KILL")
        self.thaw()
        until(lambda: not self.pids(), f"the processes of {self.name} to end")

    def freeze(self) -> None:
        """Stop all processes."""
        self.signal("STOP")
        until(lambda: all(process.is_stopped() for process in self._processes if process.running), "all to stop")

    def thaw(self) -> None:
        self.signal("CONT")
        for process in self._processes:
            process.process.send_signal(signal.SIGCONT)

    def listening(self) -> list[int]:
        """Return the TCP ports on which somebody listens."""
        lines = [line.split() for name in ("tcp", "tcp6") for line in self._net(name)[1:]]
        return sorted({int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == _LISTEN})

    def peers(self) -> dict[int, list[tuple[str, int]]]:
        """Return, by local port, the addresses and ports that established connections lead to; IPv4 only."""
        found: dict[int, list[tuple[str, int]]] = {}
        for line in self._net("tcp")[1:]:
            _, local, remote, state = line.split()[:4]
            if state == _ESTABLISHED:
                found.setdefault(_address(local)[1], []).append(_address(remote))
        return found

    def mounts(self) -> list[str]:
        """Return the mountpoints below the host's folder."""
        table = Path(f"/proc/{self.pid}/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
        return [point for line in table if (point := line.split()[4]).startswith(f"{self.folder}/")]

    @property
    def received(self) -> int:
        """Bytes that came in by eth0, with all headers."""
        return self._traffic()[0]

    @property
    def sent(self) -> int:
        """Bytes that went out by eth0, with all headers."""
        return self._traffic()[8]

    def _traffic(self) -> list[int]:
        (line,) = (line for line in self._net("dev") if line.strip().startswith("eth0:"))
        return [int(word) for word in line.partition(":")[2].split()]

    def _net(self, name: str) -> list[str]:
        return Path(f"/proc/{self.pid}/net/{name}").read_text("ascii").splitlines()


def children(pid: int) -> list[int]:
    """Return the children of a process that has one thread only."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []


def together(commands: Sequence[tuple[Sequence[str], str]]) -> None:
    """Run commands side by side, each with its standard input. Raises CalledProcessError."""
    running = [(subprocess.Popen(command, stdin=subprocess.PIPE, text=True), text) for command, text in commands]
    for process, text in running:
        process.communicate(text)
    for process, _ in running:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def _address(text: str) -> tuple[str, int]:
    """Read an address of /proc/net/tcp: hexadecimal, in the machine's byte order."""
    address, _, port = text.partition(":")
    return socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder)), int(port, 16)


def _join_network(pid: int) -> None:
    """Move the calling thread, and it alone, to the network of a process: setns(2)."""
    with open(f"/proc/{pid}/ns/net", "rb") as namespace:
        if _libc.setns(namespace.fileno(), _NEW_NET):
            raise OSError(ctypes.get_errno(), "setns")


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _state(pid: int) -> str:
    """Return the letter of proc_pid_stat(5), empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(") ")[2][:1]
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""
