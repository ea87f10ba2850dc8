"""Do members of a group hold the same key? Asked before a member serves, and again from time to time.

One member encrypts a random value, the others decrypt it: AES-GCM opens only under the same key. Never by E_K(0) or
CKA_CHECK_VALUE, which for a GCM key are (the head of) the secret H, and never by label or id alone: two devices may
have made different keys under one id.

A comparison costs the key one invocation for each group of members that agree, one in all where they are the same.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

from hsm.base import DataInvalid, HsmError, KeyNotFound
from hsm.base import ResidentCiphertext as Ciphertext

_VALUE_BYTES: Final = 32


class Comparable(Protocol):
    """What is needed of a member: hsm.client.SyncMember."""

    @property
    def member_id(self) -> str: ...

    def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> Ciphertext: ...

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, timeout_s: float) -> bytes: ...


class Comparison(msgspec.Struct, frozen=True):
    """What was found of one key. Every member stands in exactly one of the four."""

    key: str
    """CKA_ID, hex."""
    fit: tuple[str, ...]
    """Members that hold the key and agree: they may serve."""
    differing: tuple[str, ...]
    """Members that hold another key under this id, or one of whom it cannot be told which is the right one."""
    lacking: tuple[str, ...]
    """Members without such a key."""
    unknown: dict[str, str]
    """Members that could not be asked, and why. They may not serve before they have been."""

    @property
    def settled(self) -> bool:
        """Whether every member holds the same key."""
        return not (self.differing or self.lacking or self.unknown)

    def message(self) -> str:
        """Return what is wrong in a sentence for people; empty if nothing is."""
        said = []
        if self.differing:
            said.append(
                f"another key under the same id on {_names(self.differing)}: that member must not serve"
            )
        if self.lacking:
            said.append(f"not on {_names(self.lacking)}: copy it there by the vendor's replication")
        said += [f"{member} could not be asked: {why}" for member, why in self.unknown.items()]
        return f"key {self.key}: {'; '.join(said)}" if said else ""


def compare(
    members: Sequence[Comparable], key: bytes, *, reference: Iterable[str] = (), timeout_s: float = 5.0
) -> Comparison:
    """Find out which members hold the same key with this CKA_ID.

    ``reference``: members that have served with this key; they are right where members differ. Without one the
    majority is right, and where there is none, nobody is.

    Waits for each member ``timeout_s`` at most, at most twice. Raises nothing: what went wrong stands in the result.
    """
    agreeing: list[list[str]] = []
    samples: list[tuple[bytes, Ciphertext, bytes]] = []
    lacking: list[str] = []
    unknown: dict[str, str] = {}
    for member in members:
        name = member.member_id
        try:
            place = _opens(member, key, samples, timeout_s)
            if place is None:
                samples.append(_sample(member, key, timeout_s))
                agreeing.append([name])
            else:
                agreeing[place].append(name)
        except KeyNotFound:
            lacking.append(name)
        except HsmError as error:
            unknown[name] = str(error)
    right = _right(agreeing, set(reference))
    return Comparison(
        key=key.hex(),
        fit=tuple(agreeing[right]) if right is not None else (),
        differing=tuple(name for place, names in enumerate(agreeing) if place != right for name in names),
        lacking=tuple(lacking),
        unknown=unknown,
    )


def _sample(member: Comparable, key: bytes, timeout_s: float) -> tuple[bytes, Ciphertext, bytes]:
    value, aad = os.urandom(_VALUE_BYTES), b"keystead:compare:" + key
    made = member.encrypt(key, value, aad, verify=True, timeout_s=timeout_s)
    if hmac.compare_digest(made.ciphertext[:_VALUE_BYTES], value):
        raise HsmError("it returned what it was to encrypt")
    return value, made, aad


def _opens(
    member: Comparable, key: bytes, samples: list[tuple[bytes, Ciphertext, bytes]], timeout_s: float
) -> int | None:
    """Return the place of the sample that the member decrypts; None if there is none."""
    for place, (value, made, aad) in enumerate(samples):
        try:
            back = member.decrypt(key, made.nonce, made.ciphertext, aad, timeout_s=timeout_s)
        except DataInvalid:
            continue
        if not hmac.compare_digest(back, value):
            raise HsmError("it decrypted to something else than was encrypted")
        return place
    return None


def _right(agreeing: list[list[str]], reference: set[str]) -> int | None:
    """Return the place of those who are right."""
    if reference:
        named = [place for place, names in enumerate(agreeing) if reference & set(names)]
        if named:
            return named[0] if len(named) == 1 else None
    holders = sum(len(names) for names in agreeing)
    for place, names in enumerate(agreeing):
        if len(names) * 2 > holders:
            return place
    return None


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
