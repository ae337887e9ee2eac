"""Slurm's test bed as a whole: boots, is asked, ends."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.ensemble import Ensemble
from tests.support.cluster.hosts import Host, together
from tests.support.cluster.network import UNSHAPED
from tests.support.cluster.origin import Origin
from tests.support.leftovers import GRACE
from tests.support.slurm.machine import Machine
from tests.support.slurm.site import ALICE, BOB, HOOKS, LIB, PLUGIN, STORE, Site
from tests.support.slurm.users import User
from tests.support.slurm.wiring import connect
from tests.support.tasks import NOTHING, PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.cluster.network import Switch

ORIGIN = "10.79.0.1"
_CONTROLLER = "10.79.0.2"
_CONTROLLER_PORT = 6817
_KEEPER = "10.79.0.11"

_ENDED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "PREEMPTED")
)
_FIELD = re.compile(r"(?:^| )([A-Za-z][\w/:]*)=(.*?)(?= [A-Za-z][\w/:]*=|$)")
_ASK_AGAIN = 0.05
"""Seconds between two questions to Slurm: each is a process, on a machine that has others to run."""


_RECOMMENDED = {"PrologFlags": "Alloc,DeferBatch", "BatchStartTimeout": "300"}
"""Of docs/how-to/slurm.md, for sites with our hooks."""


class Node(Machine):
    """A machine that can lose its power, which its bed then tells Slurm."""

    bed: Bed

    def kill(self) -> None:
        """Cut its power: what it was doing is gone, what is on its disk stays, Slurm knows it to be down."""
        self.bed.cut_power(self)

    def start(self) -> None:
        """Boot it again; return when Slurm has it back."""
        self.bed.give_power(self)


class Bed:
    """Made by `slurm`; see the package."""

    def __init__(self, site: Site, switch: Switch, machines: dict[str, Node], rate: float) -> None:
        self.site = site
        self.switch = switch
        self.ctl = machines["ctl"]
        self.nodes = [machine for machine in machines.values() if machine.role == "slurmd"]
        self.user = User("alice", ALICE, site.home / "alice", self.ctl)
        self.other = User("bob", BOB, site.home / "bob", self.ctl)
        self.root = User("root", 0, Path("/root"), self.ctl)
        self.origin = Origin(machines["origin"].host, ORIGIN)
        self.zookeeper = Ensemble([machines["zookeeper"].host], [_KEEPER]) if "zookeeper" in machines else None
        self._rate = rate
        self._scripts = count()
        for node in self.nodes:
            node.bed = self

    def boot(self) -> None:
        """Start all that serves; return when every node is idle."""
        together([machine.set_up() for machine in (self.ctl, *self.nodes)])
        if self.zookeeper:
            self.zookeeper.start()
        for machine in (self.ctl, *self.nodes):
            machine.serve()
        self.origin.start()
        if self.zookeeper:
            self.zookeeper.wait()
        self.idle()

    def scontrol(self, *words: str) -> str:
        """Run scontrol as root on the controller; return what it says. Raises CalledProcessError."""
        return self.ctl.run("scontrol", *words)

    def states(self) -> dict[str, str]:
        """Return node → state as sinfo shortens it: idle, mix, alloc, comp, drain, down, with `*` if it is silent."""
        lines = self.ctl.run("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return {name: state for name, _, state in (line.partition(" ") for line in lines)}

    def drained(self) -> list[str]:
        """Return the nodes that Slurm gives no more jobs to."""
        return [name for name, state in self.states().items() if state.startswith(("drain", "drng", "fail"))]

    def idle(self, *nodes: Machine) -> None:
        """Return when these nodes, all that have power by default, are idle: also the Epilogs are through."""
        names = {node.name for node in nodes or self.nodes if node.is_up}
        self.wait_for(lambda: names <= {name for name, state in self._known().items() if state == "idle"}, "idleness")

    def sbatch(self, script: str, *options: str, env: Mapping[str, str] = NOTHING) -> str:
        """Submit a script as the user; return the job's id."""
        name = f"job-{next(self._scripts)}.sh"
        (self.user.home / name).write_text(script, encoding="utf-8")
        ran = self.user.run("sbatch", "--parsable", *options, name, env=env)
        assert ran.code == 0, ran.err
        return ran.out.strip().partition(";")[0]

    def jobs(self, job: str) -> list[dict[str, str]]:
        """Return what scontrol shows of a job: one dictionary, or one for each part of an array."""
        lines = self.scontrol("--oneliner", "show", "job", job).splitlines()
        return [dict(_FIELD.findall(line)) for line in lines if line.strip()]

    def job(self, job: str) -> dict[str, str]:
        """Return what scontrol shows of a job that is not an array."""
        (found,) = self.jobs(job)
        return found

    def await_job(self, job: str, patience: float = PATIENCE) -> str:
        """Return the state of a job when it has ended, Epilogs included; of an array, all states, comma-separated."""
        self.wait_for(lambda: self._states_of(job) <= _ENDED, f"job {job} to end", patience)
        return ",".join(sorted(self._states_of(job)))

    def await_state(self, job: str, state: str) -> None:
        """Return when a job is in a state, such as RUNNING."""
        self.wait_for(lambda: state in self._states_of(job), f"job {job} to be {state}")

    def output(self, job: str) -> str:
        """Return what a batch job, whose script a heterogeneous job runs on its first part, has written so far."""
        path = Path(next(fields["StdOut"] for fields in self.jobs(job) if fields["JobId"] == job))
        return (self.user.home / path.name).read_text("utf-8", "replace")

    def log(self, node: Machine | None = None) -> str:
        """Return the log of a node's slurmd, or of slurmctld."""
        name = f"slurmd.{node}.log" if node else "slurmctld.log"
        return (self.site.log / name).read_text("utf-8", "replace")

    def shape(self, machine: Machine | Host, rate: float) -> None:
        """Give a node's link, or `bed.origin.host`'s, another rate in Mbit/s."""
        self.switch.shape(machine if isinstance(machine, Host) else machine.host, rate)

    def cut_power(self, node: Machine) -> None:
        """Cut a node's power, and tell Slurm so: by itself it would find out after SlurmdTimeout."""
        self.switch.unplug(node.host)
        node.power_off()
        self.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=killed")

    def give_power(self, node: Machine) -> None:
        """Boot a node again; return when Slurm has it back."""
        node.power_on(self.site.etc / "hosts")
        node.host.wait()
        self.switch.plug([node.link(self._rate)])
        together([node.set_up()])
        node.serve()
        self.idle(node)

    def check_tidy(self) -> None:
        """Fail if a node was drained, or if anything is left of jobs when all Epilogs are through."""
        self.idle()
        assert self.drained() == []
        assert self.leftovers() == []

    def leftovers(self, grace: float = GRACE) -> list[str]:
        """Return what is left on the nodes, one line for each thing, once nothing is or the grace is over.

        It begins when the Epilogs of jobs that have ended are through.
        """
        self.wait_for(lambda: not any(state.startswith("comp") for state in self.states().values()), "the Epilogs")
        end = time.monotonic() + grace
        while (lines := [line for node in self.nodes for line in node.leftovers()]) and time.monotonic() < end:
            time.sleep(_ASK_AGAIN)
        return lines

    def wait_for(self, condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Return when a condition holds that it costs a process to look at. Raises TimeoutError."""
        end = time.monotonic() + patience
        while not condition():
            for machine in (self.ctl, *self.nodes):
                machine.check()
            if time.monotonic() > end:
                raise TimeoutError(f"waited {patience:g} s for {what}: {self._known()}")
            time.sleep(_ASK_AGAIN)

    def _known(self) -> dict[str, str]:
        return self.states() if _CONTROLLER_PORT in self.ctl.host.listening() else {}

    def _states_of(self, job: str) -> set[str]:
        return {fields["JobState"] for fields in self.jobs(job)}


@contextmanager
def slurm(
    folder: Path,
    *,
    nodes: int = 4,
    cpus: int = 16,
    hooks: bool | Path = False,
    zookeeper: bool = False,
    spank: bool = False,
    site: Mapping[str, object] = NOTHING,
    conf: Mapping[str, str | None] = NOTHING,
    rate: float = UNSHAPED,
) -> Iterator[Bed]:
    """Boot a Slurm in `folder`, and take it all away in the end; see the package for the parameters."""
    place = Site(folder / "slurm")
    names = [f"n{number}" for number in range(1, nodes + 1)]
    plugin = _plugin(place) if spank else ""
    place.slurm(names, cpus, {**_hooks(place, hooks), **conf}, plugin)
    keeper = {"scope": "cluster", "cluster.zookeeper": f"{_KEEPER}:2181"} if zookeeper else {}
    place.settings({"store": STORE, "slurm.allow": [f"http://{ORIGIN}/"], **keeper, **site})
    with ExitStack() as ending:
        machines = _machines(place, names, zookeeper=zookeeper)
        switch = connect(place, machines, dict.fromkeys(("origin", *names), rate), ending)
        bed = Bed(place, switch, machines, rate)
        bed.boot()
        yield bed


def _machines(place: Site, names: list[str], *, zookeeper: bool) -> dict[str, Node]:
    roles = {"origin": (ORIGIN, ""), "ctl": (_CONTROLLER, "slurmctld")}
    roles |= {"zookeeper": (_KEEPER, "")} if zookeeper else {}
    roles |= {name: (f"10.79.1.{number}", "slurmd") for number, name in enumerate(names, 1)}
    machines = (
        Node(name, place, address=address, number=number, role=role)
        for number, (name, (address, role)) in enumerate(roles.items())
    )
    return {machine.name: machine for machine in machines}


def _hooks(place: Site, hooks: bool | Path) -> dict[str, str | None]:
    if not hooks:
        return {}
    folder = ROOT / "sbatch-wrapper" / "slurm" if hooks is True else place.folder / "hooks"
    if hooks is not True:
        shutil.copytree(hooks, folder)
    there = {setting: str(folder / name) for setting, name in HOOKS.items() if (folder / name).exists()}
    return {**_RECOMMENDED, **there}


def _plugin(place: Site) -> str:
    """Build the SPANK plugin; return where it is on the machines."""
    make = ("make", "-s", "-C", str(ROOT / "sbatch-wrapper" / "spank"), f"OUT={place.folder / PLUGIN}")
    subprocess.run(make, check=True, capture_output=True)
    return f"{LIB}/{PLUGIN}"
