"""Gates, mirrors' addresses, and what a manifest is of."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from stager import image_names
from stager.errors import ConfigError, NotAnImage
from stager.oci import Descriptor, Manifest, Platform
from stager.reference import Digest
from stager.sources.registry import OrasSource, RegistryOrigin, RegistrySettings
from stager.sources.registry.artifacts import check_container, choose_file
from stager.sources.registry.auth_files import Credential
from stager.sources.registry.gate import Gate
from stager.sources.registry.server import is_loopback, speaks_tls
from stager.sources.registry.tokens import Token

ADA = Credential("ada", "p", "somewhere")
BEARER = 'Bearer realm="https://t/"'
SIF, LAYER = "application/vnd.sylabs.sif.layer.v1.sif", "application/vnd.oci.image.layer.v1.tar+gzip"
IMAGE = "application/vnd.oci.image.config.v1+json"


class Clockwork:
    """Issues tokens that are good for ten seconds of its own time."""

    def __init__(self) -> None:
        self.time, self.issued = 0.0, 0

    def fetch(self, *_: object) -> Token:
        self.issued += 1
        return Token(f"t{self.issued}", self.time + 10)

    def gate(self, credential: Credential | None = None) -> Gate:
        return Gate(lambda: credential, self.fetch, lambda: self.time)


def test_a_token_is_renewed_before_it_ends() -> None:
    clock = Clockwork()
    gate = clock.gate()
    assert gate.header() == ""
    assert gate.open(BEARER, "")
    assert gate.header() == gate.header() == "Bearer t1"
    clock.time = 10
    assert gate.header() == "Bearer t2"
    assert gate.open(BEARER, "Bearer t1"), "another thread has renewed it"
    assert clock.issued == 2
    assert gate.open(BEARER, "Bearer t2")
    assert clock.issued == 3


def test_a_password_is_tried_once() -> None:
    gate = Clockwork().gate(ADA)
    assert gate.open("Basic", "")
    assert gate.header() == "Basic YWRhOnA="
    assert not gate.open("Basic", gate.header())
    assert not Clockwork().gate().open("Basic", "")
    assert not Clockwork().gate(ADA).open("Negotiate", "")


def test_credentials_are_looked_for_once_and_only_if_wanted() -> None:
    looked = []
    gate = Gate(lambda: looked.append(1), Clockwork().fetch)
    gate.header()
    assert looked == []
    gate.open(BEARER, "")
    gate.open("Basic", "Bearer t1")
    assert looked == [1]


def origin(mirror: str) -> RegistryOrigin:
    settings = RegistrySettings(mirrors=(mirror,))
    return RegistryOrigin(image_names.parse("ubuntu"), Platform("linux", "amd64"), settings)


@pytest.mark.parametrize("url", ["https://h", "h:5000", "http://h:1/a/b/", "https://h/v2/proxy", "[::1]:5000"])
def test_mirrors(url: str) -> None:
    assert origin(url).name == "docker.io"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h", "https://ada:S3CRET@h/", "h:99999", "h:x", "https://h/?x", "https://h/a b", "https://h/\n", "//"],
)
def test_what_is_no_mirror(url: str) -> None:
    with pytest.raises(ConfigError, match=r"a mirror of docker.io is no URL") as caught:
        origin(url)
    assert "S3CRET" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:5000"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "128.0.0.1", "example", "10.0.0.1:5000", "[::2]", "127.0.0.1.x"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_silence_and_noise_are_no_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        assert not speaks_tls(host, 0.2)

        def answer() -> None:
            for _ in range(2):  # the first is the one above
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not speaks_tls(host, 10)
        thread.join()
    assert not speaks_tls(host, 10)


def manifest(*layers: Descriptor, config: str = "") -> Manifest:
    digest = Digest("0" * 64)
    return Manifest(digest, Descriptor(config, digest, 2), layers, digest)


def layer(media_type: str = "", title: str = "") -> Descriptor:
    return Descriptor(media_type, Digest("1" * 64), 1, title)


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ([layer(SIF)], 0),
        ([layer("appliciation/vnd.sylabs.sif.layer.tar")], 0),
        ([layer("application/octet-stream")], 0),
        ([layer("application/x", "README"), layer(SIF)], 1),
        ([layer("application/x", "README"), layer("application/x", "x.SquashFS")], 1),
        ([layer(LAYER, "x.erofs")], 0),
    ],
)
def test_files(layers: list[Descriptor], chosen: int) -> None:
    assert choose_file(manifest(*layers), "h/a") is layers[chosen]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (manifest(), "holds no file"),
        (manifest(layer("x", "a"), layer("x", "b\n")), r"holds 2 files \(a, b\\n\)"),
        (manifest(layer(SIF), layer(SIF)), "holds 2 files"),
        (manifest(layer(LAYER), config=IMAGE), "is a container image"),
    ],
)
def test_no_files(found: Manifest, words: str) -> None:
    with pytest.raises(NotAnImage, match=words):
        choose_file(found, "h/a")


def test_containers() -> None:
    check_container(manifest(layer(LAYER), config=IMAGE), "h/a")
    check_container(manifest(layer(LAYER), config="application/octet-stream"), "h/a")
    check_container(manifest(config=IMAGE), "h/a")
    for found, hint in ((manifest(layer(SIF)), "oras://h/a"), (manifest(layer("x"), config="y"), "oras://h/a")):
        with pytest.raises(NotAnImage) as caught:
            check_container(found, "h/a")
        assert hint in caught.value.hint


def test_settings_load_nothing_that_speaks_http() -> None:
    code = "import sys, stager.sources.registry.settings, stager.sources.registry as r; r.RegistrySettings()"
    code += "; print('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
    assert OrasSource.__module__.endswith(".oras")
