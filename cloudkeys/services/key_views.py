"""What a CloudKey's page tells beyond its row: its life so far, the dates ahead, who may use it, and AWS's word beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q

from cloudkeys import naming
from cloudkeys.models import CloudKey, CspAccount, KeySet, KeyVersion, Operation
from cloudkeys.operations.kinds import KINDS
from cloudkeys.providers.aws_policy import ADMINISTRATOR_ACTIONS, GRANT_ACTIONS, USER_ACTIONS, key_policy
from cloudkeys.services.due_dates import effective_expiration, effective_schedule
from vault.actions import Action
from vault.actors import Actor
from vault.errors import ValidationFailed
from vault.models import AuditEvent
from vault.permissions import Permission

MOST_MOMENTS = 200
_WORDS: dict[str, str] = {
    Action.CLOUD_KEY_CREATE: "Created",
    Action.CLOUD_KEY_UPDATE: "Changed",
    Action.CLOUD_KEY_DISABLE: "Disabled",
    Action.CLOUD_KEY_ENABLE: "Enabled",
    Action.CLOUD_KEY_BLOCK: "Blocked",
    Action.CLOUD_KEY_UNBLOCK: "Unblocked",
    Action.CLOUD_KEY_ROTATE: "Rotated",
    Action.CLOUD_KEY_RETIRE: "Retired to decrypt-only",
    Action.CLOUD_KEY_SCHEDULE_DELETION: "Deletion scheduled",
    Action.CLOUD_KEY_CANCEL_DELETION: "Deletion cancelled",
    Action.CLOUD_KEY_DESTROY: "Destroyed",
    Action.CLOUD_KEY_EXPIRE: "Expired",
    Action.CLOUD_KEY_LINK: "Linking asked for",
    Action.CLOUD_KEY_POINTER: "KMS key pointer",
    Action.CLOUD_KEY_REFRESH: "Asked AWS about it",
    Action.DATA_PLANE_CONFIRM: "Confirmed by the data plane",
}

_ASKED: dict[str, str] = {
    Action.CLOUD_KEY_ENABLE: "Enabling asked for",
    Action.CLOUD_KEY_ROTATE: "Rotation asked for",
}


@dataclass(frozen=True)
class Moment:
    """One moment of a key's life. source: audit, operation or version; ref: the id of the event or operation."""

    at: datetime
    what: str
    words: str
    who: str
    reason: str
    source: str
    ref: str
    outcome: str = "SUCCESS"
    detail: dict[str, Any] = field(default_factory=dict)


def timeline(actor: Actor, key_id: UUID, *, limit: int = 50, before: datetime | None = None) -> list[Moment]:
    """The key's life, the newest first: audit events, operations and versions in one. Three queries, each bounded.

    `before` turns the page: give the last moment's `at`. Raises NotFound, PermissionDenied.
    """
    key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_VIEW)
    limit = max(1, min(limit, MOST_MOMENTS))
    earlier = Q() if before is None else Q(at__lt=before)
    moments: list[Moment] = []
    if actor.may(Permission.AUDIT_VIEW, key):
        # Ordered by sequence, which an index on (vault, target, sequence) gives; times follow it.
        events = AuditEvent.objects.filter(earlier, vault_id=key.vault_id, target_id=str(key.pk)).order_by(
            "-sequence"
        )
        moments += [_of_event(event) for event in events[:limit]]
    begun = Q() if before is None else Q(created_at__lt=before)
    for work in Operation.objects.filter(begun, target_id=key.pk).order_by("-created_at")[:limit]:
        moments.append(_of_operation(work))
    activated = KeyVersion.objects.filter(cloud_key=key, activated_at__isnull=False)
    if before is not None:
        activated = activated.filter(activated_at__lt=before)
    for version in activated.order_by("-number")[:limit]:
        moments.append(
            Moment(
                version.activated_at,  # type: ignore[arg-type]  # filtered
                "version",
                f"Version {version.number} began to encrypt",
                "",
                "",
                "version",
                str(version.number),
            )
        )
    return sorted(moments, key=lambda moment: (moment.at, moment.source, moment.ref), reverse=True)[:limit]


def _of_event(event: AuditEvent) -> Moment:
    words = _WORDS.get(event.action, event.action)
    if event.action == Action.CLOUD_KEY_POINTER and event.after:
        words = f"KMS key pointer: {str(event.after.get('pointer_state', '')).replace('_', ' ').lower()}"
    if event.detail.get("asked"):
        words = _ASKED.get(event.action, words)
    changed = sorted(
        name for name in event.after or {} if (event.before or {}).get(name) != (event.after or {})[name]
    )
    detail = dict(event.detail)
    if event.action == Action.CLOUD_KEY_UPDATE and changed:
        words = f"Changed: {', '.join(name.replace('_', ' ') for name in changed)}"
    return Moment(
        event.at,
        event.action,
        words,
        event.actor_name,
        event.reason,
        "audit",
        str(event.id),
        event.outcome,
        detail,
    )


def _of_operation(work: Operation) -> Moment:
    detail = {"error": work.error} if work.error else {}
    return Moment(
        work.created_at,
        work.kind,
        f"{operation_label(work)}: {work.get_state_display().lower()}",
        work.requested_by_name,
        "",
        "operation",
        str(work.pk),
        "FAILURE" if work.state == Operation.State.FAILED else "SUCCESS",
        detail,
    )


def operation_label(work: Operation) -> str:
    """What an operation does, in words."""
    kind = KINDS.get(work.kind)
    return kind.label if kind is not None else work.kind


@dataclass(frozen=True)
class DateAhead:
    """A date that a key has before it. `why` says what it follows from; `waits`: it comes to pass only once that is over."""

    what: str
    at: datetime
    why: str
    waits: str = ""


def next_dates(key: CloudKey) -> list[DateAhead]:
    """The dates ahead of a key, the next first, and the rotations after the next, as they would follow. No query if joined."""
    found: list[DateAhead] = []
    paused = "" if key.state == CloudKey.State.ENABLED else "Waits until the key is enabled."
    schedule = effective_schedule(key)
    inherited = "the key set's schedule" if key.rotation_schedule is None else "its own schedule"
    if key.next_rotation_at is not None and key.state not in (
        CloudKey.State.PENDING_DELETION,
        CloudKey.State.DESTROYED,
    ):
        found.append(DateAhead("rotation", key.next_rotation_at, f"From {inherited}.", paused))
        at = key.next_rotation_at
        for _ in range(2 if schedule is not None else 0):
            at = schedule.next_after(at)  # type: ignore[union-attr]
            found.append(DateAhead("later rotation", at, f"From {inherited}, if each comes in time.", paused))
    expiration = effective_expiration(key)
    if key.expires_at is not None and key.expired_at is None and expiration is not None:
        act = (
            "disabled"
            if expiration.then == "disable"
            else f"scheduled for deletion in {expiration.window_days} days"
        )
        whose = "the key set's expiration" if key.expiration is None else "its own expiration"
        found.append(DateAhead("expiry", key.expires_at, f"From {whose}: the key is then {act}."))
    if key.delete_after is not None and key.state == CloudKey.State.PENDING_DELETION:
        found.append(
            DateAhead("destruction", key.delete_after, "The deletion window ends; cancel it before.")
        )
    return sorted(found, key=lambda each: each.at)


@dataclass(frozen=True)
class WhoMay:
    """Who may administer and who may use the KMS key by its key policy, and what each may do."""

    administrators: list[str]
    users: list[str]
    root: str
    administrator_actions: tuple[str, ...]
    user_actions: tuple[str, ...]
    grant_actions: tuple[str, ...]
    caution: str


def who_may(actor: Actor, key_id: UUID) -> WhoMay:
    """Who may do what with the KMS key. Raises NotFound, PermissionDenied."""
    key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_VIEW)
    account = key.csp_account
    partition = _partition(account)
    root = (
        f"arn:{partition}:iam::{account.cloud_account_id}:root"
        if account and account.cloud_account_id
        else ""
    )
    return WhoMay(
        administrators=list(key.administrators),
        users=list(key.users),
        root=root,
        administrator_actions=ADMINISTRATOR_ACTIONS,
        user_actions=USER_ACTIONS,
        grant_actions=GRANT_ACTIONS,
        caution=(
            "The account's root stands in the policy too, so that IAM policies of the account may let others in."
            if key.pointer_state == CloudKey.PointerState.LINKED
            else "Keystead does not drive this KMS key: its policy is what was set in AWS."
        ),
    )


def policy_preview(actor: Actor, key_id: UUID) -> dict[str, Any]:
    """The key policy that Keystead gives the key's KMS key. Raises NotFound, PermissionDenied, ValidationFailed."""
    key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_VIEW)
    return _policy(key.csp_account, key.administrators, key.users)


def policy_preview_for(
    actor: Actor, key_set_id: UUID, *, administrators: Sequence[str] = (), users: Sequence[str] = ()
) -> dict[str, Any]:
    """The key policy that a new key of the set would get with these principals. Raises ValidationFailed by field, NotFound."""
    key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_VIEW)
    account = key_set.csp_account
    if account is not None:
        for name, values in (("administrators", administrators), ("users", users)):
            naming.check_principals(list(values), account.partition, account.cloud_account_id, field=name)
    return _policy(account, administrators, users)


def _policy(
    account: CspAccount | None, administrators: Sequence[str], users: Sequence[str]
) -> dict[str, Any]:
    if account is None:
        raise ValidationFailed(
            "This key set has no CSP account, so Keystead writes no key policy.", field="csp_account",
            cure="Set the policy in AWS.",
        )  # fmt: skip
    return key_policy(_partition(account), account.cloud_account_id or "<account>", administrators, users)


def _partition(account: CspAccount | None) -> str:
    return naming.arn_partition(account.partition if account is not None else "aws")


@dataclass(frozen=True)
class Compared:
    """One fact: what we hold, what AWS last said, and whether they agree; None where AWS said nothing of it."""

    name: str
    ours: str
    aws: str | None
    agrees: bool | None


_STATES = {
    CloudKey.State.ENABLED: "Enabled",
    CloudKey.State.DISABLED: "Disabled",
    CloudKey.State.PENDING_DELETION: "PendingDeletion",
}


def aws_beside_ours(key: CloudKey) -> list[Compared]:
    """What DescribeKey last said beside what we hold (`cloud_state`, of `cloud_state_at`). Pure; empty when never asked.

    `refresh_cloud_key` asks anew.
    """
    said = key.cloud_state
    if not said:
        return []
    aliases = [str(alias) for alias in said.get("aliases") or ()]
    return [
        _compared(
            "State", _STATES.get(CloudKey.State(key.state), str(key.get_state_display())), said.get("state")
        ),
        _compared("External key id", key.external_key_id, said.get("external_key_id")),
        _compared(
            "Key store",
            key.link.custom_key_store_id if key.link is not None else "",
            said.get("key_store_id"),
        ),
        _compared("KMS key ARN", key.kms_key_arn, said.get("arn")),
        _compared("Description", key.description, said.get("description"), may_be_empty=True),
        Compared("Alias", key.alias, ", ".join(aliases) or None, key.alias in aliases if aliases else None),
    ]


def _compared(name: str, ours: str, aws: Any, *, may_be_empty: bool = False) -> Compared:
    if aws is None or (aws == "" and not may_be_empty):
        return Compared(name, ours, None, None)
    return Compared(name, ours, str(aws), str(aws) == ours)
