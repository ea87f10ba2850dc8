"""A cloud key's pages that need nothing of the data plane's records, tried by each of the cast."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from cloudkeys.models import CloudKey, Operation
from cloudkeys.providers.base import Principal
from cloudkeys.services import cloud_keys, lifecycle
from tests.cast import WHO, Cast
from tests.cloudkeys.matrix import owned_key
from tests.cloudkeys.world import ADA, APP, pretend_linked
from tests.web import Browser, text_of
from vault.models import AuditEvent

TABS = ("cloud-key-access", "cloud-key-versions", "cloud-key-schedule", "cloud-key-activity")
FORMS = (
    "cloud-key-edit",
    "cloud-key-access-edit",
    "cloud-key-schedule-edit",
    "cloud-key-link",
    "cloud-key-rotate",
)


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    return owned_key(cast)


def url(name: str, key: CloudKey) -> str:
    return reverse(name, kwargs={"vault_id": key.vault_id, "key_id": key.pk})


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", [*TABS, "cloud-key-now"])
def test_who_sees_a_key(cast: Cast, key: CloudKey, who: str, name: str) -> None:
    expected = {"outsider": 404, "appliance": 404, "anonymous": 302}
    assert Browser(cast, who).get(url(name, key)).status_code == expected.get(who, 200)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", [*FORMS, "cloud-key-enable", "cloud-key-retire", "cloud-key-policy-preview"])
def test_who_may_change_it(cast: Cast, key: CloudKey, who: str, name: str) -> None:
    expected = {"auditor": 403, "outsider": 404, "appliance": 404, "anonymous": 302}
    if name == "cloud-key-enable":
        expected["colleague"] = Browser(cast, "colleague").get(url(name, key)).status_code
    assert Browser(cast, who).get(url(name, key)).status_code == expected.get(who, 200)


@pytest.mark.parametrize("who", ["auditor", "outsider"])
def test_the_server_refuses_whatever_is_shown(cast: Cast, key: CloudKey, who: str) -> None:
    client = Browser(cast, who)
    token = client.hidden("/accounts/profile/")
    for name in (*FORMS, "cloud-key-retire"):
        assert client.send(url(name, key), token, name="stolen").status_code in (403, 404)
    key.refresh_from_db()
    assert (key.name, key.retired_at, key.revision) == ("payments-prod", None, 1)


def test_a_key_of_another_vault_is_not_found_in_mine(cast: Cast, key: CloudKey) -> None:
    there = reverse("cloud-key-access", kwargs={"vault_id": cast.other_vault.pk, "key_id": key.pk})
    assert Browser(cast, "outsider").get(there).status_code == 404


def test_name_description_and_tags_are_changed_once(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "colleague")
    there = url("cloud-key-edit", key)
    hidden = client.hidden(there)
    fields = {"name": "payments-eu", "description": "Cards", "tags": "team = pay\n\ncost = 4=7"}
    assert client.send(there, hidden, **fields).status_code == 303
    assert client.send(there, hidden, **fields).status_code == 303
    key.refresh_from_db()
    assert (key.name, key.tags, key.revision) == ("payments-eu", {"team": "pay", "cost": "4=7"}, 2)
    assert "team = pay" in text_of(client.get(there))


def test_wrong_tags_stand_at_the_tags_and_stay_typed(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    answer = client.send(url("cloud-key-edit", key), name=key.name, description="", tags="aws:x = 1")
    assert answer.status_code == 422
    assert "Tags that begin with aws: or keystead: are reserved. Name it otherwise." in text_of(answer)
    assert b"aws:x = 1" in answer.content
    again = client.send(url("cloud-key-edit", key), name=key.name, description="", tags="no tag")
    assert "Line 1 is no tag" in text_of(again)


def test_the_second_of_two_windows_is_told(cast: Cast, key: CloudKey) -> None:
    one, two = Browser(cast, "owner"), Browser(cast, "colleague")
    there = url("cloud-key-access-edit", key)
    seen = two.hidden(there)
    assert one.send(there, administrators=[ADA], users=[]).status_code == 303
    refused = two.send(there, {**seen, "administrators": "", "users": ""}, more_users=APP)
    assert refused.status_code == 412
    told = text_of(refused)
    assert "owner@example.com changed this while you had it open" in told
    assert ADA in told
    key.refresh_from_db()
    assert (key.administrators, key.users) == ([ADA], [])


def test_picked_and_typed_principals_are_kept_and_refused_by_field(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    there = url("cloud-key-access-edit", key)
    stranger = "arn:aws:iam::999988887777:user/eve"
    wrong = client.send(there, {**client.hidden(there), "users": APP}, more_users=stranger)
    assert wrong.status_code == 422
    assert "This is no IAM user or role of account 111122223333" in text_of(wrong)
    assert APP.encode() in wrong.content
    assert stranger.encode() in wrong.content
    hidden = {**client.hidden(there), "users": APP, "administrators": ADA}
    assert client.send(there, hidden).status_code == 303
    key.refresh_from_db()
    assert (key.administrators, key.users) == ([ADA], [APP])
    shown = text_of(client.get(url("cloud-key-access", key)))
    assert "Who can administer" in shown
    assert '"Version": "2012-10-17"' in shown


def test_the_picker_asks_the_account_and_says_when_it_cannot(
    cast: Cast, key: CloudKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(account: Any) -> list[Principal]:
        return [Principal(arn=ADA, name="ada", kind="user"), Principal(arn=APP, name="app-prod", kind="role")]

    monkeypatch.setattr("cloudkeys.providers.list_principals", listed)
    found = Browser(cast, "owner").get(url("cloud-key-principals", key), q="app")
    assert APP in found.content.decode()
    assert ADA not in found.content.decode()


def test_the_policy_preview_follows_what_is_picked(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    shown = text_of(client.get(url("cloud-key-policy-preview", key), administrators=ADA, users=APP))
    assert ADA in shown
    assert APP in shown
    assert "no IAM user or role" in text_of(
        client.get(url("cloud-key-policy-preview", key), users="nonsense")
    )


def test_a_schedule_of_its_own_and_back_to_the_sets(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    there = url("cloud-key-schedule-edit", key)
    own = {
        "rotation": "every",
        "every": 30,
        "unit": "days",
        "hour": 3,
        "time_zone": "UTC",
        "ending": "after",
        "days": 400,
    }
    own |= {"then": "disable", "window_days": 30}
    assert client.send(there, **own).status_code == 303
    key.refresh_from_db()
    assert key.rotation_schedule is not None
    assert key.rotation_schedule["every"] == 30
    assert key.expires_at is not None
    shown = text_of(client.get(url("cloud-key-schedule", key)))
    assert "Every 30 days, at 03:00 (UTC) · of its own" in shown
    assert "Later rotation" in shown
    assert client.send(there, **{**own, "rotation": "inherited", "ending": "inherited"}).status_code == 303
    key.refresh_from_db()
    assert (key.rotation_schedule, key.expiration, key.next_rotation_at) == (None, None, None)
    wrong = client.send(there, **{**own, "time_zone": "Nowhere/Else"})
    assert wrong.status_code == 422
    assert "no time zone" in text_of(wrong)


def test_saving_a_schedule_does_not_let_an_expiry_happen_again(cast: Cast, key: CloudKey) -> None:
    expiration = {"kind": "after", "days": 1, "then": "disable", "window_days": 30}
    cloud_keys.update_cloud_key(cast.actor("owner"), key.pk, {"expiration": expiration})
    key.refresh_from_db()
    CloudKey.objects.filter(pk=key.pk).update(expired_at=timezone.now())
    fields = {"rotation": "none", "ending": "after", "days": 1, "then": "disable", "window_days": 30}
    assert Browser(cast, "owner").send(url("cloud-key-schedule-edit", key), **fields).status_code == 303
    key.refresh_from_db()
    assert key.expired_at is not None


def test_enable_is_one_click_and_says_when_data_is_readable(cast: Cast, key: CloudKey) -> None:
    lifecycle.disable_cloud_key(cast.actor("owner"), key.pk, reason="a drill")
    client = Browser(cast, "owner")
    page = client.get(url("cloud-key-access", key)).content.decode()
    assert "“a drill”" in page
    assert f'action="{url("cloud-key-enable", key)}"' in page
    there = url("cloud-key-enable", key)
    assert client.send(there, reason="").status_code == 303
    key.refresh_from_db()
    assert key.state == "ENABLED"
    assert "data is readable again" in text_of(client.get(url("cloud-key-access", key)))


def test_enabling_a_linked_key_shows_its_operation_live(cast: Cast, key: CloudKey) -> None:
    pretend_linked(key)
    lifecycle.disable_cloud_key(cast.actor("owner"), key.pk, reason="a drill")
    Operation.objects.all().update(state="SUCCEEDED", finished_at=timezone.now())
    client = Browser(cast, "owner")
    assert client.send(url("cloud-key-enable", key), reason="").status_code == 303
    told = text_of(client.get(url("cloud-key-access", key)))
    assert "AWS is asked to enable its KMS key first" in told
    live = client.get(url("cloud-key-now", key), target="key-now").content.decode()
    assert 'hx-trigger="every 1s"' in live
    assert 'id="key-state" hx-swap-oob="true"' in live
    Operation.objects.update(state="FAILED", error={"cause": "AWS refused.", "cure": "Ask."})
    assert "AWS refused." in text_of(client.get(url("cloud-key-now", key), target="key-now"))


def test_nothing_is_sent_while_nothing_changes(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    seen = client.get(url("cloud-key-now", key)).content.decode().partition("?seen=")[2][:16]
    assert client.get(url("cloud-key-now", key), seen=seen).status_code == 204
    lifecycle.block_cloud_key(cast.actor("owner"), key.pk, reason="now")
    changed = client.get(url("cloud-key-now", key), seen=seen)
    assert changed.status_code == 200
    assert "it is blocked" in text_of(changed)


def test_rotate_retire_and_the_versions_of_a_key(cast: Cast, key: CloudKey) -> None:
    client = Browser(cast, "owner")
    assert "Current" in text_of(client.get(url("cloud-key-versions", key)))
    assert client.send(url("cloud-key-rotate", key)).status_code == 303
    assert "Being handed to the workers" in text_of(client.get(url("cloud-key-versions", key)))
    assert client.send(url("cloud-key-retire", key), reason="replaced").status_code == 303
    key.refresh_from_db()
    assert key.permitted_uses == ["DECRYPT"]
    assert "Decrypt only" in text_of(client.get(url("cloud-key-versions", key)))


def test_cancelling_a_deletion_leaves_it_disabled(cast: Cast, key: CloudKey) -> None:
    lifecycle.schedule_deletion(cast.actor("owner"), key.pk, confirm_name=key.name, reason="over")
    client = Browser(cast, "owner")
    shown = text_of(client.get(url("cloud-key-access", key)))
    assert "Deletes in 29 days" in shown
    assert client.send(url("cloud-key-cancel-deletion", key), reason="needed").status_code == 303
    key.refresh_from_db()
    assert key.state == "DISABLED"


def test_every_change_stands_in_the_activity_with_its_difference(cast: Cast, key: CloudKey) -> None:
    cloud_keys.update_cloud_key(cast.actor("owner"), key.pk, {"description": "Card payments"})
    shown = text_of(Browser(cast, "auditor").get(url("cloud-key-activity", key)))
    assert "Changed: description" in shown
    assert "Card payments" in shown
    assert "by owner@example.com" in shown


def test_the_activity_turns_pages(cast: Cast, key: CloudKey) -> None:
    for number in range(45):
        cloud_keys.update_cloud_key(cast.actor("owner"), key.pk, {"description": f"number {number}."})
    client = Browser(cast, "owner")
    page = client.get(url("cloud-key-activity", key))
    assert "number 44." in text_of(page)
    assert "number 2." not in text_of(page)
    older = page.content.decode().partition("?before=")[2].partition('"')[0]
    from urllib.parse import unquote

    assert "number 2." in text_of(client.get(url("cloud-key-activity", key), before=unquote(older)))
    assert client.get(url("cloud-key-activity", key), before="nonsense").status_code == 200


def test_link_names_what_is_missing(cast: Cast, key: CloudKey) -> None:
    answer = Browser(cast, "owner").send(url("cloud-key-link", key), kms_key_id="")
    assert answer.status_code == 409
    assert "Link the store of that region first." in text_of(answer)


@pytest.mark.parametrize("name", TABS)
def test_the_number_of_queries_stays(
    cast: Cast, key: CloudKey, name: str, django_assert_max_num_queries: Any
) -> None:
    client = Browser(cast, "owner")
    for number in range(3):
        cloud_keys.update_cloud_key(cast.actor("owner"), key.pk, {"description": f"{number}"})
    client.get(url(name, key))
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as few:
        client.get(url(name, key))
    for number in range(27):
        cloud_keys.update_cloud_key(cast.actor("owner"), key.pk, {"description": f"more {number}"})
    with CaptureQueriesContext(connection) as many:
        client.get(url(name, key))
    assert len(many) == len(few)
    assert AuditEvent.objects.filter(target_id=str(key.pk)).count() >= 30
