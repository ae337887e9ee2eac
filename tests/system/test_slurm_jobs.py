"""Jobs beside, after and within each other on a real Slurm: each has its images as long as it runs, and no longer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, slurm
from tests.support.slurm.pictures import READ, picture
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("slurm", "nginx", "mksquashfs", "loop")

ARRAY = 20
WAIT = "until [ -e {0} ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), nodes=2, hooks=True, site={"runtime": "none"}) as bed:
        yield bed


@pytest.fixture
def bed(shared: Bed) -> Iterator[Bed]:
    """Nothing may have been left, and no node be drained, after any of the tests."""
    yield shared
    shared.check_tidy()


@pytest.fixture
def url(bed: Bed, word: str, tmp_path: Path) -> str:
    return bed.origin.put(f"{word}.sqsh", picture(tmp_path, word))


def downloads(bed: Bed, url: str) -> list[str]:
    """Return the nodes that have fetched an image, each as often as it did."""
    names = {node.address: node.name for node in bed.nodes}
    return sorted(
        names[request.client] for request in bed.origin.requests if request.size and url.endswith(request.path)
    )


def said(text: str) -> list[str]:
    """Return the lines of a job's output that are its own."""
    return [line for line in text.splitlines() if not line.startswith("stage-image: ")]


def waiting_job(bed: Bed, url: str, name: str) -> str:
    """Submit a job that reads its image, waits for a file of its name, and reads again; return its id once it waits."""
    script = (
        f"#!/bin/sh\n{READ}\ntouch {name}-waits\n{WAIT.format(name)}\ncat $STAGE_IMAGE_ROOT/ballast | wc -c\n{READ}\n"
    )
    job = bed.sbatch(script, "-n1", "-w", "n1", f"--comment=stage-image={url}")
    until((bed.user.home / f"{name}-waits").exists, f"job {job} to have read")
    return job


def test_two_jobs_on_a_node_share_an_image(bed: Bed, url: str, word: str) -> None:
    first, second = (waiting_job(bed, url, f"{word}-{number}") for number in range(2))
    node = bed.nodes[0]
    assert len([line for line in node.leftovers() if "mount on" in line]) == 1
    (bed.user.home / f"{word}-0").touch()
    assert bed.await_job(first) == "COMPLETED"
    lines = node.leftovers()
    assert [line for line in lines if f"slurm-{first}" in line] == []
    assert [line for line in lines if f"slurm-{second}@" in line] != []
    (bed.user.home / f"{word}-1").touch()
    assert bed.await_job(second) == "COMPLETED"
    assert said(bed.output(second)) == [word, str(1 << 20), word]
    assert downloads(bed, url) == ["n1"]


def test_array(bed: Bed, url: str, word: str) -> None:
    script = f"#!/bin/sh\necho $SLURM_ARRAY_TASK_ID\n{READ}\n"
    options = (f"--array=0-{ARRAY - 1}", "-n1", f"--output={word}-%a", f"--comment=stage-image={url}")
    job = bed.sbatch(script, *options)
    assert bed.await_job(job) == "COMPLETED"
    outputs = [(bed.user.home / f"{word}-{number}").read_text("ascii") for number in range(ARRAY)]
    assert [said(text) for text in outputs] == [[str(number), word] for number in range(ARRAY)]
    assert downloads(bed, url) in (["n1"], ["n1", "n2"])


def test_several_images(bed: Bed, tmp_path: Path) -> None:
    words = ("first", "second", "third")
    urls = [bed.origin.put(f"{word}.sqsh", picture(tmp_path, word)) for word in words]
    text = 'cat "$STAGE_IMAGE_ROOT/word" "$STAGE_IMAGE_ROOT_2/word" "$STAGE_IMAGE_ROOT_3/word"'
    comment = f"stage-image={urls[0]},{urls[1]}; mine stage-image={urls[2]}"
    ran = bed.user.run("srun", "-n1", f"--comment={comment}", "sh", "-c", text)
    assert ran.code == 0, ran.err
    assert said(ran.out) == list(words)


def test_job_of_two_kinds_of_nodes(bed: Bed, url: str, word: str) -> None:
    """A heterogeneous job: each part has an id, and a comment, of its own."""
    comment = f"--comment=stage-image={url}"
    options = ("-n1", "-w", "n1", comment, ":", "-n2", "-w", "n2", comment)
    script = f"#!/bin/sh\nsrun --het-group=0,1 --label sh -c '{READ}'\n"
    job = bed.sbatch(script, *options)
    assert bed.await_job(job) == "COMPLETED"
    lines = [line for line in bed.output(job).splitlines() if not line.partition(": ")[2].startswith("stage-image: ")]
    assert sorted(line for line in lines if line.endswith(f": {word}")) == [f"{number}: {word}" for number in range(3)]
    assert downloads(bed, url) == ["n1", "n2"]


def test_steps_of_an_allocation(bed: Bed, url: str, word: str) -> None:
    step = f"srun --ntasks-per-node=1 sh -c '{READ}'"
    ran = bed.user.run("salloc", "-N2", f"--comment=stage-image={url}", "sh", "-c", f"{step}; {step}")
    assert ran.code == 0, ran.err
    assert said(ran.out) == [word] * 4
    assert downloads(bed, url) == ["n1", "n2"]


def test_a_tag_that_moves_means_one_image_in_a_job(bed: Bed, url: str, word: str, tmp_path: Path) -> None:
    """Whatever the origin has meanwhile: a job's later steps, and the command within them, have what its Prolog had."""
    name = url.rpartition("/")[2]
    command = f"stage-image exec {url} -- sh -c '{READ}'"
    script = f"#!/bin/sh\n{READ}\ntouch {word}-waits\n{WAIT.format(word)}\n{command}\nsrun -n1 {command}\n"
    job = bed.sbatch(script, "-n1", "-w", "n1", f"--comment=stage-image={url}")
    until((bed.user.home / f"{word}-waits").exists, f"job {job} to have read")
    bed.origin.put(name, picture(tmp_path, "moved"))
    (bed.user.home / word).touch()
    assert bed.await_job(job) == "COMPLETED"
    assert said(bed.output(job))[:1] == [word]
    assert set(said(bed.output(job))) == {word}
    ran = bed.user.run("srun", "-n1", "-w", "n1", f"--comment=stage-image={url}", "sh", "-c", READ)
    assert said(ran.out) == ["moved"]


def test_jobs_of_two_users(bed: Bed, url: str, word: str) -> None:
    command = ("srun", "-n4", f"--comment=stage-image={url}", "sh", "-c", READ)
    both = [person.start(*command) for person in (bed.user, bed.other)]
    assert [task.done() for task in both] == [0, 0], [task.err for task in both]
    assert [said(task.out) for task in both] == [[word] * 4] * 2


def test_many_jobs_at_once(bed: Bed, url: str, word: str) -> None:
    """Prologs of several jobs beside each other, and Epilogs beside Prologs."""
    command = ("srun", "-N2", "-n2", f"--comment=stage-image={url}", "sh", "-c", READ)
    tasks = [bed.user.start(*command) for _ in range(12)]
    assert [task.done() for task in tasks] == [0] * 12, [task.err for task in tasks]
    assert [said(task.out) for task in tasks] == [[word] * 2] * 12
    assert downloads(bed, url) == ["n1", "n2"]


def test_status_and_list_tell_of_the_job(bed: Bed, url: str, word: str) -> None:
    job = waiting_job(bed, url, word)
    listed = json.loads(bed.root.run("stage-image", "list", "--json", node=bed.nodes[0]).out)
    assert f"slurm-{job}" in json.dumps(listed)
    (bed.user.home / word).touch()
    assert bed.await_job(job) == "COMPLETED"


def test_epilog_by_hand_is_idempotent(bed: Bed, url: str, word: str) -> None:
    """As an admin calls it whose node lost its slurmd: once, and once more."""
    node = bed.nodes[0]
    job = waiting_job(bed, url, word)
    (bed.user.home / word).touch()
    assert bed.await_job(job) == "COMPLETED"
    for _ in range(2):
        ran = bed.root.run("stage-image", "slurm", "epilog", "--job", job, node=node)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
