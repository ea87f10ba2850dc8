"""What needs attention among accounts, stores, keys and long work. A fixed number of queries, however many keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, F, OuterRef, Q, QuerySet

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, Operation, XksCredential, XksKeyStore
from cloudkeys.operations.kinds import KINDS
from cloudkeys.providers.connection_errors import cause_and_cure
from vault.actors import Actor
from vault.attention import MOST_EXAMPLES, MOST_ROWS, Item, Ref, Severity, beyond
from vault.models import Vault

FAILED_SHOWN_FOR = timedelta(days=14)
ROTATION_LATE_AFTER = timedelta(hours=1)
EXPIRY_NEAR = timedelta(days=14)
DELETION_NEAR = timedelta(days=7)
OLD_CREDENTIAL = timedelta(days=365)
RETIREMENT_LATE_AFTER = timedelta(days=2)

MOST_COUNTED = 1000

_State, _Pointer, _Link = CloudKey.State, CloudKey.PointerState, AwsStoreLink.State


def key_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """CloudKeys, kind of trouble by kind of trouble: a count and some names each, two small queries for each."""
    keys = CloudKey.objects.filter(vault=vault, kind=CloudKey.Kind.USER)
    yield from _group(
        keys.filter(pointer_state=_Pointer.FAILED),
        "key.pointer_failed",
        Severity.CRITICAL,
        "{keys} could not be made in AWS KMS.",
        "No AWS service can use them.",
        "Retry",
        "retry_pointer",
        pointer_state="FAILED",
    )
    yield from _group(
        keys.filter(pointer_state=_Pointer.GONE).exclude(state=_State.DESTROYED),
        "key.pointer_gone",
        Severity.CRITICAL,
        "{keys} lost their KMS key: AWS knows it no more.",
        "Data under it cannot be read through AWS. Keystead still holds the key.",
        "Show keys",
        "open_keys",
        pointer_state="GONE",
    )
    yield from _group(
        keys.filter(state=_State.PENDING_DELETION, delete_after__lte=now + DELETION_NEAR),
        "key.deletion_near",
        Severity.WARNING,
        "{keys} will be destroyed within 7 days.",
        "From then on nothing under them can be read, ever.",
        "Review deletion",
        "cancel_deletion",
        order=("delete_after", "pk"),
        state="PENDING_DELETION",
    )
    yield from _group(
        keys.filter(state=_State.ENABLED, expires_at__lte=now + EXPIRY_NEAR, expired_at=None),
        "key.expiry_near",
        Severity.WARNING,
        "{keys} will expire within 14 days.",
        "An expired key is disabled or deleted, as its expiration says.",
        "Show keys",
        "open_keys",
        order=("expires_at", "pk"),
        state="ENABLED",
        expires_before=(now + EXPIRY_NEAR).isoformat(timespec="seconds"),
    )
    late = {"next_rotation_at__lte": now - ROTATION_LATE_AFTER}
    yield from _group(
        keys.filter(state=_State.ENABLED, **late),
        "key.rotation_overdue",
        Severity.WARNING,
        "The rotation of {keys} is overdue.",
        "They go on encrypting with a version older than their schedule allows.",
        "Rotate now",
        "rotate_keys",
        order=("next_rotation_at", "pk"),
        state="ENABLED",
        rotation_overdue="true",
    )
    yield from _group(
        keys.filter(state=_State.DISABLED, **late),
        "key.schedule_paused",
        Severity.NOTICE,
        "The schedule of {keys} is paused: they are disabled, and their rotation was due.",
        "They rotate when they are enabled again.",
        "Show keys",
        "open_keys",
        order=("next_rotation_at", "pk"),
        state="DISABLED",
        rotates_before=now.isoformat(timespec="seconds"),
    )
    yield from _group(
        # Health-check keys are never blocked; without `kind` the small index of blocked keys answers.
        CloudKey.objects.filter(vault=vault, blocked=True),
        "key.blocked",
        Severity.NOTICE,
        "{keys} are blocked.",
        "Every use of them is refused until somebody unblocks them.",
        "Show keys",
        "open_keys",
        order=("name", "pk"),
        blocked="true",
    )


def _group(
    rows: QuerySet[CloudKey],
    kind: str,
    severity: Severity,
    what: str,
    why: str,
    fix: str,
    action: str,
    order: tuple[str, ...] = ("pk",),
    **query: str,
) -> Iterator[Item]:
    """One item for all of these keys; nothing when there are none.

    Found in the order of the index that holds them, and counted up to MOST_COUNTED, so that neither takes longer the more there are.
    """
    examples = tuple(
        Ref(str(pk), name) for pk, name in rows.order_by(*order).values_list("pk", "name")[:MOST_EXAMPLES]
    )
    if not examples:
        return
    count = (
        len(examples) if len(examples) < MOST_EXAMPLES else rows.order_by(*order)[: MOST_COUNTED + 1].count()
    )
    number = f"{count:,}" if count <= MOST_COUNTED else f"More than {MOST_COUNTED:,}"
    count = min(count, MOST_COUNTED)
    one = examples[0] if count == 1 else None
    yield Item(
        kind=kind,
        severity=severity,
        what=_said(what, one.name if one else f"{number} CloudKeys", count),
        why=why
        if count != 1
        else why.replace("them", "it").replace("They ", "It ").replace("It go ", "It goes "),
        fix=fix,
        action=action,
        target_type="cloud_key",
        target_id=one.id if one else "",
        target_name=one.name if one else "",
        count=count,
        examples=examples,
        list_query=urlencode(query),
    )


_SINGULAR = (
    (" lost their KMS key", " lost its KMS key"),
    (": they are disabled, and their", ": it is disabled, and its"),
)


def _said(what: str, subject: str, count: int) -> str:
    text = what.format(
        keys=subject
        if what.startswith("{keys}")
        else subject[:1].lower() + subject[1:]
        if count > 1
        else subject
    )
    if count == 1:
        for plural, singular in _SINGULAR:
            text = text.replace(plural, singular)
        text = text.replace(f"{subject} are ", f"{subject} is ")
    return text


def account_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """CSP accounts whose credential fails, lacks rights, is overdue, or has grown old. One query."""
    old = now - OLD_CREDENTIAL
    trouble = (
        Q(health__in=(CspAccount.Health.FAILING, CspAccount.Health.DEGRADED))
        | Q(next_rotation_at__lte=now - ROTATION_LATE_AFTER)
        | Q(next_rotation_at=None, credential_created_at__lte=old)
        | Q(retire_after__lte=now - RETIREMENT_LATE_AFTER)
    )
    rows = list(CspAccount.objects.filter(trouble, vault=vault).order_by("name")[: MOST_ROWS + 1])
    for account in rows[:MOST_ROWS]:
        yield from _of_account(account, now, old)
    if len(rows) > MOST_ROWS:
        yield beyond(
            "account", Severity.WARNING, "More CSP accounts need attention.", "open_accounts", "csp_account"
        )


def _of_account(account: CspAccount, now: datetime, old: datetime) -> Iterator[Item]:
    def item(
        kind: str, severity: Severity, what: str, why: str, fix: str, action: str, since: datetime | None
    ) -> Item:
        return Item(
            kind=f"account.{kind}",
            severity=severity,
            what=what,
            why=why,
            fix=fix,
            action=action,
            target_type="csp_account",
            target_id=str(account.pk),
            target_name=account.name,
            since=since,
        )

    if account.health == CspAccount.Health.FAILING:
        error = account.health_detail.get("error") or {}
        why = error.get("cause") or "The cloud refused the credential."
        yield item(
            "failing", Severity.CRITICAL, f"CSP account {account.name} does not work.", why,
            "Test again", "test_account", account.health_checked_at,
        )  # fmt: skip
    elif account.health == CspAccount.Health.DEGRADED:
        denied = [
            each["action"]
            for each in account.health_detail.get("checks", [])
            if each.get("result") == "denied"
        ]
        named = ", ".join(denied[:5]) + (f" and {len(denied) - 5} more" if len(denied) > 5 else "")
        yield item(
            "degraded", Severity.WARNING, f"CSP account {account.name} lacks rights that Keystead needs.",
            f"Denied: {named}." if denied else "Some of what Keystead does will be refused.",
            "Show policy", "open_account_policy", account.health_checked_at,
        )  # fmt: skip
    if account.next_rotation_at is not None and account.next_rotation_at <= now - ROTATION_LATE_AFTER:
        yield item(
            "rotation_overdue", Severity.WARNING, f"The access key of {account.name} should have been rotated.",
            "It is older than its schedule allows.", "Rotate credential", "rotate_credential", account.next_rotation_at,
        )  # fmt: skip
    began = account.credential_created_at
    if account.next_rotation_at is None and began is not None and began <= old:
        yield item(
            "credential_old", Severity.NOTICE, f"The access key of {account.name} is {(now - began).days} days old.",
            "It has no rotation schedule.", "Rotate credential", "rotate_credential", began,
        )  # fmt: skip
    if account.retire_after is not None and account.retire_after <= now - RETIREMENT_LATE_AFTER:
        yield item(
            "old_key_left", Severity.WARNING, f"The former access key of {account.name} is not deleted yet.",
            "Whoever holds it could be let in again.", "Show operations", "open_operations", account.retire_after,
        )  # fmt: skip


def store_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """External key stores: AWS side failed, gone or disconnected, blocked, credentials missing or old. Three queries."""
    wrong = Q(state__in=(_Link.FAILED, _Link.GONE)) | Q(linked=True, state=_Link.DISCONNECTED)
    links = list(
        AwsStoreLink.objects.filter(wrong, vault=vault)
        .exclude(
            pk__in=Operation.objects.filter(vault=vault, state__in=Operation.UNFINISHED).values("target_id")
        )
        .order_by("name", "region")[: MOST_ROWS + 1]
    )
    for link in links[:MOST_ROWS]:
        yield _of_link(link)
    if len(links) > MOST_ROWS:
        yield beyond("store", Severity.CRITICAL, "More AWS key stores fail.", "open_stores", "aws_store_link")
    live = XksCredential.objects.filter(store=OuterRef("pk"), state=XksCredential.State.ACTIVE)
    stores = (
        XksKeyStore.objects.filter(vault=vault, is_conformance=False)
        .annotate(has_credential=Exists(live), young=Exists(live.filter(created_at__gt=now - OLD_CREDENTIAL)))
        .filter(
            Q(blocked=True)
            | Q(has_credential=False)
            | Q(young=False)
            | Q(next_rotation_at__lte=now - ROTATION_LATE_AFTER)
        )
        .select_related("key_set")
        .order_by("key_set__name")[: MOST_ROWS + 1]
    )
    rows = list(stores)
    for store in rows[:MOST_ROWS]:
        yield from _of_store(store, now)
    if len(rows) > MOST_ROWS:
        yield beyond(
            "xks_store",
            Severity.WARNING,
            "More external key stores need attention.",
            "open_stores",
            "xks_store",
        )


def _of_link(link: AwsStoreLink) -> Item:
    common: dict[str, Any] = {
        "target_type": "aws_store_link",
        "target_id": str(link.pk),
        "target_name": f"{link.name} ({link.region})",
    }
    if link.state == _Link.GONE:
        return Item(
            kind="store.gone", severity=Severity.CRITICAL, what=f"AWS key store {link.name} in {link.region} is gone from AWS.",
            why="No AWS service can use its keys.", fix="Show store", action="open_store",
            since=link.cloud_state_at, **common,
        )  # fmt: skip
    if link.state == _Link.DISCONNECTED:
        return Item(
            kind="store.disconnected", severity=Severity.CRITICAL,
            what=f"AWS key store {link.name} in {link.region} is disconnected.",
            why="Its KMS keys are unavailable until it is connected.", fix="Connect store", action="connect_store",
            since=link.cloud_state_at, **common,
        )  # fmt: skip
    reason = cause_and_cure(link.connection_error_code)
    return Item(
        kind="store.failed", severity=Severity.CRITICAL, what=f"AWS key store {link.name} in {link.region} has failed.",
        why=f"{reason.cause} {reason.cure}", fix="Connect store", action="connect_store",
        since=link.cloud_state_at, **common,
    )  # fmt: skip


def _of_store(store: XksKeyStore, now: datetime) -> Iterator[Item]:
    name = store.key_set.name
    common: dict[str, Any] = {"target_type": "xks_store", "target_id": str(store.pk), "target_name": name}
    if store.blocked:
        yield Item(
            kind="xks_store.blocked", severity=Severity.WARNING, what=f"External key store {name} is blocked.",
            why=store.blocked_reason or "Every call of AWS is refused until somebody unblocks it.",
            fix="Unblock store", action="unblock_store", **common,
        )  # fmt: skip
    if not store.has_credential:  # type: ignore[attr-defined]  # annotated
        yield Item(
            kind="xks_store.no_credential", severity=Severity.CRITICAL,
            what=f"External key store {name} has no live credential.", why="AWS can use none of its keys.",
            fix="Make a credential", action="create_xks_credential", **common,
        )  # fmt: skip
    elif not store.young:  # type: ignore[attr-defined]
        yield Item(
            kind="xks_store.credential_old", severity=Severity.NOTICE,
            what=f"The XKS credential of {name} is more than a year old.", why="A stolen one would still be good.",
            fix="Rotate credential", action="rotate_xks_credential", **common,
        )  # fmt: skip
    if store.next_rotation_at is not None and store.next_rotation_at <= now - ROTATION_LATE_AFTER:
        yield Item(
            kind="xks_store.rotation_overdue", severity=Severity.WARNING,
            what=f"The XKS credential of {name} should have been rotated.",
            why="It is older than its schedule allows.", fix="Rotate credential", action="rotate_xks_credential",
            since=store.next_rotation_at, **common,
        )  # fmt: skip


def operation_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """Failed operations of late that no later one of the same kind made good, and that nobody has retried. One query."""
    later = Operation.objects.filter(
        target_id=OuterRef("target_id"), kind=OuterRef("kind"), created_at__gt=OuterRef("created_at")
    ).exclude(state=Operation.State.CANCELLED)
    rows = list(
        Operation.objects.filter(
            vault=vault, state=Operation.State.FAILED, finished_at__gte=now - FAILED_SHOWN_FOR
        )
        .filter(~Exists(later))
        .order_by(F("finished_at").desc())[: MOST_ROWS + 1]
    )
    for work in rows[:MOST_ROWS]:
        error = work.error or {}
        kind = KINDS.get(work.kind)
        yield Item(
            kind="operation.failed",
            severity=Severity.WARNING,
            what=f"{kind.label if kind else work.kind} failed: {work.target_name}.",
            why=" ".join(str(error[part]) for part in ("cause", "cure") if error.get(part))
            or "It did not say why.",
            fix="Show operation" if error.get("permanent") else "Retry",
            action="open_operation" if error.get("permanent") else "retry_operation",
            target_type="operation",
            target_id=str(work.pk),
            target_name=work.target_name,
            since=work.finished_at,
        )
    if len(rows) > MOST_ROWS:
        yield beyond(
            "operation", Severity.WARNING, "More operations have failed.", "open_operations", "operation"
        )


def vault_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """A vault that serves nothing, because it is disabled or blocked. No query."""
    if vault.serves:
        return
    disabled = vault.state == Vault.State.DISABLED
    yield Item(
        kind="vault.disabled" if disabled else "vault.blocked",
        severity=Severity.CRITICAL,
        what=f"Vault {vault.name} is {'disabled' if disabled else 'blocked'}.",
        why="Every use of its keys is refused.",
        fix="Ask an appliance admin to enable it" if disabled else "Unblock vault",
        action="open_vault" if disabled else "unblock_vault",
        target_type="vault",
        target_id=str(vault.pk),
        target_name=vault.name,
    )
