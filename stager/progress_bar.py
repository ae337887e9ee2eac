"""The bar on a terminal, drawn by rich; imported only where there is one."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from stager.progress import LineTeller


class BarTeller(LineTeller):
    """A bar that goes away when it is done; lines that matter stay above it."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        """Write one line above the bar."""
        self._bar.console.print(f"stage-image: {text}", markup=False, highlight=False, soft_wrap=True)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Move the bar."""
        description = f"{phase} {self._subject}"
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(description, total=total or None)
        self._bar.update(self._task, description=description, completed=done, total=total or None)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
        self._task = None
