"""One copy of an image for all nodes, on a parallel file system: the head writes it, the others open it there.

Nothing there is locked: who may write, ZooKeeper decides, and whoever else has written meanwhile has written the same
bytes. Images there are evicted by nobody: no node knows who uses them on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.store import copies, folder, images, memory
from stager.store.partial import Partial

if TYPE_CHECKING:
    from stager.clock import Clock
    from stager.interfaces import ImageInfo
    from stager.layout import Layout
    from stager.reference import Digest, Reference
    from stager.store.images import StagedImage
    from stager.store.memory import Seen


@dataclass(frozen=True, slots=True)
class SharedStore:
    """The store at `layout`, which all nodes see."""

    layout: Layout
    reference: Reference
    clock: Clock

    def copy(self) -> Partial:
        """Return a copy in flight, the one that another head left if there is one. Raises StoreUnusable, OSError.

        A head that was taken for dead may still write to the same file: the same bytes, of the same version.
        """
        folder.open_store(self.layout.root)
        root = self.layout.partials(self.reference.cluster_key)
        return copies.adopt(root) or Partial(copies.own_folder(root))

    def seen(self) -> Seen | None:
        """Return what the reference meant when a head last asked its origin."""
        return memory.read_seen(self.layout.reference_record(self.reference.cluster_key))

    def publish(self, copy: Partial, digest: Digest, info: ImageInfo) -> StagedImage:
        """Make a whole copy an image, and known as what the reference means. Raises OSError."""
        copy.promise(digest)
        copy.sync()
        shown = self.reference.shown
        image = images.publish(self.layout, copy.path, digest, info, origin=shown, private=copy.private)
        record = self.layout.reference_record(self.reference.cluster_key)
        version = copy.validators
        memory.write_seen(record, shown, digest, validators=version, at=self.clock.now())
        copy.discard()
        return image
