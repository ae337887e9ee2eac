"""The load sensor on a real Grid Engine: what qmaster knows of three hosts, and an execd that no sensor can hurt."""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager.schedulers.sensor import BUSY, CUT, FREE, IMAGES, NONE, VALUE_MAX
from tests.support.gridengine import Bed, Machine, gridengine
from tests.support.tasks import image, until
from tests.support.told_store import ToldStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs("gridengine", "nginx")

INTERVAL = 1.0
"""Seconds between two reports of a host of the bed."""
MARGIN = 5.0
"""Seconds that two busy cores may add."""
SPINS = 0.5
"""Of a core: an execd whose sensor has ended takes all of one, and next to nothing otherwise."""
HERTZ = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with gridengine(tmp_path_factory.mktemp("sensor"), sensor=True) as bed:
        first = bed.origin.put("first.sqsh", image())
        for host in bed.hosts:
            stage(bed, host, first)
            # It makes the report that its fellow answers from.
            host.run("sh", "-c", "echo | stage-image load-sensor")
        for host in bed.hosts:
            bed.await_value(host, IMAGES[0], has(item("first.sqsh", image())))
        yield bed


def item(name: str, content: bytes) -> str:
    return f"{name}@{sha256(content).hexdigest()[:12]}"


def stage(bed: Bed, host: Machine, *urls: str) -> None:
    for url in urls:
        ran = bed.root.run("stage-image", "path", url, node=host)
        assert ran.code == 0, ran.err


def has(entry: str) -> Callable[[str], bool]:
    return lambda value: f";{entry};" in value


def lacks(entry: str) -> Callable[[str], bool]:
    return lambda value: f";{entry};" not in value


def contains(part: str, value: str) -> bool:
    return part in value


def programs(host: Machine, word: str) -> list[int]:
    """Return the processes of the host's sensor whose command has `word` in it."""
    mine = host.services()
    return sorted(pid for pid, command in host.host.commands().items() if pid in mine and word in command)


def shell(host: Machine) -> int:
    return next(pid for pid in programs(host, "gridengine/load-sensor") if "-c" not in _words(pid))


def teller(host: Machine) -> int:
    return until(lambda: programs(host, "/python "), "the teller")[0]


def _words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")


def cpu(pid: int) -> float:
    """Return the CPU seconds that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ


def rests(bed: Bed, host: Machine) -> None:
    """Fail unless execd idles, and a job still runs there."""
    pid = host.daemon.pid
    begin, used = time.monotonic(), cpu(pid)
    job = bed.qsub("#!/bin/sh\nhostname\n", "-l", f"hostname={host}")
    assert bed.await_job(job) == "0"
    assert bed.output(job) == f"{host}\n"
    assert host.daemon.pid == pid
    assert cpu(pid) - used < SPINS * (time.monotonic() - begin)


def test_what_a_host_has_is_known_within_an_interval_and_forgotten_with_it(bed: Bed) -> None:
    host, entry = bed.host("e1"), item("tool.sqsh", image(seed=2))
    stage(bed, host, bed.origin.put("tool.sqsh", image(seed=2)))
    begin = time.monotonic()
    bed.await_value(host, IMAGES[0], has(entry))
    assert time.monotonic() - begin < INTERVAL + MARGIN
    assert lacks(entry)(bed.qhost_values("e2")[IMAGES[0]])
    values = bed.qhost_values(host)
    assert {name: values[name] for name in IMAGES[1:]} == dict.fromkeys(IMAGES[1:], NONE)
    assert float(values[CUT]) == 0
    assert float(values[BUSY]) == 0
    assert re.fullmatch(r"[0-9.]+[GT]", values[FREE])

    ran = bed.root.run("stage-image", "remove", bed.origin.url("tool.sqsh"), node=host)
    assert ran.code == 0, ran.err
    begin = time.monotonic()
    bed.await_value(host, IMAGES[0], lacks(entry))
    assert time.monotonic() - begin < INTERVAL + MARGIN


def test_what_is_evicted_is_forgotten(bed: Bed) -> None:
    host = bed.host("e1")
    contents = {f"old-{number}.sqsh": image(seed=10 + number) for number in range(2)}
    stage(bed, host, *(bed.origin.put(name, content) for name, content in contents.items()))
    for name, content in contents.items():
        bed.await_value(host, IMAGES[0], has(item(name, content)))
    ran = bed.root.run("stage-image", "prune", node=host)
    assert ran.code == 0, ran.err
    for name, content in contents.items():
        bed.await_value(host, IMAGES[0], lacks(item(name, content)))


def test_a_staging_in_progress_is_counted(bed: Bed) -> None:
    host = bed.host("e2")
    url = bed.origin.put("slow.sqsh", image(8 << 20, seed=20))
    bed.switch.shape(bed.origin.host, 8)
    try:
        task = bed.root.start("stage-image", "path", url, node=host)
        bed.await_value(host, BUSY, lambda value: float(value) == 1)
    finally:
        bed.switch.shape(bed.origin.host, 0)
    assert task.done() == 0, task.err
    bed.await_value(host, BUSY, lambda value: float(value) == 0)
    bed.await_value(host, IMAGES[0], has(item("slow.sqsh", image(8 << 20, seed=20))))


def test_a_killed_teller_is_replaced(bed: Bed) -> None:
    host, entry = bed.host("e3"), item("kept.sqsh", image(seed=30))
    stage(bed, host, bed.origin.put("kept.sqsh", image(seed=30)))
    bed.await_value(host, IMAGES[0], has(entry))
    outer, inner = shell(host), teller(host)
    os.kill(inner, signal.SIGKILL)
    until(lambda: inner not in host.services() and teller(host) != inner, "another teller")
    bed.await_value(host, IMAGES[0], has(entry))
    assert shell(host) == outer
    rests(bed, host)


def test_a_hanging_teller_is_replaced_and_nothing_stale_is_told(bed: Bed) -> None:
    host, entry = bed.host("e3"), item("kept.sqsh", image(seed=30))
    stage(bed, host, bed.origin.put("kept.sqsh", image(seed=30)))
    bed.await_value(host, IMAGES[0], has(entry))
    outer, inner = shell(host), teller(host)
    os.kill(inner, signal.SIGSTOP)
    bed.await_value(host, IMAGES[0], lambda value: value == NONE)
    rests(bed, host)
    bed.await_value(host, IMAGES[0], has(entry))
    assert shell(host) == outer
    os.kill(inner, signal.SIGKILL)


def test_a_slow_teller_does_no_harm(bed: Bed) -> None:
    host, entry = bed.host("e3"), item("kept.sqsh", image(seed=30))
    stage(bed, host, bed.origin.put("kept.sqsh", image(seed=30)))
    bed.await_value(host, IMAGES[0], has(entry))
    inner = teller(host)
    for _ in range(3):
        os.kill(inner, signal.SIGSTOP)
        time.sleep(0.8)  # what is slow takes its time
        os.kill(inner, signal.SIGCONT)
    rests(bed, host)
    assert teller(host) == inner
    bed.await_value(host, IMAGES[0], has(entry))


def test_a_sensor_killed_between_two_reports_is_started_again(bed: Bed) -> None:
    host, entry = bed.host("e3"), item("kept.sqsh", image(seed=30))
    stage(bed, host, bed.origin.put("kept.sqsh", image(seed=30)))
    outer = shell(host)
    # Idle, it reads from execd, and has nobody to hear. What ends it while execd reads is beyond any sensor.
    until(lambda: not programs(host, "timeout") and _waits_for_execd(outer), "the sensor to be idle")
    os.kill(outer, signal.SIGKILL)
    until(lambda: [pid for pid in programs(host, "gridengine/load-sensor") if pid != outer], "another sensor")
    bed.await_value(host, IMAGES[0], has(entry))
    rests(bed, host)


def _waits_for_execd(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text("ascii").startswith("0 0x0 ")


def test_1000_images_of_long_names_are_cut_to_what_execd_can_hold(bed: Bed) -> None:
    host = bed.host("e2")
    store = ToldStore(host.store)
    for number in range(1000):
        store.add(1000 + number, f"https://images.example.org/{'n' * (number % 100)}-{number}.sqsh")
    ran = bed.root.run("stage-image", "list", node=host)
    assert ran.code == 0, ran.err
    last = bed.origin.put("last.sqsh", image(seed=40))
    stage(bed, host, last)
    newest = item("last.sqsh", image(seed=40))
    bed.await_value(host, CUT, lambda value: float(value or 0) == 1)
    values = bed.qhost_values(host)
    assert values[IMAGES[0]].startswith(f";{newest};")
    told = [values[name] for name in IMAGES]
    assert all(value.startswith(";") and value.endswith(";") and len(value) <= VALUE_MAX for value in told)
    assert min(map(len, told)) > VALUE_MAX - 140
    rests(bed, host)
    # Each is a name to ask for: of the last value, too.
    entry = told[-1].split(";")[1]
    job = bed.qsub("#!/bin/sh\nhostname\n", "-l", f"{IMAGES[-1]}=*;{entry.partition('@')[0]}@*")
    assert bed.await_job(job) == "0"
    assert bed.output(job) == "e2\n"


HOSTILE = (
    "a,b*c?.sqsh",
    "a|b&c!(d).sqsh",
    "a;b@c=d:e.sqsh",
    "t\xf6\xf6l [x]{y}.sqsh",
    "begin",
    "end\\n$HOST`id`",
    f"{'n' * 200}.sqsh",
)


def test_hostile_names(bed: Bed) -> None:
    host = bed.host("e1")
    folder = bed.user.home / "images"
    folder.mkdir()
    for number, name in enumerate(HOSTILE):
        (folder / name).write_bytes(image(seed=50 + number))
        stage(bed, host, f"/home/alice/images/{name}")
    for number in range(len(HOSTILE)):
        digits = sha256(image(seed=50 + number)).hexdigest()[:12]
        value = bed.await_value(host, IMAGES[0], partial(contains, f"@{digits};"))
        assert re.fullmatch(r";([A-Za-z0-9._:+-]{1,120}@[0-9a-f]{12};)+", value)
        job = bed.qsub("#!/bin/sh\nhostname\n", "-l", f"{IMAGES[0]}=*@{digits};*")
        if number in (0, len(HOSTILE) - 1):
            assert bed.await_job(job) == "0"
            assert bed.output(job) == "e1\n"
    rests(bed, host)


def test_a_store_that_is_made_after_the_sensor(tmp_path: Path) -> None:
    with gridengine(tmp_path, hosts=1, sensor=True) as bed:
        (host,) = bed.hosts
        bed.await_value(host, IMAGES[0], lambda value: value == NONE)
        stage(bed, host, bed.origin.put("tool.sqsh", image()))
        bed.await_value(host, IMAGES[0], has(item("tool.sqsh", image())), patience=INTERVAL + MARGIN)
        # What is no job's ends with execd.
        assert shell(host)
        bed.qconf("-ke", "e1")
        until(lambda: not host.host.commands(), "execd and its sensor to end")
