"""Vaults: made with their admin and group, switched so that the data plane learns it, never half."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail as outbox
from django.db import IntegrityError

from tests.cast import PASSWORD, Cast
from vault import keys
from vault.approvals import GUARDED
from vault.errors import Conflict, NeedsApproval, NotFound, PermissionDenied, StaleRevision, ValidationFailed
from vault.generations import current_generation
from vault.models import AuditEvent, Generation, GenerationChange, Group, Membership, Role, User, Vault
from vault.services import vaults
from vault.services.vaults import create_vault

NEW: dict[str, Any] = {"name": "New", "admin_name": "Grace", "admin_email": "Grace@Example.com"}


@pytest.fixture
def mail_server(settings: Any) -> Any:
    """Mail is set up (and collected)."""
    settings.MAIL_CONFIGURED = True
    return outbox


def test_a_vault_with_its_key_group_and_admin(cast: Cast) -> None:
    made = create_vault(cast.actor("appliance"), description="What for", **NEW)
    vault = Vault.objects.get(pk=made.vault.pk)
    keys.vault_wrapper(vault)
    group = Group.objects.get(vault=vault)
    membership = Membership.objects.get(vault=vault)
    assert group.name == "Cloud Admin Group"
    assert list(group.members.all()) == [membership]
    assert membership.role == Role.VAULT_ADMIN
    assert membership.user == made.admin
    assert made.admin.email == "grace@example.com"
    assert made.admin.must_change_password
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert actions == {"vault:vault:create", "vault:user:create", "vault:member:add", "vault:group:create"}


def test_without_mail_the_password_is_returned_once(cast: Cast) -> None:
    made = create_vault(cast.actor("appliance"), **NEW)
    assert not made.mailed
    assert made.one_time_password is not None
    password = made.one_time_password.reveal_text()
    assert made.admin.check_password(password)
    assert password not in repr(made)
    assert password not in str(AuditEvent.objects.values())
    assert outbox.outbox == []


def test_with_mail_it_is_mailed_and_nowhere_else(cast: Cast, mail_server: Any) -> None:
    made = create_vault(cast.actor("appliance"), **NEW)
    assert made.mailed
    assert made.one_time_password is None
    message = mail_server.outbox[0]
    assert message.to == ["grace@example.com"]
    password = message.body.split("one-time password")[1].split()[0]
    assert made.admin.check_password(password)
    assert 'the vault "New"' in message.body


@pytest.mark.parametrize(
    "fault", [smtplib.SMTPRecipientsRefused({}), ConnectionRefusedError(), TimeoutError()]
)
def test_a_mail_server_that_does_not_take_it(
    cast: Cast, mail_server: Any, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(self: Any, fail_silently: bool = False) -> int:
        raise fault

    monkeypatch.setattr("django.core.mail.EmailMessage.send", fail)
    made = create_vault(cast.actor("appliance"), **NEW)
    assert not made.mailed
    assert made.one_time_password is not None
    assert made.admin.check_password(made.one_time_password.reveal_text())


def test_somebody_with_an_account_keeps_it(cast: Cast, mail_server: Any) -> None:
    made = create_vault(
        cast.actor("appliance"), name="New", admin_name="Evil", admin_email="owner@example.com"
    )
    owner = User.objects.get(email="owner@example.com")
    assert made.admin == owner
    assert made.one_time_password is None
    assert owner.name == "Owner"
    assert owner.check_password(PASSWORD)
    assert not owner.must_change_password
    assert "one-time" not in mail_server.outbox[0].body


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Payments"}, "name"),
        ({"admin_email": "x"}, "admin_email"),
        ({"admin_email": "disabled@example.com"}, "admin_email"),
    ],
)
def test_what_is_refused_leaves_nothing(cast: Cast, change: dict[str, str], field: str) -> None:
    User.objects.create_user("disabled@example.com", is_active=False)
    before = counts()
    with pytest.raises(ValidationFailed) as caught:
        create_vault(cast.actor("appliance"), **{**NEW, **change})
    assert caught.value.field == field
    assert counts() == before


def counts() -> list[int]:
    return [model.objects.count() for model in (Vault, User, Membership, Group, AuditEvent)]


def test_a_failure_halfway_leaves_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise IntegrityError("group")

    monkeypatch.setattr(Group.objects, "create", fail)
    before = counts()
    with pytest.raises(IntegrityError):
        create_vault(cast.actor("appliance"), **NEW)
    assert counts() == before


def test_the_name_of_a_destroyed_vault_is_free(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(state=Vault.State.DESTROYED)
    assert create_vault(cast.actor("appliance"), **{**NEW, "name": "Payments"}).vault.name == "Payments"


@pytest.mark.parametrize("who", ["owner", "colleague", "auditor", "outsider"])
@pytest.mark.parametrize(
    "act",
    [
        lambda actor, vault: create_vault(actor, **NEW),
        lambda actor, vault: vaults.disable_vault(actor, vault.pk, reason=""),
        lambda actor, vault: vaults.enable_vault(actor, vault.pk),
    ],
    ids=["create", "disable", "enable"],
)
def test_what_only_the_appliance_admin_does(cast: Cast, who: str, act: Callable[..., Any]) -> None:
    with pytest.raises(PermissionDenied):
        act(cast.actor(who), cast.vault)


Switch = Callable[..., vaults.VaultChanged]


@pytest.mark.parametrize(
    ("who", "on", "off", "field", "values"),
    [
        ("appliance", vaults.disable_vault, vaults.enable_vault, "state", ("DISABLED", "ENABLED")),
        ("owner", vaults.block_vault, vaults.unblock_vault, "blocked", (True, False)),
    ],
)
def test_switches(cast: Cast, who: str, on: Switch, off: Switch, field: str, values: tuple[Any, Any]) -> None:
    for act, value in ((on, values[0]), (off, values[1])):
        before = current_generation()
        changed = act(cast.actor(who), cast.vault.pk, reason="because")
        assert getattr(Vault.objects.get(pk=cast.vault.pk), field) == value
        assert changed.generation == before + 1
        told = GenerationChange.objects.get(generation=changed.generation)
        assert (told.kind, told.object_id) == ("VAULT", cast.vault.pk)
        event = AuditEvent.objects.latest("sequence")
        assert event.reason == "because"
        assert event.generation == changed.generation
        assert (event.after or {})[field] == value
        # Said twice: no new revision, no event, but an answer.
        revision, events = changed.vault.revision, AuditEvent.objects.count()
        again = act(cast.actor(who), cast.vault.pk, reason="again")
        assert again.vault.revision == revision
        assert again.generation == changed.generation
        assert AuditEvent.objects.count() == events


def test_the_way_back_passes_approval(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    vaults.disable_vault(cast.actor("appliance"), cast.vault.pk, reason="")
    vaults.block_vault(cast.actor("owner"), cast.vault.pk, reason="")
    monkeypatch.setattr(Vault, "approvals_required", 1, raising=False)
    with pytest.raises(NeedsApproval):
        vaults.enable_vault(cast.actor("appliance"), cast.vault.pk)
    with pytest.raises(NeedsApproval):
        vaults.unblock_vault(cast.actor("owner"), cast.vault.pk)
    vault = Vault.objects.get(pk=cast.vault.pk)
    assert (vault.state, vault.blocked) == ("DISABLED", True)
    assert {"vault:vault:enable", "vault:vault:unblock"} <= {action.value for action in GUARDED}


def test_a_destroyed_vault_stays_so(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(state=Vault.State.DESTROYED)
    for act in (vaults.enable_vault, vaults.disable_vault):
        with pytest.raises(Conflict):
            act(cast.actor("appliance"), cast.vault.pk, reason="")
    with pytest.raises(Conflict):
        vaults.update_vault(cast.actor("appliance"), cast.vault.pk, description="x")


def test_updates(cast: Cast) -> None:
    vault = vaults.update_vault(cast.actor("owner"), cast.vault.pk, name="Cards", expected_revision=1)
    assert (vault.name, vault.revision) == ("Cards", 2)
    with pytest.raises(StaleRevision):
        vaults.update_vault(cast.actor("owner"), cast.vault.pk, name="X", expected_revision=1)
    with pytest.raises(ValidationFailed):
        vaults.update_vault(cast.actor("owner"), cast.vault.pk, name="Elsewhere")
    with pytest.raises(NotFound):
        vaults.update_vault(cast.actor("outsider"), cast.vault.pk, name="X")
    with pytest.raises(NotFound):
        vaults.update_vault(cast.actor("appliance"), uuid4(), name="X")


def test_generations_belong_to_switches_only(cast: Cast) -> None:
    vaults.update_vault(cast.actor("owner"), cast.vault.pk, name="Cards")
    assert not Generation.objects.filter(value__gt=0).exists()
