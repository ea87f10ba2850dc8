"""People: members, groups and API tokens of a vault, and the accounts of the installation, tried by each of the cast."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core import mail
from django.urls import reverse

from tests.cast import PASSWORD, WHO, Cast, new_user
from tests.web import Browser, text_of
from vault.models import ApiToken, AuditEvent, Group, Membership, Role, User, Vault
from vault.services import tokens

READ = {"owner": 200, "colleague": 200, "auditor": 200, "outsider": 404, "appliance": 404, "anonymous": 302}
MANAGE = {**READ, "colleague": 403, "auditor": 403}


def at(name: str, cast: Cast, *more: Any) -> str:
    return reverse(name, args=[cast.vault.pk, *more])


@pytest.mark.parametrize("who", WHO)
def test_who_sees_what(cast: Cast, who: str) -> None:
    browser, colleague = Browser(cast, who), cast.memberships["colleague"].pk
    for name, more, expected in (
        ("people", (), READ),
        ("person", (colleague,), READ),
        ("groups", (), READ),
        ("group", (cast.group.pk,), READ),
        ("person-create", (), MANAGE),
        ("person-edit", (colleague,), MANAGE),
        ("person-remove", (colleague,), MANAGE),
        ("group-create", (), MANAGE),
        ("group-edit", (cast.group.pk,), MANAGE),
        ("group-delete", (cast.group.pk,), MANAGE),
        ("vault-tokens", (), MANAGE),
    ):
        assert browser.get(at(name, cast, *more)).status_code == expected[who], name
    expected_account = 200 if who == "appliance" else 302 if who == "anonymous" else 404
    user = cast.users["owner"].pk
    for name in ("account-detail", "account-reset", "account-disable", "account-enable"):
        assert browser.get(reverse(name, args=[user])).status_code == expected_account, name
    assert browser.get(reverse("accounts")).status_code == expected_account


@pytest.mark.parametrize("who", ["colleague", "auditor", "outsider"])
def test_the_server_refuses_whatever_is_shown(cast: Cast, who: str) -> None:
    browser = Browser(cast, who)
    token = browser.hidden("/accounts/profile/")
    own = cast.memberships[who].pk
    colleague = cast.memberships["colleague"].pk
    for url in (
        at("person-create", cast),
        at("person-edit", cast, colleague),
        at("person-edit", cast, own),
        at("person-remove", cast, colleague),
        at("group-delete", cast, cast.group.pk),
    ):
        answer = browser.send(url, token, email="x@example.com", role="VAULT_ADMIN")
        assert answer.status_code in (403, 404), url
    assert Membership.objects.filter(vault=cast.vault).count() == 3
    assert Membership.objects.filter(vault=cast.vault, role=Role.VAULT_ADMIN).count() == 1
    assert Group.objects.filter(pk=cast.group.pk).exists()


def test_a_person_of_another_vault_is_not_there(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    foreign = cast.memberships["outsider"].pk
    for name in ("person", "person-edit", "person-remove"):
        assert owner.get(at(name, cast, foreign)).status_code == 404
    group = Group.objects.create(vault=cast.other_vault, name="Theirs")
    for name in ("group", "group-edit", "group-delete"):
        assert owner.get(at(name, cast, group.pk)).status_code == 404
    url = at("person-edit", cast, cast.memberships["colleague"].pk)
    assert owner.send(url, role="AUDITOR", group_ids=[str(group.pk)]).status_code == 422
    assert not group.members.exists()


def test_a_person_is_added_once_and_the_password_shown_once(cast: Cast) -> None:
    owner, url = Browser(cast, "owner"), at("person-create", cast)
    hidden = owner.hidden(url)
    fields = {
        "email": "Rosa@example.com",
        "name": "Rosa",
        "role": "AUDITOR",
        "group_ids": [str(cast.group.pk)],
    }
    shown = owner.send(url, hidden, **fields)
    assert shown.status_code == 200
    assert "Shown this once" in text_of(shown)
    password = re.search(r'data-secret="([a-z0-9-]{23})"', shown.content.decode())
    assert password is not None
    row = Membership.objects.get(vault=cast.vault, user__email="rosa@example.com")
    assert (row.role, list(row.groups.all())) == ("AUDITOR", [cast.group])
    assert row.user.check_password(password[1])
    again = owner.send(url, hidden, **fields)
    assert (again.status_code, again["Location"]) == (303, at("person", cast, row.pk))
    assert password[1] not in owner.get(at("person", cast, row.pk)).content.decode()
    twice = owner.send(url, **fields)
    assert twice.status_code == 422
    assert "is a member already" in text_of(twice)
    assert b"Rosa@example.com" in twice.content


def test_with_mail_the_password_is_mailed(cast: Cast, settings: Any) -> None:
    settings.MAIL_CONFIGURED = True
    answer = Browser(cast, "owner").send(at("person-create", cast), email="rosa@example.com", role="AUDITOR")
    assert answer.status_code == 303
    assert mail.outbox[0].to == ["rosa@example.com"]


def test_role_and_groups_are_changed(cast: Cast) -> None:
    owner, row = Browser(cast, "owner"), cast.memberships["colleague"]
    answer = owner.send(at("person-edit", cast, row.pk), role="AUDITOR")
    assert (answer.status_code, answer["Location"]) == (303, at("person", cast, row.pk))
    row.refresh_from_db()
    assert (row.role, row.groups.count()) == ("AUDITOR", 0)
    assert Browser(cast, "colleague").get(at("vault-tokens", cast)).status_code == 403


def test_the_second_of_two_windows_is_told(cast: Cast) -> None:
    owner, url = Browser(cast, "owner"), at("person-edit", cast, cast.memberships["colleague"].pk)
    seen = owner.hidden(url)
    assert owner.send(url, role="AUDITOR").status_code == 303
    late = owner.send(url, seen, role="VAULT_ADMIN")
    assert late.status_code == 412
    assert "changed this while you had it open" in text_of(late)
    cast.memberships["colleague"].refresh_from_db()
    assert cast.memberships["colleague"].role == "AUDITOR"


def test_the_last_admin_stays(cast: Cast) -> None:
    owner, row = Browser(cast, "owner"), cast.memberships["owner"]
    assert "the vault's last admin" in text_of(owner.get(at("person", cast, row.pk)))
    assert owner.send(at("person-remove", cast, row.pk)).status_code == 409
    lower = owner.send(at("person-edit", cast, row.pk), role="AUDITOR")
    assert lower.status_code == 409
    assert "Make somebody else vault admin first." in text_of(lower)
    row.refresh_from_db()
    assert row.role == "VAULT_ADMIN"


def test_removing_says_what_it_ends_and_ends_it(cast: Cast) -> None:
    owner, row = Browser(cast, "owner"), cast.memberships["colleague"]
    tokens.create_token(cast.actor("colleague"), name="ci", vault_id=cast.vault.pk)
    colleague = Browser(cast, "colleague")
    assert colleague.get(at("people", cast)).status_code == 200
    url = at("person-remove", cast, row.pk)
    assert "1 API token of theirs no longer reaches this vault" in text_of(owner.get(url))
    assert owner.send(url).status_code == 303
    assert colleague.get(at("people", cast)).status_code == 404
    assert "ci" not in text_of(owner.get(at("vault-tokens", cast)))
    assert AuditEvent.objects.filter(action="vault:member:remove", via="web").exists()


def test_groups(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    made = owner.send(
        at("group-create", cast),
        name="Night shift",
        description="",
        member_ids=[str(cast.memberships["auditor"].pk)],
    )
    group = Group.objects.get(name="Night shift")
    assert made["Location"] == at("group", cast, group.pk)
    assert [row.user.name for row in group.members.all()] == ["Auditor"]
    wrong = owner.send(at("group-create", cast), name="Night shift", description="kept words")
    assert wrong.status_code == 422
    assert "has this name" in text_of(wrong)
    assert b"kept words" in wrong.content
    assert owner.send(at("group-edit", cast, group.pk), name="Nights", description="x").status_code == 303
    group.refresh_from_db()
    assert (group.name, group.members.count()) == ("Nights", 0)
    assert owner.send(at("group-delete", cast, group.pk)).status_code == 303
    assert not Group.objects.filter(pk=group.pk).exists()


def test_lists_ask_as_often_however_long_they_are(cast: Cast, django_assert_num_queries: Any) -> None:
    owner, admin = Browser(cast, "owner"), Browser(cast, "appliance")
    pages = [
        (owner, at("people", cast)),
        (owner, at("groups", cast)),
        (owner, at("vault-tokens", cast)),
        (admin, reverse("accounts")),
    ]

    def counts() -> list[int]:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        found = []
        for browser, url in pages:
            browser.get(url)
            with CaptureQueriesContext(connection) as queries:
                assert browser.get(url).status_code == 200
            found.append(len(queries))
        return found

    tokens.create_token(cast.actor("owner"), name="first", vault_id=cast.vault.pk)
    before = counts()
    for number in range(30):
        user = new_user(f"person-{number}")
        row = Membership.objects.create(vault=cast.vault, user=user, role=Role.AUDITOR)
        group = Group.objects.create(vault=cast.vault, name=f"Group {number}")
        group.members.add(row)
        tokens.create_token(cast.actor("owner"), name=f"t{number}", vault_id=cast.vault.pk)
    assert counts() == before
    assert max(before) < 14


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_made_shown_once_and_revoked(cast: Cast) -> None:
    owner, url = Browser(cast, "owner"), reverse("token-create")
    hidden = owner.hidden(url)
    fields = {"name": "pipeline", "vault": str(cast.vault.pk), "role": "AUDITOR", "lives": "30"}
    shown = owner.send(url, hidden, **fields)
    assert "Shown this once" in text_of(shown)
    text = re.search(r'data-secret="(kst_[A-Za-z0-9_-]{43})"', shown.content.decode())
    assert text is not None
    row = ApiToken.objects.get()
    assert tokens.authenticate_token(text[1], source_ip=None) == row
    assert (row.vault, row.role, row.name) == (cast.vault, "AUDITOR", "pipeline")
    again = owner.send(url, hidden, **fields)
    assert (again.status_code, again["Location"], ApiToken.objects.count()) == (303, reverse("tokens"), 1)
    listed = owner.get(reverse("tokens"))
    assert "pipeline" in text_of(listed)
    assert text[1] not in listed.content.decode()
    assert Browser(cast, "auditor").get(reverse("token-revoke", args=[row.pk])).status_code == 404
    assert owner.send(reverse("token-revoke", args=[row.pk])).status_code == 303
    row.refresh_from_db()
    assert row.revoked_at is not None


def test_what_a_token_may_not_be(cast: Cast) -> None:
    auditor, url = Browser(cast, "auditor"), reverse("token-create")
    high = auditor.send(url, name="x", vault=str(cast.vault.pk), role="VAULT_ADMIN", lives="30")
    assert high.status_code == 422
    assert "Your own role in this vault (Auditor) is lower." in text_of(high)
    foreign = auditor.send(url, name="x", vault=str(cast.other_vault.pk), lives="30")
    assert foreign.status_code == 422
    undated = auditor.send(url, name="x", vault="", lives="until", until="")
    assert "Say which day" in text_of(undated)
    past = auditor.send(url, name="x", vault="", lives="until", until="2020-01-01")
    assert "lies in the past" in text_of(past)
    assert not ApiToken.objects.exists()


def test_a_vaults_admin_revokes_what_was_made_for_the_vault(cast: Cast) -> None:
    mine = tokens.create_token(cast.actor("colleague"), name="ci", vault_id=cast.vault.pk).token
    wide = tokens.create_token(cast.actor("colleague"), name="wide").token
    foreign = tokens.create_token(cast.actor("outsider"), name="foreign").token
    owner = Browser(cast, "owner")
    words = text_of(owner.get(at("vault-tokens", cast)))
    assert "ci" in words
    assert "wide" in words
    assert "foreign" not in words
    assert "1 token reaches every vault of the owner" in words
    assert owner.send(at("vault-token-revoke", cast, mine.pk), reason="left the team").status_code == 303
    event = AuditEvent.objects.get(action="auth:token:revoke")
    assert (event.reason, event.vault_id) == ("left the team", cast.vault.pk)
    refused = owner.send(at("vault-token-revoke", cast, wide.pk), reason="")
    assert refused.status_code == 409
    assert "only its owner ends it" in text_of(refused)
    assert owner.get(at("vault-token-revoke", cast, foreign.pk)).status_code == 404
    wide.refresh_from_db()
    assert wide.revoked_at is None


# --- accounts -------------------------------------------------------------------------------------------------------


def test_a_lost_password_is_replaced(cast: Cast) -> None:
    admin, user = Browser(cast, "appliance"), cast.users["colleague"]
    colleague = Browser(cast, "colleague")
    url = reverse("account-reset", args=[user.pk])
    hidden = admin.hidden(url)
    shown = admin.send(url, hidden)
    found = re.search(r'data-secret="([a-z0-9-]{23})"', shown.content.decode())
    assert found is not None
    user.refresh_from_db()
    assert user.check_password(found[1])
    assert user.must_change_password
    assert colleague.get("/accounts/profile/").status_code == 302
    assert admin.send(url, hidden).status_code == 303
    user.refresh_from_db()
    assert user.check_password(found[1])


def test_a_disabled_account_is_locked_out_at_once(cast: Cast) -> None:
    admin, user = Browser(cast, "appliance"), cast.users["colleague"]
    colleague, api = Browser(cast, "colleague"), cast.api("colleague")
    assert colleague.get(at("people", cast)).status_code == 200
    assert api.get("/api/v1/auth/me").status_code == 200
    url = reverse("account-disable", args=[user.pk])
    assert admin.send(url, reason="").status_code == 422
    assert admin.send(url, reason="phone stolen").status_code == 303
    assert colleague.get(at("people", cast)).status_code == 302
    assert api.get("/api/v1/auth/me").status_code == 401
    assert not colleague.client.login(username=user.email, password=PASSWORD)
    assert "Account disabled" in text_of(Browser(cast, "owner").get(at("people", cast)))
    event = AuditEvent.objects.get(action="vault:user:update")
    assert (event.reason, event.before["is_active"], event.after["is_active"]) == (
        "phone stolen",
        True,
        False,
    )
    assert admin.send(reverse("account-enable", args=[user.pk]), reason="").status_code == 303
    assert api.get("/api/v1/auth/me").status_code == 200


def test_nobody_locks_themselves_out(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    answer = admin.send(reverse("account-disable", args=[cast.users["appliance"].pk]), reason="x")
    assert answer.status_code == 409
    assert User.objects.get(pk=cast.users["appliance"].pk).is_active


def test_a_destroyed_vault_takes_nobody(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(state="DESTROYED")
    words = Browser(cast, "owner").get(at("people", cast)).content.decode()
    assert "This vault was destroyed." in words
