"""What lists and details of the REST API cost with 100,000 CloudKeys in a vault: queries and milliseconds.

Fills a temporary database (SQLite in a temporary folder; PostgreSQL on the server of KEYSTEAD_DATABASE_URL when that is set), asks
through the whole Django application with an API token, and prints a Markdown table. Exits 1 when a median exceeds LIMIT_MS
or when a first page or a detail needs more than LIMIT_QUERIES.

    bench_api.py [--keys N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

LIMIT_MS = 150.0
# Shown, and not held to the limit: they read all rows that match, or four pages at once.
UNLIMITED = ("with_total", "200 rows")
LIMIT_QUERIES = 10
BATCH = 2_000
STATES = ("ENABLED",) * 17 + ("DISABLED", "DISABLED", "DESTROYED")
REGIONS = ("eu-west-1", "eu-central-1", "us-east-1")
WORDS = ("payments", "archive", "ledger", "cards", "mail", "backup", "claims", "scoring")


def configure(folder: str) -> None:
    """Point Keystead at a data folder of this run's own, keeping only the database server of the caller."""
    kept = {"KEYSTEAD_DATABASE_URL"}
    for name in [name for name in os.environ if name.startswith("KEYSTEAD_") and name not in kept]:
        del os.environ[name]
    os.environ["KEYSTEAD_DATA_DIR"] = folder
    os.environ["KEYSTEAD_LOG_LEVEL"] = "error"
    os.environ["DJANGO_SETTINGS_MODULE"] = "vault.settings"
    import django
    from django.conf import settings

    settings.DATABASES["default"]["TEST"] = {
        "NAME": str(Path(folder) / "bench.sqlite3") if not os.environ.get("KEYSTEAD_DATABASE_URL") else None
    }
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.KEYSTEAD_API_RATES = {"actor": 10**9, "anonymous": 10**9, "sign_in": 10**9}
    django.setup()


@contextmanager
def database() -> Iterator[None]:
    """A database of this run's own, migrated, and dropped at the end."""
    from django.db import connection

    before = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(before, verbosity=0)


def people() -> tuple[Any, Any]:
    """A vault and the bearer token of its admin."""
    from django.db import transaction

    from vault import keys
    from vault.actors import Actor
    from vault.models import Membership, Role, User, Vault
    from vault.services.tokens import create_token

    keys.ensure_root_key(create_allowed=True)
    with transaction.atomic():
        vault = Vault(name="Payments")
        vault.kek_blob = keys.new_vault_kek(vault.pk)
        vault.save(force_insert=True)
    user = User.objects.create_user("ada@example.com", None, name="Ada")
    Membership.objects.create(vault=vault, user=user, role=Role.VAULT_ADMIN)
    return vault, create_token(Actor(user=user), name="bench").secret.reveal_text()


def fill(vault: Any, count: int) -> None:
    """`count` CloudKeys with one version each, in 20 key sets of 4 accounts, as years of use would leave them."""
    from django.utils import timezone

    from cloudkeys.models import CloudKey, CspAccount, KeySet, KeyVersion, XksKeyStore
    from vault.keys import seal

    now = timezone.now()
    accounts = [
        CspAccount.objects.create(
            vault=vault,
            name=f"aws-{number}",
            access_key_id="AKIAIOSFODNN7EXAMPLE",
            default_region="eu-west-1",
        )
        for number in range(4)
    ]
    sets = []
    for number in range(20):
        key_set = KeySet.objects.create(
            vault=vault, name=f"set-{number:02}", csp_account=accounts[number % 4],
            rotation_schedule={"kind": "every", "every": 90, "unit": "days", "hour": 3, "time_zone": "UTC"},
            expiration={"kind": "never"},
        )  # fmt: skip
        sets.append(
            (key_set, XksKeyStore.objects.create(vault=vault, key_set=key_set, path_prefix=f"/{number}"))
        )
    arn = "arn:aws:iam::111122223333"
    for first in range(0, count, BATCH):
        batch = []
        for number in range(first, min(first + BATCH, count)):
            key_set, store = sets[number % 20]
            kms = str(uuid4())
            state = STATES[number % 20]
            batch.append(
                CloudKey(
                    vault=vault, key_set=key_set, csp_account=key_set.csp_account, store=store, state=state,
                    name=f"{WORDS[number * 7 % 8]}-{number * 7919 % count:06}", region=REGIONS[number % 3],
                    description="Encrypts what the team's services keep", external_key_id=str(uuid4()),
                    permitted_uses=["ENCRYPT", "DECRYPT"], administrators=[f"{arn}:user/ada", f"{arn}:role/keys"],
                    users=[f"{arn}:role/app-{number % 50}"], tags={"team": WORDS[number % 8], "stage": "prod"},
                    pointer_state="LINKED", kms_key_id=kms, kms_key_arn=f"arn:aws:kms:eu-west-1:111122223333:key/{kms}",
                    cloud_state={"state": "Enabled"}, cloud_state_at=now, rotated_at=now - timedelta(days=number % 90),
                    next_rotation_at=now + timedelta(days=number % 90 - 1) if number % 10 else None,
                    expires_at=now + timedelta(days=number % 700) if number % 5 == 0 else None,
                    blocked=number % 5000 == 0,
                )
            )  # fmt: skip
        CloudKey.objects.bulk_create(batch)
        versions = [KeyVersion(vault=vault, cloud_key=key, number=1, activated_at=now) for key in batch]
        for version in versions:
            seal(version, "material", os.urandom(32))
        KeyVersion.objects.bulk_create(versions)


def requests(vault: Any) -> dict[str, str]:
    """What is asked: a name for the table, and the address."""
    from cloudkeys.models import CloudKey, KeySet

    key = CloudKey.objects.filter(vault=vault).order_by("name")[CloudKey.objects.count() // 2]
    key_set = KeySet.objects.get(vault=vault, name="set-07")
    keys = "/api/v1/cloud-keys"
    found = {"first page (by name)": keys}
    for ordering in ("created_at", "next_rotation_at", "expires_at", "state"):
        for sign in ("", "-"):
            found[f"ordering={sign}{ordering}"] = f"{keys}?ordering={sign}{ordering}"
    found["ordering=-name"] = f"{keys}?ordering=-name"
    for state in ("ENABLED", "DISABLED", "PENDING_DELETION"):
        found[f"state={state}"] = f"{keys}?state={state}"
    found |= {
        "search, many match": f"{keys}?search=pay",
        "search, one matches": f"{keys}?search={key.name}",
        "search, none matches": f"{keys}?search=nothing-like-this",
        "search by KMS key id": f"{keys}?search={key.kms_key_id}",
        "one key set": f"{keys}?key_set={key_set.pk}",
        "one account": f"{keys}?csp_account={key_set.csp_account_id}",
        "one region": f"{keys}?region=us-east-1",
        "blocked": f"{keys}?blocked=true",
        "rotation overdue": f"{keys}?rotation_overdue=true",
        "with_total": f"{keys}?with_total=true",
        "200 rows": f"{keys}?limit=200",
        "key sets": "/api/v1/key-sets",
        "detail": f"{keys}/{key.pk}",
        "its versions": f"{keys}/{key.pk}/versions",
    }
    return found


def measure(client: Any, path: str, rounds: int) -> tuple[int, list[float]]:
    """Number of queries of one request, and the sorted milliseconds of `rounds` more."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    connection.queries_log.clear()  # of limited length: once full, nothing would be counted
    with CaptureQueriesContext(connection) as captured:
        answer = client.get(path)
        queries = len(captured)
    if answer.status_code != 200:
        sys.exit(f"bench_api: {path} answered {answer.status_code}: {answer.content.decode()[:300]}")
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        client.get(path)
        took.append((time.perf_counter() - began) * 1000)
    return queries, sorted(took)


def main() -> int:
    """Fill, ask, print; 1 when something is over its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="one JSON document in place of the table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keystead-bench-") as folder:
        configure(folder)
        from django.db import connection
        from django.test import Client

        with database():
            vault, token = people()
            began = time.perf_counter()
            fill(vault, given.keys)
            filled_s = time.perf_counter() - began
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("VACUUM ANALYZE")  # as autovacuum would, a minute later
            client = Client(headers={"Authorization": f"Bearer {token}"})
            client.get("/api/v1/cloud-keys")
            rows = []
            for name, path in requests(vault).items():
                queries, took = measure(client, path, given.rounds)
                rows.append(
                    {
                        "request": name,
                        "queries": queries,
                        "best_ms": round(took[0], 1),
                        "median_ms": round(statistics.median(took), 1),
                        "p95_ms": round(took[max(0, round(len(took) * 0.95) - 1)], 1),
                    }
                )
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT sqlite_version()" if connection.vendor == "sqlite" else "SHOW server_version"
                )
                version = str(cursor.fetchone()[0]).split()[0]
            over = [
                row
                for row in rows
                if (row["median_ms"] > LIMIT_MS and row["request"] not in UNLIMITED)
                or row["queries"] > LIMIT_QUERIES
            ]
            database_name = f"{'SQLite' if connection.vendor == 'sqlite' else 'PostgreSQL'} {version}"
            if given.json:
                print(json.dumps({"database": database_name, "keys": given.keys, "rows": rows}, indent=1))
            else:
                print_table(database_name, given.keys, given.rounds, filled_s, rows)
            for row in over:
                print(f"over the limit: {row}", file=sys.stderr)
            return 1 if over else 0


def print_table(
    database_name: str, keys: int, rounds: int, filled_s: float, rows: list[dict[str, Any]]
) -> None:
    """The table, as docs/benchmarks.md holds it."""
    print(f"{database_name}, {keys:,} CloudKeys (filled in {filled_s:.0f} s), {rounds} requests each\n")
    print("| request | queries | best ms | median ms | p95 ms |\n|---|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['request']} | {row['queries']} | {row['best_ms']} | {row['median_ms']} | {row['p95_ms']} |"
        )


if __name__ == "__main__":
    sys.exit(main())
