"""Files in memory."""

from __future__ import annotations

from tests.support.memory_disk import pytest_configure

__all__ = ["pytest_configure"]
