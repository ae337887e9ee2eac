"""Power and a network for all machines of a bed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.cluster.hosts import Host
from tests.support.cluster.network import UNSHAPED, Switch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from tests.support.slurm.machine import Machine
    from tests.support.slurm.site import Site


def connect(site: Site, machines: Mapping[str, Machine], rates: Mapping[str, float], ending: ExitStack) -> Switch:
    """Give machines power, and links with these rates in Mbit/s, the others without; both go with `ending`."""
    hosts = site.hosts({name: machine.address for name, machine in machines.items()})
    center = Host("switch", site.folder / "switch", hosts)
    ending.callback(center.destroy)
    for machine in machines.values():
        ending.callback(machine.power_off)
        machine.power_on(hosts)
    for host in (center, *(machine.host for machine in machines.values())):
        host.wait()
    switch = Switch(center)
    switch.connect([machine.link(rates.get(name, UNSHAPED)) for name, machine in machines.items()])
    return switch
