"""Published images: look up, publish, remove. An image exists from the rename of its directory on, or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from stager.errors import InvalidReference
from stager.interfaces import ImageInfo, Partition
from stager.layout import FORMAT_SUFFIXES
from stager.reference import Digest
from stager.store import files
from stager.store.folder import open_to_leases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.layout import Layout
    from stager.oci import ContainerConfig


SETTLED_SECONDS = 2.0

LARGEST_CONFIG = files.LARGEST_RECORD // 4
"""Bytes of a container's configuration that a sidecar keeps; its indentation may double them."""


@dataclass(frozen=True, slots=True)
class StagedImage:
    """An image in the store. `inode` and `mtime_ns` are those of the verified file; `fetched` is wall-clock seconds."""

    digest: Digest
    path: str
    info: ImageInfo
    origin: str
    fetched: float
    inode: int
    mtime_ns: int
    private: bool = False

    @property
    def size(self) -> int:
        """Size of the file, in bytes."""
        return self.info.size

    @property
    def leases(self) -> str:
        """The directory of the image's leases, in the store that holds it."""
        root = self.path.rpartition("/images/sha256/")[0]
        return f"{root}/leases/{self.digest.hex}"

    def describe(self) -> dict[str, object]:
        """Return the sidecar's content."""
        bare = replace(self.info, config=None)
        record = asdict(replace(self, digest=str(self.digest), info=bare))  # type: ignore[arg-type]
        del record["path"], record["info"]["config"]
        if self.info.config is not None:
            record["info"]["config"] = _kept(self.info.config)
        return record


def lookup(layout: Layout, digest: Digest) -> StagedImage | None:
    """Return the image if it is there and still the file that was verified, by size, inode and mtime; else None."""
    image = read_sidecar(layout, digest)
    if image is None or not _is_unchanged(image):
        return None
    return image


def read_sidecar(layout: Layout, digest: Digest) -> StagedImage | None:
    """Return what the sidecar says, without looking at the image; None if there is no sound one."""
    text = files.read_text(layout.sidecar(digest))
    if text is None:
        return None
    try:
        return _parse(layout, json.loads(text), digest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidReference):
        return None


def publish(layout: Layout, data: str, digest: Digest, info: ImageInfo, *, origin: str, private: bool) -> StagedImage:
    """Make the verified file `data` (in this store, fsynced) an image; return it, or the one that was there first.

    `data` keeps its name, so that a crash before the rename costs nothing: the next call publishes it again. A damaged
    image in the way is moved to quarantine. Raises OSError.
    """
    present = lookup(layout, digest)
    if present is not None:
        return present  # perhaps this very file, which a second sealing would make look touched
    status = _seal(data, private=private)
    image = StagedImage(
        digest, layout.image_file(digest, info.format), info, origin, _now(), status.st_ino, status.st_mtime_ns, private
    )
    aside = f"{layout.images}/{digest.hex[:2]}/.{digest.hex}.{files.unique()}"
    files.make_folders(os.path.dirname(aside))
    os.mkdir(aside, 0o700 if private else 0o755)
    open_to_leases(layout.leases(digest))
    try:
        _fill(aside, data, image, 0o600 if private else 0o644)
        return _appear(layout, aside, image)
    finally:
        files.discard_tree(aside)


def _seal(data: str, *, private: bool) -> os.stat_result:
    # The mtime is set to a whole second that has passed: a later write in place, even within the same kernel tick of
    # some milliseconds, cannot give the same one again, and shells that compare whole seconds see it, too.
    os.chmod(data, 0o400 if private else 0o444)
    settled = int(_now() - SETTLED_SECONDS) * 10**9
    os.utime(data, ns=(settled, settled))
    return os.stat(data)


def _fill(aside: str, data: str, image: StagedImage, mode: int) -> None:
    os.link(data, f"{aside}/{os.path.basename(image.path)}")
    _link_twin(data, f"{aside}/twin")
    files.write_text(f"{aside}/image.json", json.dumps(image.describe(), indent=1), mode, durable=True)


def _link_twin(path: str, twin: str) -> None:
    # Without a twin the shell wrapper leaves its answers to the CLI, which compares inode numbers itself.
    try:
        os.link(path, twin)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise


def _appear(layout: Layout, aside: str, image: StagedImage) -> StagedImage:
    final = layout.image_dir(image.digest)
    for _ in range(3):
        try:
            os.rename(aside, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            present = lookup(layout, image.digest)
            if present is not None:
                return present
            quarantine(layout, image.digest)
        else:
            files.sync_directory(os.path.dirname(final))
            return image
    raise OSError(errno.EBUSY, "the image's directory keeps being replaced", final)


def mend(layout: Layout, digest: Digest, path: str, info: ImageInfo) -> StagedImage:
    """Write the sidecar of an image whose bytes were just found to be right, and make it safe to share again."""
    old = read_sidecar(layout, digest)
    proper = layout.image_file(digest, info.format)
    if path != proper:
        os.rename(path, proper)
    private = old.private if old else not os.stat(proper).st_mode & 0o044
    status = _seal(proper, private=private)
    origin, fetched = (old.origin, old.fetched) if old else ("", _now())
    image = StagedImage(digest, proper, info, origin, fetched, status.st_ino, status.st_mtime_ns, private)
    text = json.dumps(image.describe(), indent=1)
    files.write_text(layout.sidecar(digest), text, 0o600 if private else 0o644, durable=True)
    files.discard(layout.twin(digest))
    _link_twin(proper, layout.twin(digest))
    return image


def remove(layout: Layout, digest: Digest, keep: Callable[[], bool] = lambda: False) -> int:
    """Unpublish an image and free its bytes; return how many.

    The sidecar is hidden first, so that nobody finds the image any more while its path still works for those who have
    it; then `keep` is asked, and everything is put back if somebody turns out to use it. A death in between leaves an
    image without a sidecar, which the next one who wants it mends.
    """
    final, size = layout.image_dir(digest), size_of(layout, digest)
    hidden = f"{final}/.image.json.{files.unique()}"
    aside = f"{layout.images}/{digest.hex[:2]}/.{digest.hex}.{files.unique()}"
    try:
        os.rename(layout.sidecar(digest), hidden)
    except OSError:
        hidden = ""
    if keep():
        _put_back(hidden, layout.sidecar(digest))
        return 0
    try:
        os.rename(final, aside)
    except FileNotFoundError:
        return 0
    if keep():  # somebody mended and leased it in the last moment
        with suppress(OSError):  # or has even published it again
            os.rename(aside, final)
            _put_back(f"{final}/{os.path.basename(hidden)}", layout.sidecar(digest))
            return 0
    files.discard_tree(aside)
    return size


def _put_back(hidden: str, sidecar: str) -> None:
    with suppress(OSError):  # there is a newer one, or never was one
        os.link(hidden, sidecar)
    files.discard(hidden)


def size_of(layout: Layout, digest: Digest) -> int:
    """Return the bytes of an image's files as they are on disk; 0 for those that are going away."""
    size = 0
    for path in image_files(layout, digest):
        try:
            size += os.lstat(path).st_size
        except OSError:
            continue
    return size


def quarantine(layout: Layout, digest: Digest) -> str:
    """Take a bad image out of sight, for people to look at; return where it went."""
    place = layout.quarantine(f"{digest.hex}.{files.unique()}")
    try:
        os.rename(layout.image_dir(digest), place)
    except FileNotFoundError:
        return ""
    return place


def digests(layout: Layout) -> Iterator[Digest]:
    """Yield the digests of all published images, in order."""
    for parent, child in files.walk_pairs(layout.images):
        if len(child) == 64 and child.startswith(parent) and not set(child) - set("0123456789abcdef"):
            yield Digest(child)


def image_files(layout: Layout, digest: Digest) -> list[str]:
    """Return the paths in an image's directory that carry an image's name, sound or not."""
    folder = layout.image_dir(digest)
    return [f"{folder}/image{end}" for end in FORMAT_SUFFIXES.values() if os.path.lexists(f"{folder}/image{end}")]


def last_used(layout: Layout, digest: Digest) -> float:
    """Return when the image was last leased or, failing that, published; wall-clock seconds.

    Taking a lease makes a file in the image's lease directory, which moves that directory's mtime: no record to keep.
    """
    times = [0.0]
    for path in (layout.leases(digest), layout.sidecar(digest)):
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:
            continue
    return max(times)


def _is_unchanged(image: StagedImage) -> bool:
    try:
        status = os.lstat(image.path)
    except OSError:
        return False
    seen = (status.st_size, status.st_ino, status.st_mtime_ns)
    return (
        stat.S_ISREG(status.st_mode) and files.is_trusted(status) and seen == (image.size, image.inode, image.mtime_ns)
    )


def _kept(config: ContainerConfig) -> dict[str, object] | None:
    # What is larger than a record may be would make the whole of it unreadable. Labels are what grows: some builders
    # put a bill of materials into them.
    for described in (config.describe(), config.describe() | {"Labels": {}}):
        if len(json.dumps(described)) <= LARGEST_CONFIG:
            return described
    return None


def _config(described: object) -> ContainerConfig | None:
    if not isinstance(described, dict):
        return None
    from stager.oci import read_described

    return read_described(described)


def _parse(layout: Layout, record: dict[str, object], digest: Digest) -> StagedImage | None:
    info = record["info"]
    if record["digest"] != str(digest) or not isinstance(info, dict) or info["format"] not in FORMAT_SUFFIXES:
        return None
    partitions = tuple(Partition(**part) for part in info.pop("partitions"))
    config = _config(info.pop("config", None))
    known = ImageInfo(root=Partition(**info.pop("root")), partitions=partitions, config=config, **info)
    fields = {name: record[name] for name in ("origin", "fetched", "inode", "mtime_ns", "private")}
    return StagedImage(digest, layout.image_file(digest, known.format), known, **fields)  # type: ignore[arg-type]


def _now() -> float:
    from time import time

    return time()
