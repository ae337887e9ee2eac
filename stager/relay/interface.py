"""Where a node serves others: an address of its own that they can reach."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct

from stager.errors import ConfigError

SIOCGIFADDR = 0x8915
"""linux/sockios.h: the IPv4 address of an interface, by netdevice(7)."""

ELSEWHERE = "192.0.2.1"
"""An address of nobody's (RFC 5737): which of ours would speak to it is asked without sending anything."""


def address(wanted: str, default: str) -> str:
    """Return the IP address to listen on.

    `wanted`: an address, a network (`10.1.0.0/16`: ours in it), or an interface's name; empty: `default`, unless that
    is a loopback address, which other nodes cannot reach. Raises ConfigError.
    """
    if not wanted:
        return _beyond_loopback(default)
    if "/" in wanted:
        return _in_network(wanted)
    try:
        return str(ipaddress.ip_address(wanted))
    except ValueError:
        found = _of_interface(wanted)
    if not found:
        raise ConfigError(f"cluster.interface: there is no interface {wanted!r} with an IPv4 address here")
    return found


def _in_network(text: str) -> str:
    network = ipaddress.ip_network(text, strict=False)
    ours = [_of_interface(name) for _, name in socket.if_nameindex()]
    for found in ours:
        if found and ipaddress.ip_address(found) in network:
            return found
    raise ConfigError(f"cluster.interface: none of our addresses is in {text}")


def _of_interface(name: str) -> str:
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
                return ""
            raise
    return socket.inet_ntoa(answer[20:24])


def _beyond_loopback(default: str) -> str:
    if not default or not ipaddress.ip_address(default).is_loopback:
        return default or "127.0.0.1"
    # ZooKeeper on this very node. On a machine without a network the others can only be here as well.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ELSEWHERE, 9))
        except OSError:
            return default
        found: str = probe.getsockname()[0]
        return found
