"""IAM's rows: users, groups, roles, access keys, role sessions and policies, and how they are read.

``iam``, ``sts`` and ``access`` work on these; nothing here decides anything. Names of principals are unique
in an account without regard to case, as in AWS.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloudkeys.simulators.aws.context import Simulator

KINDS = ("user", "group", "role")

SCHEMA = """
CREATE TABLE IF NOT EXISTS iam_principals (
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('user', 'group', 'role')),
    name TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    created_at REAL NOT NULL,
    tags TEXT NOT NULL DEFAULT '{}',
    trust_policy TEXT,
    description TEXT,
    max_session_duration INTEGER,
    PRIMARY KEY (account_id, kind, name)
) STRICT;
CREATE TABLE IF NOT EXISTS iam_memberships (
    account_id TEXT NOT NULL,
    group_id TEXT NOT NULL REFERENCES iam_principals (id),
    user_id TEXT NOT NULL REFERENCES iam_principals (id),
    PRIMARY KEY (group_id, user_id)
) STRICT;
CREATE TABLE IF NOT EXISTS iam_access_keys (
    access_key_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES iam_principals (id),
    secret TEXT NOT NULL,
    active INTEGER NOT NULL,
    created_at REAL NOT NULL,
    last_used_at REAL,
    last_used_service TEXT,
    last_used_region TEXT,
    unknown_for INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS iam_inline_policies (
    principal_id TEXT NOT NULL REFERENCES iam_principals (id),
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (principal_id, name)
) STRICT;
CREATE TABLE IF NOT EXISTS iam_policies (
    arn TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    name TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    description TEXT,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    default_version INTEGER NOT NULL,
    last_version INTEGER NOT NULL,
    tags TEXT NOT NULL DEFAULT '{}',
    UNIQUE (account_id, name)
) STRICT;
CREATE TABLE IF NOT EXISTS iam_policy_versions (
    arn TEXT NOT NULL REFERENCES iam_policies (arn),
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (arn, version)
) STRICT;
CREATE TABLE IF NOT EXISTS iam_attachments (
    principal_id TEXT NOT NULL REFERENCES iam_principals (id),
    arn TEXT NOT NULL,
    PRIMARY KEY (principal_id, arn)
) STRICT;
"""
STS_SCHEMA = """
CREATE TABLE IF NOT EXISTS sts_sessions (
    access_key_id TEXT PRIMARY KEY,
    role_id TEXT NOT NULL,
    session_name TEXT NOT NULL,
    secret TEXT NOT NULL,
    token TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
"""


def _managed(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


# The policies that AWS keeps for everybody, as far as the simulator's services go.
AWS_MANAGED_POLICIES: dict[str, str] = {
    "arn:aws:iam::aws:policy/AdministratorAccess": _managed(
        {"Effect": "Allow", "Action": "*", "Resource": "*"}
    ),
    "arn:aws:iam::aws:policy/PowerUserAccess": _managed(
        {"Effect": "Allow", "NotAction": ["iam:*", "organizations:*", "account:*"], "Resource": "*"},
        {"Effect": "Allow", "Action": ["iam:ListRoles"], "Resource": "*"},
    ),
    "arn:aws:iam::aws:policy/IAMFullAccess": _managed(
        {"Effect": "Allow", "Action": "iam:*", "Resource": "*"}
    ),
    "arn:aws:iam::aws:policy/IAMReadOnlyAccess": _managed(
        {"Effect": "Allow", "Action": ["iam:Get*", "iam:List*", "iam:Simulate*"], "Resource": "*"}
    ),
    "arn:aws:iam::aws:policy/AmazonS3FullAccess": _managed(
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    ),
    "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess": _managed(
        {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
    ),
    "arn:aws:iam::aws:policy/AWSKeyManagementServicePowerUser": _managed(
        {
            "Effect": "Allow",
            "Action": [
                "kms:CreateAlias", "kms:CreateKey", "kms:DeleteAlias", "kms:Describe*", "kms:GenerateRandom",
                "kms:Get*", "kms:List*", "kms:TagResource", "kms:UntagResource",
                "iam:ListGroups", "iam:ListRoles", "iam:ListUsers",
            ],
            "Resource": "*",
        }
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, group or role. ``trust_policy``, ``description`` and ``max_session_duration`` are a role's."""

    account_id: str
    kind: str
    name: str
    id: str
    path: str
    created_at: float
    tags: Mapping[str, str]
    trust_policy: str | None
    description: str | None
    max_session_duration: int | None

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::{self.account_id}:{self.kind}{self.path}{self.name}"


@dataclass(frozen=True, slots=True)
class PolicySource:
    """A policy document with where it comes from. ``type`` is IAM's PolicySourceType."""

    id: str
    type: str
    document: str


def principal_from(row: sqlite3.Row) -> Principal:
    """A row of iam_principals."""
    return Principal(**{**dict(row), "tags": json.loads(row["tags"])})


def find_principal(sim: Simulator, account_id: str, kind: str, name: str) -> Principal | None:
    """The user, group or role of that name, None when there is none."""
    row = sim.state.row(
        "SELECT * FROM iam_principals WHERE account_id = ? AND kind = ? AND name = ?",
        (account_id, kind, name),
    )
    return None if row is None else principal_from(row)


def find_principal_by_id(sim: Simulator, principal_id: str) -> Principal | None:
    """The principal with that unique id, None when there is none (deleted)."""
    row = sim.state.row("SELECT * FROM iam_principals WHERE id = ?", (principal_id,))
    return None if row is None else principal_from(row)


def find_principal_by_arn(sim: Simulator, arn: str) -> Principal | None:
    """The user, group or role with that ARN (its path must be right), None when there is none."""
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[2] != "iam":
        return None
    kind, _, rest = parts[5].partition("/")
    if kind not in KINDS:
        return None
    found = find_principal(sim, parts[4], kind, rest.rpartition("/")[2])
    return found if found is not None and found.arn == arn else None


def list_principals(sim: Simulator, account_id: str, kind: str, path_prefix: str) -> list[Principal]:
    """All of a kind below a path, by name."""
    rows = sim.state.rows(
        "SELECT * FROM iam_principals WHERE account_id = ? AND kind = ? AND substr(path, 1, ?) = ?"
        " ORDER BY name",
        (account_id, kind, len(path_prefix), path_prefix),
    )
    return [principal_from(row) for row in rows]


def groups_of(sim: Simulator, user: Principal) -> list[Principal]:
    """The groups that a user is in, by name."""
    rows = sim.state.rows(
        "SELECT p.* FROM iam_principals p JOIN iam_memberships m ON m.group_id = p.id"
        " WHERE m.user_id = ? ORDER BY p.name",
        (user.id,),
    )
    return [principal_from(row) for row in rows]


def policy_document(sim: Simulator, arn: str) -> str | None:
    """The default version of a managed policy, None when there is none of that ARN."""
    if arn in AWS_MANAGED_POLICIES:
        return AWS_MANAGED_POLICIES[arn]
    row = sim.state.row(
        "SELECT v.document FROM iam_policies p JOIN iam_policy_versions v"
        " ON v.arn = p.arn AND v.version = p.default_version WHERE p.arn = ?",
        (arn,),
    )
    return None if row is None else str(row["document"])


def _own_policies(sim: Simulator, principal: Principal) -> Iterator[PolicySource]:
    for row in sim.state.rows(
        "SELECT name, document FROM iam_inline_policies WHERE principal_id = ? ORDER BY name", (principal.id,)
    ):
        yield PolicySource(
            f"{principal.kind}_{principal.name}_{row['name']}", principal.kind, row["document"]
        )
    for row in sim.state.rows(
        "SELECT arn FROM iam_attachments WHERE principal_id = ? ORDER BY arn", (principal.id,)
    ):
        document = policy_document(sim, row["arn"])
        if document is not None:
            kind = "aws-managed" if row["arn"] in AWS_MANAGED_POLICIES else "user-managed"
            yield PolicySource(row["arn"].rpartition("/")[2], kind, document)


def identity_policies(sim: Simulator, principal: Principal) -> list[PolicySource]:
    """Every policy that speaks for a principal: inline, attached, and those of a user's groups."""
    found = list(_own_policies(sim, principal))
    if principal.kind == "user":
        for group in groups_of(sim, principal):
            found.extend(_own_policies(sim, group))
    return found
