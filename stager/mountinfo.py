"""The mount table of a process, as /proc/<pid>/mountinfo shows it (proc_pid_mountinfo(5))."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Mount:
    """One line of the table; escapes are resolved, bytes that are no UTF-8 are surrogates (PEP 383).

    `id` and `parent` are mount IDs, `device` is the `major:minor` of the file system, `root` the directory of it that
    is mounted on `mountpoint`. `options` belong to this mount, `super_options` to the file system.
    """

    __slots__ = ("device", "fstype", "id", "mountpoint", "options", "parent", "root", "source", "super_options")

    def __init__(self, fields: list[str], origin: list[str]) -> None:
        self.id, self.parent = int(fields[0]), int(fields[1])
        self.device, self.root, self.mountpoint = fields[2:5]
        self.options = fields[5].split(",")
        self.fstype, self.source = origin[:2]
        self.super_options = origin[2].split(",")

    def __repr__(self) -> str:
        return f"<{self.fstype} {self.source!r} {self.device}:{self.root!r} on {self.mountpoint!r}>"

    def holds(self, path: str) -> bool:
        """Whether an absolute path is the mountpoint or below it, by its letters."""
        return self.mountpoint in ("/", path) or path.startswith(f"{self.mountpoint}/")

    def inside(self, path: str) -> str:
        """Return where in the file system a path that the mount holds lies."""
        below = path if self.mountpoint == "/" else path[len(self.mountpoint) :]
        return f"{self.root.rstrip('/')}/{below.strip('/')}".rstrip("/") or "/"


def read(pid: int | str = "self") -> list[Mount]:
    """Return the mounts that a process sees, in the order in which they were made. Raises OSError."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return parse(table.read())


def parse(text: str) -> list[Mount]:
    """Return the mounts of a table; a line that is none is passed over.

    A file system may have an empty source (mount -t tmpfs ""), so that only single blanks separate fields.
    """
    found = (_parse_line(line) for line in text.split("\n"))
    return [mount for mount in found if mount is not None]


def covering(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Return the mount that an absolute path without symbolic links lies on, as far as the table tells.

    The table is a tree, walked as the kernel walks a path: from mount to child mount. Taking the longest mountpoint
    instead would be wrong where a mount on a parent directory hides it. A table without a root (that of a chroot into
    a plain directory) begins with the mounts whose parent it does not show. Of mounts with one parent and one
    mountpoint, the last was made last.
    """
    table = [mount for mount in mounts if mount.holds(path)]
    known = {mount.id for mount in table}
    found, above = None, [mount for mount in table if mount.parent not in known or mount.parent == mount.id]
    while above:
        nearest = min(len(mount.mountpoint) for mount in above)
        found = [mount for mount in above if len(mount.mountpoint) == nearest][-1]
        table = [mount for mount in table if mount is not found]
        above = [mount for mount in table if mount.parent == found.id]
    return found


def at(mounts: Iterable[Mount], mountpoint: str) -> Mount | None:
    """Return the mount whose root an absolute path without symbolic links shows, if it is a mountpoint."""
    found = covering(mounts, mountpoint)
    return found if found is not None and found.mountpoint == mountpoint else None


def _parse_line(line: str) -> Mount | None:
    fields = line.split(" ")
    try:
        # The optional fields (shared:1, master:2) in between are of any number; what follows the dash is not.
        dash = fields.index("-", 6)
        return Mount([_plain(field) for field in fields[:6]], [_plain(field) for field in fields[dash + 1 : dash + 4]])
    except (ValueError, IndexError):
        return None


def _plain(field: str) -> str:
    """Resolve the octal escapes of blank, tab, newline, backslash (and # in sources): fs/proc_namespace.c, mangle()."""
    first, *rest = field.split("\\")
    return first + "".join(_escaped(part) for part in rest)


def _escaped(part: str) -> str:
    code = part[:3]
    if len(code) == 3 and code <= "177" and not code.strip("01234567"):
        return chr(int(code, 8)) + part[3:]
    return f"\\{part}"
