"""Slurm's hooks on one node, without Slurm: what a Prolog makes, a TaskProlog tells, and an Epilog takes back."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.slurm_hooks import ALICE, MALLORY, Node, node
from tests.support.tasks import image, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("mount", "loop", "user-switch", "user-python")

HALF = 1 << 20


def padded(seed: int = 1) -> bytes:
    """An image of some 2 MiB that a loop device can show, as mksquashfs makes them."""
    plain = image(2 * HALF, seed)
    return plain + bytes(-len(plain) % 4096)


CONTENT, OTHER = padded(), padded(2)
DIGEST = f"sha256:{sha256(CONTENT).hexdigest()}"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        server.put("/tool.sqsh", CONTENT)
        server.put("/other.sqsh", OTHER)
        yield server


@pytest.fixture
def n1(tmp_path: Path, origin: Origin) -> Iterator[Node]:
    with node(tmp_path, slurm_allow=[origin.url("/")]) as booted:
        yield booted


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.url("/tool.sqsh")


def held(origin: Origin, content: bytes = CONTENT) -> Stall:
    """Have the origin stop in the middle of the image until told otherwise."""
    stall = Stall(HALF)
    origin.put("/tool.sqsh", content, Fault(stall=stall))
    return stall


def gets(origin: Origin, path: str = "/tool.sqsh") -> int:
    return len(origin.seen(path))


def late(n1: Node, origin: Origin) -> Stall:
    """Have the Prolog of job 7 give up waiting for an image that is half there."""
    stall = held(origin)
    n1.configure(store=n1.store, connections=1, slurm_allow=[origin.url("/")], slurm_budget="0.3s")
    assert n1.prolog(7, origin.url("/tool.sqsh")).code == 0
    assert stall.reached.wait(20)
    return stall


def test_a_prolog_stages_mounts_and_leases(n1: Node, url: str) -> None:
    assert (n1.prolog(7, url).code, n1.state(7)) == (0, "ready")
    assert (len(n1.mounts()), len(n1.loops())) == (1, 1)
    assert {name.partition("@")[0] for name in n1.leases()} == {"slurm-7"}
    assert len(n1.leases()) >= 2  # of the image, and of its mount
    assert n1.record(7)["references"] == [url]
    until(lambda: not n1.processes(), "the end of who staged")


def test_the_tasks_get_what_it_has_staged(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    ran = n1.task(7)
    assert (ran.code, ran.err, ran.exports["STAGE_IMAGE_REFERENCE"], ran.exports["STAGE_IMAGE_DIGEST"]) == (
        0,
        "",
        url,
        DIGEST,
    )
    assert set(ran.exports) == {f"STAGE_IMAGE_{name}" for name in ("REFERENCE", "PATH", "DIGEST", "ROOT")}
    seen = n1.run("/usr/bin/sha256sum", ran.exports["STAGE_IMAGE_PATH"], user=ALICE)
    assert f"sha256:{seen.out.split(' ')[0]}" == DIGEST
    assert n1.run("/bin/ls", "-A", ran.exports["STAGE_IMAGE_ROOT"], user=ALICE).out == ""
    assert ran.exports["STAGE_IMAGE_ROOT"] in n1.mounts()


def test_every_task_gets_valid_lines_only(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url, origin.url("/other.sqsh"))
    tasks = [n1.start_task(7, rank) for rank in range(8)]
    lines = [line for task in tasks for line in task.end().out.splitlines()]
    assert [line for line in lines if not line.startswith(("export ", "print ", "unset "))] == []
    assert sum(line.startswith("export STAGE_IMAGE_PATH_2=") for line in lines) == 8


def test_what_tasks_are_told_is_for_their_user_only(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    path = "/run/stage-image/jobs/slurm-7/tasks"
    status = n1.view(path).stat()
    assert (status.st_uid, status.st_mode & 0o222) == (0, 0), "a file of alice's own she could fill /run with"
    assert n1.run("/bin/cat", path, user=ALICE).code == 0
    assert n1.run("/bin/chmod", "u+w", path, user=ALICE).code != 0
    assert n1.run("/bin/cat", path, user=MALLORY).code != 0
    assert n1.task(7, user=MALLORY).out == ""
    assert stat.S_IMODE(n1.view(f"{n1.store}/jobs").stat().st_mode) == 0o700


def test_the_same_prolog_again_changes_nothing(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    before = n1.task(7).exports, n1.mounts(), n1.leases(), n1.loops(), gets(origin)
    assert n1.prolog(7, url).code == 0
    assert (n1.task(7).exports, n1.mounts(), n1.leases(), n1.loops(), gets(origin)) == before
    n1.epilog(7)
    assert n1.left() == []


def test_an_epilog_takes_it_all_back_but_the_image(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    path = n1.task(7).exports["STAGE_IMAGE_PATH"]
    ran = n1.epilog(7)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert n1.left() == []
    assert n1.view(path).exists()
    n1.prolog(8, url)
    assert (n1.state(8), origin.sent("/tool.sqsh")) == ("ready", len(CONTENT))


def test_an_epilog_may_run_twice_and_without_a_prolog(n1: Node, url: str) -> None:
    ran = [n1.epilog(5)]
    n1.prolog(7, url)
    ran += [n1.epilog(job) for job in (7, 7, 6)]
    assert [(each.code, each.out, each.err) for each in ran] == [(0, "", "")] * 4
    assert n1.left() == []


def test_two_epilogs_at_once(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    both = [n1.start_epilog(7), n1.start_epilog(7)]
    assert [each.end().code for each in both] == [0, 0]
    assert n1.left() == []


def test_an_epilog_takes_only_its_own_jobs_things(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    n1.prolog(77, origin.url("/other.sqsh"))
    before = n1.task(77).exports
    n1.epilog(7)
    assert (n1.task(77).exports, n1.task(7).out) == (before, "")
    assert n1.mounts() == [before["STAGE_IMAGE_ROOT"]]
    assert {name.partition("@")[0] for name in n1.leases()} == {"slurm-77"}


def test_the_last_of_two_jobs_unmounts_what_they_share(n1: Node, origin: Origin, url: str) -> None:
    both = [n1.start_prolog(7, url), n1.start_prolog(8, url, user=MALLORY)]
    assert [each.end().code for each in both] == [0, 0]
    root = n1.task(7).exports["STAGE_IMAGE_ROOT"]
    assert (n1.mounts(), origin.sent("/tool.sqsh")) == ([root], len(CONTENT))
    n1.epilog(7)
    assert n1.mounts() == [root]
    assert n1.run("/bin/ls", n1.task(8, user=MALLORY).exports["STAGE_IMAGE_ROOT"], user=MALLORY).code == 0
    n1.epilog(8, user=MALLORY)
    assert n1.left() == []


def test_a_job_without_a_request_costs_nothing(n1: Node) -> None:
    assert n1.prolog(7).code == 0
    assert n1.prolog(8, env={"SLURM_JOB_COMMENT": "project=x; nice"}).code == 0
    assert (n1.record(7), n1.record(8), n1.told(7), n1.task(8).out) == ({}, {}, [], "")
    assert n1.left() == []


def test_an_image_by_the_plugins_option(n1: Node, url: str) -> None:
    assert n1.prolog(7, env={"SPANK_STAGE_IMAGE": url}).code == 0
    assert n1.task(7).exports["STAGE_IMAGE_DIGEST"] == DIGEST


def test_an_image_of_a_shared_directory(n1: Node, origin: Origin) -> None:
    folder = n1.view(f"{n1.disk}/apps")
    folder.mkdir()
    (folder / "tool.sqsh").write_bytes(CONTENT)
    n1.configure(store=n1.store, slurm_allow=[f"{n1.disk}/apps"])
    assert n1.prolog(7, f"{n1.disk}/apps/tool.sqsh").code == 0
    assert n1.task(7).exports["STAGE_IMAGE_DIGEST"] == DIGEST
    n1.epilog(7)
    assert n1.left() == []


def test_the_budget_bounds_the_prolog_and_not_the_download(n1: Node, origin: Origin, url: str) -> None:
    stall = held(origin)
    n1.configure(store=n1.store, connections=1, slurm_allow=[origin.url("/")], slurm_budget="0.5s")
    ran = n1.prolog(7, url)
    assert (ran.code, n1.state(7)) == (0, "staging")
    assert 0.5 <= ran.seconds < 4
    tasks = [n1.start_task(7, rank) for rank in range(3)]
    tasks[0].says("waiting for")
    stall.go.set()
    told = [task.end() for task in tasks]
    assert {ran.exports["STAGE_IMAGE_DIGEST"] for ran in told} == {DIGEST}
    assert [
        line for ran in told for line in ran.out.splitlines() if line.split(" ")[0] not in ("export", "print")
    ] == []
    assert (gets(origin), n1.state(7)) == (1, "ready")
    n1.epilog(7)
    assert n1.left() == []


def test_a_second_prolog_of_the_job_does_not_download_beside_the_first(n1: Node, origin: Origin, url: str) -> None:
    stall = late(n1, origin)
    assert n1.prolog(7, url).code == 0
    assert gets(origin) == 1
    stall.go.set()
    n1.await_state(7, "ready")
    assert gets(origin) == 1


def test_a_users_own_call_waits_for_the_prologs_process(n1: Node, origin: Origin, url: str) -> None:
    stall = late(n1, origin)
    calls = [n1.start_stage_image("path", url, job=7), n1.start_stage_image(url, job=7)]
    for call in calls:
        call.says("waiting for")
    stall.go.set()
    ran = [call.end() for call in calls]
    assert [each.code for each in ran] == [0, 0], ran
    assert n1.task(7).exports["STAGE_IMAGE_PATH"] == ran[0].out.strip()
    assert origin.sent("/tool.sqsh") == len(CONTENT)


def test_a_users_own_call_takes_what_is_staged(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    calls = [n1.stage_image("path", url, job=7), n1.stage_image("exec", url, "--", "/bin/true", job=7)]
    assert [call.code for call in calls] == [0, 0], calls
    assert calls[0].out.strip() == n1.task(7).exports["STAGE_IMAGE_PATH"]
    assert gets(origin) == 1
    n1.epilog(7)
    assert n1.left() == []


def test_a_tag_that_moves_means_to_a_task_what_it_meant_to_the_prolog(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    origin.put("/tool.sqsh", OTHER)
    ran = n1.stage_image("path", url, job=7)
    assert (ran.code, ran.out.strip()) == (0, n1.task(7).exports["STAGE_IMAGE_PATH"])
    assert (len(origin.requests), n1.task(7).exports["STAGE_IMAGE_DIGEST"]) == (1, DIGEST)
    assert n1.prolog(8, url).code == 0
    assert n1.task(8).exports["STAGE_IMAGE_DIGEST"] != DIGEST


@pytest.mark.parametrize("mount", ["auto", "none"])
def test_nothing_evicts_a_jobs_image(n1: Node, origin: Origin, url: str, mount: str) -> None:
    n1.configure(store=n1.store, slurm_allow=[origin.url("/")], mount=mount)
    n1.prolog(7, url)
    path = n1.task(7).exports["STAGE_IMAGE_PATH"]
    ran = [n1.stage_image(*words, user=0) for words in (["prune", "--max-size", "0"], ["remove", DIGEST], ["collect"])]
    assert ([each.code for each in ran[:2]], n1.view(path).exists()) == ([0, 79], True), ran
    assert n1.mounts() == [root for root in (n1.task(7).exports.get("STAGE_IMAGE_ROOT"),) if root]
    n1.epilog(7)
    assert n1.stage_image("remove", DIGEST, user=0).code == 0
    assert not n1.view(path).exists()


def test_the_switch_turns_all_hooks_off(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    n1.switch_off()
    before, logged = n1.leases(), n1.log()
    ran = [n1.prolog(8, url), n1.task(7), n1.epilog(7)]
    told = n1.told_by_slurmd(7, ALICE, "epilog_slurmd") | {"SPANK_STAGE_IMAGE": origin.url("/other.sqsh")}
    ran += [
        n1.run("/usr/local/sbin/stage-image", "slurm", hook, env=told) for hook in ("prolog", "epilog", "task-prolog")
    ]
    assert [(each.code, each.out, each.err) for each in ran] == [(0, "", "")] * 6
    assert (n1.leases(), n1.record(8), len(origin.requests), n1.log()) == (before, {}, 1, logged)
    called = n1.stage_image("exec", url, "--", "/bin/echo", "ran", job=7)
    assert (called.code, called.out) == (0, "ran\n")


def test_each_image_is_a_line_in_the_systems_log(n1: Node, origin: Origin, url: str) -> None:
    gone = origin.url("/gone.sqsh")
    n1.prolog(7, url, gone)
    staged, missing = n1.logged(job="7", action="stage", image=url), n1.logged(job="7", action="stage", image=gone)
    assert [(line["result"], float(line["seconds"]) > 0, line["severity"]) for line in staged] == [("ok", True, "6")]
    assert [(line["result"][:5], line["severity"]) for line in missing] == [("error", "4")]
    n1.epilog(7)
    assert [line["result"] for line in n1.logged(job="7", action="epilog")] == ["ok"]


def test_a_requeued_job_leaves_no_directory(n1: Node, origin: Origin, url: str) -> None:
    private = {"store": n1.store, "slurm_allow": [origin.url("/")], "slurm_private": [f"/tmp={n1.disk}/private/tmp"]}
    n1.configure(**private)
    n1.view(f"{n1.disk}/private").mkdir(mode=0o755)
    for restart in range(3):
        again = {"SLURM_JOB_RESTART_COUNT": str(restart), "SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"}
        assert n1.prolog(7, url, env=again).code == 0
        (made,) = n1.record(7)["directories"]
        status = n1.view(made["path"]).stat()
        assert made["path"].endswith(f".7.{restart}/_tmp")
        assert (status.st_uid, stat.S_IMODE(status.st_mode), status.st_ino) == (ALICE, 0o700, made["ino"])
        (n1.view(made["path"]) / "left").write_text("by the job")
    assert len(list(n1.view(f"{n1.disk}/private").iterdir())) == 1
    assert n1.epilog(7).code == 0  # which is told nothing of restarts, as before Slurm 22.05
    assert n1.left() == []


def test_what_a_boot_ended_the_next_epilog_clears_away(n1: Node, origin: Origin, url: str) -> None:
    n1.configure(store=n1.store, slurm_allow=[origin.url("/")], slurm_private=[f"/tmp={n1.disk}/private/tmp"])
    n1.view(f"{n1.disk}/private").mkdir(mode=0o755)
    n1.prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    n1.rewrite_record(7, boot="00000000")
    n1.prolog(8, url)
    n1.epilog(8)
    assert n1.left() == []


def test_a_job_of_another_boot_with_the_same_number(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    n1.rewrite_record(7, boot="00000000", references=["https://example.org/other"])
    n1.prolog(7, url)
    assert (n1.state(7), n1.record(7)["references"]) == ("ready", [url])
    n1.epilog(7)
    assert n1.left() == []


def test_hooks_of_many_jobs_at_once(n1: Node, origin: Origin, url: str) -> None:
    jobs = range(100, 106)
    prologs = [n1.start_prolog(job, url) for job in jobs]
    assert [each.end().code for each in prologs] == [0] * 6
    assert {n1.task(job).exports["STAGE_IMAGE_DIGEST"] for job in jobs} == {DIGEST}
    assert origin.sent("/tool.sqsh") == len(CONTENT)  # though each job asks whether it is still current
    assert len(n1.mounts()) == 1
    epilogs = [n1.start_epilog(job) for job in jobs]
    assert [each.end().code for each in epilogs] == [0] * 6
    assert n1.left() == []


def test_a_node_of_hooks_leaves_the_machine_alone(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    n1.switch_off()
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        assert n1.disk not in table.read()
    assert [
        path
        for path in (n1.disk, "/etc/stage-image/disabled", "/run/stage-image/jobs/slurm-7")
        if os.path.lexists(path)
    ] == []


@pytest.mark.parametrize("umask", ["000", "077"])
def test_whatever_slurmds_umask(n1: Node, url: str, umask: str) -> None:
    environ = n1.told_by_slurmd(7, ALICE, "prolog_slurmd") | {"SLURM_JOB_COMMENT": f"stage-image={url}"}
    script = f'umask {umask}; exec "$0"'
    assert n1.run("/bin/sh", "-c", script, str(n1.hooks / "prolog"), env=environ).code == 0
    assert n1.task(7).exports["STAGE_IMAGE_DIGEST"] == DIGEST
    assert n1.run("/bin/cat", n1.task(7).exports["STAGE_IMAGE_PATH"], user=ALICE).code == 0
    mode = stat.S_IMODE(n1.view("/run/stage-image/jobs/slurm-7").stat().st_mode)
    assert mode == 0o755


@pytest.mark.parametrize("state", ["ready", "failed", "staging"])
@pytest.mark.parametrize("kind", ["batch", "first", "first elsewhere", "second", "later step", "interactive"])
def test_shell_and_python_tell_the_tasks_the_same(n1: Node, origin: Origin, url: str, state: str, kind: str) -> None:
    if state == "staging":
        stall = late(n1, origin)
        stall.go.set()
        n1.await_state(7, "ready")
        told = [*n1.told(7)[:-1], f"staging 1.1.{'0' * 8} 0 0 {url}"]
        n1.view("/run/stage-image/jobs/slurm-7/tasks").write_text("".join(f"{line}\n" for line in told))
    else:
        n1.prolog(7, url, *([origin.url("/gone")] if state == "failed" else []))
    env = {
        "batch": {"ENVIRONMENT": "BATCH", "SLURM_STEP_ID": ""},
        "first": {"ENVIRONMENT": "BATCH", "SLURM_NODEID": "0"},
        "first elsewhere": {"ENVIRONMENT": "BATCH", "SLURM_NODEID": "1"},
        "second": {"SLURM_LOCALID": "1"},
        "later step": {"SLURM_STEP_ID": "1"},
        "interactive": {"SLURM_STEP_ID": ""},
    }[kind]
    shell = n1.task(7, env=env)
    python = n1.stage_image("slurm", "task-prolog", job=7, env=env)
    assert (shell.code, python.code, shell.out) == (0, 0, python.out)
    assert "export STAGE_IMAGE_PATH=" in shell.out
    assert ("\nprint " in shell.out) == (kind == "batch" or (kind == "first elsewhere" and state == "failed"))


@pytest.mark.parametrize("state", ["ready", "nothing"])
def test_what_another_node_told_the_script_is_taken_back(n1: Node, url: str, state: str) -> None:
    """The batch script's environment comes to all tasks of the job, also where no Prolog has staged."""
    if state == "ready":
        n1.prolog(7, url)
    env = {"STAGE_IMAGE_PATH": "/gone/image.sqsh", "STAGE_IMAGE_ROOT": "/gone", "STAGE_IMAGE_PATH_3": "/gone/too"}
    env |= {"SLURM_HET_SIZE": "2", "SLURM_JOB_ID_HET_GROUP_0": "6", "SLURM_JOB_ID_HET_GROUP_1": "7"}
    for job in (7, 6):
        shell = n1.task(job, env=env)
        python = n1.stage_image("slurm", "task-prolog", job=job, env=env)
        assert (shell.code, python.code, shell.out) == (0, 0, python.out)
        taken = [line for line in shell.out.splitlines() if line.startswith("unset ")]
        assert taken == [f"unset STAGE_IMAGE_{name}" for name in ("PATH", "DIGEST", "ROOT", "PATH_3", "DIGEST_3")]
        assert ("export STAGE_IMAGE_PATH=" in shell.out) == (state == "ready")


@pytest.mark.needs("fuse", "squashfuse_ll")
def test_what_the_jobs_user_mounted_himself_goes_with_the_job(n1: Node, url: str) -> None:
    mounted = n1.stage_image("mount", "--mount=fuse", url, job=7)
    assert mounted.code == 0, mounted.err
    assert any("squashfuse" in each for each in n1.processes())
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_a_jobs_namespace_shows_what_the_node_does_not(n1: Node, origin: Origin, url: str) -> None:
    private = [f"/tmp={n1.disk}/private/tmp", f"/var/tmp={n1.disk}/private/var"]
    site = {"store": n1.store, "slurm_allow": [origin.url("/")], "slurm_private": private}
    n1.configure(**site, slurm_images_at="/mnt/images")
    for path in (f"{n1.disk}/private", "/mnt/images"):
        n1.view(path).mkdir(mode=0o755)
    before = len(n1.mounts())
    assert n1.prolog(7, url, origin.url("/other.sqsh"), env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"}).code == 0
    exports = n1.task(7).exports
    assert [exports["STAGE_IMAGE_ROOT"], exports["STAGE_IMAGE_ROOT_2"]] == ["/mnt/images/1", "/mnt/images/2"]
    inside = ["/usr/bin/nsenter", "--mount=/run/stage-image/jobs/slurm-7/ns/mnt", "--"]
    shown = n1.run(*inside, "/bin/sh", "-c", "touch /tmp/mine; cat /proc/self/mountinfo", env={"PATH": "/bin"}).out
    points = [line.split(" ")[4] for line in shown.splitlines()]
    assert {"/tmp", "/var/tmp", "/mnt/images", "/mnt/images/1", "/mnt/images/2"} <= set(points)
    assert not {"/tmp", "/mnt/images", "/mnt/images/1"}.intersection(n1.all_mounts())
    assert (n1.view(n1.record(7)["directories"][0]["path"]) / "mine").exists()
    assert len(n1.mounts()) > before
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_what_a_job_links_to_stays(n1: Node, origin: Origin) -> None:
    n1.configure(store=n1.store, slurm_private=[f"/tmp={n1.disk}/private/tmp"])
    for path in (f"{n1.disk}/private", f"{n1.disk}/home"):
        n1.view(path).mkdir(mode=0o755)
    (n1.view(f"{n1.disk}/home") / "thesis").touch()
    n1.prolog(7, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    (made,) = n1.record(7)["directories"]
    os.symlink(f"{n1.disk}/home", n1.view(made["path"]) / "link")
    assert n1.epilog(7).code == 0
    assert n1.left() == []
    assert (n1.view(f"{n1.disk}/home") / "thesis").exists()
