"""What all machines of the test bed have in common: accounts, settings of Slurm and of stage-image, the program."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.tasks import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STORE = "/var/cache/stage-image"
RUN = "/run/stage-image"
PRIVATE_BASE = "/var/lib/stage-image-private"
"""Where a job's private directories are if a site does not say where."""

LIB = "/usr/local/lib/stage-image"
"""Where an installation could be: also jobs with a /tmp of their own have the program, and Slurm its plugin."""
PLUGIN = "stage_image.so"

MUNGE, SLURM, ALICE, BOB = 60001, 60002, 20001, 20002
_ACCOUNTS = {"root": 0, "munge": MUNGE, "slurm": SLURM, "alice": ALICE, "bob": BOB, "nobody": 65534}
USERS = {"alice": ALICE, "bob": BOB}

HOOKS = {"Prolog": "prolog", "Epilog": "epilog", "TaskProlog": "task-prolog"}
"""Settings of slurm.conf and the files that they name."""

# proctrack/linuxproc and cgroup/v1: slurmd initialises the cgroup plugin in any case, and 22.05's v1 does so without
# any cgroup mounted, where `autodetect` and v2 end slurmd. config_overrides: a node may claim more CPUs than there are.
_CONF = {
    "ClusterName": "bed",
    "SlurmctldHost": "ctl",
    "SlurmUser": "slurm",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "StateSaveLocation": "/var/spool/slurmctld",
    "SlurmdSpoolDir": "/var/spool/slurmd",
    "SlurmctldPidFile": "/run/slurmctld.pid",
    "SlurmdPidFile": "/run/slurmd.pid",
    "SlurmdDebug": "verbose",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0",
    "JobAcctGatherType": "jobacct_gather/none",
    "AccountingStorageType": "accounting_storage/none",
    "SwitchType": "switch/none",
    "MpiDefault": "none",
    "ReturnToService": "2",
    "SlurmdTimeout": "60",
    "KillWait": "5",
    "Waittime": "0",
    "SlurmdParameters": "config_overrides",
    "PropagateResourceLimits": "NONE",
    "PlugStackConfig": "/etc/slurm/plugstack.conf",
}


class Site:
    """The files of all machines: an /etc to copy from, the users' homes, logs, and a Python that finds the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.home = folder / "home"
        self.log = folder / "log"
        self.bases: set[str] = set()
        for path in (self.etc / "slurm", self.etc / "stage-image", self.home, self.log):
            path.mkdir(parents=True)
        self.log.chmod(0o1777)
        for name, uid in USERS.items():
            (self.home / name).mkdir(mode=0o755)
            os.chown(self.home / name, uid, uid)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        self._accounts()
        self._program()

    def hosts(self, addresses: Mapping[str, str]) -> Path:
        """Write /etc/hosts; return where it is."""
        lines = ("127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items()))
        return self._write("hosts", lines)

    def slurm(self, nodes: Iterable[str], cpus: int, conf: Mapping[str, str | None], plugin: str = "") -> None:
        """Write Slurm's settings; `conf` replaces single ones."""
        logs = {"SlurmctldLogFile": f"{self.log}/slurmctld.log", "SlurmdLogFile": f"{self.log}/slurmd.%h.log"}
        settings = {**_CONF, **logs, **conf}
        names = ",".join(nodes)
        shape = f"CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=16000"
        lines = [f"{name}={value}" for name, value in settings.items() if value is not None]
        lines += [f"NodeName={names} {shape} State=UNKNOWN"]
        lines += [f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP"]
        self._write("slurm/slurm.conf", lines)
        self._write("slurm/cgroup.conf", ["CgroupPlugin=cgroup/v1"])
        self._write("slurm/plugstack.conf", [f"optional {plugin}"] if plugin else [])

    def settings(self, values: Mapping[str, object]) -> None:
        """Write the settings of stage-image; names may be dotted, which TOML reads as tables."""
        private = values.get("slurm.private", ())
        assert isinstance(private, list | tuple)
        self.bases = {str(place).partition("=")[2] or PRIVATE_BASE for place in private}
        # JSON is TOML for all that occurs here: texts, numbers, booleans and lists of these.
        self._write("stage-image/config.toml", [f"{name} = {json.dumps(value)}" for name, value in values.items()])

    def kept(self) -> list[Path]:
        """Return the directories that are to be at their places, and open to all, on every machine."""
        wanted = (self.folder, ROOT, Path(sys.prefix), Path(sys.base_prefix))
        return [path for path in wanted if not any(path.is_relative_to(place) for place in ("/usr", "/opt"))]

    def linked(self) -> dict[str, Path]:
        """Return what is below LIB as well, by name: where Python finds the checkout and what that needs."""
        return {"checkout": ROOT, "packages": Path(sysconfig.get_path("purelib"))}

    def _accounts(self) -> None:
        shells = dict.fromkeys(("root", *USERS), "/bin/sh")
        homes = {"root": "/root", **{name: f"/home/{name}" for name in USERS}}
        people = (
            f"{name}:x:{uid}:{uid}:{name}:{homes.get(name, '/nonexistent')}:{shells.get(name, '/usr/sbin/nologin')}"
            for name, uid in _ACCOUNTS.items()
        )
        self._write("passwd", people)
        self._write("group", (f"{name}:x:{uid}:" for name, uid in _ACCOUNTS.items()))
        self._write("nsswitch.conf", ["passwd: files", "group: files", "hosts: files"])

    def _program(self) -> None:
        """Make an environment of Python's as an installation would be, for LIB: it finds the checkout even with -I.

        By hand: the venv module takes 50 ms, and links to an interpreter that may lie in a closed home.
        """
        python = Path(sys._base_executable)  # type: ignore[attr-defined]
        place = self.folder / "python"
        packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        packages.mkdir(parents=True)
        (place / "bin").mkdir()
        (place / "bin" / "python").symlink_to(python.resolve())
        (place / "pyvenv.cfg").write_text(f"home = {python.resolve().parent}\n", encoding="ascii")
        paths = (*(f"{LIB}/{name}" for name in self.linked()), *self.linked().values())
        (packages / "checkout.pth").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        code = "from stager.cli.main import main; raise SystemExit(main())"
        script = self.folder / "stage-image"
        script.write_text(f"#!/bin/sh\nexec {LIB}/python/bin/python -I -c '{code}' \"$@\"\n", encoding="utf-8")
        script.chmod(0o755)

    def _write(self, name: str, lines: Iterable[str]) -> Path:
        path = self.etc / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path
