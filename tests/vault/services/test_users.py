"""The first administrator, one-time passwords, profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from tests.cast import PASSWORD, Cast
from vault.actors import Actor
from vault.errors import NotFound, PermissionDenied, ValidationFailed
from vault.models import AuditEvent, User
from vault.secret import Secret
from vault.services import users
from vault.services.users import ensure_first_admin, normal_email


def test_the_first_administrator_gets_a_one_time_password_once(
    db: None, set_environ: Callable[..., None]
) -> None:
    set_environ(ADMIN_EMAIL="Root@Example.com")
    password = ensure_first_admin()
    assert password
    user = User.objects.get()
    assert user.email == "root@example.com"
    assert user.check_password(password)
    assert user.is_appliance_admin
    assert user.must_change_password
    assert user.one_time_password_expires_at is not None
    assert ensure_first_admin() is None
    assert User.objects.count() == 1
    assert password not in str(AuditEvent.objects.values())


def test_a_given_password_is_no_one_time_password(db: None, set_environ: Callable[..., None]) -> None:
    set_environ(ADMIN_PASSWORD="correct horse battery staple")
    assert ensure_first_admin() is None
    user = User.objects.get()
    assert user.email == "admin@keystead.test"
    assert user.check_password("correct horse battery staple")
    assert not user.must_change_password


def test_somebody_who_is_known_already_gets_the_right_and_keeps_the_password(
    db: None, set_environ: Callable[..., None]
) -> None:
    set_environ(ADMIN_EMAIL="ada@example.com")
    User.objects.create_user("ada@example.com", PASSWORD)
    assert ensure_first_admin() is None
    user = User.objects.get()
    assert user.is_appliance_admin
    assert user.check_password(PASSWORD)


def test_another_process_that_was_first(
    db: None, set_environ: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environ(ADMIN_EMAIL="ada@example.com")
    User.objects.create_user("ada@example.com", PASSWORD, is_appliance_admin=True)
    # The other process commits between our look and our insert.
    monkeypatch.setattr(User.objects, "filter", lambda **conditions: User.objects.none())
    assert ensure_first_admin() is None
    assert User.objects.get().check_password(PASSWORD)
    assert not AuditEvent.objects.exists()


def test_one_time_passwords_are_many_and_readable() -> None:
    made = {users.new_one_time_password().reveal_text() for _ in range(200)}
    assert len(made) == 200
    assert all(len(text) == 23 and not set(text) & set("0O1lIi") for text in made)


def test_a_one_time_password_for_somebody_who_lost_theirs(cast: Cast) -> None:
    issued = users.issue_one_time_password(cast.actor("appliance"), " Owner@Example.com")
    password = issued.password.reveal_text()
    assert issued.user.check_password(password)
    assert issued.user.must_change_password
    assert password not in str(AuditEvent.objects.values())
    assert password not in repr(issued)
    with pytest.raises(NotFound):
        users.issue_one_time_password(cast.actor("appliance"), "nobody@example.com")
    with pytest.raises(ValidationFailed):
        users.issue_one_time_password(cast.actor("appliance"), "nobody")


def test_it_ends_every_session(cast: Cast) -> None:
    client = cast.session("owner")
    users.issue_one_time_password(cast.actor("appliance"), "owner@example.com")
    assert client.get("/api/v1/auth/me").status_code == 401


@pytest.mark.parametrize("who", ["owner", "colleague", "auditor", "outsider"])
def test_only_the_appliance_admin_issues_them(cast: Cast, who: str) -> None:
    with pytest.raises(PermissionDenied):
        users.issue_one_time_password(cast.actor(who), "owner@example.com")
    assert User.objects.get(email="owner@example.com").check_password(PASSWORD)


def test_the_command(cast: Cast, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault.startup.prepare_process", lambda: None)
    call_command("vault_reset_password", "owner@example.com")
    shown = capsys.readouterr().out.split("one-time password: ")[1].strip()
    assert User.objects.get(email="owner@example.com").check_password(shown)
    with pytest.raises(CommandError, match="no person"):
        call_command("vault_reset_password", "nobody@example.com")


@given(st.text(max_size=300))
def test_addresses_are_normal_or_refused(text: str) -> None:
    try:
        email = normal_email(text)
    except ValidationFailed:
        return
    assert email == email.strip().lower()
    assert normal_email(email) == email
    assert len(email) <= 254


def test_passwords_of_ones_own_end_the_duty(cast: Cast) -> None:
    user = cast.users["owner"]
    user.must_change_password = True
    user.save()
    users.replace_password(cast.actor("owner"), user, Secret("a new and longer password"))
    user.refresh_from_db()
    assert not user.must_change_password
    assert AuditEvent.objects.latest("sequence").action == "auth:password:change"


def test_a_profile_is_ones_own(cast: Cast) -> None:
    with pytest.raises(PermissionDenied):
        users.update_profile(Actor.system("cli"), name="x")
    user = users.update_profile(cast.actor("owner"), name=" Ada ")
    assert user.name == "Ada"
    event = AuditEvent.objects.latest("sequence")
    assert (event.before or {})["name"] == "Owner"
    assert (event.after or {})["name"] == "Ada"


def test_nothing_changes_without_a_value(cast: Cast) -> None:
    before: Any = AuditEvent.objects.count()
    users.update_profile(cast.actor("owner"))
    assert AuditEvent.objects.count() == before
