"""Tokens as they may come, imitated in Python: what the profile makes of them, and what a lane then does."""

import ctypes
import hashlib
import hmac
import os
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm import ck, documented, profile, wire
from hsm.base import DataInvalid, HsmUnavailable, MechanismUnavailable, MemberUntrue
from hsm.cryptoki import CkError, GcmParams, Mechanism, TokenInfo
from hsm.lane import Lane, Nonces
from hsm.token import Token

KEY = b"\x01" * 16


class FakeModule:
    """AES-GCM of a token with the given manners, behind the calls that a lane and the profile make."""

    path = "/opt/vendor/lib/libvendor.so"
    threads_ok = True

    def __init__(self, *, iv="ours", nonce_bytes=12, counter=None, tag_checked=True, in_clear=True, offset=0):
        self.iv, self.nonce_bytes, self.counter = iv, nonce_bytes, counter
        self.tag_checked, self.in_clear, self.offset = tag_checked, in_clear, offset
        self.keys = {7: AESGCM(bytes(32))}
        self.session = 0
        self.state = None
        self.calls = []
        self.fail = []  # codes that C_EncryptInit and C_DecryptInit return, one after the other
        self.raw = {
            name: getattr(self, name) for name in ("C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt")
        }

    # What Module has, as far as it is used here.
    def mechanisms(self, slot):
        return [ck.CKM_AES_GCM, ck.CKM_AES_KEY_GEN]

    def mechanism_info(self, slot, number):
        return SimpleNamespace(min_size=16, max_size=32, flags=0)

    def open_session(self, slot, *, read_write):
        self.session += 1
        self.calls.append("open")
        return self.session

    def close_session(self, session):
        pass

    def random(self, session, count):
        return os.urandom(count)

    def generate_key(self, session, mechanism, template):
        self.keys[len(self.keys) + 7] = AESGCM(os.urandom(32))
        return len(self.keys) + 6

    def create_object(self, session, template):
        if not self.in_clear:
            raise CkError("C_CreateObject", 0xD0)
        value = dict(template)[ck.CKA_VALUE]
        value = value if not self.offset else hashlib.sha256(value).digest()
        self.keys[len(self.keys) + 7] = AESGCM(value)
        return len(self.keys) + 6

    def destroy_object(self, session, handle):
        pass

    def find(self, session, template, *, most=16):
        self.calls.append("find")
        return [7] if dict(template).get(ck.CKA_ID) == KEY else []

    def encrypt(self, session, how, key, data):
        return self._once("C_Encrypt", session, how, key, data)

    def decrypt(self, session, how, key, data):
        return self._once("C_Decrypt", session, how, key, data)

    def _once(self, name, session, how, key, data):
        out, length = ctypes.create_string_buffer(len(data) + 1024), ctypes.c_ulong(len(data) + 1024)
        if code := getattr(self, f"{name}Init")(session, how, key):
            raise CkError(f"{name}Init", code)
        if code := getattr(self, name)(session, data, len(data), out, length):
            raise CkError(name, code)
        return out.raw[: length.value]

    # The functions themselves.
    def C_EncryptInit(self, session, how, key):
        return self._init("encrypt", session, how, key)

    def C_DecryptInit(self, session, how, key):
        return self._init("decrypt", session, how, key)

    def _init(self, what, session, how, key):
        self.calls.append(what)
        if self.fail:
            return self.fail.pop(0)
        how = getattr(how, "_obj", how)  # what byref() was given
        assert isinstance(how, Mechanism)
        params = GcmParams.from_address(how.parameter)
        iv = ctypes.string_at(params.iv, params.iv_len) if params.iv_len else b""
        if what == "encrypt":
            if self.iv == "params":
                if not iv or any(iv):
                    return 0x71
                iv = self._nonce()
                ctypes.memmove(params.iv, iv, len(iv))
            elif self.iv == "appended":
                if iv:
                    return 0x71
                iv = self._nonce()
        aad = ctypes.string_at(params.aad, params.aad_len) if params.aad_len else b""
        self.state = (self.keys[key], iv, aad)
        return 0

    def _nonce(self):
        return os.urandom(self.nonce_bytes) if self.counter is None else self.counter * self.nonce_bytes

    def C_Encrypt(self, session, data, size, out, length):
        key, iv, aad = self.state
        made = key.encrypt(iv, data[:size], aad) + (iv if self.iv == "appended" else b"")
        return self._put(made, out, length)

    def C_Decrypt(self, session, data, size, out, length):
        key, iv, aad = self.state
        try:
            made = key.decrypt(iv, data[:size], aad)
        except (InvalidTag, ValueError):
            if self.tag_checked:
                return 0x40
            made = bytes(max(0, size - 16))
        return self._put(made, out, length)

    def _put(self, made, out, length):
        ctypes.memmove(out, made, len(made))
        getattr(length, "_obj", length).value = len(made)
        return 0


INFO = TokenInfo(1, "t", "Vendor", "Model", "0001", ck.CKF_TOKEN_INITIALIZED, 0, 0, "1.0", "1.0")


def token_on(module, **changes):
    """Return a Token on a module that is not loaded from anywhere, and its first lane."""
    token = Token.__new__(Token)
    config = wire.HelperConfig(module="x", socket="s", token_label="t", login="none", **changes)
    real = Token.__init__

    def init(self):
        import hsm.token as room

        kept, room.Module = room.Module, lambda path: module
        try:
            real(self, config)
        finally:
            room.Module = kept

    init(token)
    token.info = INFO
    lane = Lane(token)
    lane.run("opening", lambda: None)
    token.use(profile.measure(token, lane))
    return token, lane


@pytest.mark.parametrize("iv", ["ours", "params", "appended"])
@pytest.mark.parametrize("in_clear", [True, False])
def test_whoever_makes_the_nonce_it_is_found_out_and_used(iv, in_clear):
    token, lane = token_on(FakeModule(iv=iv, in_clear=in_clear))
    found = token.profile.gcm
    assert (found.works, found.iv, found.nonce_bytes) == (True, iv, 12)
    assert found.known_answer is (True if in_clear else None)
    assert token.profile.possible == ["root-key", "hsm-wrapped", "hsm-resident"]
    nonces = set()
    for size in (0, 1, 32, 5000):
        nonce, data = lane.encrypt(KEY, b"x" * size, b"aad", True)
        nonces.add(nonce)
        assert lane.decrypt(KEY, nonce, data, b"aad") == b"x" * size
        assert AESGCM(bytes(32)).decrypt(nonce, data, b"aad") == b"x" * size
        with pytest.raises(DataInvalid):
            lane.decrypt(KEY, nonce, data, b"other")
    assert len(nonces) == 4


def test_nonces_of_sixteen_bytes_serve_neither_aws_nor_our_blobs():
    token, _ = token_on(FakeModule(iv="appended", nonce_bytes=16))
    assert (token.profile.gcm.works, token.profile.gcm.nonce_bytes) == (True, 16)
    assert token.profile.possible == []
    assert any("nonces of 12 bytes" in each for each in token.profile.missing)


@pytest.mark.parametrize("iv", ["params", "appended"])
def test_an_hsm_that_makes_the_same_nonce_twice_is_not_used(iv):
    token, lane = token_on(FakeModule(iv=iv, counter=b"\x07"))
    assert not token.profile.gcm.works
    with pytest.raises(MechanismUnavailable, match="does not work"):
        lane.encrypt(KEY, b"x", b"", False)


def test_a_token_that_takes_zeros_for_a_nonce_is_not_taken_for_one_that_makes_nonces():
    module = FakeModule(iv="zeros")
    real = module._init

    def init(what, session, how, key):
        params = GcmParams.from_address(getattr(how, "_obj", how).parameter)
        zeros = params.iv_len and not any(ctypes.string_at(params.iv, params.iv_len))
        return real(what, session, how, key) if what == "decrypt" or zeros else 0x71

    module._init = init
    token, _ = token_on(module)
    assert not token.profile.gcm.works


def test_a_token_that_decrypts_altered_data_is_not_trusted():
    token, lane = token_on(FakeModule(tag_checked=False))
    assert not token.profile.gcm.works
    assert "decrypts altered data" in token.profile.gcm.reason
    with pytest.raises(MechanismUnavailable, match=r"altered data.*Neither wrapped nor resident"):
        lane.encrypt(KEY, b"x", b"", False)


def test_a_token_whose_gcm_is_another_is_not_trusted():
    token, _ = token_on(FakeModule(offset=1))
    assert (token.profile.gcm.works, token.profile.gcm.known_answer) == (False, False)


def test_a_device_that_returns_wrong_ciphertext_is_caught_before_anybody_has_it():
    module = FakeModule()
    _, lane = token_on(module)
    real = module.C_Encrypt

    def flip(session, data, size, out, length):
        code = real(session, data, size, out, length)
        ctypes.memmove(out, b"\x00\x01", 2)
        return code

    lane._encrypt_data = flip
    with pytest.raises(MemberUntrue):
        lane.encrypt(KEY, b"x" * 20, b"", True)


# --- sessions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x32, 0x60, 0x82, 0x90, 0xB0, 0xB3, 0xE0, 0x101, 0x190])
@pytest.mark.parametrize("what", ["encrypt", "decrypt"])
def test_after_a_lost_session_the_call_is_made_exactly_once_more(what, code):
    module = FakeModule()
    token, lane = token_on(module)
    nonce, data = lane.encrypt(KEY, b"x", b"", False)
    work = (lambda: lane.encrypt(KEY, b"x", b"", False)) if what == "encrypt" else (
        lambda: lane.decrypt(KEY, nonce, data, b"")
    )  # fmt: skip
    module.calls.clear()
    module.fail = [code]
    assert work()
    assert module.calls == [what, "open", "find", what]
    assert token.lost_since == 0

    module.calls.clear()
    module.fail = [code] * 5
    with pytest.raises(HsmUnavailable) as caught:
        work()
    assert module.calls == [what, "open", "find", what]
    assert caught.value.code == code
    assert len(module.fail) == 3
    module.fail = []
    assert work()


def test_an_error_that_is_no_loss_is_not_tried_again():
    module = FakeModule()
    _, lane = token_on(module)
    module.calls.clear()
    module.fail = [0x30]
    with pytest.raises(HsmUnavailable, match="CKR_DEVICE_ERROR") as caught:
        lane.encrypt(KEY, b"x", b"", False)
    assert module.calls == ["find", "encrypt"]
    assert not caught.value.permanent


def test_one_lost_session_makes_each_lane_open_its_own_again_once():
    module = FakeModule()
    token, lane = token_on(module)
    other = token.lane()
    for each in (lane, other):
        each.encrypt(KEY, b"x", b"", False)
    module.calls.clear()
    module.fail = [0xB3]
    lane.encrypt(KEY, b"x", b"", False)
    other.encrypt(KEY, b"x", b"", False)
    assert module.calls.count("open") == 2
    assert token.reopened == 1
    other.encrypt(KEY, b"x", b"", False)
    assert module.calls.count("open") == 2


def test_handles_are_looked_up_once():
    module = FakeModule()
    _, lane = token_on(module)
    module.calls.clear()
    for _ in range(5):
        lane.encrypt(KEY, b"x", b"", True)
    assert module.calls.count("find") == 1


# --- nonces ---------------------------------------------------------------------------------------------------------


def test_nonces_differ_even_where_the_hsms_generator_stands_still():
    nonces = Nonces(lambda count: bytes(count))
    assert len({nonces.next() for _ in range(2000)}) == 2000


def test_nonces_depend_on_the_hsm_too(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: bytes(count))
    blocks = []

    def draw(count):
        blocks.append(hmac.digest(b"k", bytes([len(blocks)]), "sha512") * (count // 64 + 1))
        return blocks[-1][:count]

    nonces = Nonces(draw)
    assert [nonces.next() for _ in range(3)] == [blocks[0][at : at + 12] for at in (0, 12, 24)]
    for _ in range(400):
        nonces.next()
    assert len(blocks) == 2


def test_without_a_generator_in_the_hsm_nonces_are_the_systems():
    nonces = Nonces(None)
    assert len({nonces.next() for _ in range(100)}) == 100


# --- Luna, documents ------------------------------------------------------------------------------------------------


def luna(policy):
    """Return a module that answers HSM policy 50 with this value; None: it has no such function."""

    def ask(slot, number, value):
        assert (slot, number) == (1, 50)
        value._obj.value = policy
        return 0

    return SimpleNamespace(
        path="/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
        vendor_function=lambda name, *types: None if policy is None else ask,
    )


def test_a_luna_with_functionality_modules_is_refused():
    info = INFO._replace(manufacturer="Safenet, Inc.", model="LunaSA 7.7.0")
    vendor = documented.find(info.manufacturer, info.model, "libCryptoki2_64.so")
    assert vendor.name == "luna"
    with pytest.raises(MechanismUnavailable, match=r"Functionality Modules.*policy 50"):
        profile.refuse(luna(1), info, vendor)
    assert profile.refuse(luna(0), info, vendor) == "off"
    assert profile.refuse(luna(None), info, vendor).startswith("unknown")


@pytest.mark.parametrize(
    ("policy", "info", "said"),
    [
        (0, INFO, "yes: HSM policy 12"),
        (1, INFO, "no: HSM policy 12"),
        (None, INFO, "unknown"),
        (None, INFO._replace(label="NSS FIPS 140-2 Certificate DB"), "yes: the token says so"),
    ],
)
def test_fips_mode_is_told_as_far_as_it_can_be_known(policy, info, said):
    module = SimpleNamespace(
        vendor_function=lambda name, *types: (
            None
            if policy is None
            else lambda slot, number, value: setattr(value._obj, "value", policy * (number == 12)) or 0
        )
    )
    assert profile._fips(module, info, documented.by_name("luna"), profile.Profile()).startswith(said)


@pytest.mark.parametrize(
    ("manufacturer", "module", "name"),
    [
        ("SoftHSM project", "/usr/lib/softhsm/libsofthsm2.so", "softhsm"),
        ("nCipher Corp. Ltd", "/opt/nfast/toolkits/pkcs11/libcknfast.so", "nshield"),
        ("", "/opt/nfast/toolkits/pkcs11/libcknfast.so", "nshield"),
        ("Marvell Semiconductors, Inc.", "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so", "cloudhsm"),
        ("Yubico (www.yubico.com)", "/usr/lib/yubihsm_pkcs11.so", "yubihsm"),
        ("IBM Corp.", "/usr/lib/opencryptoki/libopencryptoki.so.0", "opencryptoki"),
        ("Nobody", "/opt/lib/other.so", None),
    ],
)
def test_vendors_are_told_apart(manufacturer, module, name):
    found = documented.find(manufacturer, "Model", module)
    assert (found.name if found else None) == name


def test_every_fact_names_its_source_and_what_was_not_tried_says_so():
    for vendor in documented.VENDORS:
        assert vendor.facts
        for fact in vendor.facts:
            tried = fact.source.startswith(("measured by us", "tried by us"))
            assert tried or fact.source.startswith("https://"), fact
            assert not (tried and not vendor.proven), fact
    assert {vendor.name for vendor in documented.VENDORS if not vendor.proven} == {
        "nshield", "luna", "cloudhsm", "yubihsm",
    }  # fmt: skip
