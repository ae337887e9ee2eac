"""Laws of what is made of an origin's answers, however it lies."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from hypothesis import assume, given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from stager.errors import OriginUnavailable
from stager.sources import headers as said
from stager.sources.answers import Asked, Delivery, Outcome, judge
from stager.sources.failures import host_of, location_of
from stager.sources.gzipped import LARGEST, gunzip
from stager.sources.mirrors import MirroredSource, RecentFailures
from tests.property.strategies import hostile_text
from tests.support.effort import effort
from tests.support.fake_clock import FakeClock
from tests.support.fake_source import FakeSource
from tests.support.faults import Fault, Request, Resource, answer

if TYPE_CHECKING:
    from stager.interfaces import Stream

printable = st.text([chr(c) for c in range(32, 127)], max_size=60)
# Not by from_regex, which takes milliseconds for each.
_counts = st.text("0123456789*", max_size=25)
near_range = st.builds(
    "bytes {}{}{}/{}".format, _counts, st.sampled_from(["-", ""]), st.text("0123456789", max_size=25), _counts
)
_digits = st.text("0123456789٣५", min_size=12, max_size=12)  # int() takes other scripts' digits too
near_date = st.builds(
    lambda day, month, d: f"{day}, {d[:2]} {month} {d[2:6]} {d[6:8]}:{d[8:10]}:{d[10:]} GMT",
    *(st.sampled_from(["Mon", "Sun", "Xyz"]), st.sampled_from(["Jan", "Feb", "Nov", "Xyz"]), _digits),
)


@given(near_range | hostile_text)
@effort(25)
def test_content_range_is_sound_or_nothing(text: str) -> None:
    part = said.content_range(text)
    if part is not None:
        assert 0 <= part.start < part.end
        assert part.size is None or part.end <= part.size
        assert said.unsatisfied_size(text) is None


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.integers(0, 10**12))
@effort(25)
def test_content_range_roundtrip(start: int, length: int, rest: int) -> None:
    end, size = start + length, start + length + rest
    assert said.content_range(f"bytes {start}-{end - 1}/{size}") == (start, end, size)


@given(st.integers(0, 10**30).map(str) | near_date | hostile_text, near_date | hostile_text, st.floats(0, 1e11))
@effort(25)
def test_retry_after_is_bounded(value: str, date: str, now: float) -> None:
    seconds = said.retry_after({"Retry-After": value, "Date": date}, now)
    assert seconds is None or 0 <= seconds <= said.LONGEST_WAIT


@given(hostile_text | printable.map('"{}"'.format), near_date | hostile_text)
@effort(25)
def test_validators_can_be_sent_back(etag: str, modified: str) -> None:
    version = said.validators({"ETag": etag, "Last-Modified": modified}, None)
    for text in (version.etag, version.modified):
        assert text.isascii()
        assert text.isprintable()
    again = said.validators({"ETag": version.etag, "Last-Modified": version.modified}, None)
    assert again == version


names = st.sampled_from(
    [
        *("Content-Length", "Content-Range", "Content-Encoding", "Transfer-Encoding", "ETag", "Last-Modified"),
        *("Accept-Ranges", "Date"),
    ]
)
values = near_range | near_date | hostile_text | st.sampled_from(["gzip", "bytes", '"a"', 'W/"a"', "100", "-1"])
positions = st.integers(0, 120)
versions = st.builds(
    lambda etag, modified, size: said.validators({"ETag": etag, "Last-Modified": modified}, size),
    *(st.sampled_from(["", '"a"', 'W/"a"']), st.just("") | near_date, st.none() | positions),
)
asked_for = st.builds(
    Asked, positions, st.none() | st.integers(121, 200), st.none() | versions, st.none() | versions, st.booleans()
)


def judged(asked: Asked, status: int, headers: dict[str, str]) -> Delivery | Outcome | OriginUnavailable:
    try:
        return judge(asked, status, CaseInsensitiveDict(headers))
    except OriginUnavailable as error:
        return error


@given(asked_for, st.sampled_from([200, 204, 206, 304, 416]), st.dictionaries(names, values, max_size=6))
@effort(25)
def test_any_answer_is_sound_or_refused(asked: Asked, status: int, headers: dict[str, str]) -> None:
    delivery = judged(asked, status, headers)
    if not isinstance(delivery, Delivery):
        assert not isinstance(delivery, OriginUnavailable) or not delivery.retryable
        return
    assert delivery.offset in (0, asked.start)
    if delivery.stop is not None:
        assert delivery.offset <= delivery.stop
        assert delivery.stop <= min(end for end in (asked.end, delivery.size, 10**18) if end is not None)
    assert not (delivery.gzipped and (delivery.ranges or delivery.size is not None or delivery.offset))


def ask(asked: Asked, resource: Resource, fault: Fault) -> tuple[Delivery, bytes] | None:
    """Play HttpSource.open, without a network, against what the test origin would answer."""
    for question in (asked, asked.anew()):
        headers = {name.lower(): value for name, value in question.headers().items()}
        reply = answer(Request("GET", "/x", headers, 1), resource, fault)
        said_length = {"Content-Length": str(reply.end - reply.start)}
        delivery = judge(question, reply.status, CaseInsensitiveDict({**said_length, **reply.headers}))
        if isinstance(delivery, Delivery):
            assert delivery.stop is not None
            body = reply.body.read(reply.start, reply.end)
            return delivery, body[: delivery.stop - delivery.offset]
        if delivery is Outcome.UNCHANGED:
            return None
    raise AssertionError("starting over must not end in starting over")


faults = st.builds(
    Fault,
    ranges=st.booleans(),
    if_range=st.booleans(),
    etag=st.sampled_from(["strong", "weak", "none"]),
    dated=st.booleans(),
    content_range=st.none() | st.just("") | near_range,
)
bodies = st.binary(min_size=1, max_size=40)


@given(bodies, bodies, faults, st.data())
@effort(25)
def test_bytes_of_two_versions_are_never_joined(old: bytes, new: bytes, fault: Fault, data: st.DataObject) -> None:
    # Nobody could tell two versions apart by a date alone, if it is the same.
    assume(fault.etag != "none" or old == new)
    honest = Fault(etag=fault.etag, dated=fault.dated)
    first = ask(Asked(), Resource(old), honest)
    assert first is not None
    version = first[0].validators
    assume(version)
    start = data.draw(st.integers(0, len(old)))
    end = data.draw(st.none() | st.integers(start + 1, 50))
    second = ask(Asked(start, end, version), Resource(new), fault)
    assert second is not None
    delivery, body = second
    whole = old[: delivery.offset] + body
    assert whole == new[: min(len(new), end or len(new))]


@given(bodies, faults, st.booleans())
@effort(25)
def test_what_is_unchanged_is_not_sent_again(body: bytes, fault: Fault, changed: bool) -> None:
    first = ask(Asked(), Resource(body), fault)
    assert first is not None
    assume(fault.etag != "none")
    again = ask(Asked(unless=first[0].validators), Resource(body + b"!" * changed), fault)
    assert (again is None) is not changed


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.integers(1, 30))
@effort(25)
def test_gunzip_undoes_gzip_however_it_is_cut(members: list[bytes], step: int) -> None:
    packed = b"".join(gzip.compress(member) for member in members)
    # Beyond LARGEST, so that pieces of output and of input end at all sorts of places.
    members.append(bytes(LARGEST + step))
    packed += gzip.compress(members[-1])
    pieces = [packed[i : i + step] for i in range(0, len(packed), step)]
    plain = list(gunzip(pieces))
    assert b"".join(plain) == b"".join(members)
    assert all(0 < len(piece) <= LARGEST for piece in plain)


secrets = st.text("XYZ", min_size=3, max_size=5)


@given(printable, secrets, secrets)
@effort(25)
def test_messages_hold_no_secrets(path: str, password: str, signature: str) -> None:
    path = path.replace("?", "").replace("#", "").replace("X", "").replace("Y", "").replace("Z", "")
    url = f"https://user:{password}@host/{path}?signature={signature}#{signature}"
    for shown in (host_of(url), location_of(url)):
        assert password not in shown
        assert signature not in shown
        assert "\n" not in shown
    assert host_of(url) == "host"


hosts = st.lists(st.text(" at:x", min_size=1, max_size=8), min_size=3, max_size=3, unique=True)


@given(st.integers(0, 2), st.integers(0, 2), hosts, st.integers(1, 5))
@effort(25)
def test_a_version_means_something_to_its_own_mirror_only(owner: int, asked: int, names: list[str], start: int) -> None:
    sources = [FakeSource(name, b"0123456789") for name in names]
    streams: list[Stream] = []
    for alone in (owner, asked):
        for index, source in enumerate(sources):
            source.fails = None if index == alone else OriginUnavailable("away")
        known = streams[0].validators if streams else None
        stream = MirroredSource(sources, RecentFailures(FakeClock())).open(start, if_range=known)
        assert stream is not None
        streams.append(stream)
    assert streams[1].offset == (start if asked == owner else 0)
    assert (streams[1].validators == streams[0].validators) == (asked == owner)
