"""What nodes cost ZooKeeper, up to a thousand of them: `python -m tests.bench.zookeeper`."""

from __future__ import annotations

import sys

from tests.support import capabilities
from tests.support.zookeeper import Servers
from tests.support.zookeeper_load import Load, load

NODES = (16, 100, 300, 1000)

HEAD = "| nodes | requests a node | bytes to it | bytes from it | watches | leaders | all done in |"
RULE = "|---:|---:|---:|---:|---:|---:|---:|"


def line(found: Load) -> str:
    """Return a row of the table."""
    each = (found.requests, found.bytes_in, found.bytes_out)
    requests, received, sent = (f"{value / found.nodes:.2f}" for value in each)
    return (
        f"| {found.nodes} | {requests} | {received} | {sent} | {found.watches} | {found.leaders} "
        f"| {found.seconds:.2f} s |"
    )


def main() -> int:
    """Print the table; return 0 unless the machine cannot."""
    if lacking := capabilities.missing(["zookeeper"]):
        sys.stderr.write(f"bench: this machine lacks: {', '.join(lacking)}\n")
        return 2
    with Servers() as servers:
        rows = [line(load(servers, f"bench-{nodes}", nodes)) for nodes in NODES]
    sys.stdout.write("\n".join([HEAD, RULE, *rows, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
