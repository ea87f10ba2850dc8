"""Fixtures of the tests about keys at rest: a root key of one's own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm.software import new_key
from vault import keys
from vault.models import Vault


@pytest.fixture
def root_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the root key of this test is looked for; nothing is there yet."""
    path = tmp_path / "root" / "root.key"
    path.parent.mkdir(mode=0o700)
    monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", str(path))
    keys.forget_keys()
    yield path
    keys.forget_keys()


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
