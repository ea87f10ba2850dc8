"""A cloud key with what the data plane recorded: Overview, Usage, what closes it, and the proof."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from cloudkeys.models import CloudKey
from cloudkeys.services import lifecycle
from tests.cast import WHO, Cast
from tests.cloudkeys.matrix import owned_key
from tests.cloudkeys.world import pretend_linked
from tests.web import Browser, text_of
from vault.models import AuditEvent, Node, WorkerProcess
from xks.models import UsageHour

CLOSE = ("cloud-key-disable", "cloud-key-block", "cloud-key-schedule-deletion", "cloud-key-destroy")


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    return owned_key(cast)


def url(name: str, key: CloudKey) -> str:
    return reverse(name, kwargs={"vault_id": key.vault_id, "key_id": key.pk})


def use(
    key: CloudKey, ago: timedelta, service: str = "s3", principal: str = "role/app", **changes: Any
) -> None:
    at = timezone.now() - ago
    UsageHour.objects.create(
        hour=at.replace(minute=0, second=0, microsecond=0),
        store_id=str(key.store_id),
        key_id=str(key.pk),
        principal_arn=f"arn:aws:iam::111122223333:{principal}",
        kms_via_service=f"{service}.eu-west-1.amazonaws.com",
        **{"operation": "decrypt", "outcome": "OK", "count": 5, "last_at": at, **changes},
    )


def worker(applied: int, name: str = "xks-a") -> WorkerProcess:
    now = timezone.now()
    node, _ = Node.objects.get_or_create(name=name, defaults={"last_seen_at": now, "started_at": now})
    return WorkerProcess.objects.create(
        node=node,
        pid=4242,
        instance=name,
        applied_generation=applied,
        state="SERVING",
        last_seen_at=timezone.now(),
    )


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", ["cloud-key", "cloud-key-usage", "cloud-key-proof"])
def test_who_sees_it(cast: Cast, key: CloudKey, who: str, name: str) -> None:
    expected = {"outsider": 404, "appliance": 404, "anonymous": 302}
    assert Browser(cast, who).get(url(name, key)).status_code == expected.get(who, 200)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", CLOSE)
def test_who_may_close_it(cast: Cast, key: CloudKey, who: str, name: str) -> None:
    expected = {"auditor": 403, "outsider": 404, "appliance": 404, "anonymous": 302}
    assert Browser(cast, who).get(url(name, key)).status_code == expected.get(who, 200)


@pytest.mark.parametrize("who", ["auditor", "outsider"])
def test_the_server_refuses_whatever_is_shown(cast: Cast, key: CloudKey, who: str) -> None:
    client = Browser(cast, who)
    token = client.hidden("/accounts/profile/")
    for name in CLOSE:
        answer = client.send(url(name, key), token, reason="x", typed_name=key.name, window_days=7)
        assert answer.status_code in (403, 404)
    key.refresh_from_db()
    assert (key.state, key.blocked) == ("ENABLED", False)


def test_disable_shows_who_would_notice_asks_why_and_keeps_the_confirmation(
    cast: Cast, key: CloudKey
) -> None:
    use(key, timedelta(hours=2))
    use(key, timedelta(days=20), "rds", "role/db")
    worker(10**9)
    client = Browser(cast, "owner")
    asked = text_of(client.get(url("cloud-key-disable", key), target="dialog"))
    assert "From now on every new use of this key is refused." in asked
    assert "(from the journal: RDS, S3) go on until they next ask" in asked
    assert "30 days 10 2 RDS (1), S3 (1)" in asked
    without = client.send(url("cloud-key-disable", key), reason="")
    assert without.status_code == 422
    assert client.send(url("cloud-key-disable", key), reason="suspected breach").status_code == 303
    key.refresh_from_db()
    assert (key.state, key.state_reason) == ("DISABLED", "suspected breach")
    event = AuditEvent.objects.get(action="vault:data_plane:confirm")
    assert (event.detail["confirmed"], event.detail["counted"]) == (1, 1)
    shown = text_of(client.get(url("cloud-key", key)))
    assert "Confirmed by 1 of 1 workers in" in shown
    assert "no node answers for this key any more" in shown
    assert "“suspected breach”" in shown
    assert "Undo: enable" in shown


def test_who_has_not_confirmed_is_named_with_the_bound_and_looked_at_again(
    cast: Cast, key: CloudKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(10**9)
    late = worker(1, "xks-b")
    monkeypatch.setattr("vault.services.confirmations.wait_for_generation.__defaults__", (0.0,))
    client = Browser(cast, "owner")
    assert client.send(url("cloud-key-disable", key), reason="x").status_code == 303
    page = client.get(url("cloud-key-now", key))
    told = text_of(page)
    assert "1 of 2 workers have confirmed." in told
    assert "xks-b, process 4242: has applied 1" in told
    assert "(the bound is" in told
    assert 'hx-trigger="every 1s"' in page.content.decode()
    WorkerProcess.objects.filter(pk=late.pk).update(applied_generation=10**9)
    after = text_of(client.get(url("cloud-key-now", key)))
    assert "Confirmed by 2 of 2 workers: no node answers" in after


def test_a_deletion_needs_the_name_and_shows_the_evidence(cast: Cast, key: CloudKey) -> None:
    use(key, timedelta(days=2))
    client = Browser(cast, "owner")
    there = url("cloud-key-schedule-deletion", key)
    asked = text_of(client.get(there))
    assert "Recorded use speaks against deleting it. Last used 2 days ago" in asked
    assert "stays unreadable for good" in asked
    wrong = client.send(there, reason="over", window_days=7, typed_name="payments")
    assert wrong.status_code == 422
    assert "This is not the name. Type payments-prod." in text_of(wrong)
    assert client.send(there, reason="over", window_days=3, typed_name=key.name).status_code == 422
    assert client.send(there, reason="over", window_days=7, typed_name=key.name).status_code == 303
    key.refresh_from_db()
    assert key.state == "PENDING_DELETION"
    shown = text_of(client.get(url("cloud-key", key)))
    assert "Cancel deletion" in shown
    assert "Destroy now" not in shown


def test_destroying_asks_that_no_kms_key_is_left(cast: Cast, key: CloudKey) -> None:
    lifecycle.schedule_deletion(cast.actor("owner"), key.pk, confirm_name=key.name, reason="over")
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(minutes=1))
    client = Browser(cast, "owner")
    assert "Destroy now" in text_of(client.get(url("cloud-key", key)))
    there = url("cloud-key-destroy", key)
    unsaid = client.send(there, reason="over", typed_name=key.name)
    assert unsaid.status_code == 422
    assert "Say that no KMS key in AWS refers to this key any more." in text_of(unsaid)
    assert client.send(there, reason="over", typed_name=key.name, pointer_is_gone="on").status_code == 303
    key.refresh_from_db()
    assert key.state == "DESTROYED"
    assert "Its material is erased" in text_of(client.get(url("cloud-key", key)))


def test_block_and_unblock(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    assert client.send(url("cloud-key-block", key), reason="incident 7").status_code == 303
    assert "Every use of this key is refused: it is blocked." in text_of(client.get(url("cloud-key", key)))
    assert client.send(url("cloud-key-unblock", key), reason="over").status_code == 303
    key.refresh_from_db()
    assert not key.blocked


def test_the_overview_of_a_linked_key(cast: Cast, key: CloudKey) -> None:
    pretend_linked(key)
    said = {"state": "Disabled", "external_key_id": key.external_key_id, "aliases": [key.alias]}
    CloudKey.objects.filter(pk=key.pk).update(cloud_state=said, cloud_state_at=timezone.now())
    use(key, timedelta(hours=1))
    page = Browser(cast, "auditor").get(url("cloud-key", key))
    shown = text_of(page)
    assert "Enabled Disabled Differs" in shown
    assert "Uses by day and service, last 30 days" in page.content.decode()
    console = "https://eu-west-1.console.aws.amazon.com/kms/home?region=eu-west-1#/kms/keys/12ab"
    assert console in page.content.decode()
    assert "Created" in shown
    assert "Refresh" not in shown  # an auditor asks nobody


def test_an_unlinked_key_says_what_is_left_to_do(cast: Cast, key: CloudKey) -> None:
    shown = text_of(Browser(cast, "owner").get(url("cloud-key", key)))
    assert "Left to do in AWS" in shown
    assert "aws kms create-key --region eu-west-1 --origin EXTERNAL_KEY_STORE" in shown


def test_usage_by_service_principal_and_window(cast: Cast, key: CloudKey) -> None:
    use(key, timedelta(hours=2), count=7)
    use(key, timedelta(hours=2), outcome="InvalidStateException", count=3)
    use(key, timedelta(days=20), "dynamodb", "role/orders", count=11)
    client = Browser(cast, "owner")
    shown = text_of(client.get(url("cloud-key-usage", key)))
    assert "18 uses answered in 30 days, 3 refused" in shown
    assert "DynamoDB" in shown
    assert "role/orders" in shown
    week = text_of(client.get(url("cloud-key-usage", key), days="7"))
    assert "7 uses answered in 7 days" in week
    assert client.get(url("cloud-key-usage", key), days="99999999999999").status_code == 200


def test_usage_says_what_to_do_while_there_is_none(cast: Cast, key: CloudKey) -> None:
    shown = text_of(Browser(cast, "owner").get(url("cloud-key-usage", key)))
    assert "Link the key first" in shown
    assert "Nobody: no use in the last 90 days is on record." in shown


def test_the_proof_of_a_key_that_was_never_closed_and_of_one_that_is(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "auditor")
    assert "has never been disabled" in text_of(client.get(url("cloud-key-proof", key)))
    Browser(cast, "owner").send(url("cloud-key-disable", key), reason="x")
    shown = text_of(client.get(url("cloud-key-proof", key)))
    assert "Proven: no use was answered since it was closed." in shown
    assert f"keystead audit prove-disable {key.pk}" in shown


@pytest.mark.parametrize("name", ["cloud-key", "cloud-key-usage", "cloud-key-disable"])
def test_the_number_of_queries_stays(cast: Cast, key: CloudKey, name: str) -> None:
    client = Browser(cast, "owner")
    for number in range(3):
        use(key, timedelta(hours=number), f"s{number}", f"role/r{number}")
    client.get(url(name, key))
    with CaptureQueriesContext(connection) as few:
        client.get(url(name, key))
    for number in range(3, 30):
        use(key, timedelta(hours=number), f"s{number}", f"role/r{number}")
    with CaptureQueriesContext(connection) as many:
        client.get(url(name, key))
    assert len(many) == len(few)
