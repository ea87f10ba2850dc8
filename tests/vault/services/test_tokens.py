"""API tokens: what is stored, what they may do, how they end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from tests.cast import Cast
from vault.actors import Actor
from vault.errors import NotFound, PermissionDenied, SignInFailed, ValidationFailed
from vault.models import ApiToken, AuditEvent, Role
from vault.services import tokens
from vault.services.tokens import authenticate_token, create_token


def test_the_text_is_stored_nowhere(cast: Cast) -> None:
    made = create_token(cast.actor("owner"), name="ci")
    text = made.secret.reveal_text()
    assert len(text) == 47
    assert text not in repr(made)
    stored = str(ApiToken.objects.values()) + str(AuditEvent.objects.values())
    assert text not in stored
    assert text[10:] not in stored
    assert made.token.prefix == text[:10]
    assert authenticate_token(text, source_ip="192.0.2.1") == made.token


def test_lives(cast: Cast) -> None:
    owner = cast.actor("owner")
    now = timezone.now()
    usual = create_token(owner, name="a").token.expires_at
    assert usual is not None
    assert timedelta(days=89) < usual - now < timedelta(days=91)
    assert create_token(owner, name="b", never_expires=True).token.expires_at is None
    for wrong in (now - timedelta(seconds=1), now + timedelta(days=4000)):
        with pytest.raises(ValidationFailed) as caught:
            create_token(owner, name="c", expires_at=wrong)
        assert caught.value.field == "expires_at"


def test_no_higher_than_the_owner(cast: Cast) -> None:
    with pytest.raises(ValidationFailed) as caught:
        create_token(cast.actor("auditor"), name="x", vault_id=cast.vault.pk, role=Role.VAULT_ADMIN)
    assert caught.value.field == "role"
    with pytest.raises(NotFound):
        create_token(cast.actor("auditor"), name="x", vault_id=cast.other_vault.pk)
    with pytest.raises(NotFound):
        create_token(cast.actor("appliance"), name="x", vault_id=cast.vault.pk)


def test_tokens_and_processes_make_none(cast: Cast) -> None:
    made = create_token(cast.actor("owner"), name="x")
    for actor in (Actor(user=made.token.user, token=made.token), Actor.system("cli"), Actor()):
        with pytest.raises(PermissionDenied):
            create_token(actor, name="y")
        with pytest.raises(PermissionDenied):
            tokens.my_tokens(actor)


@pytest.mark.parametrize(
    "text", ["", "kst_", "x", "kst_" + "a" * 43, "kst_" + "a" * 44, "KST_" + "a" * 43, "kst_é" + "a" * 42]
)
def test_texts_that_are_none(cast: Cast, text: str) -> None:
    with pytest.raises(SignInFailed):
        authenticate_token(text, source_ip=None)


def test_revoking(cast: Cast) -> None:
    owner = cast.actor("owner")
    made = create_token(owner, name="x")
    with pytest.raises(NotFound):
        tokens.revoke_token(cast.actor("outsider"), made.token.pk)
    with pytest.raises(NotFound):
        tokens.revoke_token(Actor(), made.token.pk)
    first = tokens.revoke_token(owner, made.token.pk).revoked_at
    assert first is not None
    assert tokens.revoke_token(owner, made.token.pk).revoked_at == first
    assert AuditEvent.objects.filter(action="auth:token:revoke").count() == 1
    with pytest.raises(SignInFailed):
        authenticate_token(made.secret.reveal_text(), source_ip=None)
