"""What Slurm prints, taken from a 22.05.8 of Debian, shortened; and a `scontrol` that prints it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
Configuration data as of 2026-11-21T02:26:47
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages
AuthInfo                = (null)
BatchStartTimeout       = 10 sec
BOOT_TIME               = 2026-11-21T02:26:45
Epilog                  = (null)
InteractiveStepOptions  = --interactive --preserve-env --pty $SHELL
JobContainerType        = job_container/none
MessageTimeout          = 10 sec
NodeFeaturesPlugins     = (null)
PluginDir               = /usr/lib/x86_64-linux-gnu/slurm-wlm
PlugStackConfig         = /etc/slurm/plugstack.conf
PowerPlugin             = 
PrEpPlugins             = prep/script
ProctrackType           = proctrack/cgroup
Prolog                  = (null)
PrologEpilogTimeout     = 65534
PrologFlags             = (null)
SchedulerParameters     = (null)
SelectTypeParameters    = CR_CORE
SlurmctldHost[0]        = ctl(10.77.0.1)
SlurmdUser              = root(0)
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8
TaskProlog              = (null)

Cgroup Support Configuration:
AllowedRAMSpace         = 100.0%
SLURM_VERSION           = of another section

Slurmctld(primary) at ctl is UP
"""  # noqa: W291 - as it is printed

NODE = """\
NodeName=n1 Arch=x86_64 CoresPerSocket=4 
   CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=2.65
   AvailableFeatures={available}
   ActiveFeatures={active}
   Gres=(null)
   NodeAddr=n1 NodeHostName=n1 Version=22.05.8
   OS=Linux 6.18.44 #1 SMP PREEMPT_DYNAMIC @0 
   State=IDLE ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   Partitions=main 
   Comment=hi AvailableFeatures=evil ActiveFeatures=evil Extra=evil
{extra}
"""  # noqa: W291 - as it is printed


def config(**changes: str) -> str:
    """Return CONFIG with some lines changed, and those added that it lacks."""
    lines = CONFIG.splitlines()
    for name, value in changes.items():
        place = next((n for n, line in enumerate(lines) if line.startswith(f"{name} ")), None)
        line = f"{name:23} = {value}"
        if place is None:
            lines.insert(1, line)
        else:
            lines[place] = line
    return "\n".join(lines) + "\n"


def node(available: str = "(null)", active: str = "(null)", extra: str = "") -> str:
    """Return what `scontrol show node n1` prints."""
    return NODE.format(available=available, active=active, extra=f"   Extra={extra}\n" if extra else "")


@dataclass
class FakeScontrol:
    """A `scontrol` on the PATH, which prints what it is told to and writes down what it was asked."""

    folder: Path
    answers: dict[str, tuple[str, int]] = field(default_factory=dict)

    def install(self) -> None:
        """Make it; `say` may be called before and after."""
        self.folder.mkdir(exist_ok=True)
        program = self.folder / "scontrol"
        program.write_text(
            "#!/bin/sh\n"
            f'here="{self.folder}"\n'
            'printf "%s\\n" "$*" >> "$here/asked"\n'
            'answer="$here/$1-$2"\n'
            '[ -e "$answer" ] || answer="$here/$1"\n'
            'cat "$answer.err" >&2 2>/dev/null\n'
            'cat "$answer" 2>/dev/null\n'
            '[ -e "$answer.code" ] && exit "$(cat "$answer.code")"\n'
            "exit 0\n"
        )
        program.chmod(0o755)
        os.environ["PATH"] = f"{self.folder}:{os.environ['PATH']}"

    def say(self, words: str, text: str, *, code: int = 0, error: str = "") -> None:
        """Answer `scontrol show node …` (words: `show node`) with text, an exit code, and text on stderr."""
        place = self.folder / words.replace(" ", "-")
        place.write_text(text)
        place.with_name(f"{place.name}.code").write_text(str(code))
        place.with_name(f"{place.name}.err").write_text(error)

    @property
    def updates(self) -> list[str]:
        """The words of each `scontrol update`, in order."""
        return [line.removeprefix("update ") for line in self.asked if line.startswith("update ")]

    @property
    def asked(self) -> list[str]:
        """Every call's words, in order."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


def fake_scontrol(folder: Path) -> Iterator[FakeScontrol]:
    """Yield a scontrol that knows CONFIG and a node n1 without features."""
    path = os.environ["PATH"]
    fake = FakeScontrol(folder)
    fake.install()
    fake.say("show config", CONFIG)
    fake.say("show aliases", "n1\n\n")
    fake.say("show node", node())
    yield fake
    os.environ["PATH"] = path
