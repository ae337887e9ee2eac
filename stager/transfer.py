"""What the core asks of whoever brings an image from its origin into a partial copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.errors import StageImageError
    from stager.interfaces import Validators
    from stager.retry import RetryPolicy
    from stager.store.images import StagedImage


class Hook(Protocol):
    """Something to call with nothing; as a class, because a Callable in a class may be a method that nobody can set."""

    def __call__(self) -> None: ...


class RoomHook(Protocol):
    """Something to call with a number of bytes."""

    def __call__(self, size: int, /) -> None: ...


class ResolvedHook(Protocol):
    """Something to call with whether the image is private."""

    def __call__(self, private: bool, /) -> None: ...  # noqa: FBT001


class Transfer(Protocol):
    """One image on its way: `Download` where the origin has the very bytes, `Assembly` where it is made of layers.

    `on_resolved` is told whether the image is private where that is known long before the first byte: it may raise.
    `room`, `on_begin`, `before_bytes`, `on_wait`, `image`, `version` and `whence` are as in Download.
    """

    policy: RetryPolicy
    room: RoomHook
    on_wait: Callable[[StageImageError, float], None] | None
    on_begin: Callable[[], None] | None
    before_bytes: Hook
    on_resolved: ResolvedHook
    image: StagedImage | None
    version: Validators | None
    whence: str

    @property
    def progress(self) -> tuple[int, int]:
        """Return bytes done and in all (0: unknown), of the present phase."""

    @property
    def phase(self) -> str:
        """What is being done: `resolving`, `pulling` or `converting`, perhaps with more words behind it."""

    def run(self, unless: Validators | None = None) -> bool:
        """Fill the copy; False, with nothing fetched, if the origin still has the version `unless`, or `image` is it.

        Raises what the origin raises when retries are used up, NoSpace, OSError.
        """

    def is_current(self, version: Validators) -> bool:
        """Ask whether the origin still has a version. Raises what the origin raises when retries are used up."""

    def cancel(self) -> None:
        """End `run`, in another thread, by OSError (ECANCELED)."""

    def hang_up(self) -> bool:
        """In `before_bytes`: end the connections, if there is one and another can go on where it ends; whether."""
