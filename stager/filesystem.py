"""What kind of file system a path lies on, and whether anybody else sees the same one there.

File systems are known by the name in mountinfo rather than by the magic number of statfs(2): all FUSE file systems
share one number (0x65735546), some parallel file systems have none that is registered, and Python has no statfs.
"""

from __future__ import annotations

import os

from stager import mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from stager.mountinfo import Mount

NETWORK = frozenset(
    (
        # Linux itself: the names that fs/*/ registers
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "9p", "virtiofs", "coda", "orangefs", "ncpfs"),
        # Cluster file systems on shared disks: not over the network, but several nodes see the same files
        *("gfs", "gfs2", "ocfs2"),
        # Kernel modules of others: Lustre, IBM Storage Scale, BeeGFS (once FhGFS), Panasas, WEKA, Cray DVS, PVFS2,
        # StorNext (two names), IBRIX, AuriStor, Oracle ACFS
        *("lustre", "lustre_lite", "gpfs", "mmfs", "beegfs", "fhgfs", "panfs", "wekafs", "dvs", "pvfs2"),
        *("cvfs", "snfs", "ibrix", "auristorfs", "glusterfs", "acfs"),
    )
)
"""File systems whose files several nodes see; compared with libmount's mnt_fstype_is_netfs and gnulib's ME_REMOTE."""

NETWORK_FUSE = frozenset(
    (
        *("ceph", "ceph-fuse", "glusterfs", "sshfs", "cvmfs2", "s3fs", "gcsfuse", "goofys", "mount-s3", "rclone"),
        *("juicefs", "mfs", "mfsmount", "sfs", "saunafs", "lizardfs", "seaweedfs", "quobyte", "dfuse", "pvfs2"),
        *("davfs", "curlftpfs", "hdfs", "fuse_dfs", "alluxio", "alluxio-fuse", "xrootdfs", "eosxd", "irodsfs"),
        *("onedata", "beegfs", "smbnetfs", "blobfuse", "blobfuse2", "gvfsd-fuse"),
    )
)
"""The same for FUSE: the part after `fuse.` in mountinfo, or the source of a plain `fuse` (as CernVM-FS is shown)."""

RAM = frozenset(("tmpfs", "ramfs", "devtmpfs", "rootfs"))
"""Files here take memory away from the job. `rootfs` is the initial ramdisk of a diskless node."""

PRIVATE_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run/user")  # noqa: S108 - to warn of them
"""Where sites give each job a directory of its own: Slurm's job_container/tmpfs and namespace/linux, pam_namespace,
private-tmpdir. Elsewhere, a mount that init does not see is nothing to warn of: autofs, containers, bind mounts."""


class FileSystem:
    """What a path lies on.

    `fstype` and `source` as mountinfo shows them (empty if unknown); `network`: other nodes may see the same files;
    `ram`: it lives in memory; `available` and `total` in bytes, the first for ordinary users, without what is reserved
    for root; `private`: why nobody but this job or login sees these files, empty if they are public or nobody knows.
    """

    __slots__ = ("available", "fstype", "network", "private", "ram", "read_only", "source", "total")

    def __init__(self, mount: Mount | None, space: os.statvfs_result, private: str) -> None:
        self.fstype = mount.fstype if mount else ""
        self.source = mount.source if mount else ""
        self.network = is_network(self.fstype, self.source)
        self.ram = self.fstype in RAM
        self.available = space.f_bavail * space.f_frsize
        self.total = space.f_blocks * space.f_frsize
        self.read_only = bool(space.f_flag & os.ST_RDONLY)
        self.private = private


def inspect(path: str, places: Iterable[str] = PRIVATE_PLACES) -> FileSystem:
    """Return the file system that `path`, or its nearest ancestor that exists, lies on. Raises OSError.

    `places` are the directories below which being private is a matter (see `privacy`); init's mounts are readable by
    everybody unless /proc is mounted with hidepid, and then nobody knows.
    """
    real = os.path.realpath(path)
    there = nearest(real)
    space = os.statvfs(there)  # before the table is read: this makes autofs mount
    mine = mountinfo.read()
    return FileSystem(mountinfo.covering(mine, there), space, privacy(real, mine, _mounts_of_init(), places))


def nearest(path: str) -> str:
    """Return an absolute path if it exists, else its nearest ancestor that does."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def is_network(fstype: str, source: str) -> bool:
    """Whether several nodes may see the files of such a file system.

    FUSE file systems that nobody has heard of count as local: refusing a good local disk would be the greater evil.
    """
    kind, _, program = fstype.partition(".")
    if kind not in ("fuse", "fuseblk"):
        return fstype in NETWORK
    return (program or source.partition("#")[0]) in NETWORK_FUSE


def privacy(path: str, mine: list[Mount], inits: list[Mount], places: Iterable[str] = PRIVATE_PLACES) -> str:
    """Return why a path is private to this mount namespace, or "" if it is not, or cannot be known.

    `path` is absolute and without symbolic links. It is private if it lies below one of `places` and init (process 1)
    has another directory under this name: another file system, or another place in the same one. A container with
    process ids of its own has an init of its own, so that nothing is known there.
    """
    place = next((place for place in places if path == place or path.startswith(f"{place}/")), "")
    here, there = mountinfo.covering(mine, path), mountinfo.covering(inits, path)
    if not place or here is None or there is None:
        return ""
    if (here.device, here.inside(path)) == (there.device, there.inside(path)):
        return ""
    return f"{place} is not the node's own here, but a mount of {here.source}:{here.root} that other jobs do not see"


def _mounts_of_init() -> list[Mount]:
    try:
        return mountinfo.read(1)
    except OSError:
        return []
