from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from stager.cli.slurm_known import heed
from stager.layout import Layout
from stager.process import current
from stager.reference import Digest, parse
from stager.schedulers import registry, told
from stager.schedulers.told import Told
from stager.store import memory
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import SilentTeller

if TYPE_CHECKING:
    from pathlib import Path

    from stager.cli.node import Node

URL, OTHER = "https://h.example.org/x", "https://h.example.org/y"
DIGEST = Digest("ab" * 32)


class Job:
    """A task of job 7, and what it is told."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(str(folder / "store"))
        self.clock = FakeClock()
        self.tell = SilentTeller()

    def heed(self, text: str = URL, variant: str = "", **sources: str) -> None:
        config = SimpleNamespace(sources=sources)
        node = SimpleNamespace(scope="slurm-7", environ={}, clock=self.clock, layout=self.layout, config=config)
        heed(cast("Node", node), parse(text).with_variant(variant, usual=True), self.tell)

    def pin(self, text: str = URL) -> Digest | None:
        return memory.read_pin(self.layout.pin("slurm-7", parse(text).key), self.clock.now())

    @staticmethod
    def is_told(last: str, **digests: str) -> None:
        lines = []
        for name, digest in digests.items():
            behind, text = ("", URL) if name == "url" else ("_2", OTHER)
            lines += [f"export STAGE_IMAGE_REFERENCE{behind}={text}", f"export STAGE_IMAGE_DIGEST{behind}={digest}"]
        told.write("slurm-7", Told(lines, last), os.getuid())


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(registry, "RUN", str(tmp_path / "run" / "stage-image" / "jobs"))
    return Job(tmp_path)


def staging(*references: str) -> str:
    return f"staging {current()} 0 0 {' '.join(references)}"


def test_without_a_hook_nothing_happens(job: Job) -> None:
    job.heed()
    assert (job.pin(), job.clock.sleeps, os.path.exists(job.layout.root)) == (None, [], False)


@pytest.mark.parametrize("last", ["ready", "failed 66 the other is not there"])
def test_the_job_means_what_the_hook_has_staged(job: Job, last: str) -> None:
    job.is_told(last, url=str(DIGEST))
    job.heed()
    assert (job.pin(), job.pin(OTHER), job.clock.sleeps) == (DIGEST, None, [])


MANIFEST = f"@sha256:{'ef' * 32}"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("docker://h.x/a:1", "docker://h.x/a:1"),
        (f"docker://h.x/a:1{MANIFEST}", "docker://h.x/a:1"),
        (f"docker://h.x/a:1{MANIFEST}", f"docker://h.x/a:1{MANIFEST}"),
        ("docker://ubuntu", "docker://docker.io/library/ubuntu:latest"),
        ("oci:/a/b:c", "oci:/a/b:c"),
        (f"library://a/b/c:1@{DIGEST}", "library://a/b/c:1"),
    ],
)
def test_images_of_registries_are_meant_however_they_were_pinned(job: Job, asked: str, meant: str) -> None:
    told.write(
        "slurm-7",
        Told([f"export STAGE_IMAGE_REFERENCE={asked}", f"export STAGE_IMAGE_DIGEST={DIGEST}"], "ready"),
        os.getuid(),
    )
    for other in ("docker://h.x/a:2", "docker://h.x/b:1", f"docker://h.x/a:1@sha256:{'0' * 64}", "oras://h.x/a:1"):
        job.heed(other)
        assert job.pin(other) is None
    job.heed(meant, "linux/amd64 zstd 0", platform="/etc/stage-image/config.toml")
    assert job.pin(meant) == DIGEST


@pytest.mark.parametrize("setting", ["platform", "convert_level", "convert_compression"])
def test_another_variant_than_the_sites_is_not_what_the_hook_has_staged(job: Job, setting: str) -> None:
    told.write(
        "slurm-7",
        Told(["export STAGE_IMAGE_REFERENCE=docker://a", f"export STAGE_IMAGE_DIGEST={DIGEST}"], "ready"),
        os.getuid(),
    )
    job.heed("docker://a", "linux/arm64", **{setting: "--platform"})
    assert job.pin("docker://a") is None


def test_each_image_has_its_own(job: Job) -> None:
    job.is_told("ready", url=str(DIGEST), other=f"sha256:{'cd' * 32}")
    job.heed(OTHER)
    assert (job.pin(), job.pin(OTHER)) == (None, Digest("cd" * 32))


def test_a_failure_pins_nothing(job: Job) -> None:
    job.is_told("failed 66 it is not there")
    job.heed()
    assert (job.pin(), job.clock.sleeps) == (None, [])


def test_who_stages_it_is_waited_for(job: Job) -> None:
    job.is_told(staging(OTHER, URL))
    begun = job.clock.now()
    job.clock.after(5, lambda: job.is_told("ready", url=str(DIGEST)))
    job.heed()
    assert (job.pin(), job.tell.waited_for) == (DIGEST, [os.getpid()])
    assert job.clock.now() - begun >= 5


def test_who_stages_another_is_not(job: Job) -> None:
    job.is_told(staging(OTHER))
    job.heed()
    assert (job.pin(), job.clock.sleeps) == (None, [])


def test_a_pin_stands(job: Job) -> None:
    memory.write_pin(job.layout.pin("slurm-7", parse(URL).key), Digest("cd" * 32), until=None, now=0)
    job.is_told("ready", url=str(DIGEST))
    job.heed()
    assert job.pin() == Digest("cd" * 32)


def test_a_reference_with_a_digest_needs_no_pin(job: Job) -> None:
    job.is_told("ready", url=str(DIGEST))
    text = f"{URL}@sha256:{'cd' * 32}"
    job.heed(text)
    assert job.pin(text) is None


@pytest.mark.parametrize("asked", [URL, "https://H.example.org:443/x"])
def test_other_words_for_the_same(job: Job, asked: str) -> None:
    job.is_told("ready", url=str(DIGEST))
    job.heed(asked)
    assert job.pin() == DIGEST


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "g" * 64, "ab", "../../x", "sha256:" + "AB" * 32])
def test_what_is_no_digest_pins_nothing(job: Job, digest: str) -> None:
    job.is_told("ready", url=digest)
    job.heed()
    assert job.pin() is None


def test_what_is_no_reference_is_passed_over(job: Job) -> None:
    told.write(
        "slurm-7",
        Told(["export STAGE_IMAGE_REFERENCE=htp:/?", "export STAGE_IMAGE_DIGEST=x"], staging("::")),
        os.getuid(),
    )
    job.heed()
    assert (job.pin(), job.clock.sleeps) == (None, [])


def test_a_store_that_cannot_be_written_is_no_failure(job: Job, tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    job.is_told("ready", url=str(DIGEST))
    job.heed()
    assert job.pin() is None
