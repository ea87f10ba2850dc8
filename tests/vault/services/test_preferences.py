"""Preferences, the second factor that a vault demands, and the state of the installation."""

from __future__ import annotations

from collections import namedtuple
from datetime import timedelta
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.conf import settings as django_settings
from django.core import mail as django_mail
from django.test import Client
from django.utils import timezone

from tests.cast import Cast
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, PermissionDenied, SecondFactorEnrolmentRequired, ValidationFailed
from vault.models import AuditEvent, Pulse, User, UserPreferences, Vault
from vault.services import audit, second_factor, system
from vault.services.preferences import preferences_of, update_preferences
from vault.services.tokens import create_token
from vault.services.vaults import update_vault

pytestmark = pytest.mark.django_db


def test_defaults_need_no_row(cast: Cast) -> None:
    found = preferences_of(cast.users["owner"])
    assert (found.theme, found.density, found.attention_mail, found.lists) == (
        "system",
        "comfortable",
        "OFF",
        {},
    )
    assert not UserPreferences.objects.exists()


def test_lists_are_changed_page_by_page(cast: Cast) -> None:
    owner = cast.actor("owner")
    update_preferences(
        owner, theme="dark", lists={"cloud-keys": {"columns": ["name", "state"], "density": "compact"}}
    )
    update_preferences(owner, lists={"audit": {"columns": ["at"]}})
    found = preferences_of(cast.users["owner"])
    assert found.theme == "dark"
    assert found.lists == {
        "cloud-keys": {"columns": ["name", "state"], "density": "compact"},
        "audit": {"columns": ["at"]},
    }
    update_preferences(owner, lists={"cloud-keys": None})
    assert preferences_of(cast.users["owner"]).lists == {"audit": {"columns": ["at"]}}


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"theme": "pink"}, "theme"),
        ({"attention_mail": "ALWAYS"}, "attention_mail"),
        ({"lists": {"Cloud Keys": {}}}, "lists"),
        ({"lists": {"keys": {"rows": 1}}}, "lists.keys"),
        ({"lists": {"keys": {"columns": ["a", "a"]}}}, "lists.keys.columns"),
        ({"lists": {"keys": {"columns": ["<b>"]}}}, "lists.keys.columns"),
        ({"lists": {"keys": {"density": "huge"}}}, "lists.keys.density"),
        ({"lists": {f"page{number}": {} for number in range(41)}}, "lists"),
    ],
)
def test_nonsense_is_refused_by_field(cast: Cast, wish: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        update_preferences(cast.actor("owner"), **wish)
    assert refused.value.field == field


def test_a_token_has_no_wishes(cast: Cast) -> None:
    token = create_token(cast.actor("owner"), name="ci").token
    with pytest.raises(PermissionDenied):
        update_preferences(Actor(user=cast.users["owner"], token=token), theme="dark")


def test_api_shows_and_changes_them(cast: Cast) -> None:
    client = cast.session("owner")
    me = client.get("/api/v1/auth/me").json()
    assert me["preferences"]["theme"] == "system"
    changed = client.patch(
        "/api/v1/auth/me", {"theme": "dark", "name": "Olga"}, "application/json",
        headers={"X-CSRFToken": me["csrf_token"]},
    )  # fmt: skip
    assert changed.status_code == 200, changed.content
    assert (changed.json()["preferences"]["theme"], changed.json()["name"]) == ("dark", "Olga")


class TestSecondFactor:
    """A vault may demand one."""

    def enrol(self, user: User) -> None:
        Authenticator.objects.create(user=user, type=Authenticator.Type.TOTP, data={"secret": "x"})

    def demand(self, cast: Cast) -> None:
        self.enrol(cast.users["owner"])
        update_vault(cast.actor("owner"), cast.vault.pk, require_second_factor=True)

    def test_only_who_has_one_demands_it(self, cast: Cast) -> None:
        with pytest.raises(ValidationFailed) as refused:
            update_vault(cast.actor("owner"), cast.vault.pk, require_second_factor=True)
        assert refused.value.field == "require_second_factor"
        assert not Vault.objects.get(pk=cast.vault.pk).require_second_factor
        self.demand(cast)
        event = AuditEvent.objects.filter(action=Action.VAULT_UPDATE.value).latest("sequence")
        assert [(each.field, each.before, each.after) for each in audit.diff(event)] == [
            ("require_second_factor", False, True)
        ]

    def test_recovery_codes_alone_are_none(self, cast: Cast) -> None:
        Authenticator.objects.create(
            user=cast.users["owner"],
            type=Authenticator.Type.RECOVERY_CODES,
            data={"seed": "x", "used_mask": 0},
        )
        assert not second_factor.has_second_factor(cast.users["owner"])

    def test_sessions_of_members_reach_nothing_but_the_way_to_one(self, cast: Cast) -> None:
        self.demand(cast)
        client = cast.session("colleague")
        assert client.get("/api/v1/auth/me").json()["must_enrol_second_factor"] is True
        for path in ("/api/v1/vaults", f"/api/v1/vaults/{cast.vault.pk}", "/api/v1/cloud-keys"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()["code"]) == (403, "second_factor_enrolment_required")
        page = client.get("/")
        assert (page.status_code, page["Location"]) == (302, "/accounts/2fa/totp/activate/")
        for path in ("/accounts/2fa/totp/activate/", "/accounts/logout/", "/accounts/2fa/"):
            assert client.get(path).get("Location") != "/accounts/2fa/totp/activate/", path
        self.enrol(cast.users["colleague"])
        assert client.get("/api/v1/vaults").status_code == 200
        assert client.get("/api/v1/auth/me").json()["must_enrol_second_factor"] is False

    def test_others_and_tokens_are_not_asked(self, cast: Cast) -> None:
        token = cast.api("colleague")
        self.demand(cast)
        assert token.get("/api/v1/vaults").status_code == 200
        assert cast.session("owner").get("/api/v1/vaults").status_code == 200
        assert cast.session("outsider").get("/api/v1/vaults").status_code == 200

    def test_a_destroyed_vault_demands_nothing(self, cast: Cast) -> None:
        self.demand(cast)
        with pytest.raises(SecondFactorEnrolmentRequired):
            second_factor.require_enrolled(cast.users["auditor"])
        Vault.objects.filter(pk=cast.vault.pk).update(state="DESTROYED")
        second_factor.require_enrolled(cast.users["auditor"])

    def test_who_removes_theirs_is_asked_again(self, cast: Cast) -> None:
        self.demand(cast)
        Authenticator.objects.all().delete()
        client: Client = cast.session("owner")
        assert client.get("/api/v1/vaults").status_code == 403


class TestSystem:
    """How the installation does."""

    def parts(self, cast: Cast) -> dict[str, system.Part]:
        return {part.name: part for part in system.system_status(cast.actor("appliance")).parts}

    def test_for_appliance_admins_alone(self, cast: Cast) -> None:
        with pytest.raises(PermissionDenied):
            system.system_status(cast.actor("owner"))
        with pytest.raises(PermissionDenied):
            system.send_test_mail(cast.actor("owner"))

    def test_parts_that_do_well(self, cast: Cast) -> None:
        system.note_chain()
        with change(cast.actor("appliance")) as tx:
            tx.audit(Action.BACKUP_CREATE, None)
        found = self.parts(cast)
        assert set(found) == {"database", "schema", "broker", "workers", "disk", "backup", "mail"}
        for name in ("schema", "workers", "backup"):
            assert found[name].state == "OK", found[name]
        assert found["database"].detail["bytes"] > 0
        assert found["disk"].detail["total_bytes"] > found["disk"].detail["free_bytes"] > 0

    def test_parts_that_do_not(self, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.parts(cast)["workers"].state == "UNKNOWN"
        assert self.parts(cast)["backup"].state == "WARN"
        Pulse.objects.create(name="chain", at=timezone.now() - timedelta(minutes=20))
        assert self.parts(cast)["workers"].state == "FAIL"
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(system.shutil, "disk_usage", lambda path: usage(100 * 1024**3, 0, 5 * 1024**3))
        assert self.parts(cast)["disk"].state == "WARN"
        monkeypatch.setattr(system.shutil, "disk_usage", lambda path: usage(100 * 1024**3, 0, 1024**2))
        assert self.parts(cast)["disk"].state == "FAIL"
        assert system.system_status(cast.actor("appliance")).state == "FAIL"

    def test_one_part_that_cannot_be_asked_does_not_hide_the_others(
        self, cast: Cast, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(path: object) -> None:
            raise OSError("gone")

        monkeypatch.setattr(system.shutil, "disk_usage", broken)
        found = self.parts(cast)
        assert (found["disk"].state, found["disk"].words) == ("FAIL", "It could not be asked (OSError).")
        assert found["schema"].state == "OK"

    def test_test_mail(self, cast: Cast, settings: Any) -> None:
        assert django_settings.MAIL_CONFIGURED is False
        with pytest.raises(Conflict):
            system.send_test_mail(cast.actor("appliance"))
        settings.MAIL_CONFIGURED = True
        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
        assert system.send_test_mail(cast.actor("appliance"))
        assert django_mail.outbox[0].to == ["appliance@example.com"]


def test_diff_tells_what_came_and_went() -> None:
    event = AuditEvent(before={"a": 1, "b": 2, "same": 0}, after={"b": 3, "c": None, "same": 0})
    assert [(each.field, each.before, each.after) for each in audit.diff(event)] == [
        ("a", 1, None), ("b", 2, 3), ("c", None, None),
    ]  # fmt: skip
    assert audit.diff(AuditEvent()) == []
