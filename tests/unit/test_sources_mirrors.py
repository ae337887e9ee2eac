from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stager.errors import AccessDenied, NotFound, OriginStalled, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.sources.mirrors import FORGET_AFTER, MirroredSource, RecentFailures
from tests.support.fake_clock import FakeClock
from tests.support.fake_source import FakeSource

if TYPE_CHECKING:
    from stager.interfaces import Stream

BODY = b"hsqs0123456789"


def mirrored(*sources: FakeSource, clock: FakeClock | None = None) -> MirroredSource:
    return MirroredSource(sources, RecentFailures(clock or FakeClock()))


def opened(stream: Stream | None) -> Stream:
    assert stream is not None
    return stream


def read(stream: Stream | None) -> bytes:
    return b"".join(opened(stream).chunks())


def test_the_first_that_works_is_taken() -> None:
    down = FakeSource("down", fails=OriginUnavailable("down is away"))
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    assert read(mirrored(down, near, origin).open()) == BODY
    assert [len(source.asked) for source in (down, near, origin)] == [1, 1, 0]


def test_the_name_is_the_origins() -> None:
    assert mirrored(FakeSource("near"), FakeSource("origin")).name == "origin"


def test_a_failed_mirror_is_left_alone_for_a_while() -> None:
    clock = FakeClock()
    down, origin = FakeSource("down", BODY, fails=OriginUnavailable("away")), FakeSource("origin", BODY)
    source = mirrored(down, origin, clock=clock)
    for _ in range(3):
        source.open()
    assert len(down.asked) == 1
    clock.advance(FORGET_AFTER)
    source.open()
    assert len(down.asked) == 2


def test_a_mirror_without_the_image_has_not_failed() -> None:
    near, origin = FakeSource("near", fails=NotFound("none")), FakeSource("origin", BODY)
    source = mirrored(near, origin)
    source.open()
    source.open()
    assert len(near.asked) == 2


def test_failed_ones_are_the_last_resort() -> None:
    near, origin = FakeSource("near", BODY, fails=OriginUnavailable("away")), FakeSource("origin", BODY)
    source = mirrored(near, origin)
    source.open()
    near.fails, origin.fails = None, OriginUnavailable("away as well")
    assert read(source.open()) == BODY


def test_a_mirror_whose_stream_breaks_has_failed() -> None:
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    near.breaks = 6
    source = mirrored(near, origin)
    stream = opened(source.open())
    with pytest.raises(OriginUnavailable):
        list(stream.chunks())
    source.open()
    assert [len(near.asked), len(origin.asked)] == [1, 1]


def test_a_stream_that_we_end_has_not_failed() -> None:
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    source = mirrored(near, origin)
    stream = opened(source.open())
    chunks = stream.chunks()
    next(chunks)
    stream.close()
    with pytest.raises(OriginUnavailable):
        list(chunks)
    source.open()
    assert [len(near.asked), len(origin.asked)] == [2, 0]


def test_going_on_at_the_same_mirror() -> None:
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    version = opened(mirrored(near, origin).open()).validators
    # Another process, which knows of the first one only what it wrote down.
    stream = opened(mirrored(near, origin).open(5, 9, if_range=version))
    assert (stream.offset, b"".join(stream.chunks())) == (5, BODY[5:9])
    assert stream.validators == version
    assert near.asked[-1] == (5, 9, near.version, None)


def test_never_going_on_at_another_mirror_even_if_it_looks_the_same() -> None:
    near, far, origin = (FakeSource(name, BODY) for name in ("near", "far", "origin"))
    source = mirrored(near, far, origin)
    version = opened(source.open()).validators
    near.fails = far.fails = OriginUnavailable("away")
    stream = opened(source.open(5, if_range=version))
    assert stream.offset == 0
    assert [s.asked[-1] for s in (far, origin)] == [(0, None, None, None)] * 2


def test_the_mirror_that_sent_the_beginning_is_asked_first() -> None:
    near, far, origin = (FakeSource(name, BODY) for name in ("near", "far", "origin"))
    near.fails = OriginUnavailable("away")
    version = opened(mirrored(near, far, origin).open()).validators
    near.fails = None
    assert opened(mirrored(near, far, origin).open(5, if_range=version)).offset == 5
    assert len(near.asked) == 1


def test_the_origins_versions_are_its_own_words() -> None:
    near, origin = FakeSource("near", fails=NotFound("none")), FakeSource("origin", BODY)
    stream = opened(mirrored(near, origin).open())
    assert stream.validators == origin.version
    # So a configuration without mirrors, or with others, can go on with them.
    assert opened(origin.open(5, if_range=stream.validators)).offset == 5
    assert opened(mirrored(FakeSource("new", BODY), origin).open(5, if_range=stream.validators)).offset == 5


def test_a_mirrors_versions_are_unknown_to_the_origin_alone() -> None:
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    version = opened(mirrored(near, origin).open()).validators
    assert opened(origin.open(5, if_range=version)).offset == 0


def test_unchanged_at_the_mirror_that_said_so() -> None:
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    version = opened(mirrored(near, origin).open()).validators
    assert mirrored(near, origin).open(unless=version) is None
    near.fails = OriginUnavailable("away")
    assert read(mirrored(near, origin).open(unless=version)) == BODY


def test_without_a_version_the_risk_is_the_callers() -> None:
    near, origin = FakeSource("near", BODY), FakeSource("origin", BODY)
    assert opened(mirrored(near, origin).open(5)).offset == 5
    assert opened(mirrored(near, origin).open(5, if_range=Validators())).offset == 5


@pytest.mark.parametrize(
    ("errors", "kind", "retryable"),
    [
        ([NotFound("a"), NotFound("b")], NotFound, False),
        ([NotFound("a"), OriginUnavailable("b")], OriginUnavailable, True),
        ([OriginStalled("a"), NotFound("b")], OriginStalled, True),
        ([AccessDenied("a"), NotFound("b")], AccessDenied, False),
        ([AccessDenied("a"), OriginUnavailable("b")], AccessDenied, True),
    ],
)
def test_when_all_fail(errors: list[StageImageError], kind: type[StageImageError], *, retryable: bool) -> None:
    sources = [FakeSource(error.message, fails=error) for error in errors]
    with pytest.raises(kind) as caught:
        mirrored(*sources).open()
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert {"a", "b"} <= set(str(caught.value).split("; "))


def test_the_shortest_wait_of_those_who_may_come_back() -> None:
    errors = [OriginUnavailable("a", retry_after=60), OriginUnavailable("b", retry_after=5), NotFound("c")]
    with pytest.raises(OriginUnavailable) as caught:
        mirrored(*(FakeSource(error.message, fails=error) for error in errors)).open()
    assert caught.value.retry_after == 5
