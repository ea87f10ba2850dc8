"""What the tests about keys at rest share; the fixture `root_file` is in conftest.py."""

from __future__ import annotations

from pathlib import Path

from hsm.software import new_key
from vault import keys
from vault.models import Vault


def write_key(path: Path, key: bytes | None = None, mode: int = 0o600) -> bytes:
    """Write a key file and return its content."""
    key = new_key() if key is None else key
    path.write_bytes(key)
    path.chmod(mode)
    return key


def make_vault(name: str) -> Vault:
    """A vault with a KEK of its own. Call inside a transaction."""
    vault = Vault(name=name)
    vault.kek_blob = keys.new_vault_kek(vault.pk)
    vault.save()
    return vault
