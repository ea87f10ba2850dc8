"""What KMS remembers: external key stores, keys, aliases, tags and grants, as rows and as records."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from cloudkeys.simulators.aws.context import AwsError, Simulator
from cloudkeys.simulators.aws.xks_client import Proxy

SCHEMA = """
CREATE TABLE IF NOT EXISTS kms_stores (
    store_id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    path TEXT NOT NULL,
    connectivity TEXT NOT NULL,
    vpc_service TEXT,
    vpc_owner TEXT,
    access_key_id TEXT NOT NULL,
    secret_access_key TEXT NOT NULL,
    state TEXT NOT NULL,
    error_code TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    UNIQUE (account_id, region, name)
) STRICT;
CREATE TABLE IF NOT EXISTS kms_keys (
    key_id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    region TEXT NOT NULL,
    description TEXT NOT NULL,
    origin TEXT NOT NULL,
    manager TEXT NOT NULL,
    state TEXT NOT NULL,
    policy TEXT NOT NULL,
    material BLOB,
    store_id TEXT REFERENCES kms_stores (store_id),
    xks_key_id TEXT,
    created_at REAL NOT NULL,
    deletion_at REAL,
    UNIQUE (store_id, xks_key_id)
) STRICT;
CREATE INDEX IF NOT EXISTS kms_keys_by_account ON kms_keys (account_id, region, key_id);
CREATE INDEX IF NOT EXISTS kms_keys_by_deletion ON kms_keys (deletion_at) WHERE deletion_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS kms_aliases (
    account_id TEXT NOT NULL,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    key_id TEXT REFERENCES kms_keys (key_id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (account_id, region, name)
) STRICT;
CREATE INDEX IF NOT EXISTS kms_aliases_by_key ON kms_aliases (key_id);
CREATE TABLE IF NOT EXISTS kms_tags (
    key_id TEXT NOT NULL REFERENCES kms_keys (key_id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key_id, name)
) STRICT;
CREATE TABLE IF NOT EXISTS kms_grants (
    grant_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES kms_keys (key_id) ON DELETE CASCADE,
    token TEXT NOT NULL UNIQUE,
    name TEXT,
    grantee TEXT NOT NULL,
    retiring TEXT,
    operations TEXT NOT NULL,
    constraints TEXT NOT NULL,
    issuing_account TEXT NOT NULL,
    created_at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS kms_grants_by_key ON kms_grants (key_id, grant_id);
"""

_KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ARN = re.compile(r"arn:aws:kms:([a-z0-9-]+):([0-9]{12}):(key|alias)/(.+)")


@dataclass(frozen=True, slots=True)
class Store:
    """An external key store. ``state`` is AWS's ConnectionState."""

    store_id: str
    account_id: str
    region: str
    name: str
    endpoint: str
    path: str
    connectivity: str
    vpc_service: str | None
    vpc_owner: str | None
    access_key_id: str
    secret_access_key: str = field(repr=False)
    state: str
    error_code: str | None
    attempt: int
    created_at: float

    @property
    def arn(self) -> str:
        return f"arn:aws:kms:{self.region}:{self.account_id}:custom-key-store/{self.store_id}"

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.endpoint, self.path, self.access_key_id, self.secret_access_key, self.region)


@dataclass(frozen=True, slots=True)
class Key:
    """A KMS key. ``state`` is what was asked of it (Enabled, Disabled, PendingDeletion, PendingImport);

    ``shown_state`` is AWS's KeyState, which is Unavailable while the key's store is not connected.
    """

    key_id: str
    account_id: str
    region: str
    description: str
    origin: str
    manager: str
    state: str
    policy: str
    material: bytes | None = field(repr=False)
    store_id: str | None
    xks_key_id: str | None
    created_at: float
    deletion_at: float | None
    store_state: str | None

    @property
    def arn(self) -> str:
        return f"arn:aws:kms:{self.region}:{self.account_id}:key/{self.key_id}"

    @property
    def shown_state(self) -> str:
        if self.store_id is not None and self.store_state != "CONNECTED" and self.state != "PendingDeletion":
            return "Unavailable"
        return self.state


KEY_COLUMNS = """SELECT k.key_id, k.account_id, k.region, k.description, k.origin, k.manager, k.state, k.policy,
    k.material, k.store_id, k.xks_key_id, k.created_at, k.deletion_at, s.state AS store_state
    FROM kms_keys k LEFT JOIN kms_stores s ON s.store_id = k.store_id"""


def key_from(row: sqlite3.Row) -> Key:
    """The record of one row of ``KEY_COLUMNS``."""
    return Key(**dict(row))


def find_key(sim: Simulator, key_id: str) -> Key | None:
    """The key of that bare id in any account and region."""
    row = sim.state.row(f"{KEY_COLUMNS} WHERE k.key_id = ?", (key_id,))
    return None if row is None else key_from(row)


def find_store(sim: Simulator, account_id: str, region: str, store_id: str) -> Store:
    """The store of that id. Raises AwsError CustomKeyStoreNotFoundException."""
    row = sim.state.row(
        "SELECT * FROM kms_stores WHERE store_id = ? AND account_id = ? AND region = ?",
        (store_id, account_id, region),
    )
    if row is None:
        raise AwsError("CustomKeyStoreNotFoundException", f"Custom key store {store_id} is not found.")
    return Store(**dict(row))


def store_of(sim: Simulator, key: Key) -> Store:
    """The store of a key that has one."""
    row = sim.state.row("SELECT * FROM kms_stores WHERE store_id = ?", (key.store_id,))
    if row is None:
        raise AwsError("KMSInternalException", f"The custom key store of {key.arn} is gone.", 500)
    return Store(**dict(row))


def resolve_key(
    sim: Simulator, account_id: str, region: str, key_id: str, *, alias_allowed: bool = False
) -> tuple[Key, str | None]:
    """The key that an id, key ARN, or (where allowed) alias name or ARN means; and the alias name, if one was used.

    Raises AwsError NotFoundException, InvalidArnException, or AccessDeniedException for what another account
    does not have, as AWS does.
    """
    alias: str | None = None
    owner, name = account_id, key_id
    if key_id.startswith("arn:"):
        arn = _ARN.fullmatch(key_id)
        if arn is None:
            raise AwsError("InvalidArnException", f"Invalid arn {key_id}")
        if arn[1] != region:
            raise AwsError("NotFoundException", f"Invalid arn {arn[1]}")
        owner, name = arn[2], arn[4] if arn[3] == "key" else f"alias/{arn[4]}"
    if name.startswith("alias/"):
        if not alias_allowed:
            raise AwsError("NotFoundException", f"Invalid keyId '{key_id}'")
        alias = name
        row = sim.state.row(
            f"{KEY_COLUMNS} JOIN kms_aliases a ON a.key_id = k.key_id"
            " WHERE a.account_id = ? AND a.region = ? AND a.name = ?",
            (owner, region, name),
        )
        missing = f"Alias arn:aws:kms:{region}:{owner}:{name} is not found."
    elif _KEY_ID.fullmatch(name):
        row = sim.state.row(
            f"{KEY_COLUMNS} WHERE k.key_id = ? AND k.account_id = ? AND k.region = ?", (name, owner, region)
        )
        missing = f"Key 'arn:aws:kms:{region}:{owner}:key/{name}' does not exist"
    else:
        raise AwsError("NotFoundException", f"Invalid keyId '{key_id}'")
    if row is None:
        if owner != account_id:
            raise AwsError(
                "AccessDeniedException",
                "The ciphertext or key refers to a KMS key that does not exist, does not exist in this region, "
                "or that you are not allowed to access.",
            )
        raise AwsError("NotFoundException", missing)
    return key_from(row), alias


def page(
    rows: list[dict[str, Any]], params: dict[str, Any], sort_member: str, default_limit: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One page of a listing sorted by a member that is unique in it, and the Truncated and NextMarker members.

    The marker is the last value given. Raises AwsError InvalidMarkerException when it is not one of ours.
    """
    marker = params.get("Marker")
    if marker is not None:
        if not marker.startswith("after:"):
            raise AwsError("InvalidMarkerException", "The marker is not one that this operation gave.")
        rows = [row for row in rows if row[sort_member] > marker.removeprefix("after:")]
    limit = params.get("Limit", default_limit)
    if len(rows) <= limit:
        return rows, {"Truncated": False}
    return rows[:limit], {"Truncated": True, "NextMarker": f"after:{rows[limit - 1][sort_member]}"}


def tags_of(sim: Simulator, key_id: str) -> dict[str, str]:
    """The tags of a key."""
    rows = sim.state.rows("SELECT name, value FROM kms_tags WHERE key_id = ? ORDER BY name", (key_id,))
    return {row["name"]: row["value"] for row in rows}


def canonical_context(context: dict[str, str] | None) -> bytes:
    """An encryption context as bytes that two different contexts never share; empty for none."""
    if not context:
        return b""
    return json.dumps(context, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
