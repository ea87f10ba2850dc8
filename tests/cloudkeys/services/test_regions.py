"""The regions in which a vault has CloudKeys."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudkeys.services.regions import regions_of
from tests.cast import Cast
from tests.cloudkeys.world import new_account, new_key, new_key_set


@pytest.mark.django_db
def test_each_region_once_of_this_vault_alone(cast: Cast) -> None:
    owner, other = cast.actor("owner"), cast.actor("outsider")
    assert regions_of(cast.vault, 9) == []
    key_set = new_key_set(owner, cast.vault, new_account(owner, cast.vault)).key_set
    for number, region in enumerate(("us-east-1", "eu-west-1", "us-east-1", "ap-south-1", "eu-west-1")):
        new_key(owner, key_set, f"key-{number}", region=region)
    theirs = new_key_set(other, cast.other_vault, new_account(other, cast.other_vault)).key_set
    new_key(other, theirs, region="sa-east-1")
    with CaptureQueriesContext(connection) as asked:
        assert regions_of(cast.vault, 9) == ["ap-south-1", "eu-west-1", "us-east-1"]
    assert len(asked) == 1
    assert regions_of(cast.vault, 2) == ["ap-south-1", "eu-west-1"]
    assert regions_of(cast.other_vault, 9) == ["sa-east-1"]
