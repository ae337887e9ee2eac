"""Where it is measured: a folder, an installed stage-image, images, stores; all gone at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stager.layout import Layout
from tests.bench.processes import Failed, Launcher
from tests.support.capabilities import SYSTEM_PATH
from tests.support.image_factory import squashfs
from tests.support.leftovers import Traces
from tests.support.mounting import loop_devices_put_back

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WRAPPER = ROOT / "sbatch-wrapper" / "stage-image"

GREETING = b"hello from the image\n"
MIB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """How much is measured; sizes in bytes, `rate` in bytes per second, `installed`: by pip, as users do."""

    warm: int
    rounds: int
    tasks: int
    waiters: tuple[int, ...]
    image: int
    rate: int
    memory: int
    installed: bool


FULL = Scale(300, 3, 256, (64, 256), 1024 * MIB, 100_000_000, 512 * MIB, installed=True)
QUICK = Scale(2, 1, 4, (2,), 4 * MIB, 40_000_000, 8 * MIB, installed=False)


class Ground:
    """The place of one run, as a context manager: `launcher` starts processes there, as in a job of Slurm's."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._ending = ExitStack()
        self._jobs = 0

    def __enter__(self) -> Self:
        # On a disk: /tmp is memory on many nodes, and no node stages gigabytes into memory.
        self.folder = Path(tempfile.mkdtemp(prefix="stage-image-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
        self._ending.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._ending.enter_context(loop_devices_put_back())
            self._ending.callback(self._unmount, self.folder)
            self._install()
            log = str(self.folder / "stderr")
            self.launcher = self._ending.enter_context(Launcher(self._environ(), log))
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @property
    def cli(self) -> str:
        """The console script."""
        return str(self.folder / "venv" / "bin" / "stage-image")

    @property
    def python(self) -> str:
        """The interpreter that runs the console script."""
        return str(self.folder / "venv" / "bin" / "python")

    @property
    def front(self) -> str:
        """What tasks call: the wrapper, or the console script where there is none."""
        return str(WRAPPER) if WRAPPER.exists() else self.cli

    def image(self, size: int) -> Path:
        """Return a squashfs image of two files: GREETING in `hello`, and `size` random bytes in `payload`."""
        path = self.folder / "images" / f"{size // MIB}.sqsh"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            tree = self.folder / "tree"
            tree.mkdir()
            (tree / "hello").write_bytes(GREETING)
            with (tree / "payload").open("wb") as payload:
                for _ in range(size // MIB):
                    payload.write(os.urandom(MIB))
            # Random bytes cannot be compressed; trying takes a minute per GiB and comes to the same image.
            squashfs(path, tree, "gzip", "-noD", "-noF")
            shutil.rmtree(tree)
        return path

    @contextmanager
    def job(self) -> Iterator[dict[str, str]]:
        """Yield what the environment of a new job with an empty store has in addition; nothing is left of it after."""
        self._jobs += 1
        store = self.folder / f"store{self._jobs}"
        os.sync()  # what the last one left to be written must not be written in the time of the next one
        try:
            yield {"STAGE_IMAGE_STORE": str(store), "SLURM_JOB_ID": str(self._jobs)}
        finally:
            self._unmount(store)
            shutil.rmtree(store, ignore_errors=True)

    def output(self, *command: str, **more: str) -> str:
        """Return what a command prints. Raises Failed."""
        environ = {**self._environ(), **more}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{' '.join(command)!r} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _environ(self) -> dict[str, str]:
        """Return the environment of every measured process: nothing of the caller's but what it needs to find programs.

        The CLI is first on PATH and its interpreter is named, so that the wrapper takes this one and no other.
        """
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        path = f"{os.path.dirname(self.cli)}:/usr/local/bin:/usr/bin:/bin:{SYSTEM_PATH}"
        return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "STAGE_IMAGE_PYTHON": self.python}

    def _install(self) -> None:
        venv = self.folder / "venv"
        pip = [] if self.scale.installed else ["--without-pip"]
        _run(sys.executable, "-m", "venv", *pip, str(venv))
        if self.scale.installed:
            _run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT))
            return
        # Quick and without a network: the checkout, and whatever this very interpreter has installed.
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        libraries = [str(ROOT), sysconfig.get_path("purelib")]
        (venv / "lib" / version / "site-packages" / "bench.pth").write_text("\n".join(libraries) + "\n")
        script = f"#!{self.python}\nimport sys\nfrom stager.cli.main import main\nsys.exit(main())\n"
        Path(self.cli).write_text(script)
        Path(self.cli).chmod(0o755)

    def _unmount(self, below: Path) -> None:
        for point in Traces("none", (str(below),)).mounts():
            subprocess.run(["umount", point], check=True)


def published(store: str) -> float:
    """Return when the one image of a store came to exist, in seconds since the epoch.

    That is the rename of its directory, which moves the directory's ctime; nothing else does later.
    """
    (folder,) = Path(Layout(store).images).glob("??/????*")
    return folder.stat().st_ctime_ns / 1e9


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)!r} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
