"""Manifests, indexes and configurations: what is taken from them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stager.errors import DamagedImage, InvalidReference, NotAnImage, NotFound
from stager.oci import (
    INDEXES,
    MANIFESTS,
    ContainerConfig,
    Platform,
    choose,
    is_index,
    named_manifests,
    read_config,
    read_described,
    read_manifest,
)
from stager.reference import Digest

ONE, TWO = Digest("1" * 64), Digest("2" * 64)
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def described(digit: int = 1, size: object = 7, **more: object) -> dict[str, Any]:
    return {"mediaType": "m", "digest": f"sha256:{str(digit) * 64}", "size": size, **more}


def manifest(**change: object) -> bytes:
    return encoded({"schemaVersion": 2, "config": described(3), "layers": [described(4), described(5, 9)], **change})


def index(*platforms: str) -> bytes:
    entries = []
    for digit, text in enumerate(platforms, 1):
        parts = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        entries.append(described(digit, platform=parts) if text else described(digit))
    return encoded({"schemaVersion": 2, "manifests": entries})


def test_a_manifest() -> None:
    found = read_manifest(manifest(), MANIFESTS[0], ONE, TWO)
    assert (found.digest, found.top, found.size) == (ONE, TWO, 16)
    assert [layer.digest.hex[0] for layer in (found.config, *found.layers)] == ["3", "4", "5"]


def test_titles_of_files() -> None:
    layer = described(annotations={"org.opencontainers.image.title": "x.sif"})
    assert read_manifest(manifest(layers=[layer]), "", ONE, ONE).layers[0].title == "x.sif"


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", DamagedImage, "not JSON"),
        (b"\xff", DamagedImage, "not JSON"),
        (b"[" * 100_000, DamagedImage, "not JSON"),
        (b"9" * 100_000, DamagedImage, "not JSON"),
        (b"[]", DamagedImage, "not a JSON object"),
        (b"NaN", DamagedImage, "not a JSON object"),
        (manifest(schemaVersion=1), NotAnImage, "schema 1"),
        (manifest(mediaType=INDEXES[0]), DamagedImage, "index names an index"),
        (manifest(layers=None), NotAnImage, "no image"),
        (manifest(config=[]), NotAnImage, "no image"),
        (manifest(layers=[described()] * 1001), DamagedImage, "1001 layers"),
        (manifest(layers=[1]), DamagedImage, "not a JSON object"),
        *(
            (manifest(layers=[described(size=size)]), DamagedImage, "size")
            for size in (-1, True, None, 1.5, "1", 1 << 50)
        ),
        *(
            (manifest(config=described(digest=digest)), DamagedImage, "digest|sha256")
            for digest in (None, "", "sha256:", "sha512:" + "1" * 128, "sha256:../../x", "1" * 64, ["sha256"])
        ),
    ],
)
def test_bad_manifests(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_manifest(data, MANIFESTS[0], ONE, ONE)


def test_words_of_strangers_are_cut_and_escaped() -> None:
    with pytest.raises(NotAnImage) as caught:
        read_manifest(encoded({"mediaType": "\x1b[2J" * 1000}), "", ONE, ONE)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


def test_indexes_are_told_by_their_type_or_their_shape() -> None:
    assert is_index(b'{"mediaType": "%s"}' % INDEXES[1].encode(), "")
    assert is_index(b"{}", INDEXES[0])
    assert is_index(index("linux/amd64"), "")
    assert not is_index(manifest(), "")
    # The document's own word counts more than what was said of it.
    assert not is_index(manifest(mediaType=MANIFESTS[0]), INDEXES[0])


@pytest.mark.parametrize(
    ("platforms", "wanted", "chosen"),
    [
        (["linux/amd64"], AMD64, 1),
        (["linux/arm64", "linux/amd64"], AMD64, 2),
        (["windows/amd64", "linux/amd64"], AMD64, 2),
        (["linux/arm64/v8"], ARM64, 1),
        (["linux/arm64/v8", "linux/arm64"], ARM64, 2),
        (["linux/arm64"], Platform("linux", "arm64", "v8"), 1),
        (["linux/arm/v6", "linux/arm/v7"], Platform("linux", "arm", "v7"), 2),
        (["linux/amd64/v3", "linux/amd64"], AMD64, 2),
        (["linux/amd64", "unknown/unknown"], AMD64, 1),
        (["unknown/unknown", "linux/amd64"], AMD64, 2),
        ([""], AMD64, 1),
        (["", "unknown/unknown"], AMD64, 1),
        (["linux/arm64", "linux/arm64"], ARM64, 1),
    ],
)
def test_choosing(platforms: list[str], wanted: Platform, chosen: int) -> None:
    assert choose(index(*platforms), wanted).digest == Digest(str(chosen) * 64)


@pytest.mark.parametrize(
    ("platforms", "wanted", "words"),
    [
        (["linux/amd64", "windows/amd64"], ARM64, "it is for linux/amd64, windows/amd64"),
        (["linux/arm/v7"], Platform("linux", "arm", "v6"), "it is for linux/arm/v7"),
        (["linux/arm64/v9"], Platform("linux", "arm64", "v8"), "v9"),
        (["unknown/unknown"], AMD64, "it is for none"),
        (["", ""], AMD64, "it is for none"),
    ],
)
def test_nothing_to_choose(platforms: list[str], wanted: Platform, words: str) -> None:
    with pytest.raises(NotFound, match=words) as caught:
        choose(index(*platforms), wanted)
    assert "--platform" in caught.value.hint


@pytest.mark.parametrize("manifests", [None, [], {}, "x", [None], [[]]])
def test_bad_indexes(manifests: object) -> None:
    with pytest.raises(DamagedImage):
        choose(encoded({"manifests": manifests}), AMD64)


def test_names_in_a_layout() -> None:
    names = {
        "org.opencontainers.image.ref.name": "1",
        "io.containerd.image.name": "docker.io/library/x:1",
        "other": "y",
    }
    data = encoded(
        {"manifests": [described(annotations=names), described(annotations=[]), described(annotations={"a": 1})]}
    )
    assert [given for given, _ in named_manifests(data)] == [{"1", "docker.io/library/x:1"}, set(), set()]


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("amd64", AMD64),
        ("x86_64", AMD64),
        ("Linux/AMD64", AMD64),
        ("aarch64", ARM64),
        ("armv7l", Platform("linux", "arm", "v7")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("windows/amd64", Platform("windows", "amd64")),
    ],
)
def test_platforms(text: str, platform: Platform) -> None:
    assert Platform.parse(text) == platform
    assert Platform.parse(str(platform)) == platform


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "linux/ä", "x" * 33, "a\n", "../x"]
)
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidReference):
        Platform.parse(text)


def test_this_machine_has_a_platform() -> None:
    assert Platform.host().os == "linux"
    assert Platform.parse(str(Platform.host())) == Platform.host()


def test_a_configuration() -> None:
    inner = {
        "Env": ["A=b", "bad", "=x"],
        "Entrypoint": ["/e"],
        "Cmd": "c",
        "WorkingDir": "/w",
        "User": "u:g",
        "Labels": {"a": "b", "c": 1},
    }
    data = encoded(
        {"os": "linux", "architecture": "arm", "variant": "v7", "config": inner, "rootfs": {"diff_ids": ["d"]}}
    )
    assert read_config(data) == ContainerConfig(
        ("A=b",), ("/e",), ("c",), "/w", "u:g", {"a": "b"}, "linux/arm/v7", ("d",)
    )


@pytest.mark.parametrize(
    "data", [b"{}", b'{"config": null, "rootfs": []}', b'{"config": {"Env": null, "Labels": null}}']
)
def test_a_configuration_may_say_nothing(data: bytes) -> None:
    assert read_config(data) == ContainerConfig()


def test_described_and_read_again() -> None:
    config = ContainerConfig(("A=b=c",), ("/e",), ("c",), "/w", "u", {"a": "b"}, "linux/amd64")
    assert read_described(config.describe()) == config
