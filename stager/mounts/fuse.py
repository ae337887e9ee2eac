"""Mounts without privileges, by a FUSE server for each: squashfuse_ll, squashfuse or erofsfuse."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.clock import SystemClock
from stager.errors import MountFailed, MountUnavailable
from stager.interfaces import ImageInfo, MountReport
from stager.mounts import fuse_setting, linux
from stager.mounts.server import Server
from stager.mounts.trust import directory, opened
from stager.program import ProgramFailed, run

if TYPE_CHECKING:
    from stager.clock import Clock
    from stager.mounts.fuse_setting import FuseSetting

UNMOUNT_PATIENCE = 10.0
ANSWER_PATIENCE = 5.0
"""Seconds."""

_FUSE_COMPLAINTS = ("fuse:", "fusermount")
"""How lines begin by which libfuse says that it cannot mount; servers speak of the image in other words."""


class FuseMounter:
    """Mounts a partition by a FUSE server, which lives until the mount is gone or it is killed with its job step."""

    kind = "fuse"

    def __init__(self, clock: Clock | None = None, setting: FuseSetting | None = None) -> None:
        self._clock = clock or SystemClock()
        self._setting = setting or fuse_setting.of_environment()

    def obstacle(self, info: ImageInfo) -> str:
        names = fuse_setting.SERVERS.get(info.root.kind)
        if names is None:
            return f"no FUSE server for {info.root.kind} is known"
        if not self._setting.server(info.root.kind):
            return f"{names[0]} is not installed"
        return self._setting.obstacle()

    def mount(self, image: str, info: ImageInfo, mountpoint: str) -> MountReport:
        why = self.obstacle(info)
        if why:
            raise MountUnavailable(why)
        mountpoint = linux.settled(mountpoint)
        with opened(image, info) as fd, directory(mountpoint):
            served = Served(self._setting.server(info.root.kind), os.path.abspath(image), fd, info.root.offset)
            try:
                pid = self._serve(served, mountpoint)
            except _MountpointNotEmptyError:
                pid = self._serve(served, mountpoint, "nonempty")
        return MountReport("fuse", server=pid)

    def unmount(self, mountpoint: str, *, lazy: bool = False) -> None:
        if linux.capable():
            linux.unmount(mountpoint, lazy=lazy)
            return
        for _ in range(linux.MOST_STACKED):
            if linux.mounted(mountpoint) is None:
                return
            self._unmount_as_user(mountpoint, lazy=lazy)

    def _unmount_as_user(self, mountpoint: str, *, lazy: bool) -> None:
        program = self._setting.fusermount() or "fusermount3"
        flags = ["-u", "-z"] if lazy else ["-u"]
        try:
            run([program, *flags, "--", mountpoint], timeout=UNMOUNT_PATIENCE)
        except ProgramFailed as failed:
            busy = "busy" in failed.stderr.replace(mountpoint, "")
            raise linux.unmount_error(mountpoint, str(failed), busy=busy) from failed

    def _serve(self, served: Served, mountpoint: str, *more: str) -> int:
        before = linux.mounted(mountpoint)
        server = Server(served.command(mountpoint, *more), served.fd)
        try:
            self._wait(server, mountpoint, before.id if before else 0)
        except BaseException:  # an interrupt, too, must not leave a server behind
            server.end()
            if before is None:
                self.unmount(mountpoint, lazy=True)
            raise
        finally:
            server.leave()
        return server.pid

    def _wait(self, server: Server, mountpoint: str, before: int) -> None:
        if not server.has_mounted(mountpoint, before, self._clock):
            raise _failure(server)
        if is_dead(mountpoint):
            raise MountFailed(f"{server.name} died as soon as it had mounted: {server.said}")


@dataclass(frozen=True, slots=True)
class Served:
    """An image for a FUSE server: the server's path, the image's for people, its descriptor, the root's offset."""

    program: str
    image: str
    fd: int
    offset: int

    def command(self, mountpoint: str, *more: str) -> list[str]:
        """Return what serves it in the foreground; `more` are further mount options.

        The image's path is the source in the mount table, while the server opens the file that was looked at. Of
        root's mounts, all users may see what the modes in the image allow; FUSE would hide them from all but root.
        """
        name = os.path.basename(self.program)
        options = ["ro", "nosuid", "nodev", f"fsname={_escaped(self.image)}", f"subtype={name}", *more]
        if linux.privileged():
            options += ["allow_other", "default_permissions"]
        offset = []
        if self.offset and name == "erofsfuse":
            offset = [f"--offset={self.offset}"]
        elif self.offset:
            options.append(f"offset={self.offset}")
        return [self.program, "-f", *offset, "-o", ",".join(options), f"/proc/self/fd/{self.fd}", mountpoint]


def _escaped(text: str) -> str:
    """Protect what separates options (fuse_opt_add_opt_escaped of libfuse)."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


class _MountpointNotEmptyError(Exception):
    """Said by libfuse 2, which wants an option against it that libfuse 3 does not know (measured with 3.14)."""


def _failure(server: Server) -> Exception:
    lines = [line for line in server.said.splitlines() if line]
    why = "; ".join(lines[:3]) or "it did not say why"
    if "'nonempty'" in server.said:
        return _MountpointNotEmptyError()
    if any(line.startswith(_FUSE_COMPLAINTS) for line in lines):
        return MountUnavailable(f"{server.name} cannot mount here: {why}")
    return MountFailed(f"{server.name} failed: {why}")


def is_dead(mountpoint: str) -> bool:
    """Whether a FUSE mount has lost its server ("Transport endpoint is not connected").

    statfs(2) rather than stat(2): squashfuse lets the kernel remember attributes for ever, so that the mountpoint of
    a dead server can still be stat'ed. A server that gives no answer within ANSWER_PATIENCE seconds (stopped, say) is
    not known to be dead; nor is that of another user's mount.
    """
    failures = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            failures.append(error.errno)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_PATIENCE)
    return errno.ENOTCONN in failures
