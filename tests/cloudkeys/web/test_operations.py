"""The operations' pages, tried by each of the cast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from cloudkeys.models import CloudKey, Operation
from cloudkeys.operations import start_operation
from tests.cast import WHO, Cast
from tests.cloudkeys import world
from tests.web import Browser, text_of
from vault.changes import change

SEEN = {"owner": 200, "colleague": 200, "auditor": 200, "outsider": 404, "appliance": 404, "anonymous": 302}
FAULT = {
    "code": "denied",
    "cause": "AWS refused kms:CreateKey.",
    "cure": "Allow it in the policy.",
    "permanent": True,
}


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    owner = cast.actor("owner")
    account = world.new_account(owner, cast.vault)
    return world.new_key(owner, world.new_key_set(owner, cast.vault, account, group=cast.group.pk).key_set)


def begun(cast: Cast, key: CloudKey, kind: str = "cloud_key.refresh", **columns: Any) -> Operation:
    actor = cast.actor("owner")
    with change(actor):
        row = start_operation(actor, kind, key)
    Operation.objects.filter(pk=row.pk).update(**columns)
    row.refresh_from_db()
    return row


def bulk(cast: Cast, key: CloudKey) -> Operation:
    gone = "3f1c0c1e-9a55-4a0e-8a53-1b51d24d2f10"
    return Operation.objects.create(
        vault=cast.vault,
        kind="cloud_keys.bulk",
        state="SUCCEEDED",
        target_type="vault",
        target_id=cast.vault.pk,
        target_name=cast.vault.name,
        input={"action": "block", "ids": [gone, str(key.pk)], "params": {}},
        result={
            "done": [{"row": 0, "id": gone}],
            "failed": [
                {"row": 1, "id": str(key.pk), "code": "conflict", "message": "It is busy.", "cure": "Wait."}
            ],
        },
        steps=[
            {
                "name": "items",
                "label": "Each key",
                "state": "DONE",
                "detail": "",
                "started_at": None,
                "ended_at": None,
            }
        ],
        step=1,
        finished_at=timezone.now(),
    )


def url(cast: Cast, name: str, *args: Any) -> str:
    return reverse(name, args=[cast.vault.pk, *args])


@pytest.mark.parametrize("who", WHO)
def test_who_sees_them(cast: Cast, key: CloudKey, who: str) -> None:
    row = begun(cast, key, state="FAILED", error=FAULT)
    browser = Browser(cast, who)
    for address in (
        url(cast, "operations"),
        url(cast, "operation", row.pk),
        url(cast, "operation-progress", row.pk),
    ):
        assert browser.get(address).status_code == SEEN[who], address
    expected = {**SEEN, "auditor": 403}
    for name in ("operation-retry", "operation-retry-refused"):
        assert browser.get(url(cast, name, row.pk)).status_code == expected[who]
    assert browser.get(url(cast, "operation-cancel", begun(cast, key).pk)).status_code == expected[who]


def test_an_operation_is_shown_in_its_own_vault_only(cast: Cast, key: CloudKey) -> None:
    row = begun(cast, key)
    cast.memberships["owner"].__class__.objects.create(
        vault=cast.other_vault, user=cast.users["owner"], role="VAULT_ADMIN"
    )
    owner = Browser(cast, "owner")
    assert owner.get(reverse("operation", args=[cast.other_vault.pk, row.pk])).status_code == 404


def test_the_list_filters_by_tab_and_refreshes_itself(cast: Cast, key: CloudKey) -> None:
    begun(cast, key, state="FAILED", error=FAULT)
    begun(cast, key, "cloud_key.rotate")
    owner = Browser(cast, "owner")
    whole = owner.get(url(cast, "operations"))
    assert b'data-live hx-get="/v/' in whole.content
    assert "Rotate the CloudKey" in text_of(whole)
    failed = text_of(owner.get(url(cast, "operations"), target="list", state="FAILED"))
    assert "AWS refused kms:CreateKey." in failed
    assert "Rotate the CloudKey payments-prod" not in failed
    under_way = owner.get(url(cast, "operations") + "?state=WAITING&state=RUNNING")
    assert "1 of 4: Make the new version" in text_of(under_way)
    assert b'aria-current="page">Under way' in under_way.content
    assert "What Keystead is doing" in text_of(owner.get(url(cast, "operations")))


def test_a_vault_without_work_says_what_will_stand_there(cast: Cast) -> None:
    assert "Nothing has been asked for yet" in text_of(Browser(cast, "auditor").get(url(cast, "operations")))


def test_the_queries_of_the_list_do_not_grow(cast: Cast, key: CloudKey) -> None:
    owner = Browser(cast, "owner")
    owner.get(url(cast, "operations"))
    counts = []
    for more in (3, 27):
        for _ in range(more):
            begun(cast, key, state="SUCCEEDED")
        with CaptureQueriesContext(connection) as asked:
            assert owner.get(url(cast, "operations")).status_code == 200
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_a_failed_one_tells_cause_and_cure_and_begins_again_once(cast: Cast, key: CloudKey) -> None:
    row = begun(cast, key, state="FAILED", error=FAULT, finished_at=timezone.now())
    owner = Browser(cast, "owner")
    shown = owner.get(url(cast, "operation", row.pk))
    assert "AWS refused kms:CreateKey. Allow it in the policy." in text_of(shown)
    assert b"hx-get" not in shown.content.split(b'id="operation-live"')[1].split(b">")[0]
    retry = url(cast, "operation-retry", row.pk)
    hidden = owner.hidden(retry)
    first = owner.send(retry, hidden)
    assert (first.status_code, first["Location"]) == (303, url(cast, "operation", row.pk))
    row.refresh_from_db()
    assert (row.state, row.error) == ("WAITING", None)
    assert owner.send(retry, hidden)["Location"] == url(cast, "operation", row.pk)
    assert owner.get(retry).status_code == 409


def test_one_that_waits_says_why_and_when_and_can_be_cancelled(cast: Cast, key: CloudKey) -> None:
    later = timezone.now() + timedelta(minutes=5)
    row = begun(cast, key, error={**FAULT, "permanent": False}, next_try_at=later, attempts=2)
    owner = Browser(cast, "owner")
    shown = owner.get(url(cast, "operation", row.pk))
    words = text_of(shown)
    assert "It is tried again by itself: in 5 minutes , try 3 of this step." in words
    assert b'hx-trigger="every 2s"' in shown.content
    part = owner.get(url(cast, "operation-progress", row.pk), target="operation-live")
    assert part.content.lstrip().startswith(b'<div id="operation-live"')
    assert owner.send(url(cast, "operation-cancel", row.pk)).status_code == 303
    row.refresh_from_db()
    assert row.cancel_requested
    assert "Being cancelled" in text_of(owner.get(url(cast, "operation", row.pk)))


def test_the_auditor_sees_the_button_with_its_reason(cast: Cast, key: CloudKey) -> None:
    row = begun(cast, key, state="FAILED", error=FAULT)
    auditor = Browser(cast, "auditor")
    shown = auditor.get(url(cast, "operation", row.pk)).content.decode()
    assert 'aria-disabled="true"' in shown
    assert "does not allow operations.manage" in shown
    token = auditor.hidden("/accounts/profile/")
    assert auditor.send(url(cast, "operation-retry", row.pk), token).status_code == 403
    row.refresh_from_db()
    assert row.state == "FAILED"


def test_each_key_of_a_bulk_operation_has_its_result_and_the_refused_go_again(
    cast: Cast, key: CloudKey
) -> None:
    row = bulk(cast, key)
    owner = Browser(cast, "owner")
    words = text_of(owner.get(url(cast, "operation", row.pk)))
    assert "Block keys (2)" in words
    assert "payments-prod Refused It is busy. Wait." in words
    again = owner.send(url(cast, "operation-retry-refused", row.pk))
    assert again.status_code == 303
    begun_again = Operation.objects.get(kind="cloud_keys.bulk", state="WAITING")
    assert again["Location"] == url(cast, "operation", begun_again.pk)
    assert begun_again.input["ids"] == [str(key.pk)]
    assert begun_again.requested_by == cast.users["owner"]
    Operation.objects.filter(pk=row.pk).update(result={"done": [], "failed": []})
    assert owner.send(url(cast, "operation-retry-refused", row.pk)).status_code == 409


def test_thousands_of_results_come_by_pages_in_as_many_queries(cast: Cast, key: CloudKey) -> None:
    row = bulk(cast, key)
    owner = Browser(cast, "owner")
    owner.get(url(cast, "operation", row.pk))
    with CaptureQueriesContext(connection) as few:
        owner.get(url(cast, "operation", row.pk))
    many = [{"row": i, "id": str(key.pk), "message": f"no {i}", "cure": ""} for i in range(5000)]
    Operation.objects.filter(pk=row.pk).update(result={"done": [], "failed": many})
    with CaptureQueriesContext(connection) as more:
        first = text_of(owner.get(url(cast, "operation", row.pk)))
    assert len(few) == len(more)
    assert "1\u2013100 of 5,000" in first
    last = text_of(owner.get(url(cast, "operation", row.pk), **{"from": "4999"}))
    assert "4,901\u20135,000 of 5,000" in last
    assert "no 4999" in last
