"""Counters that forget: how often something happened of late, in the cache that all web processes share."""

from __future__ import annotations

import hashlib
from ipaddress import IPv6Address, IPv6Network, ip_address

from django.core.cache import cache


def count_one(name: str, lifetime_s: int) -> int:
    """Add one to the counter `name`, which forgets itself `lifetime_s` seconds after its first use; return the sum."""
    key = _key(name)
    cache.add(key, 0, timeout=lifetime_s)
    try:
        return int(cache.incr(key))
    except ValueError:  # evicted between the two calls
        return 1


def counted(name: str) -> int:
    """The counter's sum; 0 when it was never used or has forgotten."""
    return int(cache.get(_key(name), 0))


def forget(name: str) -> None:
    """Set the counter back."""
    cache.delete(_key(name))


def _key(name: str) -> str:
    """Names hold what strangers typed (e-mail addresses); keys must be short and plain, and need not be readable."""
    return "counter:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def caller_of(address: str | None) -> str:
    """Whom to count requests from an address by: an IPv6 /64, which is what one subscriber has at the least.

    An address alone would give whoever holds one network 2**64 tries. IPv4 in IPv6's clothes counts as IPv4.
    """
    if not address:
        return "local"
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Network((found, 64), strict=False))
    return str(found)
