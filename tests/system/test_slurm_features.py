"""Slurm is told where images are, and sends jobs there: a real controller, whose memory is short."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, Node, Ran, slurm
from tests.support.tasks import image, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("slurm", "nginx")

FOREIGN = ("gpu,knl,img_viewer", "gpu,img_viewer")
"""Features of others, available and active."""

# Before the real one on the node's PATH; /usr/local is the node's own.
SPY = '#!/bin/sh\necho "$*" >>/var/tmp/asked\nexec /usr/bin/scontrol "$@"\n'


@pytest.fixture(scope="module", name="cluster")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), cpus=2) as bed:
        for node in bed.nodes:
            spy = node.view("/usr/local/bin/scontrol")
            spy.write_text(SPY, encoding="ascii")
            spy.chmod(0o755)
        yield bed


@pytest.fixture
def bed(cluster: Bed) -> Bed:
    """A cluster whose nodes hold no image and have features of others only."""
    for node in cluster.nodes:
        clear(cluster, node)
        cluster.scontrol(
            "update", f"NodeName={node}", f"AvailableFeatures={FOREIGN[0]}", f"ActiveFeatures={FOREIGN[1]}"
        )
        node.view("/var/tmp/asked").unlink(missing_ok=True)
    return cluster


def clear(bed: Bed, node: Node) -> None:
    """Remove all images of a node's store."""
    digests = [f"sha256:{path.name}" for path in node.store.glob("images/sha256/*/*")]
    if digests:
        ran = bed.root.run("stage-image", "remove", "--force", *digests, node=node)
        assert ran.code == 0, ran.err


def warm(bed: Bed, *nodes: Node, name: str = "tool", tell: bool = True) -> str:
    """Stage an image on some nodes, tell Slurm, and return the feature."""
    url = bed.origin.put(f"{name}.sqsh", image(10_000, seed=len(name)))
    digest = ""
    for node in nodes:
        ran = bed.root.run("stage-image", "path", url, node=node)
        assert ran.code == 0, ran.err
        digest = ran.out.strip().split("/")[-2]
        if tell:
            assert publish(bed, node).code == 0
    return f"img_{digest[:12]}"


def publish(bed: Bed, node: Node, *words: str) -> Ran:
    return bed.root.run("stage-image", "slurm", "features", *words, node=node)


def shown(bed: Bed, node: Node) -> tuple[str, str]:
    """Return a node's available and active features, as Slurm shows them."""
    lines = [line.strip().partition("=") for line in bed.scontrol("show", "node", node.name).splitlines()]
    found = {name: value for name, _, value in reversed(lines)}
    return found["AvailableFeatures"], found["ActiveFeatures"]


def updates(node: Node) -> list[str]:
    """Return the words of each `scontrol update` on a node."""
    path = node.view("/var/tmp/asked")
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [line for line in lines if line.startswith("update ")]


def told(feature: str) -> tuple[str, str]:
    """Return what Slurm has to show: theirs, and ours behind."""
    return f"{FOREIGN[0]},{feature}", f"{FOREIGN[1]},{feature}"


def test_features_come_and_go_beside_those_of_others(bed: Bed) -> None:
    node = bed.nodes[0]
    feature = warm(bed, node)
    assert shown(bed, node) == told(feature)
    assert shown(bed, bed.nodes[1]) == FOREIGN
    other = warm(bed, node, name="other")
    assert shown(bed, node) == told(",".join(sorted((feature, other))))
    clear(bed, node)
    ran = publish(bed, node, "--json")
    assert (ran.code, json.loads(ran.out)[0]["removed"]) == (0, sorted((feature, other)))
    assert shown(bed, node) == FOREIGN


def test_slurm_is_called_only_when_something_has_changed(bed: Bed) -> None:
    node = bed.nodes[0]
    warm(bed, node)
    assert len(updates(node)) == 1
    assert publish(bed, node).out == f"{node}: nothing to change (1 image)\n"
    assert publish(bed, node, "--dry-run").code == 0
    assert len(updates(node)) == 1


def test_what_slurm_forgets_at_a_reconfigure_is_told_again(bed: Bed) -> None:
    node = bed.nodes[0]
    feature = warm(bed, node)
    bed.scontrol("reconfigure")
    assert feature not in shown(bed, node)[0], "else the timer would not be needed"
    assert publish(bed, node).code == 0
    assert shown(bed, node) == (feature, feature), "those that were not in slurm.conf are lost, too"


def test_what_slurm_forgets_at_a_restart_is_told_again(bed: Bed) -> None:
    node = bed.nodes[0]
    feature = warm(bed, node)
    daemon = bed.ctl._daemon
    bed.scontrol("shutdown", "slurmctld")  # in peace: it writes down all that it will remember
    until(lambda: daemon is None or not daemon.running, "slurmctld to end")
    bed.ctl.serve()
    bed.idle()
    assert feature not in shown(bed, node)[0]
    assert publish(bed, node).code == 0
    assert feature in shown(bed, node)[1]


def test_jobs_go_to_the_warm_half(bed: Bed) -> None:
    feature = warm(bed, *bed.nodes[2:])
    cold = {bed.user.run("srun", "-N1", "hostname").out.strip() for _ in range(3)}
    assert cold <= {"n1", "n2"}, "without a preference, Slurm takes the first that are free"
    landed = [bed.user.run("srun", "-N1", f"--prefer={feature}", "hostname").out.strip() for _ in range(6)]
    assert set(landed) <= {"n3", "n4"}, landed
    both = bed.user.run("srun", "-N2", f"--prefer={feature}", "hostname")
    assert sorted(both.out.split()) == ["n3", "n4"], both.err


def test_a_preference_is_no_demand(bed: Bed) -> None:
    feature = warm(bed, *bed.nodes[2:])
    release = bed.user.home / "release"
    text = f"#!/bin/sh\nuntil [ -e {release.name} ]; do sleep 0.05; done\n"
    busy = bed.sbatch(text, "-N2", "-w", "n3,n4", "--exclusive")
    bed.await_state(busy, "RUNNING")
    try:
        ran = bed.user.run("srun", "-N1", f"--prefer={feature}", "hostname")
        assert ran.out.strip() in {"n1", "n2"}, ran.err
    finally:
        release.touch()
        bed.await_job(busy)
        release.unlink()


def test_slurm_refuses_a_preference_that_no_node_fulfils(bed: Bed) -> None:
    feature = warm(bed, *bed.nodes[2:])
    unknown = bed.user.run("srun", "-N1", "--prefer=img_000000000000", "true")
    assert (unknown.code, "Invalid preferred feature specification" in unknown.err) == (1, True), unknown.err
    few = bed.user.run("srun", "-N3", f"--prefer={feature}", "true")
    assert (few.code, "Requested node configuration is not available" in few.err) == (1, True), few.err


def test_extra_is_merged_where_others_write_it(bed: Bed) -> None:
    node = bed.nodes[0]
    bed.scontrol("update", f"NodeName={node}", 'Extra={"rack": "a 1"}')
    feature = warm(bed, node)
    assert publish(bed, node, "--extra").code == 0
    line = next(line for line in bed.scontrol("show", "node", node.name).splitlines() if "Extra=" in line)
    assert json.loads(line.partition("=")[2]) == {"rack": "a 1", feature: True}
    before = len(updates(node))
    assert publish(bed, node, "--extra").code == 0
    assert len(updates(node)) == before
    bed.scontrol("update", f"NodeName={node}", "Extra=")


def test_users_may_look_and_not_change(bed: Bed) -> None:
    node = bed.nodes[0]
    feature = warm(bed, node, tell=False)
    ran = bed.user.run("stage-image", "slurm", "features", "--dry-run", node=node)
    assert (ran.code, ran.out) == (0, f"{node}: would have added {feature} (1 image)\n"), ran.err
    ran = bed.user.run("stage-image", "slurm", "features", node=node)
    assert (ran.code, "Invalid user id" in ran.err) == (67, True), ran.err
    assert shown(bed, node) == FOREIGN


def test_without_its_controller_the_publisher_says_so(bed: Bed) -> None:
    node = bed.nodes[0]
    bed.ctl.stop_daemon()
    try:
        ran = publish(bed, node)
        assert (ran.code, "Slurm cannot be asked" in ran.err) == (85, True), ran.err
    finally:
        bed.ctl.serve()
        bed.idle()


def test_the_kill_switch(bed: Bed) -> None:
    node = bed.nodes[0]
    feature = warm(bed, node, tell=False)
    switch = node.view("/etc/stage-image/disabled")
    switch.touch()
    try:
        ran = publish(bed, node)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        assert shown(bed, node) == FOREIGN
    finally:
        switch.unlink()
    assert publish(bed, node).code == 0
    assert shown(bed, node) == told(feature)


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_sound(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "sbatch-wrapper" / "slurm"
    for name in ("stage-image-features.service", "stage-image-features.timer"):
        text = (folder / name).read_text("utf-8").replace("/opt/stage-image/bin/stage-image", "/bin/true")
        (tmp_path / name).write_text(text, encoding="utf-8")
    units = [str(tmp_path / "stage-image-features.timer"), str(tmp_path / "stage-image-features.service")]
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
