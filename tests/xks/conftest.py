"""Fixtures of the data plane's tests."""

import pytest
from hypothesis import HealthCheck, settings

from tests.xks.shell import Shell

# Whether a machine is busy with other things is not what these tests are about.
settings.register_profile("xks", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xks")


@pytest.fixture
def shell() -> Shell:
    """Return an application that serves the stores of tests/xks/world.py."""
    return Shell()
