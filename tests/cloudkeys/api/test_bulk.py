"""Many keys at once: CSV in, CSV and JSON lines out, bulk acts."""

from __future__ import annotations

import csv
import io
import json
from typing import Any
from uuid import uuid4

import pytest

from cloudkeys.models import CloudKey, Operation
from cloudkeys.services import bulk
from tests.cast import Cast
from tests.cloudkeys.api.world import rows
from tests.cloudkeys.matrix import owned_key, owned_key_set
from tests.cloudkeys.world import ADA, new_key
from vault.models import AuditEvent

CSV = "/api/v1/cloud-keys/csv"
BULK = "/api/v1/cloud-keys/bulk"
EXPORT = "/api/v1/cloud-keys/export"


def text(response: Any) -> str:
    """A streamed answer as text."""
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content).decode()


def test_a_dry_run_says_what_each_row_would_do_and_makes_nothing(cast: Cast) -> None:
    key_set = owned_key_set(cast)
    new_key(cast.actor("owner"), key_set, name="taken")
    content = (
        "\ufeffname,region,description,external_key_id,administrators,users\r\n"
        f'good,eu-west-1,"Cards, and more",,{ADA},\r\n'
        "taken,eu-west-1,,,,\r\n"
        "no alias!,eu-west-1,,,,\r\n"
        "good,eu-west-1,,,,\r\n"
        "good,us-east-1,,,,\r\n"
        "far,moon-1,,,,\r\n"
        "first,eu-west-1,,one-id,,\r\n"
        "second,eu-west-1,,one-id,,\r\n"
        "people,eu-west-1,,,ada grace,\r\n"
        ",eu-west-1,,,,\r\n"
    )
    api, before = cast.api("owner"), rows()
    answer = api.post(CSV, {"key_set": str(key_set.pk), "csv": content, "dry_run": True})
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert (body["ok"], body["operation"]) == (False, None)
    assert [(row["row"], row["name"], row["ok"], row["field"]) for row in body["rows"]] == [
        (1, "good", True, ""),
        (2, "taken", False, "name"),
        (3, "no alias!", False, "name"),
        (4, "good", False, "name"),  # clashes with row 1, which is good
        (5, "good", True, ""),
        (6, "far", False, "region"),
        (7, "first", True, ""),
        (8, "second", False, "external_key_id"),  # clashes with row 7
        (9, "people", False, "administrators[0]"),
        (10, "", False, "name"),
    ]
    assert all(row["message"] and row["cure"] for row in body["rows"] if not row["ok"])
    assert rows() == before
    # The same without dry_run: one bad row, and none is made.
    again = api.post(CSV, {"key_set": str(key_set.pk), "csv": content})
    assert (again.status_code, again.json()["operation"]) == (200, None)
    assert rows() == before


def test_good_rows_become_an_operation_with_exactly_those_rows(cast: Cast) -> None:
    key_set = owned_key_set(cast)
    content = f"name,region,administrators\na,eu-west-1,{ADA}\nb,us-east-1,\n"
    answer = cast.api("owner").post(CSV, {"key_set": str(key_set.pk), "csv": content})
    assert answer.status_code == 202, answer.content
    operation = Operation.objects.get()
    assert answer.headers["Location"] == f"/api/v1/operations/{operation.pk}"
    assert operation.input == {
        "rows": [
            {"name": "a", "region": "eu-west-1", "administrators": [ADA], "key_set": str(key_set.pk)},
            {"name": "b", "region": "us-east-1", "key_set": str(key_set.pk)},
        ]
    }
    assert not CloudKey.objects.filter(kind="USER").exists()
    event = AuditEvent.objects.get(action="cloudkeys:cloud_keys:bulk")
    assert event.detail == {"action": "create", "keys": 2, "operation": str(operation.pk)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "name,region\n",
        "name\na\n",
        "region,name,colour\neu-west-1,a,red\n",
        "name,region,name\na,eu-west-1,b\n",
        "name,region\na\n",
        "name,region\na,eu-west-1,more\n",
        'name,region\n"a,eu-west-1\n',
        "name;region\na;eu-west-1\n",
        "name,region\n" + "a,eu-west-1\n" * (bulk.MAX_ROWS + 1),
    ],
)
def test_a_file_that_is_wrong_as_a_whole(cast: Cast, content: str) -> None:
    key_set, api = owned_key_set(cast), cast.api("owner")
    before = rows()
    answer = api.post(CSV, {"key_set": str(key_set.pk), "csv": content, "dry_run": True})
    assert answer.status_code == 400
    assert answer.json()["field"] == "csv"
    assert rows() == before


def test_an_export_is_no_formula(cast: Cast) -> None:
    owner, key_set = cast.actor("owner"), owned_key_set(cast)
    new_key(owner, key_set, name="-a", description='=HYPERLINK("http://x","y")')
    new_key(owner, key_set, name="b", description="@SUM(1)")
    schedule = {"kind": "every", "every": 90, "unit": "days"}
    new_key(
        owner,
        key_set,
        name="c",
        description='a "quoted", text\nwith lines',
        tags={"team": "pay", "env": "x y"},
        rotation_schedule=schedule,
    )
    response = cast.api("auditor").get(EXPORT, **{"as": "csv"})
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.headers["Content-Disposition"] == 'attachment; filename="cloud-keys.csv"'
    found = list(csv.DictReader(io.StringIO(text(response), newline="")))
    assert [row["name"] for row in found] == ["'-a", "b", "c"]
    assert found[0]["description"] == '\'=HYPERLINK("http://x","y")'
    assert found[1]["description"] == "'@SUM(1)"
    assert found[2]["description"] == 'a "quoted", text\nwith lines'
    assert found[2]["key_set"] == "pay-hyok"
    assert (found[2]["tags"], found[2]["rotation_schedule"]) == ("env=x y;team=pay", "90d@3/UTC")
    assert (found[1]["tags"], found[1]["rotation_schedule"]) == ("", "inherited")


def test_json_lines_hold_what_the_list_holds(cast: Cast) -> None:
    owner, key_set = cast.actor("owner"), owned_key_set(cast)
    for name in ("a", "b"):
        new_key(owner, key_set, name=name, description="zwei\nZeilen \u2028 ü")
    api = cast.api("owner")
    response = api.get(EXPORT)
    assert response.headers["Content-Type"] == "application/jsonl"
    lines = [json.loads(line) for line in text(response).split("\n") if line]
    assert lines == api.get("/api/v1/cloud-keys").json()["items"]
    assert [json.loads(line)["name"] for line in text(api.get(EXPORT, search="b")).split("\n") if line] == [
        "b"
    ]


@pytest.mark.parametrize(
    ("query", "field"), [({"as": "xls"}, "as"), ({"state": "ON"}, "state"), ({"limit": "5"}, "limit")]
)
def test_wrong_exports(cast: Cast, query: dict[str, str], field: str) -> None:
    answer = cast.api("owner").get(EXPORT, **query)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


def test_a_bulk_act_is_asked_for_with_what_it_needs(cast: Cast) -> None:
    key, api = owned_key(cast), cast.api("owner")
    before = rows()
    good = {"action": "disable", "ids": [str(key.pk)]}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"action": "explode"}, "action"),
        ({"ids": []}, "ids"),
        ({"ids": ["x"]}, "ids[0]"),
        ({"ids": [str(uuid4())]}, "ids[0]"),
        ({"ids": [str(key.pk)] * (bulk.MAX_ITEMS + 1)}, "ids"),
        ({"changes": {"description": "x"}}, "changes"),
        ({"action": "update"}, "changes"),
        ({"action": "update", "changes": {"state": "DESTROYED"}}, "changes.state"),
        ({"action": "schedule_deletion"}, "confirm"),
        ({"action": "schedule_deletion", "window_days": 5}, "window_days"),
        ({"confirm": [1]}, "confirm"),
    ]
    for changes, field in wrong:
        answer = api.post(BULK, {**good, **changes})
        assert (answer.status_code, answer.json().get("field")) == (400, field), (changes, answer.content)
    assert rows() == before
    answer = api.post(
        BULK,
        {**good, "action": "schedule_deletion", "ids": [str(key.pk)] * 2, "confirm": {str(key.pk): key.name}},
    )
    assert answer.status_code == 202, answer.content
    assert Operation.objects.get().input == {
        "action": "schedule_deletion",
        "ids": [str(key.pk)],
        "params": {"confirm": {str(key.pk): key.name}},
    }


def test_a_role_that_may_never_do_it_cannot_begin_it(cast: Cast) -> None:
    key = owned_key(cast)
    body = {"action": "unblock", "ids": [str(key.pk)]}
    assert cast.api("colleague").post(BULK, body).status_code == 403
    assert cast.api("auditor").post(BULK, {**body, "action": "refresh"}).status_code == 403
    assert not Operation.objects.exists()
