"""The cache that web processes share, which goes on without Redis.

What lies in it may be lost at any time: counters of sign-ins and requests, answers to be repeated. While Redis is
away each process keeps its own, so limits still hold, only counted by each process for itself. Whoever must disable
a key at that moment can sign in and do so.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

log = logging.getLogger("keystead.cache")

RETRY_S = 5.0
"""For so long Redis is not asked again after it failed: a server that swallows packets costs its time-out once."""
LOCAL_ENTRIES = 100_000

_away_until = 0.0


class SharedCache(RedisCache):
    """Redis, or this process's memory while Redis does not answer."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._local = LocMemCache("keystead-without-redis", {"OPTIONS": {"MAX_ENTRIES": LOCAL_ENTRIES}})

    def ping(self) -> None:
        """Ask Redis itself. Raises RedisError when it does not answer."""
        super().get("ping")

    def _try(self, name: str, *args: Any, **kwargs: Any) -> Any:
        global _away_until
        if time.monotonic() >= _away_until:
            try:
                return getattr(super(), name)(*args, **kwargs)
            except RedisError as error:
                _away_until = time.monotonic() + RETRY_S
                log.warning(
                    "Redis does not answer (%s): each process counts for itself", type(error).__name__
                )
        return getattr(self._local, name)(*args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("add", *args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("get", *args, **kwargs)

    def set(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("set", *args, **kwargs)

    def touch(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("touch", *args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("delete", *args, **kwargs)

    def get_many(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("get_many", *args, **kwargs)

    def has_key(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("has_key", *args, **kwargs)

    def incr(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("incr", *args, **kwargs)

    def set_many(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("set_many", *args, **kwargs)

    def delete_many(self, *args: Any, **kwargs: Any) -> Any:
        """See BaseCache."""
        return self._try("delete_many", *args, **kwargs)

    def clear(self) -> Any:
        """See BaseCache."""
        return self._try("clear")
