"""The re-wrap under a real kill -9, in processes of their own, on the embedded database."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import os, signal, sys
from pathlib import Path
import django
django.setup()
from django.db import transaction
from vault import keys, rewrap
from vault.actors import Actor
from vault.models import Installation, Vault
"""

SET_UP = """
from django.core.management import call_command
call_command("migrate", interactive=False, verbosity=0)
keys.ensure_root_key(create_allowed=True)
for number in range(3):
    with transaction.atomic():
        vault = Vault(name=str(number))
        vault.kek_blob = keys.new_vault_kek(vault.pk)
        vault.save()
        sealed = keys.vault_wrapper(vault).encrypt(b"secret %d" % number, b"")
        Vault.objects.filter(pk=vault.pk).update(description=sealed.hex())
"""

CHECK = """
keys.ensure_root_key(create_allowed=False)
for vault in Vault.objects.all():
    opened = keys.vault_wrapper(vault).decrypt(bytes.fromhex(vault.description), b"")
    assert opened == b"secret %s" % vault.name.encode()
print(len(rewrap.root_ids_in_use()))
"""

REWRAP = """
def kill(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
done = rewrap.rewrap_root(Path(sys.argv[1]), Actor.system("cli"), checkpoint=kill)
print(done.files_switched)
"""


@pytest.mark.slow
def test_a_rewrap_killed_again_and_again_is_finished_by_the_last(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTEAD_")}
    environ |= {"KEYSTEAD_DATA_DIR": str(data), "DJANGO_SETTINGS_MODULE": "vault.settings"}

    def run(program, *arguments):
        command = [sys.executable, "-c", PRELUDE + program, *arguments]
        return subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    def check():
        done = run(CHECK)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    done = run(SET_UP)
    assert done.returncode == 0, done.stderr
    assert check() == "1"
    new_root = tmp_path / "new-root"
    new_root.write_bytes(os.urandom(32))
    new_root.chmod(0o600)
    roots_in_use = []
    for point in ("next-placed", "installation-moved", "vault-moved", "previous-kept"):
        done = run(REWRAP, str(new_root), point)
        assert done.returncode == -signal.SIGKILL, done.stderr
        roots_in_use.append(check())
    assert roots_in_use == ["1", "2", "2", "1"]
    done = run(REWRAP, str(new_root), "nowhere")
    assert done.stdout.strip() == "True", done.stderr
    assert check() == "1"
    assert (data / "root.key").read_bytes() == new_root.read_bytes()
    (data / "root.key.previous").unlink()
    assert check() == "1"
