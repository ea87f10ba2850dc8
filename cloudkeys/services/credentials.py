"""XKS proxy credentials of a store: made, shown once, retired; how old they are and when they were last used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Max
from django.utils import timezone

from cloudkeys import naming
from cloudkeys.models import XksCredential, XksKeyStore
from cloudkeys.services.rows import require_live_vault
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change
from vault.errors import Conflict, ValidationFailed
from vault.keys import seal, unseal
from vault.models import GenerationChange
from vault.permissions import Permission
from vault.secret import Secret

REPORT_LAG = timedelta(seconds=10)
"""So late a use may show here: a worker tells its agent each second, the agent writes every three."""


@dataclass(frozen=True)
class NewCredential:
    """A credential with its secret, for the one moment in which it is shown."""

    credential: XksCredential
    secret: Secret

    def console_file(self) -> dict[str, Any]:
        """The JSON file that the AWS console takes ("Upload configuration file"). Holds the secret."""
        return {
            "XksProxyUriPath": self.credential.store.path_prefix + naming.XKS_API_PATH,
            "XksProxyAuthenticationCredential": {
                "AccessKeyId": self.credential.access_key_id,
                "RawSecretAccessKey": self.secret.reveal_text(),
            },
        }


@dataclass(frozen=True)
class CredentialAge:
    """A live credential, for metrics and for whoever looks for old ones."""

    vault_id: UUID
    store_id: UUID
    access_key_id: str
    created_at: datetime
    last_used_at: datetime | None

    def age(self, now: datetime) -> timedelta:
        """Since it was made."""
        return now - self.created_at


def silence() -> timedelta:
    """For so long a credential must not have been seen before it counts as silent."""
    return timedelta(seconds=settings.KEYSTEAD_XKS_CREDENTIAL_SILENCE)


def live_credential_ages() -> list[CredentialAge]:
    """Every live credential of the installation, oldest first; one query."""
    rows = XksCredential.objects.filter(state=XksCredential.State.ACTIVE).order_by("created_at")
    found = rows.annotate(used=Max("regions__last_used_at")).values_list(
        "vault_id", "store_id", "access_key_id", "created_at", "used"
    )
    return [CredentialAge(*row) for row in found]


def last_used_at(credential: XksCredential) -> datetime | None:
    """When the data plane last saw it anywhere, as far as it has been told."""
    found: datetime | None = credential.regions.aggregate(last=Max("last_used_at"))["last"]
    return found


def make_credential(tx: Change, store: XksKeyStore) -> NewCredential:
    """A further live credential, its secret sealed and shown to nobody yet."""
    credential = XksCredential(vault=store.vault, store=store, access_key_id=naming.new_xks_access_key_id())
    secret = naming.new_xks_secret()
    seal(credential, "secret_access_key", secret)
    credential.save(force_insert=True)
    tx.audit(Action.XKS_CREDENTIAL_CREATE, credential, after={"access_key_id": credential.access_key_id})
    tx.touch(GenerationChange.Kind.STORE, store.pk)
    return NewCredential(credential, secret)


def add_credential(tx: Change, store: XksKeyStore) -> NewCredential:
    """A further live credential. Its secret is returned for its only showing."""
    made = make_credential(tx, store)
    mark_shown(tx, made.credential)
    return made


def mark_shown(tx: Change, credential: XksCredential) -> None:
    """Its secret leaves Keystead now, and no other time."""
    credential.shown_at = timezone.now()
    credential.save(update_fields=["shown_at"])
    tx.audit(Action.XKS_CREDENTIAL_SHOW, credential)


def create_xks_credential(actor: Actor, store_id: UUID) -> NewCredential:
    """Make a second (third, ...) live credential for a store; the others stay valid."""
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_CREDENTIALS_MANAGE, lock=True)
        require_live_vault(store.vault)
        return add_credential(tx, store)


def retire_xks_credential(
    actor: Actor,
    credential_id: UUID,
    *,
    even_the_last: bool = False,
    force: bool = False,
    reason: str = "",
) -> tuple[XksCredential, int]:
    """Revoke a credential in the data plane and erase its secret; returns it with the generation to wait for.

    Raises Conflict for the store's last live one (AWS could then reach no key of the store), and for one that was in use
    within the last KEYSTEAD_XKS_CREDENTIAL_SILENCE seconds. `force` does it all the same and needs a reason;
    `even_the_last` lifts the first of the two alone.
    """
    if force and not reason.strip():
        raise ValidationFailed(
            "To force this, say why.",
            field="reason",
            cure="Give the incident or ticket; it goes into the audit record.",
        )
    with change(actor) as tx:
        credential: XksCredential = actor.fetch(
            XksCredential, credential_id, Permission.XKS_CREDENTIALS_MANAGE
        )
        # The store first, as everybody does who counts or makes its credentials.
        XksKeyStore.objects.select_for_update().get(pk=credential.store_id)
        credential = XksCredential.objects.select_for_update().get(pk=credential.pk)
        if credential.state == XksCredential.State.RETIRED:
            raise Conflict("This credential is retired already.")
        if not force:
            _refuse_while_needed(credential, even_the_last=even_the_last)
        retire(tx, credential, reason=reason, detail={"forced": force})
    return credential, tx.generation or 0


def _refuse_while_needed(credential: XksCredential, *, even_the_last: bool) -> None:
    others = credential.store.credentials.filter(state=XksCredential.State.ACTIVE).exclude(pk=credential.pk)
    if not others.exists() and not even_the_last:
        raise Conflict(
            "This is the store's last live credential: without it AWS can use none of its keys.",
            cure="Make another one and give it to AWS first; to cut AWS off at once, block the store.",
        )
    used = last_used_at(credential)
    if used is not None and used > timezone.now() - silence():
        raise Conflict(
            f"AWS still uses this credential: last on {used:%Y-%m-%d at %H:%M:%S} UTC.",
            cure="Rotate it (rotate-credentials), which waits until AWS has let go of it; "
            "or force it and say why: requests signed with it fail from then on.",
            last_used_at=used.isoformat(timespec="seconds"),
        )


def retire(
    tx: Change, credential: XksCredential, *, reason: str = "", detail: dict[str, Any] | None = None
) -> None:
    """Revoke a locked credential in the data plane and erase its secret."""
    credential.state = XksCredential.State.RETIRED
    credential.retired_at = timezone.now()
    credential.secret_access_key = None
    credential.save(update_fields=["state", "retired_at", "secret_access_key"])
    tx.audit(Action.XKS_CREDENTIAL_RETIRE, credential, reason=reason, detail=detail)
    tx.touch(GenerationChange.Kind.STORE, credential.store_id)


def reveal_conformance_credential(actor: Actor, store: XksKeyStore) -> NewCredential:
    """The live credential of a store made only to check this endpoint; the one kind whose secret is shown again."""
    actor.require(Permission.XKS_CREDENTIALS_MANAGE, store)
    if not store.is_conformance:
        raise Conflict("A credential's secret is shown once, when it is made.", cure="Make a new credential.")
    credential = store.credentials.filter(state=XksCredential.State.ACTIVE).first()
    if credential is None:
        return create_xks_credential(actor, store.pk)
    with change(actor) as tx:
        tx.audit(Action.XKS_CREDENTIAL_SHOW, credential)
    return NewCredential(credential, unseal(credential, "secret_access_key"))
