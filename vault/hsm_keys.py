"""Making and destroying keys inside HSMs, so that no key is left behind that nobody knows of.

The row comes first, PENDING and committed, then the HSM is asked, outside any transaction of ours; a key is ACTIVE once
it was verified on every member. Whatever dies in between leaves a PENDING row, whose key the keeper removes.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from django.db import transaction
from django.utils import timezone

from hsm import wire
from hsm.base import (
    DataInvalid,
    HsmError,
    HsmUnavailable,
    KeyNotFound,
    MechanismUnavailable,
)
from hsm.client import SyncMember
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.hsm_groups import client_of, domain_error
from vault.models import HsmConnection, HsmKey, HsmKeyPlacement, HsmMember, Vault

log = structlog.get_logger("keystead.hsm")

REPLICATION_WAIT_S: Final = 5.0
"""How long a device-bound key may take to appear on the other members, by the vendor's own replication."""
PENDING_TOO_LONG: Final = timedelta(minutes=10)
CALL_S: Final = 10.0
TRANSFER_S: Final = 60.0
"""Making an RSA key pair takes seconds, on a soft token of a busy host many."""
_KIND: Final[dict[str, wire.KeyKind]] = {
    HsmKey.Purpose.ROOT: "wrapping",
    HsmKey.Purpose.WRAPPING: "wrapping",
    HsmKey.Purpose.RESIDENT: "resident",
    HsmKey.Purpose.HEALTH: "health",
}


@dataclass(frozen=True)
class Reached:
    """A member and a client of its helper."""

    row: HsmMember
    client: SyncMember

    @property
    def name(self) -> str:
        """As people know it."""
        return str(self.row)

    def call(self, request: wire.Request, timeout_s: float = CALL_S) -> wire.Done:
        """Ask it. Raises HsmError."""
        return self.client.call(request, timeout_s=timeout_s)


def reach(connection: HsmConnection) -> list[Reached]:
    """Return all members of a connection with clients, the preferred one first; close them with `leave`."""
    rows = connection.members.order_by("position")  # type: ignore[attr-defined]
    return [Reached(row, client_of(row)) for row in rows]


def leave(members: list[Reached]) -> None:
    """Close what `reach` opened."""
    for each in members:
        each.client.close()


def create_hsm_key(
    connection: HsmConnection,
    *,
    purpose: str,
    vault: Vault | None,
    label: str,
    replication: str = HsmKey.Replication.DEVICE_BOUND,
    actor: Actor | None = None,
) -> HsmKey:
    """Make an AES-256 key in the HSM, on every member, and return its row, ACTIVE.

    *device-bound*: made on the first member, never extractable; the others must get it by the vendor's replication within
    seconds. *replicated*: made sensitive and extractable, wrapped to each other member under its transfer key, compared by
    a round trip, then made non-extractable everywhere. Call it outside a transaction: a row in a transaction that is rolled
    back would leave the key unknown.

    Raises Unavailable, Conflict (what the HSM cannot do); then nothing is left of the key, or its row stays PENDING for the
    keeper to remove it.
    """
    actor = actor or Actor.system("worker", "hsm")
    made = uuid.uuid4()
    key = HsmKey(
        id=made,
        connection=connection,
        vault=vault,
        purpose=purpose,
        label=label[:128],
        cka_id=made.hex,
        replication=replication,
    )
    key.save(force_insert=True)
    members = reach(connection)
    try:
        if not members:
            raise HsmUnavailable("it has no members")
        if replication == HsmKey.Replication.REPLICATED:
            spread_key(members, made.bytes, key.label, final=_KIND[purpose])
        else:
            _make_device_bound(members, made.bytes, key.label, _KIND[purpose])
    except BaseException as error:
        _undo(key, members)
        if isinstance(error, HsmError):
            raise domain_error(error, connection.name) from error
        raise
    finally:
        leave(members)
    with change(actor) as tx:
        key.state = HsmKey.State.ACTIVE
        key.swept_at = timezone.now()
        key.save(update_fields=["state", "swept_at"])
        _place(key, [each.row for each in members])
        tx.audit(
            Action.HSM_KEY_CREATE,
            key,
            vault=vault,
            after={
                "connection": connection.name,
                "cka_id": key.cka_id,
                "purpose": str(purpose),
                "replication": str(replication),
                "members": [each.name for each in members],
            },
        )
    return key


def _place(key: HsmKey, rows: list[HsmMember]) -> None:
    now = timezone.now()
    for row in rows:
        HsmKeyPlacement.objects.update_or_create(key=key, member=row, defaults={"verified_at": now})


def _make_device_bound(members: list[Reached], key: bytes, label: str, kind: wire.KeyKind) -> None:
    first, *others = members
    first.call(wire.Generate(0, key, label, kind))
    ends = time.monotonic() + REPLICATION_WAIT_S
    for other in others:
        while not holds(other, key):
            if time.monotonic() > ends:
                raise HsmUnavailable(
                    f"the key was made on {first.name}, and did not appear on {other.name} within {REPLICATION_WAIT_S:g} s: "
                    "a device-bound key gets there by the vendor's replication only"
                )
            time.sleep(0.25)
        compare(first, other, key)
    if not others:
        compare(first, first, key)


def holds(member: Reached, key: bytes) -> bool:
    """Whether a member has the key. Raises HsmError when it cannot be asked."""
    try:
        member.call(wire.Describe(0, key))
    except KeyNotFound:
        return False
    return True


def compare(one: Reached, other: Reached, key: bytes) -> None:
    """Show that two members hold the same key: what one encrypts, a random value, the other decrypts.

    Raises DataInvalid when they do not, and HsmError.
    """
    value, aad = os.urandom(32), b"keystead:compare:" + key
    try:
        done = one.call(wire.Encrypt(0, key, value, aad, False))
        back = other.call(wire.Decrypt(0, key, done.nonce, done.data, aad)).data
    except MechanismUnavailable:
        sealed = one.call(wire.Seal(0, key, value)).data
        back = other.call(wire.Unseal(0, key, sealed)).data
    except DataInvalid:
        raise DataInvalid(
            f"{one.name} and {other.name} hold different keys under the id {key.hex()}"
        ) from None
    if back != value:
        raise DataInvalid(f"{one.name} and {other.name} hold different keys under the id {key.hex()}")


def spread_key(members: list[Reached], key: bytes, label: str, *, final: wire.KeyKind) -> None:
    """Make a key that all members hold: extractable while it travels, non-extractable on each before this returns.

    A health-check key has attributes that only its making can give, so that it is imported everywhere, under its final
    attributes, from a key that is destroyed then. Raises HsmError.
    """
    first, *others = members
    if final != "health":
        first.call(wire.Generate(0, key, label, "replicable"))
        for other in others:
            _carry(first, other, key, key, label, "replicable")
            compare(first, other, key)
        for each in members:
            each.call(wire.Harden(0, key))
            check_flags(each, key, extractable=False, sensitive=True)
        for other in others or [first]:
            compare(first, other, key)
        return
    passing = uuid.uuid4().bytes
    first.call(wire.Generate(0, passing, f"{label} (passing)", "replicable"))
    try:
        for each in members:
            _carry(first, each, passing, key, label, "health")
        for other in others:
            compare(first, other, key)
    finally:
        _destroy_on(first, passing)


def _carry(
    source: Reached, target: Reached, key: bytes, as_key: bytes, label: str, kind: wire.KeyKind
) -> None:
    transfer = uuid.uuid4().bytes
    public = target.call(wire.Generate(0, transfer, "keystead transfer", "transfer"), TRANSFER_S).data
    try:
        blob = source.call(wire.Export(0, key, public)).data
        target.call(wire.Import(0, as_key, label, transfer, blob, kind))
    finally:
        _destroy_on(target, transfer)


def check_flags(member: Reached, key: bytes, **wanted: bool) -> None:
    """Verify attributes of a key as the member tells them. Raises MechanismUnavailable naming the wrong ones."""
    told: dict[str, Any] = member.call(wire.Describe(0, key)).info or {}
    wrong = [
        f"CKA_{name.upper()} is {told.get(name)}"
        for name, value in wanted.items()
        if told.get(name) is not value
    ]
    if wrong:
        raise MechanismUnavailable(
            f"the key {key.hex()} on {member.name} is not as it must be: {', '.join(wrong)}"
        )


def _destroy_on(member: Reached, key: bytes) -> bool:
    """Destroy a key on a member if it is there; False when that cannot be known now."""
    try:
        member.call(wire.Destroy(0, key))
    except KeyNotFound:
        return True
    except HsmError as error:
        log.warning(
            "hsm: a key is left for the keeper to remove", member=member.name, key=key.hex(), error=str(error)
        )
        return False
    return True


def _undo(key: HsmKey, members: list[Reached]) -> None:
    """Remove what was made of a key that failed; its row goes only when nothing can be left."""
    gone = [_destroy_on(each, bytes.fromhex(key.cka_id)) for each in members]
    if all(gone):
        HsmKey.objects.filter(pk=key.pk, state=HsmKey.State.PENDING).delete()


def destroy_hsm_key(key: HsmKey, *, actor: Actor | None = None, reason: str = "") -> None:
    """Destroy a key on every member. What it encrypted is unreadable from then on.

    An adopted key is destroyed as well. Members that do not answer make it raise Unavailable, with the row untouched; it
    may then be called again. Done twice it does nothing.
    """
    if key.state == HsmKey.State.DESTROYED:
        return
    members = reach(key.connection)
    try:
        for each in members:
            try:
                each.call(wire.Destroy(0, bytes.fromhex(key.cka_id)))
            except KeyNotFound:
                continue
            except HsmError as error:
                raise domain_error(error, key.connection.name) from error
    finally:
        leave(members)
    with change(actor or Actor.system("worker", "hsm")) as tx:
        key.state = HsmKey.State.DESTROYED
        key.destroyed_at = timezone.now()
        key.save(update_fields=["state", "destroyed_at"])
        key.placements.all().delete()  # type: ignore[attr-defined]
        tx.audit(
            Action.HSM_KEY_DESTROY,
            key,
            vault=key.vault,
            before={"connection": key.connection.name, "cka_id": key.cka_id, "purpose": key.purpose},
            reason=reason,
        )


def remove_orphans(
    connection: HsmConnection, now: datetime, reach_members: Callable[[HsmConnection], list[Reached]] = reach
) -> int:
    """Remove keys whose making was never ended: destroyed on every member, then the row. Returns how many went."""
    removed = 0
    rows = HsmKey.objects.filter(
        connection=connection, state=HsmKey.State.PENDING, created_at__lt=now - PENDING_TOO_LONG
    )[:50]
    for key in rows:
        members = reach_members(connection)
        try:
            gone = [_destroy_on(each, bytes.fromhex(key.cka_id)) for each in members]
            if not all(gone):
                continue
        finally:
            leave(members)
        with transaction.atomic():
            deleted, _ = HsmKey.objects.filter(pk=key.pk, state=HsmKey.State.PENDING).delete()
        removed += 1 if deleted else 0
        log.warning("hsm: removed a key whose making never ended", connection=connection.name, key=key.cka_id)
    return removed
