"""Checking a file of CloudKeys."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudkeys.api.key_shapes import KeyFieldsInput
from cloudkeys.models import CloudKey, KeySet
from cloudkeys.services import bulk
from cloudkeys.services.renderers import short_schedule
from tests.cloudkeys.crashing import run_to_end
from tests.cloudkeys.world import new_key
from vault.actors import Actor
from vault.errors import ValidationFailed


@pytest.mark.django_db
def test_a_check_of_many_rows_locks_and_writes_nothing(owner: Actor, key_set: KeySet) -> None:
    """It would keep everybody else from writing, and so from disabling a key, for as long as it takes."""
    rows = "".join(f"key-{number},eu-west-1\n" for number in range(20))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        checked = bulk.check_csv(owner, key_set.pk, "name,region\n" + rows, KeyFieldsInput)
    assert checked.ok
    assert [query["sql"] for query in queries if not query["sql"].startswith("SELECT")] == []
    assert not any("FOR UPDATE" in query["sql"] for query in queries)


@pytest.mark.django_db
def test_rows_clash_with_keys_and_with_one_another(owner: Actor, key_set: KeySet) -> None:
    new_key(owner, key_set, "there")
    text = "name,region,external_key_id\nthere,eu-west-1,\na,eu-west-1,id-1\na,eu-west-1,id-2\na,us-east-1,\nb,eu-west-1,id-1\n"
    checked = bulk.check_csv(owner, key_set.pk, text, KeyFieldsInput)
    assert [(row.ok, row.field) for row in checked.outcomes] == [
        (False, "name"),
        (True, ""),
        (False, "name"),
        (True, ""),
        (False, "external_key_id"),
    ]
    assert CloudKey.objects.filter(kind="USER").count() == 1


@pytest.mark.django_db
def test_rows_have_tags_and_a_schedule(owner: Actor, key_set: KeySet) -> None:
    text = (
        "name,region,tags,rotation_schedule\n"
        "a,eu-west-1,team=pay; env=a=b,90d@4/Europe/Berlin\n"
        "b,eu-west-1,,inherited\n"
        "c,eu-west-1,team,\n"
        "d,eu-west-1,aws:x=1,\n"
        "e,eu-west-1,,often\n"
        'f,eu-west-1,,"{""kind"": ""every""}"\n'
    )
    checked = bulk.check_csv(owner, key_set.pk, text, KeyFieldsInput)
    assert [(row.ok, row.field) for row in checked.outcomes] == [
        (True, ""),
        (True, ""),
        (False, "tags"),
        (False, "tags.aws:x"),
        (False, "rotation_schedule"),
        (False, "rotation_schedule.unit"),
    ]
    assert checked.rows[0]["tags"] == {"team": "pay", "env": "a=b"}
    assert bulk.read_tags(bulk.tags_cell(checked.rows[0]["tags"])) == {"team": "pay", "env": "a=b"}
    values = {
        "kind": "every",
        "every": 90,
        "unit": "days",
        "hour": 4,
        "time_zone": "Europe/Berlin",
    }
    assert checked.rows[0]["rotation_schedule"] == values
    assert short_schedule(values) == "90d@4/Europe/Berlin"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("action", "params", "field"),
    [
        ("tag", {}, "tags"),
        ("tag", {"tags": {}}, "tags"),
        ("tag", {"tags": {"add": {"aws:x": "1"}}}, "tags.add.aws:x"),
        ("tag", {"tags": {"set": {"a": "1"}}}, "tags"),
        ("disable", {"tags": {"add": {"a": "1"}}}, "tags"),
        ("change_schedule", {}, "rotation_schedule"),
        ("change_schedule", {"rotation_schedule": {"kind": "often"}}, "rotation_schedule.kind"),
        ("rotate", {"rotation_schedule": {"kind": "none"}}, "rotation_schedule"),
    ],
)
def test_what_every_key_would_refuse_is_refused_at_once(
    owner: Actor, key_set: KeySet, action: str, params: dict[str, object], field: str
) -> None:
    key = new_key(owner, key_set)
    with pytest.raises(ValidationFailed) as refused:
        bulk.start_bulk(owner, key_set.vault, action, [key.pk], dict(params))
    assert refused.value.field == field


@pytest.mark.django_db
def test_tags_are_added_and_removed_one_by_one(owner: Actor, key_set: KeySet) -> None:
    keys = [
        new_key(owner, key_set, f"key-{number}", tags={"team": "old", "keep": "1"}) for number in range(2)
    ]
    changes = {"tags": {"add": {"team": "pay"}, "remove": ["gone"]}}
    operation = run_to_end(bulk.start_bulk(owner, key_set.vault, "tag", [key.pk for key in keys], changes))
    assert (len(operation.result["done"]), operation.result["failed"]) == (2, [])
    for key in keys:
        key.refresh_from_db()
        assert key.tags == {"team": "pay", "keep": "1"}


@pytest.mark.django_db
def test_schedules_are_changed_and_given_back(owner: Actor, key_set: KeySet) -> None:
    key = new_key(owner, key_set)
    every = {"kind": "every", "every": 30, "unit": "days", "hour": 3, "time_zone": "UTC"}
    for schedule, kept in ((every, every), ({"kind": "inherited"}, None)):
        params = {"rotation_schedule": schedule}
        operation = run_to_end(bulk.start_bulk(owner, key_set.vault, "change_schedule", [key.pk], params))
        assert operation.result["failed"] == []
        key.refresh_from_db()
        assert key.rotation_schedule == kept
    assert key.next_rotation_at is None
