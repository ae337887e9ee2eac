"""`slurm doctor` on a real cluster: what it calls sound works, and what it calls a danger happens."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, slurm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.slurm import Machine, Ran

pytestmark = pytest.mark.needs("slurm", "nginx")

SOUND = {
    "PrologFlags": "Alloc,DeferBatch",
    "BatchStartTimeout": "300",
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1,nohold_on_prolog_fail",
}


@pytest.fixture(scope="module", name="bed")
def _bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), nodes=2, cpus=2, hooks=True, conf=SOUND) as bed:
        yield bed


def configure(bed: Bed, **changes: str) -> dict[str, str]:
    """Change lines of slurm.conf on all machines; return what they were."""
    before: dict[str, str] = {}
    for machine in (bed.ctl, *bed.nodes):
        path = machine.view("/etc/slurm/slurm.conf")
        text = path.read_text("utf-8")
        for name, value in changes.items():
            line = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
            before[name] = line[1] if line else ""
            text = re.sub(rf"^{name}=.*\n", "", text, flags=re.MULTILINE)
            text = f"{name}={value}\n{text}" if value else text
        path.write_text(text, encoding="utf-8")
    bed.scontrol("reconfigure")
    return before


def doctor(bed: Bed, *, node: Machine | None = None, root: bool = True) -> tuple[Ran, dict[str, str]]:
    """Run it; return what it said of each thing, the worst if it said several."""
    who = bed.root if root else bed.user
    ran = who.run("stage-image", "slurm", "doctor", "--json", node=node or bed.nodes[0])
    levels: dict[str, str] = {}
    for row in json.loads(ran.out or "[]"):
        levels[row["what"]] = max(levels.get(row["what"], ""), row["level"], key=["", "ok", "advice", "danger"].index)
    return ran, levels


def test_a_sound_cluster_has_no_danger_and_one_piece_of_advice(bed: Bed) -> None:
    ran, found = doctor(bed)
    assert ran.code == 0, ran.out + ran.err
    assert {what for what, level in found.items() if level != "ok"} == {"ProctrackType", "slurm.allow"}
    assert {"Slurm", "Prolog", "Epilog", "TaskProlog", "PrologFlags", "BatchStartTimeout", "features"} <= set(found)


def test_a_user_on_the_controller_is_told_as_much_as_there_is_to_see(bed: Bed) -> None:
    ran, found = doctor(bed, node=bed.ctl, root=False)
    assert (ran.code, found["Prolog"], found["features"]) == (0, "ok", "advice"), ran.out + ran.err


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"BatchStartTimeout": "10"}, "BatchStartTimeout"),
        ({"PrologEpilogTimeout": "15"}, "PrologEpilogTimeout"),
        ({"Epilog": ""}, "Epilog"),
    ],
)
def test_dangers_are_seen_in_the_running_configuration(bed: Bed, changes: dict[str, str], what: str) -> None:
    before = configure(bed, **changes)
    try:
        ran, found = doctor(bed)
        assert (ran.code, found[what]) == (64, "danger"), ran.out + ran.err
    finally:
        configure(bed, **before)
    assert doctor(bed)[0].code == 0


def test_a_hook_that_is_missing_drains_its_node(bed: Bed) -> None:
    before = configure(bed, Prolog="/nowhere/prolog")
    try:
        ran, found = doctor(bed)
        assert (ran.code, found["Prolog"]) == (64, "danger"), ran.out + ran.err
        assert bed.user.run("srun", "-w", "n1", "true").code != 0
        assert bed.drained() == ["n1"]
    finally:
        configure(bed, **before)
        bed.scontrol("update", "NodeName=n1", "State=RESUME")
        bed.idle()


def test_what_a_site_sets_is_judged_as_the_prolog_has_it(bed: Bed) -> None:
    node = bed.nodes[0]
    path = node.view("/etc/stage-image/config.toml")
    text = path.read_text("utf-8")
    path.write_text(f"{text}slurm.strict = true\n", encoding="utf-8")
    try:
        ran, found = doctor(bed)
        assert (ran.code, found["slurm.strict"]) == (64, "danger"), ran.out + ran.err
    finally:
        path.write_text(text, encoding="utf-8")


def test_a_directory_to_show_images_in_that_is_missing(bed: Bed) -> None:
    node = bed.nodes[0]
    path = node.view("/etc/stage-image/config.toml")
    text = path.read_text("utf-8")
    path.write_text(f'{text}slurm.images_at = "/run/no-such-place"\n', encoding="utf-8")
    missing = "/run/no-such-place (slurm.images_at) is no directory here"
    try:
        ran, _ = doctor(bed)
        assert (ran.code, missing in ran.out) == (64, True), ran.out + ran.err
        node.run("mkdir", "-m", "755", "/run/no-such-place")
        assert missing not in doctor(bed)[0].out
    finally:
        path.write_text(text, encoding="utf-8")
        node.run("rm", "-rf", "/run/no-such-place")


def test_the_table_for_people(bed: Bed) -> None:
    ran = bed.root.run("stage-image", "slurm", "doctor", node=bed.nodes[0])
    lines = ran.out.splitlines()
    assert lines[0].startswith("ok      Slurm")
    assert any(line.lstrip().startswith("-> ProctrackType=proctrack/cgroup") for line in lines)
    assert max(map(len, lines)) <= 160


def test_without_a_controller(bed: Bed) -> None:
    bed.ctl.stop_daemon()
    try:
        ran, _ = doctor(bed)
        assert (ran.code, "Slurm cannot be asked" in ran.err) == (85, True), ran.err
    finally:
        bed.ctl.serve()
        bed.idle()
