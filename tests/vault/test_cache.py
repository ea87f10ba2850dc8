"""The shared cache on a real Redis that goes and comes back."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from vault import cache as module
from vault.cache import SharedCache

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import services

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="Redis is not installed")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_away_until", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    user = services.other_user()
    if user is not None:
        shutil.chown(tmp_path, user)
        for parent in list(tmp_path.parents)[:3]:
            parent.chmod(0o755)
    return tmp_path


@pytest.fixture
def shared(folder: Path) -> Iterator[SharedCache]:
    """Return a cache whose Redis ends with the fixture `gone`, or with the test."""
    with services.redis(folder) as url:
        yield SharedCache(url, {"OPTIONS": {"socket_connect_timeout": 0.5}})


def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Redis be away from here on: every connection is refused."""

    def refuse(self: object) -> None:
        raise RedisError("redis at 10.0.0.7 is away")

    monkeypatch.setattr("redis.connection.AbstractConnection.connect", refuse)
    monkeypatch.setattr("redis.connection.ConnectionPool.get_connection", refuse)


def test_redis_answers(shared: SharedCache) -> None:
    other = SharedCache(shared._servers[0], {})
    shared.set("a", 1)
    assert other.get("a") == 1
    assert other.incr("a") == 2
    assert shared.add("a", 5) is False
    shared.ping()


def test_without_redis_every_operation_goes_on(
    shared: SharedCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away(monkeypatch)
    shared.clear()
    with caplog.at_level(logging.WARNING, "keystead.cache"):
        assert shared.add("count", 0, timeout=60) is True
        assert shared.incr("count") == 1
        assert shared.get("count") == 1
        assert shared.has_key("count")
        assert shared.touch("count", 60) is True
        shared.set_many({"b": 2})
        assert shared.get_many(["b"]) == {"b": 2}
        shared.delete_many(["b"])
        assert shared.delete("count") is True
        with pytest.raises(ValueError, match="not found"):
            shared.incr("count")
    # Said once, and without the address.
    assert len(caplog.records) <= 1
    assert "10.0.0.7" not in caplog.text
    with pytest.raises(RedisError):
        shared.ping()


def test_redis_is_asked_again(shared: SharedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        away(patch)
        shared.set("x", "here")
        assert shared.get("x") == "here"
    assert shared.get("x") == "here"  # not yet
    monkeypatch.setattr(module, "_away_until", 0.0)
    assert shared.get("x") is None  # Redis again
