from __future__ import annotations

import inspect
import pickle
import re

import pytest

from docs import generate
from stager import errors
from stager.errors import StageImageError

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, StageImageError)]
LEAVES = [cls for cls in CLASSES if cls is not StageImageError]
DRAWN = re.findall(r"^[├└]── (\w+) +(\d+) +(\S.*)$", errors.__doc__ or "", re.MULTILINE)

FOREIGN = {1: "a bug", 124: "timeout(1)", 125: "timeout(1), env(1)"} | {128 + n: "signals" for n in range(128)}
SHELL = {2: "UsageError", 126: "CommandNotRunnable", 127: "CommandNotFound"}


def test_codes_are_unique() -> None:
    codes = [cls.exit_code for cls in LEAVES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", LEAVES)
def test_codes_are_ours_or_mean_what_a_shell_means(cls: type[StageImageError]) -> None:
    assert cls.exit_code not in FOREIGN
    assert 64 <= cls.exit_code <= 99 or SHELL[cls.exit_code] == cls.__name__


def test_every_class_is_drawn_with_its_code() -> None:
    assert [(name, int(code)) for name, code, _ in DRAWN] == sorted(
        ((cls.__name__, cls.exit_code) for cls in LEAVES), key=lambda drawn: drawn[1]
    )


@pytest.mark.parametrize("cls", LEAVES)
def test_every_class_says_what_it_means_and_what_to_try(cls: type[StageImageError]) -> None:
    assert "exit_code" in vars(cls)
    assert vars(cls)["hint"]
    assert cls.__doc__
    drawn = {name: meaning for name, _, meaning in DRAWN}[cls.__name__]
    assert drawn.lower().startswith(cls.__doc__.lower().rstrip(".")[:40].rstrip())


@pytest.mark.parametrize("cls", CLASSES)
def test_no_trailing_period(cls: type[StageImageError]) -> None:
    assert not cls.hint.endswith(".")


@pytest.mark.parametrize("cls", CLASSES)
def test_instances(cls: type[StageImageError]) -> None:
    error = cls("it failed", reference="https://a/b", retry_after=2.5)
    assert (str(error), error.message, error.hint) == ("it failed", "it failed", cls.hint)
    assert (error.reference, error.retry_after) == ("https://a/b", 2.5)
    assert cls("it failed", hint="do this").hint == "do this"
    assert cls.hint != "do this"


def test_they_survive_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(errors.NotFound("gone", hint="look", reference="/x", retry_after=1)))
    assert type(error) is errors.NotFound
    assert (error.message, error.hint, error.reference, error.retry_after) == ("gone", "look", "/x", 1)


def test_only_what_may_pass_is_retryable() -> None:
    assert {cls.__name__ for cls in CLASSES if cls.retryable} == {
        *("OriginUnavailable", "OriginStalled", "LeaderLost", "ClusterUnavailable", "TooFewNodes"),
    }


def test_documentation_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check", "exit-codes"]) == 0, capsys.readouterr().err


def test_documentation_lists_every_code() -> None:
    page = generate.exit_codes()
    for cls in LEAVES:
        assert f"| {cls.exit_code} | `{cls.__name__}` | " in page
