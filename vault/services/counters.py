"""Counters that forget: how often something happened of late, in the cache that all web processes share."""

from __future__ import annotations

from django.core.cache import cache


def count_one(key: str, lifetime_s: int) -> int:
    """Add one to the counter `key`, which forgets itself `lifetime_s` seconds after its first use; return the sum."""
    cache.add(key, 0, timeout=lifetime_s)
    try:
        return int(cache.incr(key))
    except ValueError:  # evicted between the two calls
        return 1


def counted(key: str) -> int:
    """The counter's sum; 0 when it was never used or has forgotten."""
    return int(cache.get(key, 0))


def forget(key: str) -> None:
    """Set the counter back."""
    cache.delete(key)
