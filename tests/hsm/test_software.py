import copy
import pickle

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from hsm.base import DataInvalid, KeyWrapper
from hsm.blob import parse
from hsm.software import KEY_BYTES, SoftwareKeyWrapper, new_key, wrapping_key_id
from tests.contracts.key_wrapper import PLACE, KeyWrapperContract

FIXED_KEY = bytes(range(32))


class TestSoftwareKeyWrapper(KeyWrapperContract):
    @pytest.fixture
    def wrapper(self) -> KeyWrapper:
        return SoftwareKeyWrapper(new_key())

    @pytest.fixture
    def other_wrapper(self) -> KeyWrapper:
        return SoftwareKeyWrapper(new_key())


def test_ciphertext_is_plain_aes_256_gcm_that_anybody_can_check():
    parts = parse(SoftwareKeyWrapper(FIXED_KEY).encrypt(b"material", PLACE))
    assert AESGCM(FIXED_KEY).decrypt(parts.nonce, parts.ciphertext, PLACE) == b"material"


def test_the_key_id_is_hkdf_of_the_key_and_never_changes():
    # RFC 5869 by hand with hmac: the id is on disk in every blob, so a change of the rule must fail here.
    import hashlib
    import hmac

    extracted = hmac.new(b"\0" * 32, FIXED_KEY, hashlib.sha256).digest()
    expanded = hmac.new(extracted, b"keystead:v1:wrapping-key-id\x01", hashlib.sha256).digest()
    assert wrapping_key_id(FIXED_KEY) == expanded[:16].hex() == "8ce7245f20836d46203f3655dcc78a59"


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_only_32_byte_keys(size):
    with pytest.raises(ValueError, match="32 bytes"):
        SoftwareKeyWrapper(b"k" * size)


def test_repr_shows_the_id_and_no_key():
    shown = repr(SoftwareKeyWrapper(FIXED_KEY))
    assert wrapping_key_id(FIXED_KEY) in shown
    assert FIXED_KEY.hex() not in shown


@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_is_not_serialised(way):
    with pytest.raises(TypeError, match="not serialised"):
        way(SoftwareKeyWrapper(FIXED_KEY))


def test_new_keys_differ():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {KEY_BYTES}


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage):
    with pytest.raises(DataInvalid):
        SoftwareKeyWrapper(FIXED_KEY).decrypt(garbage, PLACE)


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_value_and_place(value, place):
    wrapper = SoftwareKeyWrapper(FIXED_KEY)
    assert wrapper.decrypt(wrapper.encrypt(value, place), place) == value
