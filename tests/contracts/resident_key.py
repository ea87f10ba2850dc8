"""What every ResidentKey must do. A test module subclasses this and gives the two fixtures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from hsm.base import DataInvalid, HsmError, KeyNotFound, ResidentKey

AAD = b"associated data of the request"


class ResidentKeyContract:
    """Fixtures to give: ``key``, and ``other_key`` of the same kind, both made for the test."""

    many = 500

    @pytest.fixture
    def key(self) -> ResidentKey:
        """The implementation under test."""
        raise NotImplementedError

    @pytest.fixture
    def other_key(self) -> ResidentKey:
        """The same implementation, another key."""
        raise NotImplementedError

    def test_satisfies_the_protocol(self, key: ResidentKey) -> None:
        assert isinstance(key, ResidentKey)

    def test_key_ids_are_lower_case_hex_and_differ(self, key: ResidentKey, other_key: ResidentKey) -> None:
        for each in (key, other_key):
            assert bytes.fromhex(each.key_id)
            assert each.key_id == each.key_id.lower()
        assert key.key_id != other_key.key_id

    @pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 4300, 8192, 100_000])
    @pytest.mark.parametrize("aad", [b"", AAD, bytes(16_384)], ids=["no aad", "aad", "long aad"])
    def test_decrypts_what_it_encrypted(self, key: ResidentKey, size: int, aad: bytes) -> None:
        plaintext = (bytes(range(256)) * (size // 256 + 1))[:size]
        made = key.encrypt(plaintext, aad)
        assert len(made.nonce) == 12
        assert len(made.ciphertext) == size + 16
        assert key.decrypt(made.nonce, made.ciphertext, aad) == plaintext

    def test_zero_bytes_are_data(self, key: ResidentKey) -> None:
        made = key.encrypt(b"\0a\0\0", b"\0b\0")
        assert key.decrypt(made.nonce, made.ciphertext, b"\0b\0") == b"\0a\0\0"
        with pytest.raises(DataInvalid):
            key.decrypt(made.nonce, made.ciphertext, b"")

    def test_plaintext_is_not_in_the_ciphertext(self, key: ResidentKey) -> None:
        assert b"k" * 8 not in key.encrypt(b"k" * 64, AAD).ciphertext

    def test_no_nonce_comes_twice(self, key: ResidentKey) -> None:
        assert len({key.encrypt(b"", AAD).nonce for _ in range(self.many)}) == self.many

    def test_every_byte_counts(self, key: ResidentKey) -> None:
        made = key.encrypt(b"k" * 20, AAD)
        for at in range(len(made.ciphertext)):
            altered = made.ciphertext[:at] + bytes([made.ciphertext[at] ^ 1]) + made.ciphertext[at + 1 :]
            with pytest.raises(DataInvalid):
                key.decrypt(made.nonce, altered, AAD)
        for at in range(len(made.nonce)):
            altered = made.nonce[:at] + bytes([made.nonce[at] ^ 1]) + made.nonce[at + 1 :]
            with pytest.raises(DataInvalid):
                key.decrypt(altered, made.ciphertext, AAD)
        for aad in (b"", AAD[:-1], AAD + b"\0"):
            with pytest.raises(DataInvalid) as caught:
                key.decrypt(made.nonce, made.ciphertext, aad)
            assert caught.value.permanent
        assert key.decrypt(made.nonce, made.ciphertext, AAD) == b"k" * 20

    def test_cut_data_is_invalid_and_nothing_worse(self, key: ResidentKey) -> None:
        made = key.encrypt(b"k" * 20, AAD)
        for size in range(len(made.ciphertext)):
            with pytest.raises(DataInvalid):
                key.decrypt(made.nonce, made.ciphertext[:size], AAD)
        with pytest.raises(DataInvalid):
            key.decrypt(b"", made.ciphertext, AAD)

    def test_another_key_does_not_open_it(self, key: ResidentKey, other_key: ResidentKey) -> None:
        made = key.encrypt(b"k" * 20, AAD)
        with pytest.raises(DataInvalid):
            other_key.decrypt(made.nonce, made.ciphertext, AAD)

    def test_errors_and_repr_quote_no_bytes(self, key: ResidentKey) -> None:
        made = key.encrypt(b"secret material that is not shown", AAD)
        with pytest.raises(HsmError) as caught:
            key.decrypt(made.nonce, made.ciphertext, b"elsewhere")
        shown = f"{caught.value!r} {caught.value} {key!r}"
        assert made.ciphertext[:8].hex() not in shown
        assert "secret material" not in shown

    def test_threads_share_it(self, key: ResidentKey) -> None:
        def there_and_back(number: int) -> bool:
            value = number.to_bytes(32, "big")
            made = key.encrypt(value, AAD)
            return key.decrypt(made.nonce, made.ciphertext, AAD) == value

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(there_and_back, range(200)))

    def test_a_destroyed_key_is_gone(self, key: ResidentKey, other_key: ResidentKey) -> None:
        made = key.encrypt(b"k" * 20, AAD)
        key.destroy()
        with pytest.raises(KeyNotFound):
            key.decrypt(made.nonce, made.ciphertext, AAD)
        with pytest.raises(KeyNotFound):
            key.encrypt(b"k", AAD)
        with pytest.raises(KeyNotFound):
            key.destroy()
        assert other_key.encrypt(b"k", AAD).ciphertext
