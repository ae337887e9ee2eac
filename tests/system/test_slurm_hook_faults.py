"""Slurm's hooks when something goes wrong: no node is drained, no task hangs, and an Epilog takes all back."""

from __future__ import annotations

import os
import signal
import socket
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager import errors
from stager.schedulers import told
from tests.support.fake_node import POINTS
from tests.support.origin import Fault, Origin, Stall
from tests.support.slurm_hooks import ALICE, MALLORY, Node, node
from tests.support.tasks import image, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.errors import StageImageError

pytestmark = pytest.mark.needs("mount", "loop", "user-switch", "user-python")

HALF = 1 << 20

ERROR = "stage-image: error: "


def padded() -> bytes:
    """An image of some 2 MiB that a loop device can show, as mksquashfs makes them."""
    plain = image(2 * HALF)
    return plain + bytes(-len(plain) % 4096)


CONTENT = padded()
DIGEST = f"sha256:{sha256(CONTENT).hexdigest()}"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        server.put("/tool.sqsh", CONTENT)
        yield server


@pytest.fixture
def n1(tmp_path: Path, origin: Origin) -> Iterator[Node]:
    with node(tmp_path, slurm_allow=[origin.url("/")], slurm_budget="10s") as booted:
        yield booted


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.url("/tool.sqsh")


@pytest.fixture
def stall(origin: Origin) -> Stall:
    """Have the origin stop in the middle of the image until told otherwise."""
    stall = Stall(HALF)
    origin.put("/tool.sqsh", CONTENT, Fault(stall=stall))
    return stall


def settings(n1: Node, origin: Origin, **more: object) -> dict[str, object]:
    return {"store": n1.store, "connections": 1, "slurm_allow": [origin.url("/")]} | more


def half_there(n1: Node, stall: Stall, url: str) -> None:
    """Return when the Prolog of job 7 has begun, and half of the image is there."""
    n1.start_prolog(7, url)
    assert stall.reached.wait(20)
    until(lambda: n1.record(7).get("process"), "the stager to be in the record")


@pytest.mark.parametrize("polite", [True, False])
def test_a_prolog_that_is_killed_leaves_its_stager_at_work(n1: Node, stall: Stall, url: str, *, polite: bool) -> None:
    prolog = n1.start_prolog(7, url)
    assert stall.reached.wait(20)
    if polite:
        prolog.send(signal.SIGTERM)
        time.sleep(0.01)  # as slurmd waits between the two
    prolog.send(signal.SIGKILL)
    prolog.end()
    until(lambda: not any("slurm prolog" in each and "/bin/sh" in each for each in n1.processes()), "the hook's end")
    assert n1.state(7) == "staging"
    task = n1.start_task(7)
    stall.go.set()
    assert task.end().exports["STAGE_IMAGE_DIGEST"] == DIGEST
    assert n1.epilog(7).code == 0
    assert n1.left() == []


@pytest.mark.parametrize("milliseconds", [5, 20, 40, 60, 80, 100, 130, 160, 200, 300])
def test_whenever_a_prolog_is_killed_the_epilog_takes_all_back(
    n1: Node, origin: Origin, url: str, milliseconds: int
) -> None:
    places = [f"/tmp={n1.disk}/private/tmp"]
    n1.configure(**settings(n1, origin, slurm_private=places, slurm_images_at="/mnt/images"))
    n1.view(f"{n1.disk}/private").mkdir(mode=0o755)
    n1.view("/mnt/images").mkdir(mode=0o755)
    prolog = n1.start_prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    time.sleep(milliseconds / 1000)  # any moment will do
    prolog.send(signal.SIGKILL)
    prolog.end()
    assert n1.epilog(7).code == 0
    assert n1.epilog(7).code == 0
    assert n1.left() == []


@pytest.mark.parametrize("milliseconds", [0, 40, 80, 120, 160, 220, 280])
def test_an_epilog_beside_a_prolog(n1: Node, url: str, milliseconds: int) -> None:
    prolog = n1.start_prolog(7, url)
    time.sleep(milliseconds / 1000)  # any moment will do
    epilog = n1.start_epilog(7)
    assert [prolog.end().code, epilog.end().code] == [0, 0]
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_a_stager_that_is_killed_makes_no_task_hang(n1: Node, origin: Origin, stall: Stall, url: str) -> None:
    half_there(n1, stall, url)
    task = n1.start_task(7)
    n1.kill(n1.stager(7))
    ran = task.end(told.SILENT)
    assert ran.code == 0
    stall.go.set()
    own = n1.stage_image("path", url, job=7)
    assert (own.code, sha256(n1.view(own.out.strip()).read_bytes()).hexdigest()) == (0, DIGEST[7:])
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_a_prolog_whose_stager_is_killed_ends(n1: Node, stall: Stall, url: str) -> None:
    prolog = n1.start_prolog(7, url)
    assert stall.reached.wait(20)
    until(lambda: n1.record(7).get("process"), "the stager to be in the record")
    n1.kill(n1.stager(7))
    ran = prolog.end(8)
    assert ran.code == 0


def test_the_next_job_goes_on_from_what_a_killed_stager_had(n1: Node, origin: Origin, stall: Stall, url: str) -> None:
    half_there(n1, stall, url)
    n1.kill(n1.stager(7))
    n1.epilog(7)
    stall.go.set()
    assert n1.prolog(8, url).code == 0
    assert n1.task(8).exports["STAGE_IMAGE_DIGEST"] == DIGEST
    assert "range" in origin.seen("/tool.sqsh")[-1].headers


def test_a_stopped_stager_is_given_up_by_the_tasks(n1: Node, stall: Stall, url: str) -> None:
    half_there(n1, stall, url)
    n1.kill(n1.stager(7), signal.SIGSTOP)
    ran = n1.start_task(7).end(told.SILENT + 10)
    assert ran.code == 0
    assert ran.seconds >= told.SILENT - 2
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_an_epilog_during_the_download_keeps_what_has_come(n1: Node, origin: Origin, stall: Stall, url: str) -> None:
    half_there(n1, stall, url)
    ran = n1.epilog(7)
    assert (ran.code, ran.seconds < 8) == (0, True), ran
    assert n1.left() == []
    stall.go.set()
    n1.prolog(8, url)
    assert n1.state(8) == "ready"
    again = origin.seen("/tool.sqsh")[-1]
    assert again.headers["range"].startswith("bytes=")
    assert again.sent < len(CONTENT)


def test_the_epilog_of_one_does_not_end_the_download_of_another(n1: Node, stall: Stall, url: str) -> None:
    half_there(n1, stall, url)
    other = n1.start_prolog(8, url)
    n1.await_state(8, "staging")
    assert n1.epilog(7).code == 0
    stall.go.set()
    assert other.end().code == 0
    assert n1.task(8).exports["STAGE_IMAGE_DIGEST"] == DIGEST
    n1.epilog(8)
    assert n1.left() == []


def test_no_hook_leaves_its_output_to_a_child(n1: Node, origin: Origin, stall: Stall, url: str) -> None:
    n1.configure(**settings(n1, origin, slurm_budget="0.2s"))
    ran = n1.start_prolog(7, url).end(8)  # raises if its pipes stay open
    assert (ran.code, n1.state(7)) == (0, "staging")
    task = n1.start_task(7)
    stall.go.set()
    task.end(8)
    n1.start_epilog(7).end(8)


FAILURES: dict[str, tuple[Callable[[Origin], str], type[StageImageError]]] = {
    "no reference": (lambda _: "htp:/what", errors.InvalidReference),
    "userinfo": (lambda origin: origin.url("/tool.sqsh").replace("//", "//me:secret@"), errors.InvalidReference),
    "not allowed": (lambda _: "https://elsewhere.example.org/tool.sqsh", errors.AccessDenied),
    "climbs": (lambda origin: origin.url("/../tool.sqsh"), errors.AccessDenied),
    "a file of root's": (lambda _: "/etc/hostname", errors.AccessDenied),
    "not found": (lambda origin: origin.url("/gone.sqsh"), errors.NotFound),
    "forbidden": (lambda origin: origin.put("/forbidden.sqsh", CONTENT, Fault(status=403)), errors.AccessDenied),
    "no image": (lambda origin: origin.put("/page.sqsh", CONTENT, Fault(html=True)), errors.NotAnImage),
    "wrong digest": (lambda origin: f"{origin.url('/tool.sqsh')}@sha256:{'0' * 64}", errors.DigestMismatch),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_told_and_drains_no_node(n1: Node, origin: Origin, failure: str) -> None:
    reference, code = FAILURES[failure][0](origin), FAILURES[failure][1].exit_code
    ran = n1.prolog(7, reference)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith(ERROR), ran.err
    assert "Traceback" not in ran.err
    assert n1.told(7)[-1].startswith(f"failed {code} "), n1.told(7)
    assert "secret" not in ran.err + "".join(n1.told(7)) + str(n1.log())
    first, second = n1.task(7), n1.task(7, 1)
    assert (first.code, first.exports) == (0, {})
    assert "print stage-image: the Prolog could not stage it: " in first.out
    assert second.out == ""
    assert [line for line in n1.logged(job="7", severity="4") if line["result"].startswith(f"error {code}")]
    assert (n1.epilog(7).code, n1.left()) == (0, [])


@pytest.mark.parametrize("failure", FAILURES)
def test_a_strict_site_hears_of_it(n1: Node, origin: Origin, failure: str) -> None:
    reference, code = FAILURES[failure][0](origin), FAILURES[failure][1].exit_code
    n1.configure(**settings(n1, origin, slurm_strict=True))
    assert n1.prolog(7, reference).code == 1
    told_by_slurmd = n1.told_by_slurmd(8, ALICE, "prolog_slurmd") | {"SLURM_JOB_COMMENT": f"stage-image={reference}"}
    ran = n1.run("/usr/local/sbin/stage-image", "slurm", "prolog", env=told_by_slurmd)
    assert ran.code == code
    assert (n1.epilog(7).code, n1.epilog(8).code, n1.left()) == (0, 0, [])


def test_a_strict_site_is_content_with_a_download_that_goes_on(
    n1: Node, origin: Origin, stall: Stall, url: str
) -> None:
    n1.configure(**settings(n1, origin, slurm_strict=True, slurm_budget="0.3s"))
    ran = n1.prolog(7, url)
    assert n1.state(7) == "staging"
    assert ran.code in (0, 1)
    stall.go.set()
    n1.await_state(7, "ready")


def test_an_origin_that_is_down(n1: Node, origin: Origin) -> None:
    with Origin() as other:
        gone = other.url("/tool.sqsh")
    n1.configure(**settings(n1, origin, slurm_allow=[gone], deadline="1s", slurm_budget="0.5s"))
    ran = n1.prolog(7, gone)
    assert (ran.code, ran.seconds < 5) == (0, True)
    n1.await_state(7, "failed")
    assert "print stage-image: the Prolog could not stage it: " in n1.task(7).out
    assert (n1.epilog(7).code, n1.left()) == (0, [])


def test_what_one_image_lacks_the_other_has(n1: Node, origin: Origin, url: str) -> None:
    assert n1.prolog(7, origin.url("/gone.sqsh"), url).code == 0
    assert n1.told(7)[-1].startswith("failed 66 ")
    ran = n1.task(7)
    assert (ran.exports["STAGE_IMAGE_DIGEST_2"], "STAGE_IMAGE_DIGEST" in ran.exports) == (DIGEST, False)
    n1.epilog(7)
    assert n1.left() == []


def test_a_private_origin_is_refused(n1: Node, origin: Origin) -> None:
    url = origin.put("/private.sqsh", CONTENT, Fault(authorization="Bearer of-the-site"))
    token = n1.view(f"{n1.disk}/token")
    token.touch(0o600)
    token.write_text("of-the-site\n")
    n1.configure(**settings(n1, origin, token_file=f"{n1.disk}/token"))
    assert n1.prolog(7, url).code == 0
    assert n1.told(7)[-1].startswith("failed 67 ")
    assert n1.task(7).exports == {}
    assert (
        n1.run("/bin/sh", "-c", f"cat {n1.store}/images/sha256/*/*/image*", user=ALICE, env={"PATH": "/bin"}).out == ""
    )
    assert "of-the-site" not in "".join(n1.told(7)) + str(n1.log())
    n1.epilog(7)
    assert n1.left() == []


@pytest.mark.parametrize("place", ["/run", "/mnt"])
def test_no_byte_left(n1: Node, url: str, place: str) -> None:
    n1.run("/bin/mount", "-o", "remount,size=300k", place, env={"PATH": "/bin:/sbin"})
    n1.run("/bin/sh", "-c", f"cat /dev/zero >{place}/full", env={"PATH": "/bin"})
    ran = n1.prolog(7, url)
    assert (ran.code, "Traceback" in ran.err) == (0, False), ran
    task = n1.task(7)
    assert (task.code, [line for line in task.out.splitlines() if line.split(" ")[0] not in ("print", "export")]) == (
        0,
        [],
    )
    assert n1.epilog(7).code == 0
    n1.view(f"{place}/full").unlink()
    assert (n1.epilog(7).code, n1.left()) == (0, [])


@pytest.mark.parametrize("text", ["store =", "stoer = 1", "[slurm]\nallow = 7\n", 'slurm.private = ["/etc"]\n', "\xff"])
def test_settings_that_make_no_sense(n1: Node, url: str, text: str) -> None:
    n1.configure(text)
    ran = n1.prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    assert (ran.code, ran.out, "Traceback" in ran.err) == (0, "", False)
    assert ran.err.startswith(ERROR), ran
    task, epilog = n1.task(7), n1.epilog(7)
    assert (task.code, epilog.code, "Traceback" in epilog.err) == (0, 0, False)
    until(lambda: not n1.processes(), "the end of who staged")


@pytest.mark.parametrize("job", ["", "0", "-1", "x", "1;id", "../7", "7\n8", "9" * 40])
def test_absurd_jobs(n1: Node, url: str, job: str) -> None:
    ran = [
        n1.prolog(7, url, env={"SLURM_JOB_ID": job}),
        n1.task(7, env={"SLURM_JOB_ID": job}),
        n1.epilog(7, env={"SLURM_JOB_ID": job}),
    ]
    assert [each.code for each in ran] == [0, 0, 0]
    assert [each.out for each in ran] == [""] * 3
    assert "Traceback" not in "".join(each.err for each in ran)
    assert n1.left() == []


@pytest.mark.parametrize("missing", ["SLURM_JOB_UID", "SLURM_JOB_GID"])
def test_a_job_of_nobodys(n1: Node, url: str, missing: str) -> None:
    ran = n1.prolog(7, url, env={missing: ""})
    assert (ran.code, "Traceback" in ran.err, n1.task(7).exports) == (0, False, {})
    assert n1.epilog(7).code == 0
    assert n1.left() == []


HOSTILE = ["stage-image=\nexport A=B", "stage-image=$(touch /run/owned)", "stage-image=/a\nready", "x" * 100_000]


@pytest.mark.parametrize("comment", HOSTILE)
def test_hostile_comments(n1: Node, comment: str) -> None:
    ran = n1.prolog(7, env={"SLURM_JOB_COMMENT": comment})
    assert (ran.code, "Traceback" in ran.err, n1.task(7).exports) == (0, False, {})
    assert not n1.view("/run/owned").exists()
    assert len(n1.told(7)) <= 1
    n1.epilog(7)
    assert n1.left() == []


def test_without_the_program_no_node_is_drained(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    n1.view("/usr/local/sbin/stage-image").unlink()
    assert [n1.prolog(8, url).code, n1.task(7).code, n1.epilog(7).code] == [0, 0, 0]
    n1.view("/usr/local/sbin/stage-image").write_text("#!/nonexistent/python\n")
    n1.view("/usr/local/sbin/stage-image").chmod(0o755)
    assert [n1.prolog(8, url).code, n1.epilog(7).code] == [0, 0]


def test_a_record_that_is_broken(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    record = n1.view(f"{n1.store}/jobs/slurm-7.json")
    for text in ("", "{", "[]", '{"scope": "slurm-7"}', "\x00" * 4096):
        record.write_text(text)
        ran = n1.epilog(7)
        assert (ran.code, "Traceback" in ran.err) == (0, False), text
    record.write_text("{")
    assert n1.prolog(7, url).code == 0
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_an_epilog_that_is_killed_is_taken_up_by_the_next(n1: Node, origin: Origin, url: str) -> None:
    n1.prolog(7, url)
    for milliseconds in (20, 50, 70, 90):
        epilog = n1.start_epilog(7)
        time.sleep(milliseconds / 1000)  # any moment will do
        epilog.send(signal.SIGKILL)
        epilog.end()
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_a_busy_mount_is_detached_and_reported(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    root = n1.task(7).exports["STAGE_IMAGE_ROOT"]
    n1.run(
        "/bin/sh",
        "-c",
        f"cd {root} && exec sleep 600 </dev/null >/dev/null 2>&1 & sleep 0.2",
        user=ALICE,
        env={"PATH": "/bin"},
    )
    sitting = next(each for each in n1.processes() if "sleep 600" in each)
    ran = n1.epilog(7)
    assert (ran.code, n1.mounts(), n1.leases(), n1.record(7)) == (0, [], [], {})
    assert ran.seconds < 15
    reported = ran.err + "".join(line["result"] for line in n1.logged(action="epilog"))
    assert "detached" in reported or "busy" in reported, n1.log()
    n1.kill(int(sitting.partition(":")[0]))
    assert n1.left() == []


def test_a_disk_that_is_full(tmp_path: Path, origin: Origin, url: str) -> None:
    with node(tmp_path, disk="1536k", slurm_allow=[origin.url("/")], min_free="64KiB") as n1:
        ran = n1.prolog(7, url)
        assert (ran.code, "Traceback" in ran.err) == (0, False)
        assert n1.told(7)[-1].startswith("failed 74 "), ran
        assert "print stage-image: " in n1.task(7).out
        assert (n1.epilog(7).code, n1.left()) == (0, [])


@pytest.mark.parametrize("wrong", ["a file", "a link", "another's", "open to all", "read-only"])
def test_a_store_that_cannot_be_used(n1: Node, url: str, wrong: str) -> None:
    store = n1.view(n1.store)
    match wrong:
        case "a file":
            store.touch()
        case "a link":
            n1.view(f"{n1.disk}/else").mkdir()
            os.symlink(f"{n1.disk}/else", store)
        case "another's":
            store.mkdir(mode=0o755)
            os.chown(store, ALICE, ALICE)
        case "open to all":
            store.mkdir()
            store.chmod(0o777)
        case _:
            n1.run("/bin/mount", "-o", "remount,ro", "/mnt", env={"PATH": "/bin:/sbin"})
    ran = n1.prolog(7, url)
    assert (ran.code, ran.out, "Traceback" in ran.err) == (0, "", False)
    assert ran.err.startswith(ERROR)
    task = n1.task(7)
    assert task.code == 0
    assert "print stage-image: the Prolog could not stage it: " in task.out, ran
    assert n1.logged(job="7", severity="4")
    epilog = n1.epilog(7)
    assert (epilog.code, "Traceback" in epilog.err) == (0, False)
    until(lambda: not n1.processes(), "the end of who staged")


@pytest.mark.parametrize("text", ["store =", "stoer = 1", 'slurm.private = ["/etc"]\n'])
def test_settings_are_told_to_the_tasks(n1: Node, url: str, text: str) -> None:
    n1.configure(text)
    n1.prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    assert "print stage-image: the Prolog could not stage it: " in n1.task(7).out
    assert n1.logged(job="7", severity="4")


def test_a_disk_without_room_for_the_record(n1: Node, origin: Origin, url: str) -> None:
    n1.configure(**settings(n1, origin, slurm_strict=True))
    n1.run("/bin/sh", "-c", "mount -o remount,size=300k /mnt; cat /dev/zero >/mnt/full", env={"PATH": "/bin:/sbin"})
    assert n1.prolog(7, url).code == 1
    assert n1.told(7)[-1].startswith("failed 74 ")
    assert [line["action"] for line in n1.logged(job="7", severity="4")] == ["prolog"]
    n1.epilog(7)
    assert n1.left() == []


@pytest.mark.parametrize("on_failure", ["node", "fail"])
def test_a_zookeeper_that_is_down(n1: Node, origin: Origin, url: str, on_failure: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        ensemble = f"127.0.0.1:{closed.getsockname()[1]}"
    cluster = {"cluster.zookeeper": ensemble, "cluster.connect_timeout": "1s", "cluster.on_failure": on_failure}
    n1.configure(**settings(n1, origin, slurm_budget="8s"), **cluster)
    ran = n1.prolog(7, url)
    assert (ran.code, "Traceback" in ran.err, ran.seconds < 14) == (0, False, True), ran
    n1.await_state(7, "ready" if on_failure == "node" else "failed")
    assert n1.epilog(7).code == 0
    assert n1.left() == []


@pytest.mark.parametrize("strict", [False, True])
def test_what_cannot_be_taken_back_is_reported_and_tried_again(n1: Node, origin: Origin, *, strict: bool) -> None:
    n1.configure(**settings(n1, origin, slurm_private=[f"/tmp={n1.disk}/private/tmp"], slurm_strict=strict))
    n1.view(f"{n1.disk}/private").mkdir(mode=0o755)
    n1.prolog(7, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    (made,) = n1.record(7)["directories"]
    (n1.view(made["path"]) / "held").mkdir()
    n1.run("/bin/mount", "-t", "tmpfs", "held", f"{made['path']}/held", env={"PATH": "/bin:/sbin"})
    (n1.view(made["path"]) / "held" / "precious").touch()
    ran = n1.epilog(7)
    assert (ran.code, "error: " in ran.err) == (int(strict), True)
    assert n1.logged(job="7", action="epilog", severity="4")
    assert (n1.view(made["path"]) / "held" / "precious").exists()
    n1.run("/bin/umount", f"{made['path']}/held", env={"PATH": "/bin:/sbin"})
    assert n1.epilog(7).code == 0
    assert n1.left() == []


@pytest.mark.parametrize("point", POINTS)
def test_wherever_the_stager_dies(n1: Node, origin: Origin, url: str, point: str) -> None:
    assert n1.prolog(7, url, env={"STAGE_IMAGE_TEST_CRASH_AT": point}).code == 0
    assert n1.state(7) == "staging"
    task = n1.task(7)
    assert (task.code, "STAGE_IMAGE_PATH" in task.exports) == (0, False)
    own = n1.stage_image("path", url, job=7)
    assert (own.code, sha256(n1.view(own.out.strip()).read_bytes()).hexdigest()) == (0, DIGEST[7:])
    assert (n1.epilog(7).code, n1.left()) == (0, [])
    assert n1.prolog(8, url).code == 0
    assert n1.task(8).exports["STAGE_IMAGE_DIGEST"] == DIGEST


def test_a_requeued_job_whose_epilog_never_ran(n1: Node, origin: Origin, stall: Stall, url: str) -> None:
    n1.configure(**settings(n1, origin, slurm_budget="0.3s"))
    assert n1.prolog(7, url).code == 0
    first = n1.stager(7)
    assert n1.prolog(7, url, env={"SLURM_JOB_RESTART_COUNT": "1"}).code == 0
    assert not n1.lives(first)
    stall.go.set()
    n1.await_state(7, "ready")
    assert n1.record(7)["restart"] == 1
    assert (n1.epilog(7).code, n1.left()) == (0, [])


def test_an_administrator_ends_a_job_by_hand(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/root"}
    assert n1.run("/usr/local/sbin/stage-image", "slurm", "epilog", "--job", "7", env=environ).code == 0
    assert n1.left() == []


def test_hooks_that_a_user_runs_take_nothing_from_others(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    before = (n1.task(7).exports, n1.mounts(), n1.leases(), n1.record(7))
    forged = n1.told_by_slurmd(7, 0, "epilog_slurmd") | {"SLURM_JOB_COMMENT": f"stage-image={url}"}
    for hook in ("prolog", "epilog"):
        ran = n1.run(str(n1.hooks / hook), user=MALLORY, env=forged)
        assert (ran.code, "Traceback" in ran.err) == (0, False), ran
    assert (n1.task(7).exports, n1.mounts(), n1.leases(), n1.record(7)) == before


def test_a_task_whose_user_has_spoilt_what_it_is_told(n1: Node, url: str) -> None:
    n1.prolog(7, url)
    told_file = "/run/stage-image/jobs/slurm-7/tasks"
    for text in ("", "ready", "export A=B", "staging", "staging x y z\n", "\0\n"):
        n1.view(told_file).write_text(text)
        ran = [n1.task(7), n1.stage_image("slurm", "task-prolog", job=7), n1.stage_image("path", url, job=7)]
        assert [each.code for each in ran] == [0, 0, 0], text
        assert "Traceback" not in "".join(each.err for each in ran)
    assert (n1.epilog(7).code, n1.left()) == (0, [])


def test_a_device_number_that_the_boot_has_changed(n1: Node, origin: Origin, url: str) -> None:
    n1.configure(**settings(n1, origin, slurm_private=[f"/tmp={n1.disk}/private/tmp"]))
    n1.view(f"{n1.disk}/private").mkdir(mode=0o755)
    n1.prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    (made,) = n1.record(7)["directories"]
    n1.rewrite_record(7, boot="00000000", directories=[made | {"dev": made["dev"] + 1}])
    assert (n1.epilog(8).code, n1.left()) == (0, [])


def test_two_prologs_of_a_job_at_once(n1: Node, origin: Origin, url: str) -> None:
    places = [f"/tmp={n1.disk}/private/tmp"]
    n1.configure(**settings(n1, origin, slurm_private=places, slurm_images_at="/mnt/images"))
    for path in (f"{n1.disk}/private", "/mnt/images"):
        n1.view(path).mkdir(mode=0o755)
    both = [n1.start_prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"}) for _ in range(2)]
    assert [(ran.code, ran.err) for ran in (each.end() for each in both)] == [(0, "")] * 2
    assert n1.task(7).exports["STAGE_IMAGE_DIGEST"] == DIGEST
    assert (n1.epilog(7).code, n1.left()) == (0, [])


@pytest.mark.parametrize("lacks", ["the mount", "the base", "the images' place"])
def test_a_job_whose_own_mounts_cannot_be_made(n1: Node, origin: Origin, url: str, lacks: str) -> None:
    base = n1.view(f"{n1.disk}/private")
    if lacks != "the base":
        base.mkdir(mode=0o755)
    place = {"the mount": "/mnt/nowhere"}.get(lacks, "/tmp")
    shown = {"the images' place": "/mnt/nowhere"}.get(lacks, "")
    n1.configure(**settings(n1, origin, slurm_private=[f"{place}={n1.disk}/private/x"], slurm_images_at=shown))
    ran = n1.prolog(7, url, env={"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"})
    assert (ran.code, "Traceback" in ran.err) == (0, False)
    assert ran.err.startswith(ERROR), ran
    assert n1.logged(job="7", severity="4")
    assert "print stage-image: the Prolog could not stage it: " in n1.task(7).out
    assert (n1.epilog(7).code, n1.left()) == (0, [])
