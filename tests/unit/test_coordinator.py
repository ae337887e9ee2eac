"""What the coordinator answers: the image's version, digest and errors, and to messages that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from stager.coordinator import CHANGES, TRIES, UNKNOWN, Coordinator

SIZE = 1 << 30
DIGEST, ROOT = "ab" * 32, "cd" * 32
VERSION = {"etag": '"1"', "modified": "", "size": SIZE, "origin": "origin", "private": False}
OTHER = {**VERSION, "etag": '"2"'}

Answer = dict[str, Any]


class Staging:
    """A coordinator and what its members say."""

    def __init__(self, *, own: str = "", linger: float = 30.0) -> None:
        self.coordinator = Coordinator("0" * 32, "https://origin/tool.sif", own=own, linger=linger)
        self.now = 100.0

    def join(self, name: str, **how: object) -> Answer:
        order = int(name[1:])
        told = {"node": name, "host": name, "address": f"10.0.0.1:{order + 1}", "order": order, "scope": "job"}
        held = {"offset": 0, "generation": None, "version": None, "since": 5.0}
        return self.coordinator.answer("join", {**told, **held, **how}, self.now)

    def report(self, name: str, offset: int = 0, **how: object) -> Answer:
        upstream = self.coordinator.roster.members[name].upstream if name in self.coordinator.roster.members else None
        told = {"node": name, "generation": self.coordinator.generation, "offset": offset, "silence": 0.0}
        state = {"upstream": upstream, "lost": None, "state": "receiving", "downstream": 0}
        return self.coordinator.answer("report", {**told, **state, **how}, self.now)

    def fail(self, name: str, code: int, *, state: str = "receiving") -> Answer:
        return self.report(name, error={"code": code, "message": "no", "hint": ""}, state=state)

    def finish(self, *names: str) -> None:
        for name in names:
            self.report(name, SIZE, state="verifying", version=VERSION, digest=DIGEST, root=ROOT)
        for _ in range(2):
            for name in names:
                self.report(name, SIZE, state="done")


@pytest.fixture
def staging() -> Staging:
    return Staging()


class TestPlaces:
    def test_whom_to_pull_from(self, staging: Staging) -> None:
        assert staging.join("n0")["upstream"]["kind"] == "origin"
        staging.report("n0", 4096, version=VERSION)
        answer = staging.join("n1")
        assert answer["upstream"] == {"kind": "node", "node": "n0", "address": "10.0.0.1:1"}
        assert (answer["ahead"], answer["version"], answer["nodes"], answer["ready"]) == (4096, VERSION, 2, 0)

    def test_all_are_told_what_the_head_does_before_its_first_byte(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        doing = {"phase": "converting", "done": 4, "total": 9}
        staging.report("n0", doing=doing)
        assert staging.report("n1")["doing"] == doing
        staging.report("n1", doing={"phase": "another", "done": 0, "total": 0})
        assert staging.report("n1")["doing"] == doing
        assert staging.coordinator.answer("status", {}, staging.now)["doing"] == doing
        staging.report("n0", 4096, version=VERSION)
        assert staging.report("n1")["doing"] is None

    @pytest.mark.parametrize(
        "doing", [7, {}, {"phase": "x", "done": -1, "total": 0}, {"phase": "a\nb", "done": 0, "total": 0}]
    )
    def test_what_is_no_deed_is_not_understood(self, staging: Staging, doing: object) -> None:
        staging.join("n0")
        assert staging.report("n0", doing=doing) == UNKNOWN

    def test_who_is_not_in_is_told_so(self, staging: Staging) -> None:
        assert staging.report("n7") == UNKNOWN
        assert staging.coordinator.answer("leave", {"node": "n7"}, staging.now) == UNKNOWN

    def test_who_leaves_is_not_in(self, staging: Staging) -> None:
        staging.join("n0")
        assert staging.coordinator.answer("leave", {"node": "n0"}, staging.now) == {"unknown": False}
        assert staging.report("n0") == UNKNOWN

    def test_a_new_coordinator_keeps_streams_whose_senders_have_not_come_back(self, staging: Staging) -> None:
        answer = staging.join("n2", generation=1, version=VERSION, offset=4096, upstream="n1")
        assert answer["upstream"]["kind"] == "keep"
        staging.join("n1", generation=1, version=VERSION, offset=8192, upstream="origin")
        assert staging.report("n2", 4096)["upstream"]["node"] == "n1"

    def test_who_is_said_to_send_damage_is_told(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        staging.report("n0", 4096, version=VERSION)
        staging.report("n1", lost="corrupt")
        assert [staging.report(name)["doubted"] for name in ("n0", "n1")] == [True, False]


class TestVersions:
    def test_all_start_over_when_the_origin_has_another_one(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        staging.report("n0", 4096, version=VERSION)
        answer = staging.report("n0", 8192, version=OTHER)
        assert (answer["generation"], answer["version"]) == (2, OTHER)
        late = staging.report("n1", 4096, generation=1)
        assert (late["generation"], late["ahead"]) == (2, 0)
        assert staging.coordinator.roster.members["n1"].offset == 0

    def test_a_head_may_have_started_over_by_itself(self, staging: Staging) -> None:
        staging.join("n0")
        staging.report("n0", 4096, version=VERSION)
        answer = staging.report("n0", 0, generation=2, version=OTHER)
        assert (answer["generation"], answer["version"], answer["upstream"]["kind"]) == (2, OTHER, "origin")

    def test_a_size_that_is_learned_late_is_no_other_version(self, staging: Staging) -> None:
        staging.join("n0")
        staging.report("n0", 4096, version={**VERSION, "size": None})
        answer = staging.report("n0", 8192, version=VERSION)
        assert (answer["generation"], staging.coordinator.size) == (1, SIZE)

    def test_only_who_pulls_from_the_origin_knows_what_it_has(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        staging.report("n0", 4096, version=VERSION)
        assert staging.report("n1", version=OTHER)["version"] == VERSION

    def test_one_that_reaches_nobody_does_not_get_another_version(self, staging: Staging) -> None:
        staging.join("n0")
        staging.finish("n0")
        staging.join("n1")
        for _ in range(2):
            staging.report("n1", lost="refused")
            staging.report("n1", lost="refused")
            for _ in range(12):
                staging.now += 0.2
                staging.report("n0", SIZE, state="done")
                staging.report("n1")
        assert staging.report("n1")["upstream"]["kind"] == "origin"
        assert staging.report("n1", version=OTHER)["error"]["code"] == 68
        assert staging.report("n0", SIZE, state="done")["error"] is None

    def test_an_image_that_never_stays_the_same_is_an_error(self, staging: Staging) -> None:
        staging.join("n0")
        for number in range(CHANGES + 1):
            assert staging.report("n0", 4096, version={**VERSION, "etag": str(number)})["error"] is None
        assert staging.report("n0", 4096, version=VERSION)["error"]["code"] == 68

    def test_bytes_from_before_count_if_they_are_of_this_version(self, staging: Staging) -> None:
        staging.join("n0")
        staging.report("n0", 4096, version=VERSION)
        staging.join("n1", version=VERSION, offset=2048)
        staging.join("n2", version=OTHER, offset=2048)
        members = staging.coordinator.roster.members
        assert (members["n1"].offset, members["n2"].offset) == (2048, 0)

    def test_a_coordinator_goes_on_with_the_generation_that_its_members_know(self, staging: Staging) -> None:
        answer = staging.join("n0", generation=3, version=VERSION, offset=4096, upstream="origin")
        assert (answer["generation"], answer["version"]) == (3, VERSION)
        assert staging.coordinator.roster.members["n0"].offset == 4096


class TestDigests:
    def test_the_first_that_is_vouched_for_is_everybodys(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        staging.finish("n0")
        staging.report("n1", SIZE, digest="ef" * 32, root="ef" * 32)
        assert staging.coordinator.digest == DIGEST
        assert staging.report("n1", SIZE)["root"] == ROOT

    def test_the_digest_may_be_known_before_the_root(self, staging: Staging) -> None:
        staging.join("n0")
        answer = staging.report("n0", 0, version=VERSION, digest=DIGEST)
        assert (answer["digest"], answer["root"]) == (DIGEST, None)
        assert staging.report("n0", 0, digest=DIGEST, root=ROOT)["root"] == ROOT

    def test_a_child_cannot_say_what_the_image_is_before_it_has_it(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        assert staging.report("n1", 4096, digest=DIGEST, root=ROOT)["digest"] is None

    def test_a_head_that_dies_before_it_has_said_it_is_replaced_by_one_that_has_all(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        for name in ("n0", "n1"):
            staging.report(name, SIZE, version=VERSION)
        staging.coordinator.answer("leave", {"node": "n0"}, staging.now)
        assert staging.report("n1", SIZE)["upstream"]["kind"] == "origin"

    def test_a_new_coordinator_learns_it_from_those_who_know(self, staging: Staging) -> None:
        held = {"generation": 1, "version": VERSION, "offset": SIZE, "state": "done"}
        staging.join("n0", **held, digest=DIGEST, root=ROOT)
        answer = staging.join("n1", generation=1, version=VERSION, offset=SIZE)
        assert (answer["digest"], answer["root"], answer["ready"]) == (DIGEST, ROOT, 1)


class TestErrors:
    @pytest.mark.parametrize("code", [66, 67, 71, 72, 87])
    def test_what_everybody_would_see_ends_it_for_all(self, staging: Staging, code: int) -> None:
        staging.join("n0")
        staging.join("n1")
        staging.fail("n0", code)
        answer = staging.report("n1")
        assert (answer["error"]["code"], answer["upstream"]["kind"]) == (code, "wait")

    @pytest.mark.parametrize("code", [68, 88])
    def test_what_may_be_one_nodes_trouble_is_tried_by_three(self, staging: Staging, code: int) -> None:
        for order in range(5):
            staging.join(f"n{order}")
        for order in range(TRIES):
            assert staging.coordinator.error is None
            assert staging.report(f"n{order}")["upstream"]["kind"] == "origin"
            staging.fail(f"n{order}", code)
        answer = staging.report("n4")
        assert answer["error"]["code"] == code

    def test_who_is_alone_need_not_try_twice(self, staging: Staging) -> None:
        staging.join("n0")
        assert staging.fail("n0", 68)["error"]["code"] == 68

    def test_a_full_disk_concerns_one_node(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        answer = staging.fail("n0", 74)
        assert (answer["error"], answer["dismissed"]) == (None, True)
        assert staging.report("n1")["upstream"]["kind"] == "origin"
        assert "failed" in {node["state"] for node in status(staging)["nodes"]}

    def test_errors_of_others_than_the_head_concern_them_alone(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        assert staging.fail("n1", 66, state="failed")["error"] is None
        assert staging.report("n0")["error"] is None

    def test_nothing_that_a_head_meets_matters_once_the_image_is_here(self, staging: Staging) -> None:
        staging.join("n0")
        staging.finish("n0")
        staging.join("n1")
        staging.fail("n0", 66)
        assert staging.report("n1")["error"] is None

    def test_it_is_over_when_all_know_the_error(self, staging: Staging) -> None:
        staging.join("n0")
        staging.join("n1")
        staging.fail("n0", 66)
        assert not staging.coordinator.is_over(staging.now)
        staging.report("n1")
        assert staging.coordinator.is_over(staging.now)


class TestTheEnd:
    def test_it_is_over_a_while_after_the_last_one(self) -> None:
        staging = Staging(linger=10.0)
        staging.join("n0")
        staging.finish("n0")
        staging.now += 9.0
        assert not staging.coordinator.is_over(staging.now)
        staging.report("n0", SIZE, state="done")
        staging.now += 1.0
        assert staging.coordinator.is_over(staging.now)
        assert staging.report("n0", SIZE, state="done")["dismissed"]

    def test_it_is_not_over_while_somebody_lacks_bytes(self) -> None:
        staging = Staging(linger=0.0)
        staging.join("n0")
        staging.join("n1")
        staging.finish("n0")
        for _ in range(50):
            staging.now += 0.2
            staging.report("n0", SIZE, state="done")
            staging.report("n1", 4096)
        assert not staging.coordinator.is_over(staging.now)

    def test_it_is_over_if_nobody_came(self) -> None:
        assert Staging(linger=0.0).coordinator.is_over(0.0)


def status(staging: Staging) -> Answer:
    return staging.coordinator.answer("status", {}, staging.now)


def test_status_shows_everybody(staging: Staging) -> None:
    staging.join("n0")
    staging.join("n1", since=3.0)
    staging.report("n0", 4096, version=VERSION)
    staging.now += 0.2
    staging.report("n0", 4096 + 1000, version=VERSION)
    shown = status(staging)
    assert (shown["reference"], shown["size"], shown["since"], shown["generation"]) == (
        "https://origin/tool.sif", SIZE, 3.0, 1)  # fmt: skip
    assert [node["upstream"] for node in shown["nodes"]] == ["origin", "n0"]
    assert {"node", "host", "state", "offset", "rate", "upstream", "since", "scope", "order"} <= set(shown["nodes"][0])
    assert shown["nodes"][0]["rate"] > 0


class TestNonsense:
    @pytest.mark.parametrize("verb", ["", "dance", "JOIN", "join/", "leave"])
    def test_verbs(self, staging: Staging, verb: str) -> None:
        assert staging.coordinator.answer(verb, {}, staging.now) == UNKNOWN

    @pytest.mark.parametrize(
        "bad",
        [
            {"node": "origin"},
            {"node": ""},
            {"node": "a\nb"},
            {"node": "x" * 300},
            {"node": None},
            {"address": "nowhere"},
            {"address": "10.0.0.1:99999"},
            {"address": "a b:80"},
            {"offset": -1},
            {"offset": 1 << 70},
            {"offset": True},
            {"offset": 1.5},
            {"order": -1},
            {"since": float("nan")},
            {"since": 10**400},
            {"since": "now"},
            {"generation": 0},
            {"version": []},
            {"version": {**VERSION, "size": "big"}},
            {"version": {**VERSION, "private": 1}},
        ],
    )
    def test_joins(self, staging: Staging, bad: Answer) -> None:
        assert staging.join("n0", **bad) == UNKNOWN
        assert staging.coordinator.nodes == 0

    @pytest.mark.parametrize(
        "bad",
        [
            {"offset": None},
            {"silence": float("inf")},
            {"silence": -1},
            {"state": "dreaming"},
            {"lost": "love"},
            {"downstream": -1},
            {"digest": "ab"},
            {"digest": "G" * 64},
            {"root": 5},
            {"error": "bad"},
            {"error": {"code": 0, "message": "", "hint": ""}},
            {"error": {"code": 68, "message": 5, "hint": ""}},
            {"upstream": 5},
        ],
    )
    def test_reports(self, staging: Staging, bad: Answer) -> None:
        staging.join("n0")
        assert staging.report("n0", **bad) == UNKNOWN
        assert staging.report("n0")["unknown"] is False

    def test_a_long_error_is_cut(self, staging: Staging) -> None:
        staging.join("n0")
        answer = staging.report("n0", error={"code": 66, "message": "x" * 5000, "hint": ""})
        assert answer["error"]["message"] == "x" * 4096

    def test_a_place_that_no_cluster_has_changes_nothing(self, staging: Staging) -> None:
        staging.join("n0", order=1 << 31)
        staging.report("n0", 0, version=VERSION)
        assert staging.coordinator.roster.tree.fan == 1
