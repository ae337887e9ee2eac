r"""The man page, docs/man/stage-image.1, in the language of mdoc(7).

Text of the code becomes roff here: a backslash is `\e`, a hyphen of an option `\-` (a plain one may be shown as a
typographic hyphen, which cannot be pasted), and no line begins with a dot or a quote, which would be a request.
"""

from __future__ import annotations

import re
from textwrap import wrap
from typing import TYPE_CHECKING

from docs.commands import commands
from stager import config, errors, variables
from stager.settings import FILE_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docs.commands import Command, Option

DATE = "November 20, 2026"

WIDTH = 72
"""Of lines in the source, in characters."""

_PLAIN = str.maketrans(
    {"\\": r"\e", "-": r"\-", "`": r"\(ga", "'": r"\(aq", "…": "...", "→": "->", "—": r"\(em", "≤": "<=", "≥": ">="}
)


def page() -> str:
    """Return the whole man page."""
    known = commands()
    parts = [
        HEAD.strip(),
        *(f".Nm\n{roff(command.usage.removeprefix('stage-image '))}" for command in known),
        DESCRIPTION.strip(),
        ".Sh COMMANDS",
        *(line for command in known for line in _verb(command)),
        ".Sh ENVIRONMENT",
        ENVIRONMENT.strip(),
        *_items(
            (f"Ev {key.variable}", _sentence(key.doc)) for key in config.KEYS.values() if key.name not in FILE_ONLY
        ),
        *_items((f"Ev {name}", _sentence(meaning)) for name, meaning in variables.RESERVED.items()),
        FILES.strip(),
        EXIT_STATUS.strip(),
        *_items((f"Er {cls.exit_code}", _sentence((cls.__doc__ or "").partition("\n")[0])) for cls in _errors()),
        TAIL.strip(),
    ]
    return "\n".join(parts) + "\n"


HEAD = f"""
.\\" Written by docs/generate.py; change the code that it reads, or docs/manual.py, instead.
.Dd {DATE}
.Dt STAGE-IMAGE 1
.Os
.Sh NAME
.Nm stage-image
.Nd stage container images onto the nodes of a cluster
.Sh SYNOPSIS
"""

DESCRIPTION = r"""
.Sh DESCRIPTION
.Nm
copies a container image from its origin to the local disk of this node and
prints the path of the copy.
However many tasks of however many jobs ask for it at the same time, one of
them downloads; the others wait and say for whom.
The image is verified before it gets its name, so that nobody ever sees half
of one.
.Pp
A
.Ar REF
is a URL
.Pq Li https:// , http:// , file:///
or a path, and may end in
.Li @sha256:\& Ns Ar digest ,
which pins it to exactly this image.
Images are SIF, squashfs or EROFS files, told apart by their content.
.Pp
The answer goes to standard output and nothing else does; everything else goes
to standard error.
"""

ENVIRONMENT = r"""
Settings are read from
.Pa /etc/stage-image/config.toml ,
then from
.Pa ~/.config/stage-image/config.toml ,
then from the environment; options override them all.
.Ic stage-image config show
prints each with its value and where it came from.
An unknown setting is an error.
Sizes are written like
.Li 10GiB ,
times like
.Li 90s ,
.Li 5m
or
.Li 12h .
"""

FILES = r"""
.Sh FILES
.Bl -tag -width Ds
.It Pa /etc/stage-image/config.toml
The site's settings.
.It Pa ~/.config/stage-image/config.toml
The user's settings;
.Ev XDG_CONFIG_HOME
is honoured.
.It Pa /var/tmp/stage-image- Ns Ar uid
The store, unless another is set.
.It Pa ~/.netrc
User names and passwords for origins, by host.
.El
"""

EXIT_STATUS = r"""
.Sh EXIT STATUS
.Nm
exits 0 if what was asked for is there, and with one of the following otherwise.
.Ic exec
ends as the command does that it has become.
1 is a bug in
.Nm ,
128+N the end by signal N.
"""

TAIL = r"""
.Sh EXAMPLES
On one node, in a job script:
.Bd -literal -offset indent
IMG=$(stage\-image https://example.org/tool.sif) || exit
apptainer exec "$IMG" ./app
.Ed
.Pp
In every task of a job, on all its nodes:
.Bd -literal -offset indent
srun stage\-image exec https://example.org/tool.sif \-\- ./app
.Ed
.Pp
Each day, on each node:
.Bd -literal -offset indent
stage\-image prune \-\-max\-age 30d
.Ed
.Sh SEE ALSO
.Xr apptainer 1 ,
.Xr squashfuse 1 ,
.Xr losetup 8 ,
.Xr mount 8
"""


def _verb(command: Command) -> Iterator[str]:
    yield f".Ss {roff(command.verb)}"
    yield _sentence(command.summary)
    yield from _items((_words(option), _sentence(option.help)) for option in (*command.arguments, *command.options))
    for block in command.notes:
        if block.literal:
            literal = "\n".join(map(roff, block.text.splitlines()))
            yield f".Bd -literal -offset indent\n{literal}\n.Ed"
        else:
            yield f".Pp\n{_sentence(' '.join(block.text.split()))}"


def _items(items: Iterator[tuple[str, str]]) -> Iterator[str]:
    rows = [f".It {words}\n{text}" for words, text in items]
    if rows:
        yield ".Bl -tag -width Ds\n" + "\n".join(rows) + "\n.El"


def _words(option: Option) -> str:
    """Return `Fl -store Ar DIR` for `--store DIR`, and `Ar REF` for `REF`."""
    name, _, value = option.words.partition(" ")
    if not name.startswith("-"):
        return f"Ar {roff(option.words)}"
    return f"Fl {roff(name[1:])}" + (f" Ar {roff(value)}" if value else "")


def _sentence(text: str) -> str:
    """Return a text as sentences, each beginning a line as roff wants it; words of the code keep their case."""
    first = text.partition(" ")[0]
    whole = text[:1].upper() + text[1:] if first.isalpha() else text
    sentences = re.split(r"(?<=[a-z`)]\.) (?=[A-Z])", whole if whole.endswith((".", ":")) else f"{whole}.")
    lines = (line for sentence in sentences for line in wrap(sentence, WIDTH, break_on_hyphens=False))
    return "\n".join(map(roff, lines))


def roff(text: str) -> str:
    """Return plain text with all that roff would understand made plain (groff_char(7))."""
    plain = text.translate(_PLAIN)
    return rf"\&{plain}" if plain.startswith(".") else plain


def _errors() -> list[type[errors.StageImageError]]:
    return sorted(_below(errors.StageImageError), key=lambda cls: cls.exit_code)


def _below(cls: type[errors.StageImageError]) -> list[type[errors.StageImageError]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *_below(sub))]
