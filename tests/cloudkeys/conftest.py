"""The cast of this room: owner (vault admin), colleague (cloud admin), auditor, and an outsider elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeys.models import CspAccount, KeySet
from tests.cloudkeys.world import member, new_account, new_key_set, new_vault, root_key
from vault.actors import Actor
from vault.models import Role, Vault

__all__ = ["root_key"]


@pytest.fixture
def payments(root_key: Any) -> Vault:
    return new_vault("Payments")


@pytest.fixture
def owner(payments: Vault) -> Actor:
    return member(payments, "owner@example.com", Role.VAULT_ADMIN)


@pytest.fixture
def colleague(payments: Vault) -> Actor:
    return member(payments, "colleague@example.com", Role.CLOUD_ADMIN)


@pytest.fixture
def auditor(payments: Vault) -> Actor:
    return member(payments, "auditor@example.com", Role.AUDITOR)


@pytest.fixture
def outsider(root_key: Any) -> Actor:
    return member(new_vault("Elsewhere"), "outsider@example.com", Role.VAULT_ADMIN)


@pytest.fixture
def account(owner: Actor, payments: Vault) -> CspAccount:
    return new_account(owner, payments)


@pytest.fixture
def key_set(owner: Actor, payments: Vault, account: CspAccount) -> KeySet:
    return new_key_set(owner, payments, account).key_set
