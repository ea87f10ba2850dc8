"""Every endpoint with what each of the cast gets from it.

One row for each method of each address. `tests/vault/api/test_matrix.py` runs them all and fails when the URL table holds an
endpoint without a row. Rooms above vault/ add their rows in their own list (see ROWS at the end).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from tests.api_row import Row, in_payments
from tests.cast import PASSWORD, Cast
from tests.cloudkeys.matrix import CLOUDKEYS_ROWS
from tests.xks.matrix import XKS_ROWS
from vault.actors import Actor
from vault.models import AuditEvent, Group, HsmConnection, HsmMember, Node, SavedView
from vault.services import hsm
from vault.services.tokens import create_token
from vault.services.vaults import block_vault, disable_vault


def _vault(cast: Cast) -> dict[str, Any]:
    return {"vault_id": cast.vault.pk}


def _keeper_answers(patch: pytest.MonkeyPatch) -> None:
    """A keeper that has tested the members as soon as it is asked."""
    ask = hsm.request_test

    def asked(actor: Actor, connection_id: UUID) -> UUID:
        wanted = ask(actor, connection_id)
        report = {
            "id": str(wanted),
            "at": timezone.now().isoformat(),
            "host": "node-1",
            "ok": True,
            "members": [],
        }
        HsmConnection.objects.filter(pk=connection_id).update(test_report=report)
        return wanted

    patch.setattr(hsm, "request_test", asked)


def _disabled(cast: Cast) -> dict[str, Any]:
    disable_vault(cast.actor("appliance"), cast.vault.pk, reason="test")
    return _vault(cast)


def _blocked(cast: Cast) -> dict[str, Any]:
    block_vault(cast.actor("owner"), cast.vault.pk, reason="test")
    return _vault(cast)


def _auditor(cast: Cast) -> dict[str, Any]:
    return {"member_id": cast.memberships["auditor"].pk}


def _group(cast: Cast) -> dict[str, Any]:
    return {"group_id": Group.objects.create(vault=cast.vault, name="Team").pk}


def _token_of_owner(cast: Cast) -> dict[str, Any]:
    return {"token_id": create_token(cast.actor("owner"), name="other").token.pk}


def _shared_view(cast: Cast) -> dict[str, Any]:
    view = SavedView.objects.create(
        vault=cast.vault, user=cast.users["owner"], page="cloud-keys", name="Mine", shared=True
    )
    return {"view_id": view.pk}


def _event(cast: Cast) -> dict[str, Any]:
    event = AuditEvent.objects.create(
        vault=cast.vault, actor_type="user", via="api", action="vault:group:create"
    )
    return {"event_id": event.id}


def _node(cast: Cast) -> dict[str, Any]:
    now = timezone.now()
    return {"node_id": Node.objects.create(name="xks-a", started_at=now, last_seen_at=now).pk}


def _hsm(cast: Cast) -> dict[str, Any]:
    row = HsmConnection.objects.create(name="luna-a", module_path="/usr/lib/softhsm/none.so")
    HsmMember.objects.create(connection=row, token_serial="1")
    return {"hsm_id": row.pk}


def _rollback(cast: Cast) -> dict[str, Any]:
    node = _node(cast)["node_id"]
    Node.objects.filter(pk=node).update(refused_mark="9:abc", refused_from=9, refused_generation=4)
    return {"reason": "Restored the backup of 13:00"}


def nowhere(name: str) -> Callable[[Cast], dict[str, Any]]:
    """Path parameter of an object that does not exist."""
    missing: UUID = uuid4()
    return lambda cast: {name: missing}


V = "api/v1/"
VAULT_ROWS = [
    # method, route, owner, colleague, auditor, outsider, appliance, anonymous
    Row("GET", V + "openapi.json", 200, 200, 200, 200, 200, 200),
    Row("GET", V + "docs", 200, 200, 200, 200, 200, 200),
    Row(
        "POST", V + "auth/sign-in", 200, 200, 200, 200, 200, 200,
        body=lambda cast: {"email": "owner@example.com", "password": PASSWORD},
    ),
    Row("POST", V + "auth/sign-out", 204, 204, 204, 204, 204, body=lambda cast: {}),
    Row(
        "POST", V + "auth/password", 200, 200, 200, 200, 200, session=True,
        body=lambda cast: {"current_password": PASSWORD, "new_password": "another horse, another battery"},
    ),
    Row("GET", V + "auth/me", 200, 200, 200, 200, 200),
    Row("PATCH", V + "auth/me", 200, 200, 200, 200, 200, session=True, body=lambda cast: {"name": "New"}),
    Row("GET", V + "auth/sessions", 200, 200, 200, 200, 200, session=True),
    Row(
        "DELETE", V + "auth/sessions/<int:session_id>", 404, 404, 404, 404, 404, session=True,
        at=lambda cast: {"session_id": 99999999},
    ),
    Row("GET", V + "auth/tokens", 200, 200, 200, 200, 200, session=True),
    Row("POST", V + "auth/tokens", 201, 201, 201, 201, 201, session=True, body=lambda cast: {"name": "ci"}),
    Row("GET", V + "auth/tokens/<uuid:token_id>", 200, 404, 404, 404, 404, session=True, at=_token_of_owner),
    Row("DELETE", V + "auth/tokens/<uuid:token_id>", 204, 404, 404, 404, 404, session=True, at=_token_of_owner),
    Row(
        "POST", V + "one-time-passwords", 403, 403, 403, 403, 200,
        body=lambda cast: {"email": "auditor@example.com"},
    ),
    Row("GET", V + "vaults", 200, 200, 200, 200, 200),
    Row(
        "POST", V + "vaults", 403, 403, 403, 403, 201,
        body=lambda cast: {"name": "New", "admin_name": "Grace", "admin_email": "grace@example.com"},
    ),
    Row("GET", V + "vaults/<uuid:vault_id>", 200, 200, 200, 404, 200, at=_vault),
    Row(
        "PATCH", V + "vaults/<uuid:vault_id>", 200, 403, 403, 404, 200, at=_vault, if_match=True,
        body=lambda cast: {"description": "new"},
    ),
    Row("POST", V + "vaults/<uuid:vault_id>/disable", 403, 403, 403, 403, 200, at=_vault, body=lambda cast: {}),
    Row("POST", V + "vaults/<uuid:vault_id>/enable", 403, 403, 403, 403, 200, at=_disabled, body=lambda cast: {}),
    Row("POST", V + "vaults/<uuid:vault_id>/block", 200, 403, 403, 404, 404, at=_vault, body=lambda cast: {}),
    Row("POST", V + "vaults/<uuid:vault_id>/unblock", 200, 403, 403, 404, 404, at=_blocked, body=lambda cast: {}),
    Row("GET", V + "members", 200, 200, 200, 404, 404, query=in_payments),
    Row(
        "POST", V + "members", 201, 403, 403, 404, 404,
        body=lambda cast: {**in_payments(cast), "email": "grace@example.com", "role": "AUDITOR"},
    ),
    Row("GET", V + "members/<uuid:member_id>", 200, 200, 200, 404, 404, at=_auditor),
    Row(
        "PATCH", V + "members/<uuid:member_id>", 200, 403, 403, 404, 404, at=_auditor, if_match=True,
        body=lambda cast: {"role": "CLOUD_ADMIN"},
    ),
    Row("DELETE", V + "members/<uuid:member_id>", 204, 403, 403, 404, 404, at=_auditor, if_match=True),
    Row("GET", V + "groups", 200, 200, 200, 404, 404, query=in_payments),
    Row("POST", V + "groups", 201, 403, 403, 404, 404, body=lambda cast: {**in_payments(cast), "name": "Team"}),
    Row("GET", V + "groups/<uuid:group_id>", 200, 200, 200, 404, 404, at=_group),
    Row(
        "PATCH", V + "groups/<uuid:group_id>", 200, 403, 403, 404, 404, at=_group, if_match=True,
        body=lambda cast: {"name": "Crew"},
    ),
    Row("DELETE", V + "groups/<uuid:group_id>", 204, 403, 403, 404, 404, at=_group, if_match=True),
    Row("GET", V + "audit-events", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", V + "audit-events/export", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", V + "audit-events/<uuid:event_id>", 200, 200, 200, 404, 404, at=_event),
    Row("GET", V + "nodes", 200, 200, 200, 200, 200),
    Row("GET", V + "nodes/<uuid:node_id>", 200, 200, 200, 200, 200, at=_node),
    Row("POST", V + "nodes/accept-rollback", 403, 403, 403, 403, 200, body=_rollback),
    Row("GET", V + "hsms", 403, 403, 403, 403, 200),
    Row(
        "POST", V + "hsms", 403, 403, 403, 403, 201,
        body=lambda cast: {
            "name": "luna", "module_path": "/usr/lib/softhsm/none.so", "members": [{"serial": "1"}], "pin": "1234-5678",
        },
    ),
    Row("GET", V + "hsms/<uuid:hsm_id>", 403, 403, 403, 403, 200, at=_hsm),
    Row(
        "PATCH", V + "hsms/<uuid:hsm_id>", 403, 403, 403, 403, 200, at=_hsm, if_match=True,
        body=lambda cast: {"timeout_ms": 2000},
    ),
    Row("DELETE", V + "hsms/<uuid:hsm_id>", 403, 403, 403, 403, 204, at=_hsm, if_match=True),
    Row("POST", V + "hsms/<uuid:hsm_id>/pin", 403, 403, 403, 403, 200, at=_hsm, body=lambda cast: {"pin": "8765"}),
    # No keeper runs here, so that nobody answers.
    Row(
        "POST", V + "hsms/<uuid:hsm_id>/test", 403, 403, 403, 403, 200, at=_hsm, body=lambda cast: {"wait_s": 0},
        patch=_keeper_answers,
    ),
    Row("GET", V + "hsms/<uuid:hsm_id>/keys", 403, 403, 403, 403, 200, at=_hsm),
    Row("GET", V + "root-key", 403, 403, 403, 403, 200),
    Row("POST", V + "root-key/move", 403, 403, 403, 403, 409, body=lambda cast: {"hsm": str(_hsm(cast)["hsm_id"])}),
    Row("GET", V + "system", 403, 403, 403, 403, 200),
    Row("POST", V + "system/test-mail", 403, 403, 403, 403, 409, body=lambda cast: {}),
    Row("GET", V + "saved-views", 200, 200, 200, 404, 404, query=in_payments),
    Row(
        "POST", V + "saved-views", 201, 201, 201, 404, 404,
        body=lambda cast: {**in_payments(cast), "page": "cloud-keys", "name": "Due soon"},
    ),
    Row("GET", V + "saved-views/<uuid:view_id>", 200, 200, 200, 404, 404, at=_shared_view),
    Row(
        "PATCH", V + "saved-views/<uuid:view_id>", 200, 403, 403, 404, 404, at=_shared_view, if_match=True,
        body=lambda cast: {"name": "Ours"},
    ),
    Row("DELETE", V + "saved-views/<uuid:view_id>", 204, 403, 403, 404, 404, at=_shared_view, if_match=True),
]  # fmt: skip

# A higher room keeps its rows in a list of its own module and adds it here.
ROWS: list[Row] = [*VAULT_ROWS, *CLOUDKEYS_ROWS, *XKS_ROWS]
