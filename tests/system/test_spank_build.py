"""The SPANK plugin: it builds without a warning, a real Slurm loads it, and tasks are where their Prolog meant them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager.mounts.namespace import Namespace
from tests.support.mounting import apart, mount_new
from tests.support.slurm import Bed, slurm
from tests.support.slurm.site import ALICE
from tests.support.tasks import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.slurm import Machine

pytestmark = pytest.mark.needs("slurm", "nginx", "gcc", "make")

SPANK = ROOT / "sbatch-wrapper" / "spank"
FLAGS = "-O2 -D_FORTIFY_SOURCE=2 -Wall -Wextra -Wshadow -Wformat=2 -Wstrict-prototypes -Wcast-qual -Wvla -Werror"

# Not /tmp: on the nodes of the test bed, the interpreter may lie there.
PLACES = '("/dev/shm=/var/cache/private", "/var/tmp=/var/cache/private")'
OFF = "/etc/stage-image/disabled"
SEEN, ODD = "/var/spool/spank-told", "/var/spool/odd"

PROLOG = f"""#!/bin/sh
run=/run/stage-image/jobs/slurm-$SLURM_JOB_ID
env | grep ^SPANK_ >>{SEEN}
[ ! -e {ODD} ] || {{ mkdir -p $run/ns && cp -a {ODD} $run/ns/mnt; exit 0; }}
[ "$SPANK_STAGE_IMAGE_PRIVATE_TMP" ] || exit 0
mkdir -p $run
exec PYTHON -I -c '
import sys
from stager.mounts.namespace import Namespace
from stager.schedulers import private
job, uid, gid, run = sys.argv[1:]
binds = []
for each in private.directories(private.parse({PLACES}), job, 0):
    private.make(each, int(uid), int(gid))
    binds.append((each.path, each.mount))
Namespace().pin(run + "/ns", binds)
' "$SLURM_JOB_ID" "$SLURM_JOB_UID" "$SLURM_JOB_GID" "$run"
"""
EPILOG = f"""#!/bin/sh
run=/run/stage-image/jobs/slurm-$SLURM_JOB_ID
[ -d $run ] || exit 0
PYTHON -I -c '
import sys
from stager.mounts.namespace import Namespace
from stager.schedulers import private
Namespace().unpin(sys.argv[2] + "/ns")
for each in private.directories(private.parse({PLACES}), sys.argv[1], 0):
    private.remove(each.path, 0, 0)
' "$SLURM_JOB_ID" "$run"
rmdir $run
"""
TASK_PROLOG = """#!/bin/sh
echo export FROM_TASK_PROLOG="$(readlink /proc/self/ns/mnt)"
"""
MINE = "readlink /proc/self/ns/mnt"

STEPD = f"""
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <slurm/spank.h>
spank_context_t spank_context(void) {{ return S_CTX_REMOTE; }}
spank_err_t spank_option_register(spank_t s, struct spank_option *o) {{ return ESPANK_SUCCESS; }}
spank_err_t spank_job_control_setenv(spank_t s, const char *n, const char *v, int o) {{ return ESPANK_NOT_LOCAL; }}
const char *spank_strerror(spank_err_t e) {{ return "stepd"; }}
spank_err_t spank_get_item(spank_t s, spank_item_t item, ...) {{
    va_list list;
    va_start(list, item);
    *va_arg(list, uint32_t *) = item == S_JOB_ID ? 7 : item == S_TASK_ID ? 0 : {ALICE};
    va_end(list);
    return ESPANK_SUCCESS;
}}
static void say(const char *format, va_list list) {{ vfprintf(stderr, format, list); }}
void slurm_error(const char *f, ...) {{ va_list l; va_start(l, f); say(f, l); va_end(l); }}
void slurm_spank_log(const char *f, ...) {{ va_list l; va_start(l, f); say(f, l); va_end(l); }}
int main(int argc, char **argv) {{
    void *plugin = dlopen(argv[1], RTLD_NOW);
    spank_f *init = plugin ? dlsym(plugin, "slurm_spank_task_init_privileged") : NULL;
    if (!init || init(NULL, 0, NULL)) {{ fprintf(stderr, "%s", plugin ? "refused" : dlerror()); return 99; }}
    return execvp(argv[2], argv + 2);
}}
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("bed")
    (folder / "hooks").mkdir()
    python = str(folder / "slurm" / "python" / "bin" / "python")
    for name, text in (("prolog", PROLOG), ("epilog", EPILOG), ("task-prolog", TASK_PROLOG)):
        path = folder / "hooks" / name
        path.write_text(text.replace("PYTHON", python), encoding="ascii")
        path.chmod(0o755)
    with slurm(folder, nodes=2, hooks=folder / "hooks", spank=True) as bed:
        yield bed


@pytest.fixture(autouse=True)
def _all_is_well_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "bed" not in request.fixturenames:
        return
    bed: Bed = request.getfixturevalue("bed")
    assert bed.drained() == []
    bed.idle()
    assert bed.leftovers() == []
    assert [node.run("ls", "/var/cache") for node in bed.nodes] == ["stage-image\n"] * 2
    told(bed)


@pytest.fixture
def first(bed: Bed) -> Machine:
    return bed.nodes[0]


def told(bed: Bed) -> list[set[str]]:
    """Return what the Prologs of each node have seen of the plugin's, and forget it."""
    found = []
    for node in bed.nodes:
        lines = node.run("sh", "-c", f"touch {SEEN}; cat {SEEN}; rm {SEEN}").splitlines()
        found.append({line for line in lines if "_SLURM_SPANK_OPTION_" not in line})
    return found


def test_no_warning(tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    make = ("make", "-s", "-C", str(SPANK), f"OUT={out}", f"CFLAGS={FLAGS}")
    made = subprocess.run(make, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    assert [path.name for path in out.iterdir()] == ["stage_image.so"]


@pytest.mark.parametrize("command", ["srun", "sbatch", "salloc"])
def test_the_options_are_in_the_help(bed: Bed, command: str) -> None:
    said = bed.user.run(command, "--help").out
    assert "--stage-image=REF" in said
    assert "--private-tmp" in said


def test_without_the_options_nothing_is_different(bed: Bed) -> None:
    ran = bed.user.run("srun", "-N2", "sh", "-c", f"{MINE}; pwd")
    assert (ran.code, ran.err) == (0, "")
    hosts = {node.run(*MINE.split()).strip() for node in bed.nodes}
    assert set(ran.out.splitlines()) == {*hosts, "/home/alice"}
    assert told(bed) == [set(), set()]


@pytest.mark.parametrize("how", ["srun", "sbatch", "salloc", "#SBATCH"])
def test_the_prolog_is_told(bed: Bed, how: str) -> None:
    words = ["-N2", "--stage-image=http://a/1,http://a/2", "--private-tmp"]
    if how in {"srun", "salloc"}:
        assert bed.user.run(how, *words, "true").code == 0
    elif how == "sbatch":
        bed.await_job(bed.sbatch("#!/bin/sh\ntrue\n", *words))
    else:
        lines = "".join(f"#SBATCH {word}\n" for word in words)
        bed.await_job(bed.sbatch(f"#!/bin/sh\n{lines}true\n"))
    bed.idle()
    wanted = {"SPANK_STAGE_IMAGE=http://a/1,http://a/2", "SPANK_STAGE_IMAGE_PRIVATE_TMP=1"}
    assert told(bed) == [wanted, wanted]


@pytest.mark.parametrize("of_job", ["", "http://a/1"])
def test_a_step_that_asks_for_an_image_of_its_own_is_told_that_it_gets_none(bed: Bed, of_job: str) -> None:
    steps = [
        f"srun -n1 {option} echo {name}" for name, option in (("plain", ""), ("other", "--stage-image=http://a/2"))
    ]
    steps += [f"srun -n1 --stage-image={of_job} echo same"] if of_job else []
    script = "#!/bin/sh\n" + "".join(f"{step} 2>&1\n" for step in steps)
    job = bed.sbatch(script, "-N1", *([f"--stage-image={of_job}"] if of_job else []))
    assert bed.await_job(job) == "COMPLETED"
    lines = bed.output(job).splitlines()
    said = [line for line in lines if "a step begins without a Prolog, --stage-image has no effect" in line]
    assert (len(said), lines.index("plain") < lines.index(said[0]) <= lines.index("other") + 1) == (1, True), lines
    assert len(lines) == len(steps) + 1, lines
    assert "no effect" not in bed.user.run("srun", "-N1", "--stage-image=http://a/2", "true").err


@pytest.mark.parametrize("value", ["a b", "a\nb", "é", "x" * 4097])
@pytest.mark.parametrize("command", ["srun", "salloc"])
def test_a_hostile_value_is_refused_at_once(bed: Bed, command: str, value: str) -> None:
    ran = bed.user.run(command, f"--stage-image={value}", "true")
    assert ran.code != 0
    assert "--stage-image wants REF or REF,REF" in ran.err
    assert told(bed) == [set(), set()]


def test_tasks_of_a_job_share_what_others_do_not_see(bed: Bed, first: Machine) -> None:
    text = f"echo mine >/dev/shm/$SLURM_PROCID; ls /var/tmp; stat -c '%u %a' /dev/shm; {MINE}; echo $FROM_TASK_PROLOG"
    ran = bed.user.run("srun", "-N1", "-w", "n1", "-n3", "--private-tmp", "sh", "-c", text)
    assert (ran.code, ran.err) == (0, "")
    lines = set(ran.out.splitlines())
    (namespace,) = (line for line in lines if line.startswith("mnt:"))
    assert lines == {f"{ALICE} 700", namespace}, "the TaskProlog sees what the task sees"
    assert namespace != first.run(*MINE.split()).strip()
    assert first.run("ls", "/dev/shm") == ""


def test_steps_of_a_batch_job_meet_in_it(bed: Bed) -> None:
    script = (
        "#!/bin/sh\necho batch >/var/tmp/note\nsrun -N1 -n1 -w n1 cat /var/tmp/note\nsrun -N2 sh -c 'ls /var/tmp'\n"
    )
    job = bed.sbatch(script, "-N2", "-w", "n1,n2", "--private-tmp")
    assert bed.await_job(job) == "COMPLETED"
    assert bed.output(job) == "batch\nnote\n"


def test_two_jobs_on_a_node_do_not_meet(bed: Bed) -> None:
    script = "#!/bin/sh\ntouch /var/tmp/$SLURM_JOB_ID\nscontrol wait_job $SLURM_JOB_ID 2>/dev/null\nls /var/tmp\n"
    jobs = [bed.sbatch(script, "-n1", "-w", "n1", "--private-tmp") for _ in range(3)]
    assert [bed.await_job(job) for job in jobs] == ["COMPLETED"] * 3
    assert [bed.output(job) for job in jobs] == [f"{job}\n" for job in jobs]


def test_the_working_directory_stays(bed: Bed) -> None:
    ran = bed.user.run("srun", "-N1", "--private-tmp", "sh", "-c", "pwd; pwd -P; ls -d .")
    assert ran.out.splitlines() == ["/home/alice", "/home/alice", "."]


def test_a_working_directory_that_the_job_does_not_have(bed: Bed, first: Machine) -> None:
    for machine in (first, bed.ctl):
        machine.run("mkdir", "-m", "755", "/var/tmp/theirs")
    ran = bed.user.run("srun", "-w", "n1", "--chdir=/var/tmp/theirs", "--private-tmp", "pwd")
    assert (ran.code, ran.out) == (0, "/tmp\n")
    assert "/var/tmp/theirs is not there among the job's own directories" in ran.err
    for machine in (first, bed.ctl):
        machine.run("rmdir", "/var/tmp/theirs")


def test_a_working_directory_that_root_may_not_enter(tmp_path: Path, public_path: Path) -> None:
    """As a home on NFS with root_squash: root without the capabilities that let it pass is denied just so."""
    stepd = _built(tmp_path)
    home = public_path / "closed"
    home.mkdir(mode=0o700)
    os.chown(home, ALICE, ALICE)

    def step() -> list[str]:
        mount_new("tmpfs", Path("/run"))
        os.makedirs("/run/stage-image/jobs/slurm-7")
        Namespace().pin("/run/stage-image/jobs/slurm-7/ns", [])
        os.chdir(home)
        weak = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        assert subprocess.run((*weak, "sh", "-c", f"cd {home}"), capture_output=True, check=False).returncode != 0
        ran = subprocess.run(
            (*weak, *stepd, "sh", "-c", f"/bin/pwd; id -u; {MINE}"), capture_output=True, text=True, check=True
        )
        Namespace().unpin("/run/stage-image/jobs/slurm-7/ns")
        return [*ran.stdout.splitlines(), os.readlink("/proc/self/ns/mnt"), ran.stderr]

    place, uid, theirs, ours, said = apart(step)
    assert (place, uid, said) == (str(home), "0", "")
    assert theirs != ours


def _built(folder: Path) -> tuple[str, ...]:
    """Return the beginning of a command: it runs the rest as slurmstepd with the plugin would, but still as root."""
    (folder / "stepd.c").write_text(STEPD, encoding="ascii")
    (folder / "stage_image.so").unlink(missing_ok=True)
    subprocess.run(("make", "-s", "-C", str(SPANK), f"OUT={folder}"), check=True, capture_output=True)
    command = ("gcc", "-O1", "-rdynamic", "-o", str(folder / "stepd"), str(folder / "stepd.c"), "-ldl")
    subprocess.run(command, check=True, capture_output=True)
    return (str(folder / "stepd"), str(folder / "stage_image.so"))


@pytest.mark.parametrize("make", [f"echo >{ODD}", f"ln -s /proc/self/ns/mnt {ODD}", f"mkfifo {ODD}"])
def test_what_is_no_namespace_fails_only_those_who_asked(bed: Bed, first: Machine, make: str) -> None:
    first.run("sh", "-c", make)
    try:
        asked = bed.user.run("srun", "-w", "n1", "--private-tmp", "echo", "ran")
        assert asked.code != 0
        assert asked.out == ""
        assert "stage-image: /run/stage-image/jobs/slurm-" in asked.err
        other = bed.user.run("srun", "-w", "n1", "echo", "ran")
        assert (other.code, other.out) == (0, "ran\n")
        assert "stage-image: /run/stage-image/jobs/slurm-" in other.err
    finally:
        first.run("rm", ODD)


def test_a_node_that_gives_none_says_so_once(bed: Bed, first: Machine) -> None:
    allocation = bed.user.run("salloc", "-w", "n1", "-n2", "srun", "-n2", "--private-tmp", "sh", "-c", MINE)
    assert allocation.code == 0
    assert set(allocation.out.splitlines()) == {first.run(*MINE.split()).strip()}
    assert allocation.err.count("this node gives no private directories, --private-tmp is of no effect") == 1


def test_switched_off(bed: Bed, first: Machine) -> None:
    first.run("touch", OFF)
    try:
        ran = bed.user.run("srun", "-w", "n1", "--private-tmp", "sh", "-c", MINE)
        assert (ran.code, ran.out.strip(), ran.err) == (0, first.run(*MINE.split()).strip(), "")
    finally:
        first.run("rm", OFF)
