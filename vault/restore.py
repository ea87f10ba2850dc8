"""Putting a backup back: all or nothing, and nothing is touched before the whole file has proven good.

A restored database is an *older* one with another future. Its generation is raised by GENERATION_STEP beyond any that
a running data plane can have seen, so that no number is ever used for two different states. An agent that starts
afterwards loads everything; one that was kept running finds that its history is not the database's and refuses.
What was disabled, blocked, revoked or destroyed after the backup was made is back as it was then: the command says so.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from django.db import DatabaseError, connection, connections
from django.db.migrations.loader import MigrationLoader

from hsm.base import KeyWrapper
from vault import backup_format, keys, rootkey
from vault.backup import (
    BackupFailed,
    Facts,
    database_file,
    find_tool,
    last_line,
    libpq_environment,
    private_folder,
    read_facts,
)
from vault.backup_format import Header

# Larger than the number of changes that can happen between a backup and its restore, small enough that 9,000 restores
# stay below 2^53, the largest whole number that every JSON reader keeps exactly.
GENERATION_STEP: Final = 10**12

_SET_GENERATION = (
    "INSERT INTO {table} (id, value) VALUES (1, {value}) "
    "ON CONFLICT (id) DO UPDATE SET value = excluded.value"
)

# Tables only, so that the restoring role need not own the schema. What belongs to a table goes with it.
_DROP_TABLES = """
DO $$ DECLARE found record; BEGIN
  FOR found IN SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE pg_catalog.format('DROP TABLE IF EXISTS public.%I CASCADE', found.tablename);
  END LOOP;
END $$
"""


class RestoreRefused(Exception):
    """Nothing was changed. One line: cause, then cure."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back. ``kept`` is where the replaced SQLite database stands now; ``needs_migrate`` that the backup
    is of an older version, whose tables 'keystead migrate' brings up to date."""

    header: Header
    generation: int
    kept: Path | None
    needs_migrate: bool
    keks_damaged: list[str]


def no_checkpoint(name: str) -> None:
    """Default of ``checkpoint``: tests pass a function that ends the process at a named point."""


def check_backup(source: Path) -> Header:
    """Read a backup from end to end without touching anything. Raises RestoreRefused or BackupDamaged."""
    with _open(source) as file:
        header, preamble = backup_format.read_header(file)
        for _ in backup_format.read_content(file, header, preamble, _root_for(header)):
            pass
    return header


def restore_backup(
    source: Path, *, force: bool = False, checkpoint: Callable[[str], None] = no_checkpoint
) -> Restored:
    """Put the backup in ``source`` in the database's place.

    Refused without ``force`` when the target holds an installation. Refused always: a damaged file, a root key that
    is not here, another database engine, a newer schema, and on SQLite a target that is in use. Raises
    RestoreRefused, BackupDamaged or BackupFailed (a missing or failing PostgreSQL program), RootKeyError.
    """
    try:
        with _open(source) as file:
            header, preamble = backup_format.read_header(file)
            root = _root_for(header)
            needs_migrate = _compare_schema(header)
            near = database_file().parent if connection.vendor == "sqlite" else rootkey.root_key_path().parent
            near.mkdir(mode=0o700, parents=True, exist_ok=True)
            current = _current_generation(force=force)
            with private_folder(near) as folder:
                staged = folder / "staged"
                with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
                    for piece in backup_format.read_content(file, header, preamble, root):
                        sink.write(piece)
                    sink.flush()
                    os.fsync(sink.fileno())
                checkpoint("staged")
                generation = max(header.generation, current) + GENERATION_STEP
                if connection.vendor == "sqlite":
                    kept, facts = _put_sqlite(staged, generation, checkpoint)
                else:
                    kept, facts = _put_postgresql(staged, folder, generation)
    except OSError as error:
        raise RestoreRefused(
            f"The backup cannot be unpacked: {error.strerror} ({error.filename})."
        ) from error
    keys.forget_keys()
    return Restored(header, generation, kept, needs_migrate, facts.keks_damaged)


def _open(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        raise RestoreRefused(f"{source} cannot be read: {error.strerror}.") from error


def _root_for(header: Header) -> KeyWrapper:
    """Return the root key that opens the file, having made sure that its content's are here too."""
    try:
        found = {needed: keys.find_root(needed) for needed in {header.root_key_id, *header.root_key_ids}}
    except (rootkey.RootKeyMissing, rootkey.RootKeyForeign) as error:
        needed = " and ".join(sorted({header.root_key_id, *header.root_key_ids}))
        here = ", ".join(rootkey.load_candidates(rootkey.root_key_path())) or "none"
        raise RestoreRefused(
            f"This backup needs root key {needed}; here is {here}. Put the right one in {rootkey.root_key_path()}, or "
            "rebuild it with 'keystead keys import-root'."
        ) from error
    return found[header.root_key_id]


def _compare_schema(header: Header) -> bool:
    """Return whether the backup's tables are older than this version's. Raises RestoreRefused when newer."""
    if header.engine != connection.vendor:
        raise RestoreRefused(
            f"This backup is of {header.engine}, the configured database is {connection.vendor}. Restore it into "
            f"{header.engine} (KEYSTEAD_DATABASE_URL)."
        )
    known = {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}
    newer = sorted(set(header.schema) - known)
    if newer:
        raise RestoreRefused(
            f"This backup is of a newer version (Keystead {header.software}; this one does not know {newer[0]}). "
            f"Install that version or a later one, then restore."
        )
    return not known <= set(header.schema)


def _current_generation(*, force: bool) -> int:
    """Return the target's generation, 0 when it has none. Raises RestoreRefused when it holds anything, unforced."""
    if connection.vendor == "sqlite" and not database_file().exists():
        return 0
    unreadable = False
    generation = 0
    inhabited = []
    try:
        present = set(connection.introspection.table_names())
        with connection.cursor() as cursor:
            for table in ("vault_installation", "vault_vault", "vault_user"):
                if table in present:
                    cursor.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608  (names from the line above)
                    inhabited += cursor.fetchall()
            if "vault_generation" in present:
                cursor.execute("SELECT value FROM vault_generation WHERE id = 1")
                generation = next(iter(cursor.fetchall()), (0,))[0]
    except DatabaseError as error:
        if connection.vendor != "sqlite":
            raise RestoreRefused(
                f"The database cannot be reached: {str(error).strip().splitlines()[0]}"
            ) from error
        unreadable = True
    finally:
        connection.close()
    if (inhabited or unreadable) and not force:
        state = "cannot be read" if unreadable else "is not empty"
        raise RestoreRefused(
            f"The target database {state}. Restoring replaces all that it holds; if that is meant, add --force."
        )
    return generation


# --- SQLite -------------------------------------------------------------------------------------------------------


def _put_sqlite(
    staged: Path, generation: int, checkpoint: Callable[[str], None]
) -> tuple[Path | None, Facts]:
    """Swap the staged file in by one rename. Until then the old database is whole, from then on the new one is."""
    try:
        with closing(sqlite3.connect(staged)) as database:
            problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise RestoreRefused(f"SQLite finds the database in the backup damaged: {problem}.")
            database.execute(_SET_GENERATION.format(table="vault_generation", value=generation))
            database.commit()
            facts = read_facts(lambda sql: database.execute(sql).fetchall())
    except sqlite3.DatabaseError as error:
        raise RestoreRefused(f"The database in the backup cannot be opened: {error}.") from error
    _sync_file(staged)
    checkpoint("ready")
    target = database_file()
    connections.close_all()
    kept = _retire_sqlite(target) if target.exists() else None
    checkpoint("old-kept")
    os.replace(staged, target)
    rootkey.sync_folder(target.parent)
    checkpoint("swapped")
    return kept, facts


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _retire_sqlite(target: Path) -> Path:
    """Give the old database a second name and make sure that no write-ahead log of it outlives the swap.

    Leaving WAL mode folds the log in and removes it, and SQLite allows that to the only connection: it is also the
    test whether anything else has the database open. Raises RestoreRefused.
    """
    kept = target.with_name(f"{target.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    sound = True
    try:
        with closing(sqlite3.connect(target, timeout=1, isolation_level=None)) as old:
            old.execute("PRAGMA journal_mode=DELETE").fetchone()
            old.execute("BEGIN EXCLUSIVE")
            old.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        # The lowest byte is the primary result code (sqlite.org, "Result and Error Codes").
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise RestoreRefused(
                f"The database is in use ({error}). Stop Keystead on this machine, then restore."
            ) from error
        # Too damaged to be opened, which may be why it is being replaced.
        sound = False
    os.link(target, kept)
    if not sound:
        # The log must be gone before the new file has the name: SQLite would play it into the new file.
        for suffix in ("-wal", "-shm", "-journal"):
            log = target.with_name(target.name + suffix)
            if log.exists():
                os.replace(log, kept.with_name(kept.name + suffix))
    rootkey.sync_folder(target.parent)
    return kept


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def _put_postgresql(staged: Path, folder: Path, generation: int) -> tuple[None, Facts]:
    """Replace all tables in one transaction: drop, load, raise the generation, commit."""
    pg_restore, psql = find_tool("pg_restore"), find_tool("psql")
    script = folder / "script.sql"
    # To a file first: were it piped, a failure of pg_restore would look to psql like the end, and be committed.
    _run([pg_restore, "--no-owner", "--no-privileges", f"--file={script}", str(staged)])
    connections.close_all()
    _run(
        [
            psql, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--single-transaction",
            # Better a clear failure than to wait for a transaction of a process that nobody has stopped.
            "--command=SET lock_timeout = '10s'",
            f"--command={_DROP_TABLES}",
            f"--file={script}",
            f"--command={_SET_GENERATION.format(table='public.vault_generation', value=generation)}",
        ]
    )  # fmt: skip
    with connection.cursor() as cursor:

        def query(sql: str) -> list[tuple[object, ...]]:
            cursor.execute(sql)
            return list(cursor.fetchall())

        return None, read_facts(query)


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, env=libpq_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise BackupFailed(
            f"{Path(command[0]).name} failed: {last_line(done.stderr)} The database is as it was before."
        )
