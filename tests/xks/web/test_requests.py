"""Find a request: by kmsRequestId, by filters, in one store or in all."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from cloudkeys.models import CloudKey
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key
from tests.web import Browser, text_of
from tests.xks.services.test_requests import store as record
from xks.models import JournalChain


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    return owned_key(cast)


@pytest.fixture
def chain(db: None) -> JournalChain:
    return JournalChain.objects.create(node_name="node-7", process="p", sealed_mac="")


def test_one_is_found_by_its_id_with_all_that_is_known(
    cast: Cast, key: CloudKey, chain: JournalChain
) -> None:
    record(
        chain,
        key,
        {"kms_request_id": "wanted-1", "outcome": "AccessDeniedException"},
        {"kms_request_id": "other"},
    )
    auditor = Browser(cast, "auditor")
    url = reverse("xks-requests", args=[cast.vault.pk])
    text = text_of(auditor.get(url, target="list", kms_request_id=" wanted-1 "))
    assert "AccessDeniedException" in text
    assert "node-7, by generation" in text
    assert key.name in text
    assert "other" not in text
    assert "Nothing matches" in text_of(auditor.get(url, kms_request_id="nowhere"))
    errors = text_of(auditor.get(url, outcome="errors"))
    assert "Outcome: Everything but answered" in errors
    assert "1\u20131" in errors


def test_of_one_store_alone(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    record(
        chain, key, {"kms_request_id": "mine"}, {"kms_request_id": "foreign", "store_id": str(cast.vault.pk)}
    )
    owner = Browser(cast, "owner")
    url = reverse("xks-store-requests", kwargs={"vault_id": cast.vault.pk, "store_id": key.store_id})
    assert "1\u20131" in text_of(owner.get(url))
    traffic = reverse("xks-store-traffic", kwargs={"vault_id": cast.vault.pk, "store_id": key.store_id})
    text = text_of(owner.get(traffic, span="day"))
    assert "1 requests" in text
    assert "p99 of our own time" in text
    assert owner.get(traffic, span="nonsense").status_code == 200


def test_the_number_of_queries_stays(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    auditor = Browser(cast, "auditor")
    url = reverse("xks-requests", args=[cast.vault.pk])

    def count() -> int:
        auditor.get(url)
        with CaptureQueriesContext(connection) as queries:
            assert auditor.get(url).status_code == 200
        return len(queries)

    record(chain, key, *({"kms_request_id": f"r{n}"} for n in range(3)))
    few = count()
    record(chain, key, *({"kms_request_id": f"s{n}"} for n in range(27)))
    assert count() == few
