"""`stage-image prefetch REF… --nodes LIST`: have images on nodes before any job wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager import fan
from stager.cli.campaign import Campaign
from stager.cli.node import Node
from stager.cli.options import REFERENCE, add_json, add_platform, add_store, flags
from stager.cli.output import write_json
from stager.errors import ConfigError, UsageError
from stager.kinds import count
from stager.launcher import Launcher
from stager.node_names import expand

if TYPE_CHECKING:
    import argparse

EPILOG = """\
  stage-image prefetch https://example.org/tool.sif --nodes 'n[001-128,140],gpu7'
  stage-image prefetch /shared/tool.sqsh --nodes n1,n2 --launcher srun
  stage-image prefetch /shared/tool.sqsh --nodes n1,n2 --launcher 'ssh -l root {node}'
Runs `stage-image REF` on every node. LIST has commas between names; `n[001-128]` is taken apart by ClusterShell. A
launcher is `ssh`, `srun`, or any command with `{node}` in it, which is run without a shell. What is to be run on the
node is added to it as one word for a shell there; after `srun`, or in place of a word `{words}`, as single words.
The options for staging are passed on, this shell's variables are not: each node has settings of its own.
Exit code 0 if all nodes have all images, or as many as --min-nodes says. Otherwise that of the most frequent failure,
if it is one of stage-image's own; 86 for all others, such as nodes that cannot be reached.
Interrupted, it ends its launchers; what has begun on a node may go on there to its end.
"""

PASSED_ON = ("store", "platform", "freshness", "offline", "deadline", "stall_timeout", "connections")
"""Settings that are passed on to the nodes where they are given as options."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("references", metavar="REF", nargs="+", help=f"{REFERENCE}, as on the nodes")
    parser.add_argument("--nodes", metavar="LIST", required=True, help="the nodes, such as n[001-128,140],gpu7")
    parser.add_argument("--launcher", metavar="CMD", default="ssh", help="ssh, srun, or a command with {node} in it")
    parser.add_argument("--program", metavar="PATH", default="stage-image", help="stage-image on the nodes")
    parser.add_argument(
        "--parallel", metavar="N", default="64", help=f"nodes at a time, up to {fan.MOST} (default: 64)"
    )
    parser.add_argument("--min-nodes", metavar="N", help="be content when so many nodes have all images")
    add_store(parser)
    add_platform(parser)
    parser.add_argument("--freshness", metavar="WHEN", help="ask the origin for a newer image: always, job or never")
    parser.add_argument("--offline", metavar="HOW", help="use a known image when the origin is away: allow or refuse")
    parser.add_argument("--retry", action="store_true", help="try again at once what has just failed")
    parser.add_argument("--deadline", metavar="TIME", help="give up after so long without progress, e.g. 5m")
    parser.add_argument("--stall-timeout", metavar="TIME", help="reconnect after so long without a byte, e.g. 60s")
    parser.add_argument("--connections", metavar="N", help="connections to the origin at a time, where more pay")
    parser.add_argument("--progress", metavar="HOW", help="lines or none")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run it everywhere, and tell. Raises what failed most often if too few nodes have the images."""
    node = Node(flags(arguments))
    references = [node.reference(text) for text in arguments.references]
    nodes = expand(arguments.nodes)
    if not nodes:
        raise UsageError("--nodes: the list is empty")
    campaign = Campaign(
        nodes=nodes,
        launcher=Launcher(arguments.launcher),
        command=[arguments.program, "path", "--progress=lines", *_passed_on(arguments)],
        parallel=_parallel(arguments.parallel),
        # For which a task waits for its leader. One that waits or fetches writes a line every ten seconds.
        silence=node.config.deadline + 2 * node.config.stall_timeout,
        quiet=node.config.progress == "none",
        lines=not arguments.json,
    )
    for reference in references:
        campaign.stage(reference)
    if arguments.json:
        write_json(campaign.describe())
    campaign.judge(len(nodes) if arguments.min_nodes is None else min(node.config.min_nodes, len(nodes)))
    return 0


def _parallel(text: str) -> int:
    kind = count(1, fan.MOST)
    try:
        return kind.parse(text)
    except ValueError as error:
        raise ConfigError(f"--parallel cannot be {text[:80]!a}; allowed: {kind.allowed}") from error


def _passed_on(arguments: argparse.Namespace) -> list[str]:
    given = flags(arguments)
    words = [f"--{name.replace('_', '-')}={given[name]}" for name in PASSED_ON if name in given]
    return [*words, "--retry"] if arguments.retry else words
