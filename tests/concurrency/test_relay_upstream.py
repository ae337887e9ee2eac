"""A node fed by another: whatever becomes of that one, what counts is right."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.relay import server as server_module
from stager.relay.secret import Secret
from stager.relay.wire import CHUNK, answer_head, content_range
from tests.support.effort import effort
from tests.support.relay_scene import (
    GENERATION,
    PATIENCE,
    STAGING,
    Scene,
    eventually,
    held_by_process,
    image,
    raw,
    silent_listener,
)
from tests.support.source_trees import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.relay.upstream import Upstream
    from tests.support.relay_scene import Node

PARENT = """
import os, sys, time
from tests.support.relay_scene import Scene, image
from stager.relay import server as server_module
from stager.relay.secret import Secret
secret, known, chunks = sys.argv[1:]
with Scene("/tmp") as scene:
    scene.secret = Secret.parse(secret)
    node = scene.node(size=int(known) or None)
    node.write(image(float(chunks)))
    node.vouch()
    print(node.address, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = held_by_process()
    with Scene(str(tmp_path)) as built:
        yield built
    assert held_by_process() == before


def fed(scene: Scene, parent: Node, child: Node, advance: Callable[[int], None] = lambda _: None) -> Upstream:
    upstream = scene.upstream(parent.address, child, advance)
    upstream.start()
    return upstream


def ended(upstream: Upstream) -> Upstream:
    assert upstream.done.wait(PATIENCE)
    return upstream


@given(st.lists(st.integers(1, 2 * CHUNK), max_size=5), st.booleans(), st.booleans())
@effort(10)
def test_however_the_parent_comes_by_it(pieces: list[int], parent_knows: bool, child_knows: bool) -> None:
    """Three nodes in a row, the first of which grows as it likes."""
    content = image(sum(pieces, 5) / CHUNK)
    with Scene("/tmp") as scene:
        head = scene.node(size=len(content) if parent_knows else None)
        middle, last = (scene.node(size=len(content) if child_knows else None) for _ in range(2))
        upstreams = [fed(scene, head, middle), fed(scene, middle, last)]
        for piece in pieces:
            head.write(content[head.written : head.written + piece])
            head.vouch()
        head.write(content[head.written :])
        head.vouch(finished=True)
        assert [ended(upstream).lost for upstream in upstreams] == ["", ""]
        assert last.content() == middle.content() == content
        assert last.holding.complete
        assert last.holding.root() == head.holding.root()


def test_each_verified_chunk_is_told_of(scene: Scene) -> None:
    content = image(9.5)
    told: list[int] = []
    child = scene.node()
    upstream = ended(fed(scene, scene.full(content), child, told.append))
    assert told == sorted(set(told))
    assert told[-1] == len(content)
    assert all(reached % CHUNK == 0 for reached in told[:-1])
    assert (upstream.lost, upstream.error, upstream.silence) == ("", None, 0.0)


def test_the_next_parent_goes_on_where_the_last_one_ended(scene: Scene) -> None:
    content = image(5)
    child = scene.node(size=len(content))
    first = scene.node(size=len(content))
    first.write(content[: 2 * CHUNK + 99])
    first.vouch()
    upstream = fed(scene, first, child)
    eventually(lambda: child.holding.verified == 2 * CHUNK)
    upstream.stop()
    assert (upstream.lost, upstream.done.is_set()) == ("", True)
    second = scene.full(content)
    ended(fed(scene, second, child))
    assert child.content() == content
    eventually(lambda: second.server.sent == 3 * CHUNK)


def test_of_two_parents_that_nobody_told_the_size(scene: Scene) -> None:
    """Everything is there already; all that is missing is to know it."""
    content = image(2)
    child, unsure = scene.node(), scene.node()
    unsure.write(content)
    unsure.vouch()
    upstream = fed(scene, unsure, child)
    eventually(lambda: child.holding.verified == len(content))
    upstream.stop()
    assert not child.holding.complete
    ended(fed(scene, scene.full(content), child))
    assert child.holding.complete


def test_a_byte_that_changed_after_it_was_verified(scene: Scene) -> None:
    content = image(6)
    parent, child, grandchild = scene.full(content), scene.node(), scene.node()
    os.pwrite(parent.fd, bytes([content[3 * CHUNK + 5] ^ 1]), 3 * CHUNK + 5)
    told: list[int] = []
    below = fed(scene, child, grandchild)
    upstream = ended(fed(scene, parent, child, told.append))
    assert upstream.lost == "corrupt"
    assert parent.address in upstream.why
    assert told[-1] == child.holding.verified == 3 * CHUNK
    eventually(lambda: grandchild.holding.verified == 3 * CHUNK)
    assert grandchild.content() == content[: 3 * CHUNK]
    eventually(lambda: child.server.sent == 3 * CHUNK)
    ended(fed(scene, scene.full(content), child))
    ended(below)
    assert grandchild.content() == content


def test_a_parent_of_another_image(scene: Scene) -> None:
    child = scene.node(size=3 * CHUNK)
    assert ended(fed(scene, scene.full(image(2)), child)).lost == "corrupt"
    assert child.holding.verified == 0


def test_a_parent_with_less_than_we_have(scene: Scene) -> None:
    child = scene.node()
    child.write(image(3))
    child.vouch()
    assert ended(fed(scene, scene.full(image(2)), child)).lost == "corrupt"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("chunks", [3.0, 3.4])
def test_a_parent_that_is_killed(scene: Scene, known: bool, chunks: float) -> None:
    content = image(chunks)
    child = scene.node()
    arguments = [scene.secret.hex, str(9 * CHUNK if known else 0), str(chunks)]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        upstream = scene.upstream(parent.stdout.readline().strip(), child)
        upstream.start()
        eventually(lambda: child.holding.verified == 3 * CHUNK)
        assert not upstream.done.is_set()
        parent.kill()
        before = time.monotonic()
        assert ended(upstream).lost == "reset"
        assert time.monotonic() - before < 1.0
    assert child.content() == content[: 3 * CHUNK]


def test_a_parent_that_was_never_there(scene: Scene) -> None:
    gone = scene.node()
    gone.server.close()
    assert ended(fed(scene, gone, scene.node())).lost == "refused"


@pytest.mark.parametrize("address", ["", "nonsense", "localhost:80", "256.0.0.1:80", "[::1::]:80"])
def test_an_address_that_is_none(scene: Scene, address: str) -> None:
    upstream = scene.upstream(address, scene.node())
    upstream.start()
    assert ended(upstream).lost == "refused"


def test_a_name_is_not_looked_up(scene: Scene) -> None:
    """That could take any time; nobody of us says names."""
    port = scene.full(image(1)).address.rpartition(":")[2]
    upstream = scene.upstream(f"localhost:{port}", scene.node())
    upstream.start()
    assert ended(upstream).lost == "refused"
    assert "cannot be reached" in upstream.why


def test_a_parent_that_does_not_know_us(scene: Scene) -> None:
    parent = scene.full(image(1))
    scene.secret = Secret.new()
    assert ended(fed(scene, parent, scene.node())).lost == "refused"


def test_a_parent_that_has_the_image_no_longer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ABSENT_SECONDS", 0.0)
    parent, child = scene.node(size=9), scene.node()
    parent.server.withdraw(STAGING, GENERATION)
    assert ended(fed(scene, parent, child)).lost == "ended"
    parent.server.offer(STAGING, GENERATION, parent.holding)
    upstream = fed(scene, parent, child)
    eventually(lambda: parent.server.downstream == 1)
    parent.server.withdraw(STAGING, GENERATION)
    assert ended(upstream).lost == "reset"


@pytest.mark.parametrize("size", [3 * CHUNK, None])
@pytest.mark.parametrize("wrong", [False, True])
def test_a_parent_that_breaks_off_inside_a_chunk(scene: Scene, size: int | None, wrong: bool) -> None:
    """What is short cannot be told from what is wrong, so it is only lost, and the parent not to blame."""
    content, child = image(3), scene.node()
    sent = bytearray(content[: CHUNK + 99])
    sent[-1] ^= wrong
    shas = [sha256(content[at : at + CHUNK]).digest() for at in range(0, len(content), CHUNK)]
    records = b"".join(scene.secret.record(STAGING, GENERATION, index, sha) for index, sha in enumerate(shas))

    def answer(request: bytes) -> bytes:
        said, length = (sent, size) if b"/image " in request else (records, len(records))
        fields = {"Content-Range": content_range(0, length, length)}
        return answer_head(206, fields | ({"Content-Length": str(length)} if length else {})) + said

    with stranger(answer) as address:
        upstream = scene.upstream(address, child)
        upstream.start()
        assert ended(upstream).lost == "reset"
    assert child.content() == content[:CHUNK]


@pytest.mark.parametrize("full", [False, True], ids=["mute", "black hole"])
def test_a_silent_parent_is_heard_to_be_silent(scene: Scene, full: bool) -> None:
    with silent_listener(full=full) as address:
        upstream = scene.upstream(address, scene.node())
        upstream.start()
        eventually(lambda: upstream.silence > 0.3)
        assert not upstream.done.is_set()
        before = time.monotonic()
        upstream.stop()
        assert time.monotonic() - before < 1.0
        assert (upstream.lost, upstream.silence) == ("", 0.0)


def test_a_parent_that_has_not_heard_of_the_image_yet(scene: Scene) -> None:
    """It is silent until then, which the coordinator may be told."""
    content = image(2)
    parent, child = scene.full(content), scene.node()
    parent.server.withdraw(STAGING, GENERATION)
    upstream = fed(scene, parent, child)
    eventually(lambda: upstream.silence > 0.3)
    parent.server.offer(STAGING, GENERATION, parent.holding)
    assert ended(upstream).lost == ""
    assert child.content() == content


def test_a_black_hole_is_given_up(scene: Scene) -> None:
    with silent_listener(full=True) as address:
        upstream = scene.upstream(address, scene.node())
        upstream._timeout = 0.2
        upstream.start()
        assert ended(upstream).lost == "refused"


def test_a_parent_that_has_no_more_itself_is_silent(scene: Scene) -> None:
    content = image(3)
    parent, child = scene.node(size=len(content)), scene.node()
    parent.write(content[: CHUNK + 9])
    parent.vouch()
    upstream = fed(scene, parent, child)
    eventually(lambda: child.holding.verified == CHUNK)
    eventually(lambda: upstream.silence > 0.3)
    parent.write(content[parent.written :])
    parent.vouch()
    assert ended(upstream).lost == ""
    assert child.content() == content


def test_a_slow_disk_of_ours_is_no_silence_of_the_parent(scene: Scene) -> None:
    hold, silences = threading.Event(), list[float]()
    child = scene.node()

    def advance(_: int) -> None:
        hold.wait(PATIENCE)

    upstream = fed(scene, scene.full(image(40)), child, advance)
    eventually(lambda: child.holding.verified)
    eventually(upstream._free.empty)
    for _ in range(5):
        time.sleep(0.02)
        silences.append(upstream.silence)
    hold.set()
    assert ended(upstream).lost == ""
    assert silences == [0.0] * 5


def test_stop_before_start(scene: Scene) -> None:
    upstream = scene.upstream("127.0.0.1:1", scene.node())
    upstream.stop()
    upstream.stop()
    assert upstream.done.is_set()


def test_stop_in_the_middle_from_several_threads(scene: Scene) -> None:
    parent, child = scene.node(size=99 * CHUNK), scene.node()
    parent.write(image(40))
    parent.vouch()
    upstream = fed(scene, parent, child)
    eventually(lambda: child.holding.verified)
    threads = [threading.Thread(target=upstream.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    reached = child.holding.verified
    assert child.content() == image(40)[:reached]
    assert upstream.done.is_set()
    assert upstream.lost == ""


def test_nothing_is_written_after_stop(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may be slow: who stops an upstream to use the file otherwise has to wait for it."""
    writing, go = threading.Event(), threading.Event()
    child = scene.node()

    def write(view: memoryview, offset: int) -> None:
        writing.set()
        go.wait(PATIENCE)

    monkeypatch.setattr(child.holding, "write", write)
    upstream = fed(scene, scene.full(image(2)), child)
    assert writing.wait(PATIENCE)
    stopper = threading.Thread(target=upstream.stop)
    stopper.start()
    eventually(lambda: upstream._stopped)
    stopper.join(0.1)
    assert stopper.is_alive()
    assert not upstream.done.is_set()
    go.set()
    stopper.join(PATIENCE)
    assert upstream.done.is_set()


def test_stop_from_advance(scene: Scene) -> None:
    """Whoever is told of progress may have had enough."""
    child = scene.node()
    told: list[int] = []

    def advance(reached: int) -> None:
        told.append(reached)
        upstream.stop()

    upstream = scene.upstream(scene.full(image(40)).address, child, advance)
    upstream.start()
    ended(upstream)
    assert len(told) == 1
    assert child.holding.verified == told[0]


@pytest.mark.parametrize("where", ["write", "advance"])
def test_trouble_with_the_disk_is_not_the_parents_fault(
    scene: Scene, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = scene.node()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if where == "write":
        monkeypatch.setattr(child.holding, "write", fail)
    upstream = fed(scene, scene.full(image(2)), child, fail if where == "advance" else lambda _: None)
    assert ended(upstream).error is not None
    assert upstream.lost == ""


@pytest.mark.parametrize("chunks", [1.0, 4.0, 4.5])
def test_what_is_there_from_before_is_not_fetched_again(scene: Scene, chunks: float) -> None:
    content = image(4.5)
    own = content[: int(chunks * CHUNK)]
    parent, child = scene.full(content), scene.node(size=len(content), own=own)
    ended(fed(scene, parent, child))
    assert child.content() == content
    eventually(
        lambda: (
            parent.server.sent == len(content) - (len(own) if len(own) == len(content) else len(own) // CHUNK * CHUNK)
        )
    )


def test_what_is_there_from_before_and_wrong_is_fetched(scene: Scene) -> None:
    content = image(4)
    parent, child = scene.full(content), scene.node(own=content[:CHUNK] + image(3, seed=2))
    assert ended(fed(scene, parent, child)).lost == ""
    assert child.content() == content
    eventually(lambda: parent.server.sent == 3 * CHUNK)


def test_more_own_bytes_than_the_image_has(scene: Scene) -> None:
    child = scene.node(own=image(3))
    child.written = 2 * CHUNK
    child.vouch()
    assert ended(fed(scene, scene.full(image(3)[: 2 * CHUNK]), child)).lost == ""
    assert child.holding.complete


def test_own_bytes_are_checked_as_the_records_come(scene: Scene) -> None:
    """The parent may itself not be that far: its image is not waited for, only its word."""
    content = image(4)
    parent, child = scene.node(size=len(content)), scene.node(own=content)
    upstream = fed(scene, parent, child)
    for _ in range(4):
        parent.write(content[parent.written :][:CHUNK])
        parent.vouch()
        eventually(lambda: child.holding.verified == parent.written)
    assert ended(upstream).lost == ""
    assert parent.server.sent == 0


ANSWERS = [
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 206 OK\r\n\r\n",
    b"HTTP/1.1 206 OK\r\nContent-Range: bytes 7-8/9\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\n\r\n",
    b"a" * 10000,
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_somebody_else_has_that_port_now(scene: Scene, answer: bytes) -> None:
    child = scene.node()
    with stranger(answer) as address:
        upstream = scene.upstream(address, child)
        upstream.start()
        assert ended(upstream).lost == "refused"
    assert child.holding.verified == 0


def test_a_stranger_cannot_say_how_long_the_image_is(scene: Scene) -> None:
    child = scene.node()
    head = f"HTTP/1.1 206 OK\r\nContent-Range: {content_range(0, 5, 5)}\r\nContent-Length: 5\r\n\r\n"
    with stranger(head.encode() + b"x" * CHUNK) as address:
        upstream = scene.upstream(address, child)
        upstream.start()
        assert ended(upstream).lost == "corrupt"
    assert (child.holding.size, child.holding.verified) == (None, 0)


@contextmanager
def stranger(answer: bytes | Callable[[bytes], bytes]) -> Iterator[str]:
    """Yield the address of one who answers the same to everybody, or what a request makes it say."""
    over = threading.Event()

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                if over.is_set():
                    return
                asked = sock.recv(65536)
                sock.sendall(answer if isinstance(answer, bytes) else answer(asked))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address
        finally:
            over.set()
            raw(address).close()
            thread.join()
