"""The HSM pages: who may, what they say, that a PIN comes back nowhere, and that they ask few queries and no HSM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from hsm import documented
from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from vault.fields import WrappedBlob
from vault.hsm_attention import hsm_items, vault_hsm_items
from vault.hsm_modules import ALLOWED_VARIABLES
from vault.models import AuditEvent, Errand, HsmConnection, HsmKey, HsmKeyPlacement, HsmMember, Vault
from vault.rewrap import RewrapRefused
from vault.services.root_key_move import do_asked_moves
from vault.web.hsm_forms import VENDORS, MemberLine, read_environment, read_members

LIST = "/appliance/hsms/"
NEW = "/appliance/hsms/new/"
ROOT = "/appliance/hsms/root-key/"
PIN = "93-the-pin-71"
PROFILE = {
    "vendor": "luna",
    "gcm": {
        "listed": True,
        "works": True,
        "iv": "ours",
        "nonce_bytes": 12,
        "long_iv": True,
        "known_answer": True,
    },
    "kwp": {"works": True, "mechanism": 0x210B, "by": "wrap", "reason": ""},
    "random": True,
    "threads_ok": True,
    "errors": {"wrong tag": "C_Decrypt: CKR_ENCRYPTED_DATA_INVALID"},
    "possible": ["root-key", "hsm-wrapped", "hsm-resident"],
    "missing": [],
    "proven": "measured on this token",
}
IDENTITY = {"manufacturer": "Thales", "model": "Luna K7", "firmware": "7.8.4", "serial": "1"}


@pytest.fixture(autouse=True)
def no_hsm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page asks an HSM anything."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a page asked an HSM")

    monkeypatch.setattr("hsm.client.SyncMember.call", never)


def new_hsm(cast: Cast, name: str = "luna", members: int = 2, **more: Any) -> HsmConnection:
    """A connection as keepers have left it."""
    row = HsmConnection.objects.create(name=name, module_path="/usr/lib/softhsm/vendor.so", **more)
    for position in range(members):
        HsmMember.objects.create(
            connection=row, position=position, token_serial=f"{name}-{position}", token_label=f"par{position}", state="ACTIVE",
            latency_ms=3.25, identity=IDENTITY, profile=PROFILE, compared=True, checked_at=timezone.now(),
        )  # fmt: skip
    row.vaults.add(cast.vault)
    return row


def new_key(
    row: HsmConnection, vault: Any, *, on: int, purpose: str = "resident", label: str = "payments v1"
) -> HsmKey:
    key = HsmKey.objects.create(connection=row, vault=vault, purpose=purpose, state="ACTIVE", label=label)
    HsmKey.objects.filter(pk=key.pk).update(cka_id=key.pk.hex)
    for member in list(row.members.order_by("position"))[:on]:  # type: ignore[attr-defined]
        HsmKeyPlacement.objects.create(key=key, member=member, verified_at=timezone.now())
    return key


def at(name: str, row: HsmConnection, *more: str) -> str:
    return reverse(name, args=[row.pk, *more])


@pytest.mark.parametrize("who", WHO)
def test_only_the_appliance_admin_sees_them(cast: Cast, who: str) -> None:
    row = new_hsm(cast)
    pages = [LIST, NEW, ROOT, at("hsm", row), at("hsm-edit", row), at("hsm-pin", row), at("hsm-delete", row)]
    pages += [at("hsm-tab", row, tab) for tab in ("capabilities", "keys", "audit")]
    browser = Browser(cast, who)
    for url in pages:
        answer = browser.get(url)
        expected = 302 if who == "anonymous" else 200 if who == "appliance" else 404
        assert answer.status_code == expected, url
    assert browser.get(at("hsm-test", row)).status_code == 405
    if who not in ("appliance", "anonymous"):
        token = browser.hidden("/accounts/profile/")
        assert browser.send(at("hsm-test", row), token).status_code == 404
        assert browser.send(at("hsm-delete", row), token, typed_name=row.name, reason="no").status_code == 404
        assert HsmConnection.objects.filter(pk=row.pk).exists()


def test_nothing_connected_says_what_to_do_next(cast: Cast) -> None:
    words = text_of(Browser(cast, "appliance").get(LIST))
    assert "No HSM is connected" in words
    assert "Connect HSM" in words
    assert "Each vendor's set-up" in words


def fields(cast: Cast, **more: Any) -> dict[str, Any]:
    return {
        "name": "luna-frankfurt", "module_path": "/usr/lib/softhsm/libsofthsm2.so", "environment": "SOFTHSM2_CONF=/tmp/x.conf\n",
        "login": "pin", "pin_source": "stored", "pin": PIN, "members": "4711\nlabel: par 2\n", "routing": "preferred",
        "timeout_ms": "800", "vaults": [str(cast.vault.pk)], **more,
    }  # fmt: skip


def test_an_hsm_is_connected_and_its_pin_comes_back_nowhere(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    refused = admin.send(NEW, **fields(cast, timeout_ms="1"))
    assert refused.status_code == 422
    assert PIN not in refused.content.decode()
    assert b"luna-frankfurt" in refused.content
    made = admin.send(NEW, **fields(cast))
    row = HsmConnection.objects.get()
    assert (made.status_code, made["Location"]) == (303, at("hsm", row))
    assert [(each.token_serial, each.token_label) for each in row.members.order_by("position")] == [
        ("4711", ""),
        ("", "par 2"),
    ]  # type: ignore[attr-defined]
    assert row.environment == {"SOFTHSM2_CONF": "/tmp/x.conf"}
    assert list(row.vaults.all()) == [cast.vault]
    for url in (at("hsm", row), at("hsm-edit", row), at("hsm-pin", row), at("hsm-tab", row, "audit")):
        assert PIN not in admin.get(url).content.decode()
    assert PIN not in str(list(AuditEvent.objects.values()))
    assert PIN.encode() not in bytes(HsmConnection.objects.values_list("pin", flat=True).get())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"module_path": "/tmp/evil.so"}, "lies in none of the folders"),
        ({"environment": "LD_PRELOAD=/tmp/x.so"}, "LD_PRELOAD is not allowed"),
        ({"environment": "nothing"}, "nothing is no NAME=VALUE"),
        ({"pin": ""}, "The PIN is missing"),
        ({"login": "ocs"}, "With this login no PIN is kept here"),
        ({"members": "label:"}, "A label is missing"),
        ({"members": "1\n1"}, "A token stands there twice"),
        ({"members": "\n"}, "required"),
        ({"name": "taken"}, "Another HSM has this name"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(cast: Cast, wrong: dict[str, Any], words: str) -> None:
    new_hsm(cast, "taken")
    refused = Browser(cast, "appliance").send(NEW, **fields(cast, **wrong))
    assert refused.status_code == 422
    assert words in text_of(refused)
    assert HsmConnection.objects.count() == 1


def test_each_vendor_fills_in_what_is_usual_and_allowed(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    for name, vendor in VENDORS.items():
        page = admin.get(NEW, vendor=name)
        assert vendor.title in text_of(page)
        assert vendor.module.encode() in page.content
        assert set(read_environment(vendor.environment)) <= ALLOWED_VARIABLES
        assert documented.by_name(name) is not None


def test_members_are_read_as_they_are_typed() -> None:
    assert read_members(" 12 \n\nlabel: a: b\nserial: 7") == [
        MemberLine(serial="12"),
        MemberLine(label="a: b"),
        MemberLine(serial="7"),
    ]


def test_the_list_shows_the_state_at_a_glance(cast: Cast) -> None:
    new_hsm(cast, "well")
    lame = new_hsm(cast, "lame")
    lame.members.filter(position=1).update(state="UNAVAILABLE", message="no answer from the appliance")  # type: ignore[attr-defined]
    away = new_hsm(cast, "away", members=1)
    away.members.update(state="UNAVAILABLE", latency_ms=None)  # type: ignore[attr-defined]
    refused = new_hsm(cast, "locked")
    refused.members.update(pin_refused_version=refused.pin_version)  # type: ignore[attr-defined]
    fresh = new_hsm(cast, "fresh", members=1)
    fresh.members.update(state="UNKNOWN", checked_at=None)  # type: ignore[attr-defined]
    soft = new_hsm(cast, "soft", members=1)
    soft.members.update(identity={"manufacturer": "SoftHSM project"}, latency_ms=31.0)  # type: ignore[attr-defined]
    new_key(lame, cast.vault, on=1)
    new_key(lame, cast.vault, on=2)
    part = Browser(cast, "appliance").get(LIST, target="hsms")
    assert b"<html" not in part.content
    words = text_of(part)
    for expected in (
        "All members serve", "1 of 2 members down", "no answer from the appliance", "No member answers", "PIN refused",
        "Not checked yet", "For trying out only", "31.0 ms", "1 on one only", "2 HSMs need you",
    ):  # fmt: skip
        assert expected in words, expected


def test_a_silent_keeper_is_told(cast: Cast) -> None:
    row = new_hsm(cast)
    admin = Browser(cast, "appliance")
    assert "Nobody watches" not in text_of(admin.get(LIST))
    row.members.update(checked_at=timezone.now() - timezone.timedelta(minutes=5))  # type: ignore[attr-defined]
    assert "Nobody watches the HSMs" in text_of(admin.get(LIST))


def test_the_pages_ask_few_queries_however_many_there_are(cast: Cast) -> None:
    admin = Browser(cast, "appliance")

    def count(url: str) -> int:
        admin.get(url)
        with CaptureQueriesContext(database) as asked:
            assert admin.get(url).status_code == 200
        return len(asked)

    first = new_hsm(cast, "hsm-0")
    for number in range(3):
        new_key(first, cast.vault, on=1 + number % 2, label=f"key {number}")
    pages = [
        LIST,
        at("hsm", first),
        *(at("hsm-tab", first, tab) for tab in ("capabilities", "keys", "audit")),
    ]
    few = [count(url) for url in pages]
    for number in range(1, 12):
        new_hsm(cast, f"hsm-{number}")
    for number in range(30):
        new_key(first, cast.vault, on=1 + number % 2, label=f"more {number}")
    assert [count(url) for url in pages] == few
    assert max(few) <= 20, few


def test_one_connection_shows_members_and_what_depends_on_it(cast: Cast) -> None:
    row = new_hsm(cast)
    new_key(row, cast.vault, on=1, label="alone v1")
    new_key(row, cast.vault, on=2, purpose="wrapping", label="pay-hyok")
    new_key(row, None, on=2, purpose="root", label="root key")
    admin = Browser(cast, "appliance")
    part = admin.get(at("hsm", row), target="members")
    assert b"<html" not in part.content
    assert "Luna K7" in text_of(part)
    sights = {
        "web-1": {"state": "ACTIVE", "latency_ms": 2.04},
        "xks-b": {"state": "UNAVAILABLE", "latency_ms": None},
    }
    row.members.filter(position=0).update(hosts=sights)  # type: ignore[attr-defined]
    seen = text_of(admin.get(at("hsm", row), target="members"))
    assert "from web-1: active, 2.0 ms" in seen
    assert "from xks-b: unavailable" in seen
    words = text_of(admin.get(at("hsm-tab", row, "keys")))
    for expected in (
        "One key is on one member only", "On one member only", "not on par1", "On all members", "The root key of this installation",
        "1 key version of vault Payments", "1 key that wraps key sets of vault Payments",
    ):  # fmt: skip
        assert expected in words, expected
    assert "alone v1" not in text_of(
        admin.get(at("hsm-tab", row, "keys"), target="hsm-keys", purpose="wrapping")
    )
    refused = admin.send(at("hsm-delete", row), typed_name="luna", reason="no longer used")
    assert refused.status_code == 409
    assert "This HSM is needed by" in text_of(refused)
    assert HsmConnection.objects.filter(pk=row.pk).exists()


def test_what_works_is_shown_with_what_is_missing(cast: Cast) -> None:
    row = new_hsm(cast)
    poor = {
        **PROFILE,
        "gcm": {"works": False, "reason": "the token has no AES-GCM"},
        "possible": ["root-key", "hsm-wrapped"],
        "missing": ["the token has no AES-GCM"],
    }
    row.members.filter(position=1).update(profile=poor, latency_ms=40.0)  # type: ignore[attr-defined]
    words = text_of(Browser(cast, "appliance").get(at("hsm-tab", row, "capabilities")))
    for expected in (
        "mechanism 0x210B, by C_WrapKey", "Not possible: the token has no AES-GCM", "It takes 40 ms",
        "From the vendor's documents, not tried by us", "C_Decrypt: CKR_ENCRYPTED_DATA_INVALID",
    ):  # fmt: skip
        assert expected in words, expected


def test_an_edit_keeps_the_pin_and_the_second_of_two_windows_is_told(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    admin.send(NEW, **fields(cast))
    row = HsmConnection.objects.get()
    url = at("hsm-edit", row)
    seen = admin.hidden(url)
    given = {name: value for name, value in fields(cast).items() if name != "pin"}
    assert b"4711\nlabel: par 2" in admin.get(url).content
    assert admin.send(url, **{**given, "name": "luna-berlin"}).status_code == 303
    changed = HsmConnection.objects.get()
    assert (changed.name, bytes(changed.pin), changed.pin_version) == ("luna-berlin", bytes(row.pin), 1)
    late = admin.send(url, seen, **{**given, "name": "luna-wien"})
    assert late.status_code == 412
    assert "luna-berlin" in text_of(late)


def test_a_refused_pin_is_told_and_a_changed_one_counts_anew(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    admin.send(NEW, **fields(cast))
    row = HsmConnection.objects.get()
    row.members.update(pin_refused_version=1, state="UNAVAILABLE")  # type: ignore[attr-defined]
    assert "The HSM refused the PIN" in text_of(admin.get(at("hsm", row)))
    answer = admin.send(at("hsm-pin", row), pin="another-pin")
    assert answer.status_code == 303
    assert HsmConnection.objects.get().pin_version == 2
    assert "The HSM refused the PIN" not in text_of(admin.get(at("hsm", row)))


def test_a_test_is_asked_for_once(cast: Cast) -> None:
    row = new_hsm(cast)
    admin = Browser(cast, "appliance")
    page = admin.get(at("hsm", row)).content.decode()
    form = page[page.index('id="hsm-test-form"') :]
    hidden = {
        name: form.split(f'name="{name}" value="')[1].split('"')[0]
        for name in ("csrfmiddlewaretoken", "once")
    }
    assert admin.send(at("hsm-test", row), hidden).status_code == 303
    wanted = HsmConnection.objects.get().test_wanted
    assert wanted is not None
    admin.send(at("hsm-test", row), hidden)
    assert HsmConnection.objects.get().test_wanted == wanted
    assert "A keeper is trying each member" in text_of(admin.get(at("hsm", row), target="test"))
    told = {
        "member": "par0",
        "login": "ok",
        "round_trip": True,
        "latency_ms": 3.1,
        "possible": ["hsm-wrapped"],
        "warnings": [],
        "error": "",
    }
    lame = {
        **told,
        "member": "par1",
        "login": "refused",
        "round_trip": False,
        "latency_ms": None,
        "error": "wrong PIN",
    }
    report = {
        "id": str(wanted),
        "at": timezone.now().isoformat(),
        "host": "web-1",
        "ok": False,
        "members": [told, lame],
    }
    HsmConnection.objects.update(test_wanted=None, test_report=report)
    part = admin.get(at("hsm", row), target="test")
    assert b"hx-get" not in part.content
    for expected in ("Not every member passed", "PIN refused", "wrong PIN", "3.1 ms", "from web-1"):
        assert expected in text_of(part), expected


def test_a_connection_that_nothing_needs_goes_with_its_name_typed(cast: Cast) -> None:
    row = new_hsm(cast)
    admin = Browser(cast, "appliance")
    assert admin.send(at("hsm-delete", row), typed_name="other", reason="x").status_code == 422
    gone = admin.send(at("hsm-delete", row), typed_name="luna", reason="replaced")
    assert (gone.status_code, gone["Location"]) == (303, LIST)
    assert not HsmConnection.objects.exists()
    assert "Hsm" not in text_of(admin.get(LIST))


def test_what_needs_attention(cast: Cast) -> None:
    now = timezone.now()
    admin = cast.actor("appliance")
    well, lame, away = new_hsm(cast, "well"), new_hsm(cast, "lame"), new_hsm(cast, "away")
    assert list(hsm_items(admin, now)) == []
    lame.members.filter(position=0).update(state="UNAVAILABLE", message="link down")  # type: ignore[attr-defined]
    lame.members.filter(position=1).update(state="DEGRADED", message="41 ms")  # type: ignore[attr-defined]
    away.members.update(state="UNAVAILABLE", pin_refused_version=1)  # type: ignore[attr-defined]
    new_key(well, cast.vault, on=1)
    new_key(well, None, on=1, purpose="health")
    new_key(lame, cast.vault, on=2)
    found = {item.kind: item for item in hsm_items(admin, now)}
    assert set(found) == {
        "hsm.pin_refused",
        "hsm.down",
        "hsm.member_down",
        "hsm.member_degraded",
        "hsm.keys_alone",
    }
    assert found["hsm.member_down"].what == "Member par0 of the HSM lame is down."
    assert found["hsm.member_down"].why.startswith("link down. The others serve")
    assert found["hsm.keys_alone"].what == "1 key is on one member of well only."
    # A vault hears of the HSMs in which it has keys, and of no others.
    assert {item.target_name for item in vault_hsm_items(cast.actor("owner"), cast.vault, now)} == {"lame"}
    assert list(vault_hsm_items(cast.actor("outsider"), cast.other_vault, now)) == []
    with CaptureQueriesContext(database) as asked:
        list(hsm_items(admin, now))
    assert len(asked) == 3
    words = text_of(Browser(cast, "owner").get(f"/v/{cast.vault.pk}/"))
    assert "Member par0 of the HSM lame is down." in words


def test_the_palette_finds_them_for_the_appliance_admin_alone(cast: Cast) -> None:
    row = new_hsm(cast, "luna-frankfurt")
    url = f'href="{at("hsm", row)}"'
    assert url in Browser(cast, "appliance").get("/palette/", q="frankf").content.decode()
    assert url not in Browser(cast, "owner").get("/palette/", q="frankf").content.decode()
    assert "Connect HSM" in text_of(Browser(cast, "appliance").get("/palette/", q="connect"))


def test_the_root_key_page_says_where_it_is_and_where_it_may_go(cast: Cast) -> None:
    stored = new_hsm(cast, "stored")
    able = new_hsm(cast, "able", pin_source="external")
    down = new_hsm(cast, "down", pin_source="external")
    down.members.filter(position=1).update(state="UNAVAILABLE")  # type: ignore[attr-defined]
    admin = Browser(cast, "appliance")
    words = text_of(admin.get(ROOT))
    for expected in ("In a file", "Its PIN is kept here", "Not all of its members serve", "Yes"):
        assert expected in words, expected
    for row in (stored, down):
        assert admin.get(at("hsm-root-key-move", row)).status_code == 303
    asked = text_of(admin.get(at("hsm-root-key-move", able)))
    assert "HSM lost without a backup: every vault is lost" in asked
    assert "SoftHSM" not in asked
    able.members.update(identity={"manufacturer": "SoftHSM project"})  # type: ignore[attr-defined]
    assert "This is SoftHSM, a program" in text_of(admin.get(at("hsm-root-key-move", able)))


def test_a_move_of_the_root_key_is_shown_as_far_as_it_is(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    able = new_hsm(cast, "able", pin_source="external")
    admin = Browser(cast, "appliance")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RewrapRefused("The HSM did not answer.", "See to it.")

    monkeypatch.setattr("vault.services.root_key_move.move_root_to_hsm", refuse)
    # The answer does not wait for the move: a worker does it, and the page follows.
    assert admin.send(at("hsm-root-key-move", able), typed_name="able").status_code == 303
    assert AuditEvent.objects.filter(action="vault:root_key:move", target_name="able").count() == 1
    part = admin.get(ROOT, target="standing")
    assert b"hx-get" in part.content
    assert "The move begins as soon as a worker takes it." in text_of(part)
    assert "appliance@example.com" in text_of(part) or "Asked for by" in text_of(part)
    other = new_hsm(cast, "other", pin_source="external")
    elsewhere = admin.send(at("hsm-root-key-move", other), typed_name="other")
    assert elsewhere.status_code == 409
    assert "A move into another HSM is under way." in text_of(elsewhere)
    assert do_asked_moves() == 1
    refused = text_of(admin.get(ROOT))
    assert "The last move stopped: The HSM did not answer." in refused
    assert "move again to go on" in refused
    # As a kill in the midst leaves it: one key is under the new root.
    key = new_key(able, None, on=2, purpose="root", label="keystead-root")
    kek = bytes(Vault.objects.values_list("kek_blob", flat=True).get(pk=cast.vault.pk))
    Vault.objects.filter(pk=cast.vault.pk).update(kek_blob=WrappedBlob(kek[:2] + key.pk.bytes + kek[18:]))
    part = admin.get(ROOT, target="standing")
    assert b"hx-get" in part.content
    assert "A move is unfinished" in text_of(part)
    assert "able" in text_of(part)
    assert "Go on" in text_of(admin.get(ROOT))

    def move(row: HsmConnection, actor: Any, progress: Any) -> Any:
        progress(1, 2)
        assert "Moving: 1 of 2 keys seen to." in text_of(admin.get(ROOT, target="standing"))
        progress(2, 2)
        return SimpleNamespace(moved=2)

    monkeypatch.setattr("vault.services.root_key_move.move_root_to_hsm", move)
    assert admin.send(at("hsm-root-key-move", able), typed_name="able").status_code == 303
    assert do_asked_moves() == 1
    assert Errand.objects.get(kind="root_key.move", subject_id=able.pk).state == "SUCCEEDED"


def test_a_pin_from_outside_is_told_by_its_variable_and_tried_anew_when_somebody_says_so(cast: Cast) -> None:
    row = new_hsm(cast, "luna-a", pin_source="external")
    row.members.update(pin_refused_version=1)  # type: ignore[attr-defined]
    admin = Browser(cast, "appliance")
    words = text_of(admin.get(at("hsm", row)))
    assert "KEYSTEAD_HSM_PIN_LUNA_A or the file that KEYSTEAD_HSM_PIN_LUNA_A_FILE names" in words
    assert "Put the right PIN where the hosts read it" in words
    assert admin.send(at("hsm-pin", row)).status_code == 303
    assert HsmConnection.objects.get().pin_version == 2
