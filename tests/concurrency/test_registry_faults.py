"""RegistryOrigin and OrasSource at servers that no honest registry is."""

from __future__ import annotations

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from stager import image_names
from stager.clock import SystemClock
from stager.errors import AccessDenied, DamagedImage, NotAnImage, NotFound, OriginStalled, OriginUnavailable
from stager.interfaces import Validators
from stager.oci import MANIFEST_MAX, Descriptor, Platform
from stager.reference import Digest
from stager.sources.mirrors import RecentFailures
from stager.sources.registry import OrasSource, RegistryOrigin, RegistrySettings
from stager.sources.settings import HttpSettings
from tests.support.certificates import self_signed
from tests.support.origin import Fault, Origin, Request, Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.interfaces import Stream

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
BODY = bytes(range(256)) * 2000
AMD64 = Platform("linux", "amd64")
SECRET = "tell-nobody"
LOGIN = {"APPTAINER_DOCKER_USERNAME": "ada", "APPTAINER_DOCKER_PASSWORD": SECRET}
BASIC = "Basic YWRhOnRlbGwtbm9ib2R5"


def digest(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


CONFIG = json.dumps({"os": "linux", "architecture": "amd64"}).encode()
IMAGE = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(CONFIG), "size": 34},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(BODY), "size": len(BODY)},
        ],
    }
).encode()
LAYER = Descriptor("", Digest(digest(BODY)), len(BODY))
MANIFEST_PATH, BLOB_PATH = "/v2/a/b/manifests/1", f"/v2/a/b/blobs/{digest(BODY)}"


def reply(status: int, body: bytes = b"", **headers: str) -> Fault:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *lines]
    return Fault(raw="\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)


def document(content: Any, **headers: str) -> Fault:  # noqa: ANN401 # any JSON
    return reply(200, content if isinstance(content, bytes) else json.dumps(content).encode(), **headers)


@pytest.fixture
def server() -> Iterator[Origin]:
    with Origin() as origin:
        origin.put(MANIFEST_PATH, IMAGE)
        origin.put(f"/v2/a/b/manifests/{digest(IMAGE)}", IMAGE)
        origin.put(BLOB_PATH, BODY)
        yield origin


def settings(environ: dict[str, str] | None = None, **more: Any) -> RegistrySettings:  # noqa: ANN401
    http = HttpSettings(connect_timeout=10, stall_timeout=more.pop("stall", 20), ca_file=more.pop("ca", ""))
    # Loopback by plain_http: the question whether it speaks TLS would be a connection more.
    return RegistrySettings(
        http=http, environ=environ or {"HOME": "/nowhere"}, certificates=(), **{"plain_http": True, **more}
    )


def registry(server: Origin, environ: dict[str, str] | None = None, **more: Any) -> RegistryOrigin:  # noqa: ANN401
    return RegistryOrigin(image_names.parse(f"{server.host}/a/b:1"), AMD64, settings(environ, **more))


def read(stream: Stream | None) -> bytes:
    assert stream
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


class Guard:
    """Asks for tokens, of which each is good for `uses` questions; a hook of Origin's."""

    def __init__(
        self, server: Origin, realm: str = "", uses: int = 1 << 30, scope: str = "repository:a/b:pull"
    ) -> None:
        self.realm = realm or server.url("/token")
        self.uses = uses
        self.scope = scope
        self.issued = 0
        self.left = 0
        self.public = True
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            if request.path.startswith("/token"):
                if not self.public and "authorization" not in request.headers:
                    return reply(401)
                self.issued, self.left = self.issued + 1, self.uses
                return document({"token": f"t{self.issued}", "expires_in": 300})
            if request.headers.get("authorization") == f"Bearer t{self.issued}" and self.left:
                self.left -= 1
                return None
        challenge = f'Bearer realm="{self.realm}",service="s",scope="{self.scope}"'
        return reply(401, b"{}", WWW_Authenticate=challenge)


def test_a_token_that_ends_in_mid_pull_is_renewed(server: Origin) -> None:
    guard = server.hook = Guard(server, uses=2)
    image = registry(server)
    assert image.manifest()
    assert read(image.blob(LAYER)) == BODY
    assert read(image.blob(LAYER, 5)) == BODY[5:]
    assert guard.issued == 2
    assert not image.private


def test_credentials_that_were_not_needed_make_nothing_private(server: Origin) -> None:
    guard = server.hook = Guard(server)
    # A token is good until the next one is issued: the guard knows one at a time.
    image = registry(server, LOGIN)
    assert image.manifest()
    assert image.manifest()
    assert not image.private
    stream = image.blob(LAYER)
    assert not stream.private
    assert read(stream) == BODY
    assert [request.method for request in server.requests].count("HEAD") == 2, "without and with a token, once"
    assert guard.issued == 3


def test_many_threads_ask_for_one_token(server: Origin) -> None:
    guard = server.hook = Guard(server)
    image = registry(server)
    with ThreadPoolExecutor(8) as pool:
        assert all(body == BODY for body in pool.map(lambda _: read(image.blob(LAYER)), range(16)))
    assert guard.issued == 1


def test_a_token_that_is_never_good(server: Origin) -> None:
    server.hook = Guard(server, uses=0)
    with pytest.raises(AccessDenied, match="refuses a/b:1 to anonymous users: 401"):
        registry(server).manifest()
    assert len(server.seen(MANIFEST_PATH)) == 2


def test_credentials_go_to_the_token_service_only_if_asked_for(server: Origin) -> None:
    guard = server.hook = Guard(server)
    guard.public = False
    image = registry(server, LOGIN)
    assert image.manifest()
    assert image.private
    ours, nobodys = server.requests[:3], server.requests[3:]
    assert [request.headers.get("authorization") for request in ours] == [None, BASIC, "Bearer t1"]
    assert [request.headers.get("authorization") for request in nobodys] == [None, None]
    assert "account=ada" in server.requests[1].path
    assert SECRET not in "".join(request.path for request in server.requests)


@pytest.mark.needs("openssl")
def test_no_password_goes_without_tls_where_the_registry_has_it(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with Origin() as plain, Origin(tls=certificate.server) as server:
        server.hook = Guard(server, realm=plain.url("/token"))
        with pytest.raises(OriginUnavailable, match="token service without https, at 127") as caught:
            registry(server, LOGIN, plain_http=False, ca=certificate.file).manifest()
        assert not caught.value.retryable
        assert plain.requests == []


@pytest.mark.needs("openssl")
def test_loopback_with_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with Origin(tls=certificate.server) as secure:
        secure.put(MANIFEST_PATH, IMAGE)
        assert registry(secure, plain_http=False, ca=certificate.file).manifest()
        with pytest.raises(OriginUnavailable, match="cannot trust"):
            registry(secure, plain_http=False).manifest()


@pytest.mark.parametrize(
    "demand",
    [
        "",
        "Negotiate",
        "Bearer",
        'Bearer realm="ftp://x/"',
        'Bearer realm="http://[::1"',
        'Bearer realm="http://user:secret@127.0.0.1/"',
        "Bearer realm=" + "a" * 9000,
        'Bearer realm="http://127.0.0.1:1/\xe9"',
        "\xff" * 100,
        "Basic " * 1000,
    ],
)
def test_hostile_demands(server: Origin, demand: str) -> None:
    server.hook = lambda _: reply(401, b"", WWW_Authenticate=demand)
    with pytest.raises((AccessDenied, OriginUnavailable)) as caught:
        registry(server).manifest()
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"no JSON"),
        document([]),
        document({}),
        document({"token": 5}),
        document({"token": "a b"}),
        document({"token": "a\r\nX: b"}),
        document({"token": "a" * 100_000}),
        document({"token": "t"} | {"x": "a" * 300_000}),
        reply(500),
        reply(204),
        reply(302, b"", Location="http://[::1"),
    ],
)
def test_hostile_token_services(server: Origin, answer: Fault) -> None:
    guard = Guard(server)
    server.hook = lambda request: answer if request.path.startswith("/token") else guard(request)
    with pytest.raises(OriginUnavailable) as caught:
        registry(server, LOGIN).manifest()
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


def test_wrong_credentials_are_named_and_not_shown(server: Origin) -> None:
    errors = {"errors": [{"code": "UNAUTHORIZED", "message": "bad\n\x1b[31m" + "x" * 1000}]}
    guard = Guard(server)
    denial = reply(401, json.dumps(errors).encode())
    server.hook = lambda request: denial if request.path.startswith("/token") else guard(request)
    with pytest.raises(AccessDenied, match=r"a token for a/b to ada \(\$APPTAINER_DOCKER_USERNAME\): 401") as caught:
        registry(server, LOGIN).manifest()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert f"docker login {server.host}" in caught.value.hint


def test_credentials_are_not_redirected(server: Origin) -> None:
    with Origin() as elsewhere:
        elsewhere.put("/blob", BODY)
        server.hook = Guard(server)
        server.put(BLOB_PATH, b"", Fault(status=307, location=elsewhere.url("/blob")))
        image = registry(server, LOGIN)
        assert read(image.blob(LAYER)) == BODY
        assert read(image.blob(LAYER, 7)) == BODY[7:]
        assert [request.headers.get("authorization") for request in elsewhere.requests] == [None, None]
        assert [request.headers.get("range") for request in elsewhere.requests] == [None, f"bytes=7-{len(BODY) - 1}"]


def test_a_demand_from_elsewhere_is_not_met(server: Origin) -> None:
    with Origin() as elsewhere:
        elsewhere.hook = lambda _: reply(401, b"", WWW_Authenticate="Basic")
        server.put(BLOB_PATH, b"", Fault(status=307, location=elsewhere.url("/blob")))
        with pytest.raises(AccessDenied):
            registry(server, LOGIN).blob(LAYER)
        assert [request.headers.get("authorization") for request in elsewhere.requests] == [None]


def test_netrc_is_for_files_of_http_only(server: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login ada password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Origin() as elsewhere:
        elsewhere.put("/blob", BODY)
        server.put(BLOB_PATH, b"", Fault(status=307, location=elsewhere.url("/blob")))
        assert read(registry(server).blob(LAYER)) == BODY
        assert not any("authorization" in request.headers for request in (*server.requests, *elsewhere.requests))


def test_rate_limits(server: Origin) -> None:
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your limit"}]}).encode()
    server.hook = lambda _: reply(429, body, Retry_After="30", RateLimit_Remaining="0;w=21600")
    image = registry(server)
    said = []
    for unless in ("", "sha256:x"):
        with pytest.raises(OriginUnavailable, match="limits the rate of pulls by anonymous users") as caught:
            image.manifest(unless)
        assert (caught.value.retryable, caught.value.retry_after) == (True, 30)
        said.append("You have reached your limit" in caught.value.message)
    assert said == [True, False], "an answer to HEAD has no words"
    assert [request.method for request in server.requests] == ["GET", "HEAD"]


@pytest.mark.parametrize("fault", [Fault(ranges=False), Fault(content_range="bytes 0-9/10"), Fault(content_range="")])
def test_no_parts_is_the_whole(server: Origin, fault: Fault) -> None:
    server.put(BLOB_PATH, BODY, fault)
    stream = registry(server).blob(LAYER, 1000)
    assert stream.offset == 0
    assert read(stream) == BODY


def test_416_is_the_whole(server: Origin) -> None:
    server.hook = lambda request: reply(416, b"x") if "range" in request.headers else None
    stream = registry(server).blob(LAYER, 1000)
    assert stream.offset == 0
    assert read(stream) == BODY


def test_a_part_of_another_size_is_refused(server: Origin) -> None:
    server.put(BLOB_PATH, BODY + b"more")
    image = registry(server)
    for start in (0, 1000):
        with pytest.raises(OriginUnavailable, match=f"has {len(BODY) + 4} bytes as sha256"):
            image.blob(LAYER, start)


def test_breaking_off(server: Origin) -> None:
    server.put(BLOB_PATH, BODY, Fault(times=1, truncate_at=1000))
    image = registry(server)
    with pytest.raises(OriginUnavailable):
        read(image.blob(LAYER))
    assert read(image.blob(LAYER, 1000)) == BODY[1000:]


def test_stalls(server: Origin) -> None:
    server.put(MANIFEST_PATH, IMAGE, Fault(stall=Stall(10)))
    with pytest.raises(OriginStalled):
        registry(server, stall=0.5).manifest()


def test_a_label_of_transport_coding_on_a_gzip_layer(server: Origin) -> None:
    packed = gzip.compress(BODY)
    blob = Descriptor("", Digest(digest(packed)), len(packed))
    labelled = reply(200, packed, Content_Encoding="gzip")
    server.hook = lambda request: labelled if digest(packed) in request.path else None
    assert read(registry(server).blob(blob)) == packed
    # A proxy that packs what it sends, though asked not to:
    server.put(BLOB_PATH, BODY, Fault(gzip=True))
    assert read(registry(server).blob(LAYER)) == BODY


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (document(b"<html>"), DamagedImage, "is not JSON"),
        (reply(200, b"<html>", Content_Type="text/html; charset=utf-8"), OriginUnavailable, r"page .*\(text/html\)"),
        (document([]), DamagedImage, "not a JSON object"),
        (document({"schemaVersion": 1, "fsLayers": []}), NotAnImage, "schema 1"),
        (document({"schemaVersion": 2}), NotAnImage, "no image"),
        (document(b" " * (MANIFEST_MAX + 1)), OriginUnavailable, f"more than {MANIFEST_MAX} bytes as a manifest"),
        (document(b"{" * 100_000), DamagedImage, "is not JSON"),
        (reply(206, IMAGE), OriginUnavailable, "206"),
        (reply(304), OriginUnavailable, "304"),
        (reply(403, b'{"errors":[{"code":"DENIED","message":"no"}]}'), AccessDenied, "DENIED: no"),
        (reply(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'), NotFound, "NAME_UNKNOWN"),
        (reply(500, b"\xff" * 100), OriginUnavailable, "failed to send a/b:1: 500"),
        (reply(200, IMAGE, Content_Encoding="br"), OriginUnavailable, "encoded as 'br'"),
    ],
)
def test_odd_manifests(server: Origin, answer: Fault, kind: type[Exception], words: str) -> None:
    server.hook = lambda _: answer
    with pytest.raises(kind, match=words) as caught:
        registry(server).manifest()
    assert type(caught.value) is kind


def test_a_manifest_that_is_not_the_one_asked_for(server: Origin) -> None:
    name = image_names.parse(f"{server.host}/a/b@{digest(b'other')}")
    server.put(f"/v2/a/b/manifests/{digest(b'other')}", IMAGE)
    with pytest.raises(DamagedImage, match=r"where sha256:.* was asked for"):
        RegistryOrigin(name, AMD64, settings()).manifest()
    index = {
        "manifests": [
            {"digest": digest(b"other"), "size": 5, "platform": {"os": "linux", "architecture": "amd64"}},
        ]
    }
    server.put(MANIFEST_PATH, json.dumps(index).encode())
    with pytest.raises(DamagedImage, match=r"where sha256:.* was asked for"):
        registry(server).manifest()


def test_without_head_or_its_digest(server: Origin) -> None:
    image = registry(server)
    assert image.manifest(digest(IMAGE)) is None
    server.hook = lambda request: reply(405) if request.method == "HEAD" else None
    assert image.manifest(digest(IMAGE)) is None
    assert [request.method for request in server.requests] == ["HEAD", "GET"] * 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda mirror: mirror.put(BLOB_PATH, BODY[:-1]),
        lambda mirror: mirror.put(BLOB_PATH, BODY, Fault(status=500)),
        lambda mirror: mirror.put(BLOB_PATH, BODY, Fault(status=403)),
        lambda mirror: mirror.put(BLOB_PATH, BODY, Fault(status=404)),
        lambda mirror: mirror.put(BLOB_PATH, BODY, Fault(authorization="Bearer of-somebody")),
    ],
)
def test_blobs_come_from_elsewhere_if_the_mirror_has_none(server: Origin, spoil: Callable[[Origin], object]) -> None:
    with Origin() as mirror:
        mirror.put(MANIFEST_PATH, IMAGE)
        spoil(mirror)
        image = registry(server, LOGIN, mirrors=(mirror.url(""),))
        assert image.manifest()
        assert read(image.blob(LAYER)) == BODY
        assert len(server.requests) == 1
        assert not any("authorization" in request.headers for request in mirror.requests), "they are the origin's"


def test_a_mirror_that_lies_about_a_blob_is_asked_once(server: Origin) -> None:
    with Origin() as mirror:
        mirror.put(BLOB_PATH, BODY, Fault(corrupt_at=3))
        image = registry(server, mirrors=(mirror.url(""),))
        assert read(image.blob(LAYER)) != BODY
        assert read(image.blob(LAYER)) == BODY


def test_a_mirror_that_breaks_is_left_alone_and_its_bytes_are_kept(server: Origin) -> None:
    with Origin() as mirror:
        mirror.put(BLOB_PATH, BODY, Fault(truncate_at=1000))
        image = registry(server, mirrors=(mirror.url(""),), memory=RecentFailures(SystemClock()))
        stream = image.blob(LAYER)
        with pytest.raises(OriginUnavailable):
            list(stream.chunks())
        stream.close()
        assert read(image.blob(LAYER, 1000)) == BODY[1000:]
        assert len(mirror.requests) == len(server.requests) == 1


def test_when_all_fail_the_registry_has_the_word(server: Origin) -> None:
    server.hook = lambda _: reply(404)
    with Origin() as mirror:
        mirror.hook = lambda _: reply(503, b"", Retry_After="5")
        with pytest.raises(NotFound, match=r"does not have a/b:1: 404.*; the mirror says: .* limits the rate"):
            registry(server, mirrors=(mirror.url("/deep/er"),)).manifest()
        assert mirror.requests[0].path == "/deep/er/v2/a/b/manifests/1"


def test_what_the_mirror_lacks_is_told_where_the_registry_is_out_of_reach(server: Origin) -> None:
    server.hook = lambda _: reply(503)
    with Origin() as mirror:
        mirror.hook = lambda _: reply(404)
        with pytest.raises(
            OriginUnavailable, match=r"failed to send a/b:1: 503.*; the mirror says: .* have a/b:1: 404"
        ):
            registry(server, mirrors=(mirror.url(""),)).manifest()


def test_a_part_that_is_lost_is_no_misspelt_name(server: Origin) -> None:
    server.hook = lambda _: reply(404)
    with pytest.raises(NotFound, match="does not have the blob") as caught:
        registry(server).blob(LAYER)
    assert "push it again" in caught.value.hint
    assert "spelling" not in caught.value.hint


def test_what_a_mirror_is_remembered_for(server: Origin) -> None:
    with Origin() as mirror:
        for answer, asked in ((reply(404), 2), (reply(403), 2), (reply(500), 1), (reply(200, b"{}"), 2)):
            mirror.hook = lambda _, answer=answer: answer  # type: ignore[misc]
            image, before = registry(server, mirrors=(mirror.url(""),)), len(mirror.requests)
            assert image.manifest() == image.manifest()
            assert len(mirror.requests) - before == asked


def test_a_refresh_token_is_not_redirected(server: Origin) -> None:
    content = {"auths": {server.host: {"auth": "YWRhOg==", "identitytoken": SECRET}}}
    with Origin() as elsewhere:
        guard = Guard(server)
        moved = reply(307, b"", Location=elsewhere.url("/token"))
        server.hook = lambda request: moved if request.path.startswith("/token") else guard(request)
        with pytest.raises(OriginUnavailable, match="a token for a/b: 307"):
            registry(server, {"DOCKER_AUTH_CONFIG": json.dumps(content)}).manifest()
        assert elsewhere.requests == []


def test_drops_are_no_answer(server: Origin) -> None:
    server.put(MANIFEST_PATH, IMAGE + b" " * 1_000_000, Fault(rate=10_000))
    with pytest.raises(OriginStalled, match="takes too long to send a manifest"):
        registry(server, stall=0.1).manifest()


def test_a_mirror_below_v2(server: Origin) -> None:
    with Origin() as mirror:
        mirror.put("/v2/proxy/a/b/manifests/1", IMAGE)
        assert registry(server, mirrors=(mirror.url("/v2/proxy/"),)).manifest()
        assert server.requests == []


def test_a_file_goes_on_at_another_mirror(server: Origin) -> None:
    content = {
        "config": {"digest": digest(b"{}"), "size": 2},
        "layers": [{"mediaType": "application/vnd.sylabs.sif.layer.v1.sif", "digest": digest(BODY), "size": len(BODY)}],
    }
    server.put(MANIFEST_PATH, json.dumps(content).encode())
    with Origin() as mirror:
        mirror.put(MANIFEST_PATH, json.dumps(content).encode())
        mirror.put(BLOB_PATH, BODY, Fault(truncate_at=1000))
        name = image_names.parse(f"{server.host}/a/b:1")
        source = OrasSource(name, AMD64, settings(mirrors=(mirror.url(""),)))
        stream = source.open()
        assert stream
        with pytest.raises(OriginUnavailable):
            list(stream.chunks())
        stream.close()
        stream = source.open(1000, if_range=stream.validators)
        assert stream
        assert (stream.offset, stream.validators) == (1000, Validators(digest(BODY), "", len(BODY)))
        assert read(stream) == BODY[1000:]


def test_closing_ends_a_stream_from_another_thread(server: Origin) -> None:
    stall = Stall(1000)
    server.put(BLOB_PATH, BODY, Fault(stall=stall))
    stream = registry(server).blob(LAYER)
    chunks = stream.chunks()
    assert next(chunks)

    def close() -> None:
        stall.reached.wait(20)
        stream.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(OriginUnavailable, match="given up"):
        list(chunks)
    closer.join()
