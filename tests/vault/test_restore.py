"""Restore, on whichever database the suite runs; each test has a database of its own to destroy."""

import os
import sqlite3
import stat
from contextlib import closing

import msgspec
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, transaction

from cloudkeys.models import CspAccount
from hsm.software import wrapping_key_id
from tests.vault.databases import (
    MATERIAL,
    SQLITE,
    destroy_database,
    leftovers,
    opens,
    postgresql_only,
    sqlite_only,
)
from tests.vault.rootkeys import make_vault, write_key
from vault import backup, backup_format, keys, restore, rewrap, rootkey
from vault.actors import Actor
from vault.backup import BackupFailed, create_backup
from vault.backup_format import CHUNK_BYTES, BackupDamaged, read_header
from vault.generations import current_generation
from vault.keys import ensure_root_key
from vault.models import AuditEvent, Generation, Installation, Vault
from vault.restore import GENERATION_STEP, RestoreRefused, check_backup, restore_backup

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


class TestRestore:
    def test_brings_the_state_back(self, installed, target):
        create_backup(target)
        CspAccount.objects.all().delete()
        Vault.objects.update(kek_blob=None)
        restore_backup(target, force=True)
        assert opens() == MATERIAL

    def test_after_everything_is_lost_but_backup_and_shares(
        self, installed, own_database, root_file, tmp_path, target
    ):
        folder = tmp_path / "shares"
        call_command("keys_export_root", shares=3, threshold=2, out_dir=folder)
        create_backup(target)
        needed = wrapping_key_id(root_file.read_bytes())

        destroy_database(own_database)
        root_file.unlink()
        keys.forget_keys()

        with pytest.raises(RestoreRefused, match=f"needs root key {needed}; here is none.*import-root"):
            restore_backup(target)
        files = sorted(folder.iterdir())
        assert len(files) == 3
        call_command("keys_import_root", files[0], files[2], out=root_file, key_id=needed)
        done = restore_backup(target)
        assert done.kept is None
        assert not done.needs_migrate
        ensure_root_key(create_allowed=False)
        assert opens() == MATERIAL
        with transaction.atomic():
            make_vault("life goes on")

    def test_the_generation_moves_strictly_forward(self, installed, target):
        create_backup(target)
        Generation.objects.update(value=977)
        done = restore_backup(target, force=True)
        assert current_generation() == done.generation == 977 + GENERATION_STEP
        create_backup(target, overwrite=True)
        Generation.objects.update(value=978 + GENERATION_STEP)
        assert restore_backup(target, force=True).generation == 978 + 2 * GENERATION_STEP

    def test_the_generation_moves_forward_from_the_backups_when_all_is_lost(
        self, installed, own_database, target
    ):
        create_backup(target)
        destroy_database(own_database)
        assert restore_backup(target).generation == 41 + GENERATION_STEP

    def test_nine_thousand_restores_stay_exact_in_json(self):
        assert 9000 * GENERATION_STEP < 2**53

    def test_a_target_that_is_not_empty_is_left_alone(self, installed, target):
        create_backup(target)
        Vault.objects.update(name="newer")
        with pytest.raises(RestoreRefused, match=r"not empty.*--force"):
            restore_backup(target)
        assert Vault.objects.get().name == "newer"
        assert current_generation() == 41

    def test_tables_without_an_installation_count_as_empty(self, installed, target):
        create_backup(target)
        CspAccount.objects.all().delete()
        Vault.objects.all().delete()
        Installation.objects.all().delete()
        restore_backup(target)
        assert opens() == MATERIAL

    @pytest.mark.parametrize("damage", ["cut", "last byte", "middle", "tail", "empty", "other file"])
    def test_a_damaged_file_touches_nothing(self, installed, target, damage):
        Vault.objects.update(description=os.urandom(CHUNK_BYTES).hex()[:900])
        create_backup(target)
        data = bytearray(target.read_bytes())
        match damage:
            case "cut":
                del data[-1000:]
            case "last byte":
                data[-1] ^= 1
            case "middle":
                data[len(data) // 2] ^= 1
            case "tail":
                data += b"\0"
            case "empty":
                data.clear()
            case "other file":
                data[:] = b"SQLite format 3\0" + b"\0" * 100
        target.write_bytes(data)
        Vault.objects.update(name="newer")
        with pytest.raises(BackupDamaged):
            restore_backup(target, force=True)
        assert Vault.objects.get().name == "newer"
        assert opens() == MATERIAL
        if SQLITE:
            folder = backup.database_file().parent
            assert leftovers(folder) == []
            assert list(folder.glob("*before-restore*")) == []

    def test_a_foreign_root_is_named(self, installed, target, root_file):
        create_backup(target)
        needed = wrapping_key_id(root_file.read_bytes())
        other = write_key(root_file)
        keys.forget_keys()
        with pytest.raises(RestoreRefused) as caught:
            restore_backup(target, force=True)
        assert needed in str(caught.value)
        assert wrapping_key_id(other) in str(caught.value)

    def test_a_backup_from_before_a_rewrap_opens_with_the_root_that_was_kept(
        self, installed, target, tmp_path, root_file
    ):
        create_backup(target)
        write_key(tmp_path / "new")
        rewrap.rewrap_root(tmp_path / "new", Actor.system("cli"))
        keys.forget_keys()
        restore_backup(target, force=True)
        ensure_root_key(create_allowed=False)
        assert opens() == MATERIAL
        rootkey.previous_path(root_file).unlink()
        keys.forget_keys()
        with pytest.raises(RestoreRefused, match="needs root key"):
            restore_backup(target, force=True)

    def test_a_newer_schema_is_refused(self, installed, target):
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO django_migrations (app, name, applied) VALUES ('vault', '9999_future', CURRENT_TIMESTAMP)"
            )
        create_backup(target)
        with pytest.raises(RestoreRefused, match=r"newer version.*vault\.9999_future"):
            restore_backup(target, force=True)

    def test_an_older_schema_is_restored_and_says_so(self, installed, target, monkeypatch):
        create_backup(target)
        header = check_backup(target)
        real = restore.MigrationLoader

        def with_one_more(*args, **kwargs):
            loader = real(*args, **kwargs)
            loader.disk_migrations[("vault", "9999_future")] = None
            return loader

        monkeypatch.setattr(restore, "MigrationLoader", with_one_more)
        assert "vault.9999_future" not in header.schema
        assert restore_backup(target, force=True).needs_migrate

    def test_another_engine_is_refused(self, installed, target, monkeypatch):
        real = backup_format.write

        def written_elsewhere(sink, header, root, content):
            real(sink, msgspec.structs.replace(header, engine="oracle"), root, content)

        monkeypatch.setattr(backup_format, "write", written_elsewhere)
        create_backup(target)
        with pytest.raises(RestoreRefused, match="This backup is of oracle"):
            restore_backup(target, force=True)

    def test_a_file_that_is_not_there(self, installed, tmp_path):
        with pytest.raises(RestoreRefused, match="No such file"):
            restore_backup(tmp_path / "nothing")

    def test_a_full_disk_touches_nothing(self, installed, target, monkeypatch):
        create_backup(target)

        def full(*args):
            raise OSError(28, "No space left on device", "staged")
            yield

        monkeypatch.setattr(restore.backup_format, "read_content", full)
        with pytest.raises(RestoreRefused, match="No space left"):
            restore_backup(target, force=True)
        assert opens() == MATERIAL


@sqlite_only
class TestRestoreOfSqlite:
    @pytest.mark.parametrize("point", ["staged", "ready", "old-kept", "swapped"])
    def test_killed_at_any_point_it_is_the_old_or_the_new_state(self, installed, target, point):
        class Killed(BaseException):
            pass

        def kill(name):
            if name == point:
                raise Killed

        create_backup(target)
        Vault.objects.update(name="newer")
        with pytest.raises(Killed):
            restore_backup(target, force=True, checkpoint=kill)
        connections.close_all()
        keys.forget_keys()
        assert Vault.objects.get().name == ("Payments" if point == "swapped" else "newer")
        assert opens() == MATERIAL
        restore_backup(target, force=True)
        assert Vault.objects.get().name == "Payments"

    def test_what_was_there_is_kept_with_its_write_ahead_log_folded_in(self, installed, target):
        create_backup(target)
        Vault.objects.update(name="newer")
        done = restore_backup(target, force=True)
        with closing(sqlite3.connect(done.kept)) as old:
            assert old.execute("SELECT name FROM vault_vault").fetchall() == [("newer",)]
        for suffix in ("-wal", "-shm"):
            assert not done.kept.with_name(done.kept.name + suffix).exists()

    def test_a_database_in_use_is_left_alone(self, installed, target):
        create_backup(target)
        Vault.objects.update(name="newer")
        with closing(sqlite3.connect(backup.database_file())) as other:
            assert other.execute("SELECT count(*) FROM vault_vault").fetchone() == (1,)
            with pytest.raises(RestoreRefused, match=r"in use.*Stop Keystead"):
                restore_backup(target, force=True)
        assert Vault.objects.get().name == "newer"

    @pytest.mark.parametrize("suffix", ["-wal", "-journal"])
    def test_a_stale_log_of_a_broken_database_is_not_played_into_the_new_one(self, installed, target, suffix):
        create_backup(target)
        connections.close_all()
        database = backup.database_file()
        broken = b"no database at all" * 1000
        database.write_bytes(broken)
        log = database.with_name(database.name + suffix)
        log.write_bytes(b"stale")
        with pytest.raises(RestoreRefused, match=r"cannot be read.*--force"):
            restore_backup(target)
        log.write_bytes(b"stale")

        def no_log_is_left(name):
            assert name != "old-kept" or not log.exists()

        done = restore_backup(target, force=True, checkpoint=no_log_is_left)
        assert opens() == MATERIAL
        assert done.kept.read_bytes() == broken

    def test_the_restored_file_is_for_its_user_only(self, installed, target):
        create_backup(target)
        restore_backup(target, force=True)
        assert stat.S_IMODE(backup.database_file().stat().st_mode) == 0o600


@postgresql_only
class TestRestoreOfPostgresql:
    def test_a_failure_in_the_midst_changes_nothing(self, installed, target, monkeypatch):
        create_backup(target)
        Vault.objects.update(name="newer")
        monkeypatch.setattr(restore, "_SET_GENERATION", "SELECT no_such_function({table}, {value})")
        with pytest.raises(BackupFailed, match="psql failed"):
            restore_backup(target, force=True)
        assert Vault.objects.get().name == "newer"
        assert opens() == MATERIAL

    def test_tables_that_the_backup_does_not_know_are_gone(self, installed, target):
        create_backup(target)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE of_a_newer_version (id int)")
        restore_backup(target, force=True)
        assert "of_a_newer_version" not in connection.introspection.table_names()


class TestCommands:
    @pytest.fixture(autouse=True)
    def _own_lock(self, data_dir):
        """The restore locks the data folder against a running `keystead serve`."""

    def test_backup_and_restore(self, installed, target, capsys, root_file):
        call_command("backup", target)
        assert "read back and checked" in capsys.readouterr().out
        assert AuditEvent.objects.filter(action="vault:backup:create").get().target_name == target.name
        call_command("restore", target, check=True)
        assert "is whole" in capsys.readouterr().out
        with pytest.raises(CommandError, match="--force"):
            call_command("restore", target)
        call_command("restore", target, force=True)
        said = capsys.readouterr().out
        assert "is undone" in said
        event = AuditEvent.objects.get(action="vault:backup:restore")
        assert event.detail["generation"] == current_generation()
        assert opens() == MATERIAL

    def test_a_damaged_file_is_one_line(self, installed, target):
        target.write_bytes(b"nothing of ours")
        with pytest.raises(CommandError, match=r"is no Keystead backup\. Nothing was changed") as caught:
            call_command("restore", target, force=True)
        assert "\n" not in str(caught.value)

    @sqlite_only
    def test_a_running_serve_is_not_pulled_the_floor_from_under(self, installed, target):
        from vault import startup

        call_command("backup", target)
        with startup.lock_data_dir(), pytest.raises(CommandError, match="Another keystead serve"):
            call_command("restore", target, force=True)

    def test_header_is_readable_without_django(self, installed, target):
        create_backup(target)
        with target.open("rb") as file:
            assert read_header(file)[0].software
