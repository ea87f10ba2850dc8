"""Seals: signed, numbered, linked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from xks.seals import FIRST_PREVIOUS, Seal, SealBroken, make_seal, open_seal

# RFC 8032, section 7.1, test 1.
KEY = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
PUBLIC = KEY.public_key()
AT = "2026-11-22T15:00:00Z"


def seals(count: int) -> list[Seal]:
    made: list[Seal] = []
    previous = FIRST_PREVIOUS
    for number in range(1, count + 1):
        made.append(make_seal(KEY, number, previous, AT, {"kind": "events", "position": number, "name": "é"}))
        previous = made[-1].digest
    return made


def check(made: list[Seal]) -> None:
    previous = FIRST_PREVIOUS
    for number, seal in enumerate(made, 1):
        open_seal(PUBLIC, seal, number, previous)
        previous = seal.digest


def test_known_answer() -> None:
    (seal,) = seals(1)
    assert (
        PUBLIC.public_bytes_raw().hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert seal.line == (
        '{"at":"2026-11-22T15:00:00Z","number":1,"previous":"' + "0" * 64 + '",'
        '"statement":{"kind":"events","name":"é","position":1}}'
    )


def test_they_hold() -> None:
    made = seals(4)
    check(made)
    opened = open_seal(PUBLIC, made[1], 2, made[0].digest)
    assert opened.statement["position"] == 2


def test_each_change_shows_at_its_number() -> None:
    made = seals(4)
    changed = replace(made[1], line=made[1].line.replace('"position":2', '"position":3'))
    swapped = [made[0], made[2], made[1], made[3]]
    removed = [made[0], *made[2:]]
    other = make_seal(KEY, 2, FIRST_PREVIOUS, AT, {"kind": "events"})
    for wrong in ([made[0], changed, *made[2:]], swapped, removed, [made[0], other, *made[2:]]):
        with pytest.raises(SealBroken) as caught:
            check(wrong)
        assert caught.value.number == 2


def test_another_key_is_refused() -> None:
    with pytest.raises(SealBroken, match="signature"):
        open_seal(Ed25519PrivateKey.generate().public_key(), seals(1)[0], 1, FIRST_PREVIOUS)
