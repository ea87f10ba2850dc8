"""The fixed cast of endpoint tests: who they are, and an API client for each.

owner      vault admin of "Payments"
colleague  cloud admin of "Payments", in its Cloud Admin Group
auditor    auditor of "Payments"
outsider   vault admin of "Elsewhere", a stranger to "Payments"
appliance  appliance administrator, a member of no vault
anonymous  nobody
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from django.http import HttpResponse
from django.test import Client

from vault import keys
from vault.actors import Actor
from vault.models import Group, Membership, Role, User, Vault
from vault.services.tokens import create_token

PASSWORD = "correct horse battery staple"
WHO = ("owner", "colleague", "auditor", "outsider", "appliance", "anonymous")


class ApiClient:
    """Talks JSON to the API, with a bearer token when there is one."""

    def __init__(self, token: str | None = None) -> None:
        self.django = Client(headers={"Authorization": f"Bearer {token}"} if token else None)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        if_match: str | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> HttpResponse:
        """Send a request; `body` becomes JSON, `query` the query string."""
        sent = dict(headers or {})
        if if_match is not None:
            sent["If-Match"] = if_match
        if key is not None:
            sent["Idempotency-Key"] = key
        data: Any = b"" if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
        response: HttpResponse = self.django.generic(
            method, path, data, "application/json", headers=sent, query_params=query or None
        )
        return response

    def get(self, path: str, **query: Any) -> HttpResponse:
        """GET."""
        return self.request("GET", path, **query)

    def post(self, path: str, body: Any = None, **more: Any) -> HttpResponse:
        """POST; without a body, an empty object."""
        return self.request("POST", path, {} if body is None else body, **more)

    def patch(self, path: str, body: Any, **more: Any) -> HttpResponse:
        """PATCH."""
        return self.request("PATCH", path, body, **more)

    def delete(self, path: str, **more: Any) -> HttpResponse:
        """DELETE."""
        return self.request("DELETE", path, **more)


@dataclass
class Cast:
    """Two vaults and the people around them."""

    vault: Vault
    other_vault: Vault
    users: dict[str, User]
    memberships: dict[str, Membership]
    group: Group
    _clients: dict[str, ApiClient] = field(default_factory=dict)

    def actor(self, who: str) -> Actor:
        """That person as the actor of a request with a session."""
        return Actor(user=self.users[who], via="api", source_ip="127.0.0.1", request_id="request-of-a-test")

    def api(self, who: str) -> ApiClient:
        """A client with that person's API token; without any for "anonymous"."""
        if who not in self._clients:
            token = None
            if who != "anonymous":
                token = create_token(self.actor(who), name="tests").secret.reveal_text()
            self._clients[who] = ApiClient(token)
        return self._clients[who]

    def session(self, who: str) -> Client:
        """A browser-like client that is signed in, with CSRF checks on."""
        client = Client(enforce_csrf_checks=True)
        client.force_login(self.users[who])
        return client


def new_vault(name: str) -> Vault:
    """An enabled vault with a KEK."""
    with transaction.atomic():
        vault = Vault(name=name)
        vault.kek_blob = keys.new_vault_kek(vault.pk)
        vault.save(force_insert=True)
    return vault


def new_user(name: str, **more: Any) -> User:
    """A person whose password is PASSWORD."""
    return User.objects.create_user(f"{name}@example.com", PASSWORD, name=name.capitalize(), **more)


@pytest.fixture
def cast(db: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cast, in an installation with a root key of this test's own."""
    folder = tmp_path / "root"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", str(folder / "root.key"))
    keys.forget_keys()
    keys.ensure_root_key(create_allowed=True)
    payments, elsewhere = new_vault("Payments"), new_vault("Elsewhere")
    users = {name: new_user(name) for name in ("owner", "colleague", "auditor", "outsider")}
    users["appliance"] = new_user("appliance", is_appliance_admin=True)
    roles = {"owner": Role.VAULT_ADMIN, "colleague": Role.CLOUD_ADMIN, "auditor": Role.AUDITOR}
    memberships = {
        who: Membership.objects.create(vault=payments, user=users[who], role=role)
        for who, role in roles.items()
    }
    memberships["outsider"] = Membership.objects.create(
        vault=elsewhere, user=users["outsider"], role=Role.VAULT_ADMIN
    )
    group = Group.objects.create(vault=payments, name=Group.CLOUD_ADMIN_GROUP)
    group.members.set([memberships["owner"], memberships["colleague"]])
    yield Cast(payments, elsewhere, users, memberships, group)
    keys.forget_keys()
