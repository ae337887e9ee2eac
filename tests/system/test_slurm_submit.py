"""`sbatch --stage-image=REF` with Slurm's own sbatch behind it: what is asked at submission is what the job gets."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.schedulers import sbatch
from tests.support.slurm import Bed, slurm
from tests.support.tasks import ROOT, image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.slurm import Ran

pytestmark = pytest.mark.needs("slurm", "nginx")

FRONT = {"PATH": "/home/alice/front:/usr/local/bin:/usr/bin:/bin"}
TELL = 'echo "$SLURMD_NODENAME $STAGE_IMAGE_REFERENCE $STAGE_IMAGE_DIGEST"'


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), nodes=3, cpus=2, hooks=True) as bed:
        (bed.user.home / "front").mkdir(mode=0o755)
        for name in sbatch.PROGRAMS:
            (bed.user.home / "front" / name).symlink_to(ROOT / "sbatch-wrapper" / "sbatch")
        yield bed


@pytest.fixture(autouse=True)
def _leaves_nothing(bed: Bed) -> Iterator[None]:
    yield
    bed.idle()
    assert bed.leftovers() == []


def pinned(url: str, content: bytes) -> tuple[str, str]:
    digest = f"sha256:{sha256(content).hexdigest()}"
    return f"{url}@{digest}", digest


def submit(bed: Bed, *words: str, script: str = f"#!/bin/sh\nsrun sh -c '{TELL}'\n") -> Ran:
    (bed.user.home / "job.sh").write_text(script, encoding="utf-8")
    return bed.user.run("sbatch", "--parsable", *words, "job.sh", env=FRONT)


def job_of(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    return ran.out.strip()


def comment(fields: dict[str, str]) -> str:
    return fields["Comment"].rstrip(" ")


def told(text: str) -> list[str]:
    """Return what the tasks printed, in order; their TaskProlog has a line of its own."""
    return sorted(line for line in text.splitlines() if not line.startswith("stage-image:"))


def test_the_job_gets_what_was_asked_for(bed: Bed) -> None:
    content = image(20_000, seed=11)
    reference, digest = pinned(bed.origin.put("a.sqsh", content), content)
    job = job_of(submit(bed, "-N2", "--comment=my own; words", f"--stage-image={bed.origin.url('a.sqsh')}"))
    assert bed.await_job(job) == "COMPLETED"
    assert comment(bed.job(job)) == f"stage-image={reference} my own; words"
    assert [line.partition(" ")[2] for line in told(bed.output(job))] == [f"{reference} {digest}"] * 2


def test_a_line_of_the_script(bed: Bed) -> None:
    content = image(20_000, seed=12)
    url = bed.origin.put("b.sqsh", content)
    reference, digest = pinned(url, content)
    script = f"#!/bin/sh\n#SBATCH --comment='of the script' -N1\n#STAGE-IMAGE {url}\n{TELL}\n"
    job = job_of(submit(bed, script=script))
    assert bed.await_job(job) == "COMPLETED"
    assert comment(bed.job(job)) == f"stage-image={reference} of the script"
    assert told(bed.output(job))[0].split()[1:] == [reference, digest]


def test_an_image_that_changes_after_the_submission(bed: Bed) -> None:
    content = image(20_000, seed=13)
    url = bed.origin.put("c.sqsh", content)
    _, digest = pinned(url, content)
    warmed = bed.root.run("stage-image", "path", url, node=bed.nodes[0])
    assert warmed.code == 0, warmed.err
    job = job_of(submit(bed, "-H", "-w", bed.nodes[0].name, f"--stage-image={url}"))
    bed.origin.put("c.sqsh", image(20_000, seed=14))
    bed.scontrol("release", job)
    assert bed.await_job(job) == "COMPLETED"
    assert told(bed.output(job))[0].split()[2] == digest


def test_what_is_not_there_is_not_submitted(bed: Bed) -> None:
    ran = submit(bed, f"--stage-image={bed.origin.url('nope.sqsh')}")
    assert (ran.code, ran.out) == (66, "")
    assert bed.user.run("squeue", "-h").out == ""


@pytest.mark.parametrize("program", ["srun", "salloc"])
def test_the_same_for(bed: Bed, program: str) -> None:
    content = image(20_000, seed=15)
    url = bed.origin.put("d.sqsh", content)
    reference, digest = pinned(url, content)
    command = ["srun", "sh", "-c", TELL] if program == "salloc" else ["sh", "-c", TELL]
    ran = bed.user.run(program, "-N1", f"--stage-image={url}", *command, env=FRONT)
    assert ran.code == 0, ran.err
    assert told(ran.out)[0].split()[1:] == [reference, digest]


def test_affinity(bed: Bed) -> None:
    content = image(20_000, seed=16)
    url = bed.origin.put("e.sqsh", content)
    warm = bed.nodes[-1]
    for words in (("path", url), ("slurm", "features")):
        ran = bed.root.run("stage-image", *words, node=warm)
        assert ran.code == 0, ran.err
    wish = (f"--stage-image={url}", "--stage-image-affinity")
    job = job_of(submit(bed, "-N1", *wish))
    assert bed.await_job(job) == "COMPLETED"
    assert bed.job(job)["NodeList"] == warm.name
    # More than there are warm ones: Slurm would refuse the preference, and with it the job.
    for many in (("-N2",), ("-n4",)):
        job = job_of(submit(bed, *many, *wish))
        assert bed.await_job(job) == "COMPLETED"
    refused = bed.user.run("sbatch", "-N2", f"--prefer=img_{sha256(content).hexdigest()[:12]}", "job.sh")
    assert "not available" in refused.err


def test_a_heterogeneous_job(bed: Bed) -> None:
    first, second = image(20_000, seed=17), image(20_000, seed=18)
    urls = bed.origin.put("f.sqsh", first), bed.origin.put("g.sqsh", second)
    ran = submit(bed, "-n1", f"--stage-image={urls[0]}", ":", "-n1", f"--stage-image={urls[1]}")
    job = job_of(ran)
    assert bed.await_job(job) == "COMPLETED"
    comments = [comment(part) for part in bed.jobs(job)]
    assert comments == [f"stage-image={pinned(*pair)[0]}" for pair in zip(urls, (first, second), strict=True)]


SCRIPTS = (
    r'#SBATCH --comment="a\"b\c"',
    r"#SBATCH --comment='a\'b'",
    r"#SBATCH --comment=a\\b",
    "#SBATCH --comment='a # b' -N1",
    "#SBATCH --comment=a#b",
    '#SBATCH --comment="a b"c -N1',
    '#SBATCH --comm "x y" # c',
    "#SBATCH\t--comment=x",
    "#SBATCH--comment=x",
    "#SBATCH --comment=x\n  \n  # y\n#SBATCH --comment=z",
    "#SBATCH --comment=x\n #SBATCH --comment=y",
    "#SBATCH --comment=x\nls\n#SBATCH --comment=y",
    "#SBATCH --comment=x -k -o /dev/null\n#SBATCH -HJ --comment=y",
)


def test_a_script_is_read_as_by_the_real_one(bed: Bed) -> None:
    found = {}
    for lines in SCRIPTS:
        script = f"#!/bin/sh\n{lines}\ntrue\n"
        job = job_of(submit(bed, "-H", script=script))
        found[lines] = comment(bed.job(job)), sbatch.script_options(script)["comment"]
        assert bed.user.run("scancel", job).code == 0
    assert {lines: pair for lines, pair in found.items() if pair[0] != pair[1]} == {}
