"""Try it with the simulator: one click, one account, whatever goes wrong between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudkeys.models import CspAccount
from cloudkeys.services import trial
from tests.cloudkeys.cloud import Aws, aws, proxy, tls_files
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, Unavailable
from vault.keys import unseal
from vault.models import Vault

__all__ = ["aws", "proxy", "tls_files"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def here(aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """The simulator of this data folder."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("KEYSTEAD_DATA_DIR", str(tmp_path))
    return aws


def test_makes_an_account_that_works_with_the_least_rights(owner: Actor, payments: Vault, here: Aws) -> None:
    found = trial.try_simulator(owner, payments)
    account = found.account
    assert (found.created, account.health, account.is_simulated) == (True, "OK", True)
    assert account.principal_arn.endswith(f":user/keystead-{payments.pk}")
    assert not [check for check in account.health_detail["checks"] if check["result"] == "denied"]
    assert "secret" not in account.description


def test_asked_again_it_is_the_same_account(owner: Actor, payments: Vault, here: Aws) -> None:
    first = trial.try_simulator(owner, payments)
    again = trial.try_simulator(owner, payments)
    assert (again.created, again.account.pk) == (False, first.account.pk)
    assert CspAccount.objects.count() == 1


def test_a_try_that_ended_halfway_does_not_stand_in_the_way(owner: Actor, payments: Vault, here: Aws) -> None:
    for _ in range(3):
        trial._new_access_key(f"keystead-{payments.pk}")
    account = trial.try_simulator(owner, payments).account
    keys = here.client("iam").list_access_keys(UserName=f"keystead-{payments.pk}")["AccessKeyMetadata"]
    assert [key["AccessKeyId"] for key in keys] == [account.access_key_id]
    assert unseal(account, "secret_access_key").reveal()


def test_each_vault_has_its_own(owner: Actor, outsider: Actor, payments: Vault, here: Aws) -> None:
    other = Vault.objects.exclude(pk=payments.pk).get()
    mine, theirs = trial.try_simulator(owner, payments), trial.try_simulator(outsider, other)
    assert mine.account.access_key_id != theirs.account.access_key_id


def test_a_name_that_is_taken(owner: Actor, payments: Vault, here: Aws) -> None:
    from tests.cloudkeys.world import new_account

    new_account(owner, payments, name=trial.NAME)
    assert trial.try_simulator(owner, payments).account.name == f"{trial.NAME} 2"


def test_refused_where_the_simulator_is_off(owner: Actor, payments: Vault, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = False
    assert not trial.simulator_offered()
    with pytest.raises(Conflict):
        trial.try_simulator(owner, payments)


def test_says_so_when_it_does_not_run(
    owner: Actor, payments: Vault, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    tmp_path.chmod(0o700)
    monkeypatch.setenv("KEYSTEAD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KEYSTEAD_SIMULATOR_PORT", "1")
    with pytest.raises(Unavailable):
        trial.try_simulator(owner, payments)
    assert not CspAccount.objects.exists()


def test_who_may(auditor: Actor, outsider: Actor, payments: Vault, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    with pytest.raises(PermissionDenied):
        trial.try_simulator(auditor, payments)
    with pytest.raises(NotFound):
        trial.try_simulator(outsider, payments)
