"""S3's rows: buckets with their default encryption, objects, and their encrypted bytes.

Bodies lie in the state file beside their rows, so that an object is replaced in one transaction and a crash
leaves neither half an object nor an orphan. A body is only ever written encrypted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudkeys.simulators.aws.context import AwsError, Simulator

SCHEMA = """
CREATE TABLE IF NOT EXISTS s3_buckets (
    name TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    region TEXT NOT NULL,
    created_at REAL NOT NULL,
    encryption TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS s3_objects (
    bucket TEXT NOT NULL REFERENCES s3_buckets (name),
    key TEXT NOT NULL,
    etag TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_at REAL NOT NULL,
    headers TEXT NOT NULL,
    checksums TEXT NOT NULL,
    encryption TEXT NOT NULL,
    PRIMARY KEY (bucket, key)
) STRICT;
CREATE TABLE IF NOT EXISTS s3_bodies (
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (bucket, key),
    FOREIGN KEY (bucket, key) REFERENCES s3_objects (bucket, key) ON DELETE CASCADE
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class DefaultEncryption:
    """A bucket's default: ``algorithm`` AES256 or aws:kms, the key as it was given, and whether bucket keys
    are used."""

    algorithm: str = "AES256"
    kms_key_id: str | None = None
    bucket_key: bool = False


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket; ``encryption`` is S3's own default when nobody set one."""

    name: str
    account_id: str
    region: str
    created_at: float
    encryption: DefaultEncryption

    @property
    def arn(self) -> str:
        return f"arn:aws:s3:::{self.name}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object without its body. ``headers`` are those that come back on GET, ``encryption`` what opens the
    body."""

    bucket: str
    key: str
    etag: str
    size: int
    modified_at: float
    headers: Mapping[str, str]
    checksums: Mapping[str, str]
    encryption: Mapping[str, Any]


def _bucket_from(row: sqlite3.Row) -> Bucket:
    default = DefaultEncryption(**json.loads(row["encryption"])) if row["encryption"] else DefaultEncryption()
    return Bucket(row["name"], row["account_id"], row["region"], row["created_at"], default)


def find_bucket(sim: Simulator, name: str) -> Bucket | None:
    """The bucket of that name in any account, None when there is none."""
    row = sim.state.row("SELECT * FROM s3_buckets WHERE name = ?", (name,))
    return None if row is None else _bucket_from(row)


def get_bucket(sim: Simulator, name: str) -> Bucket:
    """As ``find_bucket``; raises AwsError NoSuchBucket."""
    bucket = find_bucket(sim, name)
    if bucket is None:
        raise AwsError("NoSuchBucket", "The specified bucket does not exist", 404, {"BucketName": name})
    return bucket


def list_buckets(sim: Simulator, account_id: str) -> list[Bucket]:
    """The buckets of an account, by name."""
    rows = sim.state.rows("SELECT * FROM s3_buckets WHERE account_id = ? ORDER BY name", (account_id,))
    return [_bucket_from(row) for row in rows]


def _object_from(row: sqlite3.Row) -> StoredObject:
    documents = {name: json.loads(row[name]) for name in ("headers", "checksums", "encryption")}
    return StoredObject(**{**dict(row), **documents})


def find_object(sim: Simulator, bucket: str, key: str) -> StoredObject | None:
    """The object, None when there is none."""
    row = sim.state.row("SELECT * FROM s3_objects WHERE bucket = ? AND key = ?", (bucket, key))
    return None if row is None else _object_from(row)


def find_object_and_body(sim: Simulator, bucket: str, key: str) -> tuple[StoredObject, bytes] | None:
    """The object and its encrypted body, both of one moment."""
    with sim.state.transaction() as db:
        found = find_object(sim, bucket, key)
        row = db.execute("SELECT body FROM s3_bodies WHERE bucket = ? AND key = ?", (bucket, key)).fetchone()
    return None if found is None or row is None else (found, bytes(row["body"]))


def list_objects(sim: Simulator, bucket: str, prefix: str, after: str) -> list[StoredObject]:
    """The objects of a bucket with that prefix and after that key, in the order of their UTF-8 bytes."""
    rows = sim.state.rows(
        "SELECT * FROM s3_objects WHERE bucket = ? AND key > ? AND key >= ? AND substr(key, 1, ?) = ?"
        " ORDER BY key",
        (bucket, after, prefix, len(prefix), prefix),
    )
    return [_object_from(row) for row in rows]


def put_object(sim: Simulator, made: StoredObject, body: bytes) -> None:
    """Write or replace an object with its encrypted body. Part of the caller's transaction when there is
    one."""
    with sim.state.transaction() as db:
        get_bucket(sim, made.bucket)
        db.execute("DELETE FROM s3_objects WHERE bucket = ? AND key = ?", (made.bucket, made.key))
        db.execute(
            "INSERT INTO s3_objects VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                made.bucket, made.key, made.etag, made.size, made.modified_at,
                json.dumps(dict(made.headers)), json.dumps(dict(made.checksums)),
                json.dumps(dict(made.encryption)),
            ),
        )  # fmt: skip
        db.execute("INSERT INTO s3_bodies VALUES (?, ?, ?)", (made.bucket, made.key, body))


def delete_object(sim: Simulator, bucket: str, key: str) -> None:
    """Remove an object; one that is not there is no error."""
    with sim.state.transaction() as db:
        db.execute("DELETE FROM s3_objects WHERE bucket = ? AND key = ?", (bucket, key))
