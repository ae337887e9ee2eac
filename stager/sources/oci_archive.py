"""Images in OCI layouts that were put into a tar archive: `oci-archive:FILE[:ref]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.sources.archive_files import Archive
from stager.sources.archive_layout import LayoutOrigin

if TYPE_CHECKING:
    from stager.oci import Platform


class OciArchiveOrigin(LayoutOrigin):
    """A ContainerOrigin: one image of the archive at `path`; `ref` as in LayoutOrigin.

    Nothing is unpacked: blobs are read where they lie in the archive.
    """

    def __init__(self, path: str, ref: str, platform: Platform) -> None:
        super().__init__(Archive(path), ref, platform)
