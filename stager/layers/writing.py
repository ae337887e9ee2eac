"""Writing the image: the tree of all layers as one tar into mksquashfs, then the root put right, then the trailer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager import trailer
from stager.errors import DamagedImage, ImageRefused, NotAnImage, StageImageError, StoreUnusable
from stager.layers import archive, mksquashfs
from stager.layers.entry import quoted
from stager.layers.options import MERGE_VERSION
from stager.layers.settle import IDS_MAX, settle
from stager.layers.stream import Expanded
from stager.layers.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from stager.layers.entry import Content, LayerIndex
    from stager.layers.options import Options
    from stager.layers.tree import Node
    from stager.oci import ContainerConfig

BATCH = 256 << 10
"""Bytes that go into the pipe at once: small files by themselves would be a system call each."""

LOOK_EVERY = 1000
"""Entries between two looks whether all this is still wanted."""

_ZEROS = bytes(BATCH)


def parameters(options: Options) -> str:
    """Return, in a line, all that the bytes depend on besides the layers. Raises ConverterMissing."""
    version = mksquashfs.version(mksquashfs.program())
    level = options.chosen_level
    chosen = options.compression if level is None else f"{options.compression}:{level}"
    return f"merge={MERGE_VERSION} mksquashfs={version} compression={chosen} block={options.block}"


def write(  # noqa: PLR0913  # what is made, of what, where and how; three more let the caller watch
    layers: Sequence[LayerIndex],
    open_layer: Callable[[int], BinaryIO],
    dest: str,
    options: Options,
    *,
    config: ContainerConfig,
    progress: Callable[[int, int], None],
    check: Callable[[], None],
) -> None:
    """Write the image of these layers, from the lowest up, to the file `dest`.

    `open_layer(i)` opens the compressed bytes of `layers[i]`. `progress` is told bytes and all bytes of files.
    `check` may raise to end it all: nothing is left then, as after any failure. Devices stay in the image: it is
    mounted nodev. Extended attributes of the root, access control lists and SELinux labels are left out.
    Raises ImageRefused, ConverterMissing, StoreUnusable, NoSpace.
    """
    mksquashfs.version(mksquashfs.program())
    _limit(layers)
    tree = merged(layers, check)
    plan = archive.plan(tree)
    _limit_tree(tree, plan, layers)
    total = sum(node.content.size for files in plan.files.values() for _, node in files if node.content)
    with mksquashfs.Squashing(dest, options, check) as squashing:
        batch = _Batch(squashing, progress, total)
        for path, node in (*plan.directories, *plan.others):
            batch.add(archive.header(path, node))
        for layer in sorted(plan.files):
            _copy(plan.files[layer], layers[layer], open_layer(layer), batch)
        for path, target in plan.links:
            batch.add(archive.link(path, target))
        batch.add(archive.END)
        batch.flush()
        squashing.finish()
        _finish(dest, tree, plan.ids, config)


def _limit(layers: Sequence[LayerIndex]) -> None:
    """Hold all layers together to what one alone may be. Raises ImageRefused."""
    if not layers:
        return
    limits = layers[0].limits
    if sum(len(layer.entries) for layer in layers) > limits.entries:
        raise ImageRefused(f"the layers have more than {limits.entries} entries together")
    if sum(layer.names for layer in layers) > limits.names:
        raise ImageRefused(f"the names in the layers take more than {limits.names} bytes")
    allowed = limits.bytes_of(sum(layer.size for layer in layers))
    if sum(max(layer.expanded, layer.files) for layer in layers) > allowed:
        raise ImageRefused(f"the layers expand to more than {allowed} bytes, which no honest image of its size does")


def _limit_tree(tree: Tree, plan: archive.Plan, layers: Sequence[LayerIndex]) -> None:
    """Refuse what mksquashfs would fail at, or be at for hours. Raises ImageRefused."""
    count = len(plan.ids | {tree.root.uid, tree.root.gid})
    if count > IDS_MAX:
        raise ImageRefused(f"its files have {count} users and groups, and squashfs holds no more than {IDS_MAX}")
    if layers and archive.comparisons(tree) + archive.same_sized(plan) > layers[0].limits.comparisons:
        raise ImageRefused("so many files in one directory, or of one size, that mksquashfs would be at it for hours")


def merged(layers: Sequence[LayerIndex], check: Callable[[], None]) -> Tree:
    """Return the tree that comes of the layers, from the lowest up. Raises DamagedImage, ImageRefused."""
    tree = Tree(layers[0].limits if layers else None)
    for number, layer in enumerate(layers):
        for count, entry in enumerate(layer.entries):
            if not count % LOOK_EVERY:
                check()
            try:
                tree.apply(entry, number)
            except StageImageError as error:
                text = f"layer {number + 1} ({layer.name}): {quoted(entry.path)}: {error.message}"
                raise type(error)(text, hint=error.hint) from error
        check()
    return tree


class _Batch:
    """Bytes for mksquashfs, gathered."""

    def __init__(self, squashing: mksquashfs.Squashing, progress: Callable[[int, int], None], total: int) -> None:
        self._squashing = squashing
        self._progress = progress
        self._total = total
        self._done = 0
        self._held = bytearray()

    def add(self, data: bytes | memoryview) -> None:
        """Pass on, now or later."""
        if len(data) >= BATCH:
            self.flush()
            self._squashing.write(data)
            return
        self._held += data
        if len(self._held) >= BATCH:
            self.flush()

    def content(self, data: bytes | memoryview) -> None:
        """Pass on a piece of a file."""
        self.add(data)
        self._done += len(data)

    def zeros(self, count: int) -> None:
        """Pass on what a sparse file does not have."""
        while count > 0:
            self.content(memoryview(_ZEROS)[: min(count, BATCH)])
            count -= BATCH

    def flush(self) -> None:
        """Pass on all that is held."""
        self._squashing.write(self._held)
        self._held = bytearray()
        self._progress(self._done, self._total)


def _copy(files: Sequence[tuple[bytes, Node]], layer: LayerIndex, source: BinaryIO, batch: _Batch) -> None:
    """Pass a layer's files on, in the order in which they lie there; what is behind the last one is not read."""
    with source:
        try:
            stream = Expanded(source.read, allowed=layer.expanded, digest=False)
            for path, node in files:
                if node.content is None:
                    continue
                batch.add(archive.header(path, node))
                stream.skip(node.content.offset - stream.position)
                for piece in _whole(node.content, stream, batch):
                    batch.content(piece)
                batch.add(bytes(-node.content.size % 512))
        except (DamagedImage, ImageRefused, NotAnImage) as error:
            # It was sound when it was indexed: this node's disk or memory is not, and another node may have more luck.
            hint = "`stage-image verify` removes damaged layers; if it happens twice, suspect this node's disk"
            raise StoreUnusable(
                f"layer {layer.name} is not any more what it was: {error.message}", hint=hint
            ) from error


def _whole(content: Content, stream: Expanded, batch: _Batch) -> Iterator[memoryview]:
    if content.extents is None:
        yield from stream.run(content.size)
        return
    end = 0
    for start, length in content.extents:
        batch.zeros(start - end)
        yield from stream.run(length)
        end = start + length
    batch.zeros(content.size - end)


def _finish(dest: str, tree: Tree, ids: set[int], config: ContainerConfig) -> None:
    fd = os.open(dest, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, "r+b", buffering=0) as file:
        settle(fd, tree.root, ids)
        file.seek(0, os.SEEK_END)
        file.write(trailer.pack(config))
