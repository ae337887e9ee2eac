"""How hard the laws are tried: a little with every change, a lot when asked by HYPOTHESIS_PROFILE=thorough."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
FACTOR = 100


def effort(examples: int, steps: int = 50) -> settings:
    """Return settings for so many examples (and steps of a state machine), FACTOR times as many when thorough."""
    return settings(
        max_examples=examples * FACTOR if THOROUGH else examples,
        stateful_step_count=steps * 2 if THOROUGH else steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
