"""Which root keys stored keys are under, which HSM could take the root key, and moving it there from the web (vault/rewrap.py)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from uuid import UUID

from vault import rootkey
from vault.actors import Actor
from vault.errors import Conflict, DomainError, NotFound
from vault.fields import WrappedBlob
from vault.models import HsmConnection, HsmKey, HsmMember, Installation, Vault
from vault.permissions import Permission
from vault.rewrap import RewrapUnverified, move_root_to_hsm

MOST_KEYS = 500
"""Moved from a page; with more a command, which shows how far it is, is the better place."""


@dataclass(frozen=True)
class RootKey:
    """A root key that stored keys are under. `connection` None: it is in a file. `current`: new vaults' keys go under it."""

    key_id: str
    count: int
    connection: HsmConnection | None
    current: bool


@dataclass(frozen=True)
class Target:
    """An HSM that the root key could move to, or why it cannot."""

    connection: HsmConnection
    why_not: str


@dataclass(frozen=True)
class RootKeyStanding:
    """Where the root key is, and how far a move is."""

    keys: list[RootKey]
    total: int
    targets: list[Target]

    @property
    def current(self) -> RootKey | None:
        """The one in use for what is new."""
        return next((each for each in self.keys if each.current), None)

    @property
    def unfinished(self) -> bool:
        """Whether some keys are under another root key still."""
        return len(self.keys) > 1

    @property
    def moved(self) -> int:
        """How many keys are under the current one."""
        return self.current.count if self.current is not None else 0


def root_key_standing(actor: Actor) -> RootKeyStanding:
    """Read from the database alone: no key is opened and no HSM asked. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_HSMS)
    row = Installation.objects.filter(pk=1).first()
    blobs = list(Vault.objects.exclude(kek_blob=None).values_list("kek_blob", flat=True))
    if row is not None:
        blobs.append(row.root_check_blob)
    counted = Counter(WrappedBlob(blob).key_id for blob in blobs if blob is not None)
    living = HsmKey.objects.filter(purpose=HsmKey.Purpose.ROOT, state=HsmKey.State.ACTIVE)
    inside = {key.cka_id: key.connection for key in living.select_related("connection")}
    named = row.root_key_id if row is not None else ""
    found = [RootKey(each, number, inside.get(each), each == named) for each, number in counted.items()]
    targets = [
        Target(each, _why_not(each, inside.get(named), len(counted) > 1, len(blobs)))
        for each in HsmConnection.objects.prefetch_related("members").order_by("name")
    ]
    return RootKeyStanding(sorted(found, key=lambda each: not each.current), len(blobs), targets)


def _why_not(row: HsmConnection, held_by: HsmConnection | None, unfinished: bool, total: int) -> str:
    if held_by is not None and held_by.pk == row.pk and not unfinished:
        return "It is there."
    if row.needs_pin and row.pin_source != HsmConnection.PinSource.EXTERNAL:
        return (
            "Its PIN is kept here, under a key that the root key opens. Let the hosts read it from a file or their "
            "environment first."
        )
    members: list[HsmMember] = list(row.members.all())  # type: ignore[attr-defined]
    profiles = [each.profile for each in members if each.profile]
    if not profiles:
        return "None of its members was reached yet."
    if any("root-key" not in (profile.get("possible") or ()) for profile in profiles):
        return "Not every member of it can do that; see what works."
    if any(each.state != HsmMember.State.ACTIVE for each in members):
        return "Not all of its members serve. The key has to be on each."
    if total > MOST_KEYS:
        return f"With {total:,} vaults run keystead keys migrate-root --hsm {row.name}, which shows how far it is."
    return ""


def move_root_key(actor: Actor, connection_id: UUID) -> int:
    """Move every key under a root key in this HSM, or go on with a move; returns how many were moved. Outside a transaction.

    What was moved stays moved when it fails. Raises Conflict, Unavailable, NotFound, PermissionDenied.
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    row = HsmConnection.objects.filter(pk=connection_id).first()
    if row is None:
        raise NotFound("There is no such HSM connection.")
    try:
        return move_root_to_hsm(row, actor).moved
    except DomainError:
        raise
    except (rootkey.RootKeyError, RewrapUnverified) as error:
        raise Conflict(
            str(error),
            cure="What was moved stays moved, and both root keys stay in use; move again to go on.",
        ) from error
