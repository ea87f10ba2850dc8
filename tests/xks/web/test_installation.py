"""The appliance admin's first look at the installation, tried by each of the cast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.cast import WHO, Cast
from tests.vault.web.test_hsm import new_hsm
from tests.web import Browser, text_of
from tests.xks.web.test_nodes_and_system import make_node
from vault.models import HsmMember
from vault.services.system import FAIL, OK, Part, System
from xks.models import AuditIntegrity


@pytest.mark.parametrize("who", WHO)
def test_only_the_appliance_admin_sees_it(cast: Cast, who: str) -> None:
    for name in ("installation", "installation-attention"):
        expected = {"appliance": 200, "anonymous": 302}.get(who, 404)
        assert Browser(cast, who).get(reverse(name)).status_code == expected, name


def test_worst_first_and_each_with_the_page_that_mends_it(cast: Cast) -> None:
    now = timezone.now()
    make_node("xks-a")
    make_node("xks-gone", age_s=900)
    hsm = new_hsm(cast)
    HsmMember.objects.filter(connection=hsm).update(state="UNAVAILABLE")
    AuditIntegrity.objects.create(
        checked_at=now - timedelta(days=3), held_at=now - timedelta(days=3), holds=True
    )
    html = Browser(cast, "appliance").get(reverse("installation")).content.decode()
    words = text_of(Browser(cast, "appliance").get(reverse("installation")))
    critical = [words.index("Show HSM"), words.index("xks-gone")]
    assert max(critical) < words.index("The audit record has not been verified for two days.")
    for url in (reverse("hsm", args=[hsm.pk]), reverse("nodes"), reverse("system") + "#record"):
        assert f'class="button small" href="{url}"' in html, url
    assert cast.vault.name not in html


def test_nothing_to_do_says_so_and_parts_that_are_not_well_follow(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_node("xks-a")
    parts = [
        Part("database", "Database", OK, "It answers."),
        Part("disk", "Disk", FAIL, "It is full.", "Make room."),
    ]
    monkeypatch.setattr("xks.web.installation.system_status", lambda actor: System(parts, {}))
    words = text_of(Browser(cast, "appliance").get(reverse("installation")))
    assert "Nothing needs you now Nodes, certificates, HSMs and the audit record were looked at" in words
    assert "Disk It is full. Make room. Show part" in words
    assert "It answers." not in words
    parts.pop()
    assert "Every part is well" in text_of(Browser(cast, "appliance").get(reverse("installation")))


def test_the_number_of_queries_does_not_grow(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xks.web.installation.system_status", lambda actor: System([], {}))
    browser: Any = Browser(cast, "appliance")

    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as asked:
            assert browser.get(reverse("installation")).status_code == 200
        return len(asked)

    make_node("xks-0", age_s=900)
    count()
    few = count()
    for number in range(1, 20):
        make_node(f"xks-{number}", age_s=900)
    assert count() == few
