"""One node's part in a staging of the cluster: it does what the coordinator says, and tells how far it is.

    join ──▶ answer: who feeds me ──▶ fetch ──▶ report ──▶ answer …  ──▶ all is here ──▶ serve until dismissed

The coordinator may go: bytes go on flowing from whoever sends them while another one is found.
"""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from stager import errors, orders
from stager.errors import ClusterUnavailable, OriginStalled, StageImageError
from stager.interfaces import PeerLost
from stager.orders import NotUnderstood, Orders

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.interfaces import Message
    from stager.load import Load
    from stager.seat import Seat

LONGEST_LOOK = 10.0
"""Seconds between two steps that count as waiting: an interval, and a question that is not answered."""

LOOK_SECONDS = 0.05
"""Between two looks whether the upstream is still there."""

COORDINATOR_SECONDS = 0.7
"""Between two looks for a coordinator, on average: several of a thousand nodes' looks fit into each of ZooKeeper's
milliseconds."""

FIRST_SECONDS = 0.05
"""Before the second look of who never joined, twice as much before each later one: whoever was found may have claimed
the seat just now, and not sit there yet."""


class Member:
    """A thread that talks with the coordinator. `patience`: seconds without a coordinator, or without a byte.

    `who` is what the coordinator is told of us: node, host, scope, order. `say` is told what keeps the bytes from
    coming.
    """

    def __init__(  # noqa: PLR0913 - whom, what, as whom, how long
        self,
        seat: Seat,
        load: Load,
        who: Message,
        *,
        clock: Clock,
        say: Callable[[str], None],
        patience: float,
        stall: float,
    ) -> None:
        self._seat = seat
        self._load = load
        self._who = who
        self._clock = clock
        self._say = say
        self._told = ""
        self._patience = patience
        self._stall = stall
        self._joined = False
        self._first = FIRST_SECONDS
        self._end = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="member", daemon=True)
        self._interval = 0.2
        self._looked = clock.now()
        self._alone = 0.0
        self._still: tuple[int, float] = (-1, 0.0)
        self.error: StageImageError | None = None
        self.state = "waiting"
        self.ready = self.nodes = 0
        self.dismissed = self.doubted = False
        self._era = seat.era
        self.awaits_others = False

    def start(self) -> None:
        """Begin to take part."""
        self._thread.start()

    def outcome(self, seconds: float) -> bool:
        """Wait up to `seconds` for all bytes; whether there is an outcome. Raises what kept them from coming."""
        if not self._settled.wait(seconds):
            return False
        if self.error is not None:
            raise self.error
        return True

    @property
    def load(self) -> Load:
        """This node's bytes."""
        return self._load

    @property
    def active(self) -> bool:
        """Whether it still takes part."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Leave the others, who will get their bytes elsewhere."""
        self._end.set()
        self._load.wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._end.is_set() and not self.dismissed and self.error is None:
                self._step()
                self._pause()
        except StageImageError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a thread's traceback is seen by nobody
            self.error = StageImageError(f"a bug in the relay: {type(error).__name__}: {error}")
        finally:
            self._load.halt()
            with suppress(PeerLost, ClusterUnavailable):
                self._seat.ask("leave", {"node": self._who["node"]})
            self._settled.set()

    def _pause(self) -> None:
        until, told = self._clock.now() + self._interval, self._load.has_news
        while (left := until - self._clock.now()) > 0 and not self._load.wake.wait(min(left, LOOK_SECONDS)):
            if self._load.has_news and not told:
                break
        self._load.wake.clear()

    def _step(self) -> None:
        # A job that was suspended and resumed has not been waiting meanwhile, and the clock goes on.
        now = self._clock.now()
        passed, self._looked = min(now - self._looked, LONGEST_LOOK), now
        try:
            answer = self._converse()
        except (PeerLost, ClusterUnavailable) as error:
            self._joined = False
            self._go_on_without(error, passed)
        else:
            self._obey(answer)
            self._alone, self._first = 0.0, COORDINATOR_SECONDS
        if not self._settled.is_set():
            self._check_progress(passed)

    def _converse(self) -> Orders:
        if self._joined:
            return self._ask("report", {**self._load.report(), "node": self._who["node"], "state": self._state()})
        self._seat.take()
        if self._era != self._seat.era:
            self._era = self._seat.era
            if self._load.complete and not self.awaits_others:
                self.dismissed = True  # newcomers, who found nobody, begin anew; our records are nothing to them
                return Orders(unknown=True)
            if not self._load.complete:
                self._load.renew()
        told = self._ask("join", {**self._who, **self._load.introduction(), "state": self._state()})
        if told.unknown:
            raise PeerLost("it does not understand us")
        self._joined = True
        return told

    def _ask(self, verb: str, message: Message) -> Orders:
        try:
            return orders.read(self._seat.ask(verb, message))
        except NotUnderstood as error:
            raise PeerLost(f"it says what we do not understand: {error}") from error

    def _state(self) -> str:
        if self._settled.is_set() and (self._load.offering.whole or not self._load.serves):
            return self.state
        return "receiving" if self._load.busy else "waiting"

    def _obey(self, told: Orders) -> None:
        if told.unknown:
            self._joined = False
            return
        self._interval = told.interval
        self.ready, self.nodes, self.doubted = told.ready, told.nodes, told.doubted
        if told.error is not None and not self._settled.is_set():
            raise error_of(told.error)
        if told.elsewhere:
            self._go_elsewhere()
            return
        if told.closed and self._seat.taken:
            self._seat.close_door()
        self._tell_of(told.trouble)
        self._load.follow(told)
        if told.kind == "origin" and self._seat.beyond_doubt:
            self._load.confirmed = monotonic()
        # Nothing can begin before it is known which image it is, and nothing end before it is known what it has to be.
        if not told.version or (self._load.offering.whole and not self._load.complete):
            self._interval /= 4
        if told.digest is not None and self._seat.taken:
            self._seat.publish(told.digest)
        done = self._state() == "done"
        self.dismissed = done and not self.awaits_others and (told.dismissed or not self._load.serves)
        if self._load.complete and not self._settled.is_set():
            self.state = "verifying"
            self._settled.set()

    def _tell_of(self, trouble: str) -> None:
        if trouble and trouble != self._told and not self._load.fetches_from_origin:
            self._say(trouble)
        self._told = trouble

    def _go_elsewhere(self) -> None:
        """These members have another image than our job means: found a staging of our own, or find one."""
        with suppress(PeerLost):
            self._seat.ask("leave", {"node": self._who["node"]})
        self._seat.forget()
        self._load.forget()
        self._joined = False

    def _go_on_without(self, error: Exception, passed: float) -> None:
        self._alone = 0.0 if self._load.moving else self._alone + passed
        lasting = isinstance(error, ClusterUnavailable) and not error.retryable and not self._load.offset
        if lasting or self._alone > self._patience:
            if isinstance(error, ClusterUnavailable):
                raise error
            raise ClusterUnavailable(f"the staging has no coordinator that answers ({error})")
        # Jitter: the nodes that lost their coordinator at the same moment shall not all look for it at the same one.
        self._interval = self._first * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        self._first = min(2 * self._first, COORDINATOR_SECONDS)

    def _check_progress(self, passed: float) -> None:
        held, before = self._load.progress[0], self._still
        # Whoever asks the origin has bounds of its own, and says more when they pass.
        moved = held != before[0] or self._load.fetches_from_origin
        self._still = (held, 0.0 if moved else before[1] + passed)
        if self._still[1] > self._stall:
            raise OriginStalled(f"no other node sent a byte for {self._stall:.0f} s")


def error_of(record: Message) -> StageImageError:
    """Return the error that another node met."""
    code, message, hint = record.get("code"), str(record.get("message", "")), str(record.get("hint", ""))
    kinds = [kind for kind in _kinds(StageImageError) if kind.exit_code == code]
    return (kinds[0] if kinds else errors.OriginUnavailable)(message, hint=hint)


def _kinds(kind: type[StageImageError]) -> list[type[StageImageError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _kinds(child))]
