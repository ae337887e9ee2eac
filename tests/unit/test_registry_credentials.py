"""Whose credentials count, in which order, and which files and helpers are not to be trusted."""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from stager.errors import AccessDenied, ConfigError
from stager.sources.registry import auth_files, credential_helper, credentials
from stager.sources.registry.auth_files import FILE_MAX
from tests.support.within import within

if TYPE_CHECKING:
    from pathlib import Path

HOST, REPOSITORY = "host:5000", "a/b"


def content(user: str, password: str = "p", host: str = HOST) -> str:
    return json.dumps({"auths": {host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}})


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def user(environ: dict[str, str], named: str = "") -> str:
    found = credentials.find(HOST, REPOSITORY, environ, named)
    return found.user if found else ""


def test_the_order(tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "DOCKER_CONFIG": str(tmp_path / "config"),
        "REGISTRY_AUTH_FILE": str(tmp_path / "auth"),
        "DOCKER_AUTH_CONFIG": content("c"),
        "APPTAINER_DOCKER_USERNAME": "a",
        "APPTAINER_DOCKER_PASSWORD": "p",
        "SINGULARITY_DOCKER_USERNAME": "b",
        "SINGULARITY_DOCKER_PASSWORD": "p",
    }
    files = {
        "d": tmp_path / "auth",
        "e": tmp_path / "run/containers/auth.json",
        "f": tmp_path / ".config/containers/auth.json",
        "g": tmp_path / "config/config.json",
        "h": tmp_path / ".docker/config.json",
        "i": tmp_path / ".apptainer/docker-config.json",
        "j": tmp_path / ".singularity/docker-config.json",
    }
    for name, path in files.items():
        write(path, content(name))
    found = []
    for variable in (["APPTAINER_DOCKER_USERNAME"], ["SINGULARITY_DOCKER_PASSWORD"], ["DOCKER_AUTH_CONFIG"]):
        found.append(user(environ))
        del environ[variable[0]]
    for path in files.values():
        found.append(user(environ))
        path.unlink()
    assert "".join(found) == "abcdefghij"
    assert user(environ) == ""


def test_the_user_who_is_named_decides(tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", content("bob"))
    environ = {"HOME": str(tmp_path), "APPTAINER_DOCKER_USERNAME": "ada", "APPTAINER_DOCKER_PASSWORD": "p"}
    assert user(environ, "bob") == "bob"
    assert user(environ, "ada") == user(environ) == "ada"
    with pytest.raises(AccessDenied, match="no credentials of the user eve for host:5000"):
        user(environ, "eve")


def test_variables_without_a_host_are_not_for_mirrors() -> None:
    environ = {"HOME": "/nowhere", "APPTAINER_DOCKER_USERNAME": "ada", "APPTAINER_DOCKER_PASSWORD": "p"}
    assert credentials.find_for_mirror(HOST, REPOSITORY, environ) is None
    found = credentials.find_for_mirror(HOST, REPOSITORY, environ | {"DOCKER_AUTH_CONFIG": content("bob")})
    assert found
    assert found.user == "bob"


def test_a_file_that_everybody_may_write(tmp_path: Path) -> None:
    path = write(tmp_path / "f", content("ada"), 0o602)
    with pytest.raises(ConfigError, match=r"everybody may write to .* \(mode 0602\)"):
        auth_files.read(str(path))


def test_somebody_elses_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "f", content("ada"))
    owner = path.stat().st_uid
    if owner == 0:
        # The superuser's files are to be trusted: another owner has to be made up.
        status = os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, 12345, 0, 1, 0, 0, 0))
        monkeypatch.setattr(os, "fstat", lambda _: status)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        auth_files.read(str(path))


def test_what_is_no_file_of_credentials(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, text in (("long", " " * (FILE_MAX + 1)), ("words", "x"), ("list", "[]")):
        write(tmp_path / name, text)
    with within(10):
        for name, words in (
            ("fifo", "not a regular file"),
            ("long", "longer than"),
            ("words", "not JSON"),
            ("list", "not a JSON object"),
            (".", "not a regular file"),
        ):
            with pytest.raises(ConfigError, match=words):
                auth_files.read(str(tmp_path / name))
        assert auth_files.read("/dev/null/x") is None
        assert auth_files.read(str(tmp_path / "none")) is None
        with pytest.raises(ConfigError, match="not a regular file"):
            auth_files.read("/dev/zero")


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    write(folder / f"docker-credential-{name}", f"#!/bin/sh\n{script}\n", 0o700)
    return {"HOME": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}


ECHO = r"""read -r host; printf '{"ServerURL":"%s","Username":"%s","Secret":"S3CRET"}' "$host" "$1 $host" """


def test_a_helper_is_asked_for_the_host(tmp_path: Path) -> None:
    environ = helper(tmp_path, "test", ECHO)
    found = credential_helper.ask("test", HOST, environ)
    assert found
    assert (found.user, found.secret, found.found) == (f"get {HOST}", "S3CRET", "docker-credential-test")
    hub = credential_helper.ask("test", "docker.io", environ)
    assert hub
    assert hub.user == "get https://index.docker.io/v1/"


def test_a_helper_may_have_a_refresh_token_or_nothing(tmp_path: Path) -> None:
    token = helper(tmp_path, "test", """echo '{"Username":"<token>","Secret":"T"}'""")
    found = credential_helper.ask("test", HOST, token)
    assert found
    assert (found.user, found.secret, found.identity) == ("", "T", True)
    nothing = helper(tmp_path, "test", "echo 'credentials not found in native keychain'; exit 1")
    assert credential_helper.ask("test", HOST, nothing) is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo S3CRET; exit 3", "failed with exit code 3"),
        ("echo S3CRET", "gave no sensible answer"),
        ("echo '[]'", "gave no sensible answer"),
        ("echo '{}'", "gave no sensible answer"),
        ("exec cat /dev/zero", "answers without an end"),
        ("exec sleep 60", "did not end within 0.5 s"),
        ("exec >&-; exec sleep 60", "did not end within 0.5 s"),
    ],
)
def test_a_helper_that_is_no_good(tmp_path: Path, script: str, words: str) -> None:
    environ = helper(tmp_path, "test", script)
    with within(20), pytest.raises(ConfigError, match=f"docker-credential-test {words}") as caught:
        credential_helper.ask("test", HOST, environ, 0.5)
    assert "S3CRET" not in f"{caught.value.message} {caught.value.hint}"


def test_an_agent_that_a_helper_leaves_behind_holds_up_nobody(tmp_path: Path) -> None:
    script = f"""sleep 30 & echo $! >{tmp_path}/agent; echo '{{"Username":"u","Secret":"s"}}'"""
    try:
        with within(20):
            assert credential_helper.ask("test", HOST, helper(tmp_path, "test", script))
        os.kill(int((tmp_path / "agent").read_text()), 0)
    finally:
        os.kill(int((tmp_path / "agent").read_text()), 9)


def test_a_helper_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="docker-credential-desktop is not installed"):
        credential_helper.ask("desktop", HOST, {"PATH": str(tmp_path)})


@pytest.mark.parametrize("name", ["../../bin/sh", "a b", "", "x" * 100, "-x", "a/b"])
def test_a_helper_with_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a credential helper"):
        credential_helper.ask(name, HOST, {"PATH": ""})


def test_helpers_named_in_a_file(tmp_path: Path) -> None:
    environ = helper(tmp_path, "test", ECHO)
    write(tmp_path / ".docker/config.json", json.dumps({"credHelpers": {HOST: "test"}}))
    assert user(environ) == f"get {HOST}"
    write(tmp_path / ".docker/config.json", json.dumps({"credsStore": "test", **json.loads(content("written"))}))
    assert user(environ) == "written"
    assert user({"PATH": "", "HOME": str(tmp_path)}) == "written", "a helper is asked when it is needed"
