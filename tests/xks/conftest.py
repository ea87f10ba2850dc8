"""Fixtures of the data plane's tests."""

import pytest

from tests.xks.shell import Shell


@pytest.fixture
def shell() -> Shell:
    """Return an application that serves the stores of tests/xks/world.py."""
    return Shell()
