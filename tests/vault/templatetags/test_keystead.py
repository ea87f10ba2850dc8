"""The small parts of pages: addresses and moments as they are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from django.urls import reverse

from vault.templatetags.keystead import relative, vault_url

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)


def test_an_address_is_that_of_its_own_ids() -> None:
    vault = SimpleNamespace(pk=uuid4())
    for key_id in (uuid4(), uuid4(), UUID(int=1), UUID(int=2)):
        wanted = reverse("cloud-key", kwargs={"vault_id": vault.pk, "key_id": key_id})
        assert vault_url("cloud-key", vault, key_id=key_id) == wanted
    for tab in ("keys", "schedule"):
        wanted = reverse("key-set-tab", kwargs={"vault_id": vault.pk, "key_set_id": vault.pk, "tab": tab})
        assert vault_url("key-set-tab", vault, key_set_id=vault.pk, tab=tab) == wanted
    assert vault_url("key-set-tab", vault, key_set_id=vault.pk, tab="no/tab") == ""
    assert vault_url("there-is-no-such-page", vault) == ""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "now"),
        (4, "now"),
        (-5, "5 seconds ago"),
        (60, "in 1 minute"),
        (-7200, "2 hours ago"),
        (86400 * 12, "in 12 days"),
        (-86400 * 61, "2 months ago"),
        (86400 * 730, "in 2 years"),
    ],
)
def test_a_moment_as_people_say_it(seconds: int, told: str) -> None:
    at = NOW + timedelta(seconds=seconds)
    assert relative(at, NOW) == told
    assert relative(at, NOW) == told, "the second time too"
