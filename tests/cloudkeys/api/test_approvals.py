"""Whatever gives access back or takes data for good passes `check_approval`, and is refused whole when that says no."""

from __future__ import annotations

import re

import pytest

from tests.api_matrix import ROWS
from tests.cast import Cast
from tests.cloudkeys.api.world import rows
from tests.cloudkeys.matrix import DESTRUCTION_AT, KEY_AT, STORE_AT, V
from vault.actions import Action
from vault.approvals import GUARDED
from vault.models import Vault

VAULT_AT = V + "vaults/<uuid:vault_id>"
# Who may ask, and at which address.
ASKED: dict[Action, tuple[str, str]] = {
    Action.CLOUD_KEY_ENABLE: ("owner", KEY_AT + "/enable"),
    Action.CLOUD_KEY_UNBLOCK: ("owner", KEY_AT + "/unblock"),
    Action.CLOUD_KEY_SCHEDULE_DELETION: ("owner", KEY_AT + "/schedule-deletion"),
    Action.CLOUD_KEY_DESTROY: ("owner", KEY_AT + "/destroy"),
    Action.XKS_STORE_UNBLOCK: ("owner", STORE_AT + "/unblock"),
    Action.VAULT_ENABLE: ("appliance", VAULT_AT + "/enable"),
    Action.VAULT_UNBLOCK: ("owner", VAULT_AT + "/unblock"),
    Action.VAULT_DESTROY: ("appliance", DESTRUCTION_AT),
}


def test_every_guarded_action_is_asked_for_here() -> None:
    assert set(ASKED) == GUARDED


@pytest.mark.parametrize("action", ASKED)
def test_without_consent_nothing_changes(action: Action, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    who, route = ASKED[action]
    (row,) = [row for row in ROWS if (row.method, row.route) == ("POST", route)]
    assert row.at is not None
    assert row.body is not None
    parameters, body = row.at(cast), row.body(cast)
    path = "/" + re.sub(r"<\w+:(\w+)>", lambda found: str(parameters[found[1]]), route)
    api = cast.api(who)
    # Every vault demands it, as some will once approvals are built.
    monkeypatch.setattr(Vault, "approvals_required", 1, raising=False)
    before, vault = rows(), Vault.objects.values().get(pk=cast.vault.pk)
    answer = api.post(path, body, if_match="*" if row.if_match else None)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (403, "needs_approval")
    assert action.value in problem["detail"]
    assert problem["cure"]
    assert rows() == before
    assert Vault.objects.values().get(pk=cast.vault.pk) == vault
    # The same with consent (none is demanded) goes through, so the refusal was about nothing else.
    monkeypatch.setattr(Vault, "approvals_required", 0)
    assert api.post(path, body, if_match="*" if row.if_match else None).status_code == 200
