"""Group ownership: a cloud admin outside the group that owns an object sees it and changes nothing of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.api_row import Row
from tests.cast import Cast
from tests.cloudkeys.api.world import rows
from tests.cloudkeys.matrix import CLOUDKEYS_ROWS, V
from tests.cloudkeys.world import new_account
from vault.models import Group

# What belongs to no group yet, is only looked at, or may be done to keys of several groups.
FREE = {
    ("POST", V + "csp-accounts"),
    ("POST", V + "csp-accounts/try-simulator"),
    ("POST", V + "cloud-keys/bulk"),
    ("POST", V + "key-sets/<uuid:key_set_id>/schedule-effects"),
}
GUARDED = [
    row
    for row in CLOUDKEYS_ROWS
    if row.method != "GET" and row.colleague < 300 and (row.method, row.route) not in FREE
]


@pytest.mark.parametrize("row", GUARDED, ids=str)
def test_outside_the_group(row: Row, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    if row.patch is not None:
        row.patch(monkeypatch)
    parameters: dict[str, Any] = row.at(cast) if row.at else {}
    path = "/" + re.sub(r"<\w+:(\w+)>", lambda found: str(parameters[found[1]]), row.route)
    body = row.body(cast) if row.body else None
    cast.group.members.remove(cast.memberships["colleague"])
    api, before = cast.api("colleague"), rows()
    answer = api.request(row.method, path, body, if_match="*" if row.if_match else None)
    assert answer.status_code == 403, answer.content
    assert "group" in answer.json()["detail"]
    assert rows() == before
    # A vault admin is above groups.
    cast.group.members.remove(cast.memberships["owner"])
    owner = cast.api("owner").request(row.method, path, body, if_match="*" if row.if_match else None)
    assert owner.status_code == row.owner


def test_a_key_set_cannot_borrow_another_groups_account(cast: Cast) -> None:
    team = Group.objects.create(vault=cast.vault, name="Team")
    account = new_account(cast.actor("owner"), cast.vault, group=team.pk)
    answer = cast.api("colleague").post("/api/v1/key-sets", {"name": "x", "csp_account": str(account.pk)})
    assert answer.status_code == 403
    team.members.add(cast.memberships["colleague"])
    answer = cast.api("colleague").post("/api/v1/key-sets", {"name": "x", "csp_account": str(account.pk)})
    assert answer.status_code == 201


def test_a_token_with_a_lower_role_does_less(cast: Cast) -> None:
    from tests.cast import ApiClient
    from tests.cloudkeys.matrix import owned_key
    from vault.services.tokens import create_token

    key = owned_key(cast)
    token = create_token(cast.actor("owner"), name="look", role="AUDITOR").secret.reveal_text()
    api = ApiClient(token)
    assert api.get(f"/api/v1/cloud-keys/{key.pk}").status_code == 200
    assert api.post(f"/api/v1/cloud-keys/{key.pk}/disable").status_code == 403
