"""What is done by the clock: credentials that are due, what AWS says of stores and keys, whether accounts still work.

Each function takes rows by a conditional UPDATE of the time when they were last looked at, so that any number of beats
and workers may run it at once, and each row is looked at by one of them.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db.models import F, Q
from django.utils import timezone

from cloudkeys.flows.provisioning import read_pointer
from cloudkeys.flows.targets import account_of_key, save_gone, save_pointer
from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, Operation, XksKeyStore
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.requests import start_operation
from cloudkeys.providers import open_provider, probe_account
from cloudkeys.providers.base import ProviderError
from cloudkeys.services import credential_rotation
from cloudkeys.services.accounts import record_account_health
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict
from vault.models import Vault

log = logging.getLogger(__name__)

LINKS_EVERY = timedelta(minutes=5)
POINTERS_EVERY = timedelta(hours=6)
HEALTH_EVERY = timedelta(minutes=15)
REFRESHES_KEPT = timedelta(days=1)
# A rotation that failed waits for a person; only after so long is it begun again by itself.
FAILED_ROTATION_PAUSE = timedelta(hours=24)
_LIVE = {"vault__state": Vault.State.ENABLED}


def rotate_due_credentials(actor: Actor, limit: int = 20) -> int:
    """Begin the rotation of access keys whose date has come. Returns how many were begun."""
    now = timezone.now()
    failed = Operation.objects.filter(
        kind="csp_account.rotate_credential",
        state=Operation.State.FAILED,
        finished_at__gt=now - FAILED_ROTATION_PAUSE,
    )
    due = CspAccount.objects.filter(
        next_rotation_at__lte=now, rotation_state=CspAccount.Rotation.IDLE, **_LIVE
    ).exclude(pk__in=failed.values("target_id"))
    count = 0
    for account_id in list(due.order_by("next_rotation_at").values_list("pk", flat=True)[:limit]):
        try:
            with change(actor) as tx:
                account = CspAccount.objects.select_for_update().get(pk=account_id)
                if account.next_rotation_at is None or account.next_rotation_at > now:
                    continue
                operation = start_operation(actor, "csp_account.rotate_credential", account)
                tx.audit(
                    Action.CSP_CREDENTIAL_ROTATE,
                    account,
                    detail={"operation": str(operation.pk), "why": "schedule"},
                )
                count += 1
        except Conflict:
            # One is under way already.
            continue
    return count


def rotate_due_xks_credentials(actor: Actor, limit: int = 20) -> int:
    """Begin the rotation of XKS credentials whose date has come. Returns how many were begun."""
    now = timezone.now()
    failed = Operation.objects.filter(
        kind=credential_rotation.KIND,
        state__in=(Operation.State.FAILED, Operation.State.CANCELLED),
        finished_at__gt=now - FAILED_ROTATION_PAUSE,
    )
    busy = Operation.objects.filter(kind=credential_rotation.KIND, state__in=Operation.UNFINISHED)
    due = XksKeyStore.objects.filter(next_rotation_at__lte=now, **_LIVE)
    due = due.exclude(pk__in=failed.values("target_id")).exclude(pk__in=busy.values("target_id"))
    count = 0
    for store_id in list(due.order_by("next_rotation_at").values_list("pk", flat=True)[:limit]):
        try:
            with change(actor) as tx:
                store = XksKeyStore.objects.select_for_update().get(pk=store_id)
                if store.next_rotation_at is None or store.next_rotation_at > now:
                    continue
                credential_rotation.begin_rotation(actor, tx, store, silence_s=None, why="schedule")
                count += 1
        except Conflict:
            # One is under way already.
            continue
    return count


def refresh_due_links(actor: Actor, limit: int = 50) -> int:
    """Ask AWS about linked key stores, each every few minutes. Returns how many questions were begun."""
    now = timezone.now()
    due = AwsStoreLink.objects.filter(linked=True, **_LIVE).exclude(custom_key_store_id="")
    due = due.exclude(state=AwsStoreLink.State.GONE).filter(
        Q(cloud_state_at=None) | Q(cloud_state_at__lt=now - LINKS_EVERY)
    )
    busy = Operation.objects.filter(state__in=Operation.UNFINISHED).values("target_id")
    count = 0
    for link in list(due.exclude(pk__in=busy).order_by(F("cloud_state_at").asc(nulls_first=True))[:limit]):
        with change(actor):
            taken = AwsStoreLink.objects.filter(pk=link.pk, cloud_state_at=link.cloud_state_at)
            if taken.update(cloud_state_at=now):
                start_operation(actor, "store_link.refresh", link)
                count += 1
    return count


def forget_old_refreshes(limit: int = 1000) -> int:
    """Delete what the clock's own looks at AWS have left after a day: they would drown the work of people."""
    old = Operation.objects.filter(
        kind__endswith=".refresh",
        state=Operation.State.SUCCEEDED,
        requested_by=None,
        finished_at__lt=timezone.now() - REFRESHES_KEPT,
    )
    return Operation.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:limit])).delete()[0]


def refresh_due_pointers(actor: Actor, limit: int = 100) -> int:
    """Ask AWS about linked keys, each every few hours; without an Operation, since there may be 100,000 of them.

    Returns how many were looked at. An account that does not answer is left for the next time.
    """
    now = timezone.now()
    due = CloudKey.objects.filter(pointer_state=CloudKey.PointerState.LINKED, **_LIVE).filter(
        Q(cloud_state_at=None) | Q(cloud_state_at__lt=now - POINTERS_EVERY)
    )
    busy = Operation.objects.filter(state__in=Operation.UNFINISHED).values("target_id")
    due = due.exclude(pk__in=busy).select_related("csp_account", "key_set__csp_account", "vault")
    silent: set[object] = set()
    count = 0
    for key in list(due.order_by(F("cloud_state_at").asc(nulls_first=True))[:limit]):
        taken = CloudKey.objects.filter(pk=key.pk, cloud_state_at=key.cloud_state_at)
        if key.csp_account_id in silent or not taken.update(cloud_state_at=now):
            continue
        try:
            _refresh_pointer(actor, key)
            count += 1
        except (ProviderError, OperationError) as error:
            silent.add(key.csp_account_id)
            log.info("pointers of account %s: not refreshed: %s", key.csp_account_id, error.code)
    return count


def _refresh_pointer(actor: Actor, key: CloudKey) -> None:
    try:
        pointer = read_pointer(open_provider(account_of_key(key)), key, key.kms_key_id)
    except OperationError as error:
        if error.code != "pointer_missing":
            raise
        pointer = None
    with change(actor) as tx:
        row = CloudKey.objects.select_for_update().get(pk=key.pk)
        if row.pointer_state != CloudKey.PointerState.LINKED or row.kms_key_id != key.kms_key_id:
            return
        if pointer is None:
            save_gone(tx, row)
        else:
            save_pointer(tx, row, CloudKey.PointerState.LINKED, pointer)


def look_at_due_accounts(actor: Actor, limit: int = 20) -> int:
    """Test accounts, each every quarter of an hour, and keep the outcome as their health. Returns how many."""
    now = timezone.now()
    due = CspAccount.objects.filter(**_LIVE).filter(
        Q(health_checked_at=None) | Q(health_checked_at__lt=now - HEALTH_EVERY)
    )
    count = 0
    for account in list(due.order_by(F("health_checked_at").asc(nulls_first=True))[:limit]):
        taken = CspAccount.objects.filter(pk=account.pk, health_checked_at=account.health_checked_at)
        if not taken.update(health_checked_at=now):
            continue
        try:
            outcome = probe_account(account)
        except ProviderError as error:
            record_account_health(actor, account.pk, error)
        else:
            record_account_health(actor, account.pk, outcome)
        count += 1
    return count
