"""How often a store, and each of its credentials, may call: this worker's share of the fleet's rate.

Token buckets: they fill at the share, hold half a second of it, and each admitted request takes one.
Workers share no memory, so the fleet's rate is divided by the number of workers that are counted (the
agent tells it with each lease).  Where connections are spread unevenly over workers, a store that calls
just below its rate can be refused a little by the busier one.
"""

from __future__ import annotations

import math

from xks.errors import ThrottlingException
from xks.keyring import Bucket, Credential, Store

BURST_S = 0.5
"""Seconds' worth of its share that may come at once; one request always may."""


def admit(store: Store, credential: Credential, workers: int, now: float) -> None:
    """Take one token of the store's and one of the credential's bucket, where they have a rate.

    ``workers`` is the number of workers that share the rates; ``now`` is the boot-time clock, seconds.

    Raises:
        ThrottlingException: one of the buckets is empty; then none is taken from the other.
    """
    own, others = store.rate_per_s, store.credential_rate_per_s
    if own is None and others is None:
        return
    if own is not None and _fill(store.bucket, own / workers, now) < 1:
        raise ThrottlingException("the key store's rate limit is reached")
    if others is not None:
        if _fill(credential.bucket, others / workers, now) < 1:
            raise ThrottlingException("the rate limit of this credential is reached")
        credential.bucket.tokens -= 1
    if own is not None:
        store.bucket.tokens -= 1


def _fill(bucket: Bucket, rate_per_s: float, now: float) -> float:
    most = max(1.0, rate_per_s * BURST_S)
    gained = 0.0 if math.isinf(bucket.tokens) else (now - bucket.filled_at) * rate_per_s
    bucket.tokens = min(most, bucket.tokens + gained)
    bucket.filled_at = now
    return bucket.tokens
