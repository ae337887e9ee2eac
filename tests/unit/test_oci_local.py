"""Images in layouts and archives: which one is meant, what is refused, and in which words."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.errors import DamagedImage, ImageRefused, NotAnImage, NotFound, OriginUnavailable, StageImageError
from stager.oci import Descriptor, Platform
from stager.reference import Digest
from stager.sources.docker_archive import DockerArchiveOrigin
from stager.sources.oci_archive import OciArchiveOrigin
from stager.sources.oci_layout import OciLayoutOrigin
from tests.support import layered_images as images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from stager.oci import ContainerOrigin, Manifest

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
SMALL = images.layer([images.file("a", b"x" * 3000)])
ONE = images.image([SMALL, images.layer([images.file("b")], "zstd")], env=["A=b"])
OTHER = images.image([SMALL], "linux/arm64")


def layout(tmp_path: Path, ref: str = "", platform: Platform = AMD64) -> OciLayoutOrigin:
    return OciLayoutOrigin(str(tmp_path), ref, platform)


def found(origin: ContainerOrigin) -> Manifest:
    manifest = origin.manifest()
    assert manifest is not None
    return manifest


def blob(origin: ContainerOrigin, descriptor: Descriptor, start: int = 0) -> bytes:
    stream = origin.blob(descriptor, start)
    try:
        assert (stream.offset, stream.size) == (start, descriptor.size)
        return b"".join(stream.chunks())
    finally:
        stream.close()


def refused(origin: ContainerOrigin) -> StageImageError:
    with pytest.raises(StageImageError) as caught:
        origin.manifest()
    return caught.value


def archived(
    path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None, kind: bytes = b"2"
) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return path


FORMS: dict[str, Callable[[Path], ContainerOrigin]] = {
    "layout": lambda path: OciLayoutOrigin(str(images.oci_layout(path / "l", [ONE])), "", AMD64),
    "nested": lambda path: OciLayoutOrigin(str(images.oci_layout(path / "l", [OTHER, ONE], nested=True)), "", AMD64),
    "archive": lambda path: OciArchiveOrigin(str(images.oci_archive(path / "a", [ONE])), "latest", AMD64),
    "docker": lambda path: DockerArchiveOrigin(str(images.docker_archive(path / "d", {"x:1": ONE})), "", AMD64),
}


@pytest.fixture(autouse=True)
def no_descriptor_stays() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=FORMS)
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> ContainerOrigin:
    return FORMS[request.param](tmp_path)


def test_everything_has_the_digest_that_names_it(origin: ContainerOrigin) -> None:
    manifest = found(origin)
    assert len(manifest.layers) == len(ONE.layers)
    for descriptor in (manifest.config, *manifest.layers):
        data = blob(origin, descriptor)
        assert sha256(data).hexdigest() == descriptor.digest.hex
        for start in (1, len(data) // 2, len(data)):
            assert blob(origin, descriptor, start) == data[start:]


def test_unchanged(origin: ContainerOrigin) -> None:
    manifest = found(origin)
    assert origin.manifest(str(manifest.top)) is None
    assert origin.manifest(f"sha256:{'0' * 64}") == manifest


def test_several_threads_at_once(origin: ContainerOrigin) -> None:
    layers = found(origin).layers * 4
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda one=one: got.append(blob(origin, one))) for one in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sha256(data).hexdigest() for data in got) == sorted(layer.digest.hex for layer in layers)


@pytest.mark.parametrize("form", FORMS)
def test_what_only_its_owner_may_read_is_private(form: str, public_path: Path) -> None:
    (public_path / "open").mkdir(mode=0o755)
    origin = FORMS[form](public_path / "open")
    for mode in (0o644, 0o600):
        for path in public_path.rglob("*"):
            path.chmod(mode if path.is_file() else 0o755)
        found(origin)
        assert origin.private is (mode == 0o600)


def test_one_private_layer_makes_the_image_private(public_path: Path) -> None:
    images.oci_layout(public_path, [ONE])
    path_of(public_path, SMALL.digest).chmod(0o600)
    origin = layout(public_path)
    found(origin)
    assert origin.private


def test_the_files_own_name_is_shown(origin: ContainerOrigin, tmp_path: Path) -> None:
    assert origin.name.startswith(str(tmp_path))


def test_by_name(tmp_path: Path) -> None:
    images.oci_layout(tmp_path, [ONE], tag="docker.io/lab/tool:1")
    assert found(layout(tmp_path, "docker.io/lab/tool:1")).digest == Digest(ONE.digest)
    error = refused(layout(tmp_path, "2"))
    assert isinstance(error, NotFound)
    assert "docker.io/lab/tool:1" in error.hint


def test_by_digest(tmp_path: Path) -> None:
    images.oci_layout(tmp_path, [ONE, OTHER], nested=True)
    assert found(layout(tmp_path, f"@{OTHER.digest}")).digest == Digest(OTHER.digest)
    assert found(layout(tmp_path, f"@{images.digest(images.index([ONE, OTHER]))}")).digest == Digest(ONE.digest)
    assert isinstance(refused(layout(tmp_path, f"@sha256:{'0' * 64}")), NotFound)
    assert isinstance(refused(layout(tmp_path, "@sha256:x")), NotFound)


def rewrite(tmp_path: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    index = json.loads((tmp_path / "index.json").read_bytes())
    change(index["manifests"])
    (tmp_path / "index.json").write_text(json.dumps(index))


def test_several_images(tmp_path: Path) -> None:
    images.oci_layout(tmp_path, [ONE, ONE])
    rewrite(tmp_path, lambda entries: entries[1].update(annotations={"org.opencontainers.image.ref.name": "second"}))
    error = refused(layout(tmp_path))
    assert (type(error), error.message) == (NotFound, f"{tmp_path} holds several images, and none of them is named")
    assert error.hint.endswith("latest, second")
    assert found(layout(tmp_path, "second")).digest == Digest(ONE.digest)


def test_one_name_for_several_platforms(tmp_path: Path) -> None:
    images.oci_layout(tmp_path, [ONE, OTHER])
    assert found(layout(tmp_path, "latest", ARM64)).digest == Digest(OTHER.digest)
    assert "linux/amd64, linux/arm64" in refused(layout(tmp_path, "", Platform("linux", "s390x"))).message


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    images.oci_layout(tmp_path, [ONE], nested=True)
    inner = images.digest(images.index([ONE]))
    data = json.dumps({"manifests": [{"digest": inner, "size": len(images.index([ONE]))}]}).encode()
    for _ in range(5):
        name = sha256(data).hexdigest()
        (tmp_path / "blobs" / "sha256" / name).write_bytes(data)
        data, size = b"", len(data)
        data = json.dumps({"manifests": [{"digest": f"sha256:{name}", "size": size}]}).encode()
    (tmp_path / "index.json").write_bytes(data)
    error = refused(layout(tmp_path))
    assert isinstance(error, DamagedImage)
    assert "deep" in error.message


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"manifests": []}', '{"manifests": [{}]}', "[" * 99999, "x" * (5 << 20)]
)
def test_a_bad_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    assert isinstance(refused(layout(tmp_path)), DamagedImage)


@pytest.mark.parametrize("digest", ["sha256:../../../victim", "sha512:" + "0" * 128, "sha256:" + "0" * 63 + "/", ".."])
def test_no_path_comes_from_a_layout(tmp_path: Path, digest: str) -> None:
    images.oci_layout(tmp_path, [ONE])
    rewrite(tmp_path, lambda entries: entries[0].update(digest=digest))
    assert isinstance(refused(layout(tmp_path)), DamagedImage)


def path_of(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "blobs" / "sha256" / digest.removeprefix("sha256:")


@pytest.mark.parametrize("which", [ONE.digest, ONE.layers[0].digest, images.digest(ONE.config)])
def test_a_blob_is_missing(tmp_path: Path, which: str) -> None:
    images.oci_layout(tmp_path, [ONE])
    path_of(tmp_path, which).unlink()
    error = refused(layout(tmp_path))
    assert isinstance(error, DamagedImage)
    assert which in error.message


@pytest.mark.parametrize("which", [ONE.digest, ONE.layers[0].digest, images.digest(ONE.config)])
def test_a_blob_is_of_another_size(tmp_path: Path, which: str) -> None:
    images.oci_layout(tmp_path, [ONE])
    with path_of(tmp_path, which).open("ab") as file:
        file.write(b"x")
    assert "bytes" in refused(layout(tmp_path)).message


def test_a_manifest_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    images.oci_layout(tmp_path, [ONE])
    path_of(tmp_path, ONE.digest).write_bytes(ONE.manifest.replace(b"schemaVersion", b"SchemaVersion"))
    assert "not what its name says" in refused(layout(tmp_path)).message


@pytest.mark.parametrize("name", ["index.json", f"blobs/sha256/{ONE.digest[7:]}", f"blobs/sha256/{SMALL.digest[7:]}"])
def test_only_regular_files_are_opened(tmp_path: Path, name: str) -> None:
    images.oci_layout(tmp_path, [ONE])
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    error = refused(layout(tmp_path))
    assert isinstance(error, NotFound)
    assert "not a regular file" in error.message


def test_links_in_a_layout_are_the_owners_business(tmp_path: Path) -> None:
    images.oci_layout(tmp_path / "l", [ONE])
    (tmp_path / "l" / "blobs").rename(tmp_path / "shared")
    (tmp_path / "l" / "blobs").symlink_to("../shared")
    assert found(layout(tmp_path / "l")).digest == Digest(ONE.digest)


def test_the_wrong_scheme_for_what_is_there(tmp_path: Path) -> None:
    archive = images.oci_archive(tmp_path / "a.tar", [ONE])
    docker = images.docker_archive(tmp_path / "d.tar", {"x": ONE})
    directory = images.oci_layout(tmp_path / "l", [ONE])
    skopeo_dir = tmp_path / "dir"
    skopeo_dir.mkdir()
    (skopeo_dir / "manifest.json").write_bytes(ONE.manifest)
    cases: list[tuple[ContainerOrigin, str]] = [
        (OciLayoutOrigin(str(archive), "", AMD64), f"write oci-archive:{archive}"),
        (OciArchiveOrigin(str(docker), "", AMD64), f"write docker-archive:{docker}"),
        (OciLayoutOrigin(str(skopeo_dir), "", AMD64), f"skopeo copy dir:{skopeo_dir}"),
        (OciArchiveOrigin(str(directory), "", AMD64), f"write oci:{directory}"),
        (DockerArchiveOrigin(str(archive), "", AMD64), f"write oci-archive:{archive}"),
        (DockerArchiveOrigin(str(directory), "", AMD64), f"write oci:{directory}"),
        (OciArchiveOrigin(str(directory / "index.json"), "", AMD64), "a SIF or squashfs file"),
    ]
    for origin, hint in cases:
        error = refused(origin)
        assert isinstance(error, NotAnImage), error.message
        assert hint in error.hint


@pytest.mark.parametrize("kind", [OciLayoutOrigin, OciArchiveOrigin, DockerArchiveOrigin])
def test_nothing_there(tmp_path: Path, kind: type[OciLayoutOrigin | OciArchiveOrigin | DockerArchiveOrigin]) -> None:
    assert isinstance(refused(kind(str(tmp_path / "no"), "", AMD64)), NotFound)
    if kind is OciLayoutOrigin:
        assert isinstance(refused(kind(str(tmp_path), "", AMD64)), NotAnImage)


def test_a_compressed_archive(tmp_path: Path) -> None:
    plain = images.docker_archive(tmp_path / "d.tar", {"x": ONE})
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    error = refused(DockerArchiveOrigin(str(tmp_path / "d.tar.gz"), "", AMD64))
    assert isinstance(error, NotAnImage)
    assert "compressed (gzip)" in error.message
    assert "gunzip" in error.hint


def test_an_archive_that_was_replaced_is_looked_at_anew(tmp_path: Path) -> None:
    path = images.docker_archive(tmp_path / "d", {"x": ONE})
    origin = DockerArchiveOrigin(str(path), "", AMD64)
    before = found(origin)
    images.docker_archive(tmp_path / "new", {"x": OTHER}).rename(path)
    after = origin.manifest(str(before.top))
    assert after is not None
    assert after.top != before.top
    assert sha256(blob(origin, after.layers[0])).hexdigest() == after.layers[0].digest.hex


def test_blobs_of_an_archive_that_was_replaced(tmp_path: Path) -> None:
    path = images.docker_archive(tmp_path / "d", {"x": ONE})
    origin = DockerArchiveOrigin(str(path), "", AMD64)
    before = found(origin)
    longer = images.image([images.layer([images.file("a", b"y" * 9000)])])
    name = f"{ONE.layers[0].diff_id[7:]}/layer.tar"
    archived(tmp_path / "new", {name: longer.layers[0].tar, "manifest.json": b"[]"}).rename(path)
    with pytest.raises(DamagedImage, match="changed its size"):
        origin.blob(before.layers[0])
    with pytest.raises(DamagedImage):
        origin.blob(before.config)


@pytest.mark.parametrize(
    ("ref", "digest"),
    [
        ("lab/one:1", ONE.layers[1].diff_id),
        ("docker.io/lab/one:1", ONE.layers[1].diff_id),
        ("other", SMALL.diff_id),
        ("library/other:latest", SMALL.diff_id),
        ("@0", ONE.layers[1].diff_id),
        ("@1", SMALL.diff_id),
    ],
)
def test_names_in_docker_archives(tmp_path: Path, ref: str, digest: str) -> None:
    path = images.docker_archive(tmp_path / "d", {"lab/one:1": ONE, "other": OTHER})
    assert found(DockerArchiveOrigin(str(path), ref, AMD64)).layers[-1].digest == Digest(digest)


@pytest.mark.parametrize("ref", ["", "lab/one:2", "@2", "@-1", "@x", "@", "\x1b[2J"])
def test_no_such_image_in_a_docker_archive(tmp_path: Path, ref: str) -> None:
    path = images.docker_archive(tmp_path / "d", {"lab/one:1": ONE, "other": OTHER})
    error = refused(DockerArchiveOrigin(str(path), ref, AMD64))
    assert isinstance(error, NotFound)
    assert error.message.isprintable()
    assert error.hint == "name one of these behind a colon: lab/one:1, other"


def docker(tmp_path: Path, layers: object, files: Mapping[str, bytes], **links: str) -> DockerArchiveOrigin:
    entry = [{"Config": "c.json", "RepoTags": None, "Layers": layers}]
    all_files = {"c.json": ONE.config, **files, "manifest.json": json.dumps(entry).encode()}
    path = archived(tmp_path / "d", all_files, {name.replace("_", "/"): target for name, target in links.items()})
    return DockerArchiveOrigin(str(path), "", AMD64)


def test_a_layer_may_be_a_link_to_another_images(tmp_path: Path) -> None:
    files = {"x/layer.tar": ONE.layers[0].tar, "z/layer.tar": ONE.layers[1].tar}
    origin = docker(tmp_path, ["y/layer", "z/layer.tar"], files, y_layer="../x/layer.tar")
    assert blob(origin, found(origin).layers[0]) == ONE.layers[0].tar


@pytest.mark.parametrize("target", ["y", "../y", "/y", "a/b", "../../../../y"])
def test_links_that_lead_nowhere(tmp_path: Path, target: str) -> None:
    origin = docker(tmp_path, ["y", "z"], {"z": b""}, y=target)
    assert isinstance(refused(origin), (ImageRefused, DamagedImage))


def test_compressed_layers_are_known_by_their_own_digest(tmp_path: Path) -> None:
    files = {"a.tar.gz": ONE.layers[0].blob, "b.tar": ONE.layers[1].tar}
    manifest = found(docker(tmp_path, list(files), files))
    assert [layer.digest for layer in manifest.layers] == [Digest(ONE.layers[0].digest), Digest(ONE.layers[1].diff_id)]


def test_an_archive_of_todays_docker_is_both(tmp_path: Path) -> None:
    files = images.layout_files([ONE], "docker.io/lab/one:1")
    names = [f"blobs/sha256/{layer.digest[7:]}" for layer in ONE.layers]
    config = f"blobs/sha256/{images.digest(ONE.config)[7:]}"
    files["manifest.json"] = json.dumps([{"Config": config, "RepoTags": ["lab/one:1"], "Layers": names}]).encode()
    path = archived(tmp_path / "d", files)
    docker_form = found(DockerArchiveOrigin(str(path), "lab/one:1", AMD64))
    oci_form = found(OciArchiveOrigin(str(path), "", AMD64))
    assert [one.digest for one in docker_form.layers] == [one.digest for one in oci_form.layers]
    assert docker_form.config.digest == oci_form.config.digest


@pytest.mark.parametrize("layers", [["a"], ["a", "a", "a"], [1, 2], "a", None, {"a": 1}, ["a", "no"]])
def test_bad_lists_of_layers(tmp_path: Path, layers: object) -> None:
    assert isinstance(refused(docker(tmp_path, layers, {"a": b"x"})), DamagedImage)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", "[[]]", '[{"Config": 1}]', '[{"Config": "c"}]', "[" * 99999])
def test_bad_manifests_of_docker(tmp_path: Path, text: str) -> None:
    path = archived(tmp_path / "d", {"manifest.json": text.encode()})
    assert isinstance(refused(DockerArchiveOrigin(str(path), "", AMD64)), DamagedImage)


def test_links_in_an_oci_archive_are_refused(tmp_path: Path) -> None:
    path = archived(tmp_path / "a", {}, {"index.json": "/etc/hostname"})
    assert isinstance(refused(OciArchiveOrigin(str(path), "", AMD64)), (ImageRefused, NotAnImage))


@pytest.mark.parametrize("kind", [b"3", b"4", b"5", b"6"])
def test_devices_in_an_archive_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = archived(tmp_path / "a", {}, {"index.json": ""}, kind)
    assert isinstance(refused(OciArchiveOrigin(str(path), "", AMD64)), ImageRefused)


def test_a_file_that_is_written_to_meanwhile(tmp_path: Path) -> None:
    path = images.docker_archive(tmp_path / "d", {"x": ONE})
    origin = DockerArchiveOrigin(str(path), "", AMD64)
    stream = origin.blob(found(origin).layers[0])
    os.utime(path, ns=(1, 1))
    with pytest.raises(OriginUnavailable, match="changed while being copied"):
        list(stream.chunks())
    stream.close()
