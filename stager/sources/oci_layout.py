"""Images in OCI layouts that are directories, as skopeo, umoci, buildah and buildx write them: `oci:DIR[:ref]`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager.errors import NotAnImage
from stager.sources.archive_files import Directory
from stager.sources.archive_layout import LayoutOrigin

if TYPE_CHECKING:
    from stager.oci import Manifest, Platform


class OciLayoutOrigin(LayoutOrigin):
    """A ContainerOrigin: one image of the layout at `path`; `ref` as in LayoutOrigin.

    Root may read a user's layout: files are opened only if they are regular, at names that are made of checked
    digests. Links are followed, but what they lead to is shown to nobody unless it has the digest asked for.
    """

    def __init__(self, path: str, ref: str, platform: Platform) -> None:
        super().__init__(Directory(path), ref, platform)

    def manifest(self, unless: str = "") -> Manifest | None:
        """As LayoutOrigin.manifest."""
        if os.path.isfile(self.name):
            raise NotAnImage(
                f"{self.name} is a file, not the directory of an OCI layout",
                hint=f"write oci-archive:{self.name} or docker-archive:{self.name}",
            )
        return super().manifest(unless)
