"""Checking a file of CloudKeys."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudkeys.api.key_shapes import KeyFieldsInput
from cloudkeys.models import CloudKey, KeySet
from cloudkeys.services import bulk
from tests.cloudkeys.world import new_key
from vault.actors import Actor


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
