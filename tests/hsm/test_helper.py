import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hsm import client, wire
from hsm.base import (
    HsmAuthenticationFailed,
    HsmBusy,
    HsmError,
    HsmLate,
    HsmTimeout,
    HsmUnavailable,
    KeyAmbiguous,
    KeyNotFound,
    MechanismUnavailable,
)
from hsm.client import AsyncMember, SyncMember
from hsm.helper import COPIES_CHECKED_S, EXIT_REFUSED
from hsm.softhsm import make_tokens
from hsm.spawning import spawn
from tests.hsm.soft import LABEL, PIN, config_for, helper, in_module

WRONG_PIN = "0000-wrong-pin"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_tokens(tmp_path_factory.mktemp("soft"), [LABEL, "second"], pin=PIN)


@pytest.fixture(scope="module")
def running(tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with helper(tokens, folder / "m.sock", log=folder / "log") as running:
        yield running


@pytest.fixture
def member(running):
    member = SyncMember("soft", running.socket)
    yield member
    member.close()


def new_key(member, kind="resident", label="a key"):
    key = os.urandom(16)
    member.call(wire.Generate(0, key, label, kind))
    return key


def refused(tokens, tmp_path, **changes):
    """Start a helper that will be refused; return the error and its exit code."""
    running = spawn(
        config_for(tokens, tmp_path / "m.sock", **changes),
        environment=tokens.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.raises(HsmError) as caught:
            running.wait_ready(30)
        return caught.value, running.stop()
    finally:
        running.kill()


# --- starting -------------------------------------------------------------------------------------------------------


def test_a_ready_helper_tells_who_the_token_is_and_what_it_can_do(running, tokens):
    ready = running.ready
    assert ready["pid"] == running.pid
    assert ready["identity"]["serial"] == tokens.tokens[0].serial
    assert ready["identity"]["label"] == LABEL
    assert ready["identity"]["manufacturer"] == "SoftHSM project"
    assert ready["profile"]["possible"] == ["root-key", "hsm-wrapped", "hsm-resident"]


def test_a_token_is_named_by_serial_or_by_label(tokens, tmp_path):
    with helper(tokens, tmp_path / "m.sock", token_serial="", token_label="second") as running:
        assert running.ready["identity"]["serial"] == tokens.tokens[1].serial


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_serial": "ffff"}, "no token with serial number 'ffff'.*visible: .*keystead-test"),
        ({"module": "/nowhere/p11.so"}, "cannot be loaded.*Install the vendor's client"),
        ({"module": "/usr/lib/x86_64-linux-gnu/libc.so.6"}, "no PKCS#11 module"),
    ],
    ids=["token", "missing module", "other library"],
)
def test_what_is_not_there_is_said_with_what_to_do(tokens, tmp_path, changes, said):
    error, code = refused(tokens, tmp_path, **changes)
    assert isinstance(error, HsmUnavailable)
    assert re.search(said, str(error))
    assert code == EXIT_REFUSED


def test_two_tokens_of_one_label_are_not_guessed_between(tmp_path):
    tokens = make_tokens(tmp_path / "soft", ["same"], pin=PIN)
    folder = Path(tokens.configuration).parent / "tokens"
    # Another token with the same label, made in a folder of its own.
    other = make_tokens(tmp_path / "other", ["same"], pin=PIN)
    for each in (Path(other.configuration).parent / "tokens").iterdir():
        shutil.copytree(each, folder / each.name)
    error, _ = refused(tokens, tmp_path, token_serial="", token_label="same")
    assert isinstance(error, KeyAmbiguous)
    assert "serial number" in str(error)


# --- PINs -----------------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_refused_and_never_shown(tokens, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        running = spawn(
            config_for(tokens, tmp_path / "m.sock", pin=WRONG_PIN.encode()),
            environment=tokens.environment,
            stderr=stderr,
        )
        with pytest.raises(HsmAuthenticationFailed, match=r"CKR_PIN_INCORRECT.*not tried again") as caught:
            running.wait_ready(30)
        running.stop()
    assert caught.value.permanent
    assert WRONG_PIN not in f"{caught.value!r} {caught.value} {log.read_text()} {running._buffer!r}"


def test_the_pin_is_in_no_place_where_others_look(tokens, tmp_path):
    log = tmp_path / "log"
    with helper(tokens, tmp_path / "m.sock", log=log) as running:
        process = Path("/proc") / str(running.pid)
        shown = process.joinpath("cmdline").read_bytes() + json.dumps(running.ready).encode()
        if os.geteuid() == 0:  # not dumpable: nobody but root may read it
            shown += process.joinpath("environ").read_bytes()
        else:
            with pytest.raises(PermissionError):
                process.joinpath("environ").read_bytes()
        member = SyncMember("m", running.socket)
        shown += repr(member.call(wire.Status(0))).encode()
        member.close()
        for each in (config_for(tokens, tmp_path / "x"), running, member):
            shown += repr(each).encode()
    shown += log.read_bytes()
    assert PIN.encode() not in shown


def test_a_crash_with_the_pin_in_hand_shows_no_pin(tokens, tmp_path):
    # A traceback that went through the configuration, with the local variables of every frame.
    script = (
        "import sys, traceback\nfrom hsm import wire\nfrom hsm.token import Token\n"
        "config = wire.read_config(sys.stdin.buffer.read()[4:])\ntoken = Token(config)\n"
        "try:\n    token.open()\nexcept Exception as error:\n"
        "    print(''.join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))\n"
        "    print(repr(token))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=wire.config_frame(config_for(tokens, tmp_path / "m.sock", pin=WRONG_PIN.encode())),
        capture_output=True,
        check=True,
        env=os.environ | tokens.environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert b"HsmAuthenticationFailed" in done.stdout
    assert WRONG_PIN.encode() not in done.stdout + done.stderr


def test_the_environment_of_the_caller_stays_with_the_caller(tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("KEYSTEAD_SECRET_KEY", "not-for-helpers")
    with helper(tokens, tmp_path / "m.sock") as running:
        if os.geteuid() == 0:
            environment = Path(f"/proc/{running.pid}/environ").read_bytes()
            assert b"not-for-helpers" not in environment
            assert b"SOFTHSM2_CONF" in environment


# --- living and ending ----------------------------------------------------------------------------------------------


def test_a_helper_is_hardened_and_its_socket_is_its_users_alone(running):
    assert stat.S_IMODE(os.stat(running.socket).st_mode) == 0o600
    # prctl(2): files under /proc/<pid> of a process that is not dumpable belong to root.
    assert Path(f"/proc/{running.pid}/mem").stat().st_uid == 0
    limits = Path(f"/proc/{running.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


def test_a_helper_ends_when_its_standard_input_is_closed(tokens, tmp_path):
    with helper(tokens, tmp_path / "m.sock") as running:
        assert running.stop() == 0
        assert not os.path.exists(running.socket)


def test_a_helper_does_not_outlive_who_started_it(tokens, tmp_path):
    # The starter is killed with SIGKILL, so that nothing of it can tidy up.
    script = (
        "import sys, time\nfrom tests.hsm.soft import config_for\nfrom hsm.softhsm import TokenFolder, SoftToken\n"
        "from hsm.spawning import spawn\nfrom pathlib import Path\n"
        f"tokens = TokenFolder({tokens.module!r}, {tokens.configuration!r}, "
        f"(SoftToken({LABEL!r}, {tokens.tokens[0].serial!r}, {PIN!r}),))\n"
        f"running = spawn(config_for(tokens, Path({str(tmp_path / 'm.sock')!r})), environment=tokens.environment)\n"
        "running.wait_ready()\nprint(running.pid, flush=True)\ntime.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
    )
    pid = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    ends = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < ends, "the helper goes on alone"
        time.sleep(0.02)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stale_socket_does_not_stop_a_new_helper(tokens, tmp_path):
    with helper(tokens, tmp_path / "m.sock") as running:
        running.kill()
        assert os.path.exists(running.socket)
        with helper(tokens, tmp_path / "m.sock") as second:
            member = SyncMember("m", second.socket)
            assert member.call(wire.Status(0)).info["refused"] == ""
            member.close()


def test_a_client_finds_the_helper_again_after_a_restart(tokens, tmp_path):
    member = SyncMember("m", str(tmp_path / "m.sock"))
    with pytest.raises(HsmUnavailable, match="keystead hsm serve"):
        member.call(wire.Status(0))
    for _ in range(2):
        with helper(tokens, tmp_path / "m.sock"):
            assert member.call(wire.Random(0, 8)).data
    with pytest.raises(HsmUnavailable):
        member.call(wire.Status(0))
    member.close()


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 64, b"\xff" * 4, b"\x00\x00\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n", wire.frame([])[:3]],
    ids=["zeros", "too long", "no msgpack", "http", "cut"],
)
def test_garbage_ends_its_own_connection_alone(running, member, garbage):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(running.socket)
        stranger.sendall(garbage)
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(5)
        assert stranger.recv(100) == b""
    assert member.call(wire.Random(0, 8)).data


def test_random_bytes(member):
    one, other = member.call(wire.Random(0, 32)).data, member.call(wire.Random(0, 32)).data
    assert len(one) == 32
    assert one != other
    for count in (0, 65_537):
        with pytest.raises(HsmError, match="at a time"):
            member.call(wire.Random(0, count))


def test_a_second_key_of_the_same_id_is_not_made(member):
    key = new_key(member)
    with pytest.raises(KeyAmbiguous, match="already"):
        member.call(wire.Generate(0, key, "again", "resident"))


def test_two_keys_of_the_same_id_are_not_guessed_between(tokens, member):
    key = os.urandom(16)
    in_module(
        tokens,
        f"for _ in range(2):\n    module.generate_key(session, ck.CKM_AES_KEY_GEN, [(ck.CKA_CLASS, 4), "
        f"(ck.CKA_KEY_TYPE, 31), (ck.CKA_VALUE_LEN, 32), (ck.CKA_ID, {key!r}), (ck.CKA_TOKEN, True), "
        f"(ck.CKA_ENCRYPT, True), (ck.CKA_DECRYPT, True)])\n",
    )
    with pytest.raises(KeyAmbiguous, match="more than one"):
        member.encrypt(key, b"x", b"", verify=True, timeout_s=5)
    with pytest.raises(KeyAmbiguous):
        member.call(wire.Destroy(0, key))


def test_labels_are_looked_up_and_need_not_be_unique(member):
    label = f"label {os.urandom(4).hex()}"
    keys = {new_key(member, label=label).hex() for _ in range(2)}
    assert set(member.call(wire.FindByLabel(0, label)).info["keys"]) == keys
    assert member.call(wire.FindByLabel(0, "no such label")).info["keys"] == []


def make_nameless(tokens, label, count=1):
    """Make keys as AWS's instructions for its proxy do: with a label alone."""
    in_module(
        tokens,
        f"for _ in range({count}):\n    module.generate_key(session, ck.CKM_AES_KEY_GEN, [(ck.CKA_CLASS, 4), "
        f"(ck.CKA_KEY_TYPE, 31), (ck.CKA_VALUE_LEN, 32), (ck.CKA_LABEL, {label.encode()!r}), (ck.CKA_TOKEN, True), "
        f"(ck.CKA_SENSITIVE, True), (ck.CKA_ENCRYPT, True), (ck.CKA_DECRYPT, True)])\n",
    )


def test_a_key_without_an_id_is_given_one_and_nothing_else(tokens, member):
    label, key = f"nameless {os.urandom(4).hex()}", os.urandom(16)
    make_nameless(tokens, label)
    assert member.call(wire.FindByLabel(0, label)).info["keys"] == [""]
    for _ in range(2):
        told = member.call(wire.Identify(0, label, key)).info
        assert (told["id"], told["label"], told["encrypt"]) == (key.hex(), label, True)
    assert member.encrypt(key, b"x", b"", verify=True, timeout_s=5).ciphertext
    with pytest.raises(KeyAmbiguous, match="has a CKA_ID already"):
        member.call(wire.Identify(0, label, os.urandom(16)))


def test_a_key_is_not_given_an_id_by_guessing(tokens, member):
    label, taken = f"twins {os.urandom(4).hex()}", new_key(member)
    make_nameless(tokens, label, 2)
    with pytest.raises(KeyAmbiguous, match="more than one"):
        member.call(wire.Identify(0, label, os.urandom(16)))
    with pytest.raises(KeyNotFound):
        member.call(wire.Identify(0, "no such label", os.urandom(16)))
    other = f"single {os.urandom(4).hex()}"
    make_nameless(tokens, other)
    with pytest.raises(KeyAmbiguous, match="already"):
        member.call(wire.Identify(0, other, taken))


def test_a_key_destroyed_by_another_process_is_not_found(tokens, member):
    key = new_key(member)
    member.encrypt(key, b"x", b"", verify=True, timeout_s=5)
    in_module(
        tokens,
        f"[handle] = module.find(session, [(ck.CKA_ID, {key!r})])\nmodule.destroy_object(session, handle)\n",
    )
    time.sleep(2 * COPIES_CHECKED_S + 0.5)
    with pytest.raises(KeyNotFound):
        member.encrypt(key, b"x", b"", verify=True, timeout_s=5)
    # And the session is as good as before for all others.
    other = new_key(member)
    assert member.encrypt(other, b"x", b"", verify=True, timeout_s=5).ciphertext


def test_a_key_that_we_destroy_is_gone_at_once_with_its_copy(member):
    key = new_key(member)
    made = member.encrypt(key, b"x", b"", verify=True, timeout_s=5)
    member.call(wire.Destroy(0, key))
    with pytest.raises(KeyNotFound):
        member.decrypt(key, made.nonce, made.ciphertext, b"", timeout_s=5)
    with pytest.raises(KeyNotFound):
        member.call(wire.Describe(0, key))


def test_a_health_key_has_the_attributes_that_the_vendors_document_asks_for(member):
    told = member.call(wire.Describe(0, new_key(member, "health"))).info
    assert told["extractable"] is False
    assert all(told[name] is True for name in ("sensitive", "encrypt", "decrypt", "wrap", "unwrap"))


def test_a_key_goes_to_another_member_and_then_never_again(tokens, member, tmp_path):
    with helper(tokens, tmp_path / "m.sock", token_serial=tokens.tokens[1].serial) as running:
        other = SyncMember("other", running.socket)
        key, transfer = new_key(member, "replicable"), os.urandom(16)
        public = other.call(wire.Generate(0, transfer, "transfer", "transfer")).data
        blob = member.call(wire.Export(0, key, public)).data
        told = other.call(wire.Import(0, key, "a key", transfer, blob, "resident")).info
        assert (told["extractable"], told["sensitive"], told["wrap"]) == (False, True, False)
        assert member.call(wire.Harden(0, key)).info["extractable"] is False
        with pytest.raises(MechanismUnavailable, match="UNEXTRACTABLE"):
            member.call(wire.Export(0, key, public))
        made = member.encrypt(key, b"the same key", b"aad", verify=True, timeout_s=5)
        assert other.decrypt(key, made.nonce, made.ciphertext, b"aad", timeout_s=5) == b"the same key"
        # The transfer key is a session's; destroyed, it opens nothing any more.
        other.call(wire.Destroy(0, transfer))
        with pytest.raises(KeyNotFound):
            other.call(wire.Import(0, os.urandom(16), "b", transfer, blob, "resident"))
        other.close()


@pytest.mark.parametrize("public", [b"", b"\x01\x00junk", b"\x02\x00junk", b"\x01\x09junk"])
def test_a_key_is_not_exported_to_just_anything(member, public):
    key = new_key(member, "replicable")
    with pytest.raises(HsmError, match="not the public half"):
        member.call(wire.Export(0, key, public))


def test_what_nobody_waits_for_any_more_is_not_begun(running):
    key = os.urandom(16)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(running.socket)
        link.settimeout(5)
        link.sendall(wire.frame([wire.Encrypt(7, key, b"x", b"", True, wire.boot_clock() - 1)]))
        [payload] = wire.Frames().feed(link.recv(65536))
    [answer] = wire.read_answers(payload)
    assert (answer.id, answer.error) == (7, "HsmTimeout")


def test_data_that_is_too_large_is_refused(member):
    key = new_key(member)
    with pytest.raises(HsmError, match="not sent to an HSM"):
        member.encrypt(key, bytes(300_000), b"", verify=False, timeout_s=5)
    with pytest.raises(HsmError, match="too large"):
        member.encrypt(key, bytes(2_000_000), b"", verify=False, timeout_s=5)
    assert member.encrypt(key, bytes(200_000), b"", verify=True, timeout_s=5).ciphertext


@pytest.mark.parametrize("threads", [0, 1, 4])
async def test_many_at_once_get_their_own_answers(tokens, tmp_path, threads):
    with helper(tokens, tmp_path / "m.sock", threads=threads) as running:
        assert running.ready["threads"] == (4 if threads == 4 else 0)
        member = AsyncMember("m", running.socket)
        key = os.urandom(16)
        await member.call(wire.Generate(0, key, "k", "resident"))

        async def there_and_back(number):
            data = number.to_bytes(32, "big")
            made = await member.encrypt(key, data, b"%d" % number, verify=True, timeout_s=20)
            assert (
                await member.decrypt(key, made.nonce, made.ciphertext, b"%d" % number, timeout_s=20) == data
            )
            return made.nonce

        nonces = await asyncio.gather(*(there_and_back(number) for number in range(200)))
        assert len(set(nonces)) == 200
        await member.close()


async def test_more_than_may_wait_are_refused_at_once(running):
    member = AsyncMember("m", running.socket, max_in_flight=8)
    key = os.urandom(16)
    await member.call(wire.Generate(0, key, "k", "resident"))
    results = await asyncio.gather(
        *(member.encrypt(key, b"x", b"", verify=True, timeout_s=5) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(each, HsmBusy) for each in results) == 12
    assert sum(isinstance(each, tuple) for each in results) == 8
    await member.close()


async def test_a_silent_helper_costs_no_more_than_the_time_given(tmp_path):
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    silent = await asyncio.start_unix_server(say_nothing, str(tmp_path / "m.sock"))
    member = AsyncMember("m", str(tmp_path / "m.sock"))
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(HsmTimeout):
            await member.decrypt(b"k", b"n" * 12, b"d" * 16, b"", timeout_s=0.1)
        assert time.monotonic() - began > 0.09
    assert member.in_flight == 0
    await member.close()
    silent.close()
    await silent.wait_closed()
    await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def scripted(path, answers):
    """A helper that does with each request, in turn, what ``answers`` says: an answer, or None for silence.

    It runs in a thread: it answers though the loop that asks is held up.
    """
    turns = iter(answers)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve():
        link, _ = listening.accept()
        frames = wire.Frames()
        with link:
            while data := link.recv(65536):
                for payload in frames.feed(data):
                    for request in wire.read_requests(payload):
                        if next(turns, None):
                            link.sendall(wire.frame([wire.Done(request.id, data=b"answer")]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    member = AsyncMember("m", path)
    try:
        yield member
    finally:
        await member.close()
        thread.join(5)
        listening.close()


async def test_an_answer_that_came_while_the_loop_was_held_up_is_taken(tmp_path):
    async with scripted(str(tmp_path / "m.sock"), [True, True]) as member:
        assert (await member.call(wire.Status(0), timeout_s=5)).data == b"answer"
        asked = asyncio.ensure_future(member.call(wire.Status(0), timeout_s=0.05))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it has been sent
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is to be held up
        assert (await asked).data == b"answer"


async def test_who_was_held_up_himself_says_so(tmp_path, monkeypatch):
    async with scripted(str(tmp_path / "m.sock"), [True, False, False]) as member:
        await member.call(wire.Status(0), timeout_s=5)
        asked = asyncio.ensure_future(member.call(wire.Status(0), timeout_s=0.05))
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251 - as above
        with pytest.raises(HsmLate, match="held up"):
            await asked
        # The next one is waited for by a loop that runs, however late this machine lets it: its time-out tells of the member.
        monkeypatch.setattr(client, "_HELD_UP_S", 60.0)
        with pytest.raises(HsmTimeout) as caught:
            await member.call(wire.Status(0), timeout_s=0.05)
        assert type(caught.value) is HsmTimeout
        assert not caught.value.alive


async def test_a_time_out_says_whether_the_member_answered_others(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_HELD_UP_S", 60.0)  # a busy machine holds this process up as well
    async with scripted(str(tmp_path / "m.sock"), [True, False, True, False]) as member:
        await member.call(wire.Status(0), timeout_s=5)
        asked = asyncio.ensure_future(member.call(wire.Status(0), timeout_s=0.5))
        await asyncio.sleep(0)
        await member.call(wire.Status(0), timeout_s=5)
        with pytest.raises(HsmTimeout) as caught:
            await asked
        assert caught.value.alive
        with pytest.raises(HsmTimeout) as caught:
            await member.call(wire.Status(0), timeout_s=0.05)
        assert not caught.value.alive


async def test_an_ending_helper_fails_what_waits(tmp_path):
    async def hang_up(reader, writer):
        await reader.read(10)
        writer.close()

    server = await asyncio.start_unix_server(hang_up, str(tmp_path / "m.sock"))
    member = AsyncMember("m", str(tmp_path / "m.sock"))
    with pytest.raises(HsmUnavailable, match="ended"):
        await member.call(wire.Status(0), timeout_s=5)
    server.close()
    await member.close()
    with pytest.raises(HsmUnavailable, match="no longer in use"):
        await member.call(wire.Status(0), timeout_s=5)
