"""A switch and a link of a given rate to each host, all private to namespaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.cluster.hosts import together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.cluster.hosts import Host

# Without an address of its own the bridge borrows the lowest one of its ports: when that port goes, everybody's ARP
# tables are wrong for half a minute.
_BRIDGE = (
    "link add bridge address 02:00:0a:4f:00:01 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
    "link set bridge up",
)
UNSHAPED = 0


@dataclass(frozen=True)
class Link:
    """A host on the switch: `rate` in Mbit/s each way."""

    host: Host
    address: str
    port: str
    rate: float


class Switch:
    """Connects hosts; itself a host, of which only the network is used."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ports: dict[str, Link] = {}

    def connect(self, links: Sequence[Link]) -> None:
        """Plug in all of them."""
        together([(self._host.tool("ip", "-batch", "-"), "\n".join(_BRIDGE))])
        self.plug(links)

    def plug(self, links: Sequence[Link]) -> None:
        """Plug in more of them."""
        batch = [line for link in links for line in _plug(link)]
        together([(self._host.tool("ip", "-batch", "-"), "\n".join(batch))])
        ports = "\n".join(_shape(link.port, link.rate) for link in links if link.rate)
        together(
            [
                (self._host.tool("tc", "-batch", "-"), ports),
                *((link.host.tool("sh", "-e"), _address(link)) for link in links),
            ]
        )
        self._ports |= {link.host.name: link for link in links}

    def unplug(self, host: Host) -> None:
        """Take away a host's link, both ends of it: packets to it are then lost, as if it had no power."""
        link = self._ports.pop(host.name)
        together([(self._host.tool("ip", "link", "del", link.port), "")])

    def address(self, host: Host) -> str:
        return self._ports[host.name].address

    def cut(self, host: Host) -> None:
        """Drop all packets from and to a host, saying nothing to anybody."""
        self._set(host, "down")

    def heal(self, host: Host) -> None:
        self._set(host, "up")

    def shape(self, host: Host, rate: float) -> None:
        """Give a host's link another rate, in Mbit/s each way."""
        ends = ((self._host, self._ports[host.name].port), (host, "eth0"))
        together([(end.tool("tc", "-batch", "-"), _shape(device, rate)) for end, device in ends])

    def _set(self, host: Host, state: str) -> None:
        together([(self._host.tool("ip", "link", "set", self._ports[host.name].port, state), "")])


def _plug(link: Link) -> tuple[str, str]:
    return (
        f"link add {link.port} type veth peer name eth0 netns {link.host.pid}",
        f"link set {link.port} master bridge up",
    )


def _address(link: Link) -> str:
    shape = f"tc qdisc replace {_bucket('eth0', link.rate)}\n" if link.rate else ""
    return f"ip addr add {link.address}/16 dev eth0\n{shape}ip link set eth0 up\n"


def _shape(device: str, rate: float) -> str:
    return f"qdisc replace {_bucket(device, rate)}" if rate else f"qdisc del dev {device} root"


def _bucket(device: str, rate: float) -> str:
    # The burst holds a whole 64 KiB segment of GSO, which the kernel charges for its headers too.
    return f"dev {device} root tbf rate {rate:g}mbit burst 128kb latency 50ms"
