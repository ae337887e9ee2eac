"""Putting together a staging: the reference's source, the limits of the store, and the story that uses them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from stager import collect
from stager.download import Download
from stager.errors import DamagedImage, NoSpace
from stager.images import recognise
from stager.retry import RetryPolicy
from stager.sources import Deferred, source_for
from stager.stage import Policy, Staging
from stager.store import room
from stager.store.memory import MirrorFailures
from stager.variants import CONVERTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.cli.node import Node
    from stager.cluster import ClusterStaging
    from stager.errors import StageImageError
    from stager.interfaces import Source, Teller
    from stager.reference import Reference
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.transfer import Transfer


def staging(node: Node, text: str, *, own: bool, retry: bool, before_release: Callable[[StagedImage], None]) -> Staging:
    """Return the wish to stage what `text` refers to; `own` and `before_release` as in Node.lease and Staging."""
    reference = node.reference(text)
    tell = node.teller(reference.name)
    config = node.config
    cluster = None
    if config.is_cluster:
        from stager.cli.clustering import cluster_staging

        cluster = cluster_staging(node, reference, tell)
    return Staging(
        layout=node.layout,
        reference=reference,
        lease=node.lease(own=own),
        session=not node.job.scope,
        policy=Policy(
            freshness="never" if reference.is_immutable else config.freshness,
            offline=config.offline == "allow",
            patience=config.deadline + 2 * config.stall_timeout,
            failure_backoff=config.failure_backoff,
            retry=retry,
        ),
        clock=node.clock,
        election=node.election,
        download=lambda copy, tell: _transfer(node, reference, copy, tell, cluster=cluster),
        recognise=recognise,
        tell=tell,
        cluster=cluster,
        tiers=node.tiers,
        before_release=before_release,
        trace=trace_point(node.environ),
    )


def _transfer(
    node: Node, reference: Reference, copy: Partial, tell: Teller, *, cluster: ClusterStaging | None
) -> Transfer:
    config = node.config
    trace = trace_point(node.environ)

    def make_room_here(size: int) -> None:
        if copy.folder.startswith(f"{node.layout.root}/"):
            make_room(node, size, tell)  # else it is a file system that all nodes share, where we evict nothing

    def look(partial: Partial) -> None:
        trace("fetching")
        _refuse_what_is_no_image(partial)

    if reference.scheme in CONVERTED:
        from stager.cli.registries import assembly

        return assembly(node, reference, copy, tell, cluster=cluster)
    return Download(
        source=Deferred(lambda: _source(node, reference)),
        partial=copy,
        policy=RetryPolicy(deadline=config.deadline),
        clock=node.clock,
        room=make_room_here,
        on_wait=lambda error, seconds: say_wait(tell, error, seconds),
        look=look,
        streams=config.connections,
        pinned=reference.digest is not None,
    )


def _source(node: Node, reference: Reference) -> Source:
    if reference.scheme in ("oras", "library"):
        from stager.cli import registries

        return registries.source(node, reference)
    memory = MirrorFailures(f"{node.layout.root}/failures", node.clock)
    return source_for(reference, node.http_settings, node.config.mirrors, memory)


def _refuse_what_is_no_image(partial: Partial) -> None:
    # Only the first bytes are there: what they look like is known, whether the image is whole is not.
    try:
        recognise(partial.fileno(), partial.size or partial.position)
    except DamagedImage:
        return


def make_room(node: Node, size: int, tell: Teller) -> None:
    """Evict from this node's store until `size` more bytes fit. Raises NoSpace."""
    limits = room.Limits(node.config.min_free, node.config.max_size)
    try:
        room.make_room(node.layout, size, limits, lambda old: _evict(node, old, tell))
    except NoSpace:
        if not collect.drop_orphans(node.layout):
            raise
        room.make_room(node.layout, size, limits, lambda old: _evict(node, old, tell))


def say_wait(tell: Teller, error: StageImageError, seconds: float) -> None:
    """Say why a try failed, and when the next one comes."""
    when = f"in {seconds:.0f} s" if round(seconds) else "at once"
    tell.say(f"{error.message}; trying again {when}")


def _evict(node: Node, old: room.Evictable, tell: Teller) -> None:
    freed = collect.evict(node.layout, old.digest)
    tell.say(f"evicted {old.digest.hex[:12]}, unused, to make room ({room.show_bytes(freed)})")


def trace_point(environ: dict[str, str]) -> Callable[[str], None]:
    """Return what happens at named points: nothing, or what a test asked for (death, or a stop until SIGCONT)."""
    asked = {"STAGE_IMAGE_TEST_CRASH_AT": signal.SIGKILL, "STAGE_IMAGE_TEST_STOP_AT": signal.SIGSTOP}
    signals = {environ[name]: number for name, number in asked.items() if name in environ}

    def trace(point: str) -> None:
        if point in signals:
            os.kill(os.getpid(), signals[point])

    return trace
