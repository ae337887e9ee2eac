"""docs/how-to/slurm.md, done by an admin who does what it says: every command with a prompt, every file, in order."""

from __future__ import annotations

import json
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import image_factory
from tests.support.slurm import Bed, Ran, slurm
from tests.support.tasks import ROOT, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.slurm import Machine

pytestmark = pytest.mark.needs("slurm", "nginx", "mksquashfs", "gcc", "make")

PAGE = ROOT / "docs" / "how-to" / "slurm.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^(node#|ctl#|\$) (.*)")
HEADING = re.compile(r"^## (.*)", re.MULTILINE)

REFERENCE = "https://images.example.org/"
MOVED = {"/scratch": "/var/cache/scratch", "/images": "/var/cache/images"}
"""What would be written outside of what a machine of the bed has for its own."""
PATHS = re.compile(r"(?<![\w.:/-])/[\w./-]+")
OWN = ("/usr/local/", "/etc/", "/var/cache/", "/var/tmp", "/tmp", "/dev/null")


class Reader:
    """Somebody who follows the page on a bed. `ran` has what each command answered, by the command's words."""

    def __init__(self, bed: Bed, url: str) -> None:
        self._bed = bed
        self._url = url
        self._settings: dict[str, Any] = {}
        self._script = ""
        self.ran: dict[str, list[Ran]] = {}

    def read(self, text: str) -> None:
        """Do what a part of the page says."""
        for language, block in FENCE.findall(self._moved(text)):
            if language == "console":
                for line in block.splitlines():
                    match = PROMPT.match(line)
                    assert match, f"a command without a prompt: {line}"
                    self._run(match[1], match[2])
            elif language == "sh" and block.startswith("#!"):
                self._script = block
            elif language in ("toml", "ini"):
                self._file(block.splitlines()[0].removeprefix("# "), block)

    def _moved(self, text: str) -> str:
        text = text.replace(REFERENCE, self._url)
        for path, place in MOVED.items():
            text = re.sub(rf"(?<![\w.:/-]){path}\b(?!/sha256)", place, text)
        return text

    def _run(self, prompt: str, command: str) -> None:
        answers = self.ran.setdefault(command.replace(self._url, REFERENCE), [])
        if prompt in ("node#", "ctl#"):
            assert [path for path in PATHS.findall(command) if not path.startswith(OWN)] == [], "the test's own machine"
            for machine in self._bed.nodes if prompt == "node#" else [self._bed.ctl]:
                answers.append(self._bed.root.run("sh", "-c", f"cd {ROOT} && {command}", node=machine))
        elif command.startswith("sbatch "):
            answers.append(self._submit(command))
        else:
            answers.append(self._bed.user.run("sh", "-c", command))
        for answer in answers:
            assert answer.code == 0, (command, answer.out, answer.err)

    def _submit(self, command: str) -> Ran:
        if self._script:
            (self._bed.user.home / command.rpartition(" ")[2]).write_text(self._script, encoding="utf-8")
            self._script = ""
        ran = self._bed.user.run("sh", "-c", command)
        assert ran.code == 0, ran.err
        job = ran.out.split()[-1]
        assert self._bed.await_job(job) == "COMPLETED", self._bed.output(job)
        return Ran(0, self._bed.output(job), "")

    def _file(self, path: str, text: str) -> None:
        machines: list[Machine] = [self._bed.ctl, *self._bed.nodes]
        if path.endswith("config.toml"):
            new = tomllib.loads(text)
            self._settings |= {key: value for key, value in new.items() if key != "slurm"}
            self._settings |= {f"slurm.{key}": value for key, value in new.get("slurm", {}).items()}
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in self._settings.items())
        for machine in machines:
            place = machine.view(path)
            place.write_text(_merged(place.read_text("utf-8"), text) if path.endswith("slurm.conf") else text)
        if path.endswith("slurm.conf"):
            self._restart()

    def _restart(self) -> None:
        """Restart all daemons, as the page says for PrologFlags."""
        # In peace: killed, it forgets the last jobs, and gives their numbers to others, which slurmd takes for the old.
        daemon = self._bed.ctl._daemon
        self._bed.scontrol("shutdown", "slurmctld")
        until(lambda: daemon is None or not daemon.running, "slurmctld to end")
        self._bed.ctl.serve()
        for node in self._bed.nodes:
            node.stop_daemon()
            node.serve()
        self._bed.idle()


def _merged(text: str, new: str) -> str:
    """Return a slurm.conf with some lines replaced, and those added to that are lists."""
    for line in new.splitlines():
        name, _, value = line.partition("=")
        old = re.search(rf"^{name}=(.*)$", text, re.MULTILINE)
        if name == "SchedulerParameters" and old:
            value = f"{old[1]},{value}"
        text = re.sub(rf"^{name}=.*\n", "", text, flags=re.MULTILINE)
        text = text if line.startswith("#") else f"{name}={value}\n{text}"
    return text


def parts() -> dict[str, str]:
    """Return heading → text, in order."""
    pieces = HEADING.split(PAGE.read_text("utf-8"))
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_the_page_step_by_step(tmp_path: Path) -> None:
    part = parts()
    content = image_factory.squashfs(tmp_path / "tool.sqsh", image_factory.small_tree(tmp_path / "tree")).read_bytes()
    with slurm(tmp_path, nodes=2, cpus=8) as bed:
        url = bed.origin.put("tool.sif", content)
        for machine in (bed.ctl, *bed.nodes):
            machine.view("/etc/stage-image/config.toml").write_text("", encoding="ascii")
        reader = Reader(bed, url.removesuffix("tool.sif"))
        reader.read(part.pop("Grade 1: nothing but the program"))
        (answer,) = reader.ran["sbatch tool.sh"]
        assert answer.out.count("/var/tmp/stage-image-20001/images/") == 8

        reader.read(part.pop("Grade 2: Prolog, Epilog and TaskProlog"))
        (answer,) = reader.ran["sbatch comment.sh"]
        assert answer.out.count("/var/cache/stage-image/images/") == 2, answer
        assert "tool.sif on n" in answer.out
        assert not any("danger" in doctor.out for doctor in reader.ran["stage-image slurm doctor"])

        reader.read(part.pop("Grade 3: the SPANK plugin"))
        mine = next(ran for command, (ran, *_) in reader.ran.items() if "--private-tmp" in command)
        assert mine.out.startswith("drwx------"), mine
        assert mine.out.split()[2] == "alice"

        reader.read(part.pop("Send jobs to where the image is"))
        (shown,) = reader.ran['sinfo --noheader --Node --format="%N %f"']
        assert re.fullmatch(r"n1 img_[0-9a-f]{12}\nn2 img_[0-9a-f]{12}\n", shown.out), shown

        reader.read(part.pop("Switch it off"))
        reader.read(part.pop("Take it out"))
        assert part == {}, "parts that nobody has tried"
        bed.idle()
        assert bed.leftovers() == []
        assert bed.drained() == []
    assert not os.path.exists("/scratch")
    assert not os.path.exists("/usr/local/share/stage-image")
