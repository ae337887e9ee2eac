"""The hooks for OpenPBS, LSF, HTCondor and Flux, called as their schedulers' documentation says they are.

None of these schedulers is here. What calls the hooks, and `flux` and `pbs`, are stand-ins; so is `stage-image` where
a hook runs it as another user. Everything else is real: shells, users, sessions, signals, and the staging.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Origin
from tests.support.switched_off import OFF
from tests.support.tasks import COMMAND, NOTHING, ROOT, Task, Tasks, image, published, until
from tests.support.warm_scene import program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOOKS = ROOT / "sbatch-wrapper"
STARTER, ELIM = HOOKS / "lsf" / "job-starter", HOOKS / "lsf" / "elim.stage_image"
WRAPPER, CRON = HOOKS / "htcondor" / "job-wrapper", HOOKS / "htcondor" / "startd-cron"
PROLOGUE, HOOK, FLUX = (
    HOOKS / "openpbs" / "prologue",
    HOOKS / "openpbs" / "stage_image_hook.py",
    HOOKS / "flux" / "prolog",
)
ALL = (STARTER, ELIM, WRAPPER, CRON, PROLOGUE, FLUX)

CONTENT = image(10_000)
ODD = ["", " ", "a  b", "'", '"', "\\", "*", "$HOME", "a\nb", "--", "-c", "a=b", "\udcff", "ä", "!"]
USER = "nobody"


class Node:
    """A machine with an image, and a `stage-image` that is the real one."""

    def __init__(self, folder: Path, store: Path, tasks: Tasks) -> None:
        self.folder, self.tools, self.tasks = folder, folder / "tools", tasks
        self.image = folder / "tool.sqsh"
        self.image.write_bytes(CONTENT)
        self.staged = str(published(store, CONTENT))
        program(self.tools / "stage-image", f'echo "$*" >>{folder}/calls', f'exec {" ".join(COMMAND)} "$@"')
        self.environ = tasks.environ({"PATH": f"{self.tools}:{os.environ['PATH']}", "STAGE_IMAGE_BIN": ""})
        self.sensing = self.environ | {"STAGE_IMAGE_BIN": self.environ["PATH"]}

    def run(
        self, *command: str | Path, env: Mapping[str, str] = NOTHING, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        words, environ = [*map(str, command)], {**self.environ, **env}
        return subprocess.run(
            words, input=stdin, env=environ, cwd=self.folder, capture_output=True, timeout=40, check=False
        )

    def start(self, starter: Path, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command by what starts a job's program, for a job that asks for the image."""
        return self.run(starter, *command, env={"STAGE_IMAGE_REFERENCE": str(self.image)}, stdin=stdin)

    def stage(self) -> None:
        """Stage the image from where everybody may read it: one from a closed directory is told to nobody."""
        with Origin() as origin:
            assert self.run("stage-image", origin.put("/tool.sqsh", CONTENT)).returncode == 0

    @property
    def calls(self) -> int:
        file = self.folder / "calls"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def item(self) -> str:
        return f"tool.sqsh@{Path(self.staged).parent.name[:12]}"


@pytest.fixture
def node(tmp_path: Path, store_path: Path) -> Iterator[Node]:
    with Tasks(tmp_path) as tasks:
        yield Node(tmp_path, store_path, tasks)


@pytest.fixture(params=[STARTER, WRAPPER], ids=["lsf", "htcondor"])
def starter(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


# --- what starts a job's program: LSF's JOB_STARTER and HTCondor's USER_JOB_WRAPPER


def test_the_program_finds_its_image(node: Node, starter: Path) -> None:
    done = node.run(starter, "sh", "-c", 'echo "$STAGE_IMAGE_PATH"', env={"STAGE_IMAGE_REFERENCE": str(node.image)})
    assert (done.returncode, done.stdout.decode()) == (0, f"{node.staged}\n")
    assert done.stderr.startswith(b"stage-image: staged tool.sqsh")


def test_without_a_request_nothing_is_done(node: Node, starter: Path) -> None:
    done = node.run(starter, "sh", "-c", 'echo "${STAGE_IMAGE_PATH-none}"')
    assert (done.returncode, done.stdout, done.stderr, node.calls) == (0, b"none\n", b"", 0)


@pytest.mark.parametrize("reference", ["/nowhere/x.sif", "--version", "-h", "ftp://x/y", "a b"])
def test_whatever_is_wrong_with_the_image_the_program_starts(node: Node, starter: Path, reference: str) -> None:
    done = node.run(
        starter, "sh", "-c", 'echo "${STAGE_IMAGE_PATH-none}"; exit 7', env={"STAGE_IMAGE_REFERENCE": reference}
    )
    assert (done.returncode, done.stdout) == (7, b"none\n")
    assert done.stderr.startswith(b"stage-image: error: ") or reference.startswith("-")


def test_the_program_is_unharmed(node: Node, starter: Path) -> None:
    content = bytes(range(256)) * 4096
    assert node.start(starter, "cat", stdin=content).stdout == content
    words = node.start(starter, "printf", "%s\\0", *ODD).stdout
    assert words == b"".join(os.fsencode(word) + b"\0" for word in ODD)
    assert node.start(starter, "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    mine = {"_", "SHLVL", "PWD", "OLDPWD", "STAGE_IMAGE_PATH", "STAGE_IMAGE_REFERENCE"}
    after = {line.partition("=")[0] for line in node.start(starter, "env").stdout.decode().splitlines()}
    before = {line.partition("=")[0] for line in node.run("env").stdout.decode().splitlines()}
    assert after - mine == before - mine


@pytest.mark.needs("mount")
def test_switched_off_the_program_just_runs(node: Node, starter: Path) -> None:
    done = node.run(*OFF, starter, "echo", "ran", env={"STAGE_IMAGE_REFERENCE": str(node.image)})
    assert (done.returncode, done.stdout, done.stderr, node.calls) == (0, b"ran\n", b"", 0)


def test_lsf_may_hand_over_a_line_for_a_shell(node: Node) -> None:
    line = f"cd {node.folder} && echo \"a  b\" 'c;d'; exit 5"
    done = node.start(STARTER, "-c", line)
    assert (done.returncode, done.stdout) == (5, b"a  b c;d\n")


def test_lsf_hears_of_a_starter_without_a_command(node: Node) -> None:
    assert node.run(STARTER).returncode == 127


def test_htcondor_hears_of_a_program_that_cannot_be_started(node: Node) -> None:
    error = node.folder / "error"
    done = node.run(WRAPPER, node.folder / "gone", env={"_CONDOR_WRAPPER_ERROR_FILE": str(error)})
    assert done.returncode == 127
    assert error.read_text() == f"stage-image: {node.folder}/gone could not be started\n"
    error.unlink()
    assert node.run(WRAPPER, "false", env={"_CONDOR_WRAPPER_ERROR_FILE": str(error)}).returncode == 1
    assert not error.exists()


# --- what tells which images are here: LSF's elim and HTCondor's startd cron


def test_htcondor_is_told_what_is_here(node: Node) -> None:
    first, _, last = node.run(CRON, env=node.sensing).stdout.decode().splitlines()
    assert (first, last) == ('StageImages = ""', "- update:true")
    node.stage()
    done = node.run(CRON, env=node.sensing)
    images, free, _ = done.stdout.decode().splitlines()
    assert images == f'StageImages = "{node.item}"'
    assert int(free.removeprefix("StageImagesFree = ")) > 1 << 20
    assert (done.returncode, done.stderr) == (0, b"")


def test_htcondor_is_told_of_many_images(node: Node) -> None:
    items = [f"image-{number}.sif@{number:012x}" for number in range(60)]
    lines = ["begin", f"h:stage_images:;{';'.join(items[:30])};", f"h:stage_images2:;{';'.join(items[30:])};"]
    sensor(node, *lines, "h:stage_images3:none", "h:stage_images_cut:1", "h:stage_free:5", "h:stage_busy:0", "end")
    done = node.run(CRON, env=node.sensing).stdout.decode()
    assert done == f'StageImages = "{",".join(items)}"\nStageImagesFree = 5\n- update:true\n'


@pytest.mark.parametrize(
    "lines", [(), ("begin",), ("h:stage_free:x", "h:stage_images:none"), ("::::", "h:stage_images:;")]
)
def test_a_sensor_that_says_nothing_or_nonsense(node: Node, lines: tuple[str, ...]) -> None:
    sensor(node, *lines)
    done = node.run(CRON, env=node.sensing)
    assert (done.returncode, done.stdout) == (0, b'StageImages = ""\nStageImagesFree = 0\n- update:true\n')
    task = elim(node, "stage_free img_0123456789ab")
    assert first_line(task) == "2 stage_free 0 img_0123456789ab 0"


def sensor(node: Node, *lines: str) -> None:
    program(node.tools / "stage-image", "cat >/dev/null", "cat <<'END'", *lines, "END")


def first_line(task: Task) -> str:
    until(lambda: "\n" in task.out, "a line")
    return task.out.splitlines()[0]


def elim(node: Node, resources: str) -> Task:
    environ = {"LSF_RESOURCES": resources, "STAGE_IMAGE_BIN": node.environ["PATH"], "PATH": node.environ["PATH"]}
    return node.tasks.start("0.2", program=(str(ELIM),), env=environ)


def test_lsf_is_told_of_the_images_that_it_asks_for(node: Node) -> None:
    digits = Path(node.staged).parent.name[:12]
    task = elim(node, f"mem stage_free img_{digits} img_000000000000 img_short img_00000000000g")
    assert first_line(task).endswith(f" img_{digits} 0 img_000000000000 0")
    node.stage()
    until(lambda: f"img_{digits} 1 img_000000000000 0\n" in task.out, "the image to be told")
    count, *pairs = task.out.splitlines()[-1].split()
    assert (count, pairs[::2]) == ("3", ["stage_free", f"img_{digits}", "img_000000000000"])
    task.send(signal.SIGTERM)
    assert task.done() == 0


def test_lsf_is_not_kept_busy_where_there_is_nothing_to_tell(node: Node) -> None:
    done = node.run(ELIM, env=node.sensing | {"LSF_RESOURCES": "mem tmp img_x", "ELIM_ABORT_VALUE": "97"})
    assert (done.returncode, done.stdout, node.calls) == (97, b"", 0)


def test_an_elim_whose_reader_is_gone_ends(node: Node) -> None:
    environ = node.sensing | {"LSF_RESOURCES": "stage_free"}
    process = subprocess.Popen([str(ELIM), "0.1"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    assert process.stdout.readline().startswith(b"1 stage_free ")
    process.stdout.close()
    assert process.wait(40) != 0


# --- what runs as root before a job: OpenPBS' hook, the prologues of OpenPBS and Torque, Flux' prolog


class Recorder:
    """A `stage-image` that notes who ran it how. Another user can neither reach this checkout nor its Python."""

    def __init__(self, folder: Path) -> None:
        self.tools, self._notes = folder / "tools", folder / "notes"
        self._notes.mkdir(mode=0o777)
        self._notes.chmod(0o777)
        note = f"{self._notes}/$$"
        program(
            self.tools / "stage-image",
            f"{{ id -un; ps -o sid= -p $$; printf '%s\\n' \"$*\"; env | sort; }} >{note}.new",
            f"mv {note}.new {note}",
        )
        for path in (folder, self.tools, self.tools / "stage-image"):
            path.chmod(0o755)
        self.path = f"{self.tools}:{os.environ['PATH']}:/usr/sbin:/sbin"

    def notes(self) -> list[tuple[str, int, str, dict[str, str]]]:
        """Return user, session, words and environment of every call that has ended, in the order of the words."""
        found = []
        for file in self._notes.glob("*[0-9]"):
            user, session, words, *variables = file.read_text().splitlines()
            environ = dict(line.split("=", 1) for line in variables if "=" in line)
            found.append((user, int(session), words, environ))
        return sorted(found, key=lambda note: note[2])

    def await_notes(self, count: int) -> list[tuple[str, int, str, dict[str, str]]]:
        until(lambda: len(self.notes()) >= count, f"{count} calls")
        return self.notes()


@pytest.fixture
def recorder(public_path: Path) -> Recorder:
    return Recorder(public_path)


def as_user() -> pytest.MarkDecorator:
    return pytest.mark.needs("user-switch")


HARMLESS = {"PATH", "HOME", "PWD", "_", "SHLVL", "OLDPWD"}


@as_user()
def test_a_prologue_stages_as_the_jobs_user(recorder: Recorder, tmp_path: Path) -> None:
    prologue = Path(shutil.copy(PROLOGUE, tmp_path))
    (tmp_path / "job-images").write_text(
        "# every job\n\nhttps://x.example/a.sif\n--store=/x\nnonsense\noci:c\n/shared/b.sqsh\noci:/c"
    )
    environ = {"STAGE_IMAGE_BIN": recorder.path, "SECRET": "of root", "PATH": os.environ["PATH"]}
    command = [str(prologue), "12[3].host", USER, "nogroup", "name", "limits", "queue", "account"]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=40, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    notes = recorder.await_notes(3)
    assert [note[2] for note in notes] == ["/shared/b.sqsh", "https://x.example/a.sif", "oci:/c"]
    for user, session, _, found in notes:
        assert (user, found["PBS_JOBID"], found["HOME"]) == (USER, "12[3].host", pwd.getpwnam(USER).pw_dir)
        assert set(found) - HARMLESS == {"PBS_JOBID"}
        assert session != os.getsid(0)


@pytest.mark.parametrize(
    "words", [(), ("1.host",), ("1.host", "root"), ("1.host", "-x"), ("1.host", "a b"), ("", USER)]
)
def test_a_prologue_with_odd_arguments_does_nothing(recorder: Recorder, tmp_path: Path, words: tuple[str, ...]) -> None:
    prologue = shutil.copy(PROLOGUE, tmp_path)
    (tmp_path / "job-images").write_text("/a.sif\n")
    done = subprocess.run(
        [prologue, *words], env={"STAGE_IMAGE_BIN": recorder.path}, capture_output=True, timeout=40, check=False
    )
    assert (done.returncode, done.stdout, done.stderr, recorder.notes()) == (0, b"", b"", [])


def test_a_prologue_without_a_list_does_nothing(tmp_path: Path) -> None:
    assert subprocess.run([shutil.copy(PROLOGUE, tmp_path), "1.host", USER], timeout=40, check=False).returncode == 0


def jobspec(reference: str) -> str:
    return json.dumps({"attributes": {"system": {"duration": 0, "stage_image": reference}}, "version": 1})


def flux(recorder: Recorder, answer: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the prolog with a `flux` that answers what is asked of it."""
    program(recorder.tools / "flux", '[ "$*" = "job info f2Xk1 jobspec" ] || exit 1', "cat <<'END'", answer, "END")
    uid = str(pwd.getpwnam(USER).pw_uid)
    environ = {
        "STAGE_IMAGE_BIN": recorder.path,
        "FLUX_JOB_ID": "f2Xk1",
        "FLUX_JOB_USERID": uid,
        "SECRET": "x",
    } | environ
    return subprocess.run([str(FLUX)], env=environ, capture_output=True, text=True, timeout=40, check=False)


@as_user()
def test_flux_has_the_image_staged_as_the_jobs_user(recorder: Recorder) -> None:
    done = flux(recorder, jobspec("https://x.example/a.sif@sha256:" + "0" * 64))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ((user, _, words, environ),) = recorder.notes()
    assert (user, words) == (USER, "https://x.example/a.sif@sha256:" + "0" * 64)
    assert environ["FLUX_JOB_ID"] == "f2Xk1"
    assert set(environ) - HARMLESS == {"FLUX_JOB_ID"}


IMAGES = ("docker://h.x:5000/a/b:1", "oras://h.x/a", "library://e/c/x", "oci:/a:b", "docker-archive:/a.tar:x/y:1")


@as_user()
@pytest.mark.parametrize("reference", IMAGES)
def test_flux_and_pbs_have_images_of_registries_staged(recorder: Recorder, tmp_path: Path, reference: str) -> None:
    flux(recorder, jobspec(reference))
    pbs_hook(tmp_path, type=BEGIN, config=config(tmp_path, recorder.tools), job=job(reference))
    assert [note[2] for note in recorder.await_notes(2)] == [reference] * 2


@as_user()
@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nonsense",
        jobspec(""),
        jobspec("-x"),
        jobspec("/a b"),
        jobspec("/$(id)"),
        jobspec('/a"b'),
        jobspec("ftp://x"),
        jobspec("oci:x"),
    ],
)
def test_flux_jobs_that_ask_for_nothing_sensible_start(recorder: Recorder, answer: str) -> None:
    done = flux(recorder, answer)
    assert (done.returncode, done.stdout, done.stderr, recorder.notes()) == (0, "", "", [])


@as_user()
@pytest.mark.parametrize(
    "environ", [{"FLUX_JOB_USERID": "0"}, {"FLUX_JOB_USERID": "x"}, {"FLUX_JOB_ID": ""}, {"FLUX_JOB_ID": "f1"}]
)
def test_flux_is_believed_only_as_far_as_it_makes_sense(recorder: Recorder, environ: dict[str, str]) -> None:
    assert (flux(recorder, jobspec("/a.sif"), **environ).returncode, recorder.notes()) == (0, [])


@as_user()
def test_flux_jobs_start_though_staging_fails(recorder: Recorder) -> None:
    program(recorder.tools / "stage-image", "echo noise", "exit 80")
    done = flux(recorder, jobspec("/a.sif"))
    assert (done.returncode, done.stdout) == (0, "")


BEGIN, PERIODIC = 1, 2


def pbs_hook(folder: Path, **told: object) -> dict[str, object]:
    """Run the hook as MoM's Python does, with a module of the name `pbs`."""
    shutil.copy(ROOT / "tests" / "support" / "pbs_module.py", folder / "pbs.py")
    code = f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); runpy.run_path({str(HOOK)!r}, run_name='pbs_hook')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PBS_FAKE": json.dumps(told), "PATH": os.environ["PATH"], "SECRET": "of root"},
        capture_output=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    assert answer.pop("accepted")
    return answer


def config(folder: Path, tools: Path, **environment: str) -> str:
    path = folder / "hook.json"
    path.write_text(json.dumps({"command": str(tools / "stage-image"), "environment": environment}))
    return str(path)


def job(reference: str, user: str = USER) -> dict[str, object]:
    return {"id": "12.host", "euser": user, "variables": {"STAGE_IMAGE_REFERENCE": reference}}


@as_user()
def test_pbs_starts_the_staging_as_the_jobs_user_and_does_not_wait(recorder: Recorder, tmp_path: Path) -> None:
    slow = program(recorder.tools / "slow", "sleep 1", f'exec {recorder.tools}/stage-image "$@"')
    slow.chmod(0o755)
    file = config(tmp_path, recorder.tools)
    Path(file).write_text(Path(file).read_text().replace("tools/stage-image", "tools/slow"))
    answer = pbs_hook(tmp_path, type=BEGIN, config=file, job=job("https://x.example/a.sif"))
    assert (answer["log"], recorder.notes()) == ([], [])
    ((user, session, words, environ),) = recorder.await_notes(1)
    assert (user, words, environ["PBS_JOBID"]) == (USER, "https://x.example/a.sif", "12.host")
    assert set(environ) - HARMLESS == {"PBS_JOBID"}
    assert session != os.getsid(0)


@pytest.mark.parametrize(
    "reference", ["--help", "a.sif", "/a b", "/a\n", "/$(id)", "ftp://x/y", "oci:x", "/" + "a" * 5000]
)
def test_pbs_logs_what_is_no_reference(recorder: Recorder, tmp_path: Path, reference: str) -> None:
    answer = pbs_hook(tmp_path, type=BEGIN, config=config(tmp_path, recorder.tools), job=job(reference))
    assert answer["log"] == ["stage-image: 12.host asks for what is no reference"]


@pytest.mark.parametrize("told", [job(""), job("/a.sif", "root"), job("/a.sif", "nobody-of-that-name"), {"id": "1"}])
def test_pbs_jobs_start_whatever_they_are(recorder: Recorder, tmp_path: Path, told: dict[str, object]) -> None:
    pbs_hook(tmp_path, type=BEGIN, config=config(tmp_path, recorder.tools), job=told)
    pbs_hook(tmp_path, type=BEGIN, config=str(tmp_path / "gone"), job=told)
    assert recorder.notes() == []


def test_pbs_is_told_which_images_are_here(node: Node, store_path: Path, tmp_path: Path) -> None:
    file = config(tmp_path, node.tools, STAGE_IMAGE_STORE=str(store_path), PYTHONPATH=str(ROOT))
    assert pbs_hook(tmp_path, type=PERIODIC, config=file)["resources"] == {"stage_images": "none"}
    node.stage()
    assert pbs_hook(tmp_path, type=PERIODIC, config=file)["resources"] == {"stage_images": node.item}


def test_pbs_is_told_no_more_than_it_can_bear(node: Node, tmp_path: Path) -> None:
    items = [f"image-{number}.sif@{number:012x}" for number in range(400)]
    sensor(node, "begin", *(f"h:stage_images{i or ''}:;{';'.join(items[i::8])};" for i in range(8)), "end")
    answer = pbs_hook(tmp_path, type=PERIODIC, config=config(tmp_path, node.tools))
    resources = answer["resources"]
    assert isinstance(resources, dict)
    told = resources["stage_images"]
    assert 3900 < len(told) <= 4000
    assert set(told.split(",")) <= set(items)


def test_pbs_goes_on_though_the_sensor_fails(node: Node, tmp_path: Path) -> None:
    program(node.tools / "stage-image", "exit 3")
    answer = pbs_hook(tmp_path, type=PERIODIC, config=config(tmp_path, node.tools))
    assert answer["resources"] == {}
    assert len(str(answer["log"]).splitlines()) == 1


@pytest.mark.needs("mount")
@pytest.mark.parametrize("hook", [CRON, PROLOGUE, FLUX], ids=lambda path: path.name)
def test_hooks_are_switched_off_by_one_file(node: Node, hook: Path) -> None:
    environ = {"FLUX_JOB_ID": "f1", "FLUX_JOB_USERID": "65534", "STAGE_IMAGE_BIN": node.environ["PATH"]}
    done = node.run(*OFF, hook, "1.host", USER, env=environ)
    assert (done.returncode, done.stderr, node.calls) == (0, b"", 0)


@pytest.mark.needs("mount")
def test_an_elim_that_is_switched_off_tells_of_nothing(node: Node) -> None:
    sensor(node, "h:stage_images:;a@0123456789ab;", "h:stage_free:1048576")
    environ = {"LSF_RESOURCES": "stage_free img_0123456789ab", "STAGE_IMAGE_BIN": node.environ["PATH"]}
    for command, line in (
        ((ELIM,), "2 stage_free 1 img_0123456789ab 1"),
        ((*OFF, ELIM), "2 stage_free 0 img_0123456789ab 0"),
    ):
        task = node.tasks.start("0.1", program=[*map(str, command)], env=environ)
        assert first_line(task) == line
        task.send(signal.SIGTERM)
        assert task.done() == 0


# --- all of them


def test_all_are_executable() -> None:
    assert [path.name for path in ALL if not os.access(path, os.X_OK)] == []


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", *map(str, ALL)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
