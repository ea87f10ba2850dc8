"""A credential's secret is in the answer that made it, and in no other answer of any address."""

from __future__ import annotations

import re
from typing import Any

from tests.cast import Cast
from tests.cloudkeys.api.world import CREATIONS
from tests.cloudkeys.matrix import owned_account
from tests.cloudkeys.world import SECRET
from tests.vault.api.test_matrix import endpoints
from vault.models import AuditEvent, Node


def secrets_of(body: Any) -> set[str]:
    """Values of the fields that hold secrets."""
    found: set[str] = set()
    if isinstance(body, dict):
        for name, value in body.items():
            if name in (
                "secret_access_key",
                "RawSecretAccessKey",
                "one_time_password",
                "token",
            ) and isinstance(value, str):
                found.add(value)
            found |= secrets_of(value)
    elif isinstance(body, list):
        for value in body:
            found |= secrets_of(value)
    return found


def test_shown_once_and_never_again(cast: Cast) -> None:
    api = cast.api("owner")
    account = owned_account(cast)
    body = {**CREATIONS["key-sets"].body(cast), "links": [{"region": "eu-west-1", "linked": False}]}
    key_set = api.post("/api/v1/key-sets", body, key="set").json()
    more = api.post(f"/api/v1/xks-key-stores/{key_set['xks_key_store']}/credentials", key="credential").json()
    known = secrets_of(key_set) | secrets_of(more)
    assert len(known) == 2
    assert more["console_file"]["XksProxyAuthenticationCredential"]["RawSecretAccessKey"] in known
    key = api.post(
        "/api/v1/cloud-keys", {"key_set": key_set["id"], "name": "k", "region": "eu-west-1"}
    ).json()["cloud_key"]
    rotating = api.post(f"/api/v1/csp-accounts/{account.pk}/rotate-credential").json()["operation"]
    event = AuditEvent.objects.filter(action="cloudkeys:xks_credential:create").first()
    assert event is not None
    link = api.get("/api/v1/aws-store-links").json()["items"][0]
    ids = {
        "account_id": account.pk,
        "key_set_id": key_set["id"],
        "store_id": key_set["xks_key_store"],
        "link_id": link["id"],
        "key_id": key["id"],
        "operation_id": rotating["id"],
        "vault_id": cast.vault.pk,
        "event_id": event.pk,
        "member_id": cast.memberships["owner"].pk,
        "group_id": cast.group.pk,
    }
    assert not Node.objects.exists()
    asked = 0
    for method, route in endpoints():
        names = re.findall(r"<\w+:(\w+)>", route)
        if (
            method != "GET"
            or not set(names) <= set(ids)
            or route.endswith(("iam-principals", "openapi.json", "docs"))
        ):
            continue
        path = "/" + re.sub(r"<\w+:(\w+)>", lambda found: str(ids[found[1]]), route)
        for who in ("owner", "appliance"):
            answer = cast.api(who).get(path)
            content = b"".join(answer.streaming_content) if answer.streaming else answer.content  # type: ignore[attr-defined]
            for secret in {*known, SECRET}:
                assert secret.encode() not in content, path
        asked += 1
    assert asked > 25
    # Nor in what changing answers say of it.
    retired = api.post(f"/api/v1/xks-credentials/{more['id']}/retire")
    assert retired.status_code == 200
    assert not secrets_of(retired.json())
    changed = api.patch(
        f"/api/v1/csp-accounts/{account.pk}",
        {"access_key_id": "AKIAAAAAAAAAAAAAAAAA", "secret_access_key": SECRET[::-1]},
        if_match="*",
    )
    assert changed.status_code == 200
    assert not secrets_of(changed.json())
    assert SECRET[::-1] not in changed.content.decode()
