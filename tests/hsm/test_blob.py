import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.base import BlobMalformed
from hsm.blob import MIN_BLOB_BYTES, Algorithm, Blob, pack, parse

KEY_ID = "00112233445566778899aabbccddeeff"
KNOWN = bytes.fromhex("0101" + KEY_ID + "a0a1a2a3a4a5a6a7a8a9aaab" + "c0" * 5 + "d0" * 16)


def test_layout_byte_for_byte():
    blob = Blob(Algorithm.AES_256_GCM, KEY_ID, bytes(range(0xA0, 0xAC)), b"\xc0" * 5 + b"\xd0" * 16)
    assert pack(blob) == KNOWN
    assert parse(KNOWN) == blob


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "at least 46 bytes"),
        (KNOWN[: MIN_BLOB_BYTES - 1], "at least 46 bytes"),
        (b"\x00" + KNOWN[1:], "format 0"),
        (b"\x02" + KNOWN[1:], "format 2"),
        (b"\x01\x00" + KNOWN[2:], "algorithm 0"),
        (b"\x01\x03" + KNOWN[2:], "algorithm 3"),
        (b"\x01\x02" + KNOWN[2:], "at least 86 bytes"),
    ],
)
def test_malformed_blobs_say_which_part_is_wrong(data, said):
    with pytest.raises(BlobMalformed, match=said):
        parse(data)


@pytest.mark.parametrize(
    "blob",
    [
        Blob(Algorithm.AES_256_GCM, KEY_ID[:-2], b"n" * 12, b"t" * 16),
        Blob(Algorithm.AES_256_GCM, "zz" * 16, b"n" * 12, b"t" * 16),
        Blob(Algorithm.AES_256_GCM, KEY_ID, b"n" * 11, b"t" * 16),
        Blob(Algorithm.AES_256_GCM, KEY_ID, b"n" * 12, b"t" * 15),
    ],
)
def test_impossible_parts_are_not_packed(blob):
    with pytest.raises(BlobMalformed):
        pack(blob)


def test_repr_shows_no_ciphertext():
    assert "d0" not in repr(parse(KNOWN))
    assert "\\xd0" not in repr(parse(KNOWN))


@given(st.binary(max_size=120))
def test_parse_refuses_or_gives_back_the_same_bytes(data):
    try:
        blob = parse(data)
    except BlobMalformed:
        assert len(data) < MIN_BLOB_BYTES or data[:2] not in (b"\x01\x01", b"\x01\x02") or len(data) < 86
    else:
        assert pack(blob) == data
