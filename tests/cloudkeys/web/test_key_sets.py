"""The pages of key sets and the wizard, tried by each of the cast."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from cloudkeys.models import AwsStoreLink, CloudKey, KeySet, KeySetDraft, KeyVersion, Operation, XksCredential
from tests.cast import WHO, Cast
from tests.cloudkeys.world import new_account, new_key, new_key_set
from tests.web import Browser, text_of
from vault.keys import unseal
from vault.models import HsmConnection, HsmKey, HsmMember

WHAT = {"type": "AWS", "name": "pay-hyok", "description": "kept words", "group": ""}
STORE = {
    "external": "yes", "path": "own", "path_prefix": "", "rows": "1", "region_0": "eu-west-1", "by_0": "person",
    "way_0": "PUBLIC_ENDPOINT", "service_0": "", "endpoint_0": "https://xks.example.com",
}  # fmt: skip
SCHEDULE = {
    "rotation": "every",
    "every": "90",
    "unit": "days",
    "hour": "3",
    "time_zone": "UTC",
    "ending": "never",
}


def at(cast: Cast, name: str = "key-sets", **more: Any) -> str:
    return reverse(name, kwargs={"vault_id": cast.vault.pk, **more})


def step(cast: Cast, draft: Any, name: str) -> str:
    return at(cast, "key-set-step", draft_id=draft, step=name)


def walk(cast: Cast, client: Browser, draft: Any, **changes: dict[str, str]) -> None:
    """All steps as far as the summary."""
    steps: dict[str, dict[str, str]] = {
        "what": WHAT,
        "account": {"csp_account": ""},
        "store": STORE,
        "protection": {"protection": "software"},
        "schedule": SCHEDULE,
    }
    names = [*steps, "summary"]
    for name, fields in steps.items():
        answer = client.send(step(cast, draft, name), **{**fields, **changes.get(name, {})})
        assert answer.status_code == 303, text_of(answer)
        assert answer["Location"] == step(cast, draft, names[names.index(name) + 1])


@pytest.mark.parametrize("who", WHO)
def test_who_may_look_and_change(cast: Cast, who: str) -> None:
    row = new_key_set(cast.actor("owner"), cast.vault, None).key_set
    client = Browser(cast, who)
    look = {"outsider": 404, "appliance": 404, "anonymous": 302}.get(who, 200)
    pages = [at(cast), at(cast, "key-set", key_set_id=row.pk), at(cast, "key-set-effects", key_set_id=row.pk)]
    pages += [
        at(cast, "key-set-tab", key_set_id=row.pk, tab=tab)
        for tab in ("keys", "schedule", "aws", "dependents")
    ]
    for url in pages:
        assert client.get(url).status_code == look, url
    change = {**dict.fromkeys(("outsider", "appliance"), 404), "anonymous": 302, "auditor": 403}.get(who, 200)
    for url in (
        at(cast, "key-set-edit", key_set_id=row.pk),
        at(cast, "key-set-delete", key_set_id=row.pk),
        at(cast, "key-set-use", key_set_id=row.pk),
        step(cast, uuid4(), "what"),
    ):
        assert client.get(url).status_code == change, url


def test_the_server_refuses_whatever_is_shown(cast: Cast) -> None:
    row = new_key_set(cast.actor("owner"), cast.vault, None).key_set
    auditor = Browser(cast, "auditor")
    token = auditor.hidden("/accounts/profile/")
    tab = at(cast, "key-set-tab", key_set_id=row.pk, tab="schedule")
    assert auditor.send(tab, token, **SCHEDULE).status_code == 403
    for verb in ("edit", "delete", "use"):
        assert (
            auditor.send(at(cast, f"key-set-{verb}", key_set_id=row.pk), token, name="x").status_code == 403
        )
    assert auditor.send(step(cast, uuid4(), "what"), token, **WHAT).status_code == 403
    assert not KeySetDraft.objects.exists()
    row.refresh_from_db()
    assert row.revision == 1


def test_the_wizard_makes_one_key_set_and_shows_its_credential_once(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    begun = owner.get(at(cast, "key-set-new"))
    assert begun.status_code == 302
    draft = begun["Location"].split("/")[-3]
    assert not KeySetDraft.objects.exists()
    walk(cast, owner, draft)
    summary = step(cast, draft, "summary")
    words = text_of(owner.get(summary))
    for shown in ("pay-hyok", "Every 90 days, at 03:00 (UTC)", "eu-west-1", "you make it in the AWS console"):
        assert shown in words
    hidden = owner.hidden(summary)
    answer = owner.send(summary, hidden)
    assert answer.status_code == 200
    made = KeySet.objects.get()
    credential = XksCredential.objects.get()
    secret = unseal(credential, "secret_access_key").reveal_text()
    page = answer.content.decode()
    assert secret in page
    assert "RawSecretAccessKey" in page
    aws = at(cast, "key-set-tab", key_set_id=made.pk, tab="aws")
    assert f'data-stored="{aws}"' in page
    # The same form, another window, Back: nothing is made twice and the secret is never shown again.
    again = owner.send(summary, hidden)
    assert (again.status_code, again["Location"]) == (303, at(cast, "key-set", key_set_id=made.pk))
    for name in ("summary", "what"):
        back = owner.get(step(cast, draft, name))
        assert (back.status_code, back["Location"]) == (303, at(cast, "key-set", key_set_id=made.pk))
    assert KeySet.objects.count() == 1
    steps = text_of(owner.get(aws))
    for value in ("https://xks.example.com", credential.access_key_id, "Public endpoint", made.name):
        assert value in steps
    assert secret not in owner.get(aws).content.decode()
    other = text_of(owner.get(aws, way="VPC_ENDPOINT_SERVICE"))
    assert "Network Load Balancer" in other
    assert "cks.kms.eu-west-1.amazonaws.com" in other


def test_two_windows_with_the_same_draft_make_one(cast: Cast) -> None:
    owner, draft = Browser(cast, "owner"), uuid4()
    walk(cast, owner, draft)
    summary = step(cast, draft, "summary")
    one, two = owner.hidden(summary), owner.hidden(summary)
    assert owner.send(summary, one).status_code == 200
    late = owner.send(summary, two)
    assert late["Location"] == at(cast, "key-set", key_set_id=KeySet.objects.get().pk)
    assert KeySet.objects.count() == 1


def test_a_draft_outlives_its_session_and_is_its_writers_alone(cast: Cast) -> None:
    draft = uuid4()
    owner = Browser(cast, "owner")
    assert owner.send(step(cast, draft, "what"), **WHAT).status_code == 303
    later = Browser(cast, "owner")
    assert 'value="pay-hyok"' in later.get(step(cast, draft, "what")).content.decode()
    listed = text_of(later.get(at(cast)))
    assert "You have begun a key set." in listed
    # Straight to the summary: it leads to the first step that is to be done.
    assert later.get(step(cast, draft, "summary"))["Location"] == step(cast, draft, "account")
    colleague = Browser(cast, "colleague")
    assert colleague.get(step(cast, draft, "what")).status_code == 404
    assert "You have begun" not in text_of(colleague.get(at(cast)))
    assert (
        later.send(at(cast, "key-set-draft-discard", draft_id=draft), later.hidden(at(cast))).status_code
        == 303
    )
    assert not KeySetDraft.objects.exists()


def test_what_is_wrong_is_kept_too_and_stands_on_its_field(cast: Cast) -> None:
    owner, draft = Browser(cast, "owner"), uuid4()
    new_key_set(cast.actor("owner"), cast.vault, None, name="taken")
    refused = owner.send(step(cast, draft, "what"), **{**WHAT, "name": "taken"})
    assert refused.status_code == 422
    assert "has this name" in text_of(refused)
    assert "kept words" in owner.get(step(cast, draft, "what")).content.decode()
    owner.send(step(cast, draft, "what"), **WHAT)
    owner.send(step(cast, draft, "account"), csp_account="")
    url = step(cast, draft, "store")
    rows = {
        **STORE,
        "rows": "2",
        "region_1": "eu-west-1",
        "by_1": "person",
        "way_1": "PUBLIC_ENDPOINT",
        "endpoint_1": "https://xks.example.com",
    }
    twice = owner.send(url, **rows)
    assert twice.status_code == 422
    assert "This region stands twice." in text_of(twice)
    assert 'id="id_region_1-error"' in twice.content.decode()
    vpc = owner.send(url, **{**STORE, "way_0": "VPC_ENDPOINT_SERVICE", "service_0": "nonsense"})
    assert 'id="id_service_0-error"' in vpc.content.decode()
    none = owner.send(url, **{**STORE, "region_0": ""})
    assert "Name at least one region" in text_of(none)
    more = owner.send(url, **{**STORE, "act": "more"})
    assert more["Location"] == url + "#regions"
    assert 'name="region_1"' in owner.get(url).content.decode()
    less = owner.send(url, **{**rows, "region_1": "us-east-1", "act": "less-0"})
    assert less.status_code == 303
    page = owner.get(url).content.decode()
    assert 'value="us-east-1"' in page
    assert 'name="region_1"' not in page


def test_typing_is_kept_and_another_window_does_not_overwrite_it(cast: Cast) -> None:
    owner, draft = Browser(cast, "owner"), uuid4()
    url = step(cast, draft, "what")
    one, two = owner.hidden(url), owner.hidden(url)
    save = at(cast, "key-set-draft-save", draft_id=draft, step="what")
    assert "Kept as a draft" in text_of(owner.send(save, one, **{**WHAT, "name": "pay"}))
    assert "Kept as a draft" in text_of(owner.send(save, one, **{**WHAT, "name": "pay-h"}))
    assert "Changed in another window" in text_of(owner.send(save, two, **{**WHAT, "name": "other"}))
    refused = owner.send(url, two, **{**WHAT, "name": "other"})
    assert refused.status_code == 412
    words = text_of(refused)
    assert "Another window of yours changed this" in words
    assert "pay-h" in words
    assert "other" in words
    # The first window itself goes on, with the revision that it was opened with.
    assert owner.send(url, one, **WHAT).status_code == 303
    assert KeySetDraft.objects.get().title == "pay-hyok"


def connect_hsm(cast: Cast, name: str, possible: list[str], **more: Any) -> HsmConnection:
    """A connection that the vault may use, as a keeper has left it."""
    row = HsmConnection.objects.create(name=name, module_path="/opt/vendor/libpkcs11.so")
    HsmMember.objects.create(
        connection=row,
        token_serial=f"serial-{name}",
        profile={"gcm": {"works": bool(possible)}, "possible": possible, "missing": more.get("missing", [])},
        state=more.get("state", "ACTIVE"),
    )
    row.vaults.add(cast.vault)
    return row


def test_without_an_hsm_the_choice_says_why_it_cannot_be_made(cast: Cast) -> None:
    owner, draft = Browser(cast, "owner"), uuid4()
    url = step(cast, draft, "protection")
    words = text_of(owner.get(url))
    assert "Not to be chosen: No HSM may be used in this vault." in words
    assert "Lost for ever without a backup" in words
    refused = owner.send(url, protection="hsm-resident")
    assert refused.status_code == 422
    assert "No HSM may be used in this vault" in text_of(refused)


def test_an_hsm_is_chosen_with_the_protection_that_it_can_give(cast: Cast) -> None:
    stranger = connect_hsm(cast, "elsewhere", ["hsm-wrapped", "hsm-resident"])
    stranger.vaults.set([cast.other_vault])
    able = connect_hsm(cast, "luna", ["root-key", "hsm-wrapped", "hsm-resident"], state="UNAVAILABLE")
    only_wraps = connect_hsm(cast, "old", ["hsm-wrapped"], missing=["the token has no AES-GCM"])
    owner, draft = Browser(cast, "owner"), uuid4()
    url = step(cast, draft, "protection")
    words = text_of(owner.get(url))
    assert "luna (0 of 1 members serve)" in words
    assert "elsewhere" not in words
    assert "Not to be chosen" not in words
    for given, expected in (
        ({"protection": "hsm-resident"}, "Which HSM is to protect the keys is not said"),
        (
            {"protection": "hsm-resident", "hsm_connection": str(only_wraps.pk)},
            "old cannot do it: the token has no AES-GCM",
        ),
        ({"protection": "hsm-resident", "hsm_connection": str(stranger.pk)}, "Select a valid choice"),
    ):
        refused = owner.send(url, **given)
        assert refused.status_code == 422
        assert expected in text_of(refused)
    taken = owner.send(url, protection="hsm-resident", hsm_connection=str(able.pk))
    assert taken.status_code == 303
    assert taken["Location"] == step(cast, draft, "schedule")
    for way, expected in (
        ("replicated", "luna has one member: there is nowhere to copy a key to"),
        ("post", "Select a valid"),
    ):
        refused = owner.send(url, protection="hsm-resident", hsm_connection=str(able.pk), hsm_replication=way)
        assert refused.status_code == 422
        assert expected in text_of(refused)
    given = {"protection": "hsm-resident", "hsm_connection": str(able.pk), "hsm_replication": "device-bound"}
    assert owner.send(url, **given).status_code == 303
    assert 'value="device-bound" id="id_hsm_replication_1" checked' in owner.get(url).content.decode()
    # With software the picker says nothing, whatever it stands on.
    assert owner.send(url, protection="software", hsm_connection=str(able.pk)).status_code == 303


def test_an_hsm_that_nobody_reached_cannot_be_chosen(cast: Cast) -> None:
    row = connect_hsm(cast, "new", [])
    row.members.update(profile={})  # type: ignore[attr-defined]
    words = text_of(Browser(cast, "owner").get(step(cast, uuid4(), "protection")))
    assert "No HSM of this vault was reached yet" in words


def test_a_linked_store_shows_its_work_live(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    owner, draft = Browser(cast, "owner"), uuid4()
    walk(
        cast,
        owner,
        draft,
        account={"csp_account": str(account.pk)},
        store={"by_0": "keystead", "endpoint_0": "https://xks.keystead.test"},
    )
    summary = step(cast, draft, "summary")
    assert "Keystead makes and connects the AWS key store in eu-west-1" in text_of(owner.get(summary))
    answer = owner.send(summary)
    assert answer.status_code == 200, text_of(answer)
    link, work = AwsStoreLink.objects.get(), Operation.objects.get()
    row = KeySet.objects.get()
    part = at(cast, "key-set-progress", key_set_id=row.pk, operation_id=work.pk)
    page = owner.get(at(cast, "key-set-tab", key_set_id=row.pk, tab="aws")).content.decode()
    assert f'hx-get="{part}"' in page
    assert "In the AWS console" not in page
    live = owner.get(part, target="x")
    assert 'hx-trigger="every 2s"' in live.content.decode()
    assert "HX-Refresh" not in live
    Operation.objects.filter(pk=work.pk).update(state="SUCCEEDED")
    assert owner.get(part, target="x")["HX-Refresh"] == "true"
    assert link.linked


def test_a_schedule_tells_which_keys_follow_before_it_is_saved(cast: Cast) -> None:
    row = new_key_set(cast.actor("owner"), cast.vault, None).key_set
    new_key(cast.actor("owner"), row, "follows")
    own = {"kind": "every", "every": 7, "unit": "days", "hour": 1, "time_zone": "UTC"}
    new_key(cast.actor("owner"), row, "has-its-own", rotation_schedule=own)
    owner = Browser(cast, "owner")
    effects = text_of(owner.get(at(cast, "key-set-effects", key_set_id=row.pk), target="effects", **SCHEDULE))
    assert "1 key rotates by this schedule follows" in effects
    assert "1 with a schedule of its own stays as it is has-its-own" in effects
    half = owner.get(at(cast, "key-set-effects", key_set_id=row.pk), **{**SCHEDULE, "every": ""})
    assert "Something is missing yet" in text_of(half)
    tab = at(cast, "key-set-tab", key_set_id=row.pk, tab="schedule")
    seen = owner.hidden(tab)
    assert owner.send(tab, **SCHEDULE).status_code == 303
    assert CloudKey.objects.get(name="follows").next_rotation_at is not None
    stale = owner.send(tab, seen, **{**SCHEDULE, "every": "30"})
    assert stale.status_code == 412
    assert "Every 90 days" in text_of(stale)
    assert "Every 30 days" in text_of(stale)


def test_edit_use_and_delete(cast: Cast) -> None:
    row = new_key_set(cast.actor("owner"), cast.vault, None, use_as_external_key_store=False).key_set
    owner = Browser(cast, "owner")
    edit = at(cast, "key-set-edit", key_set_id=row.pk)
    assert owner.send(edit, name="renamed", description="", group=str(cast.group.pk)).status_code == 303
    row.refresh_from_db()
    assert (row.name, row.group) == ("renamed", cast.group)
    use = at(cast, "key-set-use", key_set_id=row.pk)
    hidden = owner.hidden(use)
    shown = owner.send(use, hidden)
    assert "Store the XKS proxy credential" in text_of(shown)
    assert owner.send(use, hidden).status_code == 303
    assert XksCredential.objects.count() == 1
    key = new_key(cast.actor("owner"), row)
    delete = at(cast, "key-set-delete", key_set_id=row.pk)
    assert "1 of its keys are not destroyed" in text_of(owner.get(delete))
    token = {**hidden, "once": uuid4().hex, "revision": ""}
    assert owner.send(delete, token, typed_name="renamed").status_code == 409
    CloudKey.objects.filter(pk=key.pk).update(state="DESTROYED")
    assert owner.send(delete, typed_name="renamed")["Location"] == at(cast)
    assert not KeySet.objects.exists()


def test_the_pages_ask_the_database_as_often_however_much_there_is(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    account = new_account(cast.actor("owner"), cast.vault)
    first = new_key_set(cast.actor("owner"), cast.vault, account, name="first").key_set
    urls = [at(cast), at(cast, "key-set", key_set_id=first.pk)]
    urls += [
        at(cast, "key-set-tab", key_set_id=first.pk, tab=t) for t in ("keys", "schedule", "aws", "dependents")
    ]
    counts: list[list[int]] = []
    for number in range(30):
        new_key(cast.actor("owner"), first, f"key-{number}")
        new_key_set(cast.actor("owner"), cast.vault, account, name=f"set {number}")
        if number in (2, 29):
            counts.append([])
            for url in urls:
                owner.get(url)
                with CaptureQueriesContext(connection) as queries:
                    assert owner.get(url).status_code == 200
                counts[-1].append(len(queries))
    assert counts[0] == counts[1], json.dumps(counts)
    assert max(counts[1]) < 20, counts[1]


def test_a_changed_protection_is_for_new_versions_and_old_ones_are_listed(cast: Cast) -> None:
    connected = connect_hsm(cast, "luna", ["root-key", "hsm-wrapped", "hsm-resident"])
    made = new_key_set(cast.actor("owner"), cast.vault, new_account(cast.actor("owner"), cast.vault)).key_set
    key = new_key(cast.actor("owner"), made)
    url = at(cast, "key-set-tab", key_set_id=made.pk, tab="protection")
    owner = Browser(cast, "owner")
    first = text_of(owner.get(url))
    assert "1 software" in first
    assert "versions under another protection" not in first
    assert owner.send(url, protection="hsm-resident", hsm_connection=str(connected.pk)).status_code == 303
    made.refresh_from_db()
    assert (made.protection, made.hsm_connection_id) == ("hsm-resident", connected.pk)
    words = text_of(owner.get(url))
    for expected in (
        "Resident in an HSM, by luna", "1 key still has such versions", "1 of them encrypts with one until it is rotated",
        "Keys with versions under another protection", key.name,
    ):  # fmt: skip
        assert expected in words, expected
    assert "1 key still has versions under another protection" in text_of(
        owner.get(at(cast, "key-set", key_set_id=made.pk))
    )
    HsmMember.objects.create(connection=connected, token_serial="other", position=1)
    again = {"protection": "hsm-resident", "hsm_connection": str(connected.pk)}
    assert owner.send(url, **again, hsm_replication="replicated").status_code == 303
    placed = HsmKey.objects.create(
        connection=connected, vault=cast.vault, purpose="resident", label=key.name, cka_id="ab", replication="replicated"
    )  # fmt: skip
    KeyVersion.objects.filter(cloud_key=key).update(hsm_key=placed, protection="hsm-resident", material=None)
    words = text_of(owner.get(url))
    assert "How new keys reach its members Copied by Keystead" in words
    assert "1 copied by Keystead: extractable for a moment, before first use" in words
    KeyVersion.objects.filter(cloud_key=key).update(hsm_key=None)
    auditor = Browser(cast, "auditor")
    assert b'id="protection-form"' not in auditor.get(url).content
    refused = auditor.send(url, auditor.hidden("/accounts/profile/"), protection="software")
    assert refused.status_code == 403
    assert Browser(cast, "outsider").get(url).status_code == 404
    assert owner.send(url, protection="software", hsm_connection=str(connected.pk)).status_code == 303
    made.refresh_from_db()
    assert (made.protection, made.hsm_connection_id) == ("software", None)
