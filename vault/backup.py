"""A consistent, encrypted copy of the database, made while Keystead runs. The root key is never in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection

from hsm.base import DataInvalid
from vault import __version__, backup_format, keys, rootkey
from vault.backup_format import CHUNK_BYTES, Header
from vault.fields import WrappedBlob
from vault.rootkey import RootKeyError

Query = Callable[[str], Iterable[tuple[Any, ...]]]


class BackupFailed(Exception):
    """No backup was made, and nothing was left behind. One line: cause, then cure."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a copy of the database says about itself.

    ``keks_damaged`` names vaults whose KEK does not open although its root key is here.
    """

    schema: list[str]
    generation: int
    root_key_ids: list[str]
    keks_damaged: list[str]


@dataclass(frozen=True, slots=True)
class BackupMade:
    """A finished backup that was read back and decrypted from end to end."""

    path: Path
    size: int
    header: Header
    keks_damaged: list[str]


def read_facts(query: Query) -> Facts:
    """Read the facts by plain SQL, the same on SQLite and PostgreSQL, from whatever copy ``query`` looks at.

    A root key that cannot be had is no error here: its id is in ``root_key_ids``.
    """
    schema = [
        f"{app}.{name}" for app, name in query("SELECT app, name FROM django_migrations ORDER BY app, name")
    ]
    generation = next(iter(query("SELECT value FROM vault_generation WHERE id = 1")), (0,))[0]
    places = [
        (keys.vault_kek_place(uuid.UUID(str(vault_id))), blob)
        for vault_id, blob in query(
            "SELECT id, kek_blob FROM vault_vault WHERE kek_blob IS NOT NULL ORDER BY id"
        )
    ]
    places += [
        (keys.installation_place(), blob)
        for (blob,) in query("SELECT root_check_blob FROM vault_installation WHERE id = 1")
    ]
    roots, damaged = set(), []
    for place, stored in places:
        blob = WrappedBlob(stored)
        try:
            roots.add(blob.key_id)
            keys.find_root(blob.key_id).decrypt(blob, place)
        except DataInvalid:
            damaged.append(place.decode())
        except RootKeyError:
            continue
    return Facts(schema, generation, sorted(roots), damaged)


def create_backup(target: Path, *, overwrite: bool = False) -> BackupMade:
    """Write an encrypted backup to ``target`` (mode 0600), all or nothing, and read it back.

    Consistent while everything runs: one read transaction of SQLite's online backup, or one snapshot of PostgreSQL.
    Raises BackupFailed and RootKeyError.
    """
    if target.exists() and not overwrite:
        raise BackupFailed(f"{target} exists. Choose another name, or overwrite it with --force.")
    root = keys.root_wrapper()
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise BackupFailed(
            f"{target.parent} cannot be written to: {error.strerror}. Choose another folder."
        ) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as sink, _copy_of_database() as (facts, engine_version, content):
            header = Header(
                id="",
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                software=__version__,
                engine=connection.vendor,
                engine_version=engine_version,
                schema=facts.schema,
                root_key_id="",
                root_key_ids=facts.root_key_ids,
                generation=facts.generation,
            )
            backup_format.write(sink, header, root, content)
            sink.flush()
            os.fsync(sink.fileno())
        with partial.open("rb") as source:
            header, preamble = backup_format.read_header(source)
            for _ in backup_format.read_content(source, header, preamble, root):
                pass
        if overwrite:
            os.replace(partial, target)
        else:
            os.link(partial, target)
        rootkey.sync_folder(target.parent)
        return BackupMade(target, target.stat().st_size, header, facts.keks_damaged)
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror}. Nothing was kept.") from error
    except sqlite3.Error as error:
        raise BackupFailed(f"The database cannot be copied: {error}. Nothing was kept.") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _copy_of_database() -> Iterator[tuple[Facts, str, Iterator[bytes]]]:
    """Give the facts of one consistent state, the engine's version, and that state's bytes."""
    if connection.vendor == "sqlite":
        with _sqlite_copy() as copied:
            yield copied
    else:
        with _postgresql_copy() as copied:
            yield copied


# --- SQLite -------------------------------------------------------------------------------------------------------


def database_file() -> Path:
    """Return the path of the SQLite database."""
    return Path(connection.settings_dict["NAME"])


@contextmanager
def private_folder(near: Path) -> Iterator[Path]:
    """A folder of mode 0700 in ``near``, removed with everything in it at the end."""
    folder = Path(tempfile.mkdtemp(dir=near, prefix=".keystead-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _sqlite_copy() -> Iterator[tuple[Facts, str, Iterator[bytes]]]:
    database = database_file()
    # Beside the database: the same protection, and surely the same kind of disk. Wrapped secrets are wrapped there too.
    with private_folder(database.parent) as folder:
        copy = folder / "copy.sqlite3"
        with closing(sqlite3.connect(database, timeout=20)) as live, closing(sqlite3.connect(copy)) as target:
            # All pages in one step, so one read transaction: in WAL mode writers go on meanwhile.
            live.backup(target, pages=-1)
            target.execute("PRAGMA journal_mode=DELETE")
            problem = target.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise BackupFailed(
                    f"SQLite finds the database damaged: {problem}. Restore an earlier backup."
                )
            facts = read_facts(lambda sql: target.execute(sql).fetchall())
        yield facts, sqlite3.sqlite_version, _pieces(copy)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def find_tool(name: str) -> str:
    """Return the path of one of PostgreSQL's client programs. Raises BackupFailed with the package's name."""
    found = shutil.which(name)
    if found is None:
        raise BackupFailed(
            f"{name} is not installed here. Install PostgreSQL's client programs (Debian: postgresql-client), of the "
            "server's major version or later."
        )
    return found


def libpq_environment() -> dict[str, str]:
    """Return the environment that makes PostgreSQL's programs reach our database.

    By PG* variables rather than arguments, which every user of the machine can read.
    """
    settings = connection.settings_dict
    wanted = {
        "PGDATABASE": settings["NAME"],
        "PGUSER": settings["USER"],
        "PGPASSWORD": settings["PASSWORD"],
        "PGHOST": settings["HOST"],
        "PGPORT": settings["PORT"],
    }
    # libpq itself says by which variable it reads each option; those without one have no meaning to a program.
    variables = {
        option.keyword.decode(): option.envvar.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar
    }
    for keyword, value in settings["OPTIONS"].items():
        if keyword in variables:
            wanted[variables[keyword]] = value
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return (
        kept
        | {name: str(value) for name, value in wanted.items() if value not in ("", None)}
        | {"LC_ALL": "C"}
    )


@contextmanager
def _postgresql_copy() -> Iterator[tuple[Facts, str, Iterator[bytes]]]:
    tool = find_tool("pg_dump")
    with closing(connection.get_new_connection(connection.get_connection_params())) as snapshot:
        snapshot.autocommit = True
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # pg_dump reads the same state as our own queries for the header.
        snapshot_id = snapshot.execute("SELECT pg_export_snapshot()").fetchone()[0]
        version = snapshot.execute("SHOW server_version").fetchone()[0]
        facts = read_facts(lambda sql: snapshot.execute(sql).fetchall())
        yield facts, version, _dump(tool, snapshot_id)


def _dump(tool: str, snapshot_id: str) -> Iterator[bytes]:
    command = [
        tool,
        "--format=custom",
        "--no-owner",
        "--no-privileges",
        "--no-password",
        f"--snapshot={snapshot_id}",
    ]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            env=libpq_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        assert process.stdout is not None  # noqa: S101  (PIPE was asked for)
        try:
            while piece := process.stdout.read(CHUNK_BYTES):
                yield piece
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            status = process.wait()
        if status != 0:
            complaints.seek(0)
            raise BackupFailed(f"pg_dump failed: {last_line(complaints.read())} Nothing was kept.")


def last_line(complaints: bytes) -> str:
    """Return the last line that a program has complained with."""
    lines = complaints.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it gave no reason."
