"""A staged image with the warm record of one command line, both ways of reading it, and faults of one thing each."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from stager import warm
from stager.interfaces import ImageInfo, Partition
from stager.layout import UNMOUNTED, Layout
from stager.process import session_leader
from stager.reference import Digest
from stager.store import images
from stager.store.folder import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stager.store.images import StagedImage

WRAPPER = Path(__file__).parents[2] / "sbatch-wrapper" / "stage-image"

CLI = "the CLI was asked"
"""What the stand-in for the CLI says."""

CONTENT = bytes(range(256))
NOBODY = 65534
TOOLS = "/usr/bin:/bin"

REFERENCE = "/shared/tool.sqsh"

FORMS = {
    "path": ("{}",),
    "mount": ("mount", "--mount=loop", "{}"),
    "exec": ("exec", "--mount=none", "{}", "--", "sh", "-c", 'echo "$STAGE_IMAGE_PATH"'),
}
"""Verb → a command line, with the reference for the braces."""

JOB = {"SLURM_JOB_ID": "4711"}


@cache
def shells() -> dict[str, tuple[str, ...]]:
    """Return the shells on this machine that the wrapper is written for."""
    commands = (("dash",), ("bash", "--posix"), ("bash", "-p"), ("busybox", "ash"))
    return {" ".join(command): command for command in commands if shutil.which(command[0])}


def program(path: Path, *lines: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


@dataclass
class Scene:
    """What lies below `folder`: a store with one image, leased by nobody, and a record that answers `words`."""

    folder: Path
    environ: dict[str, str]
    words: list[str]
    image: StagedImage
    record: Path
    root: Path

    @property
    def answer(self) -> str:
        """What the record answers."""
        return str(self.root) if self.words[0] == "mount" else self.image.path

    @property
    def path(self) -> Path:
        """The image file."""
        return Path(self.image.path)

    @property
    def scope(self) -> Path:
        """The directory of the record."""
        return self.record.parent

    @property
    def store(self) -> Path:
        """The store."""
        return self.scope.parent.parent

    @property
    def lease(self) -> Path:
        """The lease that an answer leaves, but for `exec`."""
        return Path(self.image.leases, f"{self.scope.name}@{session_leader()}")

    def by_python(self) -> str:
        """Return what `stager.warm` answers, or CLI."""
        with patch.dict(os.environ, self.environ, clear=True):
            question = warm.parse(self.words)
            if question is None or not warm.is_plain(self.environ):
                return CLI
            found = warm.answer(question, warm.Place(self.environ))
        return CLI if found is None else found.root if question.verb == "mount" else found.path

    def by_wrapper(self, shell: str) -> str:
        """Return what the wrapper answers, or CLI."""
        command = [*shells()[shell], str(WRAPPER), *self.words]
        done = subprocess.run(
            command, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), done
        return os.fsdecode(done.stdout).removesuffix("\n")

    def leave(self, runtime: str = "auto") -> None:
        """Leave the record, of the image as it is now."""
        image = replace(self.image, mtime_ns=self.path.stat().st_mtime_ns)
        mount = (str(self.root), str(self.root.parent / "users")) if self.root.is_absolute() else None
        store = self.environ.get("STAGE_IMAGE_STORE", "")
        with patch.dict(os.environ, self.environ, clear=True):
            warm.leave(str(self.record), image, store=store, until=0, mount=mount, leases=image.leases, runtime=runtime)

    def rewrite(self, key: str, value: str) -> None:
        """Change a line of the record, and nothing else of it."""
        lines = self.record.read_text().splitlines()
        self.write_record("".join(f"{key} {value}\n" if line.startswith(f"{key} ") else f"{line}\n" for line in lines))

    def write_record(self, text: str) -> None:
        """Give the record another content, and leave its mtime."""
        time = self.record.stat().st_mtime_ns
        self.record.write_text(text)
        os.utime(self.record, ns=(time, time))


def set_up(
    folder: Path, verb: str = "path", text: str = REFERENCE, job: Mapping[str, str] = JOB, *, default: bool = False
) -> Scene:
    """Stage an image below `folder`, without any origin, and leave the record for a call of `verb` in a job.

    There is no record if there must not be one for such a reference. `default`: in the store of those who name none.
    """
    store = warm.base({}) if default else str(folder / "store")
    environ = {"PATH": f"{folder / 'bin'}:{TOOLS}", **job} | ({} if default else {"STAGE_IMAGE_STORE": store})
    words = [word.format(text) for word in FORMS[verb]]
    program(folder / "bin" / "stage-image", f"echo {CLI}")
    with patch("os.fsync"), patch.dict(os.environ, environ, clear=True):
        layout = open_store(store)
        image = _published(layout, Path(store, "partial", "data"))
        root = _mounted(Path(layout.mountpoint(image.digest, "loop"))) if verb == "mount" else Path()
        question = warm.parse(words)
        assert question is not None, words
        record = warm.Place(environ).record(question)
    scene = Scene(folder, environ, words, image, Path(record or folder / "none"), root)
    if record is not None:
        scene.leave()
    return scene


def _mounted(root: Path) -> Path:
    # What the record's readers look at, but no mount: that takes root, and tests/concurrency does it.
    root.mkdir(parents=True)
    (root.parent / "ready").touch()
    (root.parent / "users").mkdir()
    return root


def _published(layout: Layout, data: Path) -> StagedImage:
    data.write_bytes(CONTENT)
    info = ImageInfo("squashfs", len(CONTENT), "gzip", Partition(0, len(CONTENT), "squashfs", primary=True))
    image = images.publish(layout, str(data), Digest(sha256(CONTENT).hexdigest()), info, origin="", private=False)
    data.unlink()
    return image


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `verb`: with which one only; `unseen`: who cannot see it, python or the shell."""

    apply: Callable[[Scene], object]
    verb: str = ""
    unseen: str = ""
    root: bool = False
    """Whether it takes root to make it."""


def faults(verb: str) -> dict[str, Fault]:
    """Return the faults that there may be with a verb, and that we may make."""
    mine = {name: fault for name, fault in FAULTS.items() if fault.verb in ("", verb)}
    return {name: fault for name, fault in mine.items() if os.geteuid() == 0 or not fault.root}


def apply(scene: Scene, names: set[str]) -> None:
    """Make the faults; one that another leaves nothing of is no error."""
    for name, fault in FAULTS.items():
        if name in names:
            with suppress(FileNotFoundError, NotADirectoryError, FileExistsError):
                fault.apply(scene)


def _linked(path: Path, to: str = "moved") -> None:
    path.rename(path.with_name(to))
    path.symlink_to(path.with_name(to))


def _copied(scene: Scene) -> None:
    copy = scene.path.with_name("copy")
    shutil.copy2(scene.path, copy)
    copy.rename(scene.path)


def _write_image(scene: Scene, content: bytes, *, set_back: bool = False) -> None:
    scene.path.chmod(0o644)
    scene.path.write_bytes(content)
    scene.path.chmod(0o444)
    if set_back:
        os.utime(scene.path, ns=(scene.image.mtime_ns, scene.image.mtime_ns))


def _later(path: Path, seconds: int) -> None:
    time = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(time, time))


def _replaced_by_file(path: str) -> None:
    shutil.rmtree(path)
    Path(path).touch()


def _fifo(scene: Scene) -> None:
    scene.record.unlink()
    os.mkfifo(scene.record)


def _leased_by(scene: Scene, target: str) -> None:
    scene.lease.parent.mkdir(exist_ok=True)
    if target:
        scene.lease.symlink_to(target)
    else:
        scene.lease.mkdir()


def _leased_by_nobody(scene: Scene) -> None:
    scene.lease.parent.mkdir(exist_ok=True)
    scene.lease.touch()
    os.chown(scene.lease, NOBODY, 0)


def _unlink(path: Path) -> None:
    path.unlink()


def _of(scene: Scene, **environ: str) -> None:
    scene.environ.update(environ)


# In an order in which none undoes another.
FAULTS = {
    # First: writing a record anew would undo what others do to it, its end and its mode.
    "another mount": Fault(lambda s: s.rewrite("file", f"{_file(s)} 7"), "mount", unseen="shell"),
    "no record": Fault(lambda s: _unlink(s.record)),
    "a record cut short": Fault(lambda s: s.write_record(s.record.read_text()[:-1])),
    "a record without its last line": Fault(lambda s: s.write_record(s.record.read_text().partition("file ")[0])),
    "a record that goes on": Fault(lambda s: s.write_record(s.record.read_text() + "more \n")),
    "a record that goes on without an end": Fault(lambda s: s.write_record(s.record.read_text() + "more")),
    "a record of other words": Fault(lambda s: s.write_record(s.record.read_text().replace("until ", "before "))),
    "a record of another question": Fault(lambda s: s.rewrite("answer", "slurm-4711/path,,,%shared%other.sqsh")),
    "a record of another job": Fault(lambda s: s.rewrite("answer", f"slurm-1/{s.record.name}")),
    "a record of another store": Fault(lambda s: s.rewrite("store", "/elsewhere")),
    "a record of another boot": Fault(lambda s: s.rewrite("boot", "01234567")),
    "a record whose time has passed": Fault(lambda s: s.rewrite("until", "1")),
    "a record without a time": Fault(lambda s: s.rewrite("until", "")),
    "a record with an odd time": Fault(lambda s: s.rewrite("until", "0x7fffffff")),
    "a record of another image": Fault(lambda s: s.rewrite("path", s.image.path.replace(s.image.digest.hex, "0" * 64))),
    "a record of no image": Fault(lambda s: s.rewrite("path", "/etc/passwd")),
    "a record of another time": Fault(lambda s: _later(s.record, 1), unseen="python"),
    "a record that is a link": Fault(lambda s: _linked(s.record)),
    "a record of somebody else": Fault(lambda s: os.chown(s.record, NOBODY, 0), root=True),
    "a record that others may write": Fault(lambda s: s.record.chmod(0o620), unseen="shell"),
    "a scope of somebody else": Fault(lambda s: os.chown(s.scope, NOBODY, 0), root=True),
    "a scope that others may write": Fault(lambda s: s.scope.chmod(0o770), unseen="shell"),
    "a scope that is a link": Fault(lambda s: _linked(s.scope)),
    "records of somebody else": Fault(lambda s: os.chown(s.scope.parent, NOBODY, 0), root=True),
    "records that are a link": Fault(lambda s: _linked(s.scope.parent)),
    "a store of somebody else": Fault(lambda s: os.chown(s.store, NOBODY, 0), root=True),
    "a store that others may write": Fault(lambda s: s.store.chmod(0o777), unseen="shell"),
    "a store that is a link": Fault(lambda s: _linked(s.store)),
    "an image truncated, its mtime set back": Fault(lambda s: _write_image(s, b"", set_back=True), unseen="shell"),
    "an image written in place": Fault(lambda s: _write_image(s, CONTENT[::-1])),
    "an image truncated": Fault(lambda s: _write_image(s, CONTENT[:-1])),
    "an image of another time": Fault(lambda s: _later(s.path, 2)),
    "an image of an earlier time": Fault(lambda s: _later(s.path, -1)),
    "an image replaced by its copy": Fault(_copied),
    "an image that others may write": Fault(lambda s: s.path.chmod(0o464), unseen="shell"),
    "an image of somebody else": Fault(lambda s: os.chown(s.path, NOBODY, 0), root=True),
    "an image that is a link": Fault(lambda s: _linked(s.path)),
    "no image": Fault(lambda s: _unlink(s.path)),
    "no twin": Fault(lambda s: _unlink(s.path.with_name("twin")), unseen="python"),
    "an image about to be evicted": Fault(lambda s: _unlink(s.path.with_name("image.json"))),
    "an image out of sight": Fault(lambda s: s.path.parent.rename(s.path.parent.with_name(".aside"))),
    "leases that are a file": Fault(lambda s: _replaced_by_file(s.image.leases)),
    "leases that are a link": Fault(lambda s: _linked(Path(s.image.leases))),
    "a lease that is a link": Fault(lambda s: _leased_by(s, s.image.path), "path", unseen="python"),
    "a lease that is a folder": Fault(lambda s: _leased_by(s, ""), "path", unseen="python"),
    "a lease of somebody else": Fault(_leased_by_nobody, "path", unseen="python", root=True),
    "a mountpoint that was linked": Fault(lambda s: (s.root / UNMOUNTED).symlink_to("nothing"), "mount"),
    "a bare mountpoint": Fault(lambda s: (s.root / UNMOUNTED).touch(), "mount"),
    "a mountpoint about to be unmounted": Fault(lambda s: _unlink(s.root.parent / "ready"), "mount"),
    "a mountpoint that is a link": Fault(lambda s: _linked(s.root, "there"), "mount"),
    "no mountpoint": Fault(lambda s: s.root.rename(s.root.with_name("gone")), "mount"),
    "no mount": Fault(lambda s: s.rewrite("root", ""), "mount"),
    "a record without runtime": Fault(lambda s: s.rewrite("runtime", ""), "exec"),
    "a runtime that has gone": Fault(lambda s: s.rewrite("runtime", "auto:singularity"), "exec"),
    "a runtime that has come": Fault(lambda s: program(s.folder / "bin" / "apptainer", "exit 1"), "exec"),
    "another job": Fault(lambda s: _of(s, SLURM_JOB_ID="4712")),
    "another store": Fault(lambda s: _of(s, STAGE_IMAGE_STORE=str(s.folder / "another"))),
    "another setting": Fault(lambda s: _of(s, STAGE_IMAGE_OFFLINE="allow")),
    "a setting that is empty": Fault(lambda s: _of(s, STAGE_IMAGE_FRESHNESS="")),
    "other settings": Fault(lambda s: _of(s, STAGE_IMAGE_CONFIG="/dev/null")),
    "a record that is a FIFO": Fault(_fifo),
}


def _file(scene: Scene) -> str:
    return f"{scene.image.inode} {scene.image.size} {scene.image.mtime_ns}"
