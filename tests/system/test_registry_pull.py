"""Images from a real docker-registry: open, with passwords, tokens, TLS; through mirrors; images and files."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from stager import image_names
from stager.errors import AccessDenied, ConfigError, NotAnImage, NotFound, OriginUnavailable
from stager.interfaces import Validators
from stager.oci import Descriptor, Platform
from stager.reference import Digest
from stager.sources.registry.oras import OrasSource
from stager.sources.registry.origin import RegistryOrigin
from stager.sources.registry.settings import RegistrySettings
from stager.sources.settings import HttpSettings
from tests.support.certificates import self_signed
from tests.support.nginx import Nginx
from tests.support.registry import Registry, digest_of, tar_layer
from tests.support.token_service import TokenService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from stager.interfaces import Stream
    from stager.oci import Manifest

pytestmark = pytest.mark.needs("docker-registry", "openssl")

AMD64 = Platform("linux", "amd64")
LAYERS = [tar_layer({"etc/motd": b"hello\n" * 1000}), tar_layer({"etc/issue": bytes(range(256)) * 400})]
SIF = bytes(range(256)) * 1000
SECRET = "tell-nobody"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as server:
        yield server


def settings(
    environ: Mapping[str, str] | None = None, mirrors: tuple[str, ...] = (), certificates: tuple[str, ...] = ()
) -> RegistrySettings:
    http = HttpSettings(connect_timeout=10, stall_timeout=20)
    return RegistrySettings(
        http=http, mirrors=mirrors, environ=environ or {"HOME": "/nowhere"}, certificates=certificates
    )


def origin(registry: Registry, name: str, using: RegistrySettings | None = None, user: str = "") -> RegistryOrigin:
    who = f"{user}@" if user else ""
    return RegistryOrigin(image_names.parse(f"{who}{registry.host}/{name}"), AMD64, using or settings())


def source(registry: Registry, name: str, using: RegistrySettings | None = None) -> OrasSource:
    return OrasSource(image_names.parse(f"{registry.host}/{name}"), AMD64, using or settings())


def manifest(of: RegistryOrigin) -> Manifest:
    found = of.manifest()
    assert found
    return found


def read(stream: Stream | None) -> bytes:
    assert stream
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


def login(folder: Path, host: str, user: str = "ada", secret: str = SECRET) -> dict[str, str]:
    path = folder / "auth.json"
    packed = base64.b64encode(f"{user}:{secret}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": packed}}}))
    path.chmod(0o600)
    return {"HOME": str(folder), "REGISTRY_AUTH_FILE": str(path)}


@pytest.mark.parametrize("docker", [False, True])
def test_an_image(registry: Registry, *, docker: bool) -> None:
    digest = registry.push_image("some/image", f"d{docker}", LAYERS, docker=docker)
    image = origin(registry, f"some/image:d{docker}")
    found = manifest(image)
    assert (str(found.digest), found.top) == (digest, found.digest)
    assert [str(layer.digest) for layer in found.layers] == [digest_of(layer) for layer in LAYERS]
    assert [read(image.blob(layer)) for layer in found.layers] == LAYERS
    assert digest_of(read(image.blob(found.config))) == str(found.config.digest)
    assert (image.private, image.name) == (False, registry.host)


def test_parts_of_a_blob(registry: Registry) -> None:
    registry.push_image("some/image", "parts", LAYERS)
    image = origin(registry, "some/image:parts")
    layer = manifest(image).layers[1]
    for start in (0, 1, layer.size - 1, layer.size):
        stream = image.blob(layer, start)
        assert (stream.offset, stream.size, stream.ranges) == (start, layer.size, True)
        assert stream.validators.etag == str(layer.digest)
        assert read(stream) == LAYERS[1][start:]


def test_the_platforms_manifest_of_an_index(registry: Registry) -> None:
    arm = registry.push_image("some/image", "", LAYERS[:1], architecture="arm64")
    amd = registry.push_image("some/image", "", LAYERS)
    top = registry.push_index("some/image", "all", {"linux/arm64/v8": arm, "linux/amd64": amd})
    for wanted, digest in ((AMD64, amd), (Platform("linux", "arm64"), arm)):
        found = RegistryOrigin(image_names.parse(f"{registry.host}/some/image:all"), wanted, settings()).manifest()
        assert found
        assert (str(found.digest), str(found.top)) == (digest, top)
    with pytest.raises(NotFound, match=r"not there for linux/s390x; it is for linux/amd64, linux/arm64/v8"):
        RegistryOrigin(
            image_names.parse(f"{registry.host}/some/image:all"), Platform.parse("s390x"), settings()
        ).manifest()


def test_asked_again_by_head_only(registry: Registry) -> None:
    top = registry.push_image("some/image", "again", LAYERS)
    before = len(registry.log)
    image = origin(registry, "some/image:again")
    assert image.manifest(top) is None
    registry.logged(before + 1)
    assert (registry.asked("HEAD", "manifests", before), registry.asked("GET", "manifests", before)) == (1, 0)
    moved = registry.push_image("some/image", "again", LAYERS[:1])
    found = image.manifest(top)
    assert found
    assert str(found.top) == moved


def test_by_digest(registry: Registry) -> None:
    top = registry.push_image("some/image", "", LAYERS)
    image = origin(registry, f"some/image@{top}")
    assert str(manifest(image).digest) == top
    before = len(registry.log)
    assert image.manifest(top) is None, "a digest cannot mean anything else one day"
    assert len(registry.log) == before


@pytest.mark.parametrize("name", ["some/image:none", "no/such:image", f"some/image@sha256:{'0' * 64}"])
def test_what_is_not_there(registry: Registry, name: str) -> None:
    registry.push_image("some/image", "1", LAYERS)
    with pytest.raises(NotFound, match=r"does not have .*404 Not Found .(MANIFEST|NAME)_UNKNOWN") as caught:
        origin(registry, name).manifest()
    assert f"docker login {registry.host}" in caught.value.hint


def test_a_blob_that_is_not_there(registry: Registry) -> None:
    registry.push_image("some/image", "1", LAYERS)
    with pytest.raises(NotFound, match=r"does not have the blob sha256:0000.*BLOB_UNKNOWN"):
        origin(registry, "some/image:1").blob(Descriptor("", Digest("0" * 64), 5))


def test_a_size_that_is_not_true(registry: Registry) -> None:
    registry.push_image("some/image", "1", LAYERS)
    with pytest.raises(OriginUnavailable, match=r"has \d+ bytes as sha256:.*; the manifest says 5"):
        origin(registry, "some/image:1").blob(Descriptor("", Digest(digest_of(LAYERS[0])), 5))


def test_a_file(registry: Registry) -> None:
    registry.push_file("some/sif", "1", SIF)
    stream = source(registry, "some/sif:1").open()
    assert stream
    assert (stream.offset, stream.size, stream.ranges, stream.private) == (0, len(SIF), True, False)
    assert stream.validators == Validators(digest_of(SIF), "", len(SIF))
    assert read(stream) == SIF


def test_parts_of_a_file(registry: Registry) -> None:
    registry.push_file("some/sif", "1", SIF)
    asked = source(registry, "some/sif:1")
    version = Validators(digest_of(SIF), "", len(SIF))
    for start, end in ((5, None), (5, 9), (0, 1), (len(SIF) - 1, None), (0, len(SIF) + 7), (len(SIF), None)):
        stream = asked.open(start, end, if_range=version)
        assert stream
        assert (stream.offset, stream.size) == (start, len(SIF))
        assert read(stream) == SIF[start:end]
    stream = asked.open(5, if_range=Validators("sha256:of-another-version"))
    assert stream
    assert (stream.offset, read(stream)) == (0, SIF)
    assert asked.open(unless=version) is None
    assert read(asked.open(unless=Validators("other"))) == SIF


def test_the_tag_is_asked_once_and_held_to(registry: Registry) -> None:
    registry.push_file("some/sif", "moves", SIF)
    asked = source(registry, "some/sif:moves")
    version = Validators(digest_of(SIF))
    before = len(registry.log)
    read(asked.open(0, 10))
    registry.push_file("some/sif", "moves", SIF + b"new")
    assert read(asked.open(10, if_range=version)) == SIF[10:]
    assert registry.asked("GET", "manifests", before) == 1
    assert read(source(registry, "some/sif:moves").open(10, if_range=version)) == SIF + b"new"


@pytest.mark.parametrize(
    "media_type", ["appliciation/vnd.sylabs.sif.layer.tar", "application/vnd.sylabs.sif.layer.v1.sif", "application/x"]
)
def test_forms_of_files(registry: Registry, media_type: str) -> None:
    registry.push_file(
        "some/form", "1", SIF, media_type=media_type, config_type="application/vnd.unknown.config.v1+json"
    )
    assert read(source(registry, "some/form:1").open()) == SIF


def test_the_wrong_scheme_is_told(registry: Registry) -> None:
    registry.push_image("some/image", "1", LAYERS)
    registry.push_file("some/sif", "1", SIF)
    with pytest.raises(NotAnImage, match="is a container image") as image:
        source(registry, "some/image:1").open()
    assert image.value.hint == f"write docker://{registry.host}/some/image:1"
    with pytest.raises(NotAnImage, match="is a SIF") as sif:
        origin(registry, "some/sif:1").manifest()
    assert sif.value.hint == f"write oras://{registry.host}/some/sif:1"


@pytest.mark.needs("htpasswd")
def test_passwords(tmp_path: Path) -> None:
    with Registry(users={"ada": SECRET}) as registry:
        registry.push_image("some/image", "1", LAYERS)
        environ = login(tmp_path, registry.host)
        image = origin(registry, "some/image:1", settings(environ))
        assert [read(image.blob(layer)) for layer in manifest(image).layers] == LAYERS
        assert image.private
        registry.push_file("some/sif", "1", SIF)
        stream = source(registry, "some/sif:1", settings(environ)).open()
        assert stream
        assert stream.private
        assert read(stream) == SIF
        with pytest.raises(AccessDenied, match=r"refuses some/image:1 to anonymous users: 401") as nobody:
            origin(registry, "some/image:1").manifest()
        assert "docker login" in nobody.value.hint
        wrong = {"APPTAINER_DOCKER_USERNAME": "ada", "APPTAINER_DOCKER_PASSWORD": f"x{SECRET}"}
        with pytest.raises(AccessDenied, match=r"to ada \(\$APPTAINER_DOCKER_USERNAME\): 401") as caught:
            origin(registry, "some/image:1", settings({"HOME": "/nowhere", **wrong})).manifest()
        assert SECRET not in f"{caught.value.message} {caught.value.hint}"
        with pytest.raises(AccessDenied, match="no credentials of the user bob"):
            origin(registry, "some/image:1", settings(environ), user="bob").manifest()


def test_tokens(tmp_path: Path) -> None:
    with (
        TokenService(tmp_path, {"ada": SECRET}, public=["open/image"]) as tokens,
        Registry(tokens=tokens) as registry,
    ):
        for name in ("open/image", "some/image"):
            registry.push_image(name, "1", LAYERS)
        image = origin(registry, "open/image:1")
        assert [read(image.blob(layer)) for layer in manifest(image).layers] == LAYERS
        assert not image.private
        assert [asked.user for asked in tokens.asked] == [""], "one token does for all"
        with pytest.raises(AccessDenied, match="refuses some/image:1 to anonymous users"):
            origin(registry, "some/image:1").manifest()
        private = origin(registry, "some/image:1", settings(login(tmp_path, registry.host)))
        assert [read(private.blob(layer)) for layer in manifest(private).layers] == LAYERS
        assert private.private
        assert tokens.asked[-1].fields["scope"] == "repository:some/image:pull"


def test_refresh_tokens(tmp_path: Path) -> None:
    with TokenService(tmp_path, {"ada": SECRET}) as tokens, Registry(tokens=tokens) as registry:
        registry.push_image("some/image", "1", LAYERS)
        tokens.refresh["refresh-me"] = "ada"
        content = {"auths": {registry.host: {"auth": "MDAwMDogAA==", "identitytoken": "refresh-me"}}}
        image = origin(registry, "some/image:1", settings({"DOCKER_AUTH_CONFIG": json.dumps(content)}))
        manifest(image)
        first, *nobodys = tokens.asked
        assert (first.method, first.fields["grant_type"]) == ("POST", "refresh_token")
        assert [asked.user for asked in nobodys] == [""]
        assert image.private


def test_wrong_passwords_at_the_token_service(tmp_path: Path) -> None:
    with TokenService(tmp_path, {"ada": SECRET}) as tokens, Registry(tokens=tokens) as registry:
        environ = login(tmp_path, registry.host, secret=f"not-{SECRET}")
        with pytest.raises(AccessDenied, match=r"a token for some/image to ada \(.*auth.json\): 401") as caught:
            origin(registry, "some/image:1", settings(environ)).manifest()
        assert SECRET not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.needs("openssl")
def test_certificates_of_its_own(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with Registry(tls=tmp_path) as registry:
        registry.push_image("some/image", "1", LAYERS)
        with pytest.raises(OriginUnavailable, match="cannot trust"):
            origin(registry, "some/image:1").manifest()
        folder = tmp_path / "certs.d" / registry.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_text((tmp_path / "certificate.pem").read_text())
        manifest(origin(registry, "some/image:1", settings(certificates=(str(tmp_path / "certs.d"),))))
        (tmp_path / "other").mkdir()
        other = HttpSettings(ca_file=self_signed(tmp_path / "other").file)
        both = RegistrySettings(http=other, environ={"HOME": "/nowhere"}, certificates=(str(tmp_path / "certs.d"),))
        manifest(origin(registry, "some/image:1", both))
        trusting = RegistrySettings(http=HttpSettings(ca_file=certificate.file), environ={"HOME": "/nowhere"})
        manifest(origin(registry, "some/image:1", trusting))
        (folder / "more.crt").write_text("no certificate")
        with pytest.raises(ConfigError, match=r"more.crt holds no PEM certificate"):
            origin(registry, "some/image:1", both).manifest()


@pytest.mark.needs("nginx")
def test_blobs_from_elsewhere(tmp_path: Path) -> None:
    with Nginx(tmp_path) as nginx, Registry(redirect=nginx.url("")) as registry:
        registry.push_image("some/image", "1", LAYERS)
        nginx_root = tmp_path / "docker"
        nginx_root.symlink_to(f"{registry.data}/docker")
        image = origin(registry, "some/image:1")
        layer = manifest(image).layers[1]
        assert read(image.blob(layer)) == LAYERS[1]
        assert read(image.blob(layer, 50)) == LAYERS[1][50:]
        assert [access.status for access in nginx.logged(2)] == [200, 206]


def test_mirrors(tmp_path: Path) -> None:
    with Registry() as origin_server, Registry(upstream=origin_server.url(""), prefix="/hub") as cache:
        origin_server.push_image("some/image", "1", LAYERS)
        using = settings(mirrors=("http://127.0.0.1:1", cache.url("")))
        image = origin(origin_server, "some/image:1", using)
        assert [read(image.blob(layer)) for layer in manifest(image).layers] == LAYERS
        assert origin_server.asked("GET", "manifests") == origin_server.asked("GET", "blobs") == 0
        cache.stop()
        assert [read(image.blob(layer)) for layer in manifest(image).layers] == LAYERS
        assert origin_server.asked("GET", "blobs") == len(LAYERS)


def test_a_mirror_without_the_image() -> None:
    with Registry() as server, Registry() as empty:
        server.push_image("some/image", "1", LAYERS)
        image = origin(server, "some/image:1", settings(mirrors=(f"{empty.host}/v2",)))
        assert [read(image.blob(layer)) for layer in manifest(image).layers] == LAYERS
        with pytest.raises(NotFound):
            origin(server, "some/image:none", settings(mirrors=(empty.url(""),))).manifest()
