"""Whatever an origin does, a task ends with the whole image or with a code and a reason, and never with a mixture."""

from __future__ import annotations

import gzip
import signal
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, image, published, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tasks import Task

HALF = 700_000

HASTY = {"STAGE_IMAGE_STALL_TIMEOUT": "1s", "STAGE_IMAGE_DEADLINE": "10s"}
HOPELESS = {"STAGE_IMAGE_STALL_TIMEOUT": "1s", "STAGE_IMAGE_DEADLINE": "0.5s"}

PASSING = {
    "truncation": Fault(truncate_at=HALF, times=1),
    "reset": Fault(reset_at=HALF, times=1),
    "reset-before-the-headers": Fault(raw=b"HTTP/1.1 2", times=1),
    "content-length-too-large": Fault(content_length="9999999", times=1),
    "no-content-length-and-truncation": Fault(framing="chunked", truncate_at=HALF, times=1),
    "busy": Fault(status=503, retry_after="1", times=1),
    "too-many": Fault(status=429, retry_after="0", times=1),
    "bad-gateway": Fault(status=502, times=2),
    "nonsense": Fault(raw=b"what?\r\n\r\n", times=1),
}
RESUMED = ("truncation", "reset")


def final() -> dict[str, tuple[Fault, int, str]]:
    """Name → what is wrong, the exit code, and a part of the message."""
    return {
        "not-found": (Fault(status=404), 66, "answered 404"),
        "gone": (Fault(status=410), 66, "answered 410"),
        "who-are-you": (Fault(status=401), 67, "answered 401"),
        "not-you": (Fault(status=403), 67, "answered 403"),
        "broken": (Fault(status=500), 68, "answered 500"),
        "teapot": (Fault(status=418), 68, "answered 418"),
        "loop": (Fault(location="/loop.sqsh"), 68, "redirects more than"),
        "too-long-away": (Fault(status=503, retry_after="3600"), 68, "3600 s"),
        "no-answer": (Fault(stall=Stall()), 69, "did not answer within"),
        "stalled": (Fault(stall=Stall(0)), 69, "sent nothing for"),
        "login-page": (Fault(html=True), 72, "HTML"),
        "empty": (Fault(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 72, ""),
        "content-length-too-small": (Fault(content_length="500000"), 73, ""),
    }


def assert_staged(task: Task, store: Path, content: bytes) -> None:
    assert task.done() == 0, task.err
    assert task.answer == str(published(store, content))
    assert published(store, content).read_bytes() == content


def assert_nothing_staged(store: Path) -> None:
    assert not list((store / "images").glob("sha256/*/*"))


def test_what_passes_is_overcome(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        contents = {name: image(seed=n) for n, name in enumerate(PASSING)}
        started = {
            name: tasks.start(origin.put(f"/{name}.sqsh", contents[name], fault)) for name, fault in PASSING.items()
        }
        for name, task in started.items():
            assert_staged(task, store_path, contents[name])
            assert "trying again " in task.err, name
        for name in RESUMED:
            first, second = origin.seen(f"/{name}.sqsh")
            assert second.headers["range"] == f"bytes={HALF}-", name
            assert first.sent + second.sent == len(contents[name]), name


def test_what_does_not_pass_has_its_code_and_reason(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path, **HOPELESS) as tasks:
        started = {
            name: tasks.start(origin.put(f"/{name}.sqsh", image(), fault)) for name, (fault, _, _) in final().items()
        }
        for name, (_, code, words) in final().items():
            task = started[name]
            assert (task.done(), task.out) == (code, ""), (name, task.err)
            error, remedy = task.err.splitlines()[-2:]
            assert words in error, (name, error)
            assert origin.url(f"/{name}.sqsh") in error, (name, error)
            assert remedy.startswith("stage-image: try: "), name
    assert_nothing_staged(store_path)


def test_a_stall_is_left_behind(tmp_path: Path, store_path: Path) -> None:
    content = image()
    stall = Stall(HALF)
    with Origin() as origin, Tasks(tmp_path, **HASTY) as tasks:
        task = tasks.run(origin.put("/tool.sqsh", content, Fault(stall=stall, times=1)))
        assert_staged(task, store_path, content)
        assert f"sent nothing for 1 s, at byte {HALF}; trying again " in task.err
        assert [request.headers.get("range") for request in origin.requests] == [None, f"bytes={HALF}-"]


def test_a_new_version_between_two_ranges_is_never_mixed_with_the_old(tmp_path: Path, store_path: Path) -> None:
    old, new = image(seed=1), image(seed=2)
    stall = Stall(HALF)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", old, Fault(stall=stall, truncate_at=HALF, times=1))
        task = tasks.start(url)
        assert stall.reached.wait(30)
        origin.put("/tool.sqsh", new)
        stall.go.set()
        assert_staged(task, store_path, new)
        assert origin.requests[1].headers["if-range"]
    assert not published(store_path, old).exists()


@pytest.mark.parametrize("etag", ["weak", "none"])
def test_without_a_strong_validator_it_starts_over(
    tmp_path: Path, store_path: Path, etag: Literal["weak", "none"]
) -> None:
    old, new = image(seed=1), image(seed=2)
    vague = Fault(etag=etag, dated=False)
    stall = Stall(HALF)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", old, replace(vague, stall=stall, truncate_at=HALF, times=1))
        task = tasks.start(url)
        assert stall.reached.wait(30)
        origin.put("/tool.sqsh", new, vague)
        stall.go.set()
        assert_staged(task, store_path, new)


@pytest.mark.parametrize("if_range", [True, False])
def test_an_origin_without_ranges_or_without_their_condition(
    tmp_path: Path, store_path: Path, *, if_range: bool
) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        after = Fault(ranges=not if_range, if_range=if_range)
        url = origin.put("/tool.sqsh", content, Fault(truncate_at=HALF, times=1), after)
        assert_staged(tasks.run(url), store_path, content)


def test_a_wrong_pin(tmp_path: Path, store_path: Path) -> None:
    content, other = image(seed=1), image(seed=2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content)
        task = tasks.run(f"{url}@sha256:{sha256(other).hexdigest()}")
        assert task.done() == 71
        assert sha256(content).hexdigest() in task.err
        assert sha256(other).hexdigest() in task.err
        assert_nothing_staged(store_path)
        assert_staged(tasks.run(f"{url}@sha256:{sha256(content).hexdigest()}"), store_path, content)


def test_one_wrong_byte_on_the_way_to_a_pinned_image(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(corrupt_at=HALF, times=1))
        pinned = f"{url}@sha256:{sha256(content).hexdigest()}"
        assert tasks.run(pinned).done() == 71
        assert_nothing_staged(store_path)
        assert_staged(tasks.run("--retry", pinned), store_path, content)


def test_it_gives_up_on_a_login_page_before_the_whole_of_it(tmp_path: Path, store_path: Path) -> None:
    page = b"<!DOCTYPE html><html>" + bytes(64 << 20)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        task = tasks.run(origin.put("/tool.sif", page))
        assert task.done() == 72, task.err
        assert origin.sent("/tool.sif") < len(page) // 2
    assert_nothing_staged(store_path)


def test_a_compressed_answer_is_unpacked(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        task = tasks.run(origin.put("/tool.sqsh", content, Fault(gzip=True)))
        assert_staged(task, store_path, content)
        assert origin.requests[0].headers["accept-encoding"] == "identity"


def test_a_compressed_file_is_no_image(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        task = tasks.run(origin.put("/tool.sqsh.gz", gzip.compress(image())))
        assert task.done() == 72
        assert "gzip" in task.err
    assert_nothing_staged(store_path)


def test_an_unreachable_origin_is_given_up_within_the_deadline(tmp_path: Path) -> None:
    with Origin() as origin:
        url = origin.url("/tool.sqsh")
    with Tasks(tmp_path, STAGE_IMAGE_DEADLINE="1s") as tasks:
        task = tasks.start(url)
        assert task.done(15) == 68
        assert "Connection refused" in task.err


def test_a_token_goes_to_its_own_origin_only(tmp_path: Path, store_path: Path) -> None:
    content = image()
    token = tmp_path / "token"
    token.write_text("c2VjcmV0\n")
    token.chmod(0o600)
    with Origin() as origin, Origin() as elsewhere, Tasks(tmp_path, STAGE_IMAGE_TOKEN_FILE=str(token)) as tasks:
        there = elsewhere.put("/signed.sqsh?key=1", content)
        url = origin.put("/tool.sqsh", b"", Fault(authorization="Bearer c2VjcmV0", location=there))
        assert_staged(tasks.run(url), store_path, content)
        assert origin.requests[0].headers["authorization"] == "Bearer c2VjcmV0"
        assert "authorization" not in elsewhere.requests[0].headers
        # What needed credentials is for nobody else to read.
        assert published(store_path, content).stat().st_mode & 0o077 == 0
        without = tasks.run("--retry", "--freshness=always", url, env={"STAGE_IMAGE_TOKEN_FILE": ""})
        assert without.done() == 67
        assert "token_file" in without.err
    assert "c2VjcmV0" not in "".join(path.read_text("latin-1") for path in small_files(store_path))


def test_a_token_that_others_can_read_is_not_sent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("c2VjcmV0\n")
    token.chmod(0o644)
    with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_TOKEN_FILE=str(token)) as tasks:
        task = tasks.run(origin.put("/tool.sqsh", image()))
        assert task.done() == 64
        assert "can be read by others" in task.err
        assert origin.requests == []


def test_netrc(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        netrc = tmp_path / "home" / ".netrc"
        netrc.write_text("machine 127.0.0.1 login me password secret\n")
        netrc.chmod(0o600)
        task = tasks.run(origin.put("/tool.sqsh", content, Fault(authorization="Basic bWU6c2VjcmV0")))
        assert_staged(task, store_path, content)
        assert "secret" not in task.err


def test_a_file_that_is_rewritten_while_it_is_read(tmp_path: Path, store_path: Path) -> None:
    """Not by chance: the task is stopped at its first bytes, and the file is another one when it goes on."""
    old, new = image(8 << 20, seed=1), image(8 << 20, seed=2)
    shared = tmp_path / "shared.sqsh"
    shared.write_bytes(old)
    with Tasks(tmp_path) as tasks:
        task = tasks.start(str(shared), env={"STAGE_IMAGE_TEST_STOP_AT": "fetching"})
        task.stops()
        shared.write_bytes(new)
        until(lambda: shared.stat().st_size == len(new), "the new file")
        task.send(signal.SIGCONT)
        task.stops()
        task.send(signal.SIGCONT)
        assert_staged(task, store_path, new)
    assert not published(store_path, old).exists()


def small_files(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file() and path.stat().st_size < 100_000]
