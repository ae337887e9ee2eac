"""What a launcher makes of a command, how lists of nodes are read and written, and how failures are judged."""

from __future__ import annotations

import shlex
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import node_names
from stager.cli.campaign import Campaign, Result
from stager.errors import NotAnImage, NotFound, StageImageError, TooFewNodes, UsageError
from stager.fan import Outcome
from stager.launcher import NAMED, Launcher
from stager.reference import parse

WORDS = ["stage-image", "path", "/a b/$(x)'\"`;&.sif"]
REFERENCE = parse("https://example.org/tool.sif?secret=1")

HOSTILE = (
    *("-oProxyCommand=x", "-n1", "n1 ;", "$(id)", "`id`", "n1;id", "n1|id", "n1&", "n1>x", "n*", "n?", "../n1", "n1/x"),
    *("root@n1", "n1'", 'n"1', "n\\1", "n1\x00", "n1\x1b[31m", "ñ1", "n1\u202e", ".n1", "@all", "@*", "%s"),
)
LABELS = st.from_regex(r"[a-z]{1,3}[0-9]{0,4}(-[a-z]{1,2}[0-9]{0,3})?", fullmatch=True)
HOSTS = st.builds(lambda label, domain: label + domain, LABELS, st.sampled_from(["", ".c2.example"]))


def test_ssh_gets_one_word_which_a_shell_takes_apart_again() -> None:
    *before, last = Launcher("sh -c {node}").command("n1", WORDS)
    assert before == ["sh", "-c", "n1"]
    assert shlex.split(last) == WORDS


def test_named_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert Launcher("ssh").command("n1", ["a", "b c"]) == [*NAMED["ssh"].split()[:-1], "n1", "a 'b c'"]
    assert Launcher("srun").command("n1", ["a", "b c"]) == [*NAMED["srun"].split()[:-1], "--nodelist=n1", "a", "b c"]
    assert Launcher("/opt/bin/srun -w {node}").command("n1", WORDS)[3:] == WORDS


def test_words_go_where_they_are_wanted() -> None:
    assert Launcher("env A={node} {words} end").command("n1", WORDS) == ["env", "A=n1", *WORDS, "end"]


@pytest.mark.parametrize("text", ["sh -c", "", "'", "no-such-program-here {node}", "sh -c '{node}"])
def test_bad_launchers(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--launcher: "):
        Launcher(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_is_refused(name: str) -> None:
    assert not node_names.is_name(name)
    for text in (name, f"n1,{name}", f"n[1-2],{name}", f"{name}n[1-2]"):
        with pytest.raises(UsageError, match=r"^--nodes: "):
            node_names.expand(text)


@pytest.mark.parametrize("text", ["n[1-", "n]1[", "n[a]", "n[5-1]", "n[]", "n[[1]]", "n[1-3]!n2", "n[1-3]^n2", "n[-1]"])
def test_bad_lists(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--nodes: "):
        node_names.expand(text)


@pytest.mark.parametrize("text", ["n[1-999999999]", "n[1-99999]m[1-99999]", "n[1-60000],m[1-60000]"])
def test_endless_lists_are_refused_before_they_fill_the_memory(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(UsageError, match="more than 100000 nodes"):
        node_names.expand(text)
    assert time.process_time() - begun < 1


def test_lists() -> None:
    assert node_names.expand("n1,n2, n1 n3\n") == ["n1", "n2", "n3"]
    assert sorted(node_names.expand("n[001-003,140],gpu7")) == ["gpu7", "n001", "n002", "n003", "n140"]
    assert node_names.expand("r[1-2]n[1-2]") == ["r1n1", "r1n2", "r2n1", "r2n2"]
    assert node_names.expand(",") == []


def test_without_clustershell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ClusterShell.NodeSet", None)
    assert node_names.expand("n1,n2") == ["n1", "n2"]
    with pytest.raises(UsageError, match="ClusterShell") as failed:
        node_names.expand("n[1-2]")
    assert "stage-image[cluster]" in failed.value.hint


@given(st.lists(HOSTS, max_size=30))
def test_what_is_folded_unfolds_to_the_same(names: list[str]) -> None:
    assert set(node_names.expand(node_names.fold(names))) == set(names)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["n1", "n2", "n3", "n7"], "n[1-3,7]"),
        (["n009", "n010", "n10", "n9"], "n[009-010],n[9-10]"),
        (["n1.c2.example", "n2.c2.example"], "n[1-2].c2.example"),
        (["login"], "login"),
        ([], ""),
    ],
)
def test_fold(names: list[str], folded: str) -> None:
    assert node_names.fold(names) == folded


def test_ten_thousand_names_of_three_numbers_are_folded_at_once() -> None:
    names = [f"r{i % 97}c{i % 89}n{i % 83}" for i in range(10_000)]
    begun = time.process_time()
    assert node_names.fold(names)
    assert time.process_time() - begun < 1


def result(node: str, code: int | None, out: str = "", err: str = "") -> Result:
    return Result.of(Outcome(node, code, out, err, 1.0), REFERENCE)


def campaign(*results: Result) -> Campaign:
    nodes = sorted({each.node for each in results})
    made = Campaign(
        nodes=nodes, launcher=Launcher("sh {node}"), command=[], parallel=1, silence=1, quiet=True, lines=False
    )
    made.results.extend(results)
    return made


def test_only_an_answer_is_a_success() -> None:
    assert result("n1", 0, "motd\n/store/image.sif\n").path == "/store/image.sif"
    assert "answered no path" in result("n1", 0, "hello\n").why
    assert not result("n1", 1, "/store/image.sif\n").path


def test_the_error_is_told_and_not_the_hint() -> None:
    err = "banner\nstage-image: error: the origin says no (on n1)\nstage-image: try: ask it\nConnection closed.\n"
    assert result("n1", 67, err=err).why == "the origin says no"
    assert result("n1", 255, err="ssh: \x1b[31mno route\n").why == "ssh: ?[31mno route"
    assert result("n1", 1).why == "it did not say why"
    assert len(result("n1", 1, err="x" * 9999).why) <= 300


@pytest.mark.parametrize(
    ("codes", "wanted", "error"),
    [
        ([0, 0], 2, None),
        ([0, 66], 1, None),
        ([0, 66], 2, NotFound),
        ([66, 72, 72], 3, NotAnImage),
        ([255, 255, 66], 3, TooFewNodes),
        ([None, 0], 2, TooFewNodes),
        ([-9, 127, 66], 1, TooFewNodes),
        ([65, 0, 0], 3, StageImageError),
    ],
)
def test_judgement(codes: list[int | None], wanted: int, error: type[StageImageError] | None) -> None:
    results = [result(f"n{i}", code, "/x" if code == 0 else "", "why\n") for i, code in enumerate(codes)]
    if error is None:
        campaign(*results).judge(wanted)
        return
    with pytest.raises(error, match=f"{sum(c != 0 for c in codes)} of {len(codes)} nodes do not have") as failed:
        campaign(*results).judge(wanted)
    assert failed.value.exit_code in {code for code in codes if code in range(64, 100)} | {86}


def test_a_node_has_all_images_or_it_counts_as_lacking() -> None:
    with pytest.raises(NotFound, match="1 of 2 nodes"):
        campaign(result("n1", 0, "/x"), result("n2", 0, "/x"), result("n1", 0, "/y"), result("n2", 66)).judge(2)


def test_the_secret_of_a_signed_url_stays_here() -> None:
    assert "secret" not in str(campaign(result("n1", 0, "/x")).describe())
