"""What becomes of a command line with `--stage-image` in it, and of a script with `#STAGE-IMAGE`."""

from __future__ import annotations

import argparse
import json
import os
import threading
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.cli import registries, resolve_verb, sbatch_front
from stager.errors import InvalidReference, OriginUnavailable, StageImageError, UsageError
from stager.oci import Descriptor, Manifest
from stager.reference import Digest, parse
from stager.schedulers import hook, sbatch
from stager.schedulers.sbatch import Component, Nodes
from stager.schedulers.submit_options import full_name, in_help, takes_value
from tests.support.image_factory import minimal_squashfs
from tests.support.scripted_source import ScriptedSource, Version

if TYPE_CHECKING:
    from pathlib import Path

    from stager.reference import Reference

IMAGE = minimal_squashfs(b"an image")
DIGEST = sha256(IMAGE).hexdigest()
HELP = """\
Usage: sbatch [OPTIONS]
  -a, --array=indexes         job array index values
      --new-one=value         of a later version
      --new-maybe[=value]     as well
Options provided by plugins:
      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]
"""


@pytest.mark.parametrize(
    ("line", "images", "options", "rest"),
    [
        ("job.sh", (), "", "job.sh"),
        ("", (), "", ""),
        ("--stage-image=/a job.sh", ("/a",), "", "job.sh"),
        ("--stage-image /a,/b job.sh", ("/a", "/b"), "", "job.sh"),
        ("--stage-image=/a --stage-image /b job.sh", ("/a", "/b"), "", "job.sh"),
        ("-N 2 --stage-image=/a -n4 job.sh --stage-image=/b", ("/a",), "-N 2 -n4", "job.sh --stage-image=/b"),
        ("--comment --stage-image=/a job.sh", (), "--comment --stage-image=/a", "job.sh"),
        ("--wrap --stage-image=/a", (), "--wrap --stage-image=/a", ""),
        ("-J --stage-image=/a job.sh", (), "-J --stage-image=/a", "job.sh"),
        ("-HJ --stage-image=/a job.sh", (), "-HJ --stage-image=/a", "job.sh"),
        ("-Jx --stage-image=/a job.sh", ("/a",), "-Jx", "job.sh"),
        ("-k --stage-image=/a job.sh", ("/a",), "-k", "job.sh"),
        ("-ko --stage-image=/a job.sh", ("/a",), "-ko", "job.sh"),
        ("-W --stage-image=/a job.sh", ("/a",), "-W", "job.sh"),
        ("--exclusive --stage-image=/a job.sh", ("/a",), "--exclusive", "job.sh"),
        ("--stage-image=/a -- --job.sh", ("/a",), "", "-- --job.sh"),
        ("--parti p --stage-image=/a job.sh", ("/a",), "--parti p", "job.sh"),
        ("- --stage-image=/a", (), "", "- --stage-image=/a"),
    ],
)
def test_where_ours_is(line: str, images: tuple[str, ...], options: str, rest: str) -> None:
    found = sbatch.read(line.split(), "sbatch")
    (component,) = found.components
    assert (component.images, component.words, found.rest) == (images, options.split(), rest.split())


def test_components_of_a_heterogeneous_job() -> None:
    line = "-N1 --stage-image=/a : -N2 --comment x : --stage-image=/b job.sh : y"
    found = sbatch.read(line.split(), "sbatch")
    assert [component.images for component in found.components] == [("/a",), (), ("/b",)]
    assert " ".join(found.words()) == "-N1 : -N2 --comment x : job.sh : y"


@pytest.mark.parametrize("line", ["--stage-image", "--stage-image=", "--stage-image=/a,", "--stage-image ,/a"])
def test_no_reference(line: str) -> None:
    with pytest.raises(UsageError):
        sbatch.read(line.split(), "sbatch")


def test_affinity_takes_no_value() -> None:
    assert sbatch.read(["--stage-image-affinity", "job.sh"], "sbatch").components[0].affinity
    with pytest.raises(UsageError):
        sbatch.read(["--stage-image-affinity=yes"], "sbatch")


@pytest.mark.parametrize(
    ("name", "program", "value"),
    [
        *(("comment", "sbatch", True), ("nice", "srun", False), ("hold", "salloc", False)),
        *(("wait", "sbatch", False), ("wait", "srun", True), ("of-another-site", "sbatch", None)),
    ],
)
def test_which_options_take_a_value(name: str, program: str, value: bool | None) -> None:
    assert takes_value(name, program) is value


@pytest.mark.parametrize(
    ("name", "program", "full"),
    [
        *(("comm", "sbatch", "comment"), ("com", "sbatch", "comment"), ("com", "srun", "com")),
        *(("mem", "sbatch", "mem"), ("me", "sbatch", "me"), ("wai", "sbatch", "wai"), ("zzz", "sbatch", "zzz")),
    ],
)
def test_abbreviations(name: str, program: str, full: str) -> None:
    assert full_name(name, program) == full


def test_what_help_tells() -> None:
    assert in_help(HELP) == {"array": True, "new-one": True, "new-maybe": False, "container-image": True}


@pytest.mark.parametrize(
    ("lines", "images"),
    [
        ("#STAGE-IMAGE /a", ("/a",)),
        ("#STAGE-IMAGE /a,/b  # two", ("/a", "/b")),
        ("#STAGE-IMAGE=/a", ("/a",)),
        ("#SBATCH -N2\n\n  \n#STAGE-IMAGE\t/a\n#STAGE-IMAGE /b", ("/a", "/b")),
        ("  # indented\n#STAGE-IMAGE /a\n", ("/a",)),
        ("  #STAGE-IMAGE /a", ()),
        ("echo\n#STAGE-IMAGE /a", ()),
        ("##STAGE-IMAGE /a\n# STAGE-IMAGE /a\n#STAGE-IMAGES /a", ()),
    ],
)
def test_lines_of_a_script(lines: str, images: tuple[str, ...]) -> None:
    assert sbatch.script_images(f"#!/bin/sh\n{lines}\n") == images


@pytest.mark.parametrize("line", ["#STAGE-IMAGE", "#STAGE-IMAGE ", "#STAGE-IMAGE /a /b", "#STAGE-IMAGE /a,"])
def test_lines_that_name_nothing(line: str) -> None:
    with pytest.raises(UsageError):
        sbatch.script_images(line)


@pytest.mark.parametrize(
    ("line", "comment"),
    [
        (r'--comment="a\"b"', 'a"b'),
        (r"--comment='a\'b'", "a'b"),
        (r'--comment="a\b\n"', "abn"),
        (r"--comment=a\\b", r"a\b"),
        ("--comment='a # b'", "a # b"),
        ("--comment=a#b", "a"),
        ('--comment="a b"c -N1', "a bc"),
        ('--comment "x y" # c', "x y"),
        ("--comment ''", ""),
        ("\t--comm=x", "x"),
        ("--comment=x\n  \n  # indented\n#SBATCH --comment=y", "y"),
        ("--comment=x\n #SBATCH --comment=y", "x"),
        ("# --comment=x", None),
    ],
)
def test_a_comment_in_a_script(line: str, comment: str | None) -> None:
    assert sbatch.script_options(f"#!/bin/sh\n#SBATCH {line}\n").get("comment") == comment


def test_options_of_a_script() -> None:
    script = "#!/bin/sh\n#SBATCH --comment='a b' -N 2 # for now\n#SBATCH hetjob\n#SBATCH --comment=c\n"
    assert sbatch.script_options(script) == {"comment": "a b", "nodes": "2"}
    assert sbatch.script_options("#SBATCH -N2\nls\n#SBATCH -N3") == {"nodes": "2"}


def test_ours_comes_first_in_the_comment() -> None:
    component = Component(words=["--comment", "mine; yours"])
    sbatch.tell(component, ["/a@sha256:x", "/b"], "mine; yours")
    assert component.words == ["--comment", "mine; yours", "--comment=stage-image=/a@sha256:x,/b mine; yours"]


@pytest.mark.parametrize("bad", ["/a b", "/a,b", "/a;b", "/ä", "/a\nb", "/" + "a" * 2000, "https://h/x?token=hush"])
def test_what_cannot_be_told(bad: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        sbatch.tell(Component(), [bad], "")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("bad", ["docker://hush@h.x/a:1", f"ORAS://hush@h.x/a@SHA256:{'0' * 64}"])
def test_a_users_images_are_not_for_hooks(bad: str) -> None:
    with pytest.raises(InvalidReference, match="as a certain user") as caught:
        sbatch.check([bad])
    assert "hush" not in str(caught.value)
    with pytest.raises(InvalidReference, match="as a certain user"):
        sbatch.tell(Component(), [bad], "")
    sbatch.check(["docker://ubuntu:22.04", f"docker://h.x:5000/a@sha256:{'0' * 64}", "oci:/a@b:c", "library://a/b/c"])


def test_too_many_images() -> None:
    with pytest.raises(UsageError):
        sbatch.check([f"/{number}" for number in range(9)])
    sbatch.check([f"/a b{number}" for number in range(8)])
    with pytest.raises(InvalidReference):
        sbatch.check(["https://h/a?b"])
    with pytest.raises(UsageError):
        sbatch.tell(Component(), [f"/{number}{'x' * 1000}" for number in range(5)], "")


NODES = "2 16 img_a,ssd\n1 8+ img_a,img_b\nCLUSTER: x\n4 4 (null)\n"


@pytest.mark.parametrize(
    ("options", "features", "wish"),
    [
        ({}, ["img_a"], "img_a"),
        ({}, ["img_a", "img_b"], "img_a&img_b"),
        ({}, ["img_c"], ""),
        ({}, [], ""),
        ({"prefer": "ssd"}, ["img_a"], ""),
        ({"nodes": "3"}, ["img_a"], "img_a"),
        ({"nodes": "4-8"}, ["img_a"], ""),
        ({"nodes": "2"}, ["img_b"], ""),
        ({"ntasks": "40"}, ["img_a"], "img_a"),
        ({"ntasks": "41"}, ["img_a"], ""),
        ({"ntasks": "1k"}, ["img_a"], ""),
        ({"ntasks": "10", "cpus-per-task": "5"}, ["img_a"], ""),
        ({"nodes": "$N"}, ["img_a"], "img_a"),
    ],
)
def test_preference(options: dict[str, str], features: list[str], wish: str) -> None:
    assert sbatch.preference(options, features, sbatch.read_nodes(NODES)) == wish


def test_nodes_that_sinfo_shows() -> None:
    assert sbatch.read_nodes(NODES)[1] == Nodes(1, 8, frozenset({"img_a", "img_b"}))


@pytest.mark.parametrize(
    ("path", "program"),
    [("/usr/bin/srun", "srun"), ("/opt/salloc.real", "salloc"), ("/x/sbatch-22", "sbatch"), ("/x/other", "sbatch")],
)
def test_program_by_its_name(path: str, program: str) -> None:
    assert sbatch.program_of(path) == program


class BecameError(Exception):
    """Instead of becoming another program."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        super().__init__(command)
        self.command = command
        self.environ = environ


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def become(command: list[str], environ: dict[str, str]) -> None:
        raise BecameError(command, environ)

    (tmp_path / "a.sqsh").write_bytes(IMAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sbatch_front, "become", become)
    return tmp_path


def submit(*words: str, real: str = "/real/sbatch") -> BecameError:
    with pytest.raises(BecameError) as caught:
        sbatch_front.run(argparse.Namespace(real=real, line=words))
    return caught.value


def test_a_file_is_pinned(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_IMAGE_REFERENCE_2", "of the job that submits")
    became = submit("--stage-image", "a.sqsh", "--comment=mine", "-N2", "job.sh", "x y")
    pinned = f"{folder}/a.sqsh@sha256:{DIGEST}"
    told = f"--comment=stage-image={pinned} mine"
    assert became.command == ["/real/sbatch", "--comment=mine", "-N2", told, "job.sh", "x y"]
    assert became.environ["STAGE_IMAGE_REFERENCE"] == pinned
    assert "STAGE_IMAGE_REFERENCE_2" not in became.environ
    assert f"pinned {pinned} (hashed)" in capfd.readouterr().err
    submit("-Q", "--stage-image=a.sqsh", "job.sh")
    assert capfd.readouterr().err == ""


class Registry:
    """A ContainerOrigin that says what a tag means now."""

    name, private = "h.x", False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = 0

    def at(self, node: object, reference: Reference) -> Registry:
        self.asked.append(str(reference))
        return self

    def manifest(self, unless: str = "") -> Manifest | None:
        assert not unless
        if self.fails:
            self.fails -= 1
            raise OriginUnavailable("h.x is tired", retry_after=0)
        blob = Descriptor("x", Digest("a" * 64), 1)
        return Manifest(Digest("b" * 64), blob, (), Digest("c" * 64))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    monkeypatch.setattr(registries, "container_origin", found.at)
    return found


def test_an_image_of_a_registry_is_pinned_to_what_its_tag_names(
    folder: Path, registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    became = submit("--stage-image=docker://h.x/a:1,oras://h.x/b", "job.sh")
    first, second = (f"docker://h.x/a:1@sha256:{'c' * 64}", f"oras://h.x/b:latest@sha256:{'c' * 64}")
    assert became.command[1] == f"--comment=stage-image={first},{second}"
    assert registry.asked == ["docker://h.x/a:1", "oras://h.x/b:latest"]
    assert f"pinned {first} (registry)" in capfd.readouterr().err


def test_a_registry_that_is_tired_is_asked_again(folder: Path, registry: Registry) -> None:
    registry.fails = 1
    assert submit("--stage-image=docker://h.x/a:1", "job.sh").command[1].endswith("c" * 64)


@pytest.mark.parametrize("text", [f"docker://h.x/a@sha256:{DIGEST}", f"library://a/b/c:sha256.{DIGEST}"])
@pytest.mark.usefixtures("folder")
def test_what_always_means_the_same_is_not_asked_for(text: str, registry: Registry) -> None:
    asked = submit(f"--stage-image={text}", "job.sh").command[1].removeprefix("--comment=stage-image=")
    assert asked == str(parse(text))
    assert parse(asked).is_immutable
    assert registry.asked == []


def test_layers_on_disk_are_told_as_they_are(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit("--stage-image=oci:dir:tag", "job.sh").command[1] == f"--comment=stage-image=oci:{folder}/dir:tag"
    assert f"oci:{folder}/dir:tag cannot be pinned" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("docker://h.x/a:1", {"digest": f"sha256:{'c' * 64}", "how": "registry"}),
        (f"docker://h.x/a@sha256:{DIGEST}", {"digest": f"sha256:{DIGEST}", "how": "pinned"}),
        (f"library://a/b/c:sha256.{DIGEST}", {"digest": f"sha256:{DIGEST}", "how": "pinned"}),
    ],
)
@pytest.mark.usefixtures("folder", "registry")
def test_resolving_says_how(text: str, answer: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    assert resolve_verb.run(argparse.Namespace(reference=text, retry=False, json=True)) == 0
    found = json.loads(capfd.readouterr().out)
    assert found == {"reference": found["reference"], **answer}


@pytest.mark.usefixtures("folder")
def test_a_library_says_which_file_it_is(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    source = ScriptedSource(Version(IMAGE, etag=f"sha256.{DIGEST}"))
    monkeypatch.setattr(registries, "source", lambda node, reference: source)
    assert resolve_verb.run(argparse.Namespace(reference="library://a/b/c", retry=False, json=False)) == 0
    assert capfd.readouterr().out == f"library://a/b/c:latest@sha256:{DIGEST}\n"
    assert (source.served, source.closed) == (0, 1)


@pytest.mark.usefixtures("folder")
def test_nothing_resolves_layers_on_disk() -> None:
    with pytest.raises(InvalidReference, match="nothing pins"):
        resolve_verb.run(argparse.Namespace(reference="oci:dir", retry=False, json=False))


def test_the_same_image_twice_is_one(folder: Path) -> None:
    became = submit(f"--stage-image=a.sqsh,{folder}/a.sqsh", "job.sh")
    assert became.command[1] == f"--comment=stage-image={folder}/a.sqsh@sha256:{DIGEST}"


def test_a_script_asks(folder: Path) -> None:
    (folder / "job.sh").write_text("#!/bin/sh\n#SBATCH --comment=mine\n#STAGE-IMAGE a.sqsh\nls\n")
    (told,) = submit("job.sh").command[1:-1]
    assert told == f"--comment=stage-image={folder}/a.sqsh@sha256:{DIGEST} mine"
    given = submit("--comment=yours", f"--stage-image=/x@sha256:{DIGEST}", "job.sh").command
    assert given[2] == f"--comment=stage-image=/x@sha256:{DIGEST} yours"


def test_nothing_is_asked(folder: Path) -> None:
    (folder / "job.sh").write_text("#!/bin/sh\nls --stage-image=/nope\n")
    assert submit("-N2", "job.sh", "--stage-image=/nope").command[1:] == ["-N2", "job.sh", "--stage-image=/nope"]
    assert submit("--stage-image-affinity", "job.sh").command[1:] == ["job.sh"]


@pytest.mark.usefixtures("folder")
def test_an_image_that_is_not_there() -> None:
    with pytest.raises(StageImageError) as caught:
        sbatch_front.run(argparse.Namespace(real="/real/sbatch", line=["--stage-image=/nope.sqsh", "job.sh"]))
    assert (caught.value.exit_code, caught.value.reference) == (66, "/nope.sqsh")


@pytest.mark.usefixtures("folder")
def test_a_step_of_a_job_has_no_prolog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UsageError):
        sbatch_front.run(argparse.Namespace(real="/real/srun", line=["--stage-image=a.sqsh", "./app"]))
    assert submit("./app", real="/real/srun").command == ["/real/srun", "./app"]
    assert len(submit("--stage-image=a.sqsh", real="/real/salloc").command) == 2


@pytest.mark.usefixtures("folder")
def test_switched_off(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hook, "is_off", lambda: True)
    became = submit("--stage-image=/nope", "-N2", "job.sh")
    assert became.command == ["/real/sbatch", "-N2", "job.sh"]
    assert "STAGE_IMAGE_REFERENCE" not in became.environ
    assert "switched off" in capfd.readouterr().err


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_affinity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    words = ("--stage-image-affinity", "-p", "main", "--stage-image=a.sqsh", "job.sh")
    assert len(submit(*words).command) == 5  # no sinfo
    program(folder / "sinfo", f'[ "$*" = "-h -o %D %c %f --partition=main" ] && echo "2 16 ssd,img_{DIGEST[:12]}"')
    assert submit(*words).command[-2:] == [f"--prefer=img_{DIGEST[:12]}", "job.sh"]
    assert not any("img_" in word for word in submit("-N3", *words).command)
    assert not any("img_" in word for word in submit("--prefer=x", *words).command)


def test_an_option_of_the_site(folder: Path) -> None:
    real = program(folder / "sbatch-real", f"cat <<'END'\n{HELP}END")
    became = submit("--container-image", "x", "--stage-image=a.sqsh", "job.sh", real=real)
    assert became.command[1:3] == ["--container-image", "x"]
    assert became.command[3].startswith("--comment=stage-image=")


@pytest.mark.usefixtures("folder")
def test_a_script_through_a_pipe_is_still_there() -> None:
    script = b"#!/bin/sh\n#STAGE-IMAGE a.sqsh\n" + b"# padding\n" * 20_000
    kept, (reader, writer) = os.dup(0), os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(script)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        os.dup2(reader, 0)
        os.close(reader)
        assert submit().command[1].startswith("--comment=stage-image=")
        assert os.read(0, len(script) + 1) == script
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        writing.join()
