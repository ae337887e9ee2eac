"""Images for jobs: small ones that the kernel mounts, each with a word of its own in it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.support import image_factory

if TYPE_CHECKING:
    from pathlib import Path

READ = 'cat "$STAGE_IMAGE_ROOT/word"'
"""What a task does to tell the word."""


def picture(folder: Path, word: str, size: int = 1 << 20) -> bytes:
    """Return a squashfs image with about `size` bytes that cannot be compressed, and a file `word`."""
    tree = folder / f"tree-{word}"
    tree.mkdir(parents=True)
    (tree / "word").write_text(f"{word}\n", encoding="ascii")
    (tree / "ballast").write_bytes(Random(word).randbytes(size))
    return image_factory.squashfs(folder / f"{word}.sqsh", tree).read_bytes()
