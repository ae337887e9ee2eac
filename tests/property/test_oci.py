"""Laws: no JSON, however hostile, gives anything but an answer or an error of ours; how platforms are chosen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from stager.errors import NotFound, StageImageError
from stager.oci import (
    INDEXES,
    MANIFESTS,
    ContainerConfig,
    Descriptor,
    Platform,
    choose,
    is_index,
    named_manifests,
    pick,
    read_config,
    read_described,
    read_manifest,
)
from stager.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

ONE = Digest("1" * 64)
WORDS = st.sampled_from(
    [
        *("schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "annotations", "platform"),
        *("os", "architecture", "variant", "Env", "Cmd", "Entrypoint", "Labels", "WorkingDir", "User", "rootfs"),
        *("diff_ids", "org.opencontainers.image.title", "org.opencontainers.image.ref.name", "Platform"),
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["\x1b[2J", f"sha256:{'0' * 64}", f"sha256:{'0' * 63}\n", "sha256:", *INDEXES, *MANIFESTS, "\ud800", "\0"]
    ),
)
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=6),
    max_leaves=20,
)
PLATFORM = st.fixed_dictionaries({}, optional={"os": VALUES, "architecture": VALUES, "variant": VALUES})
DESCRIPTOR = st.fixed_dictionaries(
    {"digest": st.just(f"sha256:{'a' * 64}") | VALUES, "size": st.integers(0, 99) | VALUES},
    optional={"mediaType": JSON, "annotations": JSON, "platform": PLATFORM | JSON},
)
DOCUMENT = JSON | st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.just(2) | VALUES,
        "mediaType": VALUES,
        "config": DESCRIPTOR | JSON,
        "layers": st.lists(DESCRIPTOR, max_size=3) | JSON,
        "manifests": st.lists(DESCRIPTOR, max_size=3) | JSON,
        "rootfs": JSON,
    },
)
READERS: tuple[Callable[[bytes], object], ...] = (
    lambda data: read_manifest(data, MANIFESTS[0], ONE, ONE),
    lambda data: is_index(data, ""),
    lambda data: choose(data, Platform("linux", "amd64")),
    named_manifests,
    read_config,
)

PLATFORMS = st.builds(
    Platform,
    st.sampled_from(["linux", "windows"]),
    st.sampled_from(["amd64", "arm", "arm64"]),
    st.sampled_from(["", "v7", "v8"]),
)


def survive(data: bytes) -> None:
    for reader in READERS:
        try:
            reader(data)
        except StageImageError as error:
            assert error.message.isprintable()  # noqa: PT017
            assert len(error.message) < 1000  # noqa: PT017


@given(DOCUMENT)
def test_no_document_does_harm(document: object) -> None:
    survive(json.dumps(document).encode())


@given(st.binary(max_size=50))
def test_no_bytes_do_harm(data: bytes) -> None:
    survive(data)


@given(DOCUMENT)
def test_what_is_read_has_the_types_that_it_says(document: object) -> None:
    try:
        config = read_config(json.dumps(document).encode())
    except StageImageError:
        return
    texts = (config.platform, config.working_dir, config.user, *config.env, *config.entrypoint, *config.cmd)
    labels = [text for pair in config.labels.items() for text in pair]
    assert all("\0" not in text and text.encode() is not None for text in (*texts, *labels))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
CONFIGS = st.builds(
    ContainerConfig,
    env=st.lists(st.builds("{}={}".format, TEXTS.filter(bool), TEXTS), max_size=3).map(tuple),
    entrypoint=st.lists(TEXTS, max_size=3).map(tuple),
    cmd=st.lists(TEXTS, max_size=3).map(tuple),
    working_dir=TEXTS,
    user=TEXTS,
    labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
    platform=TEXTS,
)


@given(CONFIGS)
def test_described_and_read_again(config: ContainerConfig) -> None:
    assert read_described(json.loads(json.dumps(config.describe()))) == config


@given(JSON.filter(lambda value: isinstance(value, dict)))
def test_anything_may_be_described(content: dict[str, Any]) -> None:
    assert isinstance(read_described(content), ContainerConfig)


@given(PLATFORMS)
def test_platforms_are_read_as_they_are_written(platform: Platform) -> None:
    assert Platform.parse(str(platform)) == platform
    assert platform.serves(platform)


@given(st.lists(PLATFORMS, min_size=1, max_size=5), PLATFORMS, st.randoms())
def test_choosing(platforms: list[Platform], wanted: Platform, random: Random) -> None:
    offered = [Descriptor("", Digest(f"{n:064x}"), 1, platform=platform) for n, platform in enumerate(platforms)]
    try:
        chosen = pick(offered, wanted)
    except NotFound:
        assert not any(platform.serves(wanted) for platform in platforms)
        return
    assert chosen in offered
    assert chosen.platform is not None
    assert chosen.platform.serves(wanted)
    if wanted in platforms:
        assert chosen.platform == wanted
    # Attestations, which builders put beside images, change nothing.
    noise = Descriptor("", ONE, 1, platform=Platform("unknown", "unknown"))
    assert pick([noise, *offered], wanted) == chosen
    shuffled = random.sample(offered, len(offered))
    assert pick(shuffled, wanted).platform is not None
