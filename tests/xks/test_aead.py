"""The construction against its published vectors, and what must not open."""

import json
import weakref
from collections import deque
from collections.abc import Callable
from hashlib import sha256, shake_128
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from xks import aead

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "xaes_256_gcm.json").read_text())
KEY = aead.Xaes256Gcm(bytes(range(32)))
VERSIONS = {7: KEY, 8: aead.Xaes256Gcm(bytes(32))}


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["comment"])
def test_published_vector(vector: dict[str, str]) -> None:
    part = {name: bytes.fromhex(value) for name, value in vector.items() if name != "comment"}
    key = aead.Xaes256Gcm(part["key"])
    assert key.derive(part["nonce"][:12]) == part["derived_key"]
    assert key.encrypt(part["nonce"], part["plaintext"], part["associated_data"]) == part["ciphertext"]
    assert key.decrypt(part["nonce"], part["ciphertext"], part["associated_data"]) == part["plaintext"]


def _accumulate(iterations: int) -> str:
    # hashlib's SHAKE cannot be read piecemeal, so the whole stream is made at once: at most
    # 32 + 24 + 2 * 256 bytes an iteration.
    stream = memoryview(shake_128(b"").digest(iterations * 400))
    assert bytes(stream[:16]).hex() == "7f9c2ba4e88f827d616045507605853e"
    at = 0

    def read(length: int) -> bytes:
        nonlocal at
        at += length
        assert at <= len(stream)
        return bytes(stream[at - length : at])

    result = shake_128()
    for _ in range(iterations):
        key, nonce = aead.Xaes256Gcm(read(32)), read(24)
        plaintext = read(read(1)[0])
        associated_data = read(read(1)[0])
        ciphertext = key.encrypt(nonce, plaintext, associated_data)
        assert key.decrypt(nonce, ciphertext, associated_data) == plaintext
        result.update(ciphertext)
    return result.hexdigest(32)


def test_accumulated_vectors() -> None:
    assert _accumulate(10_000) == VECTORS["accumulated"]["10000"]


@pytest.mark.long
def test_a_million_accumulated_vectors() -> None:
    assert _accumulate(1_000_000) == VECTORS["accumulated"]["1000000"]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12))
def test_derivation_is_the_sp800_108_kdf_over_cmac(material: bytes, context: bytes) -> None:
    reference = KBKDFCMAC(
        algorithms.AES,
        Mode.CounterMode,
        length=32,
        rlen=2,
        llen=None,
        location=CounterLocation.BeforeFixed,
        label=None,
        context=None,
        fixed=b"X\x00" + context,
    )
    assert aead.Xaes256Gcm(material).derive(context) == reference.derive(material)


def test_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        aead.Xaes256Gcm(bytes(16))


def test_repr_shows_no_key() -> None:
    assert repr(KEY) == "Xaes256Gcm(***)"


@given(st.binary(max_size=8192), st.binary(max_size=16384), st.sampled_from([7, 8]))
def test_round_trip(plaintext: bytes, aad: bytes, version: int) -> None:
    sealed = aead.seal(VERSIONS[version], version, plaintext, aad)
    assert len(sealed.ciphertext) == len(plaintext)
    assert (len(sealed.metadata), len(sealed.iv), len(sealed.tag)) == (17, 12, 16)
    assert sealed.metadata[:5] == b"\x01\x00\x00\x00" + bytes([version])
    assert aead.unseal(VERSIONS, sealed, aad) == plaintext


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 4300, 8192])
@pytest.mark.parametrize("aad_size", [0, 1, 255, 256, 8192, 16384])
def test_round_trip_at_the_edges(size: int, aad_size: int) -> None:
    plaintext, aad = bytes(size), bytes(aad_size)
    assert aead.unseal(VERSIONS, aead.seal(KEY, 7, plaintext, aad), aad) == plaintext


def test_messages_share_neither_iv_nor_derivation_nonce() -> None:
    sealed = [aead.seal(KEY, 7, b"x", b"") for _ in range(100)]
    assert len({item.iv for item in sealed}) == 100
    assert len({item.metadata for item in sealed}) == 100


@given(
    st.binary(min_size=1, max_size=64),
    st.binary(min_size=1, max_size=64),
    st.sampled_from(aead.Sealed._fields),
    st.data(),
)
def test_any_flipped_bit_is_noticed(plaintext: bytes, aad: bytes, field: str, data: st.DataObject) -> None:
    sealed = aead.seal(KEY, 7, plaintext, aad)
    value = bytearray(getattr(sealed, field))
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(aead.CiphertextInvalid):
        aead.unseal(VERSIONS, sealed._replace(**{field: bytes(value)}), aad)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_other_aad_is_noticed(aad: bytes, other: bytes) -> None:
    sealed = aead.seal(KEY, 7, b"data", aad)
    if aad != other:
        with pytest.raises(aead.CiphertextInvalid):
            aead.unseal(VERSIONS, sealed, other)


CHANGES: dict[str, Callable[[aead.Sealed], aead.Sealed]] = {
    "no metadata": lambda s: s._replace(metadata=b""),
    "metadata cut": lambda s: s._replace(metadata=s.metadata[:-1]),
    "metadata longer": lambda s: s._replace(metadata=s.metadata + b"\x00"),
    "unknown format": lambda s: s._replace(metadata=b"\x02" + s.metadata[1:]),
    "unknown version": lambda s: s._replace(metadata=b"\x01\x00\x00\x00\x09" + s.metadata[5:]),
    "version of another key": lambda s: s._replace(metadata=b"\x01\x00\x00\x00\x08" + s.metadata[5:]),
    "IV of 16 bytes": lambda s: s._replace(iv=s.iv + bytes(4)),
    "IV empty": lambda s: s._replace(iv=b""),
    "IV taken from the metadata": lambda s: s._replace(metadata=s.metadata[:-1], iv=s.metadata[-1:] + s.iv),
    "tag cut": lambda s: s._replace(tag=s.tag[:-1]),
    "tag empty": lambda s: s._replace(tag=b""),
    "tag part of the ciphertext": lambda s: s._replace(ciphertext=s.ciphertext + s.tag, tag=b""),
    "byte moved to the tag": lambda s: s._replace(
        ciphertext=s.ciphertext[:-1], tag=s.ciphertext[-1:] + s.tag
    ),
    "ciphertext empty": lambda s: s._replace(ciphertext=b""),
    "ciphertext longer": lambda s: s._replace(ciphertext=s.ciphertext + b"\x00"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_misshapen_ciphertext_is_noticed(change: Callable[[aead.Sealed], aead.Sealed]) -> None:
    sealed = aead.seal(KEY, 7, b"some data", b"aad")
    with pytest.raises(aead.CiphertextInvalid):
        aead.unseal(VERSIONS, change(sealed), b"aad")


def test_metadata_cannot_be_passed_off_as_aad() -> None:
    sealed = aead.seal(KEY, 7, b"data", b"")
    with pytest.raises(aead.CiphertextInvalid):
        aead.unseal(VERSIONS, sealed, sealed.metadata)
    assert aead.associated_data(b"ab", b"c") != aead.associated_data(b"a", b"bc")


def test_associated_data_carries_both_lengths() -> None:
    aad = bytes(300)
    assert aead.associated_data(aad, b"abc") == b"\x01\x2c" + aad + b"\x03abc"
    assert aead.associated_data(b"", b"") == b"\x00\x00\x00"


def test_integrity_value_is_over_the_parts_in_the_order_of_the_specification() -> None:
    sealed = aead.Sealed(ciphertext=b"cc", metadata=b"mm", iv=b"ii", tag=b"tt")
    assert aead.integrity_value(b"aa", sealed) == sha256(b"aammiicctt").digest()


def test_integrity_value_of_the_specification() -> None:
    """XKS proxy API specification 1.0.3, Appendix C: 86 bytes and their value."""
    sealed = aead.Sealed(
        metadata=b"key_version=1",
        iv=bytes.fromhex("1ccae5470f39700254779031"),
        ciphertext=bytes.fromhex("821c642b5b71783367deaf18"),
        tag=bytes.fromhex("bc1c4dda7707d6812447c5955e99b261"),
    )
    expected = "a8703f2260bd8791ec2d15ea0b23e65a0631eedcf2a13a65cc82db3f47cf5ec7"
    assert aead.integrity_value(b"project=nile,department=marketing", sealed).hex() == expected


def test_only_so_many_keys_keep_their_schedule_and_all_go_on_working(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aead, "MAX_PREPARED", 2)
    monkeypatch.setattr(aead, "_prepared", deque())
    keys = [aead.Xaes256Gcm(bytes([number]) * 32) for number in range(4)]
    first = [key.derive(bytes(12)) for key in keys]
    assert [key._block is not None for key in keys] == [False, False, True, True]
    assert [key.derive(bytes(12)) for key in keys] == first
    assert len(aead._prepared) == 2


def test_a_removed_key_is_not_kept_for_its_schedule() -> None:
    key = aead.Xaes256Gcm(bytes(32))
    key.derive(bytes(12))
    seen = weakref.ref(key)
    del key
    assert seen() is None
