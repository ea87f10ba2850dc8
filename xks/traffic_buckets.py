"""Delays in buckets, each a quarter wider than the one before, so that percentiles can be told from a few counts.

A bucket holds the microseconds from its bound up to the next one's; a percentile is told as the middle of its bucket, so
it is off by an eighth at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from math import sqrt

WIDTH = 1.25
_MOST = 300_000_000
"""Microseconds; what takes longer than five minutes falls into the last bucket."""


def _bounds() -> list[int]:
    bounds = [0, 10]
    while bounds[-1] < _MOST:
        bounds.append(max(bounds[-1] + 1, round(bounds[-1] * WIDTH)))
    return bounds


BOUNDS = _bounds()


def bucket_of(microseconds: int) -> int:
    """Return the bucket that a delay falls into."""
    return max(bisect_right(BOUNDS, microseconds) - 1, 0)


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """Return the delay in microseconds that ``share`` (0 to 1) of the requests did not exceed; None without any."""
    total = sum(counts.values())
    if not total:
        return None
    left = max(share * total, 1e-9)
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 1e-9:
            break
    low = max(BOUNDS[bucket], 1)
    high = BOUNDS[bucket + 1] if bucket + 1 < len(BOUNDS) else low
    return round(sqrt(low * high))
