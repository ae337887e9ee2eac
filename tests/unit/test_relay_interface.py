"""Which of our addresses others reach us by. The loopback interface is one that every machine has."""

from __future__ import annotations

import socket

import pytest

from stager.errors import ConfigError
from stager.relay import interface


@pytest.mark.parametrize("wanted", ["10.9.8.7", "::1", "2001:db8::1"])
def test_an_address_is_taken_as_it_is(wanted: str) -> None:
    assert interface.address(wanted, "10.0.0.1") == wanted


@pytest.mark.parametrize("wanted", ["lo", "127.0.0.0/8", "127.0.0.1/8"])
def test_an_interface_or_a_network_stands_for_our_address_there(wanted: str) -> None:
    assert interface.address(wanted, "10.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("wanted", ["ib7", "203.0.113.77/32", "2001:db8::/32"])
def test_where_we_have_no_address_is_said(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.interface") as raised:
        interface.address(wanted, "10.0.0.1")
    assert wanted in raised.value.message


@pytest.mark.parametrize("default", ["10.0.0.1", "2001:db8::5"])
def test_by_which_address_zookeeper_sees_us_the_others_do_too(default: str) -> None:
    assert interface.address("", default) == default


@pytest.mark.parametrize("default", ["127.0.0.1", "127.0.1.1", "::1"])
def test_beside_zookeeper_another_address_is_looked_for(default: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "ELSEWHERE", "127.0.0.77")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.77", 9))
        ours = probe.getsockname()[0]
    assert interface.address("", default) == ours


def test_a_machine_without_a_network_stays_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "ELSEWHERE", "255.255.255.255")  # refused without SO_BROADCAST (ip(7))
    assert interface.address("", "127.0.0.1") == "127.0.0.1"


def test_nobody_told_us_an_address() -> None:
    assert interface.address("", "") == "127.0.0.1"


def test_other_refusals_of_the_kernel_are_no_missing_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(PermissionError):
        interface.address("lo", "10.0.0.1")
