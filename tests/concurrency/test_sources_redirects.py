"""Redirects, and credentials, which go nowhere else; TLS."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from stager.errors import AccessDenied, ConfigError, OriginUnavailable
from stager.reference import parse
from stager.sources import source_for
from stager.sources.http import HttpSettings, HttpSource
from tests.support.certificates import Certificate, self_signed
from tests.support.origin import Fault, Origin, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.interfaces import Source

BODY = b"hsqs" * 1000
TOKEN = "abc.DEF"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Origin]:
    """Another host: the loopback network has 16 million addresses."""
    with Origin(host="127.0.0.2") as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> HttpSettings:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    return HttpSettings(connect_timeout=10, stall_timeout=20, token_file=str(path))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


def netrc(home: Path, *hosts: str) -> None:
    file = home / ".netrc"
    file.touch(0o600)
    file.write_text("".join(f"machine {host} login me password secret\n" for host in hosts))


def fetch(source: Source) -> tuple[bytes, bool]:
    stream = source.open()
    assert stream is not None
    body = b"".join(stream.chunks())
    stream.close()
    return body, stream.private


def sent(origin: Origin) -> list[str]:
    return [request.headers.get("authorization", "") for request in origin.requests]


def test_redirects_are_followed(origin: Origin, other: Origin) -> None:
    origin.put("/a", b"", Fault(location="b?x=1#part", status=307))
    origin.put("/b?x=1", b"", Fault(location=other.url("/c"), status=301))
    url = other.put("/c", BODY)
    assert fetch(HttpSource(origin.url("/a"), settings=HttpSettings())) == (BODY, False)
    assert url.endswith("/c")


def test_conditions_travel_along(origin: Origin, other: Origin) -> None:
    origin.put("/a", b"", Fault(location=other.url("/c")))
    other.put("/c", BODY)
    source = HttpSource(origin.url("/a"), settings=HttpSettings())
    first = source.open()
    assert first is not None
    first.close()
    part = source.open(5, 9, if_range=first.validators)
    assert part is not None
    assert (part.offset, b"".join(part.chunks())) == (5, BODY[5:9])
    part.close()
    assert source.open(unless=first.validators) is None


def test_the_body_of_a_redirect_is_not_waited_for(origin: Origin) -> None:
    stall = Stall(0)
    url = origin.put("/a", b"", Fault(location="/b", framing="chunked", stall=stall))
    origin.put("/b", BODY)
    assert fetch(HttpSource(url, settings=HttpSettings(stall_timeout=300))) == (BODY, False)
    assert not stall.go.is_set()


def test_redirects_in_a_circle(origin: Origin) -> None:
    url = origin.put("/a", b"", Fault(location="/a"))
    with pytest.raises(OriginUnavailable, match="redirects more than 10 times") as caught:
        HttpSource(url, settings=HttpSettings()).open()
    assert not caught.value.retryable
    assert len(origin.requests) == 11


@pytest.mark.parametrize("target", ["ftp://host/x", "file:///etc/passwd", "javascript:alert(1)"])
def test_redirects_to_something_else(origin: Origin, target: str) -> None:
    url = origin.put("/a", b"", Fault(location=target))
    with pytest.raises(OriginUnavailable, match="redirects to a") as caught:
        HttpSource(url, settings=HttpSettings()).open()
    assert not caught.value.retryable


def test_an_error_names_the_place_where_it_happened(origin: Origin, other: Origin) -> None:
    url = origin.put("/a", b"", Fault(location=other.url("/gone?signature=secret")))
    with pytest.raises(Exception, match=f"{other.url('/gone')} answered 404") as caught:
        HttpSource(url, settings=HttpSettings()).open()
    assert "secret" not in str(caught.value)


def test_token(origin: Origin, settings: HttpSettings) -> None:
    url = origin.put("/a", BODY, Fault(authorization=f"Bearer {TOKEN}"))
    assert fetch(HttpSource(url, settings=settings)) == (BODY, True)
    with pytest.raises(AccessDenied):
        HttpSource(url, settings=HttpSettings()).open()


def test_a_changed_token_is_read_again(origin: Origin, settings: HttpSettings, tmp_path: Path) -> None:
    source = HttpSource(origin.put("/a", BODY, Fault(authorization="Bearer new")), settings=settings)
    with pytest.raises(AccessDenied):
        source.open()
    (tmp_path / "token").write_text("new")
    assert fetch(source) == (BODY, True)


def test_an_open_token_file_is_not_used(origin: Origin, settings: HttpSettings, tmp_path: Path) -> None:
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(ConfigError, match="read by others"):
        HttpSource(origin.put("/a", BODY), settings=settings).open()
    assert origin.requests == []


def test_the_token_stays_with_its_origin(origin: Origin, other: Origin, settings: HttpSettings) -> None:
    with Origin() as neighbour:  # the same host, another port
        for server in (other, neighbour):
            server.put("/c", BODY)
            origin.put("/a", b"", Fault(location=server.url("/c")))
            assert fetch(HttpSource(origin.url("/a"), settings=settings)) == (BODY, True)
            assert sent(server) == [""]
    assert sent(origin) == [f"Bearer {TOKEN}"] * 2


def test_the_token_comes_back_with_the_redirect(origin: Origin, other: Origin, settings: HttpSettings) -> None:
    origin.put("/a", b"", Fault(location="/b"))
    origin.put("/b", b"", Fault(location=other.url("/c")))
    other.put("/c", b"", Fault(location=origin.url("/d")))
    origin.put("/d", BODY)
    assert fetch(HttpSource(origin.url("/a"), settings=settings)) == (BODY, True)
    assert sent(origin) == [f"Bearer {TOKEN}"] * 3
    assert sent(other) == [""]


def test_netrc_by_host(origin: Origin, other: Origin, tmp_path: Path) -> None:
    netrc(tmp_path / "home", "127.0.0.1")
    other.put("/a", b"", Fault(location=origin.url("/b")))
    origin.put("/b", BODY)
    assert fetch(HttpSource(other.url("/a"), settings=HttpSettings())) == (BODY, True)
    origin.put("/b", b"", Fault(location=other.url("/c")))
    other.put("/c", BODY)
    assert fetch(HttpSource(origin.url("/b"), settings=HttpSettings())) == (BODY, True)
    assert [text.split()[0] for text in sent(origin)] == ["Basic", "Basic"]
    assert sent(other) == ["", ""]


def test_the_token_goes_before_netrc(origin: Origin, settings: HttpSettings, tmp_path: Path) -> None:
    netrc(tmp_path / "home", "127.0.0.1")
    origin.put("/a", b"", Fault(location="/b"))
    origin.put("/b", BODY)
    fetch(HttpSource(origin.url("/a"), settings=settings))
    assert sent(origin) == [f"Bearer {TOKEN}"] * 2


def test_mirrors_get_no_token(origin: Origin, other: Origin, settings: HttpSettings) -> None:
    other.put("/base/a", BODY, Fault(status=404, times=1))
    origin.put("/a", BODY)
    for private in (True, False):
        source = source_for(parse(origin.url("/a")), settings, {origin.url("/"): [other.url("/base")]})
        assert fetch(source) == (BODY, private)
    assert sent(other) == ["", ""]
    assert sent(origin) == [f"Bearer {TOKEN}"]


def test_a_mirror_that_breaks_off(origin: Origin, other: Origin) -> None:
    other.put("/a", BODY, Fault(reset_at=100))
    origin.put("/a", BODY)
    source = source_for(parse(origin.url("/a")), HttpSettings(), {origin.url("/"): [other.url("/")]})
    stream = source.open()
    assert stream is not None
    with pytest.raises(OriginUnavailable):
        list(stream.chunks())
    stream.close()
    again = source.open(100, if_range=stream.validators)
    assert again is not None
    assert (again.offset, b"".join(again.chunks())) == (0, BODY)
    again.close()


@pytest.mark.needs("openssl")
def test_tls_with_an_own_authority(certificate: Certificate) -> None:
    with Origin(tls=certificate.server) as server:
        url = server.put("/a", BODY)
        assert fetch(HttpSource(url, settings=HttpSettings(ca_file=certificate.file))) == (BODY, False)


@pytest.mark.needs("openssl")
def test_tls_trust_from_the_environment(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.file)
    with Origin(tls=certificate.server) as server:
        assert fetch(HttpSource(server.put("/a", BODY), settings=HttpSettings())) == (BODY, False)


@pytest.mark.needs("openssl")
def test_unknown_certificates_are_refused(certificate: Certificate) -> None:
    with Origin(tls=certificate.server) as server:
        url = server.put("/a", BODY)
        with pytest.raises(OriginUnavailable, match=r"cannot trust 127.0.0.1:.*self-signed") as caught:
            HttpSource(url, settings=HttpSettings()).open()
    assert not caught.value.retryable
    assert "ca_file" in caught.value.hint


@pytest.mark.needs("openssl")
def test_certificates_of_other_hosts_are_refused(tmp_path: Path) -> None:
    wrong = self_signed(tmp_path, "DNS:elsewhere")
    with Origin(tls=wrong.server) as server:
        url = server.put("/a", BODY)
        with pytest.raises(OriginUnavailable, match="cannot trust") as caught:
            HttpSource(url, settings=HttpSettings(ca_file=wrong.file)).open()
    assert not caught.value.retryable


@pytest.mark.needs("openssl")
def test_from_https_to_http_is_refused(certificate: Certificate, other: Origin) -> None:
    target = other.put("/c", BODY)
    with Origin(tls=certificate.server) as server:
        url = server.put("/a", b"", Fault(location=target))
        with pytest.raises(OriginUnavailable, match="from https to http") as caught:
            HttpSource(url, settings=HttpSettings(ca_file=certificate.file)).open()
    assert not caught.value.retryable
    assert other.requests == []


@pytest.mark.needs("openssl")
def test_from_http_to_https_without_the_token(certificate: Certificate, origin: Origin, settings: HttpSettings) -> None:
    settings = HttpSettings(ca_file=certificate.file, token_file=settings.token_file)
    with Origin(tls=certificate.server) as server:
        origin.put("/a", b"", Fault(location=server.put("/b", BODY)))
        assert fetch(HttpSource(origin.url("/a"), settings=settings)) == (BODY, True)
        assert sent(server) == [""]


@pytest.mark.needs("openssl")
def test_closing_a_tls_stream_from_another_thread(certificate: Certificate) -> None:
    with Origin(tls=certificate.server) as server:
        stall = Stall(1000)
        url = server.put("/a", BODY, Fault(stall=stall))
        stream = HttpSource(url, settings=HttpSettings(ca_file=certificate.file, stall_timeout=300)).open()
        assert stream is not None
        ends: list[OriginUnavailable] = []
        reached = threading.Event()

        def run() -> None:
            try:
                for _ in stream.chunks():
                    reached.set()
            except OriginUnavailable as error:
                ends.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert reached.wait(20)
        stream.close()
        thread.join(20)
        assert not thread.is_alive()
    assert ["given up" in str(error) for error in ends] == [True]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_unusable_authorities(tmp_path: Path, origin: Origin, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"the ca_file .*/ca.pem"):
        HttpSource(origin.put("/a", BODY), settings=HttpSettings(ca_file=str(path))).open()


def test_unusable_authorities_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="TLS CA certificate bundle"):
        HttpSource("https://127.0.0.1:1/a", settings=HttpSettings()).open()
