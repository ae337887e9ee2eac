"""How stagings stand: read with suspicion, summed up, and shown on 80 columns."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import standing
from stager.cli import status_asking, status_json, status_table
from stager.cli.node_records import holders
from stager.standing import NodeStanding, Standing, is_job

ASKED = Standing(reference="https://example.org/app.sqsh", staging="0" * 32, host="n1", address="10.0.0.1:1")
SIZE = 1 << 30

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
NODE = st.fixed_dictionaries(
    {"node": st.text(max_size=60) | JSON},
    optional={
        "host": st.text(max_size=300) | JSON,
        "state": st.sampled_from(standing.STATES) | JSON,
        "offset": st.integers(0, SIZE) | JSON,
        "rate": st.integers(0, 1 << 34) | JSON,
        "upstream": st.sampled_from(["origin", "n1/1"]) | JSON,
        "since": st.floats(0, 2e9) | JSON,
        "scope": JSON,
        "order": JSON,
    },
)
ANSWER = st.fixed_dictionaries(
    {"nodes": st.lists(NODE | JSON, max_size=30) | JSON},
    optional={
        **dict.fromkeys(("reference", "since", "size", "digest", "generation"), JSON),
        "doing": st.fixed_dictionaries({"phase": st.text(max_size=60), "done": JSON, "total": JSON}) | JSON,
    },
)


def node(name: str, state: str = "receiving", done: float = 0.5, **more: Any) -> NodeStanding:  # noqa: ANN401
    known = {"rate": 1e6 if state == "receiving" else 0.0, "upstream": "", "since": 1.0, "scope": "", "order": None}
    return NodeStanding(node=f"{name}/1", host=name, state=state, offset=int(done * SIZE), **{**known, **more})


def of(*nodes: NodeStanding, **more: Any) -> Standing:  # noqa: ANN401
    known = {"reference": "https://example.org/app.sqsh", "staging": "0" * 32, "host": "n1", "address": "10.0.0.1:1"}
    return Standing(**{**known, "size": SIZE, "since": 1.0, "nodes": nodes, **more})


def shown(found: Standing, *, width: int = 80, verbose: bool = False) -> list[str]:
    return list(status_table.lines(found, width=width, verbose=verbose))


@given(ANSWER, st.booleans())
def test_whatever_a_coordinator_says_can_be_shown_on_80_columns(answer: dict[str, Any], verbose: bool) -> None:
    found = standing.read(answer, ASKED)
    lines = shown(found, verbose=verbose)
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines[3:] if len(line) > 80] == []
    assert json.loads(json.dumps(status_json.describe(found), allow_nan=False))["staging"] == "0" * 32


def test_what_is_done_before_the_first_byte_is_shown() -> None:
    said = {"phase": "pulling 3/8 layers of", "done": 30 << 20, "total": 120 << 20}
    found = standing.read({"nodes": [], "doing": said}, ASKED)
    assert "  pulling: 30.0 MiB of 120.0 MiB (25 %), 3 of 8 layers" in shown(found)
    layers = {"done": 3, "total": 8}
    assert status_json.describe(found)["doing"] == {
        "phase": "pulling",
        "done": 30 << 20,
        "total": 120 << 20,
        "layers": layers,
    }
    found = standing.read({"nodes": [], "doing": {"phase": "converting", "done": 1 << 20, "total": 0}}, ASKED)
    assert "  converting: 1.0 MiB" in shown(found)
    assert standing.read({"nodes": [], "doing": None}, ASKED).doing is None


@given(
    st.lists(st.builds(node, st.text("abn.", min_size=1, max_size=9), st.sampled_from(standing.STATES)), max_size=40)
)
def test_every_node_counts_once(nodes: list[NodeStanding]) -> None:
    found = of(*nodes)
    assert sum(found.counts.values()) == len(nodes)
    assert len(found.under_way) == len(nodes) - found.counts["done"] - found.counts["failed"]


def test_a_thousand_nodes_are_summed_up() -> None:
    nodes = [node("n0", upstream="origin", rate=9e6), *(node(f"n{i}", rate=8e6) for i in range(1, 98))]
    nodes += [node("n98", "waiting", since=time.time()), *(node(f"n{i}", "done", 1.0) for i in range(99, 1000))]
    lines = shown(of(*nodes))
    assert lines[2] == "  1000 nodes: 1 leads, 97 receive, 1 waits, 901 done"
    assert lines[3] == "  rate: slowest 7.6 MiB/s, median 7.6 MiB/s, fastest 8.6 MiB/s"
    assert lines[4] == "  last node: n0 at 50 %, 512.0 MiB; about 1 min 07 s until all have it"
    assert lines[5:] == ["  head n0; coordinator n1 (10.0.0.1:1)"]


def test_few_nodes_are_all_shown() -> None:
    lines = shown(of(node("n1.a.example", upstream="origin"), node("n2.a.example", upstream="n1.a.example/1")))
    assert [line.split()[0] for line in lines[-3:]] == ["NODE", "n1", "n2"]
    assert lines[-1].split()[-2:] == ["n1", time.strftime("%H:%M:%S", time.localtime(1.0))]
    assert len(shown(of(*(node(f"n{i}") for i in range(17))))) == 6
    assert len(shown(of(*(node(f"n{i}") for i in range(17))), verbose=True)) == 6 + 1 + 17


def test_who_is_slow_late_or_failed() -> None:
    now = 1000.0
    crowd = [node(f"n{i}", rate=1e8) for i in range(50)]
    late = node("late", "waiting", 0.0, since=now - 60)
    found = of(
        *crowd, node("slow", rate=1e7, done=0.1), late, node("new", "waiting", 0.0, since=now), node("bad", "failed")
    )
    assert [each.host for each in found.stragglers(now)] == ["bad", "late", "slow"]
    waiting = of(*(node(f"n{i}", "waiting", 0.0) for i in range(9)))
    assert waiting.stragglers(now) == []


def test_no_more_than_ten_of_them() -> None:
    lines = shown(of(*(node(f"n{i}", "failed") for i in range(14)), *(node(f"m{i}", "done", 1.0) for i in range(9))))
    assert lines[-1] == "  and 4 more (-v shows all nodes)"
    assert sum("failed" in line for line in lines) == 1 + 1 + 10


def test_a_failure_counts_until_its_host_tries_again() -> None:
    def said(state: str, pid: int) -> dict[str, Any]:
        return {"node": f"n1/{pid}", "host": "n1", "state": state}

    assert [each.state for each in standing.read({"nodes": [said("failed", 1)]}, ASKED).nodes] == ["failed"]
    both = standing.read({"nodes": [said("failed", 1), said("receiving", 2)]}, ASKED).nodes
    assert [each.state for each in both] == ["receiving"]


def test_100_percent_is_all_of_it() -> None:
    assert status_table.show_share(SIZE - 1, SIZE) == "99 %"
    assert status_table.show_share(SIZE, SIZE) == "100 %"
    assert status_table.show_share(5, None) == "-"


@pytest.mark.parametrize(("scope", "job", "is_it"), [
    ("slurm-1234", "1234", True),
    ("slurm-1234", "slurm-1234", True),
    ("pbs-12_3_.host", "12_3_.host", True),
    ("slurm-1234", "123", False),
    ("slurm-1234", "slurm", False),
    ("slurm-1234", "", False),
    ("", "", False),
])  # fmt: skip
def test_jobs(scope: str, job: str, *, is_it: bool) -> None:
    assert is_job(scope, job) is is_it


@pytest.mark.parametrize("name", ["n1", "a-very-long-name-of-a-node-0001", "x" * 300])
def test_long_names_lose_their_middles(name: str) -> None:
    short = status_table.cut(name, 11)
    assert len(short) <= 11
    assert short[:5] == name[:5]
    assert short[-5:] == name[-5:]


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 5000, b'"x"', b"null"])
def test_records_that_are_none(raw: bytes) -> None:
    assert status_asking.records({"0" * 32: raw}) == []
    assert status_asking.records({"../../x": b"{}"}) == []


@pytest.mark.parametrize("address", ["", "n1:80", "10.0.0.1", "10.0.0.1:x", "example.org:80", "10.0.0.1:0"])
def test_an_address_that_would_have_to_be_looked_up_is_not_asked(address: str) -> None:
    record = {"address": address, "secret": "0" * 64, "host": "n1\x1b[2J", "reference": "r"}
    (found,) = status_asking.ask(status_asking.records({"0" * 32: json.dumps(record).encode()}))
    assert found.problem.startswith("cannot be asked")
    assert shown(found) == ["r", f"  coordinator n1?[2J ({address or '?'}) {found.problem}"]


@given(st.dictionaries(st.text(max_size=9), st.binary(max_size=200) | st.just(("a" * 64 + "\n" + "b" * 64).encode())))
def test_records_of_nodes_are_believed_as_far_as_they_are_digests(found: dict[str, bytes]) -> None:
    held = holders(found)
    assert set(held) <= {"a" * 64, "b" * 64}
    assert all(hosts == sorted(set(hosts)) and set(hosts) <= set(found) for hosts in held.values())


def test_a_record_that_does_not_end() -> None:
    assert len(holders({"n1": "\n".join(f"{i:064x}" for i in range(10_000)).encode()})) == 500
