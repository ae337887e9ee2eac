"""What FUSE needs of the node and of this process: a device, a server, and a program that may mount for users."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass

from stager.mounts import linux

DEVICE = "/dev/fuse"

SERVERS = {"squashfs": ("squashfuse_ll", "squashfuse"), "erofs": ("erofsfuse",)}
"""By kind of file system, the best first: squashfuse_ll talks the kernel's low-level protocol and is faster."""

RUNTIME_FOLDERS = ("/usr/libexec/apptainer/bin", "/usr/libexec/singularity/bin", "/usr/local/libexec/apptainer/bin")
"""Where Apptainer and SingularityCE keep a squashfuse_ll of their own, on nodes that have no other."""


@dataclass(frozen=True, slots=True)
class FuseSetting:
    """What the node offers. `path`: where programs are looked for first, as in PATH; `device`: that of FUSE."""

    path: str
    device: str = DEVICE

    def server(self, kind: str) -> str:
        """Return the path of the program that serves this kind of file system, or an empty string."""
        return self._program(*SERVERS.get(kind, ()))

    def fusermount(self) -> str:
        """Return the path of the program by which users mount and unmount, or an empty string."""
        return self._program("fusermount3", "fusermount")

    def obstacle(self) -> str:
        """Return what keeps this user from mounting anything by FUSE, or an empty string.

        libfuse opens the device itself before it asks fusermount3, so that one that root alone may open is of no use
        though fusermount3 could open it (measured with 3.14).
        """
        if not os.path.exists(self.device):
            return f"there is no {self.device}: the fuse module is not loaded, or the container hides it"
        if not os.access(self.device, os.R_OK | os.W_OK):
            return f"this user may not open {self.device}"
        if linux.capable():
            return ""
        fusermount = self.fusermount()
        return setuid_obstacle(fusermount) if fusermount else "fusermount3 is not installed"

    def _program(self, *names: str) -> str:
        # A job's PATH, and a prolog's, may be anything.
        path = os.pathsep.join((self.path, os.defpath, *RUNTIME_FOLDERS))
        return next((found for name in names if (found := shutil.which(name, path=path))), "")


def of_environment() -> FuseSetting:
    """Return the setting of this process."""
    return FuseSetting(os.environ.get("PATH", os.defpath))


def setuid_obstacle(program: str) -> str:
    """Return why a program does not become root when a user starts it, or an empty string. Raises OSError."""
    found = os.stat(program)
    if "security.capability" not in os.listxattr(program):
        # In a user namespace, the files of the real root show as nobody's.
        if found.st_uid != 0 or not found.st_mode & stat.S_ISUID:
            return f"{program} is not setuid root"
        if os.statvfs(program).f_flag & os.ST_NOSUID:
            return f"{program} lies on a file system mounted nosuid"
    if linux.status("NoNewPrivs") == "1":
        return f"{program} cannot become root: this process may gain no privileges (no_new_privs)"
    return ""
