"""What came of conversions of container images: remembered on this node, and in the cluster where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.errors import InvalidReference
from stager.reference import Digest
from stager.store import files

if TYPE_CHECKING:
    from stager.cluster import ClusterStaging
    from stager.layout import Layout


@dataclass(frozen=True, slots=True)
class Conversions:
    """The memory of an Assembly. `tiers` are stores that are only read."""

    layout: Layout
    tiers: tuple[Layout, ...] = ()
    cluster: ClusterStaging | None = None

    def recall(self, name: str) -> Digest | None:
        """As Memory.recall; this node's word counts first, as its image is at hand."""
        for layout in (self.layout, *self.tiers):
            record = files.read_record(layout.conversion(name)) or {}
            try:
                return Digest(record.get("digest", ""))
            except InvalidReference:
                continue
        return self.cluster.recall_conversion(name) if self.cluster is not None else None

    def remember(self, name: str, digest: Digest) -> None:
        """As Memory.remember."""
        try:
            files.make_folders(f"{self.layout.root}/conversions")
            files.write_record(self.layout.conversion(name), {"digest": str(digest)}, 0o644)
        except OSError:
            return  # the image is what matters; it is converted again at the worst
        if self.cluster is not None:
            self.cluster.remember_conversion(name, digest)
