"""256 tasks and a real web server: one GET, whole images, and the same words for all when there is none."""

from __future__ import annotations

import sys
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import Nginx
from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import ROOT, Tasks, all_but_one_wait, all_end, held, image, published, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("nginx")

CROWD = 256

IN_A_JOB = {"SLURM_JOB_ID": "4711"}

BACK_OFF = 10.0
"""Seconds for which a failure stands unless told otherwise."""

WRAPPER = ROOT / "sbatch-wrapper" / "stage-image"

RATE = 2 << 20
"""Bytes per second: slow enough for a crowd to gather, quick enough for a test."""


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    (tmp_path / "www").mkdir()
    bytes_of_it = image(4 << 20)
    (tmp_path / "www" / "tool.sqsh").write_bytes(bytes_of_it)
    return bytes_of_it


@pytest.mark.parametrize("job", [{}, IN_A_JOB], ids=["no-job", "job"])
def test_a_storm_is_one_get(tmp_path: Path, store_path: Path, content: bytes, job: dict[str, str]) -> None:
    with Nginx(tmp_path / "www", rate=RATE) as nginx, Tasks(tmp_path, **job) as tasks:
        crowd = tasks.many(CROWD, nginx.url("/tool.sqsh"))
        all_end(crowd)
        log = nginx.logged(1)
        assert [(line.method, line.status, line.size) for line in log] == [("GET", 200, len(content))]
    assert {task.answer for task in crowd} == {str(published(store_path, content))}


def test_every_one_of_the_storm_runs_on_the_whole_image(tmp_path: Path, content: bytes) -> None:
    command = ("--", "sh", "-c", 'sha256sum < "$STAGE_IMAGE_PATH"')
    with Nginx(tmp_path / "www", rate=RATE) as nginx, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = nginx.url("/tool.sqsh")
        crowd = tasks.many(CROWD // 2, "exec", "--runtime=none", "--mount=none", url, *command)
        all_end(crowd)
        assert len(nginx.logged(1)) == 1
    assert {task.answer for task in crowd} == {f"{sha256(content).hexdigest()}  -"}


def test_a_storm_through_the_wrapper(tmp_path: Path, store_path: Path, content: bytes) -> None:
    with Nginx(tmp_path / "www", rate=RATE) as nginx, Tasks(tmp_path, **IN_A_JOB) as tasks:
        path = f"{installed(tmp_path)}:{tasks.environ()['PATH']}"
        crowd = [
            tasks.start(nginx.url("/tool.sqsh"), program=(str(WRAPPER),), env={"PATH": path}) for _ in range(CROWD)
        ]
        all_end(crowd)
        assert len(nginx.logged(1)) == 1
        again = tasks.run(nginx.url("/tool.sqsh"), program=(str(WRAPPER),), env={"PATH": "/nowhere"})
    assert {task.answer for task in [*crowd, again]} == {str(published(store_path, content))}


def test_a_storm_that_is_refused_by_an_nginx_with_nothing(tmp_path: Path, content: bytes) -> None:
    with Nginx(tmp_path / "www") as nginx, Tasks(tmp_path, **IN_A_JOB) as tasks:
        crowd = tasks.many(CROWD // 4, nginx.url("/missing.sqsh"))
        all_end(crowd, 66)
        assert len(nginx.logged(1)) == 1


def test_a_storm_is_told_of_a_failure_before_anybody_would_try_again(tmp_path: Path) -> None:
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        crowd = tasks.many(CROWD, origin.put("/missing.sqsh", b"", Fault(stall=stall, status=404)))
        all_but_one_wait(crowd)
        stall.go.set()
        answered = time.monotonic()
        all_end(crowd, 66)
        assert time.monotonic() - answered < BACK_OFF
        assert len(origin.requests) == 1
    assert len({tuple(task.err.splitlines()[-2:]) for task in crowd}) == 1


def test_the_server_dies_and_comes_back(tmp_path: Path, store_path: Path, content: bytes) -> None:
    with Nginx(tmp_path / "www", rate=RATE) as nginx, Tasks(tmp_path, **IN_A_JOB) as tasks:
        crowd = tasks.many(8, nginx.url("/tool.sqsh"))
        until(lambda: held(store_path) > 1 << 20, "some bytes")
        nginx.stop()
        until(lambda: any("trying again" in task.err for task in crowd), "the leader to notice")
        nginx.start()
        all_end(crowd)
        (rest,) = nginx.logged(1)  # nginx does not write down what its own end cuts off
        assert (rest.status, rest.range.partition("=")[0]) == (206, "bytes")
        assert rest.size < len(content) - (1 << 20)
    assert {task.answer for task in crowd} == {str(published(store_path, content))}


def test_the_last_waiter_is_released_with_the_first(tmp_path: Path, content: bytes) -> None:
    """Told by the waiters themselves: each writes the time at which it has its answer."""
    with Nginx(tmp_path / "www", rate=RATE) as nginx, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = nginx.url("/tool.sqsh")
        options = ("exec", "--runtime=none", "--mount=none", url, "--", "date", "+%s.%N")
        began = time.time()
        crowd = tasks.many(16, *options)
        all_end(crowd)
        times = sorted(float(task.answer) for task in crowd)
    assert began < times[0]
    assert times[-1] - times[0] < 2


def installed(folder: Path) -> Path:
    """Return a directory with a `stage-image`, as an installation makes it."""
    program = folder / "bin" / "stage-image"
    program.parent.mkdir()
    lines = ("import sys", f"sys.path.insert(0, {str(ROOT)!r})", "from stager.cli.main import main", "sys.exit(main())")
    program.write_text("\n".join((f"#!{sys.executable}", *lines, "")))
    program.chmod(0o755)
    return program.parent
