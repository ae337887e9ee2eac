from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from stager.cli import local
from stager.cli.node import Node
from stager.errors import NotStaged, UsageError
from stager.interfaces import ImageInfo, Partition, Validators
from stager.reference import Digest, parse
from stager.store import files, folder, images, memory

if TYPE_CHECKING:
    from pathlib import Path

    from stager.layout import Layout

URL = "https://origin/x.sqsh"
INFO = ImageInfo("squashfs", 4, "zlib", Partition(0, 4, "squashfs"))


class Held:
    """A store with images of our choice, as the verbs see it."""

    def __init__(self, root: str) -> None:
        self.layout: Layout = folder.open_store(root)
        self.now = 1000.0

    @property
    def node(self) -> Node:
        clock = SimpleNamespace(now=lambda: self.now)
        return cast("Node", SimpleNamespace(layout=self.layout, clock=clock, scope="job-1", reference=parse))

    def stage(self, hex_digits: str) -> Digest:
        digest = Digest(hex_digits)
        data = f"{self.layout.root}/data"
        files.write_text(data, "data")
        images.publish(self.layout, data, digest, INFO, origin=URL, private=False)
        return digest

    def saw(self, digest: Digest, url: str = URL) -> None:
        reference = parse(url)
        path = self.layout.reference_record(reference.key)
        memory.write_seen(path, reference.shown, digest, validators=Validators(), at=self.now)

    def pin(self, digest: Digest, until: float | None = None) -> None:
        memory.write_pin(self.layout.pin("job-1", parse(URL).key), digest, until=until, now=self.now)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(str(tmp_path / "store"))


def digits(seed: int) -> str:
    return f"{Random(seed).getrandbits(256):064x}"


A, B = "abcdef" + digits(1)[6:], "abcdee" + digits(2)[6:]


@pytest.mark.parametrize("text", [A, A[:6], A[:6].upper(), f"sha256:{A}", f"sha256:{A[:10]}"])
def test_a_digest_or_its_beginning(held: Held, text: str) -> None:
    wanted = held.stage(A)
    held.stage(B)
    assert local.digest_of(held.node, text) == wanted
    assert local.image_of(held.node, text).digest == wanted


def test_a_beginning_that_several_have_is_a_question(held: Held) -> None:
    held.stage(A)
    held.stage(A[:-1] + ("0" if A[-1] != "0" else "1"))
    with pytest.raises(UsageError, match=f"^{A[:8]} is the beginning of 2 digests$"):
        local.digest_of(held.node, A[:8])
    assert local.digest_of(held.node, A) == Digest(A)


@pytest.mark.parametrize("text", ["abcde", "/abcde", "/srv/abcdef", "/" + A])
def test_what_is_too_short_or_no_digest_is_a_reference(held: Held, text: str) -> None:
    held.stage(A)
    assert local.digest_of(held.node, text) is None


def test_a_reference_means_what_it_meant_when_last_seen(held: Held) -> None:
    held.saw(held.stage(A))
    assert local.digest_of(held.node, URL) == Digest(A)


def test_the_pin_of_the_job_goes_first_while_it_holds(held: Held) -> None:
    held.saw(held.stage(A))
    held.pin(held.stage(B), until=1060.0)
    assert local.digest_of(held.node, URL) == Digest(B)
    held.now = 1061.0
    assert local.digest_of(held.node, URL) == Digest(A)


def test_a_pinned_reference_means_its_digest_whatever_was_seen(held: Held) -> None:
    held.saw(held.stage(A))
    assert local.digest_of(held.node, f"{URL}@sha256:{B}") == Digest(B)


def test_what_is_not_there_is_told_with_its_name(held: Held) -> None:
    held.saw(Digest(A))
    for text in (URL, f"{URL}@sha256:{B}", "https://origin/other.sqsh"):
        with pytest.raises(NotStaged) as caught:
            local.image_of(held.node, text)
        assert caught.value.reference == text


def test_references_by_digest(held: Held) -> None:
    other = "https://origin/y.sqsh"
    held.saw(Digest(A))
    held.saw(Digest(A), other)
    record = files.read_record(held.layout.reference_record(parse(other).key))
    files.write_record(
        held.layout.reference_record(parse(other).with_variant("linux/arm64", usual=False).key), record or {}
    )
    held.saw(Digest(B), "https://origin/z.sqsh")
    files.write_text(f"{held.layout.root}/refs/{parse('https://origin/odd').key}", "nonsense")
    found: dict[str, Any] = {digest: sorted(texts) for digest, texts in local.references(held.node).items()}
    assert found == {f"sha256:{A}": [URL, other], f"sha256:{B}": ["https://origin/z.sqsh"]}
