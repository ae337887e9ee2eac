"""No test touches the user's store or settings, none runs where it cannot, none leaves anything behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from tests.support import capabilities
from tests.support.leftovers import MARK, Traces

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREIGN = (
    *("SLURM", "PBS_", "LSB_", "SGE_", "FLUX_", "OMPI_", "PMI_", "PMIX_", "PALS_", "MPI_", "MV2_", "JSM_", "_CONDOR_"),
    *("STAGE_IMAGE_", "XDG_"),
)
"""Prefixes of variables that change what stage-image does; a session's own mark is put back."""
FOREIGN_NAMES = frozenset({"JOB_ID", "LOCAL_RANK", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"})

# No deadline: a loaded machine is no fault of the code. No complaint of slow input: the same.
settings.register_profile("house", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

_session = f"stage-image-test-{uuid4().hex[:12]}"
_require = os.environ.get("STAGE_IMAGE_TEST_REQUIRE", "")


def pytest_report_header() -> list[str]:
    return capabilities.summary()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("needs"):
            capabilities.missing(mark.args)  # a misspelt capability ends the session here


def pytest_runtest_setup(item: pytest.Item) -> None:
    lacking = capabilities.missing(name for mark in item.iter_markers("needs") for name in mark.args)
    reason = f"this machine lacks: {', '.join(lacking)}"
    match capabilities.verdict(lacking, _require):
        case "skip":
            pytest.skip(reason)
        case "fail":
            pytest.fail(f"{reason} (and STAGE_IMAGE_TEST_REQUIRE={_require} forbids to skip)", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set the session's mark and directories; at its end, fail for what is left and remove it."""
    base = tmp_path_factory.getbasetemp()
    traces = Traces(_session, (str(base), str(_public_root())))
    os.environ[MARK] = _session
    tempfile.tempdir = str(base)
    yield
    tempfile.tempdir = None
    lines = traces.after_grace()
    traces.remove()
    shutil.rmtree(_public_root(), ignore_errors=True)
    if lines:
        pytest.fail("the tests left behind:\n  " + "\n  ".join(lines), pytrace=False)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Outside of any job, without settings or proxies, and with a store and a home that nobody will miss."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) or name in FOREIGN_NAMES or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(MARK, _session)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STAGE_IMAGE_STORE", str(tmp_path / "store"))


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where STAGE_IMAGE_STORE points to; not there yet."""
    return tmp_path / "store"


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that every user can reach and write to, as /tmp is; tmp_path is for its owner only."""
    _public_root().mkdir(mode=0o755, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=_public_root()))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _public_root() -> Path:
    return Path("/tmp") / _session
