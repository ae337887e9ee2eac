"""`stage-image doctor`: what this node can do, what lies about, and what to do about each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager import collect, filesystem, mounts
from stager.cli import doctor_cluster, doctor_conversion, layers_kept
from stager.cli.finding import Finding
from stager.cli.node import Node
from stager.cli.options import add_json, add_store, flags
from stager.cli.output import write, write_json
from stager.errors import StageImageError
from stager.store import files, folder, images, room
from stager.store.room import show_bytes

if TYPE_CHECKING:
    import argparse

    from stager.layout import Layout

EPILOG = """\
Nothing is changed without --fix, which collects what dead processes left behind: mounts, leases, unfinished images.
Exit code 0 if images can be staged here; what is merely missing or left over does not make it fail.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--fix", action="store_true", help="collect what dead processes left behind")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look, tell, and fix if asked to."""
    node = Node(flags(arguments))
    findings = [_filesystem(node)]
    failure = 0
    try:
        layout = node.layout
    except StageImageError as error:
        findings.append(Finding("store", ok=False, detail=error.message, remedy=error.hint))
        failure = error.exit_code
    else:
        findings += [_store(layout), _space(node, layout), *_leftovers(node, fix=arguments.fix), *_quarantine(layout)]
    findings += [
        Finding(found.name, ok=found.ok, detail=found.detail, remedy=found.remedy)
        for found in mounts.capabilities(_existing(node.root))
    ]
    findings.append(doctor_conversion.finding())
    findings += doctor_cluster.findings(node)
    if arguments.json:
        write_json([vars(finding) for finding in findings])
    else:
        _print(findings)
    return failure


def _existing(path: str) -> str:
    return path if os.path.isdir(path) else _existing(os.path.dirname(path))


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        write(f"{'ok  ' if finding.ok else 'NO  '}{finding.name:{width}}  {finding.detail}")
        if finding.remedy and not finding.ok:
            write(f"    {'':{width}}  -> {finding.remedy}")


def _filesystem(node: Node) -> Finding:
    root = node.root
    found = filesystem.inspect(root)
    kind = "network" if found.network else "memory" if found.ram else "local"
    detail = f"{root} is on {found.fstype} ({kind})" + (
        f", private to this job: {found.private}" if found.private else ""
    )
    remedy = "set STAGE_IMAGE_STORE to a directory on the node's local disk that all jobs see"
    return Finding("file system", ok=not (found.network or found.private), detail=detail, remedy=remedy)


def _store(layout: Layout) -> Finding:
    writable = folder.is_writable(layout)
    detail = f"{layout.root} is {'sound and writable' if writable else 'read-only'}"
    return Finding("store", ok=writable, detail=detail, remedy="staged images can be used, others cannot be staged")


def _space(node: Node, layout: Layout) -> Finding:
    free, layers = room.free_bytes(layout.root), layers_kept.line(layout)
    held = sum(images.size_of(layout, digest) for digest in images.digests(layout))
    prunable = sum(image.size for image in room.evictable(layout))
    detail = f"{show_bytes(free)} free, {show_bytes(held)} in images, {show_bytes(prunable)} of them unused"
    detail += f"; {layers}" if layers else ""
    return Finding("space", ok=free > node.config.min_free, detail=detail, remedy="run `stage-image prune`")


def _leftovers(node: Node, *, fix: bool) -> list[Finding]:
    collector = collect.Collector(node.layout, node.election, node.way_of, dry_run=not fix)
    collected = collector.run()
    verb = "collected" if fix else "left by the dead"
    findings = [
        Finding("leftover", ok=fix, detail=f"{verb}: {what}", remedy="run `stage-image doctor --fix`")
        for what in collected.removed
    ]
    findings += [
        Finding(
            "leftover", ok=False, detail=what, remedy="end what keeps it busy, or `stage-image umount --all --lazy`"
        )
        for what in collected.kept
    ]
    return findings or [Finding("leftovers", ok=True, detail="none")]


def _quarantine(layout: Layout) -> list[Finding]:
    bad = files.names(f"{layout.root}/quarantine")
    if not bad:
        return []
    detail = f"{len(bad)} bad images in {layout.root}/quarantine"
    return [Finding("quarantine", ok=False, detail=detail, remedy="look at them, then remove them")]
