"""What a store remembers besides images: what references meant, what jobs are pinned to, what failed, who leads.

All are small records that may vanish at any time at the price of a request: none is needed for correctness, but the
pin of a running job, which is written once and never changed.
"""

from __future__ import annotations

from stager import errors
from stager.process import ProcessIdentity, boot_id
from stager.reference import Digest
from stager.store import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.clock import Clock
    from stager.errors import StageImageError
    from stager.interfaces import Validators

SESSION_PIN = 60.0
"""Seconds for which a login session, where no job says when it ends, keeps what a reference meant: long enough that
tasks started together by hand cost the origin one request, short enough that nobody is kept from a new image."""

LONGEST_BACKOFF = 300.0

MIRROR_SECONDS = 300.0
"""For which a failed mirror is passed over: what CVMFS waits before it returns to a proxy group (its default.conf)."""

LARGEST_NUMBER = 1e12
"""Of any time in a record, in seconds: what is larger (or no number at all) would overflow localtime(3)."""

LOCAL = (errors.NoSpace, errors.StoreUnusable, errors.ConfigError)
"""Failures of this node, not of the origin."""


class Seen:
    """What a reference meant when its origin was last asked; `at` is on the clock of `boot`."""

    __slots__ = ("at", "boot", "digest", "etag", "modified", "size")

    def __init__(self, digest: Digest, *, etag: str, modified: str, size: int | None, at: float, boot: str) -> None:
        self.digest = digest
        self.etag = etag
        self.modified = modified
        self.size = size
        self.at = at
        self.boot = boot

    def since(self, moment: float) -> bool:
        """Whether the origin was asked at or after `moment` of this boot."""
        return self.boot == boot_id() and self.at >= moment


def read_seen(path: str) -> Seen | None:
    """Return what was seen of a reference, or None."""
    record = files.read_record(path)
    digest = _digest(record)
    if record is None or digest is None:
        return None
    known = files.whole_number(record["size"]) if record.get("size") else None
    return Seen(
        digest,
        etag=record.get("etag", ""),
        modified=record.get("modified", ""),
        size=known,
        at=_number(record, "at"),
        boot=record.get("boot", ""),
    )


def write_seen(path: str, reference: str, digest: Digest, *, validators: Validators, at: float) -> None:
    """Remember that the origin, asked at `at`, has the image `digest` with these validators."""
    record = {"digest": str(digest), "reference": reference, "at": repr(at), "boot": boot_id()}
    record |= {"etag": validators.etag, "modified": validators.modified}
    record["size"] = "" if validators.size is None else str(validators.size)
    files.write_record(path, record, 0o644)


def read_pin(path: str, now: float) -> Digest | None:
    """Return the digest that a job is pinned to, or None; `now` in seconds since boot."""
    record = files.read_record(path)
    digest = _digest(record)
    if record is None or digest is None:
        return None
    if "until" in record and (record.get("boot") != boot_id() or now >= _number(record, "until")):
        return None
    return digest


def pin_end(path: str) -> float:
    """Return when a session's pin ends, in seconds since boot; infinity for none, and for a job's."""
    record = files.read_record(path)
    return _number(record, "until") if record and "until" in record else float("inf")


def write_pin(path: str, digest: Digest, *, until: float | None, now: float) -> Digest:
    """Pin a job, for ever or `until` seconds since boot; return what it is pinned to: the first digest wins."""
    record = {"digest": str(digest)}
    if until is not None:
        record |= {"until": repr(until), "boot": boot_id()}
    text = "".join(f"{key} {value}\n" for key, value in record.items())
    if files.create_text(path, text, 0o600):
        return digest
    pinned = read_pin(path, now)
    if pinned is None:
        files.write_text(path, text, 0o600)
    return pinned or digest


def write_failure(path: str, error: StageImageError, clock: Clock, backoff: float) -> None:
    """Remember a failure, and until when it stands: `backoff` seconds, doubled for each one in a row."""
    from time import localtime, strftime

    before = files.read_record(path) or {}
    count = files.whole_number(before.get("count")) + 1 if before.get("boot") == boot_id() else 1
    wait = max(min(backoff * 2 ** min(count - 1, 16), LONGEST_BACKOFF), min(error.retry_after or 0, LONGEST_BACKOFF))
    again = strftime("%H:%M:%S", localtime(clock.wall() + wait))
    record = {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint if isinstance(error, LOCAL) else f"{error.hint}; or wait until {again}, or use --retry",
        "count": str(count),
        "until": repr(clock.now() + wait),
        "at": repr(clock.now()),
        "boot": boot_id(),
    }
    files.write_record(path, record, 0o600)


def read_failure(path: str, now: float, *, begun: float, since: float = 0.0) -> StageImageError | None:
    """Return the failure that still stands `now` (seconds since boot), as an error, or None.

    `since`: believe failures from that moment on. A failure of this node, like a full disk, which its user may have
    mended meanwhile, stands for those only who began before it, at `begun`. The words are those of the record, so that
    all tasks of a job say the same.
    """
    record = files.read_record(path)
    if record is None or record.get("boot") != boot_id():
        return None
    remaining = _number(record, "until") - now
    kind = _error_class(record.get("error", ""))
    since = max(since, begun) if issubclass(kind, LOCAL) else since
    if not 0 < remaining <= LONGEST_BACKOFF or _number(record, "at") < since:
        return None
    return kind(record.get("message", ""), hint=record.get("hint", ""))


class MirrorFailures:
    """Which mirrors failed within MIRROR_SECONDS, for all processes of a store. `folder`: where failures are kept."""

    def __init__(self, folder: str, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def failed(self, name: str) -> bool:
        """Whether the mirror is not worth asking now."""
        record = files.read_record(self._path(name)) or {}
        remaining = _number(record, "until") - self._clock.now()
        return record.get("boot") == boot_id() and 0 < remaining <= MIRROR_SECONDS

    def remember(self, name: str) -> None:
        """Remember that the mirror failed just now; what it failed with is worth more than a record of it."""
        until = self._clock.now() + MIRROR_SECONDS
        try:
            files.write_record(self._path(name), {"until": repr(until), "boot": boot_id(), "mirror": name}, 0o600)
        except OSError:
            return

    def _path(self, name: str) -> str:
        from hashlib import sha256

        return f"{self._folder}/mirror.{sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"


class LeaderNote:
    """Who leads a staging, and how far it is: for the eyes of followers, never for correctness.

    `turn` counts leaders that were passed over because they lived but no longer moved. `beat` changes at least every
    second while the leader runs.
    """

    __slots__ = ("beat", "done", "holder", "phase", "since", "total", "turn")

    def __init__(self, holder: ProcessIdentity, since: float, turn: int = 0) -> None:
        self.holder = holder
        self.since = since
        self.turn = turn
        self.phase = "starting"
        self.done = 0
        self.total = 0
        self.beat = 0

    def record(self) -> dict[str, str]:
        """Return the lines to write."""
        return {name: str(getattr(self, name)) for name in self.__slots__}

    def text(self) -> str:
        """Return the file's content."""
        return "".join(f"{key} {value}\n" for key, value in self.record().items())


def read_leader(path: str) -> LeaderNote | None:
    """Return the note that a leader left, living or dead, or None."""
    record = files.read_record(path)
    holder = ProcessIdentity.parse(record.get("holder", "")) if record else None
    if record is None or holder is None:
        return None
    note = LeaderNote(holder, _number(record, "since"), files.whole_number(record.get("turn")))
    note.phase = record.get("phase", "")
    note.done, note.total, note.beat = (files.whole_number(record.get(name)) for name in ("done", "total", "beat"))
    return note


def _error_class(name: str) -> type[StageImageError]:
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, errors.StageImageError) else errors.OriginUnavailable


def _digest(record: dict[str, str] | None) -> Digest | None:
    text = record.get("digest", "") if record else ""
    return Digest(text) if len(text) == 71 and text.startswith("sha256:") and _is_hex(text[7:]) else None


def _is_hex(text: str) -> bool:
    return not set(text) - set("0123456789abcdef")


def _number(record: dict[str, str], name: str) -> float:
    try:
        value = float(record.get(name, "0"))
    except ValueError:
        return 0.0
    return value if abs(value) < LARGEST_NUMBER else 0.0
