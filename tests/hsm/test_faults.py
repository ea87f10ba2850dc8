"""What hardware does when it breaks, and what other vendors do differently: on real helpers, behind the shim."""

import signal
import threading
import time

import pytest

from hsm import wire
from hsm.base import (
    DataInvalid,
    HelperGone,
    HsmAuthenticationFailed,
    HsmTimeout,
    HsmUnavailable,
    KeyNotFound,
    MechanismUnavailable,
    MemberUntrue,
)
from hsm.compare import compare
from hsm.group import SyncGroup
from hsm.helper import EXIT_HUNG, EXIT_LOST
from tests.hsm.devices import KEY, PIN, WRAPPING, workshop

pytestmark = pytest.mark.slow

DATA, AAD = b"thirty-two bytes of some material", b"where it belongs"
GCM, KWP = "0x1087", "0x210A"
IN_TIME_S = 10.0


@pytest.fixture(scope="module")
def shop():
    with workshop() as made:
        yield made


@pytest.fixture
def device(shop):
    with shop.devices("a") as [made]:
        yield made


@pytest.fixture
def member(device):
    made = device.member()
    yield made
    made.close()


def encrypt(member, *, verify=True, timeout_s=IN_TIME_S):
    return member.encrypt(KEY, DATA, AAD, verify=verify, timeout_s=timeout_s)


def decrypt(member, made, *, timeout_s=IN_TIME_S):
    return member.decrypt(KEY, made.nonce, made.ciphertext, AAD, timeout_s=timeout_s)


def altered(made):
    return made._replace(ciphertext=made.ciphertext[:-1] + bytes([made.ciphertext[-1] ^ 1]))


def status(member):
    return member.call(wire.Status(0)).info


def profile(member):
    return status(member)["profile"]


# --- other vendors' habits -------------------------------------------------------------------------------------


def test_without_orders_the_shim_changes_nothing(device, member):
    device.start()
    assert decrypt(member, encrypt(member)) == DATA
    with pytest.raises(DataInvalid):
        decrypt(member, altered(encrypt(member)))
    assert profile(member)["gcm"]["iv"] == "ours"
    assert device.shim.calls("C_Login") == ["0x0"]
    assert device.shim.calls("C_Initialize") == ["0x0"]


@pytest.mark.parametrize("how", ["params", "appended"])
def test_nonces_that_the_hsm_makes_are_the_ones_that_come_back(device, member, how):
    device.shim.tell(f"iv {how}")
    device.start()
    assert (profile(member)["gcm"]["iv"], profile(member)["gcm"]["works"]) == (how, True)
    made = [encrypt(member) for _ in range(50)]
    assert len({each.nonce for each in made}) == 50
    assert {len(each.nonce) for each in made} == {12}
    assert {len(each.ciphertext) for each in made} == {len(DATA) + 16}
    assert all(decrypt(member, each) == DATA for each in made)
    with pytest.raises(DataInvalid):
        decrypt(member, made[0]._replace(nonce=made[1].nonce))
    # Read by a token whose callers bring the nonces: the shim's habit is not in the ciphertext.
    device.shim.tell()
    device.stop()
    device.start()
    assert profile(member)["gcm"]["iv"] == "ours"
    assert decrypt(member, made[0]) == DATA


@pytest.mark.parametrize(
    "code", ["0x40", "0x30", "0x6", "0x80000305"], ids=["encrypted data", "device error", "failed", "vendor's own"]
)  # fmt: skip
def test_a_wrong_tag_is_invalid_data_by_whatever_code_it_is_told(device, member, code):
    device.shim.tell(f"map 0x5 {code}")
    device.start()
    made = encrypt(member)
    for _ in range(3):
        with pytest.raises(DataInvalid):
            decrypt(member, altered(made))
    assert decrypt(member, made) == DATA


def test_a_device_error_is_no_invalid_data_where_both_have_the_same_code(device, member):
    device.shim.tell("map 0x5 0x30")
    device.start()
    made = encrypt(member)
    device.shim.tell("map 0x5 0x30", "error 0x30 -1")
    with pytest.raises(HsmUnavailable):  # DataInvalid would tell AWS that its ciphertext is lost for ever
        decrypt(member, made)
    device.shim.tell("map 0x5 0x30")
    assert decrypt(member, made) == DATA


def test_another_number_for_key_wrap_is_used(device, member):
    device.shim.tell("kwp 0x80000171", f"missing {GCM}")
    device.start(mechanisms={"AES_KEY_WRAP_PAD": 0x80000171})
    found = profile(member)["kwp"]
    assert (found["works"], found["mechanism"]) == (True, 0x80000171)


def test_a_vendors_number_for_key_wrap_is_found(device, member):
    device.shim.tell("kwp 0x80000171", "manufacturer SafeNet", "fm 0")
    device.start()
    assert (profile(member)["vendor"], profile(member)["kwp"]["mechanism"]) == ("luna", 0x80000171)


def test_without_gcm_it_says_what_is_missing_and_what_is_possible(device, member):
    device.shim.tell(f"missing {GCM}")
    device.start()
    with pytest.raises(MechanismUnavailable, match=r"CKM_AES_GCM.*Still possible.*hsm-wrapped"):
        encrypt(member)
    assert profile(member)["possible"] == ["root-key", "hsm-wrapped"]


def test_without_gcm_and_key_wrap_nothing_is_possible(device, member):
    device.shim.tell(f"missing {GCM}", f"missing {KWP}", "missing 0x210B")
    device.start()
    with pytest.raises(MechanismUnavailable, match="Neither wrapped nor resident keys"):
        encrypt(member)
    assert profile(member)["possible"] == []


def test_the_last_try_of_a_pin_is_left_to_people(device):
    device.shim.tell("final_try")
    with pytest.raises(HsmAuthenticationFailed, match="CKF_USER_PIN_FINAL_TRY"):
        device.start()
    assert device.shim.calls("C_Login") == []


def test_a_wrong_pin_is_tried_once(device):
    with pytest.raises(HsmAuthenticationFailed, match="PIN is wrong") as caught:
        device.start(pin=b"wrong")
    assert caught.value.code == 0xA0
    assert device.shim.calls("C_Login") == ["0xa0"]
    assert "wrong\n" not in device.stderr.read_text()


def test_firmware_that_others_may_add_to_is_refused(device):
    device.shim.tell("manufacturer SafeNet", "firmware 7.4", "fm 1")
    with pytest.raises(MechanismUnavailable, match="Functionality Modules"):
        device.start()
    assert device.shim.calls("C_Login") == []
    device.shim.tell("manufacturer SafeNet", "firmware 7.4", "fm 0")
    ready = device.start().ready
    assert ready["profile"]["functionality_modules"] == "off"
    assert ready["identity"]["firmware"] == "7.4"


def test_a_token_with_few_sessions_is_slow_but_serves(device, member):
    device.shim.tell("sessions 6", "slow_us 3000")
    device.start()
    made = encrypt(member)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(decrypt(member, made))) for _ in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(IN_TIME_S)
    assert answers == [DATA] * 12
    assert "0xb1" not in device.shim.calls("C_OpenSession")


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_device_error_is_told_with_its_code_and_passes(device, member):
    device.start()
    made = encrypt(member)
    device.shim.tell("error 0x30 1 C_Encrypt")
    with pytest.raises(HsmUnavailable) as caught:
        encrypt(member)
    assert (caught.value.code, "CKR_DEVICE_ERROR" in str(caught.value)) == (0x30, True)
    assert not caught.value.permanent
    assert decrypt(member, encrypt(member)) == DATA
    assert decrypt(member, made) == DATA
    assert status(member)["counters"]["sessions reopened"] == 0


@pytest.mark.parametrize("function", ["C_Encrypt", "C_EncryptInit"])
@pytest.mark.parametrize("code", [0xB3, 0xB0, 0xE0, 0x82, 0x101], ids=hex)
def test_a_lost_session_is_opened_again_once_and_nobody_notices(device, member, function, code):
    device.start()
    encrypt(member)
    opened = len(device.shim.calls("C_OpenSession"))
    device.shim.tell(f"error {code} 1 {function}")
    assert decrypt(member, encrypt(member)) == DATA
    assert len(device.shim.calls("C_OpenSession")) == opened + 1
    assert status(member)["counters"]["sessions reopened"] == 1


def test_a_session_that_is_lost_again_and_again_is_opened_once_a_request(device, member):
    device.start()
    opened = len(device.shim.calls("C_OpenSession"))
    device.shim.tell("error 0xB3")
    for turn in range(1, 4):
        with pytest.raises(HsmUnavailable) as caught:
            encrypt(member)
        assert caught.value.code == 0xB3
        assert len(device.shim.calls("C_OpenSession")) <= opened + 2 * turn
    device.shim.tell()
    assert decrypt(member, encrypt(member)) == DATA
    assert set(device.shim.calls("C_Login")) <= {"0x0", "0x100"}  # never a wrong PIN, never refused


def test_a_token_that_closes_all_sessions_is_logged_in_to_again(device, member):
    device.start()
    made = encrypt(member)
    for turn in range(1, 4):
        device.shim.tell("lose", f"sessions {100 + turn}")  # other bytes, so that each is a new order
        assert decrypt(member, made) == DATA
        assert status(member)["counters"]["sessions reopened"] == turn
        assert device.shim.calls("C_Login") == ["0x0"] * (turn + 1)


def test_many_threads_lose_their_sessions_at_once(device, member):
    device.shim.tell("slow_us 2000")
    device.start()
    made = encrypt(member)
    failed = []
    ends = time.monotonic() + 1.0

    def work():
        while time.monotonic() < ends:
            try:
                assert decrypt(member, made) == DATA
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for each in threads:
        each.start()
    for turn in range(4):
        time.sleep(0.2)  # the load goes on meanwhile; nothing is waited for
        device.shim.tell("slow_us 2000", "lose", f"sessions {100 + turn}")
    for each in threads:
        each.join(IN_TIME_S)
    assert failed == []
    assert status(member)["counters"]["sessions reopened"] >= 4
    assert set(device.shim.calls("C_Login")) == {"0x0"}


def test_a_token_that_was_pulled_out_comes_back(device, member):
    device.start()
    made = encrypt(member)
    device.shim.tell("gone")
    with pytest.raises(HsmUnavailable) as caught:
        encrypt(member)
    assert caught.value.code == 0xE0
    assert status(member)["away"]
    device.shim.tell("lose")  # it is there again, and has forgotten its sessions
    assert decrypt(member, made) == DATA
    assert not status(member)["away"]


def test_a_helper_whose_token_stays_away_ends_to_be_started_afresh(device, member):
    device.start()
    device.shim.tell("gone")
    with pytest.raises(HsmUnavailable):
        encrypt(member)
    assert device.wait_ended() == EXIT_LOST
    with pytest.raises(HelperGone):
        encrypt(member)
    with pytest.raises(HsmUnavailable, match="none at all"):
        device.start()
    device.shim.tell()
    device.start()
    assert decrypt(member, encrypt(member)) == DATA


def test_wrong_ciphertext_is_caught_by_the_self_decrypt(device, member):
    device.start()
    device.shim.tell("corrupt")
    for _ in range(3):
        with pytest.raises(MemberUntrue):
            encrypt(member)
    # Without it, what nobody can ever decrypt would have been given out.
    wrong = encrypt(member, verify=False)
    device.shim.tell()
    with pytest.raises(DataInvalid):
        decrypt(member, wrong)
    assert decrypt(member, encrypt(member)) == DATA


def test_a_hung_call_ends_its_helper_while_the_other_member_serves(shop):
    with shop.devices("a", "b") as devices:
        for each in devices:
            each.start(deadline_s=1.0)
        a = devices[0]
        members = [each.member() for each in devices]
        group = SyncGroup(members)
        a.shim.tell("hang")
        began = time.monotonic()
        hung = threading.Thread(target=a.wait_ended)
        hung.start()
        answered = 0
        while a.running.exit_code is None:
            made = group.encrypt(KEY, DATA, AAD, deadline=wire.boot_clock() + 0.9)
            answered += 1
            assert time.monotonic() - began < IN_TIME_S
        took = time.monotonic() - began
        hung.join(IN_TIME_S)
        assert a.running.exit_code == EXIT_HUNG
        assert answered > 10
        assert took < 5.0
        a.shim.tell()
        a.start()
        assert decrypt(members[0], made) == DATA
        for each in members:
            each.close()


def test_a_hung_helper_in_threads_ends_too(device, member):
    device.shim.tell("slow_us 3000")
    device.start(deadline_s=1.0)
    assert status(member)["threads"] > 1
    device.shim.tell("hang")
    with pytest.raises(HsmTimeout):
        encrypt(member, timeout_s=0.2)
    assert device.wait_ended() == EXIT_HUNG


def test_a_hang_that_ends_in_time_costs_only_time(device, member):
    device.start(deadline_s=5.0)
    device.shim.tell("hang")
    with pytest.raises(HsmTimeout):
        encrypt(member, timeout_s=0.2)
    device.shim.tell()
    assert decrypt(member, encrypt(member)) == DATA
    assert device.running.exit_code is None


def test_a_module_that_crashes_takes_its_helper_and_nothing_else(device, member):
    device.start()
    device.shim.tell("crash")
    with pytest.raises(HelperGone):
        encrypt(member)
    assert device.wait_ended() == -signal.SIGSEGV
    with pytest.raises(HelperGone, match="not running here"):
        encrypt(member)
    device.shim.tell()
    device.start()
    assert decrypt(member, encrypt(member)) == DATA


def test_a_slow_token_is_served_by_threads(device, member):
    device.start()
    assert status(member)["threads"] == 0
    device.shim.tell("slow_us 5000")
    for _ in range(30):
        encrypt(member)
    assert status(member)["threads"] > 1  # noticed while it runs


# --- comparing ---------------------------------------------------------------------------------------------------


def test_devices_with_the_same_keys_agree_and_others_do_not(shop):
    with shop.devices("a", "b", "c") as devices:
        for each in devices:
            each.start()
        members = [each.member() for each in devices]
        assert compare(members, KEY).fit == ("a", "b", "c")
        assert compare(members, WRAPPING).settled
        other = bytes.fromhex("33" * 16)
        for each in members[:2]:
            each.call(wire.Generate(0, other, "made twice", "resident"))
        found = compare(members, other)
        assert (found.fit, found.differing, found.lacking) == ((), ("a", "b"), ("c",))
        devices[0].shim.tell("corrupt")
        found = compare(members, KEY)
        assert found.fit == ("b", "c")
        assert list(found.unknown) == ["a"]
        with pytest.raises(KeyNotFound):
            members[2].encrypt(other, b"", b"", verify=True, timeout_s=IN_TIME_S)
        for each in members:
            each.close()


def test_no_pin_stands_in_arguments_environment_or_log(device, member):
    device.start()
    encrypt(member)
    with open(f"/proc/{device.running.pid}/cmdline", "rb") as file:
        assert PIN.encode() not in file.read()
    try:
        with open(f"/proc/{device.running.pid}/environ", "rb") as file:
            assert PIN.encode() not in file.read()
    except PermissionError:
        pass  # the helper is not to be looked into, not even by its own user
    assert PIN not in device.stderr.read_text()
    assert PIN not in device.shim.log.read_text()
