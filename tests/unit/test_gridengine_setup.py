"""Texts of qconf: what of ours comes in and goes out again, and that nothing of others' is touched."""

from __future__ import annotations

import argparse
import os
import stat
from typing import TYPE_CHECKING

import pytest

from stager.cli import gridengine_setup as verb
from stager.errors import AccessDenied, ClusterUnavailable, InUse, UsageError
from stager.schedulers import gridengine_setup as texts
from stager.schedulers import qconf
from stager.schedulers.gridengine_setup import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COMPLEXES = """\
#name               shortcut   type        relop requestable consumable default  urgency
#---------------------------------------------------------------------------------------
arch                a          RESTRING    ==    YES         NO         NONE     0
stage_left          sl         INT         <=    YES         NO         0        0
zzz                 z          INT         <=    YES         NO         0        0
# >#< starts a comment but comments are not saved across edits --------
"""
CONF = """\
#global:
load_sensor                  none
prolog                       none
epilog                       none
load_report_time             00:00:40
"""
QUEUE = "qname                 all.q\nprolog                NONE\nstarter_method        NONE\nslots                 4\n"
HOOKS = "/usr/share/x"
SENSOR = f"{HOOKS}/load-sensor"
PROLOG = f"root@{HOOKS}/prolog $job_owner $job_id $ja_task_id"


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if not line.startswith("#")]


def test_complexes_come_and_go() -> None:
    ours = texts.complexes(COMPLEXES, undo=False)
    assert [row for row in rows(ours) if row not in rows(COMPLEXES)] == [row.split() for row in texts.COMPLEXES]
    assert texts.complexes(ours, undo=False) == ours
    assert texts.complexes(ours, undo=True) == COMPLEXES
    assert texts.complexes(COMPLEXES, undo=True) == COMPLEXES


def test_a_complex_of_another_kind_becomes_ours() -> None:
    old = COMPLEXES.replace("stage_left          sl         INT", "stage_images        sl         CSTRING")
    ours = texts.complexes(old, undo=False)
    assert sorted(row[0] for row in rows(ours)) == sorted(["arch", "zzz", *(row.split()[0] for row in texts.COMPLEXES)])
    assert texts.COMPLEXES[0].split() in rows(ours)


def test_names_and_shortcuts_are_unique() -> None:
    words = [word for row in texts.COMPLEXES for word in row.split()[:2]]
    assert len(set(words)) == len(words)
    assert all(len(row.split()) == 8 for row in texts.COMPLEXES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("none", SENSOR),
        ("/site/gpu", f"/site/gpu,{SENSOR}"),
        (f"{SENSOR},/site/gpu", f"{SENSOR},/site/gpu"),
        (f"/site/load-sensor,{SENSOR}", f"/site/load-sensor,{SENSOR}"),
    ],
)
def test_a_sensor_is_one_of_several(before: str, after: str) -> None:
    conf = CONF.replace("load_sensor                  none", f"load_sensor                  {before}")
    made, notes = texts.settings(conf, [Wanted("load_sensor", SENSOR, listed=True)])
    assert (made, notes) == (conf.replace(f" {before}\n", f" {after}\n", 1), [])
    gone, _ = texts.settings(made, [Wanted("load_sensor", SENSOR, listed=True, undo=True)])
    left = ",".join(each for each in before.split(",") if each != SENSOR) or "none"
    assert f"load_sensor                  {left}\n" in gone


def test_hooks_come_and_go() -> None:
    come, _ = texts.wanted(HOOKS, parts=texts.PARTS, user="root", undo=False)
    go, _ = texts.wanted(HOOKS, parts=texts.PARTS, user="root", undo=True)
    made, notes = texts.settings(CONF, come)
    assert f"prolog                       {PROLOG}\n" in made
    assert notes == []
    assert texts.settings(made, come) == (made, [])
    assert texts.settings(made, go) == (CONF, [])
    assert texts.settings(CONF, go) == (CONF, [])


@pytest.mark.parametrize("other", ["/site/prolog", "root@/site/prolog $host", "/usr/share/x/prolog2", "x@y"])
def test_hooks_of_others_stay(other: str) -> None:
    conf = CONF.replace("prolog                       none", f"prolog                       {other}")
    for undo in (False, True):
        made, notes = texts.settings(conf, [Wanted("prolog", PROLOG, undo=undo)])
        assert made == conf
        assert notes == ([] if undo else [f"prolog is {other}, and stays so; ours would be {PROLOG}"])


def test_ours_is_ours_whoever_runs_it_with_whatever_arguments() -> None:
    for before in (f"{HOOKS}/prolog", f"sge@{HOOKS}/prolog $host", PROLOG):
        conf = f"prolog {before}\n"
        assert texts.settings(conf, [Wanted("prolog", PROLOG)])[0] == f"prolog {PROLOG}\n"
        assert texts.settings(conf, [Wanted("prolog", PROLOG, undo=True)])[0] == "prolog none\n"


def test_a_setting_that_is_not_there_is_added() -> None:
    assert texts.settings("a b\n", [Wanted("load_sensor", SENSOR, listed=True)])[0] == f"a b\nload_sensor {SENSOR}\n"
    assert texts.settings("a b\n", [Wanted("load_sensor", SENSOR, listed=True, undo=True)])[0] == "a b\n"


def test_a_setting_without_a_value_gets_ours() -> None:
    assert texts.settings("load_sensor\n", [Wanted("load_sensor", SENSOR, listed=True)])[0] == f"load_sensor {SENSOR}\n"


def test_blanks_in_a_list_hide_nothing() -> None:
    text = f"load_sensor  /site/gpu, {SENSOR}\n"
    assert texts.settings(text, [Wanted("load_sensor", SENSOR, listed=True)])[0] == text
    gone, _ = texts.settings(text, [Wanted("load_sensor", SENSOR, listed=True, undo=True)])
    assert gone == "load_sensor  /site/gpu\n"


def test_a_queue_starts_jobs_by_ours() -> None:
    _, come = texts.wanted(HOOKS, parts=["starter"], user="root", undo=False)
    made, _ = texts.settings(QUEUE, come)
    assert made == QUEUE.replace("starter_method        NONE", f"starter_method        {HOOKS}/starter")
    _, go = texts.wanted(HOOKS, parts=["starter"], user="root", undo=True)
    assert texts.settings(made, go)[0] == QUEUE


@pytest.mark.parametrize(
    ("value", "path"),
    [("/a/b", "/a/b"), ("root@/a/b x y", "/a/b"), ("/a@b/c", "/a@b/c"), ("u-1@/a b", "/a"), ("NONE", "NONE")],
)
def test_the_script_of_a_hook(value: str, path: str) -> None:
    assert texts.script(value) == path


def test_what_a_host_has_pushed() -> None:
    host = "hostname n1\ncomplex_values  slots=4,stage_images=;a@1;,stage_images2=none,stage_left=1\nprocessors 2\n"
    assert texts.pushed(host) == ["stage_images", "stage_images2"]
    assert texts.without(host, texts.pushed(host)) == "hostname n1\ncomplex_values slots=4,stage_left=1\nprocessors 2\n"
    assert texts.pushed("hostname n1\ncomplex_values NONE\n") == []


FAKE = """\
#!/bin/sh
# A qconf whose objects are files: shows, takes a file, and writes down what it was asked to change.
cd "${0%/*}/cell" || exit
case $1 in
-sc) cat complexes ;;
-Mc) cp "$2" complexes; echo "$1" >>../asked ;;
-sconf) cat global ;;
-Mconf) cp "$2" global; echo "$1 ${2##*/}" >>../asked ;;
-sql) echo all.q ;;
-sq) cat "$2" ;;
-Mq) cp "$2" all.q; echo "$1" >>../asked ;;
-sel) echo n1 ;;
-se) cat n1 ;;
*) echo "$*" >>../asked ;;
esac
"""


class Cell:
    """A directory with a fake qconf, and hooks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cell = folder / "cell"
        self.cell.mkdir()
        for name, text in (("complexes", COMPLEXES), ("global", CONF), ("all.q", QUEUE), ("n1", "hostname n1\n")):
            (self.cell / name).write_text(text)
        self.program(FAKE)
        for name in texts.SCRIPTS.values():
            self.program("#!/bin/sh\n", name)

    def program(self, text: str, name: str = "qconf") -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def setup(self, *words: str) -> int:
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        return verb.run(parser.parse_args([f"--hooks={self.folder}", *words]))

    @property
    def state(self) -> Sequence[str]:
        return [(self.cell / name).read_text() for name in ("complexes", "global", "all.q", "n1")]

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cell:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Cell(tmp_path)


def test_the_difference_is_shown_and_nothing_changed(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    before = cell.state
    for words in ([], ["--dry-run"], ["--undo", "--dry-run"]):
        assert cell.setup(*words) == 0
        assert (cell.state, cell.asked) == (before, [])
    shown = capsys.readouterr().out
    assert f"+load_sensor                  {cell.folder}/load-sensor\n" in shown
    assert "-starter_method        NONE\n" in shown
    assert shown.endswith("nothing to change\n")


def test_it_may_be_repeated_and_undone(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    before = cell.state
    cell.setup("--apply")
    made, asked = cell.state, cell.asked
    assert asked == ["-Mc", "-Mconf global", "-Mq"]
    capsys.readouterr()
    cell.setup("--apply")
    assert (cell.state, cell.asked, capsys.readouterr().out) == (made, asked, "nothing to change\n")
    cell.setup("--undo")
    assert (cell.state, cell.asked[3:]) == (before, ["-Mq", "-Mconf global", "-Mc"])
    cell.setup("--undo")
    assert len(cell.asked) == 6


def test_parts_alone(cell: Cell) -> None:
    cell.setup("--apply", "--only=complexes", "--only=sensor")
    assert cell.asked == ["-Mc", "-Mconf global"]
    assert "prolog                       none\n" in cell.state[1]


def test_whoever_pushes_has_no_sensor(cell: Cell) -> None:
    cell.setup("--apply", "--push", "--as-user")
    assert "load_sensor                  none\n" in cell.state[1]
    assert f"prolog                       {cell.folder}/prolog $job_owner" in cell.state[1]


def test_hosts_take_back_what_they_pushed(cell: Cell) -> None:
    (cell.cell / "n1").write_text("hostname n1\ncomplex_values stage_images=none,slots=2\n")
    cell.setup("--undo")
    assert "-dattr exechost complex_values stage_images n1" in cell.asked


def test_scripts_that_are_not_there_are_not_configured(cell: Cell) -> None:
    before = cell.state
    (cell.folder / "epilog").unlink()
    with pytest.raises(UsageError, match="epilog cannot be started"):
        cell.setup("--apply")
    assert cell.state == before
    assert cell.setup("--undo") == 0


def test_a_part_that_there_is_not(cell: Cell) -> None:
    with pytest.raises(UsageError, match="there is no such part"):
        cell.setup("--only=sensors")


def test_a_queue_with_a_prolog_of_its_own_is_told_of(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    (cell.cell / "all.q").write_text(QUEUE.replace("prolog                NONE", "prolog                /site/p"))
    cell.setup("--dry-run")
    assert "note: queue all.q has its own prolog, /site/p, which runs instead" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('echo "denied: \\"n1\\" is no admin host" >&2; exit 1', AccessDenied),
        ('echo "denied: Complex attribute \\"x\\" is still referenced in host \\"n1\\"." >&2; exit 1', InUse),
        ("echo 'error: unable to contact qmaster' >&2; exit 1", ClusterUnavailable),
    ],
)
def test_what_qconf_says_is_what_failed(cell: Cell, text: str, error: type[Exception]) -> None:
    cell.program(f"#!/bin/sh\n{text}\n")
    with pytest.raises(error):
        qconf.ask("-sc")


def test_without_qconf_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterUnavailable, match="qconf is not installed"):
        qconf.ask("-sc")
