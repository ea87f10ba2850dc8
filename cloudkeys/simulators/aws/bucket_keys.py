"""S3's bucket keys: one KMS data key for many objects, kept in memory for a while.

User Guide, "Reducing the cost of SSE-KMS with Amazon S3 Bucket Keys": a bucket-level key is fetched at least
once for each requester and lives for a limited time, which AWS does not tell; here 5 minutes by the
simulator's clock. While it lives, objects are written and read without a call to KMS, even after the KMS key
was disabled. ``end`` ends it at once, for tests and demonstrations (``DELETE /_keystead/bucket-keys``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudkeys.simulators.aws.context import Caller, Simulator

LIFETIME_S = 300.0
SLOT = "bucket_keys"


@dataclass(frozen=True, slots=True)
class BucketKey:
    """A bucket-level key: itself, how KMS encrypted it, and the ARN of the KMS key that did."""

    plaintext: bytes = field(repr=False)
    blob: bytes = field(repr=False)
    kms_key_arn: str


@dataclass(slots=True)
class _Cache:
    """Keys by (bucket, requester, what asks): the KMS key for new objects, the encrypted blob for stored
    ones."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    keys: dict[tuple[str, str, str | bytes], tuple[BucketKey, float]] = field(default_factory=dict)


def _cache(sim: Simulator) -> _Cache:
    cache: _Cache = sim.slots.setdefault(SLOT, _Cache())
    return cache


def _requester(caller: Caller) -> str:
    """Sessions of one role are one requester."""
    return f"{caller.account_id}/{caller.principal_id.partition(':')[0]}"


def obtain(
    sim: Simulator, bucket: str, caller: Caller, asked: str | bytes, fetch: Callable[[], BucketKey]
) -> BucketKey:
    """The living bucket key for what is asked, or the one that ``fetch`` gets from KMS (its errors pass
    through).

    ``asked`` is a KMS key id (to encrypt) or the encrypted bucket key of an object (to decrypt).
    """
    cache, place, now = _cache(sim), (bucket, _requester(caller), asked), sim.now()
    with cache.lock:
        kept = cache.keys.get(place)
    if kept is not None and now < kept[1]:
        return kept[0]
    # KMS is asked outside the lock: it may take a while, and two keys of one bucket do no harm.
    fetched = fetch()
    with cache.lock:
        for old in [old for old, (_, until) in cache.keys.items() if until <= now]:
            del cache.keys[old]
        cache.keys[place] = (fetched, now + LIFETIME_S)
        # What this requester just made it may also read without a further call.
        cache.keys[(bucket, _requester(caller), fetched.blob)] = (fetched, now + LIFETIME_S)
    return fetched


def end(sim: Simulator, bucket: str | None = None) -> int:
    """End the living bucket keys of one bucket, or of all. Returns how many ended."""
    cache, now = _cache(sim), sim.now()
    with cache.lock:
        gone = [place for place in cache.keys if bucket is None or place[0] == bucket]
        living = {cache.keys[place][0].blob for place in gone if now < cache.keys[place][1]}
        for place in gone:
            del cache.keys[place]
    return len(living)
