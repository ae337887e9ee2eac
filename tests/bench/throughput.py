"""One task, one image, an origin as fast as it goes: what staging costs on top of fetching and checking."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.bench.samples import Sample, interleaved
from tests.bench.table import Row
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from tests.bench.ground import Ground
    from tests.bench.processes import Ended

FETCHED = "curl -sSf -o $1 $2"
CHECKED = f"{FETCHED} && sha256sum $1"
QUICKLY = f"{FETCHED} && openssl dgst -sha256 $1"
"""Unlike coreutils as Debian builds it, OpenSSL uses the processor's instructions for SHA-256, as our hashlib does."""
DURABLE = f"{QUICKLY} && sync $1"


def rows(ground: Ground) -> list[Row]:
    """Measure the console script against curl and sha256sum, one after the other."""
    image = ground.image(ground.scale.image)
    with Nginx(image.parent) as origin:
        url = origin.url(f"/{image.name}")
        staged, checked, quickly, durable, curl = interleaved(
            ground.scale.rounds,
            lambda: _staged(ground, url),
            lambda: fetched(ground, CHECKED, url),
            lambda: fetched(ground, QUICKLY, url),
            lambda: fetched(ground, DURABLE, url),
            lambda: fetched(ground, FETCHED, url),
        )
    size = image.stat().st_size / 1e9
    others = ((CHECKED, checked), (QUICKLY, quickly), (DURABLE, durable), (FETCHED, curl))
    return [
        Row(
            what=f"staging {size * 1000:.0f} MB, unshaped, until published",
            measured=Sample([one.seconds for one in staged]),
            against="`curl -o`, then `sha256sum`",
            reference=Sample([one.seconds for one in checked]),
            notes=(_rate("stage-image", staged, size), *(_rate(f"`{name}`", ended, size) for name, ended in others)),
        )
    ]


def fetched(ground: Ground, script: str, url: str) -> Ended:
    """Run a shell script with a file to fetch to as $1 and the URL as $2."""
    target = ground.folder / "fetched"
    os.sync()
    try:
        return ground.launcher.run(("/bin/sh", "-c", script, "sh", str(target), url))
    finally:
        target.unlink(missing_ok=True)


def _staged(ground: Ground, url: str) -> Ended:
    with ground.job() as job:
        return ground.launcher.run((ground.cli, url), job)


def _rate(name: str, ended: list[Ended], size: float) -> str:
    seconds, cpu = Sample([one.seconds for one in ended]).median, Sample([one.cpu for one in ended]).median
    return f"{name}: {seconds:.2f} s, {size / seconds:.2f} GB/s, {cpu / size:.2f} CPU-s/GB"
