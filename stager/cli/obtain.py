"""Staging and mounting for the verbs that do: one leader stages and mounts while the others still wait for it."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING

from stager import warm
from stager.cli.fetching import staging
from stager.cli.node import Node
from stager.cli.node_records import tell_gridengine
from stager.cli.options import flags
from stager.errors import MountUnavailable, StageImageError
from stager.leading import give_up
from stager.store.trouble import storage_errors

if TYPE_CHECKING:
    import argparse

    from stager.interfaces import Teller
    from stager.mount import Mounted
    from stager.store.images import StagedImage


class Obtained:
    """What a call obtained: the image, leased, and its mount, if one was asked for."""

    def __init__(self, node: Node, image: StagedImage, mounted: Mounted | None) -> None:
        self.node = node
        self.image = image
        self.mounted = mounted

    def describe(self) -> dict[str, object]:
        """Return the answer for --json."""
        answer = {"path": self.image.path, "digest": str(self.image.digest), "size": self.image.size}
        answer |= {"format": self.image.info.format, "origin": self.image.origin}
        if self.mounted is not None:
            report = self.mounted.report
            answer |= {"root": self.mounted.root, "mount": report.kind, "direct_io": report.direct_io}
            answer |= {"device": report.device, "note": report.note}
        return dict(answer)


def obtain(
    arguments: argparse.Namespace, *, own: bool, mode: str | None, optional: bool = False, node: Node | None = None
) -> Obtained:
    """Stage `arguments.reference`, and mount it unless `mode` is `none`; None takes the setting.

    `own`: the lease is this process's, not its session's. `optional`: an image that cannot be mounted is enough.
    `node` is this one, as `arguments` say unless somebody knows better. Raises StageImageError, with the reference
    filled in.
    """
    node = node or Node(flags(arguments))
    mode = node.config.mount if mode is None else mode
    mounted: list[Mounted | None] = []

    def finish(image: StagedImage) -> None:
        mounted.append(None if mode == "none" else _mount(node, image, mode, own=own, optional=optional, tell=tell))
        node.leave_answer(arguments, image, mounted[0])

    wish = staging(node, arguments.reference, own=own, retry=arguments.retry, before_release=finish)
    tell = wish.tell
    if mode != "none" and not node.config.is_cluster:  # which forks, and a fork has to find no thread
        Thread(target=_import_mounters, name="mounters", daemon=True).start()
    try:
        node.heed_hooks(wish.reference, tell)
        image = wish.run()
        if not mounted:
            finish(image)
    except StageImageError as error:
        error.reference = error.reference or wish.reference.shown
        raise
    finally:
        # The entry may have left one for the others to wait by, until mount and answer are there too: in the store, or
        # where it takes the store to be, which does not read settings files.
        for note in {wish.note, warm.Place(node.environ).layout.leader(wish.reference.key)}:
            give_up(note)
        tell.close()
    node.collector.run()
    tell_gridengine(node)
    return Obtained(node, image, mounted[0])


def _mount(node: Node, image: StagedImage, mode: str, *, own: bool, optional: bool, tell: Teller) -> Mounted | None:
    try:
        with storage_errors(node.layout.root):
            return node.mounted(image, mode, own=own, tell=tell)
    except MountUnavailable as error:
        if not optional:
            raise
        tell.say(f"{error.message}; going on with the image file alone")
        return None


def _import_mounters() -> None:
    # While the image comes: between its publication, for which everybody waits, and the mount this took 7.5 ms on an
    # idle node and 40 ms on a busy one. The import lock makes whoever needs one of them meanwhile wait for it.
    import stager.mounts.erofs
    import stager.mounts.fuse
    import stager.mounts.loop  # noqa: F401 - for the next one who imports it
