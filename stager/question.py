"""The command lines that can be answered warm: the plainest forms, without settings. All others go the long way."""

from __future__ import annotations

from stager.layout import warm_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

HARMLESS = ("STAGE_IMAGE_PATH", "STAGE_IMAGE_ROOT", "STAGE_IMAGE_DIGEST", "STAGE_IMAGE_STORE", "STAGE_IMAGE_PYTHON")
"""Variables which do not change what the answer is; with any other STAGE_IMAGE_* the long way is taken."""

GIVEN = ("STAGE_IMAGE_PATH_", "STAGE_IMAGE_ROOT_", "STAGE_IMAGE_DIGEST_", "STAGE_IMAGE_REFERENCE")
"""As harmless, whatever follows: what the tasks of a job are told of the images it was submitted with."""


class Question:
    """A command line that can be answered warm: `verb` is path, mount or exec; `mount` and `runtime` as typed."""

    __slots__ = ("command", "mount", "runtime", "text", "verb")

    def __init__(self, verb: str, text: str, mount: str = "", runtime: str = "") -> None:
        self.verb = verb
        self.text = text
        self.mount = mount
        self.runtime = runtime
        self.command: list[str] = []

    @property
    def name(self) -> str | None:
        """The record's file name, or None if there cannot be one."""
        return warm_name(self.verb, self.mount, self.runtime, self.text)


def parse(argv: list[str]) -> Question | None:
    """Understand the plainest forms of a command line; None for all others, right or wrong.

    REF | mount [--mount=M] REF | exec [--mount=M] [--runtime=R] REF [--mount=M] [--runtime=R] -- CMD…
    """
    if not argv or argv[0] not in ("mount", "exec"):
        return Question("path", argv[0]) if len(argv) == 1 and not argv[0].startswith("-") else None
    words = argv[1:]
    if argv[0] == "exec":
        if "--" not in words:
            return None
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
        if not command:
            return None
    else:
        command = []
    options = {"--mount": "", "--runtime": ""}
    references = []
    for word in words:
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            references.append(word)
        elif equals and value.isalpha() and option in options and (option == "--mount" or argv[0] == "exec"):
            options[option] = value
        else:
            return None
    if len(references) != 1:
        return None
    question = Question(argv[0], references[0], options["--mount"], options["--runtime"])
    question.command = command
    return question


def is_plain(environ: Mapping[str, str]) -> bool:
    """Whether no variable changes what the answer would be."""
    return not any(
        name.startswith("STAGE_IMAGE_") and name not in HARMLESS and not name.startswith(GIVEN) for name in environ
    )
