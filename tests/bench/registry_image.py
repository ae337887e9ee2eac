"""A container image as large as those of real work, the same bytes every time: an OCI layout that skopeo pushes.

Contents by kind: text, programs, Python files, and what nothing compresses, in slices of pools of made-up bytes. The
pools repeat themselves only at distances that neither gzip (32 KiB) nor squashfs (its block) sees.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GZIP_LEVEL = 6
"""What Docker and BuildKit push with: the default of Go's compress/gzip."""

SPREAD = 2.0
"""Sigma of the log-normal file sizes: half of the files are below an eighth of the mean, as in distributions."""

LARGEST = 48 << 20
SHARES = (0.10, 0.24, 0.03, 0.31, 0.06, 0.18, 0.07, 0.01)
"""Of files and bytes, by layer: a distribution, its packages, a large framework, small steps between them."""

TOPS = ("usr/lib", "usr/share", "opt")

STARTS = 1 << 30
"""Contents begin anywhere in their pool: at a number below this, modulo its size."""

EPOCH = 1_700_000_000
KINDS = (("text", "txt", 0.25), ("program", "so", 0.45), ("python", "py", 0.20), ("noise", "gz", 0.10))
OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Shape:
    """How large: `files` and `size` (bytes) of what is to be seen in the image, apart from what is replaced in it.

    `pool`: bytes of made-up content of each kind.
    """

    files: int
    size: int
    seed: int = 6
    pool: int = 8 << 20


@dataclass(frozen=True)
class Member:
    """A member of a layer's archive. `start`: where in its pool the content begins."""

    name: str
    kind: str
    size: int = 0
    start: int = 0
    link: str = ""


@dataclass
class Built:
    """What was made. Sizes in bytes: `compressed` of all layers, `expanded` of their archives."""

    layout: Path
    compressed: int = 0
    expanded: int = 0
    layers: list[dict[str, Any]] = field(default_factory=list)
    diff_ids: list[str] = field(default_factory=list)


def build(folder: Path, shape: Shape, tag: str = "1") -> Built:
    """Write the image into a new OCI layout, two layers at a time (zlib and hashlib do without Python's lock)."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    pools = _pools(random.Random(shape.seed), shape.pool)
    built = Built(folder)
    with ThreadPoolExecutor(2) as workers:
        for descriptor, diff_id, expanded in workers.map(lambda each: _layer(blobs, pools, each), plan(shape)):
            built.layers.append(descriptor)
            built.diff_ids.append(diff_id)
            built.compressed += descriptor["size"]
            built.expanded += expanded
    _documents(built, blobs, tag)
    return built


def plan(shape: Shape) -> list[list[Member]]:
    """Return the members of each layer, directories before what is in them."""
    chance = random.Random(shape.seed + 1)
    bounds = [round(shape.files * upto) for upto in accumulate(SHARES, initial=0.0)]
    sizes = _sizes(chance, shape)
    layers: list[list[Member]] = []
    below: list[Member] = []
    for number in range(len(SHARES)):
        files = [
            _file(chance, f"part{number}", index, sizes[index]) for index in range(bounds[number], bounds[number + 1])
        ]
        again = chance.sample(below, min(len(below), len(files) // 25))  # one of 25 files replaces one below it
        replaced = [Member(one.name, one.kind, one.size, chance.randrange(STARTS)) for one in again]
        # What is removed above has been nowhere in the count: it goes as it came.
        gone = [_file(chance, f"part{number}", shape.files + index, 8192) for index in range(len(files) // 100)]
        links = [Member(f"{one.name}.ln", "symlink", link=one.name.rpartition("/")[2]) for one in files[::20]]
        same = [Member(f"{one.name}.hard", "hardlink", link=one.name) for one in files[7::100]]
        removed = [Member(_whiteout(one.name), "whiteout") for one in layers[-1] if one.size == 8192] if layers else []
        members = [*files, *replaced, *gone, *removed]
        layers.append([*_folders(members), *members, *links, *same])
        below += files
    return layers


def _sizes(chance: random.Random, shape: Shape) -> list[int]:
    drawn = [chance.lognormvariate(0, SPREAD) for _ in range(shape.files)]
    scale = shape.size / sum(drawn)
    # Sizes of 8192 are those of files that a layer above removes.
    return [size + (size == 8192) for size in (min(LARGEST, int(one * scale)) for one in drawn)]


def _file(chance: random.Random, part: str, index: int, size: int) -> Member:
    kind, suffix, _ = chance.choices(KINDS, [share for _, _, share in KINDS])[0]
    folder = f"{chance.choice(TOPS)}/{part}/{chance.randrange(8)}/{chance.randrange(10)}"
    return Member(f"{folder}/{kind}-{index:05}.{suffix}", kind, size, chance.randrange(STARTS))


def _whiteout(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/.wh.{last}"


def _folders(members: Sequence[Member]) -> list[Member]:
    found: set[str] = set()
    for one in members:
        parts = one.name.split("/")[:-1]
        found.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return [Member(name, "directory") for name in sorted(found)]


def _pools(chance: random.Random, size: int) -> dict[str, bytes]:
    def drawn(pieces: Sequence[bytes], skew: float, mean: float) -> bytes:
        weights = list(accumulate(1 / (rank + 1) ** skew for rank in range(len(pieces))))
        content = b"".join(chance.choices(pieces, cum_weights=weights, k=int(1.1 * size / mean)))
        return (content * math.ceil(size / len(content)))[:size]

    def word(low: int, high: int) -> bytes:
        return bytes(chance.choices(b"etaoinshrdlucmfwypvbgk", k=chance.randint(low, high)))

    words = [word(2, 11) + b" \n"[: 1 + (rank % 9 == 8)] for rank in range(20_000)]
    code = [b" " * 4 * chance.randrange(4) + word(3, 9) + b" = self." + word(4, 12) + b"(\n" for _ in range(6_000)]
    # As in machine code: few operations are most of it, many have an address of their own behind them.
    steps = [chance.randbytes(chance.randint(2, 4)) + b"\0\0\0"[: chance.randrange(4)] for _ in range(12_000)]
    return {
        "text": drawn(words, 1.05, 6),
        "python": drawn([*code, *words], 0.98, 12),
        "program": drawn(steps, 1.08, 4),
        "noise": chance.randbytes(size),
    }


def _layer(blobs: Path, pools: dict[str, bytes], members: Sequence[Member]) -> tuple[dict[str, Any], str, int]:
    squeezer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    plain, packed, expanded = hashlib.sha256(), hashlib.sha256(), 0
    path = blobs / f"{id(members)}.tmp"
    with path.open("wb") as file:
        for piece in _gathered(_archive(pools, members)):
            plain.update(piece)
            expanded += len(piece)
            data = squeezer.compress(piece)
            packed.update(data)
            file.write(data)
        data = squeezer.flush()
        packed.update(data)
        file.write(data)
        size = file.tell()
    path.rename(blobs / packed.hexdigest())
    described = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": f"sha256:{packed.hexdigest()}", "size": size}
    return described, f"sha256:{plain.hexdigest()}", expanded


def _archive(pools: dict[str, bytes], members: Sequence[Member]) -> Iterator[bytes]:
    types = {"directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}
    for one in members:
        entry = tarfile.TarInfo(one.name)
        entry.type = types.get(one.kind, tarfile.REGTYPE)
        entry.size, entry.linkname = one.size, one.link
        entry.mode = 0o755 if one.kind in ("directory", "program") else 0o644
        entry.mtime = EPOCH + one.start % 10_000_000
        yield entry.tobuf(tarfile.GNU_FORMAT)
        if one.size:
            pool = pools[one.kind]
            rest = one.size
            start = one.start % len(pool)
            while rest:
                piece = pool[start : start + min(rest, 1 << 20)]
                yield piece
                rest -= len(piece)
                start = (start + len(piece)) % len(pool)
            yield bytes(-one.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= 1 << 20:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _documents(built: Built, blobs: Path, tag: str) -> None:
    rootfs = {"type": "layers", "diff_ids": built.diff_ids}
    run = {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]}
    history = [{"created_by": f"step {number}"} for number in range(len(built.layers))]  # ch-image insists on it
    config = {"os": "linux", "architecture": "amd64", "config": run, "rootfs": rootfs, "history": history}
    described = _document(blobs, f"{OCI}.config.v1+json", config)
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": described, "layers": built.layers}
    named = _document(blobs, f"{OCI}.manifest.v1+json", manifest)
    index = {"schemaVersion": 2, "manifests": [{**named, "annotations": {"org.opencontainers.image.ref.name": tag}}]}
    (built.layout / "index.json").write_text(json.dumps(index))
    (built.layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _document(blobs: Path, media_type: str, content: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
