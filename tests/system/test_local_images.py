"""Images that skopeo and umoci wrote, read where they lie: the same image is the same in all three forms."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.oci import Platform, read_config
from stager.sources.docker_archive import DockerArchiveOrigin
from stager.sources.oci_archive import OciArchiveOrigin
from stager.sources.oci_layout import OciLayoutOrigin
from tests.support import layered_images as images

if TYPE_CHECKING:
    from pathlib import Path

    from stager.oci import ContainerOrigin, Manifest

AMD64 = Platform("linux", "amd64")
LAYERS = [
    images.layer([images.directory("etc"), images.file("etc/motd", b"hello" * 10_000)]),
    images.layer([images.whiteout("etc/motd"), images.symlink("etc/issue", "motd")]),
]

pytestmark = pytest.mark.needs("skopeo")


def skopeo(*arguments: object) -> None:
    subprocess.run(["skopeo", "--insecure-policy", *map(str, arguments)], check=True, capture_output=True)


def contents(origin: ContainerOrigin) -> tuple[Manifest, list[bytes]]:
    found = origin.manifest()
    assert found is not None
    assert origin.manifest(str(found.top)) is None
    blobs = []
    for descriptor in (found.config, *found.layers):
        stream = origin.blob(descriptor)
        blob = b"".join(stream.chunks())
        stream.close()
        assert sha256(blob).hexdigest() == descriptor.digest.hex
        blobs.append(blob)
    return found, blobs


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    built = images.image(LAYERS, env=["A=b"])
    plain = images.oci_layout(tmp_path / "plain", [built], tag="1")
    skopeo("copy", f"oci:{plain}:1", f"oci:{tmp_path / 'layout'}:1")
    return tmp_path / "layout"


def test_skopeos_layout_and_archive(layout: Path, tmp_path: Path) -> None:
    skopeo("copy", f"oci:{layout}:1", f"oci-archive:{tmp_path / 'a.tar'}:1")
    found, blobs = contents(OciLayoutOrigin(str(layout), "1", AMD64))
    assert blobs[1:] == [layer.blob for layer in LAYERS]
    assert contents(OciArchiveOrigin(str(tmp_path / "a.tar"), "", AMD64)) == (found, blobs)


def test_skopeos_docker_archive(layout: Path, tmp_path: Path) -> None:
    skopeo("copy", f"oci:{layout}:1", f"docker-archive:{tmp_path / 'd.tar'}:lab/tool:1")
    _, blobs = contents(DockerArchiveOrigin(str(tmp_path / "d.tar"), "lab/tool:1", AMD64))
    assert blobs[1:] == [layer.tar for layer in LAYERS]
    assert read_config(blobs[0]).env == ("A=b",)
    assert read_config(blobs[0]).diff_ids == tuple(layer.diff_id for layer in LAYERS)


@pytest.mark.needs("umoci")
def test_umocis_layout(layout: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:1", bundle], check=True, capture_output=True)
    (bundle / "rootfs" / "new").write_bytes(b"new")
    subprocess.run(["umoci", "repack", "--image", f"{layout}:2", bundle], check=True, capture_output=True)
    first, _ = contents(OciLayoutOrigin(str(layout), "1", AMD64))
    second, _ = contents(OciLayoutOrigin(str(layout), "2", AMD64))
    assert len(second.layers) == len(first.layers) + 1
    assert second.layers[: len(first.layers)] == first.layers
