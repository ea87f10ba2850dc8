"""Modules other than SoftHSM: NSS with a database of its own, and opencryptoki in namespaces of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hsm import wire
from hsm.base import HsmUnavailable, KeyWrapper, MechanismUnavailable, ResidentKey
from hsm.client import SyncMember
from hsm.pkcs11 import Pkcs11KeyWrapper, Pkcs11ResidentKey
from hsm.spawning import spawn
from tests.contracts.key_wrapper import KeyWrapperContract
from tests.contracts.resident_key import ResidentKeyContract
from tests.hsm.soft import group_of

NSS = next(
    (
        each
        for each in ("/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
                     "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so", "/usr/lib64/libsoftokn3.so")
        if os.path.exists(each)
    ),
    "",
)  # fmt: skip
OPENCRYPTOKI = next(
    (
        each
        for each in ("/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0",
                     "/usr/lib/aarch64-linux-gnu/opencryptoki/libopencryptoki.so.0")
        if os.path.exists(each)
    ),
    "",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
NSS_PIN = "8102-nss-pin"
needs_nss = pytest.mark.skipif(not NSS, reason="NSS is not installed (apt install libnss3)")
needs_opencryptoki = pytest.mark.skipif(
    not OPENCRYPTOKI, reason="opencryptoki is not installed (apt install opencryptoki)"
)

MAKE_NSS = """
import os, sys
from hsm import ck
from hsm.cryptoki import Module
module = Module(sys.argv[1])
module.initialize()
slot = next(each.slot for each in module.tokens() if not each.flags & 2)
session = module.open_session(slot, read_write=True)
module.login(session, b"", user=ck.CKU_SO)
module.init_pin(session, sys.stdin.buffer.read())
"""


def run_nss(folder, **changes):
    """Start a helper on NSS's token in ``folder``; give a client."""
    config = wire.HelperConfig(
        module=NSS,
        socket=str(folder / "m.sock"),
        token_label="NSS Certificate DB",
        pin=NSS_PIN.encode(),
    )
    for name, value in changes.items():
        setattr(config, name, value)
    running = spawn(config, environment=nss_environment(folder), stderr=subprocess.DEVNULL)
    running.wait_ready(30)
    return running, SyncMember("nss", config.socket)


def nss_environment(folder):
    return {
        "NSS_LIB_PARAMS": f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    }


@pytest.fixture(scope="module")
def nss(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nss")
    subprocess.run(
        [sys.executable, "-c", MAKE_NSS, NSS],
        input=NSS_PIN.encode(),
        env=os.environ | nss_environment(folder),
        check=True,
        cwd=ROOT,
    )
    running, member = run_nss(folder)
    yield member
    member.close()
    running.stop()


@needs_nss
class TestWrappedByNss(KeyWrapperContract):
    many = 100

    @pytest.fixture
    def wrapper(self, nss) -> KeyWrapper:
        return Pkcs11KeyWrapper(group_of(nss), made(nss))

    @pytest.fixture
    def other_wrapper(self, nss) -> KeyWrapper:
        return Pkcs11KeyWrapper(group_of(nss), made(nss))


@needs_nss
class TestResidentInNss(ResidentKeyContract):
    many = 100

    @pytest.fixture
    def key(self, nss) -> ResidentKey:
        return Pkcs11ResidentKey.generate(group_of(nss), nss, label="resident")

    @pytest.fixture
    def other_key(self, nss) -> ResidentKey:
        return Pkcs11ResidentKey.generate(group_of(nss), nss, label="resident")


def made(member):
    key = os.urandom(16)
    member.call(wire.Generate(0, key, "wrapping", "wrapping"))
    return key


@needs_nss
def test_nss_has_key_wrap_by_the_number_of_version_3_and_as_data(nss):
    profile = nss.call(wire.Status(0)).info["profile"]
    assert (profile["kwp"]["mechanism"], profile["kwp"]["by"], profile["kwp"]["known_answer"]) == (
        0x210B,
        "encrypt",
        True,
    )
    assert profile["errors"]["wrong tag"] == "C_Decrypt: CKR_ENCRYPTED_DATA_INVALID"
    assert profile["vendor"] == "nss"


@needs_nss
def test_the_long_probe_finds_the_hashes_of_rsa_oaep(nss):
    assert nss.call(wire.Probe(0)).info["profile"]["oaep"] == ["SHA-1", "SHA-256", "SHA-384", "SHA-512"]
    assert nss.call(wire.Status(0)).info["profile"]["oaep"] is not None


@needs_nss
def test_a_write_protected_token_says_so_before_anybody_needs_a_key(tmp_path):
    running, member = run_nss(
        tmp_path, token_label="NSS Generic Crypto Services", login="none", read_write=False
    )
    try:
        profile = member.call(wire.Status(0)).info["profile"]
        assert any("write-protected" in each for each in profile["missing"])
        with pytest.raises(MechanismUnavailable, match="read-only"):
            made(member)
    finally:
        member.close()
        running.stop()


# --- opencryptoki ---------------------------------------------------------------------------------------------------


@needs_opencryptoki
def test_a_module_whose_service_does_not_run_says_what_is_missing(tmp_path):
    if subprocess.run(["pidof", "pkcsslotd"], capture_output=True, check=False).returncode == 0:
        pytest.skip("pkcsslotd runs on this machine, so that opencryptoki starts")
    running = spawn(
        wire.HelperConfig(module=OPENCRYPTOKI, socket=str(tmp_path / "m.sock"), token_label="x", pin=b"1"),
        stderr=subprocess.DEVNULL,
    )
    with pytest.raises(HsmUnavailable, match=r"does not start \(C_Initialize.*service"):
        running.wait_ready(30)
    running.kill()


# In mount, IPC and process namespaces of its own: the machine's tokens are not touched, and everything ends with it.
IN_NAMESPACES = """
set -e
mount -t tmpfs none "$1"
cp -a /var/lib/opencryptoki "$1/lib"
cp -a /var/lock/opencryptoki "$1/lock"
mount --bind "$1/lib" /var/lib/opencryptoki
mount --bind "$1/lock" /var/lock/opencryptoki
pkcsslotd
for turn in 1 2 3 4 5 6 7 8 9 10; do pkcsconf -t >/dev/null 2>&1 && break; sleep 0.1; done
slot=$(pkcsconf -t | sed -n 's/^Token #\\([0-9]*\\) Info.*/\\1/p' | head -1)
echo keystead-ock | pkcsconf -c "$slot" -I -S 87654321 >/dev/null
pkcsconf -c "$slot" -P -S 87654321 -n 76543210 >/dev/null
pkcsconf -c "$slot" -u -S 76543210 -n 13572468 >/dev/null
pkcsconf -c "$slot" -p -U 13572468 -n 24681357 >/dev/null
exec "$2" -c "$3" "$4" "$1"
"""
ASK_OPENCRYPTOKI = """
import json, os, subprocess, sys
from hsm import wire
from hsm.base import HsmError
from hsm.client import SyncMember
from hsm.spawning import spawn
config = wire.HelperConfig(
    module=sys.argv[1], socket=sys.argv[2] + "/m.sock", token_label="keystead-ock", pin=b"24681357"
)
running = spawn(config, stderr=subprocess.DEVNULL)
ready = running.wait_ready(30)
member = SyncMember("ock", config.socket)
said = {"profile": ready["profile"], "identity": ready["identity"]}
for kind in ("wrapping", "resident"):
    key = os.urandom(16)
    try:
        member.call(wire.Generate(0, key, kind, kind))
        said[kind] = member.encrypt(key, b"x", b"", verify=True, timeout_s=5)
    except HsmError as error:
        said[kind] = [type(error).__name__, str(error)]
print(json.dumps(said, default=repr))
running.stop()
"""


@needs_opencryptoki
def test_a_token_without_gcm_and_key_wrap_is_told_apart(tmp_path):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("starting opencryptoki's daemon apart from the machine's needs root and unshare")
    done = subprocess.run(
        ["unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", IN_NAMESPACES,
         "sh", str(tmp_path), sys.executable, ASK_OPENCRYPTOKI, OPENCRYPTOKI],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=ROOT,
    )  # fmt: skip
    if done.returncode != 0 and "Operation not permitted" in done.stderr:
        pytest.skip("this machine allows no namespaces")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["identity"]["manufacturer"] == "IBM Corp."
    profile = said["profile"]
    assert profile["vendor"] == "opencryptoki"
    assert (profile["gcm"]["listed"], profile["gcm"]["works"], profile["kwp"]["works"]) == (
        False,
        False,
        False,
    )
    assert profile["possible"] == []
    assert any("no AES-GCM" in each for each in profile["missing"])
    for kind in ("wrapping", "resident"):
        error, message = said[kind]
        assert error == "MechanismUnavailable"
        assert "no AES-GCM" in message
        assert "'software'" in message
