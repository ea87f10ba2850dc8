"""The audit pages, tried by each of the cast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from vault.actions import Action
from vault.api.audit_events import FILTERS
from vault.models import AuditEvent, User
from xks.models import AuditIntegrity
from xks.web.audit import listing_in, words_of

SEEN = {"owner": 200, "colleague": 200, "auditor": 200, "outsider": 404, "appliance": 404, "anonymous": 302}


def event(cast: Cast, **more: Any) -> AuditEvent:
    values: dict[str, Any] = {
        "vault": cast.vault,
        "vault_name": cast.vault.name,
        "actor_type": "user",
        "actor_id": str(cast.users["owner"].pk),
        "actor_name": "owner@example.com",
        "via": "web",
        "source_ip": "192.0.2.17",
        "request_id": "ab" * 16,
        "action": "cloudkeys:cloud_key:disable",
        "target_type": "cloudkey",
        "target_id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11",
        "target_name": "payments-prod",
        "before": {"state": "ENABLED", "tags": {}},
        "after": {"state": "DISABLED", "tags": {"team": "pay"}},
    }
    row = AuditEvent.objects.create(**{**values, **more})
    if "at" in more:
        AuditEvent.objects.filter(pk=row.pk).update(at=more["at"])
    return row


def listed(cast: Cast) -> str:
    return reverse("audit", args=[cast.vault.pk])


@pytest.mark.parametrize("who", WHO)
def test_who_reads_it(cast: Cast, who: str) -> None:
    row = event(cast)
    browser = Browser(cast, who)
    assert browser.get(listed(cast)).status_code == SEEN[who]
    assert browser.get(reverse("audit-event", args=[cast.vault.pk, row.id])).status_code == SEEN[who]
    appliance = {"appliance": 200, "anonymous": 302}.get(who, 404)
    assert browser.get(reverse("appliance-audit")).status_code == appliance
    # Nothing of what is in a vault is the appliance admin's to read.
    inside = 302 if who == "anonymous" else 404
    assert browser.get(reverse("appliance-audit-event", args=[row.id])).status_code == inside


def test_an_event_is_shown_in_its_own_vault_only(cast: Cast) -> None:
    foreign = event(cast, vault=cast.other_vault)
    owner = Browser(cast, "owner")
    assert owner.get(reverse("audit-event", args=[cast.vault.pk, foreign.id])).status_code == 404
    assert "payments-prod" not in text_of(owner.get(listed(cast)))


@pytest.mark.parametrize(
    ("query", "finds"),
    [
        ({"person": "owner@example.com"}, True),
        ({"person": "somebody@example.com"}, False),
        ({"object": "payments-prod"}, True),
        ({"object": "7A4C4A52-3C1E-4A39-9D38-0D3F3F9C2B11"}, True),
        ({"object": "payments"}, False),
        ({"action": "cloudkeys:cloud_key:disable"}, True),
        ({"action": "cloudkeys:cloud_key:enable"}, False),
        ({"outcome": "DENIED"}, False),
        ({"request_id": "ab" * 16}, True),
        ({"request_id": "cd" * 16}, False),
        ({"within": "1h"}, True),
        ({"since": "2020-01-01"}, True),
        ({"until": "2020-01-01"}, False),
        ({"since": "2020-01-01T10:00", "until": "2099-01-01T00:00:00Z"}, True),
    ],
)
def test_each_filter_stands_in_the_address(cast: Cast, query: dict[str, str], finds: bool) -> None:
    event(cast)
    answer = Browser(cast, "auditor").get(listed(cast), target="list", **query)
    assert answer.status_code == 200
    assert (
        "Cloud key: disable" in answer.content.decode().split("<tbody>")[-1].split("</tbody>")[0]
    ) is finds or not finds
    assert ("payments-prod</td>" in answer.content.decode()) is finds


def test_times_are_those_of_the_person(cast: Cast) -> None:
    User.objects.filter(pk=cast.users["auditor"].pk).update(time_zone="Asia/Tokyo")
    event(cast, at=timezone.datetime.fromisoformat("2026-03-01T15:30:00+00:00"))  # 00:30 of the 2nd in Tokyo
    auditor = Browser(cast, "auditor")
    assert "payments-prod" in text_of(auditor.get(listed(cast), since="2026-03-02", until="2026-03-02"))
    assert "Nothing matches" in text_of(auditor.get(listed(cast), since="2026-03-01", until="2026-03-01"))
    shown = auditor.get(listed(cast), since="2026-03-02", until="2026-03-02").content.decode()
    assert "since=2026-03-01T15%3A00%3A00%2B00%3A00" in shown
    assert "until=2026-03-02T15%3A00%3A00%2B00%3A00" in shown


def test_a_wrong_filter_is_named_and_offers_no_export(cast: Cast) -> None:
    answer = Browser(cast, "auditor").get(listed(cast), since="yesterday")
    assert answer.status_code == 400
    assert "&#x27;yesterday&#x27; is no date or time, such as 2026-11-22" in answer.content.decode()
    assert "as=csv" not in answer.content.decode()


def test_the_export_is_of_what_is_filtered(cast: Cast) -> None:
    event(cast)
    event(cast, target_name="other-key", target_id="9")
    auditor = Browser(cast, "auditor")
    shown = auditor.get(
        listed(cast), object="payments-prod", within="24h", outcome="SUCCESS"
    ).content.decode()
    link = shown.split('href="/api/v1/audit-events/export?')[1].split('"')[0].replace("&amp;", "&")
    got = auditor.get(f"/api/v1/audit-events/export?{link}")
    assert got.status_code == 200
    told = b"".join(got.streaming_content).decode()  # type: ignore[attr-defined]
    assert "payments-prod" in told
    assert "other-key" not in told


def test_the_queries_do_not_grow_and_none_counts_the_record(cast: Cast) -> None:
    auditor = Browser(cast, "auditor")
    auditor.get(listed(cast))
    asked = []
    for more in (3, 60):
        for _ in range(more):
            event(cast)
        with CaptureQueriesContext(connection) as queries:
            assert auditor.get(listed(cast)).status_code == 200
        asked.append(len(queries))
        assert not [q for q in queries if "COUNT(" in q["sql"]]
    assert asked[0] == asked[1]
    assert 'rel="next"' in auditor.get(listed(cast)).content.decode()


def test_an_event_shows_what_changed_and_leads_on(cast: Cast) -> None:
    row = event(
        cast, reason="Incident 4711", detail={"window_days": 7, "regions": ["eu-west-1", "eu-central-1"]}
    )
    shown = Browser(cast, "auditor").get(reverse("audit-event", args=[cast.vault.pk, row.id]))
    words = text_of(shown)
    assert "state ENABLED DISABLED" in words
    assert 'tags empty {"team": "pay"}' in words
    assert "Incident 4711" in words
    assert "eu-west-1, eu-central-1" in words
    assert f"request_id={'ab' * 16}".encode() in shown.content
    assert f"?person={cast.users['owner'].pk}".encode() in shown.content


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "The record has not been verified yet"),
        ({"age": 1, "holds": True}, "Record holds"),
        ({"age": 30, "holds": True}, "The record was last verified"),
        ({"age": 1, "holds": False}, "The record does not hold"),
    ],
)
def test_the_state_of_the_record_is_told(cast: Cast, columns: dict[str, Any], words: str) -> None:
    if columns:
        at = timezone.now() - timedelta(hours=columns["age"])
        AuditIntegrity.objects.create(
            pk=1,
            checked_at=at,
            held_at=at,
            holds=columns["holds"],
            findings=[] if columns["holds"] else ["Event 3 differs."],
        )
    assert words in text_of(Browser(cast, "auditor").get(listed(cast)))
    told = text_of(Browser(cast, "appliance").get(reverse("appliance-audit")))
    assert words in told
    # Findings may name what is in other vaults: only who audits the installation reads them.
    assert ("Event 3 differs." in told) is (columns.get("holds") is False)
    assert "Event 3 differs." not in text_of(Browser(cast, "auditor").get(listed(cast)))


def test_every_action_has_words_of_its_own() -> None:
    words = [words_of(action.value) for action in Action]
    assert len(set(words)) == len(words)
    assert words_of("cloudkeys:csp_account:create") == "CSP account: create"


def test_the_page_takes_whatever_the_api_takes() -> None:
    from zoneinfo import ZoneInfo

    assert {f.name for f in FILTERS} < {f.name for f in listing_in(ZoneInfo("UTC")).filters}
