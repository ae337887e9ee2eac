from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from stager.assembly import Assembly
from stager.errors import (
    ClusterUnavailable,
    DamagedImage,
    DigestMismatch,
    ImageRefused,
    NoSpace,
    NotAnImage,
    NotFound,
    OriginUnavailable,
    StageImageError,
)
from stager.interfaces import ImageInfo, Partition, Validators
from stager.layout import Layout
from stager.oci import Platform
from stager.retry import RetryPolicy
from stager.store.blobs import Blobs
from stager.store.images import StagedImage
from stager.store.partial import Partial
from tests.support.fake_clock import FakeClock
from tests.support.fake_container import FakeContainer, FakeConverter, FakeMemory, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.oci import Descriptor, Manifest
    from stager.reference import Digest

LAYERS = [bytes([number]) * (350 + number) for number in range(1, 6)]
BASE = digest_of(LAYERS[0]).hex


@dataclass
class Scene:
    """A store, and assemblies into it."""

    root: str
    origin: FakeContainer = field(default_factory=lambda: FakeContainer(list(LAYERS)))
    converter: FakeConverter = field(default_factory=FakeConverter)
    memory: FakeMemory = field(default_factory=FakeMemory)
    clock: FakeClock = field(default_factory=FakeClock)
    waits: list[str] = field(default_factory=list)
    rooms: list[int] = field(default_factory=list)
    past: dict[str, FakeContainer] = field(default_factory=dict)
    number: int = 0

    def copy(self) -> Partial:
        self.number += 1
        return Partial(f"{self.root}/copy.{self.number}")

    def of(self, copy: Partial, **how: object) -> Assembly:
        given: dict[str, object] = {
            "origin": self.origin,
            "at": lambda digest: self.past[digest.hex],
            "partial": copy,
            "policy": RetryPolicy(base=0.1, deadline=20, attempts=4),
            "clock": self.clock,
            "blobs": Blobs(Layout(self.root)),
            "converter": self.converter,
            "memory": self.memory,
            "platform": Platform("linux", "amd64"),
            "room": self.rooms.append,
            "on_wait": lambda error, _seconds: self.waits.append(error.message),
        }
        return Assembly(**{**given, **how})  # type: ignore[arg-type]

    @property
    def left(self) -> list[str]:
        """What lies in the store besides whole blobs and copies: nothing, when all is over."""
        found = []
        for folder, _, files in os.walk(self.root):
            found += [f"{folder}/{name}" for name in files if "/blobs/sha256/" not in folder and "/copy." not in folder]
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = set(threading.enumerate())
    (tmp_path / "store" / "partial").mkdir(parents=True)
    yield Scene(str(tmp_path / "store"))
    assert set(threading.enumerate()) <= before, "a thread stays behind"


def content(copy: Partial) -> bytes:
    return os.pread(copy.fileno(), 100_000, 0)


def image_of(digest: Digest) -> StagedImage:
    info = ImageInfo("squashfs", 4096, "zstd", Partition(0, 4096, "squashfs"))
    return StagedImage(digest, "/nowhere", info, "", 0.0, 1, 1)


def test_layers_become_the_copy(scene: Scene) -> None:
    copy = scene.copy()
    begun: list[int | None] = []
    it = scene.of(copy, on_begin=lambda: begun.append(copy.size))
    assert it.run()
    assert content(copy) == b"image " + b"".join(LAYERS)
    assert copy.complete
    assert (copy.origin, copy.private, begun) == ("registry.test", False, [copy.size])
    assert copy.validators == Validators(str(scene.origin.of().top), "", copy.size)
    assert sorted(scene.origin.pulled) == sorted(scene.converter.indexed) == sorted({digest_of(x).hex for x in LAYERS})
    assert list(scene.memory.known.values()) == [copy.digest()]
    size = sum(map(len, LAYERS))
    assert scene.rooms == [2 * size]
    assert scene.left == []
    copy.close()


def test_what_the_registry_still_has_is_not_made_again(scene: Scene) -> None:
    copy, version = scene.copy(), Validators(str(scene.origin.of().top))
    assert scene.of(copy).run(unless=version) is False
    assert scene.of(copy).is_current(version)
    assert not scene.of(copy).is_current(Validators("sha256:other"))
    assert scene.origin.asked == []
    copy.close()


def test_layers_are_fetched_once_for_all_images(scene: Scene) -> None:
    first, second = scene.copy(), scene.copy()
    assert scene.of(first).run()
    scene.origin.layers.append(b"one more")
    scene.origin.asked.clear()
    assert scene.of(second).run()
    assert scene.origin.pulled == [digest_of(b"one more").hex]
    assert scene.rooms[1] == len(b"one more") + sum(map(len, scene.origin.layers))
    first.close()
    second.close()


def test_a_layer_that_is_there_twice_is_fetched_once(scene: Scene) -> None:
    scene.origin.layers = [LAYERS[0], LAYERS[1], LAYERS[0]]
    copy = scene.copy()
    assert scene.of(copy).run()
    assert content(copy) == b"image " + LAYERS[0] + LAYERS[1] + LAYERS[0]
    assert len(scene.origin.pulled) == len(scene.converter.indexed) == 2
    copy.close()


def test_an_image_without_layers_is_one(scene: Scene) -> None:
    scene.origin.layers = []
    copy = scene.copy()
    assert scene.of(copy).run()
    assert content(copy) == b"image "
    copy.close()


def test_what_was_converted_before_is_found(scene: Scene) -> None:
    copy = scene.copy()
    assert scene.of(copy).run()
    image = image_of(copy.digest())
    scene.memory.staged[image.digest.hex] = image
    again = scene.copy()
    it = scene.of(again)
    assert it.run() is False
    assert it.image is image
    assert it.version == Validators(str(scene.origin.of().top), "", image.size)
    assert scene.converter.written == 1
    other = scene.of(again, converter=FakeConverter(parameters="fake 2"))
    assert other.run(), "made in another way it is another image"
    copy.close()
    again.close()


def test_a_copy_that_was_made_and_not_published_is_not_made_again(scene: Scene) -> None:
    copy = scene.copy()
    assert scene.of(copy).run()
    copy.close()
    again = Partial(copy.folder)
    assert scene.of(again).run()
    assert scene.converter.written == 1
    scene.origin.layers = LAYERS[:1]
    assert scene.of(again).run()
    assert content(again) == b"image " + LAYERS[0]
    again.close()


def test_a_pinned_job_gets_what_its_tag_has_meant(scene: Scene) -> None:
    past = FakeContainer(LAYERS[:2])
    scene.memory.pin = past.of().top
    scene.past[past.of().top.hex] = past
    copy = scene.copy()
    assert scene.of(copy).run()
    assert content(copy) == b"image " + LAYERS[0] + LAYERS[1]
    assert scene.origin.resolved == []
    copy.close()


def test_what_a_registry_has_no_longer_is_asked_for_by_its_tag(scene: Scene) -> None:
    class Gone(FakeContainer):
        def manifest(self, unless: str = "") -> Manifest | None:
            raise NotFound("no such manifest")

    scene.memory.pin = digest_of(b"past")
    scene.past[digest_of(b"past").hex] = Gone([])
    copy = scene.copy()
    assert scene.of(copy).run()
    assert content(copy) == b"image " + b"".join(LAYERS)
    copy.close()


def test_a_break_costs_no_byte(scene: Scene) -> None:
    scene.origin.breaks = {BASE: [100, 100]}
    copy = scene.copy()
    assert scene.of(copy).run()
    assert [start for key, start in scene.origin.asked if key == BASE] == [0, 100, 200]
    assert set(scene.waits) == {"the stream broke"}
    copy.close()


def test_what_keeps_all_layers_waiting_is_said_once(scene: Scene) -> None:
    scene.origin.breaks = {digest_of(layer).hex: [0] for layer in LAYERS}
    copy = scene.copy()
    assert scene.of(copy, policy=RetryPolicy(base=0.001, cap=0.001, deadline=20, attempts=4)).run()
    assert scene.waits == ["the stream broke"]
    copy.close()


def test_what_came_survives_a_failure(scene: Scene) -> None:
    scene.origin.breaks = {BASE: [200, 0, 0, 0]}
    copy = scene.copy()
    with pytest.raises(OriginUnavailable, match="broke"):
        scene.of(copy).run()
    scene.origin.asked.clear()
    assert scene.of(copy).run()
    assert [start for key, start in scene.origin.asked if key == BASE] == [200]
    copy.close()


def test_one_wrong_answer_is_forgiven_and_two_are_not(scene: Scene) -> None:
    wrong = b"x" * len(LAYERS[0])
    scene.origin.lies = {BASE: [wrong]}
    copy = scene.copy()
    assert scene.of(copy).run()
    assert content(copy) == b"image " + b"".join(LAYERS)
    scene.origin.layers = [b"other" * 100]
    scene.origin.lies = {digest_of(b"other" * 100).hex: [b"o" * 500, b"o" * 500]}
    with pytest.raises(DigestMismatch, match=r"registry.test sent wrong bytes 2 times"):
        scene.of(copy).run()
    copy.close()


def _no_layer_of_ours(beginning: bytes) -> None:
    if beginning == b"x":
        raise DamagedImage("what begins with x is no layer")


def test_what_the_reader_finds_wrong_counts_only_if_the_bytes_are_right(scene: Scene) -> None:
    scene.converter.judge = _no_layer_of_ours
    scene.origin.lies = {BASE: [b"x" * len(LAYERS[0])]}
    copy = scene.copy()
    assert scene.of(copy).run()
    assert content(copy) == b"image " + b"".join(LAYERS)
    scene.origin.layers = [b"x and nothing else"]
    with pytest.raises(DamagedImage, match="begins with x"):
        scene.of(copy).run()
    copy.close()


def test_a_layer_that_rotted_in_the_cache_is_fetched_again(scene: Scene) -> None:
    scene.converter.judge = _no_layer_of_ours
    first, second = scene.copy(), scene.copy()
    assert scene.of(first).run()
    path = Blobs(Layout(scene.root)).find(digest_of(LAYERS[0]), len(LAYERS[0]))
    assert path is not None
    with open(path, "r+b") as file:
        file.write(b"x")
    scene.origin.asked.clear()
    assert scene.of(second).run()
    assert content(second) == content(first)
    assert scene.origin.pulled == [BASE]
    first.close()
    second.close()


def test_a_layer_that_another_process_fetches_is_progress(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy, streams=1)
    scene.origin.layers = LAYERS[:1]
    seen: list[tuple[int, int]] = []
    other = Blobs(Layout(scene.root)).claim(digest_of(LAYERS[0]), len(LAYERS[0]))
    assert other is not None
    parts = [LAYERS[0][:100], LAYERS[0][100:]]

    def sleep(_seconds: float) -> None:
        seen.append(it.progress)
        if parts:
            other.append(parts.pop(0))
            if not parts:
                other.commit().close()

    scene.clock.sleep = sleep  # type: ignore[assignment, method-assign]
    assert it.run()
    assert [done for done, _ in seen] == [0, 100]
    assert scene.origin.pulled == []
    copy.close()


def test_giving_it_up_while_the_configuration_comes_keeps_all_layers_away(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy)
    configuration = digest_of(scene.origin.config)
    scene.origin.before = lambda layer: it.cancel() if layer.digest == configuration else None
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        it.run()
    assert caught.value.errno == errno.ECANCELED
    assert scene.origin.pulled == []
    copy.close()


@pytest.mark.parametrize("lie", [b"", b"longer than the manifest says" * 30])
def test_lies_about_a_size_are_noticed(scene: Scene, lie: bytes) -> None:
    scene.origin.lies = {BASE: [lie] * 4}
    copy = scene.copy()
    with pytest.raises((DigestMismatch, OriginUnavailable)):
        scene.of(copy).run()
    assert copy.held == 0
    copy.close()


def test_a_layer_that_is_refused_ends_the_pull(scene: Scene) -> None:
    refusal = ImageRefused("a bomb")
    scene.converter.refuse = {BASE: refusal}
    held = threading.Event()

    def wait(layer: Descriptor) -> None:
        if layer.digest == digest_of(LAYERS[1]):
            held.wait(20)

    scene.origin.before = wait
    scene.origin.layers = LAYERS[:2]
    copy = scene.copy()
    it = scene.of(copy)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            it.run()
        except StageImageError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    # The other layer's origin never answers of itself: it is let go by the refusal alone.
    while it._pulling is None or not it._pulling._cancelled.wait(0.01):
        assert thread.is_alive()
    held.set()
    thread.join(20)
    assert errors == [refusal]
    assert copy.held == 0
    copy.close()


def test_it_can_be_given_up_while_layers_come(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy)
    scene.origin.before = lambda _layer: it.cancel()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        it.run()
    assert caught.value.errno == errno.ECANCELED
    assert copy.held == 0
    copy.close()


def test_what_giving_up_did_to_a_stream_is_not_told_as_a_failure_of_the_origin(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy, streams=1)

    def hang_up(blob: Descriptor) -> None:
        if blob.size > 300:  # a layer, not the configuration
            it.cancel()
            raise OriginUnavailable("the transfer from registry.test was given up")

    scene.origin.before = hang_up
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        it.run()
    assert caught.value.errno == errno.ECANCELED
    assert scene.waits == []
    copy.close()


def test_it_can_be_given_up_while_it_is_converted(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy)
    scene.converter.during = it.cancel
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        it.run()
    assert caught.value.errno == errno.ECANCELED
    assert scene.left == []
    copy.close()


def test_a_private_image_is_told_of_before_any_layer_comes(scene: Scene) -> None:
    scene.origin.private = True
    copy = scene.copy()

    def refuse(private: bool, /) -> None:
        if private:
            raise ClusterUnavailable("private")

    with pytest.raises(ClusterUnavailable):
        scene.of(copy, on_resolved=refuse).run()
    assert scene.origin.asked == []
    assert scene.of(copy).run()
    assert copy.private
    copy.close()


def test_without_room_nothing_comes(scene: Scene) -> None:
    def full(size: int, /) -> None:
        raise NoSpace(f"{size} bytes")

    copy = scene.copy()
    with pytest.raises(NoSpace):
        scene.of(copy, room=full).run()
    assert scene.origin.pulled == []
    copy.close()


def test_a_configuration_that_counts_other_layers_is_refused(scene: Scene) -> None:
    scene.origin.config = b'{"rootfs": {"diff_ids": ["sha256:0"]}}'
    copy = scene.copy()
    with pytest.raises(NotAnImage, match="5 layers, and its configuration knows 1"):
        scene.of(copy).run()
    copy.close()


@pytest.mark.parametrize(("says", "fits"), [("amd64", True), ("arm64", False), ("", True)])
def test_an_image_for_another_machine_is_not_taken_for_ours(scene: Scene, says: str, fits: bool) -> None:
    scene.origin.config = f'{{"os": "linux", "architecture": "{says}"}}'.encode() if says else b"{}"
    copy = scene.copy()
    if fits:
        assert scene.of(copy).run()
    else:
        with pytest.raises(NotFound, match="one for linux/arm64, and linux/amd64 is wanted"):
            scene.of(copy).run()
        assert scene.origin.pulled == []
    copy.close()


def test_what_was_converted_for_one_machine_is_not_taken_for_another(scene: Scene) -> None:
    scene.origin.config = b'{"os": "linux", "architecture": "amd64"}'
    copy = scene.copy()
    assert scene.of(copy).run()
    image = image_of(copy.digest())
    scene.memory.staged[image.digest.hex] = image
    copy.close()
    again = scene.copy()
    assert not scene.of(again).run(), "it is known for the one that it was made for"
    with pytest.raises(NotFound, match="one for linux/amd64, and linux/arm64 is wanted"):
        scene.of(again, platform=Platform("linux", "arm64")).run()
    again.close()


def test_the_phases_are_told(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy, streams=1)
    seen: list[tuple[str, tuple[int, int]]] = [(it.phase, it.progress)]
    scene.origin.before = lambda _layer: seen.append((it.phase, it.progress))
    scene.converter.during = lambda: seen.append((it.phase, it.progress))
    assert it.run()
    total = sum(map(len, LAYERS))
    assert seen[0] == seen[1] == ("resolving", (0, 0)), "the configuration is a part of what is resolved"
    pulling = [f"pulling {number}/{len(LAYERS)} layers of" for number in range(len(LAYERS))]
    assert [phase for phase, _ in seen[2:]] == [*pulling, "converting"]
    done = [progress[0] for phase, progress in seen[2:] if phase in pulling]
    assert done == [sum(map(len, LAYERS[:number])) for number in range(len(LAYERS))]
    assert {progress[1] for phase, progress in seen if phase in pulling} == {total}
    assert it.progress == (len(LAYERS), len(LAYERS))
    copy.close()


def test_what_is_read_and_still_to_be_written_is_progress(scene: Scene) -> None:
    copy = scene.copy()
    it = scene.of(copy)
    seen: list[tuple[int, int]] = []

    class Slow(FakeConverter):
        def write(self, *args: Any, **how: Any) -> None:  # noqa: ANN401
            how["progress"](10, 20)
            seen.append(it.progress)
            for size in (6, 12):
                with open(args[2], "wb") as out:
                    out.truncate(size)
                seen.append(it.progress)
            os.unlink(args[2])
            super().write(*args, **how)

    it.converter = Slow()
    assert it.run()
    assert seen == [(10, 20), (16, 32), (22, 44)]
    copy.close()


def test_a_pause_that_a_registry_asks_for_ends_when_it_is_given_up(scene: Scene) -> None:
    copy = scene.copy()
    scene.origin.layers = LAYERS[:1]
    scene.origin.breaks = {BASE: [0, 0, 0]}
    it = scene.of(copy, policy=RetryPolicy(base=900, cap=900, deadline=9000))
    it.on_wait = lambda _error, _seconds: it.cancel()
    begun = scene.clock.now()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        it.run()
    assert caught.value.errno == errno.ECANCELED
    assert scene.clock.now() - begun < 2
    copy.close()
