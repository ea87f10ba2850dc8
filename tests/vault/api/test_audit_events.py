"""The audit record by API: who sees what, filters, exports."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tests.cast import Cast
from vault.models import AuditEvent
from vault.services.vaults import block_vault, create_vault, disable_vault

PATH = "/api/v1/audit-events"


@pytest.fixture
def busy(cast: Cast) -> Cast:
    """Something has happened in both vaults and in the installation."""
    disable_vault(cast.actor("appliance"), cast.other_vault.pk, reason="=cmd|' /C calc'!A0")
    block_vault(cast.actor("owner"), cast.vault.pk, reason="Incident 4711")
    cast.api("owner").post("/api/v1/groups", {"name": "Team"})
    create_vault(cast.actor("appliance"), name="New", admin_name="G", admin_email="g@example.com")
    return cast


def actions(cast: Cast, who: str, **query: Any) -> list[str]:
    answer = cast.api(who).get(PATH, **query)
    assert answer.status_code == 200, answer.content
    return [item["action"] for item in answer.json()["items"]]


def test_a_member_sees_the_vault_and_nothing_else(busy: Cast) -> None:
    assert actions(busy, "auditor") == ["vault:group:create", "vault:vault:block"]
    assert actions(busy, "outsider") == ["vault:vault:disable"]


def test_the_appliance_admin_sees_what_happened_to_vaults_not_in_them(busy: Cast) -> None:
    found = actions(busy, "appliance")
    assert "vault:vault:block" in found
    assert "vault:user:create" in found
    assert "auth:token:create" in found
    assert "vault:group:create" not in found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"person": "owner@example.com (token tests)"}, ["vault:group:create"]),
        ({"person": "owner@example.com"}, ["vault:vault:block"]),
        ({"object": "Team"}, ["vault:group:create"]),
        ({"object_type": "vault"}, ["vault:vault:block"]),
        ({"action": "vault:vault:block"}, ["vault:vault:block"]),
        (
            {"action": ["vault:vault:block", "vault:group:create"]},
            ["vault:group:create", "vault:vault:block"],
        ),
        ({"outcome": "DENIED"}, []),
        ({"request_id": "request-of-a-test"}, ["vault:vault:block"]),
        ({"ordering": "at"}, ["vault:vault:block", "vault:group:create"]),
    ],
)
def test_filters(busy: Cast, query: dict[str, Any], expected: list[str]) -> None:
    assert actions(busy, "owner", **query) == expected


def test_by_ids(busy: Cast) -> None:
    assert len(actions(busy, "owner", person=str(busy.users["owner"].pk))) == 2
    assert actions(busy, "owner", object=str(busy.vault.pk)) == ["vault:vault:block"]


def body_of(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode()


def test_export_as_json_lines(busy: Cast) -> None:
    answer = busy.api("owner").get(f"{PATH}/export")
    assert answer["Content-Type"] == "application/jsonl"
    assert "audit-events.jsonl" in answer["Content-Disposition"]
    rows = [json.loads(line) for line in body_of(answer).splitlines()]
    assert [row["action"] for row in rows] == ["vault:vault:block", "vault:group:create"]
    listed = busy.api("owner").get(PATH, ordering="at").json()["items"]
    assert [row["id"] for row in rows] == [item["id"] for item in listed]
    assert rows[0]["after"] == {"state": "ENABLED", "blocked": True}


def test_export_as_csv_is_no_formula(busy: Cast) -> None:
    answer = busy.api("outsider").get(f"{PATH}/export", **{"as": "csv"})
    assert answer["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(body_of(answer), newline="")))
    assert len(rows) == 1
    assert rows[0]["reason"] == "'=cmd|' /C calc'!A0"
    assert json.loads(rows[0]["after"]) == {"state": "DISABLED", "blocked": False}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"as": "xml"}, "as"),
        ({"since": "x"}, "since"),
        ({"limit": "3"}, "limit"),
        ({"action": "x"}, "action"),
    ],
)
def test_wrong_exports_name_the_parameter(busy: Cast, query: dict[str, str], field: str) -> None:
    answer = busy.api("owner").get(f"{PATH}/export", **query)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


def test_one_event(busy: Cast) -> None:
    own = AuditEvent.objects.get(action="vault:group:create", target_name="Team")
    sign_in = AuditEvent.objects.filter(vault=None).latest("sequence")
    path = f"{PATH}/{own.id}"
    assert busy.api("owner").get(path).json()["target_name"] == "Team"
    assert busy.api("appliance").get(path).status_code == 404
    assert busy.api("owner").get(f"{PATH}/{sign_in.id}").status_code == 404
    assert busy.api("appliance").get(f"{PATH}/{sign_in.id}").status_code == 200
