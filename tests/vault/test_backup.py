"""Backup, on whichever database the suite runs."""

import os
import stat
import threading

import pytest
from django.db import connection, transaction

from cloudkeys.models import CspAccount
from hsm.software import wrapping_key_id
from tests.vault.databases import (
    MATERIAL,
    SQLITE,
    leftovers,
    postgresql_only,
)
from tests.vault.rootkeys import write_key
from vault import backup, keys, rewrap
from vault.actors import Actor
from vault.backup import BackupFailed, create_backup
from vault.models import Vault
from vault.restore import check_backup, restore_backup

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


class TestBackup:
    def test_is_for_its_user_only_and_holds_nothing_in_clear(self, installed, target, root_file):
        made = create_backup(target)
        data = target.read_bytes()
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert made.size == len(data)
        root = root_file.read_bytes()
        for known in (MATERIAL, root, root.hex().encode(), b"Payments", b"SQLite format", b"PGDMP"):
            assert known not in data
        assert leftovers(target.parent) == []
        if SQLITE:
            assert leftovers(backup.database_file().parent) == []

    def test_the_header_says_what_it_is(self, installed, target, root_file):
        header = create_backup(target).header
        assert header.engine == connection.vendor
        assert header.generation == 41
        assert header.root_key_ids == [wrapping_key_id(root_file.read_bytes())]
        assert "vault.0001_initial" in header.schema
        assert check_backup(target) == header

    def test_an_existing_file_is_kept_unless_forced(self, installed, target):
        target.write_bytes(b"precious")
        with pytest.raises(BackupFailed, match="exists"):
            create_backup(target)
        assert target.read_bytes() == b"precious"
        create_backup(target, overwrite=True)
        check_backup(target)

    def test_a_full_disk_leaves_nothing_behind(self, installed, target, monkeypatch):
        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(backup.backup_format, "write", full)
        with pytest.raises(BackupFailed, match="No space left"):
            create_backup(target)
        assert list(target.parent.glob("*keystead.backup*")) == []

    def test_a_missing_folder_is_said(self, installed, tmp_path):
        with pytest.raises(BackupFailed, match="cannot be written to"):
            create_backup(tmp_path / "nowhere" / "file")

    def test_without_its_root_key_none_is_made(self, installed, target, root_file):
        root_file.unlink()
        keys.forget_keys()
        with pytest.raises(keys.RootKeyMissing):
            create_backup(target)
        assert not target.exists()

    def test_a_damaged_kek_is_reported_and_the_rest_is_saved(self, installed, target):
        damaged = bytearray(installed.vault.kek_blob)
        damaged[-1] ^= 1
        Vault.objects.filter(pk=installed.vault_id).update(kek_blob=bytes(damaged))
        made = create_backup(target)
        assert len(made.keks_damaged) == 1
        assert str(installed.vault_id) in made.keks_damaged[0]

    def test_both_roots_are_named_in_the_midst_of_a_rewrap(self, installed, target, tmp_path, root_file):
        class Killed(BaseException):
            pass

        def kill(name):
            if name == "installation-moved":
                raise Killed

        new = write_key(tmp_path / "new")
        with pytest.raises(Killed):
            rewrap.rewrap_root(tmp_path / "new", Actor.system("cli"), checkpoint=kill)
        header = create_backup(target).header
        assert header.root_key_id == wrapping_key_id(new)
        assert header.root_key_ids == sorted([wrapping_key_id(new), wrapping_key_id(root_file.read_bytes())])

    def test_is_one_moment_while_others_write(self, installed, tmp_path):
        """A writer keeps two rows equal in each transaction; every backup finds them equal."""
        stop, written = threading.Event(), threading.Semaphore(0)

        def write():
            number = 0
            try:
                while not stop.is_set():
                    number += 1
                    with transaction.atomic():
                        Vault.objects.filter(pk=installed.vault_id).update(description=str(number))
                        CspAccount.objects.filter(pk=installed.pk).update(description=str(number))
                    written.release()
            finally:
                connection.close()

        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        try:
            for number in range(3):
                assert written.acquire(timeout=20)
                create_backup(tmp_path / f"{number}.backup")
        finally:
            stop.set()
            writer.join(30)
        for number in range(3):
            restore_backup(tmp_path / f"{number}.backup", force=True)
            pair = {Vault.objects.get().description, CspAccount.objects.get().description}
            assert len(pair) == 1
            seen |= pair
        assert len(seen) == 3

    @postgresql_only
    def test_a_missing_pg_dump_names_the_package(self, installed, target, monkeypatch):
        monkeypatch.setattr(backup.shutil, "which", lambda name: None)
        with pytest.raises(BackupFailed, match=r"pg_dump is not installed.*postgresql-client"):
            create_backup(target)
        assert not target.exists()

    @postgresql_only
    def test_a_failing_pg_dump_leaves_nothing(self, installed, target, monkeypatch):
        monkeypatch.setattr(
            backup, "libpq_environment", lambda: {"PGHOST": "/nonexistent", "PATH": os.environ["PATH"]}
        )
        with pytest.raises(BackupFailed, match="pg_dump failed"):
            create_backup(target)
        assert not target.exists()

    def test_no_password_in_arguments(self, monkeypatch):
        monkeypatch.setitem(connection.settings_dict, "PASSWORD", "hunter2")
        monkeypatch.setitem(
            connection.settings_dict, "OPTIONS", {"sslmode": "require", "connect_timeout": "5"}
        )
        found = backup.libpq_environment()
        assert found["PGPASSWORD"] == "hunter2"
        assert found["PGSSLMODE"] == "require"
