"""What one node wants of a staging of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.interfaces import ImageInfo, Validators
    from stager.reference import Digest
    from stager.shared import SharedStore
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.transfer import Transfer


@dataclass(slots=True)
class Task:
    """What one node wants to hold in the end, and what it may use for it.

    `download` makes a download from the origin; `unless`: the version of `held`, which need not come again if the
    origin still has it; `pin`: the only digest that will do, by the reference, `expects`: by the job, too; `offline`:
    whether an image will do about which the origin cannot be asked; `settle` pins the job, on all nodes, and returns
    what it is pinned to; `lookup` finds an image that is staged here. `shared`: where the head puts the image for all,
    instead of passing it on. `by_digest`: the origin names a version by its digest.
    """

    copy: Partial
    download: Callable[[Partial], Transfer]
    recognise: Callable[[int, int], ImageInfo]
    settle: Callable[[Digest], Digest]
    lookup: Callable[[Digest], StagedImage | None]
    unless: Validators | None = None
    held: StagedImage | None = None
    pin: Digest | None = None
    expects: Digest | None = None
    shared: SharedStore | None = None
    offline: bool = True
    by_digest: bool = False
