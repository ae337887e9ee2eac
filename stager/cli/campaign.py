"""Staging images on many nodes: what became of it on each, told line by line and as a whole."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.cli.output import write
from stager.errors import StageImageError, TooFewNodes
from stager.fan import Fan
from stager.progress import LINE_SECONDS, write_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stager.fan import Outcome
    from stager.launcher import Launcher
    from stager.reference import Reference

OWN = range(64, 100)
"""Exit codes that are stage-image's own, whatever the launcher: ssh ends with 255, a shell with 126 or 127."""

MESSAGE = 300
"""Characters of what a node says that are passed on."""

_ERROR = re.compile(r"stage-image: error: (.*?)(?: \(on \S+\))?$", re.MULTILINE)


@dataclass(slots=True)
class Result:
    """What became of one reference on one node: the image's `path` there, or why there is none."""

    node: str
    reference: Reference
    code: int | None
    path: str
    why: str
    seconds: float

    @classmethod
    def of(cls, outcome: Outcome, reference: Reference) -> Result:
        """Judge an outcome: it is a good one only with an answer."""
        path = _last_line(outcome.out)
        good = outcome.code == 0 and path.startswith("/")
        why = "" if good else _why(outcome)
        return cls(outcome.name, reference, outcome.code, path if good else "", why, outcome.seconds)

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.code is None:
            return "silent for too long"
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"

    def describe(self) -> dict[str, object]:
        """Return it for --json."""
        answer = {"node": self.node, "path": self.path, "exit_code": self.code, "message": self.why}
        return {**answer, "seconds": round(self.seconds, 3)}


@dataclass(slots=True, kw_only=True)
class Campaign:
    """Has references staged on `nodes`; `command` is what is run there, the reference comes behind it.

    `silence`: seconds without a word after which a node is given up. `lines`: whether stdout gets a line for each
    reference. `quiet`: nothing is said of the progress.
    """

    nodes: Sequence[str]
    launcher: Launcher
    command: Sequence[str]
    parallel: int
    silence: float
    quiet: bool
    lines: bool
    results: list[Result] = field(default_factory=list)

    def stage(self, reference: Reference) -> None:
        """Stage one reference everywhere."""
        words = [*self.command, str(reference)]
        begun = len(self.results)

        def told(outcome: Outcome) -> None:
            result = Result.of(outcome, reference)
            self.results.append(result)
            if not result.path:
                write_line(f"{result.node}: {result.ended}: {result.why}")

        fan = Fan(parallel=self.parallel, silence=self.silence, told=told)

        def tick() -> None:
            done = self.results[begun:]
            have = sum(bool(result.path) for result in done)
            if not self.quiet:
                failed = f", {len(done) - have} failed" if have < len(done) else ""
                write_line(f"{have} of {len(self.nodes)} nodes have {reference.name}{failed}, {fan.running} under way")

        commands = ((node, self.launcher.command(node, words)) for node in self.nodes)
        fan.run(commands, tick=tick, every=LINE_SECONDS)
        if self.lines:
            have = sum(bool(result.path) for result in self.results[begun:])
            write(f"{have} of {len(self.nodes)} nodes have {reference.shown}")

    def judge(self, wanted: int) -> None:
        """Raise the most frequent failure unless `wanted` nodes have everything."""
        failed = [result for result in self.results if not result.path]
        lacking = len({result.node for result in failed})
        if len(self.nodes) - lacking >= wanted:
            return
        (code, often) = Counter(result.code if result.code in OWN else 0 for result in failed).most_common(1)[0]
        first = next(result for result in failed if code in (0, result.code))
        kind = next((cls for cls in _classes(StageImageError) if cls.exit_code == code), TooFewNodes)
        hint = (
            kind.hint
            if code
            else "can the launcher reach the nodes, and is stage-image on their PATH (else --program)?"
        )
        most = f"most often ({often} times)" if often < len(failed) else "all of them"
        about = f"{lacking} of {len(self.nodes)} nodes do not have all images"
        raise kind(f"{about}; {most}: {first.ended}: {first.why}", hint=hint)

    def describe(self) -> list[dict[str, object]]:
        """Return the results for --json."""
        by_reference: dict[Reference, list[Result]] = {}
        for result in self.results:
            by_reference.setdefault(result.reference, []).append(result)
        return [
            {
                "reference": reference.shown,
                "have": sum(bool(result.path) for result in results),
                "of": len(self.nodes),
                "nodes": [result.describe() for result in results],
            }
            for reference, results in by_reference.items()
        ]


def _why(outcome: Outcome) -> str:
    """Return what a node said last, or its error if there is one: the hint comes after that."""
    told = _ERROR.findall(outcome.err)
    text = told[-1] if told else _last_line(outcome.err) or _last_line(outcome.out) or "it did not say why"
    if outcome.code == 0:
        text = f"it ended well, but answered no path: {text}"
    return "".join(c if c.isprintable() else "?" for c in text)[:MESSAGE]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _classes(cls: type[StageImageError]) -> list[type[StageImageError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _classes(sub))]
