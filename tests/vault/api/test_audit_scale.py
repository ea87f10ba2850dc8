"""The audit list at many events: a page is found by an index, whatever it is filtered by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.request import Request

from tests.cast import Cast
from vault.api.audit_events import EVENTS
from vault.api.listing import paginate
from vault.models import AuditEvent

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
SOMEBODY = str(uuid4())


@pytest.fixture
def many(cast: Cast) -> None:
    """Enough events of two vaults that a scan of the table would be dearer than an index."""
    AuditEvent.objects.bulk_create(
        (
            AuditEvent(
                vault=cast.vault if number % 2 else cast.other_vault, actor_type="user", actor_id=str(uuid4()),
                actor_name=f"person-{number}", via="api", action=f"vault:group:act{number % 50}", target_type=f"type{number % 50}",
                target_id=str(uuid4()), target_name=f"object-{number}", request_id=f"request-{number}",
                outcome="DENIED" if number % 100 == 1 else "SUCCESS",
            )
            for number in range(6000)
        ),
        batch_size=500,
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


CASES: list[dict[str, Any]] = [
    {}, {"person": SOMEBODY}, {"person": "person-3001"}, {"object": SOMEBODY}, {"object": "object-3001"},
    {"object_type": "type7"}, {"action": "vault:group:create"}, {"outcome": "DENIED"}, {"request_id": "request-3001"},
    {"since": (timezone.now() + timedelta(days=1)).isoformat()}, {"until": (timezone.now() - timedelta(days=1)).isoformat()},
]  # fmt: skip


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    "query", CASES, ids=[next(iter(case), "none") + str(index) for index, case in enumerate(CASES)]
)
def test_a_page_is_one_query_that_an_index_answers(cast: Cast, query: dict[str, Any]) -> None:
    request = Request(RequestFactory().get("/", query))
    with CaptureQueriesContext(connection) as captured:
        paginate(request, AuditEvent.objects.filter(vault=cast.vault), EVENTS)
    assert len(captured) == 1
    with connection.cursor() as cursor:
        how = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
        cursor.execute(f"{how} {captured.captured_queries[0]['sql']}")
        plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
    assert "Seq Scan" not in plan, plan
    assert "SCAN vault_auditevent" not in plan or "USING INDEX" in plan, plan
