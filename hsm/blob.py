"""The format of every wrapped key and secret at rest. Parsing only; no cryptography.

=========  =====  =============================================================================
offset     bytes  meaning
=========  =====  =============================================================================
0          1      format, 1
1          1      algorithm: 1 = AES-256-GCM with 12 byte nonce and 16 byte tag (SP 800-38D);
                  2 = the same under a data key of this blob, which the wrapping key wraps by KWP (SP 800-38F)
2          16     id of the wrapping key
18         12     nonce
30         n+16   ciphertext, then tag; of algorithm 2 the wrapped data key (40 bytes) comes before
=========  =====  =============================================================================

The first 18 bytes are not part of the associated data: each has exactly one value that is accepted for a given key,
so that changing any of them ends in a refusal, and an HSM need not be told of our header.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from hsm.base import BlobMalformed

FORMAT = 1
KEY_ID_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
HEADER_BYTES = 2 + KEY_ID_BYTES + NONCE_BYTES
MIN_BLOB_BYTES = HEADER_BYTES + TAG_BYTES
SEALED_KEY_BYTES = 40


class Algorithm(IntEnum):
    """How the ciphertext of a blob was made; numbers are never used again for something else."""

    AES_256_GCM = 1
    KWP_AES_256_GCM = 2

    @property
    def overhead(self) -> int:
        """Bytes of a blob beside those of its plaintext."""
        return MIN_BLOB_BYTES + (SEALED_KEY_BYTES if self is Algorithm.KWP_AES_256_GCM else 0)


@dataclass(frozen=True, slots=True)
class Blob:
    """A parsed blob. ``key_id`` is lower-case hex (32 digits); ``ciphertext`` ends with the tag."""

    algorithm: Algorithm
    key_id: str
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def pack(blob: Blob) -> bytes:
    """Return the bytes of ``blob``. Raises BlobMalformed when a part has the wrong length."""
    try:
        key_id = bytes.fromhex(blob.key_id)
    except ValueError:
        raise BlobMalformed("a wrapping key id is hexadecimal") from None
    short = len(blob.ciphertext) < blob.algorithm.overhead - HEADER_BYTES
    if len(key_id) != KEY_ID_BYTES or len(blob.nonce) != NONCE_BYTES or short:
        raise BlobMalformed("key id, nonce or ciphertext has the wrong length")
    return bytes((FORMAT, blob.algorithm)) + key_id + blob.nonce + blob.ciphertext


def parse(data: bytes) -> Blob:
    """Return the parts of a blob. Raises BlobMalformed and says which part is wrong, without quoting any byte."""
    if len(data) < MIN_BLOB_BYTES:
        raise BlobMalformed(f"a blob has at least {MIN_BLOB_BYTES} bytes, this one {len(data)}")
    if data[0] != FORMAT:
        raise BlobMalformed(f"format {data[0]} is not known to this version")
    try:
        algorithm = Algorithm(data[1])
    except ValueError:
        raise BlobMalformed(f"algorithm {data[1]} is not known to this version") from None
    if len(data) < algorithm.overhead:
        raise BlobMalformed(
            f"a blob of algorithm {algorithm} has at least {algorithm.overhead} bytes, this one {len(data)}"
        )
    nonce_at = 2 + KEY_ID_BYTES
    return Blob(algorithm, data[2:nonce_at].hex(), data[nonce_at:HEADER_BYTES], data[HEADER_BYTES:])
