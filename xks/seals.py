"""Seals: what the control plane signs of journal and audit events, so that anybody can check it.

A seal is one line of JSON (keys sorted, no spaces, UTF-8) with an Ed25519 signature (RFC 8032) over
exactly those bytes.  Seals are numbered from 1 without gaps, and each carries the SHA-256 of the line
and signature before it.  What a seal says is its ``statement``:

* ``chain``    a worker process begins a chain of segments;
* ``segment``  a segment has ended: its bytes, SHA-256, last MAC, how it ended, and its MAC key, which
  from now on anybody may know;
* ``end``      a chain has ended after so many segments;
* ``events``   the audit events up to this position of their chain have this digest;
* ``restored`` the database was put back from a backup;
* ``stray``    a journal of the time that a restore lost, as it was found; ``strays``: a node has looked for them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FIRST_PREVIOUS: Final = "0" * 64
_PREFIX: Final = b"keystead seal v1\n"


class SealBroken(Exception):
    """The list of seals is not what was signed; tells the number of the first bad one."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"seal {number}: {reason}")
        self.number = number
        self.reason = reason


@dataclass(frozen=True)
class Seal:
    """A signed line."""

    line: str
    signature: bytes

    @property
    def digest(self) -> str:
        """What the next seal carries (hex)."""
        return hashlib.sha256(self.line.encode() + b"\n" + self.signature).hexdigest()


@dataclass(frozen=True)
class Opened:
    """What a seal says. ``at`` is RFC 3339 in UTC."""

    number: int
    at: str
    previous: str
    statement: dict[str, Any]


def make_seal(key: Ed25519PrivateKey, number: int, previous: str, at: str, statement: dict[str, Any]) -> Seal:
    """Sign ``statement`` as the seal after the one with the digest ``previous``."""
    line = json.dumps(
        {"number": number, "at": at, "previous": previous, "statement": statement},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return Seal(line, key.sign(_PREFIX + line.encode()))


def open_seal(public_key: Ed25519PublicKey, seal: Seal, number: int, previous: str) -> Opened:
    """Return what the seal says that must have this number and follow ``previous``.

    Raises:
        SealBroken: it is not signed so, or stands in another place.
    """
    try:
        public_key.verify(seal.signature, _PREFIX + seal.line.encode())
    except InvalidSignature:
        raise SealBroken(number, "the signature is not right for this key") from None
    content = json.loads(seal.line)
    if content["number"] != number:
        raise SealBroken(number, f"in its place stands number {content['number']}: one is missing or moved")
    if content["previous"] != previous:
        raise SealBroken(number, "it does not follow the seal before")
    return Opened(number, content["at"], content["previous"], content["statement"])
