"""The settings of cluster scope: a table of their own in a file, and plain variables."""

from __future__ import annotations

import json
import os
import tomllib
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from stager.cli import config_verb
from stager.cli.parser import parse
from stager.config import KEYS, TABLES, Config, load
from stager.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ZOOKEEPER = {"cluster_zookeeper": "zk1"}


def loaded(tmp_path: Path, content: str, environ: dict[str, str] | None = None) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(content)
    file.chmod(0o600)
    return load(environ or {}, site_file=str(file), user_file="")


def refused(tmp_path: Path, content: str, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, content, environ)
    return caught.value


def test_without_any_there_is_no_cluster() -> None:
    config = Config()
    assert (config.scope, config.min_nodes, config.is_cluster) == ("auto", 0, False)
    assert (config.cluster_transport, config.cluster_on_failure, config.cluster_name) == ("relay", "node", "default")
    assert (config.cluster_session_timeout, config.cluster_connect_timeout) == (6, 5)
    assert (config.cluster_linger, config.cluster_lifetime, config.cluster_origins) == (60, 3600, 1)
    paths = (config.cluster_ca_file, config.cluster_certificate_file, config.cluster_key_file)
    assert {*paths, config.cluster_credentials_file, config.cluster_shared_dir} == {""}
    assert (config.cluster_zookeeper, config.cluster_interface, config.cluster_ports) == ("", "", "")


@pytest.mark.parametrize("content", ["[cluster]\nname = 'x'\norigins = 2", "cluster.name = 'x'\ncluster.origins = 2"])
def test_a_table_and_dotted_keys_are_the_same(tmp_path: Path, content: str) -> None:
    config = loaded(tmp_path, content)
    assert (config.cluster_name, config.cluster_origins) == ("x", 2)
    assert config.sources["cluster_name"] == str(tmp_path / "config.toml")


def test_variables_override_the_table(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[cluster]\nname = 'x'\nports = '1-2'", {"STAGE_IMAGE_CLUSTER_NAME": "y"})
    assert (config.cluster_name, config.cluster_ports) == ("y", "1-2")
    assert config.sources["cluster_name"] == "STAGE_IMAGE_CLUSTER_NAME"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("[cluster]\nzookeper = 'x'", "there is no setting 'cluster.zookeper'", "did you mean cluster.zookeeper?"),
        ("[cluster]\nscope = 'node'", "there is no setting 'cluster.scope'", ""),
        ("[cluster.name]\nx = 1", "cluster.name cannot be {'x': 1}; allowed: 1 to 64 letters", ""),
        ("[cluster.nam]\nx = 1", "there is no setting 'cluster.nam'", "did you mean cluster.name?"),
        ("[[cluster]]\nname = 'x'", "cluster is a table, and cannot be [{'name': 'x'}]", "below a line [cluster]"),
        ("cluster = 'zk1'", "cluster is a table, and cannot be 'zk1'", "below a line [cluster]"),
        ("cluster_name = 'x'", "there is no setting 'cluster_name'", "did you mean cluster.name?"),
        ("[cluster]\ntransport = 'relais'", "cluster.transport cannot be 'relais'", "did you mean relay?"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, content: str, message: str, hint: str) -> None:
    error = refused(tmp_path, content)
    assert error.message.startswith(f"{tmp_path / 'config.toml'}: {message}")
    assert hint in error.hint


def test_variables_are_told_by_their_own_names(tmp_path: Path) -> None:
    error = refused(tmp_path, "", {"STAGE_IMAGE_CLUSTER_ZOOKEPER": "x"})
    assert error.message == "STAGE_IMAGE_CLUSTER_ZOOKEPER: there is no setting 'cluster_zookeper'"
    assert error.hint == "did you mean STAGE_IMAGE_CLUSTER_ZOOKEEPER?"
    assert "there is no setting 'cluster'" in refused(tmp_path, "", {"STAGE_IMAGE_CLUSTER": "x"}).message


@pytest.mark.parametrize(
    ("values", "shared"),
    [
        ({}, False),
        (ZOOKEEPER, True),
        (ZOOKEEPER | {"scope": "node"}, False),
        (ZOOKEEPER | {"scope": "cluster"}, True),
        ({"scope": "node", "cluster_transport": "shared"}, False),
        (ZOOKEEPER | {"cluster_transport": "shared", "cluster_shared_dir": "/p"}, True),
        (ZOOKEEPER | {"cluster_ca_file": "/a", "cluster_certificate_file": "/c", "cluster_key_file": "/k"}, True),
    ],
)
def test_who_shares(values: dict[str, Any], *, shared: bool) -> None:
    assert load({}, values, site_file="", user_file="").is_cluster is shared


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"scope": "cluster"}, "cluster.zookeeper"),
        (ZOOKEEPER | {"cluster_transport": "shared"}, "cluster.shared_dir"),
        (ZOOKEEPER | {"cluster_ca_file": "/a", "cluster_key_file": "/k"}, "cluster.certificate_file"),
        (ZOOKEEPER | {"cluster_certificate_file": "/c"}, "cluster.ca_file"),
    ],
)
def test_what_contradicts_itself_is_told(values: dict[str, Any], missing: str) -> None:
    config = load({}, values, site_file="", user_file="")
    with pytest.raises(ConfigError, match=f"^{missing} is not set, but "):
        assert config.is_cluster


def test_what_is_shown_is_a_file_that_means_the_same(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    odd = tmp_path / "site \x01 # = [.toml"
    odd.write_text("mirrors = {'/a' = '/b'}\n[cluster]\nzookeeper = 'zk1, [::1]:2182/x'\nports = '1-2'\nlinger = 0\n")
    odd.chmod(0o600)
    variables = {"STAGE_IMAGE_CONFIG": str(odd), "STAGE_IMAGE_CLUSTER_ORIGINS": "3", "XDG_CONFIG_HOME": str(tmp_path)}
    with patch.dict(os.environ, variables, clear=True):
        assert config_verb.run(parse(["config", "show"])) == 0
        shown = capfdbinary.readouterr().out.decode()
        assert config_verb.run(parse(["config", "show", "--json"])) == 0
    config = load({}, site_file=str(odd), user_file="")
    assert loaded(tmp_path, shown, {"STAGE_IMAGE_CLUSTER_ORIGINS": "3"}).cluster_zookeeper == "zk1:2181,[::1]:2182/x"
    again = loaded(tmp_path, shown)
    assert {name for name in KEYS if getattr(again, name) != getattr(config, name)} == {"cluster_origins"}
    assert shown.count("STAGE_IMAGE_CLUSTER_ORIGINS\n") == 1
    answer = json.loads(capfdbinary.readouterr().out)
    assert answer["cluster.origins"] == {"value": 3, "source": "STAGE_IMAGE_CLUSTER_ORIGINS"}
    assert set(tomllib.loads(shown)) - set(TABLES) == {name for name in answer if "." not in name}
