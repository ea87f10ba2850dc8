import os
import stat

import pytest

from tests.vault.rootkeys import write_key
from vault import rootkey
from vault.rootkey import RootKeyMissing, RootKeyUnsafe, RootKeyUnusable
from vault.secret import Secret


def test_a_created_file_is_32_random_bytes_for_its_user_only(tmp_path):
    path = tmp_path / "new" / "deeper" / "root.key"
    assert rootkey.create_key_file(path)
    assert len(path.read_bytes()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["root.key"]


def test_an_existing_file_is_never_replaced(tmp_path):
    path = tmp_path / "root.key"
    key = write_key(path)
    assert not rootkey.create_key_file(path)
    assert path.read_bytes() == key


def test_modes_that_let_only_the_user_in(tmp_path):
    for mode in (0o600, 0o400):
        path = tmp_path / f"{mode:o}.key"
        key = write_key(path, mode=mode)
        assert rootkey.read_key_file(path) == Secret(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o666, 0o601])
def test_other_modes_are_unsafe_and_the_cure_is_named(tmp_path, mode):
    path = tmp_path / "root.key"
    write_key(path, mode=mode)
    with pytest.raises(RootKeyUnsafe, match=f"mode {mode:04o}.*chmod 600"):
        rootkey.read_key_file(path)


@pytest.mark.parametrize(
    ("user", "owner", "mode", "safe"),
    [
        (1000, 1000, 0o600, True),
        (1000, 1000, 0o640, False),
        (1000, 0, 0o440, True),  # a Kubernetes secret with fsGroup
        (1000, 0, 0o444, False),
        (1000, 0, 0o460, False),
        (1000, 1001, 0o600, False),
        (0, 1000, 0o600, True),
        (0, 0, 0o440, False),
    ],
)
def test_who_may_own_the_file(tmp_path, monkeypatch, user, owner, mode, safe):
    path = tmp_path / "root.key"
    key = write_key(path)
    real = os.stat(path)
    seen = os.stat_result((stat.S_IFREG | mode, *real[1:4], owner, *real[5:]))
    monkeypatch.setattr(rootkey.os, "geteuid", lambda: user)
    monkeypatch.setattr(rootkey.os, "fstat", lambda handle: seen)
    if safe:
        assert rootkey.read_key_file(path) == Secret(key)
    else:
        with pytest.raises(RootKeyUnsafe):
            rootkey.read_key_file(path)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_another_length_is_no_root_key(tmp_path, size):
    path = tmp_path / "root.key"
    write_key(path, b"k" * size)
    with pytest.raises(RootKeyUnusable, match="32 raw bytes") as caught:
        rootkey.read_key_file(path)
    assert "kkk" not in str(caught.value)


def test_missing_folder_and_pipe_are_told_apart(tmp_path):
    with pytest.raises(RootKeyMissing, match="import-root"):
        rootkey.read_key_file(tmp_path / "root.key")
    with pytest.raises(RootKeyUnsafe, match="no ordinary file"):
        rootkey.read_key_file(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(RootKeyUnsafe, match="no ordinary file"):
        rootkey.read_key_file(pipe)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rootkey.env, "create_private_file", full)
    with pytest.raises(RootKeyUnusable, match="No space left on device"):
        rootkey.create_key_file(tmp_path / "root.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(RootKeyUnusable, match="cannot be made"):
        rootkey.create_key_file(tmp_path / "file" / "below" / "root.key")


def test_every_neighbour_is_a_candidate_and_the_current_file_comes_first(tmp_path):
    path = tmp_path / "root.key"
    names = ["root.key", "root.key.next", "root.key.previous", "root.key.previous-0a1b2c3d"]
    written = [write_key(tmp_path / name) for name in reversed(names)][::-1]
    write_key(tmp_path / "root.key.other")
    assert [file.name for file in rootkey.candidate_paths(path)] == names
    assert list(rootkey.load_candidates(path).values()) == [Secret(key) for key in written]


def test_an_unsafe_neighbour_is_not_passed_over_in_silence(tmp_path):
    write_key(tmp_path / "root.key")
    write_key(tmp_path / "root.key.previous", mode=0o644)
    with pytest.raises(RootKeyUnsafe, match=r"root\.key\.previous"):
        rootkey.load_candidates(tmp_path / "root.key")


def test_a_link_to_nowhere_counts_as_missing(tmp_path):
    (tmp_path / "root.key").symlink_to(tmp_path / "gone")
    assert rootkey.load_candidates(tmp_path / "root.key") == {}
