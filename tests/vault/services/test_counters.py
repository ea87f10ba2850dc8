"""Counters in the cache."""

from __future__ import annotations

from vault.services.counters import count_one, counted, forget


def test_a_counter_outlives_many_others() -> None:
    """Otherwise a stranger wipes out the count of their wrong passwords by trying many addresses."""
    try:
        # The cache in memory drops a third of its entries, by age, whenever it is full.
        count_one("test-counter:first", 60)
        for number in range(2000):
            count_one(f"test-counter:{number}", 60)
        assert counted("test-counter:first") == 1
    finally:
        for name in ["first", *range(2000)]:
            forget(f"test-counter:{name}")
