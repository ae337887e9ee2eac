"""Members and their coordinator: signed questions, sealed answers, and a bound to every wait."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from stager.relay import connection as connection_module
from stager.relay.control import Control, PeerLost
from stager.relay.secret import Secret
from tests.support.relay_scene import (
    PATIENCE,
    STAGING,
    Scene,
    body,
    eventually,
    held_by_process,
    image,
    raw,
    silent_listener,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.relay_scene import Node

Message = dict[str, Any]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = held_by_process()
    with Scene(str(tmp_path)) as built:
        yield built
    assert held_by_process() == before


@pytest.fixture
def node(scene: Scene) -> Node:
    node = scene.node()
    node.server.control(STAGING, lambda verb, message: {"verb": verb, "message": message})
    return node


def control(scene: Scene, address: str, *, secret: Secret | None = None, timeout: float = PATIENCE) -> closing[Control]:
    return closing(Control(address, staging=STAGING, secret=secret or scene.secret, timeout=timeout))


def why(asking: Control, verb: str = "join") -> str:
    with pytest.raises(PeerLost) as caught:
        asking.ask(verb, {})
    assert asking.address in str(caught.value)
    return caught.value.why


def test_questions_are_answered_over_one_connection(scene: Scene, node: Node) -> None:
    with control(scene, node.address) as asking:
        for verb in ("join", "report", "report", "leave", "status"):
            assert asking.ask(verb, {"a": [1, None, "ä"]}) == {"verb": verb, "message": {"a": [1, None, "ä"]}}
        assert len(list(node.server._crowd)) == 1


def test_long_questions_and_longer_answers(scene: Scene, node: Node) -> None:
    node.server.control(STAGING, lambda verb, message: {"nodes": [message] * 40})
    message = {"text": "x" * 60000}
    with control(scene, node.address) as asking:
        assert asking.ask("status", message) == {"nodes": [message] * 40}


def test_a_connection_that_was_given_up_is_made_anew(scene: Scene, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with control(scene, node.address) as asking:
        asking.ask("join", {})
        monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.0)
        eventually(lambda: not list(node.server._crowd))
        monkeypatch.undo()
        assert asking.ask("report", {})["verb"] == "report"


def test_who_coordinates_no_longer_says_so(scene: Scene, node: Node) -> None:
    with control(scene, node.address) as asking:
        asking.ask("join", {})
        node.server.control(STAGING, None)
        assert why(asking) == "moved"
        node.server.control(STAGING, lambda verb, message: None)
        assert why(asking) == "moved"


def test_another_staging_is_coordinated_elsewhere(scene: Scene, node: Node) -> None:
    other = Control(node.address, staging="0" * 32, secret=scene.secret, timeout=PATIENCE)
    with closing(other):
        assert why(other) == "moved"


def test_strangers_are_not_listened_to(scene: Scene, node: Node) -> None:
    with control(scene, node.address, secret=Secret.new()) as asking:
        assert why(asking) == "denied"


def test_nobody_there(scene: Scene) -> None:
    node = scene.node()
    node.server.close()
    with control(scene, node.address) as asking:
        assert why(asking) == "refused"


@pytest.mark.parametrize("full", [False, True], ids=["mute", "black hole"])
def test_silence_is_waited_for_no_longer_than_said(scene: Scene, full: bool) -> None:
    with silent_listener(full=full) as address, control(scene, address, timeout=0.3) as asking:
        before = time.monotonic()
        assert why(asking) == "silent"
        assert 0.2 < time.monotonic() - before < 3.0


def test_a_slow_coordinator_stops_no_stream(scene: Scene, node: Node) -> None:
    asked, go = threading.Event(), threading.Event()

    def ponder(verb: str, message: Message) -> Message:
        asked.set()
        go.wait(PATIENCE)
        return {"late": True}

    node.server.control(STAGING, ponder)
    content = image(3)
    answers: list[Message] = []
    with control(scene, node.address) as asking:
        thread = threading.Thread(target=lambda: answers.append(asking.ask("join", {})))
        thread.start()
        assert asked.wait(PATIENCE)
        _, link = scene.get(node, "bytes=0-")
        node.write(content)
        node.vouch(finished=True)
        assert body(link, len(content)) == content
        with control(scene, node.address, timeout=0.2) as impatient:
            assert why(impatient) == "silent"
        assert not answers
        go.set()
        thread.join()
    assert answers == [{"late": True}]


def test_a_bug_in_the_coordinator_is_told_and_survived(scene: Scene, node: Node) -> None:
    def fail(verb: str, message: Message) -> Message:
        return {"never": 1 // len(message)}

    node.server.control(STAGING, fail)
    with control(scene, node.address) as asking:
        assert why(asking) == "reset"
        assert asking.ask("join", {"a": 1}) == {"never": 1}
    assert node.lines == ["relay: 'join' failed: ZeroDivisionError: integer division or modulo by zero"]


@pytest.mark.parametrize("said", [b"[]", b"{", b"\xff", b"[" * 60000, b"null"])
def test_what_is_no_object(scene: Scene, node: Node, said: bytes) -> None:
    assert scene.link(node.address).ask("POST", f"/v1/{STAGING}/join", body=said).status == 400


@pytest.mark.parametrize("path", [f"/v1/{STAGING}", f"/v2/{STAGING}/join", f"/v1/{STAGING}/1/join", "//"])
def test_other_places(scene: Scene, node: Node, path: str) -> None:
    assert scene.link(node.address).ask("POST", path, body=b"{}").status == 404


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Stage-Image-Mac: " + b"a" * 64 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"what?\r\n\r\n",
    ],
)
def test_a_stranger_on_a_dead_coordinators_port_is_not_believed(scene: Scene, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with control(scene, f"127.0.0.1:{listener.getsockname()[1]}") as asking:
            assert why(asking) == "stranger"
        thread.join()


def test_an_answer_is_for_one_question_only(scene: Scene, node: Node) -> None:
    """A sealed answer that somebody kept does not pass for the answer to a later question."""
    with control(scene, node.address) as asking:
        asking.ask("join", {})
        link = scene.link(node.address)
        answer = link.ask("POST", f"/v1/{STAGING}/join", body=b"{}")
        said = body(link, answer.length or 0)
        assert link.is_sealed(answer, said)
        assert not link.is_sealed(answer, said + b" ")
        assert not asking._link.is_sealed(answer, said)


def test_a_question_can_be_given_up_from_another_thread(scene: Scene) -> None:
    with silent_listener() as address, control(scene, address) as asking:
        reasons: list[str] = []
        thread = threading.Thread(target=lambda: reasons.append(why(asking)))
        thread.start()
        eventually(lambda: asking._link.silence > 0)
        asking.stop()
        thread.join(PATIENCE)
        assert reasons == ["reset"]


def test_half_a_question_and_gone(scene: Scene, node: Node) -> None:
    """The answer comes when nobody waits for it any more."""
    asked, go = threading.Event(), threading.Event()

    def ponder(verb: str, message: Message) -> Message:
        asked.set()
        go.wait(PATIENCE)
        return {}

    node.server.control(STAGING, ponder)
    link = scene.link(node.address)
    proof = scene.secret.authorize("POST", node.address, f"/v1/{STAGING}/join", now_ms=int(time.time() * 1000))
    with raw(node.address) as sock:
        head = f"POST /v1/{STAGING}/join HTTP/1.1\r\nHost: {node.address}\r\nAuthorization: {proof}\r\n\r\n"
        sock.sendall(head.encode())
        assert asked.wait(PATIENCE)
    eventually(lambda: len(list(node.server._crowd)) == 1)
    go.set()
    assert link.ask("POST", f"/v1/{STAGING}/join", body=b"{}").status == 200
