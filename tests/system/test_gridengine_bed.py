"""The Grid Engine of the tests: real daemons, ordinary users, hosts that lose their power; nothing outlives it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.gridengine import Bed, gridengine
from tests.support.gridengine.site import replaced
from tests.support.leftovers import Traces
from tests.support.slurm.site import ALICE, STORE
from tests.support.tasks import image, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("gridengine", "nginx")

HOOKS = {
    "prolog": '#!/bin/sh\necho "$JOB_ID $TOLD $(id -u)" >>/var/tmp/prologs\n',
    "epilog": '#!/bin/sh\necho "$JOB_ID $SGE_JOBEXIT_STAT" >>/var/tmp/epilogs\n',
    "starter": '#!/bin/sh\nSTARTED=yes exec "$@"\n',
}
SENSOR = """\
#!/bin/sh
while read -r line; do
    [ "$line" != quit ] || exit 0
    echo begin
    echo "$HOST:told:;$(cat /var/tmp/word 2>/dev/null);"
    echo end
done
"""
PARALLEL = """\
#!/bin/sh
printf '#!/bin/sh\\nhostname\\n' >"$HOME/slave"
chmod +x "$HOME/slave"
while read -r host slots rest; do
    for _ in $(seq "$slots"); do qrsh -inherit -nostdin "$host" "$HOME/slave" & done
done <"$PE_HOSTFILE"
wait
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("bed")
    hooks = folder / "hooks"
    hooks.mkdir()
    for name, text in HOOKS.items():
        _script(hooks / name, text)
    sensor = _script(folder / "sensor", SENSOR)
    complexes = ("told told RESTRING == YES NO NONE 0",)
    with gridengine(folder, hooks=hooks, sensor=sensor, complexes=complexes) as bed:
        yield bed


def _script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)
    return path


def words(bed: Bed, host: str, file: str) -> list[str]:
    path = bed.host(host).view(f"/var/tmp/{file}")
    return path.read_text("ascii").splitlines() if path.exists() else []


def test_job_its_hooks_and_its_output(bed: Bed) -> None:
    script = '#!/bin/sh\necho "$(hostname) $(id -u) $STARTED $TOLD"\nexit 3\n'
    job = bed.qsub(script, "-l", "hostname=e2", "-v", "TOLD=word")
    assert bed.await_job(job) == "3"
    assert bed.output(job) == f"e2 {ALICE} yes word\n"
    assert [(account.host, account.failed) for account in bed.accounts(job)] == [("e2", 0)]
    assert f"{job} word 0" in words(bed, "e2", "prologs")
    assert f"{job} 3" in words(bed, "e2", "epilogs")
    assert set(bed.queue_states().values()) == {""}


def test_array(bed: Bed) -> None:
    job = bed.qsub("#!/bin/sh\necho $SGE_TASK_ID\n", "-t", "1-3")
    assert bed.await_job(job) == "0"
    assert [bed.output(job, task) for task in (1, 2, 3)] == ["1\n", "2\n", "3\n"]
    assert sorted(account.task for account in bed.accounts(job)) == [1, 2, 3]


def test_tasks_of_a_parallel_environment(bed: Bed) -> None:
    job = bed.qsub(PARALLEL, "-pe", "spread", "12")
    assert bed.await_job(job) == "0"
    assert Counter(bed.output(job).split()) == {"e1": 4, "e2": 4, "e3": 4}


def test_value_of_a_sensor_and_jobs_that_ask_for_it(bed: Bed) -> None:
    bed.host("e3").run("sh", "-c", "echo here >/var/tmp/word")
    assert bed.await_value("e3", "told", lambda value: value == ";here;") == ";here;"
    assert bed.qhost_values("e1")["told"] == ";;"
    job = bed.qsub("#!/bin/sh\nhostname\n", "-l", "told=*;here;*")
    assert bed.await_job(job) == "0"
    assert bed.output(job) == "e3\n"
    waiting = bed.qsub("#!/bin/sh\nhostname\n", "-l", "told=*;nowhere;*")
    bed.await_state(waiting, "qw")
    bed.root.run("qdel", waiting)
    assert bed.states(waiting) == []


def test_the_program_is_there_for_everybody(bed: Bed) -> None:
    url = bed.origin.put("tool.sqsh", image())
    job = bed.qsub(f"#!/bin/sh\nexport STAGE_IMAGE_STORE=/var/tmp/own\nexec stage-image path {url}\n")
    assert bed.await_job(job) == "0", bed.output(job)
    ran = bed.root.run("stage-image", "path", url, node=bed.hosts[2])
    assert ran.out.startswith(f"{STORE}/images/"), ran.err
    assert (bed.hosts[2].store / ran.out.strip().removeprefix(f"{STORE}/")).read_bytes() == image()


def test_settings_can_be_changed(bed: Bed) -> None:
    bed.set_queue(slots="5")
    assert "slots                 5" in bed.qconf("-sq", "all.q")
    bed.set_queue(slots="4")
    bed.set_conf(max_u_jobs="77")
    assert "max_u_jobs                   77" in bed.qconf("-sconf")
    assert replaced("# told\na  1\n\nb\t2\n", {"b": "3", "c": "4"}) == "a  1\nb 3\nc 4\n"


def test_a_killed_host_comes_back_with_its_disk(bed: Bed) -> None:
    host = bed.host("e1")
    for place in (STORE, "/run", "/tmp"):
        host.run("touch", f"{place}/before")
    host.kill()
    assert not host.is_up
    host.start()
    assert [place for place in (STORE, "/run", "/tmp") if host.view(f"{place}/before").exists()] == [STORE]
    host.run("rm", f"{STORE}/before")
    job = bed.qsub("#!/bin/sh\nhostname\n", "-l", "hostname=e1")
    assert bed.await_job(job) == "0"
    assert bed.output(job) == "e1\n"


def test_leftovers_are_seen(bed: Bed) -> None:
    host = bed.host("e2")
    assert bed.leftovers() == []
    process = bed.user.start("sleep", "1000", node=host)
    host.run("mkdir", "-p", f"{STORE}/jobs", f"{STORE}/m")
    host.run("touch", f"{STORE}/jobs/sge-1.json")
    host.run("mount", "-t", "tmpfs", "tmpfs", f"{STORE}/m")
    assert bed.leftovers(grace=0) == [
        f"e2: process {process.pid}: sleep 1000",
        f"e2: mount on {STORE}/m",
        "e2: record sge-1.json",
    ]
    process.kill()
    host.run("umount", f"{STORE}/m")
    host.run("rm", "-r", f"{STORE}/jobs")
    assert bed.leftovers() == []


def test_nothing_outlives_it(tmp_path: Path) -> None:
    with gridengine(tmp_path, hosts=1) as bed:
        job = bed.qsub("#!/bin/sh\nsetsid sleep 1000 & sleep 1000\n")
        bed.await_state(job, "r")
        machines = [bed.master, *bed.hosts]
        until(lambda: "sleep 1000" in bed.hosts[0].host.commands().values(), "it to sleep")
        pids = [pid for machine in machines for pid in (machine.host.pid, *machine.host.pids())]
        assert len(pids) > 6
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert Traces("none", (str(tmp_path),)).after_grace() == []


def test_a_setting_that_grid_engine_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be set up"), gridengine(tmp_path, hosts=1, queue={"slots": "many"}):
        pass
