"""A way to mount that only remembers what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.errors import InUse
from stager.interfaces import MountReport

if TYPE_CHECKING:
    from stager.errors import StageImageError
    from stager.interfaces import ImageInfo


@dataclass
class FakeMounter:
    """Fulfils `stager.interfaces.Mounter`. `mounted` maps mountpoints to images; `busy` ones cannot be unmounted.

    `failures` are raised by the next mounts, in order. `log` lists what was done: (verb, mountpoint). A test that asks
    `os.path.ismount` puts `ismount` in its place.
    """

    kind: str = "loop"
    blocked: str = ""
    note: str = ""
    mounted: dict[str, str] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    failures: list[StageImageError] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)

    def obstacle(self, info: ImageInfo) -> str:
        return self.blocked

    def mount(self, image: str, info: ImageInfo, mountpoint: str) -> MountReport:
        if self.failures:
            raise self.failures.pop(0)
        self.log.append(("mount", mountpoint))
        self.mounted[mountpoint] = image
        return MountReport(self.kind, device="/dev/fake0", note=self.note)

    def unmount(self, mountpoint: str, *, lazy: bool = False) -> None:
        if mountpoint not in self.mounted:
            return
        if mountpoint in self.busy and not lazy:
            raise InUse(f"{mountpoint} is busy")
        self.log.append(("unmount", mountpoint))
        del self.mounted[mountpoint]

    def ismount(self, path: str) -> bool:
        return path in self.mounted
