"""Fixtures of the tests of vault/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vault.databases import installed, own_database, target
from vault import keys

__all__ = ["installed", "own_database", "root_file", "target"]


@pytest.fixture
def root_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the root key of this test is looked for; nothing is there yet."""
    path = tmp_path / "root" / "root.key"
    path.parent.mkdir(mode=0o700)
    monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", str(path))
    keys.forget_keys()
    yield path
    keys.forget_keys()
