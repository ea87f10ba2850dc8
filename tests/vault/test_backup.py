"""Backup and restore, on whichever database the suite runs; each test has a database of its own to destroy."""

import os
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, connections, transaction

from cloudkeys.models import CspAccount
from hsm.software import wrapping_key_id
from tests.vault.rootkeys import make_vault, root_file, write_key  # noqa: F401  (a fixture)
from vault import backup, backup_format, keys, restore, rewrap, rootkey
from vault.actors import Actor
from vault.backup import BackupFailed, create_backup
from vault.backup_format import CHUNK_BYTES, BackupDamaged, read_header
from vault.generations import current_generation
from vault.keys import ensure_root_key, seal, unseal
from vault.models import AuditEvent, Generation, Installation, Vault
from vault.restore import GENERATION_STEP, RestoreRefused, check_backup, restore_backup

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
MATERIAL = b"\x05known key bytes of this test\x05\x05\x05"
SQLITE = connection.vendor == "sqlite"
sqlite_only = pytest.mark.skipif(not SQLITE, reason="about SQLite's files")
postgresql_only = pytest.mark.skipif(SQLITE, reason="about PostgreSQL's programs")


@pytest.fixture
def own_database(transactional_db, tmp_path):
    """A copy of the suite's database under another name, in whose place the test may put anything."""
    Installation.objects.all().delete()
    real = connection.settings_dict["NAME"]
    connections.close_all()
    if SQLITE:
        mine = tmp_path / "database" / "db.sqlite3"
        mine.parent.mkdir(mode=0o700)
        with closing(sqlite3.connect(real)) as source, closing(sqlite3.connect(mine)) as copy:
            source.backup(copy)
    else:
        mine = f"{real}_restore"
        administer(f'DROP DATABASE IF EXISTS "{mine}"', f'CREATE DATABASE "{mine}" TEMPLATE "{real}"')
    connection.settings_dict["NAME"] = str(mine)
    yield mine
    connections.close_all()
    connection.settings_dict["NAME"] = real
    if not SQLITE:
        administer(f'DROP DATABASE "{mine}" WITH (FORCE)')


def administer(*statements):
    parameters = {**connection.get_connection_params(), "dbname": "postgres"}
    wanted = {name: parameters[name] for name in ("dbname", "user", "password", "host", "port") if parameters.get(name)}
    with closing(psycopg.connect(**wanted, autocommit=True)) as admin:
        for statement in statements:
            admin.execute(statement)


def destroy_database(mine):
    """What a lost disk leaves: nothing."""
    connections.close_all()
    if SQLITE:
        shutil.rmtree(Path(mine).parent)
    else:
        administer(f'DROP DATABASE "{mine}" WITH (FORCE)', f'CREATE DATABASE "{mine}"')


@pytest.fixture
def installed(own_database, root_file):  # noqa: F811
    """An installation with one vault, one sealed secret and generation 41."""
    ensure_root_key(create_allowed=True)
    with transaction.atomic():
        vault = make_vault("Payments")
        account = CspAccount(vault=vault, name="prod", access_key_id="AKIA", default_region="eu-west-1")
        seal(account, "secret_access_key", MATERIAL)
        account.save()
        Generation.objects.update_or_create(pk=1, defaults={"value": 41})
    return account


@pytest.fixture
def target(tmp_path):
    return tmp_path / "keystead.backup"


def opens(name="prod"):
    return unseal(CspAccount.objects.select_related("vault").get(name=name), "secret_access_key").reveal()


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


class TestBackup:
    def test_is_for_its_user_only_and_holds_nothing_in_clear(self, installed, target, root_file):  # noqa: F811
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

    def test_the_header_says_what_it_is(self, installed, target, root_file):  # noqa: F811
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

    def test_without_its_root_key_none_is_made(self, installed, target, root_file):  # noqa: F811
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

    def test_both_roots_are_named_in_the_midst_of_a_rewrap(self, installed, target, tmp_path, root_file):  # noqa: F811
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
        with pytest.raises(BackupFailed, match="pg_dump is not installed.*postgresql-client"):
            create_backup(target)
        assert not target.exists()

    @postgresql_only
    def test_a_failing_pg_dump_leaves_nothing(self, installed, target, monkeypatch):
        monkeypatch.setattr(backup, "libpq_environment", lambda: {"PGHOST": "/nonexistent", "PATH": os.environ["PATH"]})
        with pytest.raises(BackupFailed, match="pg_dump failed"):
            create_backup(target)
        assert not target.exists()

    def test_no_password_in_arguments(self, monkeypatch):
        monkeypatch.setitem(connection.settings_dict, "PASSWORD", "hunter2")
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"sslmode": "require", "connect_timeout": "5"})
        found = backup.libpq_environment()
        assert found["PGPASSWORD"] == "hunter2"  # noqa: S105
        assert found["PGSSLMODE"] == "require"


class TestRestore:
    def test_brings_the_state_back(self, installed, target):
        create_backup(target)
        CspAccount.objects.all().delete()
        Vault.objects.update(kek_blob=None)
        restore_backup(target, force=True)
        assert opens() == MATERIAL

    def test_after_everything_is_lost_but_backup_and_shares(self, installed, own_database, root_file, tmp_path, target):  # noqa: F811
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

    def test_the_generation_moves_forward_from_the_backups_when_all_is_lost(self, installed, own_database, target):
        create_backup(target)
        destroy_database(own_database)
        assert restore_backup(target).generation == 41 + GENERATION_STEP

    def test_nine_thousand_restores_stay_exact_in_json(self):
        assert 9000 * GENERATION_STEP < 2**53

    def test_a_target_that_is_not_empty_is_left_alone(self, installed, target):
        create_backup(target)
        Vault.objects.update(name="newer")
        with pytest.raises(RestoreRefused, match="not empty.*--force"):
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

    def test_a_foreign_root_is_named(self, installed, target, root_file):  # noqa: F811
        create_backup(target)
        needed = wrapping_key_id(root_file.read_bytes())
        other = write_key(root_file)
        keys.forget_keys()
        with pytest.raises(RestoreRefused) as caught:
            restore_backup(target, force=True)
        assert needed in str(caught.value)
        assert wrapping_key_id(other) in str(caught.value)

    def test_a_backup_from_before_a_rewrap_opens_with_the_root_that_was_kept(self, installed, target, tmp_path, root_file):  # noqa: F811
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
            with pytest.raises(RestoreRefused, match="in use.*Stop Keystead"):
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
        with pytest.raises(RestoreRefused, match="cannot be read.*--force"):
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

    def test_backup_and_restore(self, installed, target, capsys, root_file):  # noqa: F811
        call_command("backup", target)
        assert "read back and checked" in capsys.readouterr().out
        assert AuditEvent.objects.filter(action="vault:backup:create").get().target_name == target.name
        call_command("restore", target, check=True)
        assert "is whole" in capsys.readouterr().out
        with pytest.raises(CommandError, match="--force"):
            call_command("restore", target)
        call_command("restore", target, force=True)
        said = capsys.readouterr().out
        assert "it is undone" in said
        event = AuditEvent.objects.get(action="vault:backup:restore")
        assert event.detail["generation"] == current_generation()
        assert opens() == MATERIAL

    def test_a_damaged_file_is_one_line(self, installed, target):
        target.write_bytes(b"nothing of ours")
        with pytest.raises(CommandError, match="is no Keystead backup. Nothing was changed") as caught:
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
