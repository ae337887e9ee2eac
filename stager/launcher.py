"""How a command comes to run on another node: by ssh, srun, or whatever a site has."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

from stager.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMED = {
    "ssh": "ssh -o BatchMode=yes -o ConnectTimeout=10 {node}",
    "srun": "srun --nodes=1 --ntasks=1 --nodelist={node}",
}
"""Launchers that need not be spelt out."""

NODE = "{node}"
WORDS = "{words}"


class Launcher:
    """How a command comes to run on a node. `text` is a name in NAMED, or words with `{node}` in them.

    The command is added as one word for a shell, as ssh and `sh -c` want it; after `srun`, and for a word `{words}`,
    as the words that it is. Raises UsageError.
    """

    def __init__(self, text: str) -> None:
        try:
            self._words = shlex.split(NAMED.get(text, text))
        except ValueError as error:
            raise UsageError(f"--launcher: {text!a} cannot be taken apart: {error}") from error
        if not any(NODE in word for word in self._words):
            named = ", ".join(NAMED)
            raise UsageError(f"--launcher: {text!a} does not say where {NODE} goes", hint=f"or take one of {named}")
        if NODE not in self._words[0] and shutil.which(self._words[0]) is None:
            raise UsageError(f"--launcher: there is no program {self._words[0]!a} here", hint="see PATH")

    def command(self, node: str, words: Sequence[str]) -> list[str]:
        """Return the words to run here, so that `words` are run on `node`."""
        here = [word.replace(NODE, node) for word in self._words]
        if WORDS in here:
            cut = here.index(WORDS)
            return [*here[:cut], *words, *here[cut + 1 :]]
        return [*here, *words] if os.path.basename(here[0]) == "srun" else [*here, shlex.join(words)]
