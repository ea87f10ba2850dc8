"""CSP accounts: what is stored, what is refused, what a test leaves."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeys import providers
from cloudkeys.models import CspAccount, KeySet, Operation
from cloudkeys.providers.base import AccountReport, ActionCheck, Identity, ProviderError
from cloudkeys.services import accounts
from tests.cloudkeys.world import ACCESS_KEY_ID, ACCOUNT, ADA, SECRET, new_account
from vault.actions import Action
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, ValidationFailed
from vault.keys import unseal
from vault.models import AuditEvent, Vault
from vault.secret import Secret


def test_the_secret_is_sealed_and_nowhere_else(account: CspAccount) -> None:
    assert unseal(account, "secret_access_key") == Secret(SECRET)
    assert SECRET.encode() not in bytes(account.secret_access_key)
    events = AuditEvent.objects.filter(action=Action.CSP_ACCOUNT_CREATE)
    assert events.count() == 1
    assert SECRET not in str(events.values())


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"name": ""}, "name"),
        ({"access_key_id": "akia-lower"}, "access_key_id"),
        ({"secret_access_key": Secret("short")}, "secret_access_key"),
        ({"secret_access_key": Secret(SECRET + "\n")}, "secret_access_key"),
        ({"default_region": "moon-1"}, "default_region"),
        ({"partition": "aws-iso"}, "partition"),
        ({"partition": "aws-cn"}, "default_region"),
        ({"provider": "azure"}, "provider"),
        ({"auth_method": "PASSWORD"}, "auth_method"),
        ({"auth_method": "ASSUME_ROLE"}, "role_arn"),
        ({"role_arn": f"arn:aws:iam::{ACCOUNT}:role/x"}, "role_arn"),
        ({"external_id": "x"}, "external_id"),
        ({"rotation_schedule": {"kind": "inherited"}}, "rotation_schedule.kind"),
    ],
)
def test_bad_input_names_its_field(owner: Actor, payments: Vault, more: dict[str, Any], field: str) -> None:
    values: dict[str, Any] = {
        "name": "prod",
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": Secret(SECRET),
        "default_region": "eu-west-1",
    }
    with pytest.raises(ValidationFailed) as caught:
        accounts.create_csp_account(owner, payments, **{**values, **more})
    assert caught.value.field == field
    assert SECRET not in str(caught.value)
    assert not CspAccount.objects.exists()


def test_names_are_unique_in_a_vault(
    owner: Actor, outsider: Actor, payments: Vault, account: CspAccount
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        new_account(owner, payments)
    assert caught.value.field == "name"
    assert new_account(outsider, Vault.objects.get(name="Elsewhere")).name == account.name


def test_a_new_access_key_comes_with_its_secret(owner: Actor, account: CspAccount) -> None:
    with pytest.raises(ValidationFailed) as caught:
        accounts.update_csp_account(owner, account.pk, {"access_key_id": "AKIAAAAAAAAAAAAAAAAA"})
    assert caught.value.field == "secret_access_key"
    changed = accounts.update_csp_account(
        owner, account.pk, {"access_key_id": "AKIAAAAAAAAAAAAAAAAA"}, secret_access_key=Secret("x" * 40)
    )
    assert unseal(changed, "secret_access_key") == Secret("x" * 40)
    assert changed.health == "UNKNOWN"
    CspAccount.objects.update(rotation_state="SWITCHED")
    with pytest.raises(Conflict, match="being rotated"):
        accounts.update_csp_account(owner, account.pk, {}, secret_access_key=Secret("y" * 40))


def test_what_uses_an_account_keeps_it(owner: Actor, account: CspAccount, key_set: KeySet) -> None:
    with pytest.raises(Conflict, match="pay-hyok"):
        accounts.delete_csp_account(owner, account.pk)
    spare = new_account(owner, account.vault, name="spare")
    accounts.delete_csp_account(owner, spare.pk)
    assert not CspAccount.objects.filter(pk=spare.pk).exists()


def report(*denied: str) -> AccountReport:
    checks = (ActionCheck("kms:CreateKey", "Create CloudKey", "denied" if denied else "allowed"),)
    return AccountReport(Identity(ACCOUNT, ADA), checks)


def test_a_connection_test_becomes_the_accounts_health(
    owner: Actor, account: CspAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown_key = "AWS does not know this access key."

    def outcome(value: AccountReport | ProviderError) -> CspAccount:
        def answer(account: CspAccount) -> AccountReport:
            if isinstance(value, ProviderError):
                raise value
            return value

        monkeypatch.setattr(providers, "probe_account", answer)
        return accounts.probe_csp_account(owner, account.pk)

    fine = outcome(report())
    assert (fine.health, fine.cloud_account_id, fine.principal_arn) == ("OK", ACCOUNT, ADA)
    assert outcome(report("kms:CreateKey")).health == "DEGRADED"
    broken = outcome(
        ProviderError("invalid_credential", "AWS does not know this access key.", "Mend it.", permanent=True)
    )
    assert broken.health == "FAILING"
    assert broken.health_detail["error"]["cause"] == unknown_key
    assert broken.cloud_account_id == ACCOUNT
    assert broken.revision == account.revision
    assert AuditEvent.objects.filter(action=Action.CSP_ACCOUNT_TEST).count() == 3


def test_rotation_is_an_operation(owner: Actor, account: CspAccount) -> None:
    operation = accounts.rotate_csp_credential(owner, account.pk)
    assert operation.kind == "csp_account.rotate_credential"
    assert Operation.objects.count() == 1


def test_who_may(auditor: Actor, outsider: Actor, account: CspAccount) -> None:
    for act in (accounts.probe_csp_account, accounts.rotate_csp_credential, accounts.delete_csp_account):
        with pytest.raises(PermissionDenied):
            act(auditor, account.pk)
        with pytest.raises(NotFound):
            act(outsider, account.pk)
    assert accounts.least_privilege_policy(auditor, account.pk)["Version"] == "2012-10-17"
