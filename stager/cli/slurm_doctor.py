"""`stage-image slurm doctor`: what is missing or dangerous in the running Slurm's configuration, and on this node."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stager.cli.options import add_json
from stager.cli.output import write, write_json
from stager.errors import ConfigError

if TYPE_CHECKING:
    from stager.schedulers.slurm_rules import Finding

EPILOG = """\
Reads `scontrol show config` and what this node has of hooks, plugstack.conf and job_container.conf. Run it as root on a
compute node: hooks and settings are then seen as slurmd sees them. Nothing is changed.
Exit code 0 if nothing is dangerous, whatever could be better; 64 if something endangers jobs or nodes; 85 if Slurm does
not answer.
"""

EXIT_DANGER = ConfigError.exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Look, tell, and fail if something is dangerous."""
    # Here, because this module is imported for the arguments of every hook.
    from stager.cli import slurm_findings

    found = slurm_findings.findings()
    if arguments.json:
        write_json([_row(finding) for finding in found])
    else:
        _print(found)
    return EXIT_DANGER if any(finding.level == "danger" for finding in found) else 0


def _row(finding: Finding) -> dict[str, str]:
    return {"level": finding.level, "what": finding.what, "why": finding.why, "remedy": finding.remedy}


def _print(found: list[Finding]) -> None:
    width = max(len(finding.what) for finding in found)
    for finding in found:
        write(f"{finding.level:6}  {finding.what:{width}}  {finding.why}")
        if finding.remedy:
            write(f"{'':6}  {'':{width}}  -> {finding.remedy}")
