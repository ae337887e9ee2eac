"""Check that every link between pages leads to a file, and to a heading if it names one: `python docs/links.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: +(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """Return every page of the project: those at the top, and all below docs and sbatch-wrapper."""
    return [
        *sorted(root.glob("*.md")),
        *sorted(root.glob("docs/**/*.md")),
        *sorted(root.glob("sbatch-wrapper/**/*.md")),
    ]


def broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere. Links to other sites are not followed: no test needs the network."""
    text = _CODE.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    for inline, defined in _LINK.findall(text):
        target, _, heading = (inline or defined).partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path = page.parent / target if target else page
        if not path.exists() or (heading and heading not in anchors(path)):
            yield inline or defined


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main(root: Path = ROOT) -> int:
    """Print every broken link with its page; return the exit code."""
    found = [f"{page.relative_to(root)}: {link} leads nowhere" for page in pages(root) for link in broken(page)]
    print("\n".join(found) or "all links lead somewhere", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
