"""GET /healthz."""

from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.utils import OperationalError
from redis.exceptions import RedisError

from vault import health, keys
from vault.cache import SharedCache


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_schema_was_current", False)
    monkeypatch.setattr(keys, "root_wrapper", lambda: object())


@pytest.mark.django_db
def test_ok_under_any_host(client):
    for host in ("localhost", "10.1.2.3", "elb.example", "bad host!"):
        response = client.get("/healthz", headers={"Host": host})
        assert response.status_code == 200
        assert response.json() == {"status": "ok", "problems": [], "warnings": []}
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"] == "application/json"


@pytest.mark.django_db
def test_methods(client):
    assert client.head("/healthz").status_code == 200
    refused = client.post("/healthz")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.django_db
def test_no_root_key(client, monkeypatch):
    def fail() -> Any:
        raise keys.RootKeyMissing("The file /secret/place is missing.", "Put it back.")

    monkeypatch.setattr(keys, "root_wrapper", fail)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json() == {
        "status": "unavailable",
        "problems": ["the root key cannot be used"],
        "warnings": [],
    }


@pytest.mark.django_db
def test_schema(client):
    recorder = MigrationRecorder(connection)
    recorder.record_applied("vault", "9999_from_the_future")
    assert client.get("/healthz").json()["problems"] == [health.SCHEMA_NEW]
    recorder.record_unapplied("vault", "9999_from_the_future")
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db
def test_the_schema_is_asked_for_until_it_was_right(client, django_assert_num_queries):
    client.get("/healthz")
    with django_assert_num_queries(1):
        assert client.get("/healthz").status_code == 200


def test_no_database(client, monkeypatch):
    def fail(self: Any) -> None:
        raise OperationalError("password authentication failed for user ada")

    monkeypatch.setattr("django.db.backends.base.base.BaseDatabaseWrapper.cursor", fail)
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["problems"] == ["the database does not answer"]


@pytest.mark.django_db
def test_redis_away_is_no_reason_to_take_the_web_out(client, monkeypatch):
    def fail(self: SharedCache) -> None:
        raise RedisError("redis.test refused")

    monkeypatch.setattr(SharedCache, "ping", fail)
    monkeypatch.setattr(health, "caches", {"default": SharedCache("redis://127.0.0.1:1/0", {})})
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json()["problems"] == []
    (warning,) = response.json()["warnings"]
    assert warning.startswith("Redis does not answer")
