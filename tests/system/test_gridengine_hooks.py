"""Grid Engine's hooks on a real one: what a job asks for is there when it starts, and no queue goes out of service."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from stager.schedulers import qsub
from tests.support.gridengine import Bed, gridengine
from tests.support.slurm.site import STORE
from tests.support.tasks import ROOT, image, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.needs("gridengine", "nginx")

HOOKS = ROOT / "sbatch-wrapper" / "gridengine"
SETTINGS = {
    "store": STORE,
    "connections": 1,
    "deadline": "2s",
    "mount": "none",
    "gridengine.allow": ["http://10.79.0.1/site/"],
}
TELL = """\
#!/bin/sh
echo "ran on $(hostname) with ${STAGE_IMAGE_PATH-nothing}"
[ ! -r "${STAGE_IMAGE_PATH-}" ] || echo readable
"""
WORKERS = """\
#!/bin/sh
printf '#!/bin/sh\\necho "worker on $(hostname) with $STAGE_IMAGE_PATH"\\n' >"$HOME/worker"
chmod +x "$HOME/worker"
while read -r host slots rest; do
    for _ in $(seq "$slots"); do qrsh -inherit -nostdin "$host" "$HOME/worker" & done
done <"$PE_HOSTFILE"
wait
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with gridengine(tmp_path_factory.mktemp("hooks"), hosts=2, hooks=True, sensor=True, site=SETTINGS) as bed:
        (bed.origin.host.folder / "www" / "site").mkdir()
        yield bed


@pytest.fixture(autouse=True)
def _in_service(bed: Bed) -> Iterator[None]:
    yield
    assert bed.queue_states() == {"e1": "", "e2": ""}
    assert bed.leftovers() == []


def asked(*references: str) -> tuple[str, str]:
    """Return the option of qsub that asks for images as the front does."""
    return "-v", qsub.tell(references)[1]


def put(bed: Bed, name: str, seed: int, size: int = 1 << 20) -> str:
    return bed.origin.put(f"site/{name}", image(size, seed))


def fetches(bed: Bed, name: str) -> int:
    return sum(one.path == f"/site/{name}" and one.status == 200 for one in bed.origin.requests)


def outcome(bed: Bed, job: str, task: int = 0) -> tuple[str, str]:
    return bed.await_job(job), bed.output(job, task)


def test_an_image_is_there_before_the_job(bed: Bed) -> None:
    url = put(bed, "a.sqsh", 1)
    code, out = outcome(bed, bed.qsub(TELL, *asked(url), "-l", "hostname=e1"))
    assert (code, fetches(bed, "a.sqsh")) == ("0", 1)
    assert f"on e1 with {STORE}/images/" in out
    assert "readable" in out


def test_a_job_without_images_hears_nothing(bed: Bed) -> None:
    code, out = outcome(bed, bed.qsub('#!/bin/sh\necho "$# $1"\n'))
    assert (code, out.splitlines()) == ("0", ["0 "])


def test_tasks_of_an_array_share(bed: Bed) -> None:
    url = put(bed, "array.sqsh", 2)
    job = bed.qsub(TELL, *asked(url), "-t", "1-6", "-l", "hostname=e2")
    assert bed.await_job(job) == "0"
    told = [bed.output(job, task) for task in range(1, 7)]
    assert [text for text in told if f"on e2 with {STORE}/images/" not in text] == []
    assert fetches(bed, "array.sqsh") == 1


def test_the_end_of_a_job_takes_its_own_things_only(bed: Bed) -> None:
    url = put(bed, "two.sqsh", 3)
    wait = f"{TELL}until [ -e $HOME/end ]; do sleep 0.1; done\n"
    long, short = (bed.qsub(script, *asked(url), "-l", "hostname=e1") for script in (wait, TELL))
    assert bed.await_job(short) == "0"
    e1 = bed.host("e1")
    until(lambda: bed.output(long), "the long job to start")
    assert [path.name for path in e1.view(f"{STORE}/jobs").iterdir()] == [f"sge-{long}.json"]
    assert e1.view(f"/run/stage-image/jobs/sge-{long}/tasks").exists()
    (bed.user.home / "end").touch()
    assert bed.await_job(long) == "0"


def test_workers_on_other_hosts_have_it_too(bed: Bed) -> None:
    url = put(bed, "parallel.sqsh", 4)
    code, out = outcome(bed, bed.qsub(WORKERS, *asked(url), "-pe", "spread", "4"))
    lines = sorted(line for line in out.splitlines() if line.startswith("worker"))
    assert code == "0", out
    assert [line.split(" with ")[0] for line in lines] == ["worker on e1"] * 2 + ["worker on e2"] * 2
    assert all("/images/sha256/" in line for line in lines)
    assert fetches(bed, "parallel.sqsh") == 2  # one for each host: there is no cluster


@pytest.mark.parametrize(
    "reference", ["http://10.79.0.1/site/missing.sqsh", "relative.sif", "http://10.79.0.1:1/x", "/etc"]
)
def test_what_cannot_be_had_keeps_no_job_from_its_start(bed: Bed, reference: str) -> None:
    code, out = outcome(bed, bed.qsub(TELL, *asked(reference)))
    assert "with nothing" in out
    assert "stage-image: error:" in out
    assert code == "0"


def test_what_the_site_does_not_allow_the_user_stages(bed: Bed) -> None:
    url = bed.origin.put("elsewhere.sqsh", image(seed=5))
    code, out = outcome(bed, bed.qsub(TELL, *asked(url)))
    assert code == "0"
    assert "is not what this site stages for jobs" in out
    assert "with /var/tmp/stage-image-" in out
    assert "readable" in out


def test_root_runs_nothing_that_a_user_names(bed: Bed) -> None:
    url = put(bed, "hostile.sqsh", 6)
    evil = bed.user.home / "evil"
    evil.mkdir()
    mark = "/home/alice/evil/$(/usr/bin/id -u)"
    programs = ["stage-image", "python3", "env", "id", "sh", "qconf", "sitecustomize.py", "rc"]
    for name in programs:
        code = (
            "import os; open(f'/home/alice/evil/{os.getuid()}', 'w')"
            if name.endswith(".py")
            else f"/usr/bin/touch {mark}"
        )
        _script(evil / name, f"#!/bin/sh\n{code}\n" if not name.endswith(".py") else code)
    lies = dict.fromkeys(("PATH", "PYTHONPATH", "PYTHONHOME", "STAGE_IMAGE_BIN"), "/home/alice/evil")
    lies |= dict.fromkeys(("ENV", "BASH_ENV", "STAGE_IMAGE_PYTHON", "STAGE_IMAGE_CONFIG"), "/home/alice/evil/rc")
    lies |= {"STAGE_IMAGE_STORE": "/home/alice/store", "STAGE_IMAGE_GRIDENGINE_ALLOW": "/", "JOB_ID": "999"}
    lies |= {"LD_PRELOAD": "/home/alice/evil/rc", "SHELLOPTS": "xtrace", "PS4": f"$(/usr/bin/touch {mark})"}
    job = bed.qsub(f"#!/bin/sh\n/bin/cat {STORE}/jobs/*.json 2>&1\n", "-v", _variables(lies), *asked(url))
    assert bed.await_job(job)
    assert not (evil / "0").exists()
    assert fetches(bed, "hostile.sqsh") == 1
    assert not (bed.user.home / "store").exists()


def _variables(values: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


def _script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("a b", "", "$HOME", "*")),
        (("-b", "y"), ("a", "$JOB_NAME", "'x  y'", ";", "echo", "z")),
        (("-b", "y", "-shell", "n"), ("a b", "$JOB_NAME", "; echo")),
        (("-S", "/bin/sh"), ("a b",)),
    ],
)
def test_jobs_start_as_they_would_without_it(bed: Bed, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    _script(bed.user.home / "show", "#!/bin/sh\nprintf '<%s>' \"$@\"; env | grep -c ^SGE_STARTER; ulimit -n; umask\n")
    told = ("-terse", "-cwd", "-j", "y", "-N", "same", "-o", "/home/alice/$JOB_ID.0.out", *options, "/home/alice/show")
    found = []
    for method in (str(HOOKS / "starter"), "NONE"):
        bed.set_queue(starter_method=method)
        ran = bed.user.run("qsub", *told, *words)
        assert ran.code == 0, ran.err
        found.append(outcome(bed, ran.out.strip()))
    bed.set_queue(starter_method=str(HOOKS / "starter"))
    assert found[0] == found[1]


@contextmanager
def settings(bed: Bed, **values: object) -> Iterator[None]:
    """Give all hosts other settings for a while."""
    try:
        _set(bed, SETTINGS | {name.replace("__", "."): value for name, value in values.items()})
        yield
    finally:
        _set(bed, SETTINGS)


def _set(bed: Bed, values: Mapping[str, object]) -> None:
    bed.site.settings(values)
    for host in bed.hosts:
        host.run("cp", f"{bed.site.etc}/stage-image/config.toml", "/etc/stage-image/config.toml")


def _await_error(bed: Bed, job: str) -> None:
    bed.wait_for(lambda: any("E" in state for state in bed.states(job)), f"job {job} to be in error", job=job)


def test_strict_sites(bed: Bed) -> None:
    allowed = ["http://10.79.0.1/site/", "http://10.79.0.1:1/"]
    with settings(bed, gridengine__strict=True, gridengine__allow=allowed):
        wrong = bed.qsub(TELL, *asked("http://10.79.0.1/site/missing.sqsh"))
        away = bed.qsub(TELL, *asked("http://10.79.0.1:1/site/x.sqsh"))
        for job in (wrong, away):
            _await_error(bed, job)
            assert "ran on" not in bed.output(job)
        failed = [sorted(account.failed for account in bed.accounts(job)) for job in (wrong, away)]
        assert failed == [[30], [25, 30]]  # sge_status(5): in error at once; rescheduled before it was
        for job in (wrong, away):
            bed.root.run("qdel", job)
        good = bed.qsub(TELL, *asked(put(bed, "strict.sqsh", 7)))
        assert bed.await_job(good) == "0"
        assert "readable" in bed.output(good)


def test_hooks_of_the_jobs_user(bed: Bed) -> None:
    bed.set_queue(prolog=str(HOOKS / "prolog"), epilog=str(HOOKS / "epilog"))
    try:
        url = bed.origin.put("mine.sqsh", image(seed=8))  # which root may not
        code, out = outcome(bed, bed.qsub(TELL, *asked(url)))
        assert (code, "not what this site" in out) == ("0", False)
        assert "with /var/tmp/stage-image-" in out
    finally:
        bed.set_queue(prolog="NONE", epilog="NONE")


def test_hooks_that_are_switched_off(bed: Bed) -> None:
    url = put(bed, "off.sqsh", 9)
    for host in bed.hosts:
        host.run("touch", "/etc/stage-image/disabled")
    try:
        code, out = outcome(bed, bed.qsub(TELL, *asked(url)))
        assert (code, out.splitlines()) == ("0", [out.splitlines()[0].split(" with ")[0] + " with nothing"])
    finally:
        for host in bed.hosts:
            host.run("rm", "/etc/stage-image/disabled")
    assert fetches(bed, "off.sqsh") == 0


def test_a_job_does_not_wait_longer_than_the_budget(bed: Bed) -> None:
    url = put(bed, "large.sqsh", 11, 48 << 20)
    with settings(bed, gridengine__budget="0.1s"):
        code, out = outcome(bed, bed.qsub(TELL, *asked(url)))
    assert code == "0"
    assert f"with {STORE}/images/" in out  # which root went on to stage, and the starter waited for
    assert fetches(bed, "large.sqsh") == 1


def test_the_front_pins_and_prefers(bed: Bed) -> None:
    url = put(bed, "front.sqsh", 10)
    (bed.user.home / "front.sh").write_text(f"{TELL}echo $STAGE_IMAGE_REFERENCE $*\n", encoding="utf-8")
    told = (
        "-terse",
        "-cwd",
        "-j",
        "y",
        "-o",
        "/home/alice/$JOB_ID.0.out",
        "--stage-image",
        url,
        "front.sh",
        "--stage-image=x",
    )
    ran = bed.user.run(str(HOOKS / "qsub"), *told)
    assert ran.code == 0, ran.err
    job = ran.out.strip()
    wanted = bed.master.run("qstat", "-j", job)
    assert "soft resource_list" in wanted
    code, out = outcome(bed, job)
    assert code == "0", out
    assert out.splitlines()[-1].startswith(f"{url}@sha256:")
    assert out.splitlines()[-1].endswith(" --stage-image=x")


def test_the_front_knows_the_real_options(bed: Bed) -> None:
    others = {"Ap", "astnode", "at", "dul", "mattr", "srqs", "sss", "binding"}  # which -help shows, and nobody may use
    for program in ("qsub", "qrsh"):
        found = qsub.in_help(bed.user.run(program, "-help").out)
        assert len(found) > 30
        assert {name: n for name, n in found.items() if name not in others and qsub.VALUES.get(name) != n} == {}
