"""Which root keys stored keys are under, which HSM could take the root key, and moving it there from the web (vault/rewrap.py)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vault import errands, rootkey
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, DomainError, NotFound
from vault.fields import WrappedBlob
from vault.models import Errand, HsmConnection, HsmKey, HsmMember, Installation, Vault
from vault.permissions import Permission
from vault.rewrap import Progress, RewrapUnverified, move_root_to_hsm, no_progress

ERRAND: Final = "root_key.move"
TASK: Final = "vault.move_root_key"


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
    errand: Errand | None = None

    @property
    def at_work(self) -> bool:
        """Whether a worker moves it, or is to."""
        return self.errand is not None and self.errand.under_way

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
        Target(each, _why_not(each, inside.get(named), len(counted) > 1))
        for each in HsmConnection.objects.prefetch_related("members").order_by("name")
    ]
    errand = errands.last_errand(ERRAND)
    return RootKeyStanding(sorted(found, key=lambda each: not each.current), len(blobs), targets, errand)


def _why_not(row: HsmConnection, held_by: HsmConnection | None, unfinished: bool) -> str:
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
    return ""


def ask_for_move(actor: Actor, connection_id: UUID) -> Errand:
    """Let a worker move the root key into this HSM, or go on; a move into it that is under way is left as it is.

    Raises Conflict (a move into another HSM is under way), NotFound, PermissionDenied.
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    with change(actor) as tx:
        row = HsmConnection.objects.filter(pk=connection_id).first()
        if row is None:
            raise NotFound("There is no such HSM connection.")
        other = (
            Errand.objects.filter(kind=ERRAND, state__in=Errand.UNFINISHED).exclude(subject_id=row.pk).first()
        )
        if other is not None:
            raise Conflict("A move into another HSM is under way.", cure="Wait until it is done.")
        errand, anew = errands.ask(actor, ERRAND, row.pk, TASK)
        if anew:
            tx.audit(Action.ROOT_KEY_MOVE, row)
    return errand


def do_asked_moves() -> int:
    """Move the root key where it was asked for; for workers. A worker that dies leaves it to the next one."""

    def work(row: Errand, actor: Actor, progress: Progress) -> None:
        move_root_key(actor, row.subject_id, progress=progress)

    return errands.run_due(ERRAND, work)


def move_root_key(actor: Actor, connection_id: UUID, *, progress: Progress = no_progress) -> int:
    """Move every key under a root key in this HSM, or go on with a move; returns how many were moved. Outside a transaction.

    What was moved stays moved when it fails. Raises Conflict, Unavailable, NotFound, PermissionDenied.
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    row = HsmConnection.objects.filter(pk=connection_id).first()
    if row is None:
        raise NotFound("There is no such HSM connection.")
    try:
        return move_root_to_hsm(row, actor, progress=progress).moved
    except DomainError:
        raise
    except (rootkey.RootKeyError, RewrapUnverified) as error:
        raise Conflict(
            str(error),
            cure="What was moved stays moved, and both root keys stay in use; move again to go on.",
        ) from error
