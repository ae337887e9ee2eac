"""The pure parts of the benchmark of container images: the image, what processes use, the page."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import tarfile
from typing import TYPE_CHECKING

from docs.links import anchors
from tests.bench.processes import Launcher
from tests.bench.registry import page
from tests.bench.registry_image import Built, Shape, build, plan
from tests.bench.registry_usage import children, family, measure, resident
from tests.bench.samples import Sample
from tests.bench.table import Row
from tests.support.layered_images import digest

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Shape(files=300, size=1 << 20, pool=1 << 16)
MIB = 1 << 20


def names(built: Built) -> set[str]:
    """Return what is to be seen, by a merge that knows whiteouts of files only."""
    seen: set[str] = set()
    for layer in built.layers:
        blob = built.layout / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")
        with tarfile.open(blob, "r:gz") as archive:
            members = archive.getnames()
        gone = {name.replace(".wh.", "") for name in members if ".wh." in name}
        assert gone <= seen
        seen = (seen - gone) | {name for name in members if ".wh." not in name}
    return seen


def test_the_image_is_the_same_every_time_and_whole(tmp_path: Path) -> None:
    one, other = build(tmp_path / "one", SMALL), build(tmp_path / "other", SMALL)
    assert one.layers == other.layers
    assert one.diff_ids == other.diff_ids
    assert len(one.layers) == 8
    for layer, diff_id in zip(one.layers, one.diff_ids, strict=True):
        blob = (one.layout / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")).read_bytes()
        assert (digest(blob), len(blob)) == (layer["digest"], layer["size"])
        assert digest(gzip.decompress(blob)) == diff_id
    assert one.compressed == sum(layer["size"] for layer in one.layers)
    assert 0.9 * SMALL.size < one.expanded
    assert one.compressed < one.expanded
    files = [name for name in names(one) if name.rpartition(".")[2] in ("txt", "so", "py", "gz")]
    # What the topmost layer would have removed by a layer above stays.
    assert SMALL.files <= len(files) <= SMALL.files + 3


def test_its_documents_name_each_other(tmp_path: Path) -> None:
    built = build(tmp_path / "layout", SMALL, tag="t")
    (named,) = json.loads((built.layout / "index.json").read_bytes())["manifests"]
    assert named["annotations"] == {"org.opencontainers.image.ref.name": "t"}
    data = (built.layout / "blobs" / "sha256" / named["digest"].removeprefix("sha256:")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == named["digest"]
    assert json.loads(data)["layers"] == built.layers


def test_a_plan_has_as_many_bytes_as_asked_and_replaces_some() -> None:
    layers = plan(Shape(files=5000, size=1 << 27))
    files = [member for layer in layers for member in layer if member.size]
    distinct = {member.name: member.size for member in files}
    assert len(distinct) < len(files)
    assert 0.8 * (1 << 27) < sum(distinct.values()) < 1.1 * (1 << 27)
    assert {member.kind for layer in layers for member in layer} >= {"whiteout", "hardlink", "symlink", "directory"}


def test_another_seed_is_another_image(tmp_path: Path) -> None:
    one, other = (Shape(40, 1 << 16, seed, 1 << 14) for seed in (6, 7))
    assert build(tmp_path / "a", other).diff_ids != build(tmp_path / "b", one).diff_ids


def test_what_children_of_children_use_and_write_is_counted(tmp_path: Path) -> None:
    script = f"cd {tmp_path} && sh -c 'dd if=/dev/zero of=a bs=1M count=3 2>/dev/null; sleep 0.2'; rm a"
    with Launcher({"PATH": os.environ["PATH"]}, str(tmp_path / "log")) as launcher:
        used = measure(launcher, ("/bin/sh", "-c", script))
    assert used.seconds >= 0.2
    assert 0 < used.own < used.memory
    # On a file system in memory nothing goes to disk.
    assert used.written == 0 or 3 * MIB <= used.written < 4 * MIB


def test_a_family_is_all_that_was_started_below() -> None:
    inner = os.pipe()
    first = os.fork()
    if first == 0:
        below = os.fork()
        if below:
            os.write(inner[1], str(below).encode())
        signal.pause()
    below = int(os.read(inner[0], 20))
    try:
        assert str(first) in children("self")
        assert family([str(first)]) == [str(first), str(below)]
        assert resident(str(below)) > 0
    finally:
        os.kill(below, signal.SIGKILL)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        for end in inner:
            os.close(end)
    assert family([str(first)]) == [str(first)]
    assert resident(str(first)) == 0


def test_the_page_has_its_rows(tmp_path: Path) -> None:
    text = page(["2 cores"], [Row(what="docker://", measured=Sample([1.0]), notes=("why",))])
    assert "- 2 cores\n" in text
    assert "| docker:// " in text
    assert "- why\n" in text
    path = tmp_path / "page.md"
    path.write_text(text)
    assert anchors(path) == {"benchmarks-of-container-images", "the-rows-in-detail"}
