"""If-Match: nobody overwrites what they have not seen."""

from __future__ import annotations

import pytest

from tests.cast import Cast
from vault.models import Group


def at(cast: Cast) -> str:
    return f"/api/v1/groups/{cast.group.pk}"


def test_the_etag_of_a_read_is_what_an_update_needs(cast: Cast) -> None:
    read = cast.api("owner").get(at(cast))
    assert read["ETag"] == '"1"'
    changed = cast.api("owner").patch(at(cast), {"name": "Team"}, if_match=read["ETag"])
    assert changed.status_code == 200
    assert changed["ETag"] == '"2"'
    assert changed.json()["revision"] == 2


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_without_it(cast: Cast, method: str) -> None:
    answer = cast.api("owner").request(method, at(cast), {"name": "Team"} if method == "PATCH" else None)
    assert answer.status_code == 428
    assert answer.json()["field"] == "If-Match"
    assert Group.objects.get(pk=cast.group.pk).revision == 1


def test_stale_tells_what_was_changed(cast: Cast) -> None:
    cast.api("owner").patch(at(cast), {"description": "by another"}, if_match='"1"')
    answer = cast.api("owner").patch(at(cast), {"name": "Team"}, if_match='"1"')
    assert answer.status_code == 412
    body = answer.json()
    assert body["current"] == 2
    assert body["changed"][0]["by"].startswith("owner@example.com")
    assert body["changed"][0]["after"]["description"] == "by another"
    assert Group.objects.get(pk=cast.group.pk).name == Group.CLOUD_ADMIN_GROUP


def test_stale_tells_a_stranger_nothing(cast: Cast) -> None:
    answer = cast.api("outsider").patch(at(cast), {"name": "Team"}, if_match='"7"')
    assert answer.status_code == 404
    assert "changed" not in answer.json()


def test_star_overwrites(cast: Cast) -> None:
    assert cast.api("owner").patch(at(cast), {"name": "Team"}, if_match="*").status_code == 200


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ('W/"1"', 412),
        ("1", 400),
        ('"x"', 400),
        ('"1", "2"', 400),
        ('""', 400),
        ('"99999999999999999999"', 400),
        ('"-1"', 400),
    ],
)
def test_what_is_no_etag_of_ours(cast: Cast, value: str, status: int) -> None:
    answer = cast.api("owner").patch(at(cast), {"name": "Team"}, if_match=value)
    assert answer.status_code == status
    assert Group.objects.get(pk=cast.group.pk).revision == 1


def test_a_change_that_changes_nothing_keeps_the_revision(cast: Cast) -> None:
    answer = cast.api("owner").patch(at(cast), {"name": Group.CLOUD_ADMIN_GROUP}, if_match='"1"')
    assert answer["ETag"] == '"1"'


def test_switches_honour_it_when_it_is_there(cast: Cast) -> None:
    path = f"/api/v1/vaults/{cast.vault.pk}/block"
    assert cast.api("owner").post(path, {}, if_match='"9"').status_code == 412
    assert cast.api("owner").post(path, {}, if_match='"1"').status_code == 200
    assert cast.api("owner").post(path, {}).json()["vault"]["blocked"] is True
