"""What a container gets of its image, and of its user, before the runtime sees any of it."""

from __future__ import annotations

import os
import pwd
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.cli.container_run import DEFAULT_PATH, inside, place, stranger, words
from stager.errors import UsageError
from stager.oci import ContainerConfig
from tests.support.effort import effort

COMMAND = ["sh", "-c", "true"]


def of(*env: str) -> ContainerConfig:
    return ContainerConfig(env=env)


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
lines = st.builds("{}={}".format, st.sampled_from(["A", "LD_PRELOAD", "PATH", "a b", "1", "HOME", "é"]) | texts, texts)


@given(st.lists(lines), st.sampled_from(["apptainer", "singularity"]))
@effort(50)
def test_nothing_of_an_image_is_a_variable_of_the_host(env: list[str], runtime: str) -> None:
    found = inside(runtime, of(*env), {})
    for name, value in found.items():
        assert name.startswith(f"{runtime.upper()}ENV_")
        assert name.isascii()
        assert name.isidentifier()
        os.fsencode(value)


@given(st.dictionaries(st.sampled_from("ABCDE"), texts), st.sets(st.sampled_from("ABCDE")), st.booleans())
@effort(50)
def test_what_the_user_says_comes_before_the_image(env: dict[str, str], own: set[str], legacy: bool) -> None:
    environ = {("SINGULARITYENV_" if legacy else "APPTAINERENV_") + name: "mine" for name in own}
    found = inside("apptainer", of(*(f"{name}={value}" for name, value in env.items())), environ)
    assert {name.removeprefix("APPTAINERENV_") for name in found} == {n for n in env if n not in own}


def test_another_runtimes_variables_are_not_the_users_word_on_this_one() -> None:
    environ = {"APPTAINERENV_A": "mine", "A": "plain", "SINGULARITYENV_B": ""}
    assert inside("singularity", of("A=image", "B=image"), environ) == {"SINGULARITYENV_A": "image"}


@pytest.mark.parametrize(
    "name",
    ["HOME", "PWD", "UID", "IFS", "PREPEND_PATH", "APPEND_PATH", "APPTAINER_SHELL", "1A", "A-B", "A.B", "Ä", " A"],
)
def test_names_that_no_runtime_takes_are_left_out(name: str) -> None:
    assert inside("apptainer", of(f"{name}=x", "B=y"), {}) == {"APPTAINERENV_B": "y"}


def test_the_last_of_two_lines_counts_and_only_the_first_sign_divides() -> None:
    assert inside("apptainer", of("A=1", "A=2=3"), {}) == {"APPTAINERENV_A": "2=3"}


AWKWARD = [
    "$HOME",
    "$(id)",
    "`id`",
    'a"b',
    "a'b",
    "\\",
    "\\\\",
    '\\"',
    "\\$x",
    "a\nb",
    "a\\nb",
    "!",
    "{a,b}",
    "*",
    "",
    "$",
]


def test_a_shell_that_evaluates_them_in_double_quotes_gives_them_back_as_they_are() -> None:
    """As the runtimes do with each: the double quotes in it escaped, and it between two of them."""
    found = inside("apptainer", of(*(f"A{number}={value}" for number, value in enumerate(AWKWARD))), {})
    quoted = ['"' + found[f"APPTAINERENV_A{number}"].replace('"', '\\"') + '"' for number in range(len(AWKWARD))]
    script = f"printf '%s\\0' {' '.join(quoted)}"
    said = subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True).stdout
    assert said.split("\0")[:-1] == AWKWARD


@pytest.mark.parametrize("name", ["APPTAINER_NO_EVAL", "SINGULARITY_NO_EVAL"])
def test_where_nothing_is_evaluated_nothing_is_escaped(name: str) -> None:
    assert inside("apptainer", of("A=$x"), {name: "1"}) == {"APPTAINERENV_A": "$x"}
    assert inside("apptainer", of("A=$x"), {name: "0"}) == {"APPTAINERENV_A": "\\$x"}


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, f"/opt/bin:/bin:{DEFAULT_PATH.removesuffix(':/bin')}"),
        ({"APPTAINERENV_PREPEND_PATH": "/me"}, f"/me:/opt/bin:/bin:{DEFAULT_PATH.removesuffix(':/bin')}"),
        ({"SINGULARITYENV_APPEND_PATH": "$X"}, f"/opt/bin:/bin:{DEFAULT_PATH.removesuffix(':/bin')}:$X"),
        ({"APPTAINERENV_PATH": "/mine"}, None),
    ],
)
def test_the_path_is_the_images_with_the_usual_folders_and_the_users(environ: dict[str, str], path: str | None) -> None:
    assert inside("apptainer", of("PATH=/opt/bin:/bin"), environ).get("APPTAINERENV_PATH") == path


def test_an_image_that_says_nothing_changes_nothing() -> None:
    assert inside("apptainer", None, {}) == inside("apptainer", ContainerConfig(entrypoint=("x",)), {}) == {}


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command", "as_made", "runs"),
    [
        (("e", "1"), ("c",), [], False, ["e", "1", "c"]),
        ((), ("c", "2"), [], False, ["c", "2"]),
        (("e",), (), [], True, ["e"]),
        (("e",), ("c",), COMMAND, False, COMMAND),
        (("e",), ("c",), COMMAND, True, ["e", *COMMAND]),
        ((), ("c",), COMMAND, True, COMMAND),
        ((), (), COMMAND, True, COMMAND),
    ],
)
def test_what_runs(
    entrypoint: tuple[str, ...],
    cmd: tuple[str, ...],
    command: list[str],
    as_made: bool,
    runs: list[str],
) -> None:
    config = ContainerConfig(entrypoint=entrypoint, cmd=cmd)
    assert words(config, command, entrypoint=as_made) == runs


@pytest.mark.parametrize("config", [None, ContainerConfig(env=("A=b",))])
def test_an_image_that_names_nothing_to_run_needs_a_command(config: ContainerConfig | None) -> None:
    with pytest.raises(UsageError, match=r"^exec needs a command after `--`: the image "):
        words(config, [], entrypoint=False)
    assert words(config, COMMAND, entrypoint=False) == COMMAND


@pytest.mark.parametrize(
    ("folder", "options"), [("/w", ["--pwd=/w"]), ("w", ["--pwd=/w"]), ("//w", ["--pwd=/w"]), ("", [])]
)
def test_where_it_runs(folder: str, options: list[str]) -> None:
    assert place(ContainerConfig(working_dir=folder)) == options
    assert place(None) == []


def test_a_user_is_told_of_unless_it_is_root_or_the_caller() -> None:
    me = os.geteuid()
    names = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == me]  # none, without an account
    for user in ("", "root", "0", "0:0", "root:wheel", str(me), f"{me}:7", *names[:1]):
        assert stranger(ContainerConfig(user=user)) == "", user
    assert stranger(ContainerConfig(user="joe-of-the-image:joe")) == "joe-of-the-image"
    assert stranger(None) == ""


def test_a_caller_without_a_name_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_uid: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert stranger(ContainerConfig(user="joe")) == "joe"
