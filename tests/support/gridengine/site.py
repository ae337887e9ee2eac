"""The cell of Grid Engine, and what all its hosts have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.slurm import site as slurm_site

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ADMIN = 60003
"""User sgeadmin, whom Debian's packages would make: owns the cell."""
PROGRAMS = "/usr/lib/gridengine"
"""Where Debian's gridengine packages have the programs; those in /usr/bin and /usr/sbin lead to them."""
SHARE = "/usr/share/gridengine"
SPOOL = "/var/spool/gridengine"
PORTS = {"SGE_QMASTER_PORT": "6444", "SGE_EXECD_PORT": "6445"}
"""As registered with IANA; every host has a network of its own."""

# load_thresholds of the queue aside, these make Grid Engine tell and act within a second, and mail nobody.
_CONF = {
    "execd_spool_dir": SPOOL,
    "mailer": "/bin/true",
    "administrator_mail": "none",
    "load_report_time": "00:00:01",
    "max_unheard": "00:00:30",
    "loglevel": "log_info",
    "reporting_params": "accounting=true reporting=false accounting_flush_time=00:00:00 joblog=false sharelog=00:00:00",
    "gid_range": "65400-67400",
}
_QUEUE = {
    "hostlist": "@allhosts",
    "load_thresholds": "NONE",
    "shell": "/bin/sh",
    "shell_start_mode": "unix_behavior",
    "pe_list": "spread fill",
    "rerun": "TRUE",
    "notify": "00:00:01",
}
_SCHEDULER = {
    "schedule_interval": "0:0:1",
    "flush_submit_sec": "1",
    "flush_finish_sec": "1",
    "job_load_adjustments": "NONE",
    "load_adjustment_decay_time": "0:0:0",
}
_RULES = {"spread": "$round_robin", "fill": "$fill_up"}
_EXEC_HOST = ("load_scaling", "complex_values", "user_lists", "xuser_lists", "projects", "xprojects", "usage_scaling")

# spoolinit finds libspoolc by the environment only. Without utilbin/…/qrsh_starter, `qrsh -inherit` runs nothing and
# ends with 0. replace NAME VALUE: another value for a line of a configuration, or one more line.
_MAKE_CELL = """\
set -eu
umask 022
export SGE_ROOT="$root" SGE_CELL=default LD_LIBRARY_PATH="$programs"
cd /
as_admin() { setpriv --reuid "$admin" --regid "$admin" --clear-groups "$@"; }
as_admin "$programs/spoolinit" classic libspoolc "$params" init
as_admin "$programs/spooldefaults.bin" configuration "$root/conf.base"
as_admin "$programs/spooldefaults.bin" complexes "$share/util/resources/centry"
as_admin "$programs/spooldefaults.bin" usersets "$share/util/resources/usersets"
as_admin "$programs/spooldefaults.bin" managers root sgeadmin
"""
_CONFIGURE = """\
set -eu
umask 022
cd "$files"
for host in $hosts; do qconf -ah "$host"; qconf -as "$host"; qconf -Ae "host.$host"; done
qconf -as "$master"
qconf -Ahgrp group
for environment in spread fill; do qconf -Ap "pe.$environment"; done
qconf -ssconf | awk -f replace.awk scheduler.new - >scheduler && qconf -Msconf scheduler
qconf -sc >complexes && cat complexes.new >>complexes && qconf -Mc complexes
qconf -sq | awk -f replace.awk queue.new - >queue && qconf -Aq queue
"""
_REPLACE = """\
NR == FNR { name = $1; value = $0; sub(/^[^ ]+ +/, "", value); wanted[name] = value; next }
$1 in wanted { print $1, wanted[$1]; delete wanted[$1]; next }
{ print }
END { for (name in wanted) print name, wanted[name] }
"""


class Site(slurm_site.Site):
    """Adds the cell to what the hosts of Slurm's bed have: accounts, homes, settings, the program."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "sge"
        self.files = folder / "files"
        self.files.mkdir()
        for name, line in {
            "passwd": f"sgeadmin:x:{ADMIN}:{ADMIN}::/:/usr/sbin/nologin",
            "group": f"sgeadmin:x:{ADMIN}:",
        }.items():
            with (self.etc / name).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        (self.etc / "default").mkdir()
        self._write("default/gridengine", (f"export {name}={value}" for name, value in self.variables().items()))

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which all of Grid Engine finds this cell."""
        return {"SGE_ROOT": str(self.root), "SGE_CELL": "default", **PORTS}

    def cell(self, master: str, conf: Mapping[str, str]) -> str:
        """Make the directories of the cell; return what its master's host runs before qmaster is started."""
        params = f"{self.root}/default/common;{self.root}/spool/qmaster"
        for place in ("bin", "utilbin", "default/common", "spool/qmaster/job_scripts"):
            (self.root / place).mkdir(parents=True)
        for place in ("bin/lx-amd64", "utilbin/lx-amd64"):
            (self.root / place).symlink_to(PROGRAMS)
        (self.root / "util").symlink_to(f"{SHARE}/util")
        changes = {"spooling_method": "classic", "spooling_lib": "libspoolc", "spooling_params": params}
        changes |= {"qmaster_spool_dir": f"{self.root}/spool/qmaster", "binary_path": f"{self.root}/bin"}
        common = self.root / "default" / "common"
        (common / "bootstrap").write_text(replaced(_read(f"{SHARE}/default-bootstrap"), changes), encoding="ascii")
        (common / "act_qmaster").write_text(f"{master}\n", encoding="ascii")
        base = replaced(_read(f"{SHARE}/default-configuration"), {**_CONF, **conf})
        (self.root / "conf.base").write_text(base, encoding="utf-8")
        for path in (self.root / "default", self.root / "spool"):
            for found in (path, *path.rglob("*")):
                os.chown(found, ADMIN, ADMIN)
        names = {"root": self.root, "programs": PROGRAMS, "share": SHARE, "admin": ADMIN, "params": params}
        return "".join(f"{name}='{value}'\n" for name, value in names.items()) + _MAKE_CELL

    def configuration(
        self, master: str, hosts: Iterable[str], slots: int, complexes: Iterable[str], queue: Mapping[str, str]
    ) -> str:
        """Write the files of a configuration; return what makes qmaster take them, run as root on its host."""
        names = " ".join(hosts)
        texts = {f"host.{name}": _exec_host(name) for name in names.split()}
        texts |= {f"pe.{name}": _parallel_environment(name, rule) for name, rule in _RULES.items()}
        texts |= {
            "group": f"group_name @allhosts\nhostlist {names}\n",
            "complexes.new": "".join(f"{line}\n" for line in complexes),
            "scheduler.new": _lines(_SCHEDULER),
            "queue.new": _lines({"qname": "all.q", "slots": str(slots), **_QUEUE, **queue}),
            "replace.awk": _REPLACE,
        }
        for name, text in texts.items():
            (self.files / name).write_text(text, encoding="utf-8")
        return f"files='{self.files}'\nhosts='{names}'\nmaster='{master}'\n{_CONFIGURE}"


def replaced(text: str, values: Mapping[str, str]) -> str:
    """Return a configuration with other values, or more; comments, which some take for lines, go."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    kept = [line for line in lines if line.split()[0] not in values]
    return "".join(f"{line}\n" for line in kept) + _lines(values)


def _lines(values: Mapping[str, str]) -> str:
    return "".join(f"{name} {value}\n" for name, value in values.items())


def _exec_host(name: str) -> str:
    return _lines({"hostname": name, **dict.fromkeys(_EXEC_HOST, "NONE"), "report_variables": "NONE"})


def _parallel_environment(name: str, rule: str) -> str:
    ends = {"start_proc_args": "NONE", "stop_proc_args": "NONE"}
    lists = {"user_lists": "NONE", "xuser_lists": "NONE"}
    slaves = {"control_slaves": "TRUE", "job_is_first_task": "FALSE", "urgency_slots": "min"}
    rules = {"allocation_rule": rule, **slaves, "accounting_summary": "TRUE", "qsort_args": "NONE"}
    return _lines({"pe_name": name, "slots": "999", **lists, **ends, **rules})


def _read(path: str) -> str:
    return Path(path).read_text("utf-8")
