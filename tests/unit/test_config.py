from __future__ import annotations

import json
import os
import stat
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import pytest

from docs import generate
from stager.config import KEYS, Config, Setting, default_user_file, load
from stager.errors import ConfigError
from stager.registry_setting import RegistrySetting
from stager.settings_file import refusal
from stager.variables import RESERVED

if TYPE_CHECKING:
    from pathlib import Path


class Files:
    """A site file and a user file, and what `load` makes of them."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site.toml"
        self.user = folder / "user.toml"

    def write(self, path: Path, content: str | bytes, mode: int = 0o644) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)

    def load(self, environ: dict[str, str] | None = None, **flags: object) -> Config:
        return load(environ or {}, flags, site_file=str(self.site), user_file=str(self.user))

    def error(self, environ: dict[str, str] | None = None, **flags: object) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.load(environ, **flags)
        return caught.value


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_defaults(files: Files) -> None:
    config = files.load()
    assert config == Config()
    assert (config.freshness, config.offline, config.mount, config.runtime) == ("job", "allow", "auto", "auto")
    assert (config.connect_timeout, config.stall_timeout, config.deadline, config.failure_backoff) == (10, 60, 300, 10)
    assert (config.connections, config.min_free, config.max_size) == (4, 64 * 2**20, None)
    assert (config.store, config.ca_file, config.token_file, config.mirrors) == ("", "", "", {})
    assert config.allow_unsafe_store is False
    assert set(config.sources) == set(KEYS)
    assert set(config.sources.values()) == {"default"}


def test_each_source_beats_the_one_before(files: Files) -> None:
    environ: dict[str, str] = {}
    flags: dict[str, object] = {}

    def check(source: str, value: float) -> None:
        assert files.load(environ, **flags).setting("connect_timeout") == Setting(value, source)

    check("default", 10)
    files.write(files.site, "connect_timeout = 1")
    check(str(files.site), 1)
    files.write(files.user, "connect_timeout = 2")
    check(str(files.user), 2)
    environ["STAGE_IMAGE_CONNECT_TIMEOUT"] = "3"
    check("STAGE_IMAGE_CONNECT_TIMEOUT", 3)
    flags["connect_timeout"] = "4s"
    check("--connect-timeout", 4)


def test_sources_are_per_value(files: Files) -> None:
    files.write(files.site, 'mount = "loop"\nstore = "/local"')
    files.write(files.user, 'mount = "none"')
    config = files.load({"STAGE_IMAGE_OFFLINE": "refuse"}, freshness=None)
    assert (config.mount, config.store, config.offline, config.freshness) == ("none", "/local", "refuse", "job")
    named = {name: source for name, source in config.sources.items() if source != "default"}
    assert named == {"mount": str(files.user), "store": str(files.site), "offline": "STAGE_IMAGE_OFFLINE"}


GOOD: list[tuple[str, object, object]] = [
    *(("max_size", "10GiB", 10 * 2**30), ("max_size", 5_000_000, 5_000_000), ("max_size", "", None)),
    *(("min_free", 0, 0), ("min_free", "1.5 GB", 1_500_000_000)),
    *(("deadline", 90, 90.0), ("deadline", 1.5, 1.5), ("deadline", "2h", 7200.0), ("failure_backoff", 0, 0.0)),
    *(("connections", 1, 1), ("connections", "16", 16)),
    *(("allow_unsafe_store", True, True), ("allow_unsafe_store", "no", False), ("allow_unsafe_store", "1", True)),
    *(("platform", "AMD64", "linux/amd64"), ("platform", "linux/arm/v7", "linux/arm/v7"), ("platform", "", "")),
    *(("convert_level", "22", 22), ("library", "HTTP://H:80/x/", "http://h/x")),
    *(("store", "/a b", "/a b"), ("store", "", "")),
    ("mirrors", {"https://a/": "https://b/"}, {"https://a/": ("https://b/",)}),
    ("mirrors", {"https://a/": ["/b/", "file:///c/"]}, {"https://a/": ("/b/", "file:///c/")}),
]


@pytest.mark.parametrize(("name", "raw", "value"), GOOD)
def test_good_values(files: Files, name: str, raw: object, value: object) -> None:
    found = getattr(files.load(None, **{name: raw}), name)
    assert found == value
    assert type(found) is type(value)


BAD_TABLES: list[object] = [{"a": ["/b"]}, {"/a": []}, {"/a": [1]}, {"/a": "b"}, {"/a": 1}]
NO_COUNTS: list[object] = [0, 17, "0", "4.0", 4.0, True, "\u0664", "9" * 5000]
BAD: list[tuple[str, object]] = [
    *(("freshness", word) for word in ("sometimes", "", "Job", 1, True, ["job"])),
    *(("max_size", raw) for raw in (0, "0", "10G", -1, 1.5, True, "5%", [1])),
    *(("min_free", raw) for raw in ("", "lots", -1, None.__class__)),
    *(("deadline", raw) for raw in (0, -1, "0s", "8d", float("nan"), float("inf"), True, "soon", [5])),
    *(("connections", raw) for raw in NO_COUNTS),
    *(("allow_unsafe_store", raw) for raw in (1, "", "maybe", "tru")),
    *(("store", raw) for raw in ("relative", "~/x", "./x", "/a\nb", "/a\0b", "/\x7f", 7, ["/a"])),
    *(("platform", raw) for raw in ("linux/", "a/b/c/d", "linux/a b", 7)),
    *(("convert_level", raw) for raw in (-1, 23, "hard")),
    *(("convert_compression", raw) for raw in ("zst", "", "lzma")),
    *(("library", raw) for raw in ("", "h", "docker://h", "/a", "https://h?x", "https://h/x@sha256:" + "0" * 64)),
    *(("mirrors", raw) for raw in ("x", [], *BAD_TABLES)),
]


@pytest.mark.parametrize(("name", "raw"), BAD)
def test_bad_values_name_source_key_and_what_is_allowed(files: Files, name: str, raw: object) -> None:
    message = files.error(None, **{name: raw}).message
    assert message.startswith(f"--{name.removeprefix('convert_').replace('_', '-')}: {KEYS[name].label} cannot be ")
    assert message.endswith(KEYS[name].kind.allowed)
    assert len(message) < 400


REGISTRIES = [
    (
        'registry."docker.io"',
        'mirrors = ["https://m/hub", "http://m:5000"]',
        ("docker.io", ("https://m/hub", "http://m:5000/")),
    ),
    ('registry."Index.Docker.IO"', 'mirrors = "https://m"', ("docker.io", ("https://m/",))),
    ('registry."Host:5000"', "", ("host:5000", ())),
]


@pytest.mark.parametrize(("header", "line", "found"), REGISTRIES)
def test_registries(files: Files, header: str, line: str, found: tuple[str, tuple[str, ...]]) -> None:
    files.write(files.site, f"[{header}]\n{line}")
    assert files.load().registry == {found[0]: RegistrySetting(found[1])}


def test_a_table_for_one_registry_leaves_those_of_others(files: Files) -> None:
    files.write(files.site, '[registry."a.x"]\nmirrors = ["https://m"]\n[registry."b.x"]\nplain_http = true')
    files.write(files.user, '[registry."b.x"]\nmirrors = ["https://n"]')
    config = files.load()
    assert config.registry == {"a.x": RegistrySetting(("https://m/",)), "b.x": RegistrySetting(("https://n/",))}
    assert config.setting("registry").source == f"{files.site}, {files.user}"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("registry = 1", "registry cannot be 1; allowed: tables, in a file", ""),
        ("[registry.docker.io]", "registry.\"docker\": 'docker' is not the host", '[registry."docker.io"]'),
        ('[registry."u@h.x"]', "registry.\"u@h.x\": 'u@h.x' is not the host", '[registry."docker.io"]'),
        ('[registry."h.x/y"]', "registry.\"h.x/y\": 'h.x/y' is not the host", '[registry."docker.io"]'),
        ("[registry.library]", "registry.\"library\": 'library' is not", '[registry."docker.io"]'),
        ("[registry]\nmirrors = 1", "registry.\"mirrors\": 'mirrors' is not", '[registry."docker.io"]'),
        ("[registry]\n'h.x' = 1", 'registry."h.x" is a table, and cannot be 1', '[registry."h.x"]'),
        ("[registry.'h.x']\nmirors = 1", "registry.\"h.x\": there is no setting 'mirors'", "did you mean mirrors?"),
        ("[registry.'h.x']\nplain-http = true", 'registry."h.x": there is no setting', "did you mean plain_http?"),
        ("[registry.'h.x']\nplain_http = 1", 'registry."h.x": plain_http cannot be 1; allowed: true | false', ""),
        *(
            (f"[registry.'h.x']\nmirrors = {value}", 'registry."h.x": mirrors cannot be', "")
            for value in ("1", "[1]", "['']", "['docker://m']", "['/m']", "['https://m?x']", "['https://u:p@m']", "{}")
        ),
    ],
)
def test_what_is_wrong_with_a_registry_is_told(files: Files, content: str, message: str, hint: str) -> None:
    files.write(files.site, content)
    error = files.error()
    assert error.message.startswith(f"{files.site}: {message}")
    assert hint in error.hint


def test_a_variable_holds_no_registries(files: Files) -> None:
    assert "allowed: tables, in a file" in files.error({"STAGE_IMAGE_REGISTRY": "docker.io"}).message


def test_every_source_is_named(files: Files) -> None:
    assert files.error({"STAGE_IMAGE_MOUNT": "lop"}).message.startswith("STAGE_IMAGE_MOUNT: mount cannot be 'lop'")
    files.write(files.user, 'mount = "lop"')
    assert files.error().message.startswith(f"{files.user}: mount cannot be 'lop'; allowed: auto | loop | fuse | none")
    assert files.error().hint == "did you mean loop?"


def test_a_bad_value_is_an_error_even_if_overridden(files: Files) -> None:
    files.write(files.site, "connections = 99")
    assert str(files.site) in files.error(connections=4).message


@pytest.mark.parametrize(
    ("line", "hint"),
    [("stall_timout = 1", "did you mean stall_timeout?"), ("zzz = 1", ConfigError.hint), ("[mirror]", "mirrors?")],
)
def test_unknown_keys(files: Files, line: str, hint: str) -> None:
    files.write(files.site, line)
    error = files.error()
    assert error.message.startswith(f"{files.site}: there is no setting ")
    assert error.hint.endswith(hint)


def test_unknown_variables(files: Files) -> None:
    error = files.error({"STAGE_IMAGE_STROE": "/x"})
    assert (error.message, error.hint) == (
        "STAGE_IMAGE_STROE: there is no setting 'stroe'",
        "did you mean STAGE_IMAGE_STORE?",
    )


def test_variables_that_are_no_settings(files: Files) -> None:
    environ = dict.fromkeys(RESERVED, "/dev/null") | {"STAGE_IMAGE_TEST_REQUIRE": "all", "STAGE_IMAGED": "x"}
    assert files.load(environ) == Config()


def test_empty_variables_are_unset(files: Files) -> None:
    files.write(files.site, 'store = "/local"')
    assert files.load({"STAGE_IMAGE_STORE": "", "STAGE_IMAGE_STROE": ""}).store == "/local"


def test_syntax_errors_name_file_and_line(files: Files) -> None:
    files.write(files.site, 'mount = "auto"\nstore = /local\n')
    message = files.error().message
    assert message.startswith(f"{files.site} is not TOML")
    assert "line 2" in message


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0", b"a = " + b"[" * 100_000])
def test_garbage_is_not_toml(files: Files, content: bytes) -> None:
    files.write(files.site, content)
    assert "is not TOML" in files.error().message


def test_a_named_file_replaces_the_site_file(files: Files, tmp_path: Path) -> None:
    files.write(files.site, 'mount = "loop"')
    other = tmp_path / "other.toml"
    environ = {"STAGE_IMAGE_CONFIG": str(other)}
    assert str(other) in files.error(environ).message
    files.write(other, "connections = 2")
    assert (files.load(environ).mount, files.load(environ).connections) == ("auto", 2)
    assert files.load({"STAGE_IMAGE_CONFIG": "/dev/null"}).mount == "auto"


def test_files_that_cannot_be_read_are_errors(files: Files, tmp_path: Path) -> None:
    files.site.mkdir()
    assert "cannot be read: [Errno 21] Is a directory" in files.error().message
    files.site.rmdir()
    os.mkfifo(files.site)
    assert "is not a regular file" in files.error().message
    files.site.unlink()
    files.site.symlink_to(files.site)
    assert "cannot be read" in files.error().message


def test_no_directory_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert load({}, site_file=str(tmp_path / "file" / "x"), user_file=str(tmp_path / "none" / "x")) == Config()


@pytest.mark.parametrize("own", [True, False])
def test_a_file_open_to_all_is_not_believed(files: Files, *, own: bool) -> None:
    path = files.user if own else files.site
    files.write(path, "connections = 1", mode=0o646)
    assert files.error().message == f"{path} can be written by others, so it is not believed"


def test_only_ones_own_file_may_be_open_to_the_group(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    euid = os.geteuid() or 1000
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    files.write(files.user, "connections = 1", mode=0o664)
    assert files.load().connections == 1
    files.write(files.site, "connections = 2", mode=0o664)
    assert files.error().message == f"{files.site} can be written by others, so it is not believed"


ROOT_UID, ME, SHE = 0, 1000, 1001


@pytest.mark.parametrize(
    ("owner", "mode", "euid", "own", "believed"),
    [
        (ROOT_UID, 0o644, ROOT_UID, False, True),
        (ROOT_UID, 0o664, ROOT_UID, False, False),
        (ROOT_UID, 0o646, ROOT_UID, False, False),
        (ME, 0o644, ROOT_UID, False, False),
        (ROOT_UID, 0o644, ROOT_UID, True, True),
        (ME, 0o600, ROOT_UID, True, False),
        (ROOT_UID, 0o664, ROOT_UID, True, False),
        (ROOT_UID, 0o644, ME, False, True),
        (ROOT_UID, 0o664, ME, False, False),
        (ME, 0o644, ME, False, True),
        (SHE, 0o644, ME, False, False),
        (ME, 0o664, ME, True, True),
        (ME, 0o666, ME, True, False),
        (SHE, 0o644, ME, True, False),
    ],
)
def test_whom_to_believe(owner: int, mode: int, euid: int, *, own: bool, believed: bool) -> None:
    status = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))
    assert (refusal(status, euid, own=own) == "") is believed


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, ""),
        ({"HOME": "/home/me"}, "/home/me/.config/stage-image/config.toml"),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": "/etc/me"}, "/etc/me/stage-image/config.toml"),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": ""}, "/home/me/.config/stage-image/config.toml"),
        ({"XDG_CONFIG_HOME": "relative"}, ""),
    ],
)
def test_where_the_user_file_is(environ: dict[str, str], path: str) -> None:
    assert default_user_file(environ) == path


def test_the_user_file_is_found_by_the_environment(tmp_path: Path) -> None:
    folder = tmp_path / "stage-image"
    folder.mkdir()
    (folder / "config.toml").write_text("connections = 7")
    (folder / "config.toml").chmod(0o600)
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "STAGE_IMAGE_CONFIG": "/dev/null"}
    assert load(environ).connections == 7
    assert load(environ, user_file="").connections == 4


def test_it_does_not_change() -> None:
    config: Any = Config()
    with pytest.raises(FrozenInstanceError):
        config.mount = "none"


def test_values_can_be_written_as_json(files: Files) -> None:
    config = files.load(None, mirrors={"/a": "/b"})
    assert json.loads(json.dumps({"a": RegistrySetting(("b",)).describe()})) == {
        "a": {"mirrors": ["b"], "plain_http": False}
    }
    for default in (config, Config()):
        assert json.loads(json.dumps({name: getattr(default, name) for name in KEYS}))["deadline"] == 300


def test_every_setting_says_what_it_means() -> None:
    for key in KEYS.values():
        assert key.doc[0].isupper()
        assert key.doc.endswith(".")
        assert key.variable == f"STAGE_IMAGE_{key.name.upper()}" == f"STAGE_IMAGE_{key.label.replace('.', '_').upper()}"


def test_documentation_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check", "configuration"]) == 0, capsys.readouterr().err


def test_the_documented_example_is_right(files: Files) -> None:
    files.write(files.site, generate.configuration().partition("```toml\n")[2].partition("```")[0])
    config = files.load()
    assert (config.store, config.max_size) == ("/local/stage-image", 200 * 2**30)
    assert len(config.mirrors["https://images.example.org/"]) == 2
    assert config.registry["docker.io"] == RegistrySetting(("https://cache.cluster.example/hub",))
    assert config.registry["registry.cluster.example:5000"].plain_http


def test_options_are_named_as_people_write_them(files: Files) -> None:
    assert files.error(convert_compression="brotli").message.startswith("--compression: convert.compression cannot be ")
    assert files.error(convert_level="99").message.startswith("--level: convert.level cannot be ")
