"""From a registry to a squashfs: ours against what is run today, side by side, each from nothing on the same disk.

`python -m tests.bench.registry [--quick] [--rounds N] [--write]`, as root, in some five minutes. The image is made
anew (`registry_image`) and pushed into docker-registry on this node: the network is none of what is measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stager.layers.options import Options
from tests.bench import machine
from tests.bench.ground import FULL, MIB, QUICK, ROOT, Ground
from tests.bench.registry_image import Built, Shape, build
from tests.bench.registry_usage import Used, measure
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import Row, details, markdown
from tests.support import capabilities
from tests.support.certificates import self_signed
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from tests.bench.processes import Command

PAGE = ROOT / "docs" / "reference" / "registry-benchmarks.md"
NOTICE = "<!-- Written by `python -m tests.bench.registry --write`; measure again instead of changing it. -->"
NEEDS = ("root", "loop", "docker-registry", "skopeo", "umoci", "mksquashfs", "openssl")

WHOLE = Shape(30_000, 1 << 30)
TINY = Shape(200, 2 << 20, pool=1 << 18)

TIME, DISK, MEMORY = Goal(times=0.6), Goal(times=1.1), Goal(plus=300 * MIB)
NAME = "bench:1"

TEXT = """\
{notice}

# Benchmarks of container images

From a registry to a squashfs file, against what is run today, in one run on one machine, in turns, each from an empty
cache on the same local disk. The registry is docker-registry on the same machine. What the rows are about is in
[Container images](../explanation/container-images.md).

{machine}

{table}

## The rows in detail

{details}
"""


@dataclass(frozen=True)
class Scene:
    """Where it happens: the image, the registry that has it, and the same by TLS (ch-image takes nothing else)."""

    ground: Ground
    built: Built
    plain: Registry
    secure: Registry | None
    certificate: str

    @property
    def options(self) -> str:
        """What mksquashfs is told, ours and theirs."""
        return " ".join(Options().arguments())


@dataclass
class Figures:
    """Of each way, what it used, round by round. `convert` is of ch-convert, once: it takes a minute."""

    ours: list[Used]
    mounted: list[Used]
    umoci: list[Used]
    pulled: list[Used]
    packed: list[Used]
    convert: list[Used]
    size: int


def main(arguments: Sequence[str]) -> int:
    """Print the page; return 0 if everything could be measured, whether the goals were met or not."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.registry")
    parser.add_argument("--quick", action="store_true", help="everything tiny, to see that it works; no numbers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"keep the page in {PAGE.relative_to(ROOT)}")
    asked = parser.parse_args(arguments)
    if asked.write and asked.quick:
        parser.error("only one whole run at full scale is worth keeping")
    if lacking := capabilities.missing(NEEDS):
        sys.stderr.write(f"bench: this machine lacks: {', '.join(lacking)}\n")
        return 2
    signal.signal(signal.SIGTERM, _end)
    text = measured(quick=asked.quick, rounds=1 if asked.quick else asked.rounds)
    sys.stdout.write(text)
    if asked.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def measured(*, quick: bool, rounds: int) -> str:
    """Return the page."""
    load, code = os.getloadavg()[0], machine.code(ROOT)
    with Ground(replace(QUICK if quick else FULL, installed=False)) as ground:
        os.chdir(ground.folder)
        try:
            built = build(ground.folder / "layout", TINY if quick else WHOLE)
            certificate = self_signed(ground.folder).file
            with Registry() as plain, Registry(tls=ground.folder) as secure:
                plain.push_layout(built.layout, "1", *NAME.split(":"))
                charliecloud = _has_charliecloud()
                if charliecloud:
                    secure.push_layout(built.layout, "1", *NAME.split(":"))
                scene = Scene(ground, built, plain, secure if charliecloud else None, certificate)
                rows = table(scene, figures(scene, rounds))
            return page([code, *machine.described(ground.folder, load)], rows)
        finally:
            os.chdir(ROOT)


def figures(scene: Scene, rounds: int) -> Figures:
    """Measure all ways, in turns. Raises Failed."""
    sizes: list[int] = []
    ours, mounted, umoci, charliecloud = interleaved(
        rounds,
        lambda: _ours(scene, sizes),
        lambda: _ours(scene, sizes, "mount"),
        lambda: _umoci(scene),
        lambda: _charliecloud(scene) if scene.secure else [],
    )
    pulled, packed = ([each[step] for each in charliecloud if each] for step in (0, 1))
    convert = [_charliecloud(scene, convert=True)[1]] if scene.secure else []
    return Figures(
        ours=_firsts(ours),
        mounted=_firsts(mounted),
        umoci=_firsts(umoci),
        pulled=pulled,
        packed=packed,
        convert=convert,
        size=sizes[0],
    )


def _firsts(rounds: list[list[Used]]) -> list[Used]:
    return [each[0] for each in rounds]


def _ours(scene: Scene, sizes: list[int], *verb: str) -> list[Used]:
    reference = f"docker://{scene.plain.host}/{NAME}"
    with scene.ground.job() as job:
        used = measure(scene.ground.launcher, (scene.ground.cli, *verb, reference), job)
        images = Path(job["STAGE_IMAGE_STORE"]) / "images"
        sizes += [file.stat().st_size for file in images.rglob("image.sqsh")]
    return [used]


def _umoci(scene: Scene) -> list[Used]:
    steps = (
        f"skopeo copy -q --insecure-policy --src-tls-verify=false docker://{scene.plain.host}/{NAME} oci:layout:1",
        "umoci --log=error unpack --image layout:1 bundle",
        f"mksquashfs bundle/rootfs image.sqsh -noappend -no-progress -quiet {scene.options}",
    )
    return _steps(scene, " && ".join(steps))


def _charliecloud(scene: Scene, *, convert: bool = False) -> list[Used]:
    """Return what ch-image took, and what it then took to make a squashfs of its directory.

    ch-convert has no option for mksquashfs: with it, that is gzip in blocks of 64 KiB, which takes a minute.
    """
    host = scene.secure.host if scene.secure else ""
    packing = f"mksquashfs storage/img/* image.sqsh -noappend -no-progress -quiet {scene.options}"
    converting = f"ch-convert -i ch-image -o squash {host}/{NAME} image.sqsh"
    return _steps(scene, f"ch-image pull {host}/{NAME}", converting if convert else packing)


def _steps(scene: Scene, *steps: str) -> list[Used]:
    """Run commands of a shell in an empty folder, which is gone afterwards."""
    folder = scene.ground.folder / "theirs"
    folder.mkdir()
    more = {
        "USER": "root",
        # The python3 that is first there has to be the distribution's, for which ch-image is installed.
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "CH_IMAGE_STORAGE": str(folder / "storage"),
        "REQUESTS_CA_BUNDLE": scene.certificate,
    }
    os.sync()
    try:
        return [measure(scene.ground.launcher, _shell(folder, step), more) for step in steps]
    finally:
        shutil.rmtree(folder)


def _shell(folder: Path, step: str) -> Command:
    return "/bin/sh", "-c", f"cd {folder} && {{ {step}; }} >/dev/null"


def _has_charliecloud() -> bool:
    return all(shutil.which(name) for name in ("ch-image", "ch-convert"))


def table(scene: Scene, found: Figures) -> list[Row]:
    """Return the rows: ours against the faster of the two, and what ours needs beside time."""
    seconds = Sample([each.seconds for each in found.umoci])
    cpu = Sample([each.cpu for each in found.umoci])
    name = f"skopeo, umoci, mksquashfs {scene.options}"
    layers = Sample([float(scene.built.compressed)])
    return [
        Row(
            what="docker:// until the path",
            measured=Sample([each.seconds for each in found.ours]),
            against=name,
            reference=seconds,
            goal=TIME,
            obstacle="the load of this machine, if the CPU seconds meet it",
            notes=(
                f"layers {layers.median / MIB:.0f} MiB, expanded {scene.built.expanded / MIB:.0f} MiB",
                f"our squashfs {found.size / MIB:.0f} MiB",
            ),
        ),
        Row(
            what="the same, CPU seconds of all processes",
            measured=Sample([each.cpu for each in found.ours]),
            against=name,
            reference=cpu,
        ),
        Row(
            what="docker:// until it is mounted (`stage-image mount`)",
            measured=Sample([each.seconds for each in found.mounted]),
            against=name,
            reference=seconds,
        ),
        *_against_charliecloud(scene, found),
        Row(
            what="written to disk beside the result",
            measured=Sample([each.written - found.size for each in found.ours]),
            against="the compressed layers",
            reference=layers,
            unit="B",
            goal=DISK,
            obstacle="what goes to disk beside the blob cache",
            notes=(f"skopeo, umoci, mksquashfs in all: {_median(found.umoci, 'written') / MIB:.0f} MiB",),
        ),
        Row(
            what="memory, all processes together at the worst moment",
            measured=Sample([each.memory for each in found.ours]),
            unit="B",
            goal=MEMORY,
            obstacle="what mksquashfs keeps in its queues and caches",
            notes=(
                f"of which stage-image itself: {_median(found.ours, 'own') / MIB:.0f} MiB, the rest is mksquashfs",
                f"skopeo, umoci, mksquashfs: {_median(found.umoci, 'memory') / MIB:.0f} MiB",
            ),
        ),
    ]


def _against_charliecloud(scene: Scene, found: Figures) -> list[Row]:
    if not found.convert:
        return []
    ours = Sample([each.seconds for each in found.ours])
    pulled = _median(found.pulled, "seconds")
    both = Sample([one.seconds + other.seconds for one, other in zip(found.pulled, found.packed, strict=True)])
    lost = "ch-image leaves out what only root may make: owners, device nodes, set-id bits"
    return [
        Row(
            what="docker:// until the path",
            measured=ours,
            against="ch-image, ch-convert",
            reference=Sample([pulled + each.seconds for each in found.convert]),
            goal=TIME,
            notes=(f"ch-image alone: {pulled:.2f} s, by TLS; ch-convert, once: gzip in blocks of 64 KiB", lost),
        ),
        Row(
            what="docker:// until the path",
            measured=ours,
            against=f"ch-image, mksquashfs {scene.options}",
            reference=both,
            notes=("what Charliecloud's users could do, not what ch-convert does", lost),
        ),
    ]


def _median(used: Sequence[Used], name: str) -> float:
    return Sample([getattr(each, name) for each in used]).median


def page(described: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the page of the documentation."""
    lines = "\n".join(f"- {line}" for line in described)
    return TEXT.format(notice=NOTICE, machine=lines, table=markdown(rows), details=details(rows))


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
