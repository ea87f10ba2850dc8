"""The key derivation of Signature Version 4, which the simulator needs on both sides: as AWS, and as XKS's client."""

from __future__ import annotations

import hmac

ALGORITHM = "AWS4-HMAC-SHA256"


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The derived key of one secret for one day (``yyyymmdd``), region and service."""
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
