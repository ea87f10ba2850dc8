"""The end of a vault."""

from __future__ import annotations

import pytest

from cloudkeys.models import CloudKey, CspAccount, KeySet, KeyVersion
from cloudkeys.services.vault_destruction import describe_destruction, destroy_vault
from tests.cloudkeys.world import new_key
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, ValidationFailed
from vault.keys import VaultKeyDestroyed, unseal
from vault.models import AuditEvent, GenerationChange, Vault


def test_it_takes_everything_and_says_so_first(
    appliance_admin: Actor, owner: Actor, payments: Vault, account: CspAccount, key_set: KeySet
) -> None:
    new_key(owner, key_set)
    expected = describe_destruction(appliance_admin, payments.pk)
    assert (expected.cloud_keys, expected.key_sets, expected.csp_accounts, expected.credentials) == (
        1,
        1,
        1,
        1,
    )
    with pytest.raises(ValidationFailed):
        destroy_vault(appliance_admin, payments.pk, confirm_name="payments")
    with pytest.raises(Conflict, match="disabled"):
        destroy_vault(appliance_admin, payments.pk, confirm_name="Payments")
    Vault.objects.filter(pk=payments.pk).update(state="DISABLED")
    vault, generation = destroy_vault(appliance_admin, payments.pk, confirm_name="Payments")
    assert (vault.state, vault.kek_blob) == ("DESTROYED", None)
    assert GenerationChange.objects.filter(generation=generation, kind="VAULT", object_id=vault.pk).exists()
    assert set(CloudKey.objects.values_list("state", flat=True)) == {"DESTROYED"}
    assert not KeyVersion.objects.exclude(material=None).exists()
    account.refresh_from_db()
    assert account.secret_access_key is None
    with pytest.raises(VaultKeyDestroyed):
        unseal(CspAccount(vault=vault, secret_access_key=b""), "secret_access_key")
    assert AuditEvent.objects.filter(action="vault:vault:destroy").get().detail["cloud_keys"] == 1
    with pytest.raises(NotFound):
        destroy_vault(appliance_admin, payments.pk, confirm_name="Payments")


def test_no_vault_admin_destroys_a_vault(owner: Actor, payments: Vault) -> None:
    with pytest.raises(PermissionDenied):
        destroy_vault(owner, payments.pk, confirm_name="Payments")
    with pytest.raises(PermissionDenied):
        describe_destruction(owner, payments.pk)
