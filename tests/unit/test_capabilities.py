from __future__ import annotations

import pytest

from tests.support import capabilities


def test_a_program_is_found_or_missed() -> None:
    assert capabilities.program("sh")
    assert capabilities.program("no-such-program-anywhere") is None


def test_misspelt_capabilities_are_no_skips() -> None:
    with pytest.raises(ValueError, match="no capability is called 'lopp'"):
        capabilities.missing(["lopp"])


@pytest.mark.parametrize(
    ("lacking", "require", "verdict"),
    [
        ([], "", "run"),
        ([], "all", "run"),
        (["loop"], "", "skip"),
        (["loop"], "all", "fail"),
        (["apptainer"], "all", "skip"),
        (["apptainer", "loop"], "all", "fail"),
    ],
)
def test_verdict(lacking: list[str], require: str, verdict: str) -> None:
    assert capabilities.verdict(lacking, require) == verdict


def test_summary_names_every_capability() -> None:
    words = " ".join(capabilities.summary()).split()
    for name in capabilities.NAMES:
        assert (name in words) == capabilities.has(name)
        assert (f"no-{name}" in words) != capabilities.has(name)


def test_what_the_machine_lacks_is_missing() -> None:
    lacking = capabilities.missing(capabilities.NAMES)
    assert lacking == [name for name in capabilities.NAMES if not capabilities.has(name)]
