"""/api/v1/auth: signing in, passwords, sessions, tokens, and who one is."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.middleware.csrf import get_token
from rest_framework import serializers
from rest_framework.response import Response

from vault.actors import Actor
from vault.api.authentication import request_id, source_ip
from vault.api.endpoints import ApiView, created, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, present
from vault.api.serializers import (
    CreatedMixin,
    JsonObject,
    PlainText,
    ReferenceField,
    ReferenceSerializer,
    SecretField,
    StrictSerializer,
    reference,
)
from vault.errors import NotFound
from vault.models import ApiToken, Membership, Role, UserPreferences, Vault
from vault.permissions import APPLIANCE_PERMISSIONS, ROLE_PERMISSIONS
from vault.services import preferences, second_factor, sessions, tokens, users

TAG = "Signing in"
_VAULT_ID = "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11"


class SignInSerializer(StrictSerializer):
    """E-mail, password and, for accounts that have one, the code of a second factor."""

    email = PlainText(max_length=254)
    password = SecretField(max_length=256)
    code = PlainText(max_length=32, required=False, help_text="From an authenticator, or a recovery code.")


class MembershipOfMeSerializer(serializers.Serializer[Any]):
    """One vault that the caller belongs to."""

    vault = ReferenceSerializer()
    role = serializers.ChoiceField(choices=Role.choices)
    permissions = serializers.ListField(
        child=serializers.CharField(), help_text="What the role (and the token) allows."
    )
    groups = ReferenceSerializer(many=True)


class PreferencesSerializer(serializers.Serializer[Any]):
    """How a person wishes to see and hear things."""

    theme = serializers.ChoiceField(choices=UserPreferences.Theme.choices)
    density = serializers.ChoiceField(choices=UserPreferences.Density.choices)
    attention_mail = serializers.ChoiceField(
        choices=UserPreferences.AttentionMail.choices, help_text="Mails about what needs attention."
    )
    lists = JsonObject(help_text="By page: {columns: [...], density: ...}.")


class MeSerializer(serializers.Serializer[Any]):
    """Who the caller is and what the caller may do."""

    id = serializers.UUIDField()
    email = serializers.CharField()
    name = serializers.CharField(allow_blank=True)
    time_zone = serializers.CharField()
    preferences = PreferencesSerializer()
    must_enrol_second_factor = serializers.BooleanField(
        help_text="True: a vault demands a second factor, and this account has none; set one up on the web page first."
    )
    is_appliance_admin = serializers.BooleanField()
    must_change_password = serializers.BooleanField(
        help_text="True: POST /api/v1/auth/password before anything else."
    )
    appliance_permissions = serializers.ListField(child=serializers.CharField())
    memberships = MembershipOfMeSerializer(many=True)
    token = ReferenceSerializer(allow_null=True, help_text="The API token in use; null for a session.")
    csrf_token = serializers.CharField(
        allow_null=True, help_text="For the header X-CSRFToken; null for a token."
    )


ME = {
    "id": "0b7c1fd0-96a8-4c8e-a1f1-5e9f1c2f7d10",
    "email": "ada@example.com",
    "name": "Ada",
    "time_zone": "Europe/Berlin",
    "preferences": {
        "theme": "system",
        "density": "comfortable",
        "attention_mail": "CRITICAL",
        "lists": {"cloud-keys": {"columns": ["name", "state"]}},
    },
    "must_enrol_second_factor": False,
    "is_appliance_admin": False,
    "must_change_password": False,
    "appliance_permissions": [],
    "memberships": [
        {
            "vault": {"id": _VAULT_ID, "name": "Payments"},
            "role": "VAULT_ADMIN",
            "permissions": ["cloud_keys.create", "cloud_keys.view"],
            "groups": [{"id": "c0f3c0de-0a58-4f7b-9a0c-2f1f3f2d8a77", "name": "Cloud Admin Group"}],
        }
    ],
    "token": None,
    "csrf_token": "Yb0zq4nRvJ2m6o8s1t3u5w7x9y0A1B2C3D4E5F6G7H8I9J0K1L2M3N4O5P6Q7R8S",
}


def me_data(request: Any, actor: Actor) -> dict[str, Any]:
    """MeSerializer's data."""
    user = actor.user
    if user is None:
        raise NotFound("There is nobody signed in.")
    rows = Membership.objects.filter(user=user).exclude(vault__state=Vault.State.DESTROYED)
    memberships = []
    for row in rows.select_related("vault").prefetch_related("groups").order_by("vault__name"):
        role = actor.role_in(row.vault_id)
        if role is not None:
            memberships.append(
                {
                    "vault": reference(row.vault),
                    "role": role.value,
                    "permissions": sorted(ROLE_PERMISSIONS[role]),
                    "groups": [reference(group) for group in row.groups.all()],
                }
            )
    return {
        "id": str(user.pk),
        "email": user.email,
        "name": user.name,
        "time_zone": user.time_zone,
        "preferences": PreferencesSerializer(preferences.preferences_of(user)).data,
        "must_enrol_second_factor": actor.token is None and second_factor.must_enrol(user),
        "is_appliance_admin": actor.is_appliance_admin,
        "must_change_password": user.must_change_password,
        "appliance_permissions": sorted(APPLIANCE_PERMISSIONS) if actor.is_appliance_admin else [],
        "memberships": memberships,
        "token": reference(actor.token),
        "csrf_token": None if actor.token is not None else get_token(request._request),
    }


class SignIn(ApiView):
    """POST auth/sign-in"""

    # Nobody is signed in yet. JSON only, so no page of another origin can send it (no CORS) and it needs no CSRF token.
    authentication_classes: Any = ()

    @operation(
        "auth_sign_in",
        summary="Sign in",
        description="Begin a session with e-mail and password; the answer sets the session cookie. Programs rather use an API "
        "token. Somebody who signs in with a one-time password must set a new one before anything else. After five wrong "
        "passwords the same caller waits five minutes.",
        tag=TAG,
        request=SignInSerializer,
        request_example={"email": "ada@example.com", "password": "correct horse battery staple"},
        response=MeSerializer,
        example=ME,
        access="anyone",
        throttle="sign_in",
        errors=(401,),
    )
    def post(self, request: Any) -> Response:
        """Sign in."""
        data = request.data_in
        anonymous = Actor(via="api", source_ip=source_ip(request), request_id=request_id(request))
        user = sessions.sign_in(
            request._request, anonymous, data["email"], data["password"], data.get("code", "")
        )
        return Response(me_data(request, Actor(user=user, via="api", source_ip=anonymous.source_ip)))


class SignOut(ApiView):
    """POST auth/sign-out"""

    @operation(
        "auth_sign_out",
        summary="Sign out",
        description="End the present session. With an API token there is none to end, and nothing happens.",
        tag=TAG,
        status=204,
        access="one_time_password",
    )
    def post(self, request: Any) -> Response:
        """Sign out."""
        if request.actor.token is None:
            sessions.sign_out(request._request, request.actor)
        return Response(status=204)


class SetPasswordSerializer(StrictSerializer):
    """The present password (a one-time password counts) and the new one."""

    current_password = SecretField(max_length=256)
    new_password = SecretField(max_length=256, help_text="At least 12 characters, not a common one.")


class Password(ApiView):
    """POST auth/password"""

    @operation(
        "auth_set_password",
        summary="Set a new password",
        description="Replace the password, or the one-time password, of the person signed in. This session goes on, every other "
        "session ends; API tokens stay.",
        tag=TAG,
        request=SetPasswordSerializer,
        request_example={
            "current_password": "k7pdm-x2v9q-hr4tn-w8scz",
            "new_password": "correct horse battery staple",
        },
        response=MeSerializer,
        example=ME,
        access="one_time_password",
        throttle="sign_in",
    )
    def post(self, request: Any) -> Response:
        """Set the password."""
        data = request.data_in
        user = sessions.change_password(
            request._request, request.actor, data["current_password"], data["new_password"]
        )
        return Response(me_data(request, Actor(user=user, via="api")))


class UpdateMeSerializer(StrictSerializer):
    """What people say of themselves."""

    name = PlainText(max_length=150, allow_blank=True)
    time_zone = PlainText(max_length=64, help_text="An IANA name, such as Europe/Berlin.")
    theme = serializers.ChoiceField(choices=UserPreferences.Theme.choices)
    density = serializers.ChoiceField(choices=UserPreferences.Density.choices)
    attention_mail = serializers.ChoiceField(choices=UserPreferences.AttentionMail.choices)
    lists = JsonObject(help_text="Changes the named pages only; null resets a page.")


class Me(ApiView):
    """GET, PATCH auth/me"""

    @operation(
        "auth_me",
        summary="Tell who I am",
        description="The person or token behind the request, with roles and permissions in every vault, and the CSRF token that a "
        "session needs for changes.",
        tag=TAG,
        response=MeSerializer,
        example=ME,
        access="one_time_password",
    )
    def get(self, request: Any) -> Response:
        """Who I am."""
        return Response(me_data(request, request.actor))

    @operation(
        "auth_update_me",
        summary="Change my name, time zone or preferences",
        description="Name and time zone as others see them and as pages show times; theme, density, columns of lists, and mails about what "
        "needs attention. Nobody else changes these, so no If-Match.",
        tag=TAG,
        request=UpdateMeSerializer,
        request_example={"time_zone": "Europe/Berlin"},
        response=MeSerializer,
        example=ME,
    )
    def patch(self, request: Any) -> Response:
        """Change my profile."""
        values = dict(request.data_in)
        wishes = {
            name: values.pop(name)
            for name in ("theme", "density", "attention_mail", "lists")
            if name in values
        }
        with transaction.atomic():
            if values or not wishes:
                request.actor.user = users.update_profile(request.actor, **values)
            if wishes:
                preferences.update_preferences(request.actor, **wishes)
        return Response(me_data(request, request.actor))


class SessionSerializer(serializers.Serializer[Any]):
    """A browser or program that is signed in."""

    id = serializers.IntegerField()
    current = serializers.SerializerMethodField(help_text="The session of this very request.")
    ip = serializers.CharField()
    user_agent = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField()

    def get_current(self, row: Any) -> bool:
        """Whether it is the request's own."""
        return bool(row.session_key == self.context["request"]._request.session.session_key)


class SessionsSerializer(serializers.Serializer[Any]):
    """All of a person's sessions; there are never so many that they need pages."""

    items = SessionSerializer(many=True)


class SessionList(ApiView):
    """GET auth/sessions"""

    @operation(
        "auth_sessions_list",
        summary="List my sessions",
        description="Where the person is signed in, the newest first.",
        tag=TAG,
        response=SessionsSerializer,
        example={
            "items": [
                {
                    "id": 12,
                    "current": True,
                    "ip": "192.0.2.17",
                    "user_agent": "Mozilla/5.0",
                    "created_at": "2026-11-22T09:00:00Z",
                    "last_seen_at": "2026-11-22T14:00:00Z",
                }
            ]
        },
    )
    def get(self, request: Any) -> Response:
        """List sessions."""
        found = sessions.my_sessions(request.actor)
        return Response({"items": SessionSerializer(found, many=True, context={"request": request}).data})


class SessionDetail(ApiView):
    """DELETE auth/sessions/{session_id}"""

    @operation(
        "auth_sessions_revoke",
        summary="End one of my sessions",
        description="Sign that browser or program out, at once.",
        tag=TAG,
        status=204,
        errors=(404,),
    )
    def delete(self, request: Any, session_id: int) -> Response:
        """End a session."""
        sessions.revoke_session(request.actor, session_id)
        return Response(status=204)


class TokenSerializer(serializers.Serializer[Any]):
    """An API token, without its text."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="How the token begins, to tell tokens apart.")
    vault = ReferenceField(
        allow_null=True, help_text="The only vault it may touch; null for all of its owner's."
    )
    role = serializers.SerializerMethodField(help_text="A ceiling below the owner's role; null for none.")
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="Exact to a minute.")
    last_used_ip = serializers.CharField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def get_role(self, row: ApiToken) -> str | None:
        """The ceiling."""
        return row.role or None


class CreateTokenSerializer(StrictSerializer):
    """What the token is for and how far it goes."""

    name = PlainText(max_length=100)
    vault = serializers.UUIDField(required=False, allow_null=True, help_text="The only vault it may touch.")
    role = serializers.ChoiceField(
        choices=Role.choices, required=False, allow_null=True, help_text="A ceiling."
    )
    expires_at = serializers.DateTimeField(
        required=False, allow_null=True, help_text="Absent: in 90 days. null: never, until revoked."
    )


class TokenCreatedSerializer(TokenSerializer, CreatedMixin):
    """A new token with its text, which is never shown again."""

    token = serializers.CharField(allow_null=True, help_text="The text, this once; null on a replay.")


TOKEN = {
    "id": "5d0f1f2e-8a53-4f9d-8d6b-3f9d0a1c7e21",
    "name": "terraform",
    "prefix": "kst_8fKq2Z",
    "vault": {"id": _VAULT_ID, "name": "Payments"},
    "role": "CLOUD_ADMIN",
    "expires_at": "2027-02-20T14:00:00Z",
    "last_used_at": None,
    "last_used_ip": None,
    "revoked_at": None,
    "created_at": "2026-11-22T14:00:00Z",
}
TOKENS = Listing(
    orderings={"created_at": "created_at", "name": "name", "last_used_at": "last_used_at"},
    default_ordering="-created_at",
    filters=(
        present("revoked", "revoked_at", "true: only revoked ones; false: only the others."),
        choice("role", "role", Role.values, "Only those with this ceiling."),
    ),
    in_vault=False,
)


def _read_token(request: Any, made: Made) -> dict[str, Any]:
    if made.target_id is None:
        raise NotFound("There is no such token.")
    row = tokens.fetch_token(request.actor, made.target_id)
    return {**TokenSerializer(row).data, "token": None}


class TokenList(ApiView):
    """GET, POST auth/tokens"""

    @operation(
        "auth_tokens_list",
        summary="List my API tokens",
        description="The person's own tokens, revoked and expired ones too, without their texts.",
        tag="API tokens",
        response=TokenSerializer,
        example=TOKEN,
        listing=TOKENS,
    )
    def get(self, request: Any) -> Response:
        """List tokens."""
        return page(request, tokens.my_tokens(request.actor), TOKENS, TokenSerializer)

    @operation(
        "auth_tokens_create",
        summary="Make an API token",
        description="The text of the token is in this answer and nowhere else, ever. A token acts as its owner, never above the "
        "owner's role at the time of use; `role` and `vault` narrow it. Only a session may make tokens.",
        tag="API tokens",
        request=CreateTokenSerializer,
        request_example={"name": "terraform", "vault": _VAULT_ID, "role": "CLOUD_ADMIN"},
        response=TokenCreatedSerializer,
        status=201,
        example={**TOKEN, "token": "kst_8fKq2Z...", "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(ApiToken, _read_token),
    )
    def post(self, request: Any) -> Response:
        """Make a token."""
        data = request.data_in
        made = tokens.create_token(
            request.actor,
            name=data["name"],
            vault_id=data.get("vault"),
            role=data.get("role") or "",
            expires_at=data.get("expires_at"),
            never_expires="expires_at" in data and data["expires_at"] is None,
        )
        body = {**TokenSerializer(made.token).data, "token": made.secret.reveal_text()}
        return created(made.token, body, location=f"/api/v1/auth/tokens/{made.token.pk}")


class TokenDetail(ApiView):
    """GET, DELETE auth/tokens/{token_id}"""

    @operation(
        "auth_tokens_show",
        summary="Read one of my API tokens",
        description="Everything but its text.",
        tag="API tokens",
        response=TokenSerializer,
        example=TOKEN,
        errors=(404,),
    )
    def get(self, request: Any, token_id: Any) -> Response:
        """Read a token."""
        return Response(TokenSerializer(tokens.fetch_token(request.actor, token_id)).data)

    @operation(
        "auth_tokens_revoke",
        summary="Revoke an API token",
        description="It is refused from the next request on. The entry stays, for the record. A token may revoke itself.",
        tag="API tokens",
        status=204,
        errors=(404,),
    )
    def delete(self, request: Any, token_id: Any) -> Response:
        """Revoke a token."""
        tokens.revoke_token(request.actor, token_id)
        return Response(status=204)
