"""Ways to mount an image read-only, and what this node offers for them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from stager.interfaces import ImageInfo, Mounter
    from stager.mounts.capability import Capability

    Mode = Literal["auto", "loop", "fuse"]


def order(mode: Mode, info: ImageInfo) -> list[Mounter]:
    """Return the ways to try for an image, best first.

    `loop`: by the kernel, in vain without privileges, then fuse; `auto`: the same where the kernel would let us, else
    fuse alone; `fuse`: nothing else. An EROFS image needs no loop device, where the kernel can do without.
    """
    from stager.mounts.fuse import FuseMounter
    from stager.mounts.linux import privileged

    ways: list[Mounter] = []
    if mode == "loop" or (mode == "auto" and privileged()):
        from stager.mounts.erofs import ErofsMounter
        from stager.mounts.loop import LoopMounter

        ways = [ErofsMounter(), LoopMounter()] if info.root.kind == "erofs" else [LoopMounter()]
    return [*ways, FuseMounter()]


def way_of(kind: str) -> Mounter:
    """Return the way that makes mounts of this kind (see MountReport), to unmount one. Raises ValueError."""
    from stager.mounts.erofs import ErofsMounter
    from stager.mounts.fuse import FuseMounter
    from stager.mounts.loop import LoopMounter

    ways: dict[str, type[Mounter]] = {"loop": LoopMounter, "erofs": ErofsMounter, "fuse": FuseMounter}
    if kind not in ways:
        raise ValueError(f"no mounts of kind {kind!r} exist")
    return ways[kind]()


def capabilities(folder: str) -> list[Capability]:
    """Return what this node and user can mount, for images in `folder`; see stager.mounts.capability."""
    from stager.mounts import capability

    return capability.capabilities(folder)
