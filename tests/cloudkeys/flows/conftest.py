"""A vault, its owner, and an AWS to work on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloudkeys.cloud import Aws, World, aws, new_world, proxy, simulated_account, tls_files, xks_workers
from tests.cloudkeys.crashing import crash_stride
from vault.actors import Actor
from vault.models import Vault

__all__ = ["aws", "crash_stride", "proxy", "tls_files", "xks_workers"]


@pytest.fixture
def world(owner: Actor, payments: Vault, aws: Aws, xks_workers: Any) -> World:
    """A key set used as external key store, linked nowhere yet."""
    return new_world(owner, payments, aws, simulated_account(owner, payments, aws), "pay")
