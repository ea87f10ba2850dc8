"""Sessions with CSRF, bearer tokens with their ceilings, and the duty to change a one-time password."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from tests.cast import PASSWORD, ApiClient, Cast
from vault.models import ApiToken, AuditEvent, Group, Role, User
from vault.services.tokens import create_token

ME = "/api/v1/auth/me"
NEW = "a new and longer password"


def sign_in(email: str = "owner@example.com", password: str = PASSWORD, **more: Any) -> tuple[Client, Any]:
    client = Client(enforce_csrf_checks=True)
    answer = client.post(
        "/api/v1/auth/sign-in",
        {"email": email, "password": password, **more},
        content_type="application/json",
    )
    return client, answer


def post(client: Client, path: str, body: Any = None, method: str = "POST") -> Any:
    """Send as a browser page of ours would, with the CSRF token."""
    token = client.get(ME).json()["csrf_token"]
    return client.generic(method, path, _body(body), "application/json", headers={"X-CSRFToken": token})


def _body(body: Any) -> bytes:
    import json

    return json.dumps({} if body is None else body).encode()


def test_sign_in_and_out(cast: Cast) -> None:
    client, answer = sign_in(email=" Owner@Example.com ")
    assert answer.status_code == 200
    assert answer.json()["memberships"][0]["role"] == "VAULT_ADMIN"
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert client.get(ME).json()["email"] == "owner@example.com"
    assert post(client, "/api/v1/auth/sign-out").status_code == 204
    assert client.get(ME).status_code == 401
    actions = list(AuditEvent.objects.order_by("sequence").values_list("action", "actor_name", "source_ip"))
    assert actions[-2:] == [
        ("auth:session:sign_in", "owner@example.com", "127.0.0.1"),
        ("auth:session:sign_out", "owner@example.com", "127.0.0.1"),
    ]


def test_the_session_key_is_new_after_signing_in(cast: Cast) -> None:
    client = Client()
    client.session.save()
    session = client.session
    session["planted"] = True
    session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    client.post(
        "/api/v1/auth/sign-in",
        {"email": "owner@example.com", "password": PASSWORD},
        content_type="application/json",
    )
    assert client.cookies[settings.SESSION_COOKIE_NAME].value != session.session_key


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("owner@example.com", "wrong"),
        ("nobody@example.com", PASSWORD),
        ("disabled@example.com", PASSWORD),
        ("x", "yq7z"),
    ],
)
def test_refusals_look_alike(cast: Cast, email: str, password: str) -> None:
    User.objects.create_user("disabled@example.com", PASSWORD, is_active=False)
    _, answer = sign_in(email, password)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "E-mail or password is wrong, or this account may not sign in."
    event = AuditEvent.objects.latest("sequence")
    assert (event.action, event.outcome, event.actor_type) == ("auth:session:refuse", "DENIED", "anonymous")
    assert password not in str(AuditEvent.objects.values())


def test_changes_by_session_need_the_csrf_token(cast: Cast) -> None:
    client, _ = sign_in()
    answer = client.post("/api/v1/groups", {"name": "Team"}, content_type="application/json")
    assert answer.status_code == 403
    assert answer.json()["code"] == "csrf_failed"
    assert not Group.objects.filter(name="Team").exists()
    assert post(client, "/api/v1/groups", {"name": "Team"}).status_code == 201


def test_a_bearer_token_needs_no_csrf_token_and_beats_a_cookie(cast: Cast) -> None:
    client, _ = sign_in("outsider@example.com")
    token = create_token(cast.actor("owner"), name="t").secret.reveal_text()
    answer = client.get(ME, headers={"Authorization": f"bearer {token}"})
    assert answer.json()["email"] == "owner@example.com"
    assert answer.json()["csrf_token"] is None


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer kst_", "Bearer kst_" + "x" * 43, "Bearer \x00", "Bearer a b"]
)
def test_tokens_that_are_none(cast: Cast, header: str) -> None:
    answer = Client().get(ME, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json()["code"] == "not_authenticated"


def test_other_schemes_are_nobody(cast: Cast) -> None:
    answer = Client().get(ME, headers={"Authorization": "Basic b3duZXI6cGFzcw=="})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "change", [{"revoked_at": timezone.now()}, {"expires_at": timezone.now() - timedelta(seconds=1)}]
)
def test_ended_tokens(cast: Cast, change: dict[str, Any]) -> None:
    assert cast.api("owner").get(ME).status_code == 200
    ApiToken.objects.update(**change)
    assert cast.api("owner").get(ME).status_code == 401


def test_tokens_of_a_disabled_person(cast: Cast) -> None:
    cast.api("owner")
    User.objects.filter(email="owner@example.com").update(is_active=False)
    assert cast.api("owner").get(ME).status_code == 401


def test_a_token_never_rises_above_its_owner(cast: Cast) -> None:
    api = cast.api("owner")
    body = {"name": "Team"}
    cast.memberships["owner"].role = Role.AUDITOR
    cast.memberships["owner"].save()
    assert api.post("/api/v1/groups", body).status_code == 403
    assert api.get("/api/v1/groups").status_code == 200


def test_the_ceiling_of_a_token(cast: Cast) -> None:
    made = create_token(cast.actor("owner"), name="reader", role=Role.AUDITOR)
    client = ApiClient(made.secret.reveal_text())
    assert client.get("/api/v1/members").status_code == 200
    assert client.post("/api/v1/groups", {"name": "Team"}).status_code == 403
    me = client.get(ME).json()
    assert me["memberships"][0]["role"] == "AUDITOR"
    assert "members.manage" not in me["memberships"][0]["permissions"]


def test_a_narrowed_token_of_an_appliance_admin_is_none(cast: Cast) -> None:
    made = create_token(cast.actor("appliance"), name="reader", role=Role.AUDITOR)
    client = ApiClient(made.secret.reveal_text())
    assert client.get(ME).json()["is_appliance_admin"] is False
    assert (
        client.post(
            "/api/v1/vaults", {"name": "N", "admin_name": "A", "admin_email": "a@example.com"}
        ).status_code
        == 403
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/auth/tokens", None),
        ("POST", "/api/v1/auth/tokens", {"name": "more"}),
        ("GET", "/api/v1/auth/sessions", None),
        ("DELETE", "/api/v1/auth/sessions/1", None),
        ("PATCH", ME, {"name": "x"}),
        ("POST", "/api/v1/auth/password", {"current_password": PASSWORD, "new_password": NEW}),
    ],
)
def test_what_only_people_do(cast: Cast, method: str, path: str, body: Any) -> None:
    answer = cast.api("owner").request(method, path, body)
    assert answer.status_code == 403


def test_a_token_may_end_itself_only(cast: Cast) -> None:
    own = create_token(cast.actor("owner"), name="own")
    other = create_token(cast.actor("owner"), name="other")
    client = ApiClient(own.secret.reveal_text())
    assert client.delete(f"/api/v1/auth/tokens/{other.token.pk}").status_code == 404
    assert client.delete(f"/api/v1/auth/tokens/{own.token.pk}").status_code == 204
    assert client.get(ME).status_code == 401


@pytest.fixture
def newcomer(cast: Cast) -> User:
    user = cast.users["owner"]
    user.must_change_password = True
    user.one_time_password_expires_at = timezone.now() + timedelta(days=1)
    user.save()
    return user


def test_a_one_time_password_opens_one_door(cast: Cast, newcomer: User) -> None:
    client, answer = sign_in()
    assert answer.json()["must_change_password"] is True
    refused = client.get("/api/v1/vaults")
    assert refused.status_code == 403
    assert refused.json()["code"] == "password_change_required"
    assert post(client, "/api/v1/groups", {"name": "x"}).status_code == 403
    assert cast.api("owner").get("/api/v1/vaults").status_code == 403
    changed = post(client, "/api/v1/auth/password", {"current_password": PASSWORD, "new_password": NEW})
    assert changed.status_code == 200
    assert changed.json()["must_change_password"] is False
    assert client.get("/api/v1/vaults").status_code == 200
    assert sign_in()[1].status_code == 401
    assert sign_in(password=NEW)[1].status_code == 200


def test_a_one_time_password_ends(cast: Cast, newcomer: User) -> None:
    newcomer.one_time_password_expires_at = timezone.now() - timedelta(seconds=1)
    newcomer.save()
    assert sign_in()[1].status_code == 401


@pytest.mark.parametrize(
    ("current", "new", "status", "field"),
    [
        ("wrong", NEW, 401, None),
        (PASSWORD, "shrt77", 400, "new_password"),
        (PASSWORD, "password1234567", 200, None),
        (PASSWORD, "123456789012", 400, "new_password"),
        (PASSWORD, "owner@example.com", 400, "new_password"),
        (PASSWORD, PASSWORD, 400, "new_password"),
        (PASSWORD, "x" * 257, 400, "new_password"),
        (PASSWORD, "", 400, "new_password"),
        (PASSWORD, 123456789012345, 400, "new_password"),
    ],
)
def test_passwords_that_are_refused(
    cast: Cast, current: Any, new: Any, status: int, field: str | None
) -> None:
    client, _ = sign_in()
    answer = post(client, "/api/v1/auth/password", {"current_password": current, "new_password": new})
    assert answer.status_code == status
    if field:
        assert {error["field"] for error in answer.json()["errors"]} == {field}
        assert not isinstance(new, str) or not new or new not in answer.content.decode()


def test_a_new_password_ends_the_other_sessions(cast: Cast) -> None:
    client, _ = sign_in()
    other, _ = sign_in()
    assert len(client.get("/api/v1/auth/sessions").json()["items"]) == 2
    post(client, "/api/v1/auth/password", {"current_password": PASSWORD, "new_password": NEW})
    assert other.get(ME).status_code == 401
    remaining = client.get("/api/v1/auth/sessions").json()["items"]
    assert [item["current"] for item in remaining] == [True]


def test_sessions_are_ended_one_by_one(cast: Cast) -> None:
    client, _ = sign_in()
    other, _ = sign_in()
    stranger, _ = sign_in("outsider@example.com")
    mine = [item for item in client.get("/api/v1/auth/sessions").json()["items"] if not item["current"]]
    path = f"/api/v1/auth/sessions/{mine[0]['id']}"
    assert post(stranger, path, method="DELETE").status_code == 404
    assert post(client, path, method="DELETE").status_code == 204
    assert other.get(ME).status_code == 401
    assert client.get(ME).status_code == 200


def test_five_wrong_passwords_and_one_waits(cast: Cast) -> None:
    for _ in range(5):
        assert sign_in(password="wrong")[1].status_code == 401
    blocked = sign_in()[1]
    assert blocked.status_code == 429
    assert int(blocked["Retry-After"]) > 0
    # Others are not touched by it.
    assert sign_in("outsider@example.com")[1].status_code == 200


@pytest.mark.parametrize("email", ["two words", "x" * 254, "é@example.com", "a:b@c"])
def test_addresses_that_nobody_has_are_refused_like_others(cast: Cast, email: str) -> None:
    assert sign_in(email)[1].status_code == 401


def test_the_present_password_cannot_be_guessed_through_a_session(cast: Cast) -> None:
    client, _ = sign_in()
    for _ in range(5):
        assert (
            post(
                client, "/api/v1/auth/password", {"current_password": "wrong", "new_password": NEW}
            ).status_code
            == 401
        )
    answer = post(client, "/api/v1/auth/password", {"current_password": PASSWORD, "new_password": NEW})
    assert answer.status_code == 429


def test_unknown_and_known_addresses_cost_one_hash_each(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    from vault.services import sessions

    checked: list[str] = []
    real = sessions.check_password

    def count(password: str, encoded: str) -> bool:
        checked.append(encoded.split("$")[0])
        return bool(real(password, encoded))

    monkeypatch.setattr(sessions, "check_password", count)
    sign_in("nobody@example.com", "wrong")
    sign_in("owner@example.com", "wrong")
    assert len(checked) == 2
    assert checked[0] == checked[1]


def test_a_second_factor_is_asked_for(cast: Cast) -> None:
    from allauth.mfa.totp.internal.auth import (
        TOTP,
        format_hotp_value,
        hotp_value,
        yield_hotp_counters_from_time,
    )

    secret = "JBSWY3DPEHPK3PXP"
    TOTP.activate(cast.users["owner"], secret)
    asked = sign_in()[1]
    assert asked.status_code == 401
    assert asked.json()["code"] == "second_factor_required"
    assert sign_in(code="000000")[1].status_code == 401
    code = format_hotp_value(hotp_value(secret, next(iter(yield_hotp_counters_from_time()))))
    assert sign_in(code=code)[1].status_code == 200
    assert sign_in(code=code)[1].status_code == 401, "a code is good once"


def test_the_seed_of_a_second_factor_is_wrapped(cast: Cast) -> None:
    from allauth.mfa.models import Authenticator
    from allauth.mfa.totp.internal.auth import TOTP

    TOTP.activate(cast.users["owner"], "JBSWY3DPEHPK3PXP")
    assert "JBSWY3DPEHPK3PXP" not in str(Authenticator.objects.values())


def test_the_use_of_a_token_is_noted_once_a_minute(cast: Cast) -> None:
    cast.api("owner").get(ME)
    first = ApiToken.objects.get()
    assert first.last_used_ip == "127.0.0.1"
    cast.api("owner").get(ME)
    assert ApiToken.objects.get().last_used_at == first.last_used_at
    ApiToken.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    cast.api("owner").get(ME)
    assert ApiToken.objects.get().last_used_at > timezone.now() - timedelta(minutes=1)


def test_my_name_and_time_zone(cast: Cast) -> None:
    client, _ = sign_in()
    answer = post(client, ME, {"name": "Ada L.", "time_zone": "Europe/Berlin"}, method="PATCH")
    assert (answer.json()["name"], answer.json()["time_zone"]) == ("Ada L.", "Europe/Berlin")
    for wrong in ("Moon/Base", "../../etc/passwd", ""):
        assert post(client, ME, {"time_zone": wrong}, method="PATCH").json()["field"] == "time_zone"


def test_rate_limits(cast: Cast, settings: Any) -> None:
    settings.KEYSTEAD_API_RATES = {"actor": 3, "sign_in": 2}
    api = cast.api("owner")
    assert [api.get(ME).status_code for _ in range(4)] == [200, 200, 200, 429]
    limited = api.get(ME)
    assert limited.json()["code"] == "rate_limited"
    assert 1 <= int(limited["Retry-After"]) <= 60
    assert cast.api("colleague").get(ME).status_code == 200
    assert [sign_in()[1].status_code for _ in range(3)] == [200, 200, 429]
