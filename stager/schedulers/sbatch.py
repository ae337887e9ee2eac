"""The command line of sbatch, srun or salloc, with `--stage-image` in it: taken apart, and put together without; pure.

What is not ours stays as it is, in its order. Ours is taken out, and told to Slurm at the end of the options, where the
last one counts: `--comment`, which the Prolog reads and where the user's own comment is kept, and `--prefer`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.errors import InvalidReference, UsageError
from stager.schedulers.request import MAX_IMAGES, MAX_REFERENCE, MAX_TEXT, WORD
from stager.schedulers.submit_options import SHORT, full_name, takes_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAMS = ("sbatch", "srun", "salloc")
IMAGE = "stage-image"
AFFINITY = "stage-image-affinity"
LINE = "#STAGE-IMAGE"
"""What begins a line of a script that names images, as #SBATCH begins one with options."""

_ATTACHED = frozenset("kIK")
"""Short options whose value, if any, is the rest of their word (getopt's `::`)."""

_HINT = "write --stage-image=https://host/path, …=docker://host/name:tag or …=/path, several with commas between them"
_HIDDEN_HINT = "let the job's script run `stage-image exec` with it"
_TELLABLE = re.compile(r"[!-+\--:<-~]+")
"""Printable ASCII but for a comma and a semicolon, at which a comment is taken apart."""


@dataclass(slots=True)
class Component:
    """A job, or a component of a heterogeneous one: the words that are Slurm's, and the options that they say."""

    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    affinity: bool = False


@dataclass(frozen=True, slots=True)
class CommandLine:
    """`rest` is the command or script with its arguments, and a `--` before it."""

    components: list[Component]
    rest: list[str]

    @property
    def command(self) -> list[str]:
        """The script or command, with its arguments; empty if there is none."""
        return self.rest[1:] if self.rest[:1] == ["--"] else self.rest

    def words(self) -> list[str]:
        """Return the command line for Slurm."""
        first, *others = self.components
        parts = list(first.words)
        for component in others:
            parts += [":", *component.words]
        return [*parts, *self.rest]


def program_of(path: str) -> str:
    """Return which of PROGRAMS a path is of; one of another name is taken for sbatch."""
    name = os.path.basename(path)
    return next((program for program in PROGRAMS if name.startswith(program)), "sbatch")


def read(words: Sequence[str], program: str, ask: Callable[[str], bool | None] = lambda _name: None) -> CommandLine:
    """Take a command line apart; `ask` tells whether an option needs a value that is in no table of ours.

    Raises UsageError for a `--stage-image` without a value.
    """
    components, left = [Component()], list(words)
    while left:
        word = left[0]
        if word == ":":
            components.append(Component())
            del left[0]
        elif word in ("-", "--") or not word.startswith("-"):
            break
        elif word.startswith("--"):
            _long(components[-1], left, program, ask)
        else:
            _short(components[-1], left, program)
    return CommandLine(components, left)


def _long(component: Component, left: list[str], program: str, ask: Callable[[str], bool | None]) -> None:
    word = left.pop(0)
    name, equals, value = word[2:].partition("=")
    if name in (IMAGE, AFFINITY):
        _ours(component, name, value if equals or name == AFFINITY else left.pop(0) if left else "", bare=not equals)
        return
    name = full_name(name, program)
    component.words.append(word)
    if not equals and left and _needs_value(name, program, ask):
        value = left.pop(0)
        component.words.append(value)
    component.options[name] = value


def _needs_value(name: str, program: str, ask: Callable[[str], bool | None]) -> bool:
    known = takes_value(name, program)
    return bool(ask(name) if known is None else known)


def _ours(component: Component, name: str, value: str, *, bare: bool) -> None:
    if name == AFFINITY:
        if not bare:
            raise UsageError(f"--{AFFINITY} takes no value", hint=_HINT)
        component.affinity = True
    else:
        component.images += _listed(value)


def _listed(value: str) -> tuple[str, ...]:
    texts = tuple(value.split(","))
    if not all(texts):
        raise UsageError(f"--{IMAGE} needs a reference, and has {value[:80]!a}", hint=_HINT)
    return texts


def _short(component: Component, left: list[str], program: str) -> None:
    word = left.pop(0)
    component.words.append(word)
    for place, letter in enumerate(word[1:], 2):
        name, rest = SHORT.get(letter, letter), word[place:]
        if letter in _ATTACHED:
            component.options[name] = rest
            return
        if takes_value(name, program):
            if not rest and left:
                rest = left.pop(0)
                component.words.append(rest)
            component.options[name] = rest
            return
        component.options[name] = ""


def script_images(text: str) -> tuple[str, ...]:
    """Return what the lines `#STAGE-IMAGE REF[,REF…]` name, above a script's first command. Raises UsageError."""
    lines = (line.partition(LINE)[2] for line in _head(text) if re.match(rf"{LINE}(?:[ \t=]|$)", line))
    found: tuple[str, ...] = ()
    for line in lines:
        words = re.split(r"[ \t]#", line)[0].strip(" \t=").split()
        if len(words) != 1:
            raise UsageError(f"a line {LINE} needs one word, and has {line.strip()[:80]!a}", hint=f"write {LINE} REF")
        found += _listed(words[0])
    return found


def script_options(text: str, program: str = "sbatch") -> dict[str, str]:
    """Return the options of a script's #SBATCH lines, of a heterogeneous job's first component.

    As sbatch does, up to the first line that is neither empty nor a comment.
    """
    found: dict[str, str] = {}
    for line in _head(text):
        if not line.startswith("#SBATCH"):
            continue
        words = _quoted_words(line.removeprefix("#SBATCH"))
        if words in (["hetjob"], ["packjob"]):
            break
        found |= read(words, program).components[0].options
    return found


def _head(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        yield line


def _quoted_words(text: str) -> list[str]:
    """Take the options of a #SBATCH line apart.

    As sbatch does, by measurement with 22.05: both kinds of quotation marks, within which a backslash makes any
    character one of the word; outside of them `#` begins a comment, and a blank behind a backslash still ends the word.
    """
    pieces = re.findall(r"""(?:[^\s#"'\\]|\\\S|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')+|.""", text)
    words: list[str] = []
    for piece in pieces:
        if piece == "#":
            break
        if not piece.isspace():
            words.append(_unquoted(piece))
    return words


def _unquoted(piece: str) -> str:
    found = re.findall(r"""\\(.)|([^"'\\])|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""", piece)
    inner = (re.sub(r"\\(.)", r"\1", double + single) for _, _, double, single in found)
    return "".join(escaped + plain + inside for (escaped, plain, _, _), inside in zip(found, inner, strict=True))


def check(images: Sequence[str]) -> None:
    """Raise for what could not be told to the scheduler, before anybody takes the trouble to look the images up."""
    if len(images) > MAX_IMAGES:
        raise UsageError(f"{len(images)} images are too many for a job; the limit is {MAX_IMAGES}")
    for text in images:
        if "://" in text:
            check_tellable(text)


def tell(component: Component, references: Sequence[str], comment: str) -> None:
    """Tell Slurm which images the component wants, besides the comment that the user has for it.

    Ours comes first: only so much of a comment is looked at. Raises UsageError, InvalidReference.
    """
    for reference in references:
        check_tellable(reference)
    ours = f"{WORD}={','.join(references)}"
    if len(ours) > MAX_TEXT:
        raise UsageError(f"the references are {len(ours)} characters together; the limit is {MAX_TEXT}")
    component.words.append(f"--comment={ours} {comment}" if comment else f"--comment={ours}")


def check_tellable(reference: str) -> None:
    """Raise InvalidReference for what cannot be told to a scheduler, or what others should not read there."""
    if "?" in reference and "://" in reference:
        raise InvalidReference(
            "the URL has a query, which may be a secret, and what jobs ask for is public", hint=_HIDDEN_HINT
        )
    if reference.lower().startswith(("docker://", "oras://")) and "@" in _without_digest(reference):
        raise InvalidReference(
            "a job cannot ask for an image as a certain user: hooks do not have that user's password", hint=_HIDDEN_HINT
        )
    if not _TELLABLE.fullmatch(reference) or len(reference) > MAX_REFERENCE:
        raise InvalidReference(
            f"{reference[:80]!a} cannot be told to the scheduler: up to {MAX_REFERENCE} printable ASCII characters can,"
            " without blanks, commas and semicolons",
            hint="write %2C for a comma in a URL; give a file another name",
        )


def _without_digest(reference: str) -> str:
    location, at, digest = reference.rpartition("@")
    return location if at and digest.lower().startswith("sha256:") else reference


@dataclass(frozen=True, slots=True)
class Nodes:
    """A group of nodes as sinfo tells of it: how many, with how many CPUs each, and their features."""

    count: int
    cpus: int
    features: frozenset[str]


def read_nodes(text: str) -> list[Nodes]:
    """Return the groups in what `sinfo -h -o '%D %c %f'` prints; lines that cannot be understood are left out."""
    rows = (re.fullmatch(r"([0-9]{1,9}) +([0-9]{1,9})\+? +(\S+) *", line) for line in text.splitlines())
    return [Nodes(int(row[1]), int(row[2]), frozenset(row[3].split(","))) for row in rows if row]


def preference(options: dict[str, str], features: Sequence[str], nodes: Sequence[Nodes]) -> str:
    """Return the value of --prefer for nodes with all these features; empty if it would not do.

    slurmctld refuses at submission what so many preferred nodes can never satisfy, and what no node has (measured with
    22.05): then it is better not to ask. A user's own --prefer is not touched.
    """
    fitting = [group for group in nodes if group.features.issuperset(features)]
    if "prefer" in options or not features or not fitting:
        return ""
    tasks = _count(options.get("ntasks", "")) * _count(options.get("cpus-per-task", ""))
    enough = sum(group.count for group in fitting) >= _count(options.get("nodes", ""))
    cpus = sum(group.count * group.cpus for group in fitting)
    return "&".join(features) if enough and cpus >= tasks else ""


def _count(text: str) -> int:
    """Return the least number in `4`, `4-8`, `2k`; 1 for anything else."""
    match = re.match(r"([0-9]{1,9})([kKmM]?)", text)
    return int(match[1]) * {"k": 1024, "m": 1 << 20}.get(match[2].lower(), 1) if match else 1
