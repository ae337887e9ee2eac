"""Saying what is going on, on stderr: lines by default, a bar on a terminal."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.interfaces import Teller

LINE_SECONDS = 10.0


class LineTeller:
    """Lines, at most one every 10 s while something moves. `quiet`: only what matters, where another rank speaks."""

    def __init__(self, subject: str, *, quiet: bool = False) -> None:
        self._subject = subject
        self._quiet = quiet
        self._last = time.monotonic()
        self._rate: tuple[float, int] | None = None
        self._word = ""

    def say(self, text: str) -> None:
        """Write one line."""
        write_line(text)

    def waiting(self, pid: int, since: float) -> None:
        """Name the leader."""
        if not self._quiet:
            begun = time.strftime("%H:%M:%S", time.localtime(since))
            self.say(f"waiting for {self._subject}: pid {pid} on {_host()} has been fetching it since {begun}")

    def progress(self, phase: str, done: int, total: int) -> None:
        """Write a line if 10 s have passed since the last."""
        now = time.monotonic()
        word = phase.partition(" ")[0]
        if self._rate is None or word != self._word:  # what was done before goes at another rate
            self._word = word
            self._rate = (now, done)
        if self._quiet or now - self._last < LINE_SECONDS:
            return
        self._last = now
        how_far = f": {describe(done, total, self._speed(now, done))}" if done or total else ""
        self.say(f"{phase} {self._subject}{how_far}")

    def close(self) -> None:
        """Nothing is left on the terminal."""

    def _speed(self, now: float, done: int) -> float:
        since, before = self._rate or (now, done)
        return max(0.0, (done - before) / (now - since)) if now > since else 0.0


def write_line(text: str) -> None:
    """Write a line to stderr. Telling never fails: a closed or full stderr is no reason to lose an image."""
    try:
        sys.stderr.write(f"stage-image: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def describe(done: int, total: int, speed: float) -> str:
    """Return how far it is for people: bytes, share, rate and the time that is left."""
    parts = [f"{_size(done)} of {_size(total)} ({100 * done // total} %)" if total else _size(done)]
    if speed > 0:
        parts.append(f"{_size(speed)}/s")
    if speed > 0 and total > done:
        parts.append(f"about {_span((total - done) / speed)} left")
    return ", ".join(parts)


def teller(subject: str, mode: str = "auto", *, quiet: bool = False) -> Teller:
    """Return who speaks: `bar`, `lines` or `none`; `auto` is a bar on a terminal."""
    wants_bar = mode == "bar" or (mode == "auto" and not quiet and sys.stderr.isatty())
    if wants_bar:
        from stager.progress_bar import BarTeller

        return BarTeller(subject)
    return LineTeller(subject, quiet=quiet or mode == "none")


def _host() -> str:
    from os import uname

    return uname().nodename


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
