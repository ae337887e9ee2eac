"""Grid Engine's test bed as a whole: boots, is asked, ends."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

from stager.schedulers.gridengine_setup import COMPLEXES, TOLD
from tests.support.cluster.ensemble import Ensemble
from tests.support.cluster.hosts import together
from tests.support.cluster.network import UNSHAPED
from tests.support.cluster.origin import Origin
from tests.support.gridengine.machine import Machine
from tests.support.gridengine.site import PROGRAMS, Site, replaced
from tests.support.leftovers import GRACE
from tests.support.slurm.site import ALICE, BOB, STORE
from tests.support.slurm.users import User
from tests.support.slurm.wiring import connect
from tests.support.tasks import NOTHING, PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.support.cluster.network import Switch

ORIGIN = "10.79.0.1"
_MASTER = "10.79.0.2"
_PORT = 6444
_KEEPER = "10.79.0.11"
_ASK_AGAIN = 0.05
"""Seconds between two questions to qmaster: each is a process, on a machine that has others to run."""
_SHIPPED = ROOT / "sbatch-wrapper" / "gridengine"
_HOOKS = {"prolog": f"root@{{}} {TOLD}", "epilog": f"root@{{}} {TOLD}", "starter": "{}"}
"""Files of hooks, and what Grid Engine is told of them."""
_QUEUE_SETTING = {"starter": "starter_method"}


class Account(NamedTuple):
    """A line of accounting(5): one attempt of a job or of an array's task. `failed` is 0, or why there was no end."""

    host: str
    failed: int
    code: int
    task: int
    slots: int
    start: int


class Bed:
    """Made by `gridengine`; see the package."""

    def __init__(self, site: Site, switch: Switch, machines: dict[str, Machine], rate: float) -> None:
        self.site = site
        self.switch = switch
        self.master = machines["qm"]
        self.hosts = [machine for machine in machines.values() if machine.role == "sge_execd"]
        self.user = User("alice", ALICE, site.home / "alice", self.master)
        self.other = User("bob", BOB, site.home / "bob", self.master)
        self.root = User("root", 0, Path("/root"), self.master)
        self.origin = Origin(machines["origin"].host, ORIGIN)
        self.zookeeper = Ensemble([machines["zookeeper"].host], [_KEEPER]) if "zookeeper" in machines else None
        self._rate = rate
        self._scripts = count()
        for machine in self.hosts:
            machine.bed = self

    def boot(self, cell: str, configuration: str) -> None:
        """Start all that serves; return when every execution host reports."""
        together([machine.set_up() for machine in (self.master, *self.hosts)])
        if self.zookeeper:
            self.zookeeper.start()
        self.origin.start()
        self._prepare(cell)
        self.master.serve()
        self.wait_for(lambda: _PORT in self.master.host.listening(), "qmaster to listen")
        self._prepare(configuration)
        for machine in self.hosts:
            machine.serve()
        if self.zookeeper:
            self.zookeeper.wait()
        self.reporting(*self.hosts)

    def host(self, name: str) -> Machine:
        """Return an execution host by its name."""
        return next(machine for machine in self.hosts if machine.name == name)

    def reporting(self, *hosts: Machine) -> None:
        """Return when these hosts, just started, have reported their load."""
        for host in hosts:
            self.wait_for(host.has_registered, f"execd of {host} to find qmaster")
            self.await_value(host, "load_avg", lambda value: value not in ("", "-"))

    def qconf(self, *words: str, stdin: str = "") -> str:
        """Run qconf as root, who is manager, on the qmaster's host; return what it says. Raises CalledProcessError."""
        return self._ask("qconf", *words, stdin=stdin)

    def set_queue(self, **values: str) -> None:
        """Give all.q other settings."""
        for name, value in values.items():
            self.qconf("-mattr", "queue", name, value, "all.q")

    def set_conf(self, **values: str) -> None:
        """Give the global configuration other settings."""
        # qconf takes the name of the configuration from that of the file.
        (self.site.files / "global").write_text(replaced(self.qconf("-sconf"), values), encoding="utf-8")
        self.qconf("-Mconf", f"{self.site.files}/global")

    def qsub(self, script: str, *options: str, env: Mapping[str, str] = NOTHING, user: User | None = None) -> str:
        """Submit a script, with its errors in its output; return the job's id."""
        user = user or self.user
        name = f"job-{next(self._scripts)}.sh"
        (user.home / name).write_text(script, encoding="utf-8")
        kept = ("-terse", "-cwd", "-j", "y", "-o", f"/home/{user.name}/$JOB_ID.$TASK_ID.out")
        ran = user.run("qsub", *kept, *options, name, env=env)
        assert ran.code == 0, ran.err + ran.out
        return ran.out.split()[-1].partition(".")[0]

    def states(self, job: str) -> list[str]:
        """Return the states of a job's parts that are in the queue: qw, t, r, Rq, Eqw, …; nothing once it has ended."""
        found = ET.fromstring(self._ask("qstat", "-u", "*", "-xml"))
        return [_text(item, "state") for item in found.iter("job_list") if _text(item, "JB_job_number") == job]

    def await_job(self, job: str, patience: float = PATIENCE) -> str:
        """Return the exit codes of what ran to an end, sorted, once nothing of the job is in the queue."""
        self.wait_for(lambda: self.accounts(job) and not self.states(job), f"job {job} to end", patience, job)
        return ",".join(map(str, sorted({account.code for account in self.accounts(job) if account.failed == 0})))

    def await_state(self, job: str, state: str) -> None:
        """Return when a part of a job is in a state, such as `r`."""
        self.wait_for(lambda: state in self.states(job), f"job {job} to be {state}", job=job)

    def accounts(self, job: str) -> list[Account]:
        """Return what qmaster has written down of the job's attempts."""
        path = self.site.root / "default" / "common" / "accounting"
        lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
        found = [line.split(":") for line in lines if line and not line.startswith("#")]
        return [_account(fields) for fields in found if fields[5] == job]

    def output(self, job: str, task: int = 0, user: User | None = None) -> str:
        """Return what a job, or a task of an array, has written so far; nothing if it was not started."""
        path = (user or self.user).home / f"{job}.{task}.out"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def qhost_values(self, host: Machine | str) -> dict[str, str]:
        """Return complex → value, as qmaster knows it of a host."""
        found = ET.fromstring(self._ask("qhost", "-F", "-h", str(host), "-xml"))
        (here,) = (item for item in found.iter("host") if item.get("name") == str(host))
        return {item.get("name", ""): item.text or "" for item in here.iter("resourcevalue")}

    def await_value(
        self, host: Machine | str, name: str, holds: Callable[[str], bool], patience: float = PATIENCE
    ) -> str:
        """Return the value of a host's complex once it is as wanted; `` if there is none."""
        self.wait_for(lambda: holds(self.qhost_values(host).get(name, "")), f"{name} of {host}", patience)
        return self.qhost_values(host).get(name, "")

    def queue_states(self) -> dict[str, str]:
        """Return host → letters of qstat: E for an error, u for a host that is silent, nothing for one that works."""
        found = ET.fromstring(self._ask("qstat", "-f", "-xml"))
        return {_text(item, "name").partition("@")[2]: _text(item, "state") for item in found.iter("Queue-List")}

    def messages(self, host: Machine | None = None) -> str:
        """Return the log of a host's execd, or of qmaster."""
        here = host.folder / "spool" / "gridengine" / str(host) if host else self.site.root / "spool" / "qmaster"
        return (here / "messages").read_text("utf-8", "replace")

    def cut_power(self, host: Machine) -> None:
        """Cut a host's power; Grid Engine finds out after max_unheard."""
        # Connections are reset: as long as qmaster holds one to the old execd, for a minute, it takes none of the new.
        host.host.kill()
        self.switch.unplug(host.host)
        host.power_off()

    def give_power(self, host: Machine) -> None:
        """Boot a host again; return when it reports again."""
        host.power_on(self.site.etc / "hosts")
        host.host.wait()
        self.switch.plug([host.link(self._rate)])
        together([host.set_up()])
        host.serve()
        self.reporting(host)

    def leftovers(self, grace: float = GRACE) -> list[str]:
        """Return what is left on the hosts, one line for each thing, once nothing is or the grace is over."""
        end = time.monotonic() + grace
        while (lines := [line for host in self.hosts for line in host.leftovers()]) and time.monotonic() < end:
            time.sleep(_ASK_AGAIN)
        return lines

    def wait_for(
        self, condition: Callable[[], object], what: str, patience: float = PATIENCE, job: str | None = None
    ) -> None:
        """Return when a condition holds that it costs a process to look at. Raises TimeoutError."""
        end = time.monotonic() + patience
        while not condition():
            for machine in (self.master, *self.hosts):
                machine.check()
            if time.monotonic() > end:
                raise TimeoutError(f"waited {patience:g} s for {what}: {self._known(job)}")
            time.sleep(_ASK_AGAIN)

    def _ask(self, program: str, *words: str, stdin: str = "") -> str:
        # By its own path: what is on PATH is a script of Debian's that takes 50 ms to find out where it is.
        cell = (f"{name}={value}" for name, value in self.site.variables().items())
        return self.master.run("env", *cell, f"{PROGRAMS}/{program}", *words, stdin=stdin)

    def _prepare(self, script: str) -> None:
        """Run a script as root on qmaster's host. RuntimeError with all that it said, if it fails."""
        ran = self.root.run("sh", "-c", f"exec 2>&1\n{script}")
        if ran.code:
            raise RuntimeError(f"Grid Engine cannot be set up: {ran.out}")

    def _known(self, job: str | None) -> str:
        if _PORT not in self.master.host.listening():
            return "qmaster is silent"
        why = self.root.run("qstat", *(("-j", job) if job else ("-f", "-u", "*")))
        return f"{why.out}{why.err}{self.accounts(job) if job else ''}"


@contextmanager
def gridengine(
    folder: Path,
    *,
    hosts: int = 3,
    slots: int = 4,
    sensor: bool | Path = False,
    hooks: bool | Path = False,
    zookeeper: bool = False,
    complexes: Iterable[str] = (),
    site: Mapping[str, object] = NOTHING,
    conf: Mapping[str, str] = NOTHING,
    queue: Mapping[str, str] = NOTHING,
    rate: float = UNSHAPED,
) -> Iterator[Bed]:
    """Boot a Grid Engine in `folder`, and take it all away in the end; see the package for the parameters."""
    place = Site(folder / "gridengine")
    names = [f"e{number}" for number in range(1, hosts + 1)]
    of_conf, of_queue = _hooks(place, hooks)
    cell = place.cell("qm", {**_sensor(place, sensor), **of_conf, **conf})
    known = (*(COMPLEXES if sensor is True else ()), *complexes)
    configuration = place.configuration("qm", names, slots, known, {**of_queue, **queue})
    keeper = {"scope": "cluster", "cluster.zookeeper": f"{_KEEPER}:2181"} if zookeeper else {}
    place.settings({"store": STORE, "gridengine.allow": [f"http://{ORIGIN}/"], **keeper, **site})
    with ExitStack() as ending:
        machines = _machines(place, names, zookeeper=zookeeper)
        switch = connect(place, machines, dict.fromkeys(("origin", *names), rate), ending)
        bed = Bed(place, switch, machines, rate)
        bed.boot(cell, configuration)
        yield bed


def _machines(place: Site, names: list[str], *, zookeeper: bool) -> dict[str, Machine]:
    roles = {"origin": (ORIGIN, ""), "qm": (_MASTER, "sge_qmaster")}
    roles |= {"zookeeper": (_KEEPER, "")} if zookeeper else {}
    roles |= {name: (f"10.79.1.{number}", "sge_execd") for number, name in enumerate(names, 1)}
    machines = (
        Machine(name, place, address=address, number=number, role=role)
        for number, (name, (address, role)) in enumerate(roles.items())
    )
    return {machine.name: machine for machine in machines}


def _hooks(place: Site, hooks: bool | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return settings of the global configuration and of the queue."""
    if not hooks:
        return {}, {}
    folder = _SHIPPED
    if hooks is not True:
        folder = place.folder / "hooks"
        shutil.copytree(hooks, folder)
    there = {name: value.format(folder / name) for name, value in _HOOKS.items() if (folder / name).exists()}
    of_queue = {_QUEUE_SETTING[name]: there.pop(name) for name in list(there) if name in _QUEUE_SETTING}
    return there, of_queue


def _sensor(place: Site, sensor: bool | Path) -> dict[str, str]:
    if not sensor:
        return {}
    if sensor is True:
        return {"load_sensor": str(_SHIPPED / "load-sensor")}
    return {"load_sensor": str(shutil.copy(sensor, place.files / "sensor"))}


def _account(fields: list[str]) -> Account:
    start, failed, code, slots, task = (int(fields[index]) for index in (9, 11, 12, 34, 35))
    return Account(fields[1], failed, code, task, slots, start)


def _text(item: ET.Element, name: str) -> str:
    found = item.find(name)
    return (found.text or "") if found is not None else ""
