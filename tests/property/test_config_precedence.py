from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from stager import kinds
from stager.config import KEYS, TABLES, Config, load
from stager.errors import ConfigError
from stager.registry_setting import RegistrySetting
from stager.settings import FILE_ONLY
from tests.property.strategies import hostile_text
from tests.support.effort import effort

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_clean = st.text("abcXYZ019 /._-\"'\\\xe4\u6f22\U0001f600", max_size=20)
_prefixes = st.builds(str.__add__, st.sampled_from(["/", "https://", "http://", "file:///"]), _clean)
_ports = st.integers(1, 65535)


def _unbroken(text: str) -> str:
    """A variable has a list's items between blanks."""
    return "".join(text.split())


_paths = _clean.map("/".__add__).map(_unbroken).map(lambda path: path.replace("=", ""))
_places = _paths | st.tuples(_paths, _paths).map("=".join)
_hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses(v=6).map(lambda ip: f"[{ip}]")
_servers = st.builds(lambda host, port: f"{host}:{port}", _hosts, _ports)


def _rooted(servers: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["", "/a", "/stage-image/x_1"]).map(servers.__add__)


_values: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.sampled_from(key.kind.words) for name, key in KEYS.items() if key.kind.words},
    **dict.fromkeys(
        [name for name, key in KEYS.items() if key.kind is kinds.PATH], _clean.map("/".__add__) | st.just("")
    ),
    **dict.fromkeys([name for name, key in KEYS.items() if key.kind is kinds.TIME], st.integers(1, 604800).map(float)),
    **dict.fromkeys(("failure_backoff", "cluster_linger"), st.floats(0, 1000).map(lambda seconds: round(seconds, 3))),
    "connections": st.integers(1, 16),
    "cluster_origins": st.integers(1, 64),
    "min_nodes": st.integers(0, 10**6),
    "cluster_session_timeout": st.integers(1, 300).map(float),
    "cluster_name": st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    "cluster_zookeeper": st.lists(_servers, min_size=1, max_size=3).map(",".join).flatmap(_rooted) | st.just(""),
    "cluster_ports": st.tuples(_ports, _ports).map(sorted).map(lambda ends: f"{ends[0]}-{ends[1]}") | st.just(""),
    "cluster_interface": st.ip_addresses().map(str) | st.sampled_from(["", "ib0", "eth0.7", "10.1.0.0/16", "fd00::/8"]),
    **dict.fromkeys(("slurm_allow", "gridengine_allow"), st.lists(_prefixes.map(_unbroken), max_size=3).map(tuple)),
    **dict.fromkeys(("slurm_strict", "gridengine_strict", "gridengine_push"), st.booleans()),
    "slurm_private": st.lists(_places, max_size=3).map(tuple),
    "slurm_private_shows": st.lists(st.sampled_from(["/tmp/.X11-unix", "/a", "/b/c-1"]), max_size=3).map(tuple),
    "slurm_features_prefix": st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    "min_free": st.integers(0, 2**62),
    "max_size": st.none() | st.integers(1, 2**62),
    "allow_unsafe_store": st.booleans(),
    "platform": st.sampled_from(["", "linux/amd64", "linux/arm/v7", "linux/arm64/v8"]),
    "convert_level": st.integers(0, 22),
    "library": st.sampled_from(["https://library.sylabs.io", "http://h.x:8080/a/b"]),
    "registry": st.dictionaries(
        st.sampled_from(["docker.io", "ghcr.io", "h.x:5000", "localhost:1", "[::1]:5000"]),
        st.builds(
            RegistrySetting,
            st.lists(st.sampled_from(["https://m.x/", "http://m.x:5000/hub"]), max_size=2).map(tuple),
            st.booleans(),
        ),
        max_size=3,
    ),
    "mirrors": st.dictionaries(_prefixes, st.lists(_prefixes, min_size=1, max_size=3).map(tuple), max_size=3),
}
configs = st.fixed_dictionaries({}, optional=_values)


def toml(values: dict[str, Any]) -> str:
    return "".join(f"{KEYS[name].label} = {KEYS[name].kind.show(value)}\n" for name, value in values.items())


def read(text: str) -> dict[str, Any]:
    """Return the values of a file by the names of their fields."""
    table = tomllib.loads(text)
    rows = {f"{each}_{name}": raw for each in TABLES for name, raw in table.pop(each, {}).items()}
    return table | rows


def test_every_setting_has_a_strategy() -> None:
    assert set(_values) == set(KEYS)


@given(configs)
@effort(25)
def test_what_is_shown_can_be_read_back(values: dict[str, Any]) -> None:
    assert {name: KEYS[name].kind.parse(raw) for name, raw in read(toml(values)).items()} == values


@given(
    st.sampled_from(sorted(set(KEYS) - set(FILE_ONLY))).flatmap(lambda name: st.tuples(st.just(name), _values[name]))
)
@effort(25)
def test_a_variable_means_what_the_file_means(entry: tuple[str, Any]) -> None:
    name, value = entry
    raw = read(toml({name: value}))[name]
    text = str(raw).lower() if isinstance(raw, bool) else " ".join(raw) if isinstance(raw, list) else str(raw)
    variable = KEYS[name].variable
    config = load({variable: text}, site_file="", user_file="")
    assert getattr(config, name) == (value if text else getattr(Config(), name))
    assert config.sources[name] == (variable if text else "default")


@given(configs, configs, configs)
@effort(25)
def test_the_last_source_wins(
    tmp_path_factory: pytest.TempPathFactory, site: dict[str, Any], user: dict[str, Any], flags: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("config")
    paths = [_written(folder / "site", site), _written(folder / "user", user)]
    given_flags = read(toml(flags))
    config = load({}, given_flags, site_file=paths[0], user_file=paths[1])
    for name in set(KEYS) - {"registry"}:
        layers: list[tuple[str, dict[str, Any]]] = [
            (f"--{name.removeprefix('convert_').replace('_', '-')}", flags),  # as `convert` calls them
            (paths[1], user),
            (paths[0], site),
            ("default", {name: KEYS[name].default}),
        ]
        source, values = next(layer for layer in layers if name in layer[1])
        assert (config.sources[name], getattr(config, name)) == (source, values[name])


@given(*[_values["registry"]] * 3)
@effort(25)
def test_tables_of_other_hosts_stay(
    tmp_path_factory: pytest.TempPathFactory, site: dict[str, Any], user: dict[str, Any], flags: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("config")
    paths = [_written(folder / name, {"registry": table}) for name, table in (("site", site), ("user", user))]
    config = load({}, {"registry": flags}, site_file=paths[0], user_file=paths[1])
    assert config.registry == {**site, **user, **flags}
    assert config.sources["registry"].endswith("--registry")


def _written(path: Path, values: dict[str, Any]) -> str:
    path.write_text(toml(values))
    path.chmod(0o600)
    return str(path)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)) | hostile_text, hostile_text | st.integers() | st.floats()))
@effort(25)
def test_anything_else_is_a_config_error_of_one_line(flags: dict[str, object]) -> None:
    environ: dict[str, str]
    chosen: dict[str, object]
    variables = {f"STAGE_IMAGE_{name.upper()}": str(value) for name, value in flags.items()}
    for environ, chosen in (({}, flags), (variables, {})):
        try:
            config = load(environ, chosen, site_file="", user_file="")
        except ConfigError as error:
            assert error.message.isprintable()  # noqa: PT017 - raising is one of two right answers
        else:
            assert {name for name, source in config.sources.items() if source != "default"} <= set(flags)
