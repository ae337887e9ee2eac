"""What came of conversions of container images: remembered on this node, and in the cluster where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.errors import InvalidReference
from stager.reference import Digest
from stager.store import files, images

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.cluster import ClusterStaging
    from stager.layout import Layout
    from stager.oci import Manifest
    from stager.store.images import StagedImage


@dataclass(frozen=True, slots=True)
class Conversions:
    """The memory of an Assembly. `tiers` are stores that are only read; `pin` tells what the job is pinned to.

    `where`: the repository, since what a registry has in one of them, it has not in all.
    """

    layout: Layout
    where: str
    pin: Callable[[], Digest | None]
    tiers: tuple[Layout, ...] = ()
    cluster: ClusterStaging | None = None

    def recall(self, name: str) -> StagedImage | None:
        """As Memory.recall; the cluster is asked where this node knows of none, or has it no longer."""
        known = filter(None, (_recorded(layout.conversion(name)) for layout in (self.layout, *self.tiers)))
        image = next(filter(None, (self._staged(digest) for digest in known)), None)
        if image is None and self.cluster is not None:
            digest = self.cluster.recall_conversion(name)
            image = self._staged(digest) if digest is not None else None
        return image

    def _staged(self, digest: Digest) -> StagedImage | None:
        found = (images.lookup(layout, digest) for layout in self._usable)
        return next((image for image in found if image is not None), None)

    @property
    def _usable(self) -> tuple[Layout, ...]:
        """The stores whose images will do: the cluster's own, where that is how its nodes share."""
        cluster = self.cluster
        if cluster is not None and cluster.shared is not None and not cluster.alone:
            return (cluster.shared.layout,)
        return (self.layout, *self.tiers)

    def _made_of(self, image: Digest) -> str:
        return sha256(f"{self.where}\n{image}".encode()).hexdigest()

    def remember(self, name: str, digest: Digest, manifest: Manifest) -> None:
        """As Memory.remember."""
        for key, value in ((name, digest), (self._made_of(digest), manifest.top)):
            try:
                files.write_record(self.layout.conversion(key), {"digest": str(value)}, 0o644)
            except OSError:
                return  # the image is what matters; it is converted again at the worst
            if self.cluster is not None:
                self.cluster.remember_conversion(key, value)

    def pinned(self) -> Digest | None:
        """As Memory.pinned."""
        image = self.pin()
        if image is None:
            return None
        name = self._made_of(image)
        known = (_recorded(layout.conversion(name)) for layout in (self.layout, *self.tiers))
        found = next(filter(None, known), None)
        return self.cluster.recall_conversion(name) if found is None and self.cluster is not None else found


def _recorded(path: str) -> Digest | None:
    try:
        return Digest((files.read_record(path) or {}).get("digest", ""))
    except InvalidReference:
        return None
