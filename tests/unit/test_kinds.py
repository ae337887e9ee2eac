"""Values of cluster scope: which are taken, and in which form they are kept."""

from __future__ import annotations

import pytest

from stager import kinds
from stager.kinds import Kind

SESSION = kinds.duration(1, 300, "from 1s to 5m")

TAKEN: list[tuple[Kind[str], object, str]] = [
    (kinds.ZOOKEEPER, "", ""),
    (kinds.ZOOKEEPER, "zk1", "zk1:2181"),
    (kinds.ZOOKEEPER, "zk1:2182, zk2", "zk1:2182,zk2:2181"),
    (kinds.ZOOKEEPER, "10.0.0.1,[fd00::1]:65535,[::1]", "10.0.0.1:2181,[fd00::1]:65535,[::1]:2181"),
    (kinds.ZOOKEEPER, "zk.a-b.example/stage/image_1", "zk.a-b.example:2181/stage/image_1"),
    (kinds.NAME, "A.b_c-9", "A.b_c-9"),
    (kinds.NAME, "x" * 64, "x" * 64),
    (kinds.PORTS, "", ""),
    (kinds.PORTS, "21940-21964", "21940-21964"),
    (kinds.PORTS, 21940, "21940"),
    (kinds.PORTS, "1-65535", "1-65535"),
    (kinds.INTERFACE, "", ""),
    (kinds.INTERFACE, "ib0", "ib0"),
    (kinds.INTERFACE, "enp0s1.100", "enp0s1.100"),
    (kinds.INTERFACE, "10.1.0.7", "10.1.0.7"),
    (kinds.INTERFACE, "10.1.0.7/16", "10.1.0.0/16"),
    (kinds.INTERFACE, "fd00::1", "fd00::1"),
    (kinds.INTERFACE, "fd00::/8", "fd00::/8"),
]

REFUSED: list[tuple[Kind[str], object]] = [
    *((kinds.ZOOKEEPER, raw) for raw in (1, True, ["zk1"], ",", "zk1,", "zk1,,zk2", "zk1 zk2", "zk1:", "zk1:0")),
    *((kinds.ZOOKEEPER, raw) for raw in ("zk1:65536", "zk1:2181:1", ":2181", "[::1", "[zk1]", "[1.2]", "fd00::1")),
    *((kinds.ZOOKEEPER, raw) for raw in ("zk1/", "/x", "zk1/a/", "zk1//a", "zk1/../a", "zk1/.", "zk1/a b", "u@zk1")),
    *((kinds.ZOOKEEPER, raw) for raw in ("http://zk1", "zk1\n", "-zk1", "zk1,zk2/a,zk3")),
    *((kinds.NAME, raw) for raw in ("", "x" * 65, "a b", "a/b", "\xe4", "a\n", 1, None)),
    *(
        (kinds.PORTS, raw)
        for raw in (0, "0", 65536, "1-65536", "2-1", "1-", "-1", "1,2", "1 - 2", " 1", True, 1.0, "x")
    ),
    *(
        (kinds.INTERFACE, raw)
        for raw in ("10.1.0.300", "10.1.0", "10.1.0.0/33", "ib0/16", "a b", "x" * 16, "fd00:::1", 7)
    ),
]


@pytest.mark.parametrize(("kind", "raw", "kept"), TAKEN)
def test_what_is_taken(kind: Kind[str], raw: object, kept: str) -> None:
    assert kind.parse(raw) == kept
    assert kind.parse(kept) == kept


@pytest.mark.parametrize(("kind", "raw"), REFUSED)
def test_what_is_not(kind: Kind[str], raw: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as Kind promises, with whatever words
        kind.parse(raw)


@pytest.mark.parametrize(("raw", "seconds"), [("1s", 1), (6, 6), ("5m", 300), (2.5, 2.5)])
def test_bounded_times(raw: object, seconds: float) -> None:
    assert SESSION.parse(raw) == seconds
    assert SESSION.parse(SESSION.show(seconds).strip('"')) == seconds


@pytest.mark.parametrize("raw", [0, 0.99, "301s", "1h", float("nan"), "", True])
def test_times_out_of_bounds(raw: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        SESSION.parse(raw)


def test_a_range_of_ports_has_its_last_one() -> None:
    assert list(kinds.port_range("21940-21942")) == [21940, 21941, 21942]
    assert list(kinds.port_range("21940")) == [21940]
