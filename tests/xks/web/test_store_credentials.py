"""The pages of XKS credentials: shown once, rotated in steps, retired with care."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from cloudkeys.flows.xks_credential_rotation import ROTATE
from cloudkeys.models import Operation, XksCredential, XksCredentialRegion, XksKeyStore
from cloudkeys.services import credentials
from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from tests.xks.web.test_stores import CHANGED, at, link_of, store
from vault.changes import change

__all__ = ["store"]


def begun(cast: Cast, store: XksKeyStore) -> tuple[Operation, XksCredential]:
    """A rotation that has made its credential and waits for a person."""
    owner = Browser(cast, "owner")
    assert owner.send(at("xks-credential-rotate", store), silence_min="5", reason="Yearly").status_code == 303
    operation = Operation.objects.get(kind="xks_store.rotate_credential")
    assert operation.input == {"silence_s": 300}
    with change(cast.actor("owner")) as tx:
        new = credentials.make_credential(tx, store).credential
    names = [step["name"] for step in operation.steps]
    operation.memo["new_credential_id"] = str(new.pk)
    operation.step = names.index("hand_over")
    for number in range(operation.step):
        operation.steps[number]["state"] = "DONE"
    operation.steps[operation.step]["state"] = "RUNNING"
    operation.state, operation.next_try_at = "RUNNING", timezone.now() + timedelta(seconds=30)
    operation.save()
    assert set(ROTATE.run) == set(names)
    return operation, new


@pytest.mark.parametrize("who", WHO)
def test_who_may_touch_them(cast: Cast, store: XksKeyStore, who: str) -> None:
    row = store.credentials.get()
    browser = Browser(cast, who)
    for name in (
        "xks-credential-create",
        "xks-credential-rotate",
        "xks-credential-schedule",
        "xks-rotation-file",
    ):
        assert browser.get(at(name, store)).status_code == CHANGED[who], name
    assert browser.get(at("xks-credential-retire", store, credential_id=row.pk)).status_code == CHANGED[who]


def test_another_is_shown_once(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    url = at("xks-credential-create", store)
    hidden = owner.hidden(url)
    answer = owner.send(url, hidden)
    made = store.credentials.order_by("-created_at").first()
    assert made is not None
    assert "Shown this once" in text_of(answer)
    assert made.access_key_id in text_of(answer)
    assert b"RawSecretAccessKey" in answer.content
    again = owner.send(url, hidden)
    assert (again.status_code, again["Location"]) == (303, at("xks-store-credentials", store))
    assert store.credentials.count() == 2
    assert b"RawSecretAccessKey" not in owner.get(again["Location"]).content


def test_a_rotation_by_a_person_from_step_to_step(cast: Cast, store: XksKeyStore) -> None:
    link_of(cast, store)
    operation, new = begun(cast, store)
    owner = Browser(cast, "owner")
    page = owner.get(at("xks-store-credentials", store), target="rotation")
    text = text_of(page)
    assert b'hx-trigger="every 3s"' in page.content
    assert "Waits for you to give AWS the new credential" in text
    assert "Take file" in text
    assert "silent for 5 minutes" in text
    answer = owner.send(at("xks-rotation-file", store))
    assert new.access_key_id in text_of(answer)
    assert b"RawSecretAccessKey" in answer.content
    assert owner.send(at("xks-rotation-file", store)).status_code == 409
    assert "The file was taken" in text_of(owner.get(at("xks-store-credentials", store)))
    done = owner.send(f"{at('xks-rotation-done', store)}?region=eu-west-1")
    assert done.status_code == 303
    assert new.regions.get(region="eu-west-1").given == "PERSON"
    text = text_of(owner.get(at("xks-store-credentials", store)))
    assert "AWS has the new one and has not used it yet" in text
    assert owner.send(at("xks-rotation-cancel", store)).status_code == 303
    operation.refresh_from_db()
    assert operation.cancel_requested


def test_a_region_that_is_not_needed_is_left_out(cast: Cast, store: XksKeyStore) -> None:
    link_of(cast, store)
    _, new = begun(cast, store)
    url = f"{at('xks-rotation-done', store)}?region=eu-west-1&not_needed=1"
    assert Browser(cast, "colleague").send(url).status_code == 303
    assert new.regions.get().given == "NOT_NEEDED"


def test_one_that_failed_says_why_and_goes_on(cast: Cast, store: XksKeyStore) -> None:
    operation, _ = begun(cast, store)
    Operation.objects.filter(pk=operation.pk).update(
        state="FAILED", error={"code": "x", "cause": "AWS refused it.", "cure": "Look.", "permanent": True}
    )
    owner = Browser(cast, "owner")
    text = text_of(owner.get(at("xks-store-credentials", store)))
    assert "The last rotation did not end well. AWS refused it. Look." in text
    assert owner.send(at("xks-rotation-retry", store)).status_code == 303
    operation.refresh_from_db()
    assert operation.state == "WAITING"


def test_the_last_and_the_used_are_retired_only_by_force(cast: Cast, store: XksKeyStore) -> None:
    row = store.credentials.get()
    url = at("xks-credential-retire", store, credential_id=row.pk)
    owner = Browser(cast, "owner")
    assert "the store's last live one" in text_of(owner.get(url))
    assert owner.send(url, reason="leaked").status_code == 409
    credentials.create_xks_credential(cast.actor("owner"), store.pk)
    XksCredentialRegion.objects.create(credential=row, region="eu-west-1", last_used_at=timezone.now())
    assert "AWS has used it a short while ago" in text_of(owner.get(url))
    ended = owner.send(url, reason="leaked", force="on")
    assert ended.status_code == 303
    row.refresh_from_db()
    assert row.state == "RETIRED"


def test_the_schedule_keeps_what_was_typed_and_is_planned(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    url = at("xks-credential-schedule", store)
    fields = {"kind": "every", "every": "90", "unit": "days", "hour": "3", "time_zone": "Mars/Base"}
    wrong = owner.send(url, **fields)
    assert wrong.status_code == 422
    assert b"Mars/Base" in wrong.content
    assert "no time zone of the IANA database" in text_of(wrong)
    assert owner.send(url, **{**fields, "time_zone": "Europe/Berlin"}).status_code == 303
    text = text_of(owner.get(at("xks-store-credentials", store)))
    assert "Rotated every 90 days at 3:00 Europe/Berlin, next in" in text
    assert owner.send(url, **{**fields, "kind": "none", "time_zone": "UTC"}).status_code == 303
    store.refresh_from_db()
    assert store.next_rotation_at is None
