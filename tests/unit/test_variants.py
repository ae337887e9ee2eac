from __future__ import annotations

import os

import pytest

from stager.config import load
from stager.errors import ConfigError
from stager.oci import Platform
from stager.reference import parse
from stager.variants import HIGHEST, platform, usual, variant

LAYERED = ("docker://x", "oci:/x", "oci-archive:/x.tar", "docker-archive:/x.tar")


def of(text: str, **settings: object) -> str:
    return variant(load({}, settings, site_file="", user_file=""), parse(text))


@pytest.mark.parametrize("text", ["/x.sif", "file:///x", "https://h/x", "http://h/x", f"/x@sha256:{'0' * 64}"])
def test_files_are_what_they_are(text: str) -> None:
    assert of(text, platform="linux/arm64", convert_level=7) == ""


@pytest.mark.parametrize("text", ["oras://h.x/a", "library://a/b/c"])
def test_what_is_not_converted_differs_by_platform_only(text: str) -> None:
    assert of(text, platform="linux/arm64", convert_level=7) == "linux/arm64"


@pytest.mark.parametrize("text", LAYERED)
def test_what_is_converted_differs_by_that_too(text: str) -> None:
    assert of(text, platform="arm64") == "linux/arm64 zstd 0"
    assert of(text, platform="arm64", convert_compression="gzip", convert_level=9) == "linux/arm64 gzip 9"


def test_the_platform_is_this_nodes_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform(load({}, site_file="", user_file="")) == Platform.host()
    machine = os.uname_result(("Linux", "n", "6", "1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: machine)
    assert of("docker://x") == "linux/arm64 zstd 0"


@pytest.mark.parametrize("compression", HIGHEST)
def test_a_level_that_is_none_is_an_error(compression: str) -> None:
    highest = HIGHEST[compression]
    assert of("docker://x", convert_compression=compression, convert_level=highest).endswith(f"{compression} {highest}")
    if highest < 22:
        with pytest.raises(ConfigError, match=f"convert.level is {highest + 1}, but with convert.compression"):
            of("docker://x", convert_compression=compression, convert_level=highest + 1)
    assert of("/x", convert_compression=compression, convert_level=22) == ""


@pytest.mark.parametrize("text", [*LAYERED, "oras://h.x/a", "library://a/b/c", "https://h/x", "/x.sif"])
def test_what_nothing_is_set_for_has_the_key_that_the_warm_path_makes(text: str) -> None:
    reference = parse(text)
    wanted = variant(load({}, {}, site_file="", user_file=""), reference)
    varied = reference.with_variant(wanted, usual=wanted == usual(reference))
    assert varied.key == reference.key
    assert (varied.cluster_key == reference.cluster_key) == (wanted == "")
    other = reference.with_variant("linux/riscv64 zstd 0")
    assert len({other.key, varied.key, other.cluster_key, varied.cluster_key}) == (2 if wanted == "" else 3)


def test_nodes_of_two_kinds_share_no_image_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for kind in ("aarch64", "x86_64"):
        machine = os.uname_result(("Linux", "n", "6", "1", kind))
        monkeypatch.setattr(os, "uname", lambda machine=machine: machine)
        keys.add(parse("docker://x").with_variant(usual(parse("docker://x")), usual=True).cluster_key)
    assert len(keys) == 2
