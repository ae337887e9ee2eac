"""`stage-image demo`: an origin, an empty store, 32 task processes; one download, one mount."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from stager.cli.output import write
from stager.demo import squashfs
from stager.demo.origin import running
from stager.store.room import show_bytes

if TYPE_CHECKING:
    import argparse

    from stager.demo.origin import Origin

EPILOG = """\
Everything happens on this machine: the origin listens on 127.0.0.1, the store lies in a temporary directory below
/var/tmp, and nothing stays behind. As root the image is loop-mounted; as a user by squashfuse_ll, where there is one.
"""

GREETING = b"hello from the image\n"
TASK = """\
if [ -n "$STAGE_IMAGE_ROOT" ]; then cat "$STAGE_IMAGE_ROOT/hello"
else test -s "$STAGE_IMAGE_PATH" && echo staged; fi"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--tasks", type=int, default=32, metavar="N", help="how many tasks start at once (32)")
    parser.add_argument("--size", type=int, default=64, metavar="MIB", help="size of the image in MiB (64)")
    parser.add_argument("--rate", type=int, default=32, metavar="MIB", help="the origin's rate in MiB/s (32)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what happened. Raises RuntimeError if it is not as promised."""
    tasks = max(1, min(arguments.tasks, 1024))
    with tempfile.TemporaryDirectory(prefix="stage-image-demo-", dir="/var/tmp") as folder:
        image = f"{folder}/image.sqsh"
        with open(image, "wb") as file:
            squashfs.write(file, {"hello": GREETING, "payload": os.urandom(max(1, arguments.size) << 20)})
        write(f"origin: a squashfs image of {show_bytes(os.path.getsize(image))}, sent at {arguments.rate} MiB/s")
        environ = _environ(folder)
        with running(image, max(1, arguments.rate) << 20) as origin:
            try:
                _show(origin, tasks, environ)
            finally:
                _call(["umount", "--all", "--force", "--lazy"], environ)
    return 0


def _show(origin: Origin, tasks: int, environ: dict[str, str]) -> None:
    words = ["exec", "--runtime=none", origin.url, "--", "sh", "-c", TASK]
    write(f"{tasks} tasks, an empty store:  stage-image {' '.join(words[:3])} -- cat …")
    cold, logs = _start_together(words, tasks, environ)
    spoken = [line for line in "".join(logs).splitlines() if line]
    for line in dict.fromkeys(line for line in spoken if not _is_waiting(line)):
        write(f"  | {line}")
    waiting = [line for line in spoken if _is_waiting(line)]
    for line in waiting[:1]:
        write(f"  | {line}")
    write(f"the last task was done after {cold:.2f} s; {len(waiting)} of them waited for the one that downloads")
    write(f"the origin saw {len(origin.requests)} request: {'; '.join(origin.requests)}")
    if len(origin.requests) != 1:
        raise RuntimeError(f"the origin saw {len(origin.requests)} requests, not one")
    warm, _ = _start_together(words, tasks, environ)
    write(f"{tasks} tasks once more, on the staged image: {warm:.2f} s, no request")
    write(_call(["list"], environ).rstrip())


def _start_together(words: list[str], tasks: int, environ: dict[str, str]) -> tuple[float, list[str]]:
    """Run many tasks at once; return the seconds until the last one is done, and what each wrote to stderr."""
    begun = time.monotonic()
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(_command(words), env=environ, stdout=pipe, stderr=pipe, text=True) for _ in range(tasks)
    ]
    results = [process.communicate() for process in started]
    bad = [process.returncode for process in started if process.returncode != 0]
    answers = {answer for answer, _ in results}
    if bad or answers - {GREETING.decode(), "staged\n"}:
        raise RuntimeError(f"{len(bad)} tasks failed: {results[0][1]}{sorted(answers)}")
    return time.monotonic() - begun, [log for _, log in results]


def _call(words: list[str], environ: dict[str, str]) -> str:
    return subprocess.run(_command(words), env=environ, check=False, capture_output=True, text=True).stdout


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "stager", *words]


def _environ(folder: str) -> dict[str, str]:
    """Return an environment in which the tasks are those of one job of its own, with a store of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STAGE_IMAGE_", "SLURM_"))}
    return kept | {"STAGE_IMAGE_STORE": f"{folder}/store", "SLURM_JOB_ID": f"demo{os.getpid()}"}


def _is_waiting(line: str) -> bool:
    return " waiting for " in line
