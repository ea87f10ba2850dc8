"""Rotation of a store's XKS credential: begun, carried by a person where Keystead may not, judged by real use.

The work itself is the Operation `xks_store.rotate_credential` (cloudkeys/flows/xks_credential_rotation.py). While it runs
two credentials are live, so that no request fails whichever of the two AWS signs with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max
from django.utils import timezone

from cloudkeys import naming
from cloudkeys.models import AwsStoreLink, Operation, XksCredential, XksCredentialRegion, XksKeyStore
from cloudkeys.operations import start_operation
from cloudkeys.operations.requests import wake
from cloudkeys.schedules import parse_schedule
from cloudkeys.services.credentials import REPORT_LAG, NewCredential, mark_shown, silence
from cloudkeys.services.rows import require_live_vault
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change
from vault.errors import Conflict, ValidationFailed
from vault.keys import unseal
from vault.permissions import Permission

KIND = "xks_store.rotate_credential"
ALIVE = timedelta(minutes=15)
"""A connected AWS key store is asked for its health every few minutes; one that was not seen for longer is not."""
FORGOTTEN = timedelta(days=30)
"""A region without an AWS key store here, in which no credential was seen for so long, is not asked about."""
MIN_SILENCE_S, MAX_SILENCE_S = 60, 7 * 86400

TO_GIVE, WAITING_FOR_NEW, OLD_IN_USE, SILENT, READY, NOT_NEEDED = (
    "TO_GIVE", "WAITING_FOR_NEW", "OLD_IN_USE", "SILENT", "READY", "NOT_NEEDED",
)  # fmt: skip
STATES = (TO_GIVE, WAITING_FOR_NEW, OLD_IN_USE, SILENT, READY, NOT_NEEDED)
Given = XksCredentialRegion.Given


@dataclass(frozen=True)
class RegionStatus:
    """Where the rotation stands in one AWS region.

    state: TO_GIVE (AWS has not got the new credential), WAITING_FOR_NEW (not seen in use yet), OLD_IN_USE (the old one is
    not silent for long enough), SILENT (neither is in use: AWS is not connected), READY, NOT_NEEDED (a person said that
    the region uses the store no more).
    """

    region: str
    state: str
    link: AwsStoreLink | None
    given: str
    given_at: datetime | None
    new_used_at: datetime | None
    new_succeeded_at: datetime | None
    old_used_at: datetime | None
    ready_at: datetime | None
    """The earliest moment at which the old one counts as silent, while it does not."""

    @property
    def by_keystead(self) -> bool:
        """Whether Keystead itself gives the credential to AWS here."""
        return self.link is not None and self.link.linked


@dataclass(frozen=True)
class Rotation:
    """A rotation as a person sees it: the last one of the store, under way or over."""

    operation: Operation | None
    new: XksCredential | None
    old: list[XksCredential]
    regions: list[RegionStatus]
    silence_s: int
    file_available: bool


def unfinished_rotation(store: XksKeyStore) -> Operation | None:
    """The rotation that is under way."""
    return Operation.objects.filter(kind=KIND, target_id=store.pk, state__in=Operation.UNFINISHED).first()


def new_credential_of(operation: Operation) -> XksCredential | None:
    """The credential that a rotation has made, None before it has."""
    made = operation.memo.get("new_credential_id")
    return XksCredential.objects.filter(pk=made).first() if made else None


def old_credentials(store: XksKeyStore, new: XksCredential) -> list[XksCredential]:
    """What the new one replaces: every live credential that is older."""
    live = store.credentials.filter(state=XksCredential.State.ACTIVE)
    return list(live.filter(created_at__lt=new.created_at).exclude(pk=new.pk).order_by("created_at"))


def silence_of(operation: Operation) -> timedelta:
    """How long the old credential must not be seen, in this rotation."""
    asked = operation.input.get("silence_s")
    return timedelta(seconds=asked) if asked else silence()


def region_statuses(
    store: XksKeyStore,
    new: XksCredential,
    old: Iterable[XksCredential],
    *,
    silent_for: timedelta,
    now: datetime,
) -> list[RegionStatus]:
    """Where the rotation stands in every region that has an AWS key store, or in which the store was used of late."""
    links = {
        link.region: link for link in store.links.exclude(state=AwsStoreLink.State.GONE) if _in_aws(link)
    }
    rows = {row.region: row for row in new.regions.all()}
    used = XksCredentialRegion.objects.filter(credential__in=list(old))
    old_used: dict[str, datetime | None] = dict(
        used.values_list("region").annotate(last=Max("last_used_at")).values_list("region", "last")
    )
    seen = {region for region, last in old_used.items() if last is not None and last > now - FORGOTTEN}
    given = {row.region for row in rows.values() if row.given or row.last_used_at is not None}
    return [
        _status(region, links.get(region), rows.get(region), old_used.get(region), silent_for, now)
        for region in sorted(set(links) | seen | given)
    ]


def _in_aws(link: AwsStoreLink) -> bool:
    """A linked one that never came to be in AWS needs no credential."""
    return not link.linked or bool(link.custom_key_store_id) or link.state == AwsStoreLink.State.PENDING


def _status(
    region: str,
    link: AwsStoreLink | None,
    row: XksCredentialRegion | None,
    old_used: datetime | None,
    silent_for: timedelta,
    now: datetime,
) -> RegionStatus:
    wait = silent_for + REPORT_LAG
    given_at = row.given_at if row is not None else None
    new_used = row.last_used_at if row is not None else None
    # Silence counts from the moment at which AWS got the new one: before that the old one had to be used.
    begun = [moment for moment in (old_used, given_at) if moment is not None]
    ready_at = max(begun) + wait if begun else None
    quiet = ready_at is None or ready_at <= now
    if row is not None and row.given == Given.NOT_NEEDED:
        state = NOT_NEEDED if old_used is None or old_used + wait <= now else OLD_IN_USE
    elif row is None or not row.given:
        # Beyond the number of regions told apart ("") only the silence of the old one can be seen.
        state = TO_GIVE if region else (READY if quiet else OLD_IN_USE)
    elif not quiet:
        state = WAITING_FOR_NEW if row.last_succeeded_at is None else OLD_IN_USE
    elif new_used is None or new_used < now - max(ALIVE, wait):
        state = SILENT
    else:
        state = READY if row.last_succeeded_at is not None else WAITING_FOR_NEW
    return RegionStatus(
        region=region,
        state=state,
        link=link,
        given=row.given if row is not None else "",
        given_at=given_at,
        new_used_at=new_used,
        new_succeeded_at=row.last_succeeded_at if row is not None else None,
        old_used_at=old_used,
        ready_at=None if quiet else ready_at,
    )


# --- what people ask for ------------------------------------------------------------------------------------------


def rotate_xks_credential(
    actor: Actor, store_id: UUID, *, silence_s: int | None = None, reason: str = ""
) -> Operation:
    """Begin the rotation. Raises Conflict while one is under way."""
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_CREDENTIALS_MANAGE, lock=True)
        require_live_vault(store.vault)
        if silence_s is not None and not MIN_SILENCE_S <= silence_s <= MAX_SILENCE_S:
            raise ValidationFailed(
                "The old credential must be silent for 60 seconds to 7 days.",
                field="silence_s",
                cure="Leave it out for the installation's default.",
            )
        return begin_rotation(actor, tx, store, silence_s=silence_s, why="asked for", reason=reason)


def begin_rotation(
    actor: Actor, tx: Change, store: XksKeyStore, *, silence_s: int | None, why: str, reason: str = ""
) -> Operation:
    """Start the Operation on a locked store. Raises Conflict while one is under way."""
    operation = start_operation(actor, KIND, store, input={"silence_s": silence_s} if silence_s else {})
    tx.audit(
        Action.XKS_CREDENTIAL_ROTATE,
        store,
        target_name=store.key_set.name,
        detail={"operation": str(operation.pk), "why": why},
        reason=reason,
    )
    return operation


def show_rotation(actor: Actor, store_id: UUID) -> Rotation:
    """The store's last rotation, and where it stands in every region."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
    operation = Operation.objects.filter(kind=KIND, target_id=store.pk).order_by("-created_at").first()
    if operation is None:
        return Rotation(None, None, [], [], int(silence().total_seconds()), False)
    new = new_credential_of(operation)
    silent_for = silence_of(operation)
    old = old_credentials(store, new) if new is not None else []
    under_way = operation.state in Operation.UNFINISHED
    regions = (
        region_statuses(store, new, old, silent_for=silent_for, now=timezone.now())
        if new is not None and under_way
        else []
    )
    available = under_way and new is not None and new.shown_at is None and _is_live(new)
    return Rotation(operation, new, old, regions, int(silent_for.total_seconds()), available)


def _is_live(credential: XksCredential) -> bool:
    return credential.state == XksCredential.State.ACTIVE


def take_rotation_file(actor: Actor, store_id: UUID) -> NewCredential:
    """The new credential with its secret, for a person to carry to AWS: once. Raises Conflict."""
    with change(actor) as tx:
        _, _, new = _under_way(actor, store_id)
        if new.shown_at is not None:
            raise Conflict(
                "The new credential's secret has been shown already, and is shown once.",
                cure="If it is lost, cancel the rotation and begin it again: that makes another one.",
            )
        mark_shown(tx, new)
    return NewCredential(new, unseal(new, "secret_access_key"))


def mark_given(actor: Actor, store_id: UUID, *, region: str, not_needed: bool = False) -> XksCredentialRegion:
    """A person has given the new credential to AWS in that region; or the region uses the store no more.

    Raises Conflict where Keystead gives it itself, ValidationFailed for a region that does not exist.
    """
    with change(actor) as tx:
        store, operation, new = _under_way(actor, store_id)
        link = store.links.filter(region=region).exclude(state=AwsStoreLink.State.GONE).first()
        if link is None:
            account = store.key_set.csp_account
            region = naming.check_region(region, account.partition if account is not None else "aws")
        elif link.linked and not not_needed:
            raise Conflict(
                f"Keystead drives the key store in {region} and gives AWS the credential itself.",
                cure="Look at the rotation: its step says what it waits for.",
            )
        row = give(tx, new, region, Given.NOT_NEEDED if not_needed else Given.PERSON)
        Operation.objects.filter(pk=operation.pk).update(next_try_at=timezone.now())
        wake(operation.pk)
    return row


def give(
    tx: Change, credential: XksCredential, region: str, given: XksCredentialRegion.Given, *, why: str = ""
) -> XksCredentialRegion:
    """Note that AWS has the credential in that region, or needs none there; the first time counts."""
    row, _ = XksCredentialRegion.objects.get_or_create(credential=credential, region=region)
    row = XksCredentialRegion.objects.select_for_update().get(pk=row.pk)
    if row.given == given:
        return row
    before = row.given
    row.given, row.given_at = given, timezone.now()
    row.save(update_fields=["given", "given_at"])
    tx.audit(
        Action.XKS_CREDENTIAL_GIVE,
        credential,
        before={"given": before},
        after={"given": str(given)},
        detail={"region": region, **({"why": why} if why else {})},
    )
    return row


def _under_way(actor: Actor, store_id: UUID) -> tuple[XksKeyStore, Operation, XksCredential]:
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_CREDENTIALS_MANAGE, lock=True)
    require_live_vault(store.vault)
    operation = unfinished_rotation(store)
    if operation is None:
        raise Conflict(
            "No rotation of this store's credential is under way.", cure="Begin one: rotate-credentials."
        )
    if operation.undoing or operation.cancel_requested:
        raise Conflict("This rotation is being cancelled.", cure="Wait for its end, then begin another one.")
    new = new_credential_of(operation)
    if new is None or not _is_live(new):
        raise Conflict("The rotation has not made the new credential yet.", cure="Try again in a moment.")
    return store, operation, new


# --- the schedule -------------------------------------------------------------------------------------------------


def set_rotation_schedule(store: XksKeyStore, value: Mapping[str, Any]) -> None:
    """Set schedule and next date on a locked row; counted from the newest live credential. Raises ValidationFailed."""
    schedule = parse_schedule(value)
    store.rotation_schedule = schedule.as_json() if schedule is not None else {"kind": "none"}
    plan_next_rotation(store)


def plan_next_rotation(store: XksKeyStore) -> None:
    """Set the next date on a locked row."""
    schedule = parse_schedule(store.rotation_schedule)
    live = store.credentials.filter(state=XksCredential.State.ACTIVE)
    made: datetime | None = live.aggregate(last=Max("created_at"))["last"]
    store.next_rotation_at = schedule.next_after(made or timezone.now()) if schedule is not None else None
