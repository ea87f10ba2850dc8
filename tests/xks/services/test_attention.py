"""What needs attention: each kind of item, its fix, who sees it, and a number of queries that does not grow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, Operation, XksCredential, XksKeyStore
from tests.cast import Cast
from tests.cloudkeys.api.test_lists import many_keys
from tests.cloudkeys.matrix import owned_account
from tests.cloudkeys.world import new_key, new_key_set, store_of
from vault.attention import MOST_ROWS, Item, Severity
from vault.errors import NotFound, PermissionDenied
from vault.models import Node, UnusedKeys, Vault
from xks.models import AuditIntegrity, JournalChain, UsageHour
from xks.services.attention import attention_of_installation, attention_of_vault, count_unused_keys

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def owned_key_set(cast: Cast) -> KeySet:
    """The first key set of the vault."""
    found = KeySet.objects.filter(vault=cast.vault, name="pay-hyok").first()
    return found or new_key_set(cast.actor("owner"), cast.vault, owned_account(cast)).key_set


def owned_key(cast: Cast) -> CloudKey:
    """One more key of it."""
    return new_key(cast.actor("owner"), owned_key_set(cast), f"key-of-{uuid4().hex[:8]}")


def items(cast: Cast) -> dict[str, Item]:
    """The owner's items by kind."""
    return {item.kind: item for item in attention_of_vault(cast.actor("owner"), cast.vault)}


def serving_node() -> Node:
    """A node that was heard of just now."""
    now = timezone.now()
    return Node.objects.create(name="xks-a", started_at=now, last_seen_at=now)


def test_nothing_needs_attention_in_a_healthy_vault(cast: Cast) -> None:
    serving_node()
    owned_key(cast)
    assert items(cast) == {}


def link(cast: Cast, **more: Any) -> AwsStoreLink:
    """A store link in AWS."""
    values: dict[str, Any] = {
        "region": "eu-west-1",
        "name": "pay",
        "endpoint": "https://xks.example.com",
        **more,
    }
    return AwsStoreLink.objects.create(vault=cast.vault, store=store_of(owned_key_set(cast)), **values)


def key(cast: Cast, **columns: Any) -> CloudKey:
    """A key whose row says so."""
    made = owned_key(cast)
    CloudKey.objects.filter(pk=made.pk).update(**columns)
    return made


def account(cast: Cast, **columns: Any) -> CspAccount:
    """An account whose row says so."""
    made = owned_account(cast)
    CspAccount.objects.filter(pk=made.pk).update(**columns)
    return made


def operation(cast: Cast, **more: Any) -> Operation:
    """Failed work on a key."""
    made = owned_key(cast)
    values: dict[str, Any] = {
        "kind": "cloud_key.disable_pointer", "state": "FAILED", "target_type": "cloudkey", "target_id": made.pk,
        "target_name": made.name, "finished_at": timezone.now(),
        "error": {"code": "unreachable", "cause": "AWS did not answer.", "cure": "Try again.", "permanent": False},
        **more,
    }  # fmt: skip
    return Operation.objects.create(vault=cast.vault, **values)


def store(cast: Cast, **columns: Any) -> XksKeyStore:
    """A store whose row says so."""
    made = store_of(owned_key_set(cast))
    XksKeyStore.objects.filter(pk=made.pk).update(**columns)
    return made


def credentials(cast: Cast, **columns: Any) -> XksKeyStore:
    """A store whose credentials' rows say so."""
    made = store_of(owned_key_set(cast))
    XksCredential.objects.filter(store=made).update(**columns)
    return made


NOW = timezone.now()
CASES: list[tuple[str, Severity, str, Callable[[Cast], Any]]] = [
    ("key.pointer_failed", Severity.CRITICAL, "retry_pointer", lambda cast: key(cast, pointer_state="FAILED")),
    ("key.pointer_gone", Severity.CRITICAL, "open_keys", lambda cast: key(cast, pointer_state="GONE")),
    (
        "key.deletion_near", Severity.WARNING, "cancel_deletion",
        lambda cast: key(cast, state="PENDING_DELETION", delete_after=NOW + 2 * DAY),
    ),
    ("key.expiry_near", Severity.WARNING, "open_keys", lambda cast: key(cast, expires_at=NOW + 3 * DAY)),
    ("key.rotation_overdue", Severity.WARNING, "rotate_keys", lambda cast: key(cast, next_rotation_at=NOW - DAY)),
    (
        "key.schedule_paused", Severity.NOTICE, "open_keys",
        lambda cast: key(cast, state="DISABLED", next_rotation_at=NOW - DAY),
    ),
    ("key.blocked", Severity.NOTICE, "open_keys", lambda cast: key(cast, blocked=True)),
    (
        "account.failing", Severity.CRITICAL, "test_account",
        lambda cast: account(cast, health="FAILING", health_detail={"error": {"cause": "Refused."}, "checks": []}),
    ),
    (
        "account.degraded", Severity.WARNING, "open_account_policy",
        lambda cast: account(
            cast, health="DEGRADED", health_detail={"checks": [{"action": "kms:CreateKey", "result": "denied"}]}
        ),
    ),
    ("account.rotation_overdue", Severity.WARNING, "rotate_credential", lambda cast: account(cast, next_rotation_at=NOW - DAY)),
    ("account.credential_old", Severity.NOTICE, "rotate_credential", lambda cast: account(cast, credential_created_at=NOW - 400 * DAY)),
    ("account.old_key_left", Severity.WARNING, "open_operations", lambda cast: account(cast, retire_after=NOW - 4 * DAY)),
    ("store.failed", Severity.CRITICAL, "connect_store", lambda cast: link(cast, state="FAILED", connection_error_code="X")),
    ("store.gone", Severity.CRITICAL, "open_store", lambda cast: link(cast, state="GONE")),
    ("store.disconnected", Severity.CRITICAL, "connect_store", lambda cast: link(cast, state="DISCONNECTED", linked=True)),
    ("xks_store.blocked", Severity.WARNING, "unblock_store", lambda cast: store(cast, blocked=True, blocked_reason="Incident 7")),
    ("xks_store.rotation_overdue", Severity.WARNING, "rotate_xks_credential", lambda cast: store(cast, next_rotation_at=NOW - DAY)),
    ("xks_store.no_credential", Severity.CRITICAL, "create_xks_credential", lambda cast: credentials(cast, state="RETIRED")),
    ("xks_store.credential_old", Severity.NOTICE, "rotate_xks_credential", lambda cast: credentials(cast, created_at=NOW - 400 * DAY)),
    ("operation.failed", Severity.WARNING, "retry_operation", operation),
    ("vault.blocked", Severity.CRITICAL, "unblock_vault", lambda cast: Vault.objects.filter(pk=cast.vault.pk).update(blocked=True)),
    ("vault.disabled", Severity.CRITICAL, "open_vault", lambda cast: Vault.objects.filter(pk=cast.vault.pk).update(state="DISABLED")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "severity", "action", "make"), CASES, ids=[case[0] for case in CASES])
def test_each_kind_of_trouble_is_one_item_with_its_fix(
    cast: Cast, kind: str, severity: Severity, action: str, make: Callable[[Cast], Any]
) -> None:
    serving_node()
    make(cast)
    cast.vault.refresh_from_db()
    found = items(cast)
    assert list(found) == [kind]
    item = found[kind]
    assert (item.severity, item.action) == (severity, action)
    assert item.target_id
    assert item.what.endswith(".")
    assert item.why
    assert item.fix
    # Nobody of another vault sees it.
    assert attention_of_vault(cast.actor("outsider"), cast.other_vault) == []


def test_cause_and_cure_of_a_failed_store_are_told(cast: Cast) -> None:
    serving_node()
    link(cast, state="FAILED", connection_error_code="XKS_PROXY_TIMED_OUT")
    assert "250 ms" in items(cast)["store.failed"].why


def test_a_store_on_which_work_is_under_way_is_left_alone(cast: Cast) -> None:
    serving_node()
    failed = link(cast, state="FAILED")
    operation(cast, kind="store_link.connect", state="RUNNING", target_id=failed.pk, finished_at=None)
    assert items(cast) == {}


def test_failed_work_that_a_later_try_made_good_is_over(cast: Cast) -> None:
    serving_node()
    failed = operation(cast)
    assert list(items(cast)) == ["operation.failed"]
    Operation.objects.create(
        vault=cast.vault,
        kind=failed.kind,
        state="SUCCEEDED",
        target_type="cloudkey",
        target_id=failed.target_id,
    )
    assert items(cast) == {}


def test_permanently_failed_work_is_shown_and_not_retried(cast: Cast) -> None:
    serving_node()
    operation(cast, error={"cause": "No.", "permanent": True})
    assert items(cast)["operation.failed"].action == "open_operation"


def test_many_keys_in_trouble_are_one_item_with_examples_and_the_filter_that_lists_them(cast: Cast) -> None:
    serving_node()
    key_set = owned_key_set(cast)
    many_keys(key_set, 40)
    CloudKey.objects.filter(key_set=key_set, kind="USER").update(
        pointer_state="FAILED", next_rotation_at=None, expires_at=None
    )
    item = items(cast)["key.pointer_failed"]
    assert (item.count, len(item.examples), item.target_id) == (40, 5, "")
    assert item.what == "40 CloudKeys could not be made in AWS KMS."
    listed = cast.api("owner").get("/api/v1/cloud-keys?" + item.list_query, limit="200")
    assert len(listed.json()["items"]) == 40


@pytest.mark.parametrize(
    "kind", ["key.rotation_overdue", "key.schedule_paused", "key.expiry_near", "key.blocked"]
)
def test_the_list_of_an_item_shows_its_keys_and_no_others(cast: Cast, kind: str) -> None:
    serving_node()
    make = next(case[3] for case in CASES if case[0] == kind)
    wanted = make(cast)
    owned_key(cast)
    query = dict(
        part.split("=")
        for part in items(cast)[kind].list_query.replace("%3A", ":").replace("%2B", "+").split("&")
    )
    listed = cast.api("owner").get("/api/v1/cloud-keys", **query)
    assert [row["id"] for row in listed.json()["items"]] == [str(wanted.pk)]


def test_rows_beyond_the_first_are_counted_in_one_item(cast: Cast) -> None:
    serving_node()
    for _ in range(MOST_ROWS + 2):
        operation(cast)
    found = attention_of_vault(cast.actor("owner"), cast.vault)
    assert [item.kind for item in found] == ["operation.failed"] * MOST_ROWS + ["operation.more"]


def test_worst_comes_first(cast: Cast) -> None:
    serving_node()
    operation(cast)
    key(cast, blocked=True)
    key(cast, pointer_state="GONE")
    found = attention_of_vault(cast.actor("owner"), cast.vault)
    assert [item.kind for item in found] == ["key.pointer_gone", "operation.failed", "key.blocked"]


def test_queries_do_not_grow_with_keys_accounts_stores_or_operations(cast: Cast) -> None:
    serving_node()

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            attention_of_vault(cast.actor("owner"), cast.vault)
        return len(captured)

    def trouble() -> None:
        key_set = new_key_set(cast.actor("owner"), cast.vault, None, name=uuid4().hex).key_set
        many_keys(key_set, 40)
        rows = CloudKey.objects.filter(key_set=key_set, kind="USER")
        rows.filter(name__lt="key-00020").update(pointer_state="FAILED", next_rotation_at=NOW - DAY)
        rows.filter(name__gte="key-00020").update(blocked=True, expires_at=NOW + DAY)
        account(cast, health="FAILING")
        operation(cast)

    trouble()
    before = queries()
    for _ in range(3):
        trouble()
    assert queries() == before <= 30


class TestNodes:
    """The data plane's own items."""

    def test_late_then_stale_then_nobody_serves(self, cast: Cast) -> None:
        node = serving_node()
        other = Node.objects.create(name="xks-b", started_at=NOW, last_seen_at=timezone.now())
        Node.objects.filter(pk=node.pk).update(
            last_seen_at=timezone.now() - timedelta(seconds=40), max_staleness_s=60
        )
        assert list(items(cast)) == ["node.late"]
        Node.objects.filter(pk=node.pk).update(last_seen_at=timezone.now() - timedelta(seconds=90))
        assert list(items(cast)) == ["node.stale"]
        Node.objects.filter(pk=other.pk).update(last_seen_at=timezone.now() - timedelta(hours=3))
        found = attention_of_vault(cast.actor("owner"), cast.vault)
        assert [item.kind for item in found] == ["data_plane.down", "node.stale", "node.stale"]
        assert "3 h" in found[2].what

    def test_a_node_that_signed_off_or_is_long_gone_needs_nobody(self, cast: Cast) -> None:
        serving_node()
        Node.objects.create(name="old", started_at=NOW, last_seen_at=NOW - 30 * DAY)
        Node.objects.create(name="off", started_at=NOW, last_seen_at=NOW - DAY, deregistered_at=NOW)
        assert items(cast) == {}

    def test_alarms_of_a_node_are_items(self, cast: Cast) -> None:
        node = serving_node()
        Node.objects.filter(pk=node.pk).update(
            alarms=[{"code": "ROLLED_BACK", "since": NOW.isoformat(), "detail": "Found 3, holds 5."}]
        )
        item = items(cast)["node.alarm.rolled_back"]
        assert (item.severity, item.why, item.since) == (Severity.CRITICAL, "Found 3, holds 5.", NOW)


class TestUnused:
    """Keys that nobody uses are counted by the clock."""

    def use(self, made: CloudKey, days_ago: int) -> None:
        at = timezone.now() - days_ago * DAY
        UsageHour.objects.create(
            hour=at,
            store_id=str(made.store_id),
            key_id=str(made.pk),
            operation="decrypt",
            outcome="OK",
            count=1,
            last_at=at,
        )

    def test_counted_only_with_ninety_days_on_record(self, cast: Cast) -> None:
        serving_node()
        old, used, young = owned_key(cast), owned_key(cast), owned_key(cast)
        CloudKey.objects.filter(pk__in=[old.pk, used.pk]).update(created_at=NOW - 200 * DAY)
        self.use(old, 100)
        self.use(used, 3)
        assert young.created_at > NOW - DAY
        count_unused_keys(cast.actor("owner"))
        assert items(cast) == {}
        chain = JournalChain.objects.create(node_name="xks-a", process="1")
        JournalChain.objects.filter(pk=chain.pk).update(started_at=NOW - 120 * DAY)
        UnusedKeys.objects.update(counted_at=NOW - DAY)
        assert count_unused_keys(cast.actor("owner")) == 2
        item = items(cast)["key.unused"]
        assert (item.count, item.target_id, item.severity) == (1, str(old.pk), Severity.NOTICE)

    def test_not_counted_again_before_its_time(self, cast: Cast) -> None:
        assert count_unused_keys(cast.actor("owner")) == 2
        assert count_unused_keys(cast.actor("owner")) == 0


class TestWhoSees:
    """Members see their vault's, appliance admins the installation's."""

    def test_auditor_may_stranger_and_appliance_admin_may_not(self, cast: Cast) -> None:
        serving_node()
        assert attention_of_vault(cast.actor("auditor"), cast.vault) == []
        for who in ("outsider", "appliance"):
            with pytest.raises(NotFound):
                attention_of_vault(cast.actor(who), cast.vault)

    def test_installation(self, cast: Cast) -> None:
        with pytest.raises(PermissionDenied):
            attention_of_installation(cast.actor("owner"))
        assert attention_of_installation(cast.actor("appliance")) == []
        AuditIntegrity.objects.create(checked_at=NOW, holds=False, findings=["Link 7 does not follow."])
        (item,) = attention_of_installation(cast.actor("appliance"))
        assert (item.kind, item.why) == ("record.broken", "Link 7 does not follow.")
        AuditIntegrity.objects.update(holds=True, checked_at=NOW - 3 * DAY)
        (item,) = attention_of_installation(cast.actor("appliance"))
        assert item.kind == "record.unverified"


def test_an_id_that_no_row_has_is_nobodys(cast: Cast) -> None:
    with pytest.raises(NotFound):
        attention_of_vault(cast.actor("owner"), Vault(pk=uuid4(), name="Nowhere"))
