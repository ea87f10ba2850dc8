"""Members compared by what they encrypt and decrypt, on software keys."""

import os

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from hsm.base import DataInvalid, HelperGone, KeyNotFound, ResidentCiphertext
from hsm.compare import compare

KEY = bytes(range(16))


class Member:
    """Holds one AES key under KEY, or none."""

    def __init__(self, member_id: str, secret: bytes | None) -> None:
        self.member_id = member_id
        self.secret = secret
        self.fault: Exception | None = None
        self.encrypted: list[bytes] = []

    def _cipher(self) -> AESGCM:
        if self.fault is not None:
            raise self.fault
        if self.secret is None:
            raise KeyNotFound("no key")
        return AESGCM(self.secret)

    def encrypt(self, key, data, aad, *, verify, timeout_s):
        assert key == KEY
        assert verify
        cipher = self._cipher()
        self.encrypted.append(data)
        nonce = os.urandom(12)
        return ResidentCiphertext(nonce, cipher.encrypt(nonce, data, aad))

    def decrypt(self, key, nonce, data, aad, *, timeout_s):
        try:
            return self._cipher().decrypt(nonce, data, aad)
        except InvalidTag:
            raise DataInvalid("altered") from None


ONE, OTHER = b"1" * 32, b"2" * 32


def test_the_same_key_everywhere():
    members = [Member(name, ONE) for name in "abc"]
    found = compare(members, KEY)
    assert found.fit == ("a", "b", "c")
    assert found.settled
    assert found.message() == ""
    assert sum(len(each.encrypted) for each in members) == 1


def test_what_is_encrypted_is_random_and_never_zeros():
    member = Member("a", ONE)
    compare([member], KEY)
    compare([member], KEY)
    assert member.encrypted[0] != member.encrypted[1]
    assert bytes(32) not in member.encrypted


def test_another_key_under_the_same_id_is_found_by_majority():
    found = compare([Member("a", OTHER), Member("b", ONE), Member("c", ONE)], KEY)
    assert (found.fit, found.differing) == (("b", "c"), ("a",))
    assert "another key under the same id on a" in found.message()


def test_of_two_that_differ_nobody_serves_unless_one_has_served():
    members = [Member("a", ONE), Member("b", OTHER)]
    found = compare(members, KEY)
    assert (found.fit, found.differing) == ((), ("a", "b"))
    found = compare(members, KEY, reference=["b"])
    assert (found.fit, found.differing) == (("b",), ("a",))
    assert compare(members, KEY, reference=["a", "b"]).fit == ()


def test_a_reference_that_is_away_decides_nothing():
    members = [Member("a", ONE), Member("b", ONE)]
    members[0].fault = HelperGone("ended")
    found = compare(members, KEY, reference=["a"])
    assert (found.fit, found.unknown) == (("b",), {"a": "ended"})
    assert not found.settled


def test_keys_on_one_member_only_are_reported():
    found = compare([Member("a", None), Member("b", ONE)], KEY)
    assert (found.fit, found.lacking) == (("b",), ("a",))
    assert found.message() == f"key {KEY.hex()}: not on a: copy it there by the vendor's replication"


def test_a_member_that_returns_what_it_is_given_is_not_fit():
    class Glass(Member):
        def encrypt(self, key, data, aad, *, verify, timeout_s):
            return ResidentCiphertext(b"n" * 12, data + bytes(16))

        def decrypt(self, key, nonce, data, aad, *, timeout_s):
            return data[:-16]

    found = compare([Glass("a", ONE), Member("b", ONE)], KEY)
    assert found.fit == ("b",)
    assert "returned what it was to encrypt" in found.unknown["a"]


def test_a_member_that_decrypts_to_something_else_is_not_fit():
    class Liar(Member):
        def decrypt(self, key, nonce, data, aad, *, timeout_s):
            return bytes(32)

    found = compare([Member("a", ONE), Liar("b", ONE)], KEY)
    assert (found.fit, list(found.unknown)) == (("a",), ["b"])


@given(st.lists(st.sampled_from([ONE, OTHER, None, "away"]), min_size=1, max_size=6))
def test_every_member_stands_in_one_place_and_those_that_are_fit_hold_one_key(secrets):
    members = {}
    for place, secret in enumerate(secrets):
        member = members[str(place)] = Member(str(place), None if secret == "away" else secret)
        if secret == "away":
            member.fault = HelperGone("ended")
    found = compare(list(members.values()), KEY)
    assert sorted([*found.fit, *found.differing, *found.lacking, *found.unknown]) == sorted(members)
    assert len({members[name].secret for name in found.fit}) <= 1
    holders = len(found.fit) + len(found.differing)
    assert not found.fit or len(found.fit) * 2 > holders


@pytest.mark.parametrize("secrets", [[ONE], [ONE, None], []])
def test_few_members(secrets):
    found = compare([Member(str(place), each) for place, each in enumerate(secrets)], KEY)
    assert found.fit == (("0",) if secrets else ())
