"""What a file is that is no image, in words that tell the user what went wrong."""

from __future__ import annotations

import codecs
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.images.extent import Extent

LONGEST_QUOTE = 80
"""Characters of foreign text that a message quotes."""

_UNPACK = "unpack it, and stage the SIF, squashfs or EROFS image that is in it"
_CONVERT = "write docker-archive:FILE if `docker save` made it, or oci-archive:FILE"
_REBUILD = "make an image of its content: mount it and run mksquashfs, or apptainer build"
_PAGE = "open the URL in a browser: it may need a login (~/.netrc, or the token_file setting), or another path"
_BODY = "this is probably an error message of the server: check the URL and its credentials"
_LAYERS = "if it is that of an image in a registry, write docker://host/name:tag"

_MAGICS = (
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", _UNPACK),
    (0, b"\x7fELF", "a program (ELF)", "an AppImage is run, not staged; everything else needs an image around it"),
    (0, b"QFI\xfb", "a qcow2 disk of a virtual machine", _REBUILD),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)", _REBUILD),
    (0, b"XFSB", "an XFS file system", _REBUILD),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system", _REBUILD),
)
"""Offset, bytes, what they are, hint. From magic(5) of file(1) and the formats' own documents."""

_ISO_OFFSET, _ISO = 0x8001, b"CD001"
"""ECMA-119, 8.1: the first volume descriptor is in sector 16 of 2048 bytes."""

_DOCKER = re.compile(rb"(?:[0-9a-f]{64}(?:/|\.json|\.tar)|blobs/|manifest\.json|index\.json|oci-layout|repositories)")
"""How the first name in the tar files of `docker save`, `podman save` and `skopeo copy` begins."""

_MARKUP = re.compile(r"\s*<[a-zA-Z!?]")
_HTML = re.compile(r"<(?:!doctype html|html|title)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]{0,100}>([^<]{1,300})", re.IGNORECASE)
_XML_ERROR = re.compile(r"<(?:message|code|error)>([^<]{1,300})", re.IGNORECASE)
_JSON = re.compile(r"\s*[\[{]\s*(?:[\[{}\]\"]|$)")
_JSON_ERROR = re.compile(r'"(?:message|detail|error|title)"\s*:\s*"([^"\\]{1,300})', re.IGNORECASE)


def describe(extent: Extent, head: bytes) -> tuple[str, str]:
    """Return what `extent`, whose first bytes are `head`, looks like, and a hint, which may be empty.

    Of foreign text, only what servers write for people is quoted: in a Prolog, as root, the file may be one which the
    user who named it must not read.
    """
    if not head:
        return f"an empty {extent.name}", "copy or upload the image again"
    if not any(head):
        return f"{len(head)} or more zero bytes", "the copy was probably cut off: copy or upload the image again"
    unknown = f"unknown data starting with {head[:8].hex(' ')}"
    return _by_magic(head) or _by_structure(extent, head) or _by_text(head) or (unknown, "")


def _by_magic(head: bytes) -> tuple[str, str] | None:
    for offset, magic, name, hint in _MAGICS:
        if head.startswith(magic, offset):
            return name, hint
    return None


def _by_structure(extent: Extent, head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"ustar", 257):
        return ("a Docker or OCI archive", _CONVERT) if _DOCKER.match(head) else ("a tar archive", _UNPACK)
    if head.startswith(b"#!") and b"run-singularity\n" in head[:64]:
        return "an image of Singularity 2", "convert it: apptainer build NEW.sif OLD.img"
    if extent.read(_ISO_OFFSET, len(_ISO)) == _ISO:
        return "an ISO 9660 disk", _REBUILD
    return None


def _by_text(head: bytes) -> tuple[str, str] | None:
    """Texts are what servers, people and tools leave in the place of an image; None for anything else."""
    lenient = head.decode("utf-8", "replace").removeprefix("\ufeff")
    if _MARKUP.match(lenient):
        return _markup(lenient)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    if any(not c.isprintable() and not c.isspace() for c in text):
        return None
    return _json(text) if _JSON.match(text) else _lines(text)


def _markup(text: str) -> tuple[str, str]:
    if _HTML.search(text):
        return "an HTML page" + _saying(_TITLE.search(text), " titled "), _PAGE
    return "an XML document" + _saying(_XML_ERROR.search(text)), _BODY


def _json(text: str) -> tuple[str, str]:
    if '"schemaVersion"' in text:
        return "a manifest of a registry (JSON)", _LAYERS
    return "a JSON document" + _saying(_JSON_ERROR.search(text)), _BODY


def _lines(text: str) -> tuple[str, str]:
    first = text.strip().partition("\n")[0].lower()
    if first.startswith("#!"):
        return "a script", "stage the image that it runs"
    if first.startswith("version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself with `git lfs pull`, or from the server's raw or media URL"
    if first.startswith("bootstrap:"):
        return "a definition file", "build the image: apptainer build IMAGE.sif FILE.def"
    return "a text file", ""


def _saying(match: re.Match[str] | None, verb: str = " saying ") -> str:
    from html import unescape

    return verb + quoted(unescape(match[1])) if match else ""


def quoted(text: str) -> str:
    """Return foreign text on one line, in quotes, shortened, with nothing in it that a terminal would obey."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f'"{plain}"' if len(plain) <= LONGEST_QUOTE else f'"{plain[: LONGEST_QUOTE - 1]}…"'
