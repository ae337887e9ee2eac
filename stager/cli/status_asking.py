"""Asking how stagings stand: ZooKeeper for the coordinators, and all of these at once."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from stager import standing
from stager.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.interfaces import Message

SECONDS = 3.0
"""For all coordinators together. They answer in some milliseconds, unless their node is gone or starts 128 tasks."""

MOST = 1000
"""Coordinators that are asked at a time: a thread for each, for up to SECONDS."""

_STAGING = re.compile(r"[0-9a-f]{32}")

SILENT = "does not answer"


class Record:
    """What a coordinator's record in ZooKeeper says. Anybody may have written it where there are no credentials."""

    def __init__(self, staging: str, message: Message) -> None:
        self.key = standing.text(message.get("key"))
        self.secret = standing.text(message.get("secret"))
        named = standing.text(message.get("staging"))
        self.staging = named if _STAGING.fullmatch(named) else staging
        self.asked = Standing(
            reference=standing.text(message.get("reference"), 4096),
            staging=self.staging,
            host=standing.text(message.get("host")),
            address=standing.text(message.get("address")),
        )


def records(found: Mapping[str, bytes]) -> list[Record]:
    """Return the records that can be understood."""
    understood: dict[str, Record] = {}
    for staging, raw in sorted(found.items()):
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict) and _STAGING.fullmatch(staging):
            record = Record(staging, message)
            understood.setdefault(record.staging, record)  # known by its image's digest as well, once that is known
    return list(understood.values())


def ask(wanted: list[Record]) -> list[Standing]:
    """Return how the stagings stand, the oldest first; all are asked at once, for SECONDS in all."""
    answers: dict[Record, Standing] = {}
    until = time.monotonic() + SECONDS
    # Daemons, because one that talks with a dead node goes on for a moment after its time.
    threads = [threading.Thread(target=_ask, args=(record, answers), daemon=True) for record in wanted[:MOST]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    told = [answers.get(record) or replace(record.asked, problem=SILENT) for record in wanted]
    return sorted(told, key=lambda each: (bool(each.problem), each.since, each.reference))


def _ask(record: Record, answers: dict[Record, Standing]) -> None:
    from stager.relay.control import Control, PeerLost
    from stager.relay.secret import Secret
    from stager.relay.wire import split_address

    asked = record.asked
    try:
        ip_address(split_address(asked.address)[0])  # no name: looking it up has no bound
        secret = Secret.parse(record.secret)
    except ValueError:
        answers[record] = replace(asked, problem="cannot be asked: its record is of another kind")
        return
    control = Control(asked.address, staging=asked.staging, secret=secret, timeout=SECONDS)
    try:
        answers[record] = standing.read(control.ask("status", {}), asked)
    except PeerLost as lost:
        answers[record] = replace(asked, problem=f"{SILENT}: {standing.text(str(lost))}")
    finally:
        control.close()
