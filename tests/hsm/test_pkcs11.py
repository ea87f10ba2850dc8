import os

import pytest

from hsm import wire
from hsm.base import (
    BlobMalformed,
    DataInvalid,
    HsmError,
    KeyNotFound,
    KeyWrapper,
    MechanismUnavailable,
    ResidentKey,
)
from hsm.blob import Algorithm
from hsm.pkcs11 import Pkcs11KeyWrapper, Pkcs11ResidentKey
from hsm.software import SoftwareKeyWrapper, SoftwareResidentKey, new_key
from tests.contracts.key_wrapper import PLACE, KeyWrapperContract
from tests.contracts.resident_key import ResidentKeyContract
from tests.hsm.soft import NO_GCM, group_of, soft_member


@pytest.fixture(scope="module")
def member(tmp_path_factory):
    with soft_member(tmp_path_factory.mktemp("soft")) as member:
        yield member


@pytest.fixture(scope="module")
def member_without_gcm(tmp_path_factory):
    with soft_member(tmp_path_factory.mktemp("soft"), mechanisms=NO_GCM) as member:
        yield member


def wrapping_key(member, label="wrapping"):
    key = os.urandom(16)
    member.call(wire.Generate(0, key, label, "wrapping"))
    return key


class TestWrappedByGcmInTheHsm(KeyWrapperContract):
    @pytest.fixture
    def wrapper(self, member) -> KeyWrapper:
        return Pkcs11KeyWrapper(group_of(member), wrapping_key(member))

    @pytest.fixture
    def other_wrapper(self, member) -> KeyWrapper:
        return Pkcs11KeyWrapper(group_of(member), wrapping_key(member))


class TestWrappedByKwpInTheHsm(KeyWrapperContract):
    algorithm = Algorithm.KWP_AES_256_GCM
    many = 100

    @pytest.fixture
    def wrapper(self, member_without_gcm) -> KeyWrapper:
        return Pkcs11KeyWrapper(group_of(member_without_gcm), wrapping_key(member_without_gcm))

    @pytest.fixture
    def other_wrapper(self, member_without_gcm) -> KeyWrapper:
        return Pkcs11KeyWrapper(group_of(member_without_gcm), wrapping_key(member_without_gcm))


class TestResidentInTheHsm(ResidentKeyContract):
    @pytest.fixture
    def key(self, member) -> ResidentKey:
        return Pkcs11ResidentKey.generate(group_of(member), member, label="resident")

    @pytest.fixture
    def other_key(self, member) -> ResidentKey:
        return Pkcs11ResidentKey.generate(group_of(member), member, label="resident")


class TestResidentInSoftware(ResidentKeyContract):
    @pytest.fixture
    def key(self) -> ResidentKey:
        return SoftwareResidentKey()

    @pytest.fixture
    def other_key(self) -> ResidentKey:
        return SoftwareResidentKey()


def test_a_wrapping_key_can_encrypt_and_nothing_that_would_let_keys_out(member):
    told = member.call(wire.Describe(0, wrapping_key(member))).info
    yes = {name for name in told if told[name] is True}
    assert yes == {
        "sensitive", "encrypt", "decrypt", "token", "private", "local", "never_extractable", "always_sensitive", "aes",
    }  # fmt: skip
    assert not {"value", "check_value", "kcv"} & told.keys()


def test_without_gcm_a_wrapping_key_wraps_and_cannot_decrypt(member_without_gcm):
    told = member_without_gcm.call(wire.Describe(0, wrapping_key(member_without_gcm))).info
    assert (told["wrap"], told["unwrap"], told["encrypt"], told["decrypt"]) == (True, True, False, False)


def test_a_blob_does_not_open_after_its_algorithm_was_changed(member):
    wrapper = Pkcs11KeyWrapper(group_of(member), wrapping_key(member))
    blob = wrapper.encrypt(b"k" * 80, PLACE)
    with pytest.raises(HsmError):
        wrapper.decrypt(blob[:1] + bytes([Algorithm.KWP_AES_256_GCM]) + blob[2:], PLACE)


def test_software_does_not_take_a_blob_of_an_hsm_for_its_own():
    wrapper = SoftwareKeyWrapper(new_key())
    blob = wrapper.encrypt(b"k" * 80, PLACE)
    with pytest.raises(BlobMalformed):
        wrapper.decrypt(blob[:1] + bytes([Algorithm.KWP_AES_256_GCM]) + blob[2:], PLACE)


def test_resident_keys_without_gcm_are_refused_with_what_is_possible(member_without_gcm):
    key = wrapping_key(member_without_gcm)
    with pytest.raises(MechanismUnavailable, match=r"no AES-GCM.*Still possible.*hsm-wrapped") as caught:
        Pkcs11ResidentKey(group_of(member_without_gcm), key).encrypt(b"data", b"")
    assert caught.value.permanent


def test_a_wrapping_key_id_has_sixteen_bytes(member):
    with pytest.raises(ValueError, match="16 bytes"):
        Pkcs11KeyWrapper(group_of(member), b"short")


def test_the_hsm_being_away_is_no_reason_for_another_algorithm(tmp_path):
    with soft_member(tmp_path) as member:
        group = group_of(member)
        wrapper = Pkcs11KeyWrapper(group, wrapping_key(member), timeout_s=0.5)
    with pytest.raises(HsmError) as caught:
        wrapper.encrypt(b"k", PLACE)
    assert not caught.value.permanent
    assert wrapper._algorithm is None


def test_an_unknown_key_is_not_found(member):
    wrapper = Pkcs11KeyWrapper(group_of(member), os.urandom(16))
    with pytest.raises(KeyNotFound):
        wrapper.encrypt(b"k", PLACE)


def test_a_kwp_blob_with_anothers_data_key_does_not_open(member_without_gcm):
    wrapper = Pkcs11KeyWrapper(group_of(member_without_gcm), wrapping_key(member_without_gcm))
    one, other = wrapper.encrypt(b"1" * 32, PLACE), wrapper.encrypt(b"2" * 32, PLACE)
    with pytest.raises(DataInvalid):
        wrapper.decrypt(one[:30] + other[30:70] + one[70:], PLACE)
