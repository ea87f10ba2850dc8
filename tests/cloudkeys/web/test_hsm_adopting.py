"""The page on which an appliance admin takes over a key that exists in an HSM."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from cloudkeys.models import CloudKey, KeySet
from tests.cast import WHO, Cast
from tests.cloudkeys import hsm_world
from tests.cloudkeys.hsm_world import GONE, FakeHsms
from tests.cloudkeys.world import new_key_set
from tests.web import Browser, text_of
from vault.models import AuditEvent, HsmConnection, HsmKey


@pytest.fixture
def hsms(monkeypatch: pytest.MonkeyPatch) -> FakeHsms:
    return hsm_world.install(monkeypatch)


@pytest.fixture
def hsm(hsms: FakeHsms, cast: Cast) -> HsmConnection:
    return hsms.connect(cast.vault)


@pytest.fixture
def key_set(hsm: HsmConnection, cast: Cast) -> KeySet:
    return new_key_set(cast.actor("owner"), cast.vault, None, protection="hsm-resident").key_set


def at(hsm: HsmConnection) -> str:
    return reverse("hsm-adopt", args=[hsm.pk])


def given(key_set: KeySet, **more: str) -> dict[str, str]:
    return {
        "act": "check", "key_set": str(key_set.pk), "key_label": "foo", "name": "payments-old", "region": "eu-west-1", **more,
    }  # fmt: skip


def test_only_the_appliance_admin_opens_it(cast: Cast, key_set: KeySet, hsm: HsmConnection) -> None:
    for who in WHO:
        expected = {"appliance": 200, "anonymous": 302}.get(who, 404)
        assert Browser(cast, who).get(at(hsm)).status_code == expected, who
    admin = Browser(cast, "appliance")
    assert admin.get(reverse("hsm-adopt", args=[cast.vault.pk])).status_code == 404
    assert at(hsm) in admin.get(reverse("hsm-tab", args=[hsm.pk, "keys"])).content.decode()


def test_without_a_key_set_it_says_what_to_do(cast: Cast, hsm: HsmConnection) -> None:
    words = text_of(Browser(cast, "appliance").get(at(hsm)))
    assert "No key set can take it." in words
    assert 'its owner then makes a key set with protection "Resident in an HSM"' in words


def test_a_check_changes_nothing_and_the_unknown_past_rotates(
    cast: Cast, hsms: FakeHsms, key_set: KeySet, hsm: HsmConnection
) -> None:
    inside = hsms.put("foo", wrap=True)
    admin = Browser(cast, "appliance")
    first = admin.get(at(hsm))
    assert "Take key over" not in text_of(first)
    shown = admin.send(at(hsm), **given(key_set))
    words = text_of(shown)
    for expected in (
        f"CKA_ID {inside.hex()} : AES-256, sensitive, not extractable", "Keystead uses it for nothing yet", "may also wrap or unwrap",
        "Its past counts as used up: it rotates at once.", "Take key over",
    ):  # fmt: skip
        assert expected in words, expected
    assert not CloudKey.objects.filter(name="payments-old").exists()
    assert not HsmKey.objects.exists()
    made = admin.send(at(hsm), **given(key_set, act="adopt"))
    assert made.status_code == 303
    assert made["Location"] == reverse("hsm-tab", args=[hsm.pk, "keys"])
    key = CloudKey.objects.get(name="payments-old")
    assert (key.external_key_id, key.current_version) == ("foo", 2)
    told = text_of(admin.get(made["Location"]))
    assert "payments-old is taken over. A new key encrypts from now on; the old one decrypts." in told
    (event,) = AuditEvent.objects.filter(action="cloudkeys:cloud_key:adopt")
    assert event.actor_name == cast.users["appliance"].email


def test_a_declared_past_goes_on_and_a_key_without_id_is_left_alone_by_the_check(
    cast: Cast, hsms: FakeHsms, key_set: KeySet, hsm: HsmConnection
) -> None:
    hsms.put("foo", nameless=True)
    admin = Browser(cast, "appliance")
    words = text_of(admin.send(at(hsm), **given(key_set, prior_invocations="1000")))
    assert "without CKA_ID. It is given one on" in words
    assert "It goes on encrypting from your count." in words
    assert hsms.labels["foo"] == [b""], "looking gives no id"
    assert admin.send(at(hsm), **given(key_set, act="adopt", prior_invocations="1000")).status_code == 303
    assert CloudKey.objects.get(name="payments-old").versions.get().reserved_invocations == 1000
    assert hsms.labels["foo"] != [b""]


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"key_label": "unknown"}, 422, "The HSM has no secret key with this label."),
        ({"key_label": "soft"}, 422, "CKA_SENSITIVE is not true"),
        ({"key_label": "twice"}, 422, "The HSM has 2 keys with this label."),
        ({"fixed_metadata": "!"}, 422, "The fixed ciphertextMetadata is base64"),
        ({"prior_invocations": "-1"}, 422, "greater than or equal to 0"),
        ({"name": ""}, 422, "required"),
        ({"key_label": "health"}, 409, "This key is in use already (health)."),
    ],
)
@pytest.mark.parametrize("act", ["check", "adopt"])
def test_what_is_wrong_is_said_at_its_field(
    cast: Cast, hsms: FakeHsms, key_set: KeySet, hsm: HsmConnection, act: str, more: dict[str, Any], status: int, words: str
) -> None:  # fmt: skip
    hsms.put("foo")
    hsms.put("soft", sensitive=False)
    hsms.put("twice")
    hsms.put("twice")
    HsmConnection.objects.update(health_key=hsms.put("health").hex())
    refused = Browser(cast, "appliance").send(at(hsm), **{**given(key_set), **more, "act": act})
    assert (refused.status_code, words in text_of(refused)) == (status, True), text_of(refused)
    assert "Take key over" not in text_of(refused)
    assert not CloudKey.objects.filter(kind="USER").exists()


def test_an_hsm_that_is_away_is_told(cast: Cast, hsms: FakeHsms, key_set: KeySet, hsm: HsmConnection) -> None:
    hsms.put("foo")
    hsms.failure = GONE
    refused = Browser(cast, "appliance").send(at(hsm), **given(key_set))
    assert refused.status_code == 409
    assert "Take key over" not in text_of(refused)
