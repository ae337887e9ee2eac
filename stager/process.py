"""Processes by identity: a pid alone may be somebody else by now."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class ProcessIdentity:
    """A process of this node: pid, start time (clock ticks since boot) and boot, printed as `pid.start.boot`.

    The boot is the first 8 digits of /proc/sys/kernel/random/boot_id, the start time field 22 of /proc/<pid>/stat,
    proc(5).
    """

    __slots__ = ("boot", "pid", "start")

    def __init__(self, pid: int, start: int, boot: str) -> None:
        self.pid = pid
        self.start = start
        self.boot = boot

    def __str__(self) -> str:
        return f"{self.pid}.{self.start}.{self.boot}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessIdentity) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Return the identity that `str` printed, or None for anything else."""
        pid, _, rest = text.partition(".")
        start, _, boot = rest.partition(".")
        if not (_is_number(pid) and _is_number(start) and len(boot) == 8 and boot.isalnum()):
            return None
        return cls(int(pid), int(start), boot)

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a running process, or None if there is none (a zombie is none)."""
        fields = _stat_fields(pid)
        return cls(pid, int(fields[19]), boot_id()) if fields and fields[0] not in "ZX" else None

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.boot == boot_id() and ProcessIdentity.of(self.pid) == self


def current() -> ProcessIdentity:
    """Return the identity of the calling process."""
    identity = ProcessIdentity.of(os.getpid())
    if identity is None:
        raise RuntimeError("/proc is not mounted")
    return identity


def session_leader() -> ProcessIdentity:
    """Return the leader of the caller's session, which outlives a command substitution but not its job or login.

    A leader that is gone or lives in another pid namespace (getsid gives 0) is replaced by the eldest visible
    ancestor that still runs in the session, at worst by the caller itself.
    """
    session = os.getsid(0)
    leader = ProcessIdentity.of(session) if session > 0 else None
    return leader or _eldest_of_session(session)


def _eldest_of_session(session: int) -> ProcessIdentity:
    eldest, pid = os.getpid(), os.getppid()
    while pid > 1:
        fields = _stat_fields(pid)
        if not fields or int(fields[3]) != session:
            break
        eldest, pid = pid, int(fields[1])
    return ProcessIdentity.of(eldest) or current()


def command_of(pid: int) -> str:
    """Return the name of a process for people, or an empty string."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return ""


_boot = ""


def boot_id() -> str:
    """Return 8 hexadecimal digits that change with every boot of this node."""
    global _boot
    if not _boot:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            _boot = file.read(8)
    return _boot


def become(command: list[str], environ: dict[str, str]) -> NoReturn:
    """Replace this process by `command`, found on the PATH of `environ`.

    Raises CommandNotFound, CommandNotRunnable. Python ignores SIGPIPE and SIGXFSZ, and exec would pass that on: a
    command that relies on dying of a closed pipe (`yes | head`) would not, so both are put back first. A file that the
    kernel does not know is run by /bin/sh, as execvp(3), env and every shell do.
    """
    import errno

    # The C module behind `signal`: that one makes enums of all numbers, 3 ms in each of a node's tasks.
    signal = __import__("_signal")

    from stager.errors import CommandNotFound, CommandNotRunnable

    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environ)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CommandNotFound(f"the command {command[0]!r} was not found") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
            _become_script(command, environ)
        raise CommandNotRunnable(f"the command {command[0]!r} cannot be executed: {error}") from error


def _become_script(command: list[str], environ: dict[str, str]) -> None:
    import shutil

    found = shutil.which(command[0], path=environ.get("PATH"))
    if found is not None:
        os.execve("/bin/sh", ["sh", found, *command[1:]], environ)


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third (state) on; the second may hold blanks and brackets."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(") ")[2].split()
    except OSError:
        return []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
