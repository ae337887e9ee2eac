"""What every scheduler's hooks have in common: a job, what it asks for, and what the site lets them do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stager.config import Config
    from stager.schedulers.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The settings of one scheduler's table, `table`.

    `allow` is what may be staged for users; None where the hook runs as the job's user, who may what he may. `budget`
    is in seconds. The others are for hooks that make directories and namespaces.
    """

    table: str
    allow: tuple[str, ...] | None
    budget: float
    strict: bool
    private: tuple[str, ...] = ()
    private_for: str = "asked"
    private_shows: tuple[str, ...] = ()
    images_at: str = ""


class Hook(Protocol):
    """A job as its scheduler tells a hook of it; None is what it did not tell."""

    @property
    def job(self) -> str:
        """Its number, for people."""

    @property
    def scope(self) -> str:
        """As `stager.jobenv` has it."""

    @property
    def uid(self) -> int | None:
        """Whose it is."""

    @property
    def gid(self) -> int | None:
        """That user's group."""

    @property
    def restart(self) -> int:
        """How often it has been started before."""

    @property
    def private_tmp(self) -> bool:
        """Whether it wants directories of its own."""

    @property
    def node_rank(self) -> int | None:
        """This node's place among the job's, from 0."""

    def request(self) -> Request:
        """Return the images that it asks for. Raises InvalidReference."""

    def site(self, config: Config) -> Site:
        """Return what the site has set for this scheduler."""
