"""The cast of tests/cast.py as actors of services, with an account and a key set of theirs."""

from __future__ import annotations

import pytest

from cloudkeys.models import CspAccount, KeySet
from tests.cast import Cast
from tests.cloudkeys.world import new_account, new_key_set
from vault.actors import Actor
from vault.models import Vault


@pytest.fixture
def payments(cast: Cast) -> Vault:
    return cast.vault


@pytest.fixture
def owner(cast: Cast) -> Actor:
    return cast.actor("owner")


@pytest.fixture
def colleague(cast: Cast) -> Actor:
    return cast.actor("colleague")


@pytest.fixture
def auditor(cast: Cast) -> Actor:
    return cast.actor("auditor")


@pytest.fixture
def outsider(cast: Cast) -> Actor:
    return cast.actor("outsider")


@pytest.fixture
def appliance_admin(cast: Cast) -> Actor:
    return cast.actor("appliance")


@pytest.fixture
def account(owner: Actor, payments: Vault) -> CspAccount:
    return new_account(owner, payments)


@pytest.fixture
def key_set(owner: Actor, payments: Vault, account: CspAccount) -> KeySet:
    return new_key_set(owner, payments, account).key_set
