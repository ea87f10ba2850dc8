"""A key store to check an endpoint with, before AWS is connected to it.

Its keys are those that AWS's own conformance client (aws-samples/aws-kms-xksproxy-test-client) asks
for. No data is ever under them, which is why its secret, unlike any other, may be shown again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudkeys.models import CloudKey, KeySet, XksKeyStore
from cloudkeys.services.cloud_keys import create_cloud_key
from cloudkeys.services.credentials import NewCredential, reveal_conformance_credential
from cloudkeys.services.key_sets import create_key_set
from cloudkeys.services.lifecycle import disable_cloud_key
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import Conflict, ValidationFailed
from vault.generations import Confirmation, current_generation, wait_for_generation
from vault.models import Installation, User, Vault
from vault.services.vaults import create_vault
from xks.conformance_hsm import ensure_hsm

VAULT_NAME = "XKS conformance"
REGION = "us-east-1"
"""The keys' region in our own records; the client signs for whichever it likes."""

CONFIRM_S = 10.0


@dataclass(frozen=True)
class ExpectedKey:
    """What the client takes for granted about one of its keys."""

    uses: tuple[str, ...]
    state: CloudKey.State = CloudKey.State.ENABLED


KEYS: Mapping[str, ExpectedKey] = {
    "foo": ExpectedKey(("ENCRYPT", "DECRYPT")),
    "encrypt_only_key": ExpectedKey(("ENCRYPT",)),
    "decrypt_only_key": ExpectedKey(("DECRYPT",)),
    "impotent_key": ExpectedKey(()),
    "disabled_key": ExpectedKey(("ENCRYPT", "DECRYPT"), CloudKey.State.DISABLED),
}


@dataclass(frozen=True)
class ConformanceStore:
    """A store that stands ready, its credential with the secret, and how far the data plane knows of it."""

    store: XksKeyStore
    credential: NewCredential
    confirmation: Confirmation


def prepare_conformance_store(actor: Actor, protection: str = KeySet.Protection.SOFTWARE) -> ConformanceStore:
    """Find the store, or make one when there is none that is as it should be, and wait until it is served.

    With an HSM protection its keys are in the first HSM that is connected; where none is, SoftHSM is set up.
    Raises ValidationFailed for an unknown protection, Conflict before there is any administrator who could
    look after its vault, Unavailable when the HSM does not answer.
    """
    if protection not in KeySet.Protection.values:
        raise ValidationFailed(
            f"There is no protection {protection!r}.",
            field="protection",
            cure=f"Give one of {', '.join(KeySet.Protection.values)}.",
        )
    if protection == KeySet.Protection.SOFTWARE:
        with change(actor):
            # Whoever comes second waits here, and then finds what the first one made.
            Installation.objects.select_for_update().get(pk=1)
            store = find_intact_store(protection)
            if store is None:
                store = _make_store(actor, protection)
    else:
        # An HSM is never asked inside a transaction, so that nobody is made to wait here.
        store = find_intact_store(protection)
        if store is None:
            store = _make_store(actor, protection)
    with change(actor):
        credential = reveal_conformance_credential(actor, store)
    confirmation = wait_for_generation(current_generation(), timeout_s=CONFIRM_S)
    return ConformanceStore(store, credential, confirmation)


def find_intact_store(protection: str = KeySet.Protection.SOFTWARE) -> XksKeyStore | None:
    """Return a conformance store that is served and whose keys are as the client expects them."""
    stores = XksKeyStore.objects.filter(
        is_conformance=True,
        blocked=False,
        vault__state=Vault.State.ENABLED,
        vault__blocked=False,
        key_set__protection=protection,
    )
    return next((store for store in stores.select_related("key_set", "vault") if _is_intact(store)), None)


def _is_intact(store: XksKeyStore) -> bool:
    found = {
        key.external_key_id: ExpectedKey(tuple(key.permitted_uses), CloudKey.State(key.state))
        for key in store.cloud_keys.filter(kind=CloudKey.Kind.USER, blocked=False)
    }
    return all(found.get(name) == expected for name, expected in KEYS.items())


def _make_store(actor: Actor, protection: str) -> XksKeyStore:
    vault = _find_or_make_vault(actor)
    hsm = None if protection == KeySet.Protection.SOFTWARE else ensure_hsm(actor, vault).pk
    names = set(KeySet.objects.filter(vault=vault).values_list("name", flat=True))
    numbered = (f"{VAULT_NAME} {number}" for number in range(1, len(names) + 2))
    made = create_key_set(
        actor,
        vault,
        name=next(name for name in numbered if name not in names),
        description="To check the endpoint with AWS's conformance client; no data is under its keys.",
        csp_account=None,
        protection=protection,
        hsm_connection=hsm,
        use_as_external_key_store=True,
    )
    store = made.store
    if store is None:
        raise RuntimeError("a key set made as external key store has no store")
    with change(actor) as tx:
        store.is_conformance = True
        store.save(update_fields=["is_conformance", "updated_at"])
        tx.audit(
            Action.XKS_STORE_UPDATE,
            store,
            before={"is_conformance": False},
            after=snapshot(store, "is_conformance"),
            target_name=made.key_set.name,
        )
    for name, expected in KEYS.items():
        key = create_cloud_key(
            actor,
            made.key_set.pk,
            name=name,
            region=REGION,
            external_key_id=name,
            permitted_uses=expected.uses,
        ).key
        if expected.state == CloudKey.State.DISABLED:
            disable_cloud_key(actor, key.pk, reason="The conformance client expects it disabled.")
    return store


def _find_or_make_vault(actor: Actor) -> Vault:
    vault = Vault.objects.filter(
        name__startswith=VAULT_NAME,
        xks_key_stores__is_conformance=True,
        state=Vault.State.ENABLED,
        blocked=False,
    ).first()
    if vault is not None:
        return vault
    admin = User.objects.filter(is_appliance_admin=True, is_active=True).order_by("date_joined").first()
    if admin is None:
        raise Conflict(
            "There is no appliance admin yet who could look after the conformance store.",
            cure="Start Keystead once: keystead serve.",
        )
    names = set(Vault.objects.values_list("name", flat=True))
    numbered = (VAULT_NAME, *(f"{VAULT_NAME} {number}" for number in range(2, len(names) + 3)))
    return create_vault(
        actor,
        name=next(name for name in numbered if name not in names),
        description="Key stores made by 'keystead xks conformance-store'.",
        admin_name=admin.name,
        admin_email=admin.email,
    ).vault
