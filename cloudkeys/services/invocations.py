"""How often a key that lives in an HSM has encrypted, counted ahead.

AES-GCM with random nonces allows 2**32 encryptions with one key (NIST SP 800-38D, 8.3).  Worker processes are given
invocations in blocks, and each block is in the database before its first one is used: whatever crashes, or is
restored, the count is never too low by more than what a restored backup lacks.  Half-way a rotation begins by itself.
"""

from __future__ import annotations

from uuid import UUID

from django.db.models import F

from cloudkeys.models import KeySet, KeyVersion

MOST = 2**32
"""No version encrypts more often than this."""
ROTATE_AT = 2**31
"""A version that has been handed out so many is rotated, whatever its schedule says."""


def reserve_invocations(key_id: UUID, number: int, count: int) -> int:
    """Reserve `count` more encryptions with a version; returns them, or 0 when it has been used enough.

    Durable when this returns; never call it inside a transaction that may still roll back.
    """
    rows = KeyVersion.objects.filter(
        cloud_key_id=key_id, number=number, protection=KeySet.Protection.HSM_RESIDENT, destroyed_at=None,
        reserved_invocations__lte=MOST - count,
    )  # fmt: skip
    return count if rows.update(reserved_invocations=F("reserved_invocations") + count) else 0
