"""What every KeyWrapper must do. A test module subclasses this and gives the two fixtures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from hsm.base import BlobMalformed, DataInvalid, HsmError, KeyWrapper, WrongWrappingKey
from hsm.blob import HEADER_BYTES, KEY_ID_BYTES, NONCE_BYTES, Algorithm, parse

PLACE = b"keystead:v1:vault_vault:5f0c:kek_blob"


class KeyWrapperContract:
    """Fixtures to give: ``wrapper``, and ``other_wrapper`` over another key of the same kind."""

    algorithm = Algorithm.AES_256_GCM
    """What blobs must name."""
    many = 500
    """How often things are done that must never repeat; fewer where each is slow."""

    @pytest.fixture
    def wrapper(self) -> KeyWrapper:
        """The implementation under test."""
        raise NotImplementedError

    @pytest.fixture
    def other_wrapper(self) -> KeyWrapper:
        """The same implementation over another key."""
        raise NotImplementedError

    def test_satisfies_the_protocol(self, wrapper: KeyWrapper) -> None:
        assert isinstance(wrapper, KeyWrapper)

    def test_key_id_is_sixteen_bytes_in_lower_case_hex(
        self, wrapper: KeyWrapper, other_wrapper: KeyWrapper
    ) -> None:
        for each in (wrapper, other_wrapper):
            assert len(bytes.fromhex(each.key_id)) == KEY_ID_BYTES
            assert each.key_id == each.key_id.lower()
        assert wrapper.key_id != other_wrapper.key_id

    @pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 40, 1000])
    def test_opens_what_it_wrapped(self, wrapper: KeyWrapper, size: int) -> None:
        plaintext = bytes(range(256))[:size] if size <= 256 else b"x" * size
        blob = wrapper.encrypt(plaintext, PLACE)
        assert len(blob) == self.algorithm.overhead + size
        assert wrapper.decrypt(blob, PLACE) == plaintext

    def test_blob_names_format_algorithm_and_key(self, wrapper: KeyWrapper) -> None:
        blob = wrapper.encrypt(b"k" * 32, PLACE)
        parts = parse(blob)
        assert blob[0] == 1
        assert parts.algorithm is self.algorithm
        assert parts.key_id == wrapper.key_id
        assert len(parts.nonce) == NONCE_BYTES

    def test_plaintext_is_not_in_the_blob(self, wrapper: KeyWrapper) -> None:
        assert b"k" * 8 not in wrapper.encrypt(b"k" * 32, PLACE)

    def test_no_nonce_comes_twice(self, wrapper: KeyWrapper) -> None:
        nonces = {parse(wrapper.encrypt(b"", PLACE)).nonce for _ in range(self.many)}
        assert len(nonces) == self.many

    @pytest.mark.parametrize("place", [b"", PLACE + b" ", PLACE[:-1], PLACE.upper()])
    def test_opens_nowhere_else(self, wrapper: KeyWrapper, place: bytes) -> None:
        blob = wrapper.encrypt(b"k" * 32, PLACE)
        with pytest.raises(DataInvalid) as caught:
            wrapper.decrypt(blob, place)
        assert caught.value.permanent
        assert not isinstance(caught.value, WrongWrappingKey)

    def test_every_byte_counts(self, wrapper: KeyWrapper) -> None:
        blob = wrapper.encrypt(b"k" * 32, PLACE)
        for at in range(len(blob)):
            for flip in (0x01, 0x80):
                altered = blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :]
                expected = BlobMalformed if at < 2 else WrongWrappingKey if at < 18 else DataInvalid
                with pytest.raises(expected):
                    wrapper.decrypt(altered, PLACE)

    def test_cut_or_lengthened_blobs_do_not_open(self, wrapper: KeyWrapper) -> None:
        blob = wrapper.encrypt(b"k" * 32, PLACE)
        for altered in [blob[:size] for size in range(len(blob))] + [blob + b"\0"]:
            with pytest.raises(DataInvalid):
                wrapper.decrypt(altered, PLACE)

    def test_another_key_is_told_apart_from_corruption(
        self, wrapper: KeyWrapper, other_wrapper: KeyWrapper
    ) -> None:
        blob = wrapper.encrypt(b"k" * 32, PLACE)
        with pytest.raises(WrongWrappingKey) as caught:
            other_wrapper.decrypt(blob, PLACE)
        assert caught.value.named == wrapper.key_id
        assert caught.value.at_hand == other_wrapper.key_id

    def test_a_blob_relabelled_with_the_other_keys_id_does_not_open(
        self, wrapper: KeyWrapper, other_wrapper: KeyWrapper
    ) -> None:
        blob = wrapper.encrypt(b"k" * 32, PLACE)
        relabelled = blob[:2] + bytes.fromhex(other_wrapper.key_id) + blob[18:]
        with pytest.raises(DataInvalid):
            other_wrapper.decrypt(relabelled, PLACE)

    def test_errors_quote_no_bytes(self, wrapper: KeyWrapper) -> None:
        blob = wrapper.encrypt(b"secret material that is not shown", PLACE)
        with pytest.raises(HsmError) as caught:
            wrapper.decrypt(blob, b"elsewhere")
        shown = f"{caught.value!r} {caught.value}"
        assert "secret material" not in shown
        assert blob[HEADER_BYTES : HEADER_BYTES + 8].hex() not in shown

    def test_threads_share_it(self, wrapper: KeyWrapper) -> None:
        def there_and_back(number: int) -> bool:
            value = number.to_bytes(32, "big")
            return wrapper.decrypt(wrapper.encrypt(value, PLACE), PLACE) == value

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(there_and_back, range(200)))
