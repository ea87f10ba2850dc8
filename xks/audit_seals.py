"""The control plane's side of seals: the signing key, and adding to the list (docs/journal.md)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction
from django.db.models import F

from vault.event_chain import FIRST_DIGEST, check_links
from vault.generations import current_generation
from vault.keys import seal_text, unseal_text
from vault.models import AuditChainHead
from vault.restore import GENERATION_STEP
from xks.models import AuditKey, AuditSeal
from xks.seals import FIRST_PREVIOUS, Seal, make_seal

_PURPOSE = "audit seal key"


def ensure_key() -> AuditKey:
    """Return the signing key's row, made when there is none. Raises RootKeyError."""
    row = AuditKey.objects.filter(pk=1).first()
    if row is None:
        key = Ed25519PrivateKey.generate()
        row, _ = AuditKey.objects.get_or_create(
            pk=1,
            defaults={
                "public_key": key.public_key().public_bytes_raw().hex(),
                "private_key": seal_text(_PURPOSE, key.private_bytes_raw().hex()),
                "last_digest": FIRST_PREVIOUS,
            },
        )
    return row


def add_seal(statement: dict[str, Any]) -> int:
    """Sign a statement as the next seal and return its number; call in the transaction that it belongs to.

    The key's row stays locked until commit: numbers have no gaps.  Raises RootKeyError, SecretUnreadable.
    """
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("a seal belongs inside a transaction")
    ensure_key()
    AuditKey.objects.filter(pk=1).update(seals=F("seals") + 1)
    row = AuditKey.objects.get(pk=1)
    private = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex(unseal_text(_PURPOSE, row.private_key).reveal_text())
    )
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made = make_seal(private, row.seals, row.last_digest, at, statement)
    AuditSeal.objects.create(number=row.seals, line=made.line, signature=made.signature)
    AuditKey.objects.filter(pk=1).update(last_digest=made.digest)
    return row.seals


def stored_seals() -> list[Seal]:
    """Return all seals in the order of their numbers."""
    return [
        Seal(line, bytes(signature))
        for line, signature in AuditSeal.objects.order_by("number").values_list("line", "signature")
    ]


def last_sealed_event() -> tuple[int, str]:
    """Return position and digest of the audit events that the last seal of its kind speaks of."""
    found = AuditSeal.objects.filter(line__contains='"kind":"events"').order_by("-number").first()
    if found is None:
        return 0, FIRST_DIGEST
    statement = json.loads(found.line)["statement"]
    return statement["position"], statement["digest"]


def seal_events() -> int | None:
    """Seal the audit events written since the last seal; None when there are none.

    What is signed has been checked: a chain that does not hold is not signed.

    Raises:
        EventsBroken: it does not hold.
        RootKeyError: the signing key cannot be read.
    """
    head = AuditChainHead.objects.filter(pk=1).values_list("position", flat=True).first() or 0
    if head <= last_sealed_event()[0]:
        return None
    with transaction.atomic():
        ensure_key()
        AuditKey.objects.filter(pk=1).update(seals=F("seals"))  # the lock: another node may be about it
        position, digest = before = last_sealed_event()
        for found in check_links(position, digest):
            position, digest = found
        if (position, digest) == before:
            return None
        return add_seal({"kind": "events", "position": position, "digest": digest})


def seal_restore() -> int | None:
    """Say in a seal that the database was put back from a backup (its generation tells); None when it was not, or is said.

    Seals numbered from here stand in the place of those that were made between the backup and the restore.

    Raises:
        RootKeyError: the signing key cannot be read.
    """
    generation = current_generation()
    epoch = generation // GENERATION_STEP
    if not epoch or epoch <= _sealed_epoch():
        return None
    with transaction.atomic():
        ensure_key()
        AuditKey.objects.filter(pk=1).update(seals=F("seals"))  # the lock: another node may be about it
        if epoch <= _sealed_epoch():
            return None
        return add_seal({"kind": "restored", "epoch": epoch, "generation": generation})


def _sealed_epoch() -> int:
    found = AuditSeal.objects.filter(line__contains='"kind":"restored"').order_by("-number").first()
    return 0 if found is None else int(json.loads(found.line)["statement"]["epoch"])
