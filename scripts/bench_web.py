"""What every page costs with 100,000 CloudKeys and 1,000,000 audit events in a vault: queries, milliseconds, bytes of a first visit.

Fills a temporary database (SQLite in a temporary folder; PostgreSQL on the server of KEYSTEAD_DATABASE_URL when that is set), opens each
page of the URL tables (scripts/page_addresses.py) through the whole Django application, and prints a Markdown table. Exits 1 when a
median exceeds LIMIT_MS, or a first visit LIMIT_BYTES.

    bench_web.py [--keys N] [--events N] [--rounds N] [--only PART] [--json]
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import bench_api  # noqa: E402
from page_addresses import Address, addresses  # noqa: E402

LIMIT_MS = 150.0
LIMIT_BYTES = 200_000
ACTIONS = (
    "cloudkeys:cloud_key:update",
    "cloudkeys:cloud_key:rotate",
    "cloudkeys:cloud_key:disable",
    "vault:member:update",
)
QUERIES = {
    "cloud-keys, state": "state=DISABLED",
    "cloud-keys, search": "search=payments",
    "cloud-keys, by next rotation": "ordering=next_rotation_at",
    "audit, one person": "person=Ada",
    "audit, one action": "action=cloudkeys:cloud_key:disable",
}
"""Lists as they are narrowed; what stands before the comma is the URL's name."""
ASKS_AWS = ("cloud-key-new-principals", "cloud-key-principals", "csp-account-tab")
"""Parts of pages that ask AWS, for which these accounts have no credential."""


def add_events(vault: Any, count: int) -> None:
    """So many audit events, as rows made by the database itself; bulk_create would take ten times as long."""
    from django.db import connection

    from cloudkeys.models import CloudKey
    from vault.models import User

    user = User.objects.get(email="ada@example.com")
    keys = list(CloudKey.objects.filter(vault=vault).order_by("pk").values_list("pk", "name")[:1000])
    sqlite = connection.vendor == "sqlite"
    plain = (lambda value: value.hex) if sqlite else str
    at = (
        "datetime('now', '-' || (%s - i) || ' minutes')"
        if sqlite
        else "now() - (%s - i) * interval '1 minute'"
    )
    new_id = "printf('%%032x', i)" if sqlite else "lpad(to_hex(i), 32, '0')::uuid"
    json_type = "" if sqlite else "::jsonb"
    per = max(1, count // len(keys))
    with connection.cursor() as cursor:
        for number, (key_id, name) in enumerate(keys):
            statement = (
                "INSERT INTO vault_auditevent (id, at, vault_id, vault_name, actor_type, actor_id, actor_name, via, request_id,"  # noqa: S608  # all of it stands here
                " action, target_type, target_id, target_name, outcome, reason, before, after, detail) "
                "WITH RECURSIVE n(i) AS (SELECT %s UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
                f"SELECT {new_id}, {at}, %s, 'Payments', 'user', %s, 'Ada', 'api', 'r' || i, %s, 'cloudkey', %s, %s, 'SUCCESS', '',"
                f' \'{{"description": "a"}}\'{json_type}, \'{{"description": "b"}}\'{json_type}, \'{{}}\'{json_type} FROM n'
            )
            cursor.execute(
                statement,
                [
                    number * per + 1, (number + 1) * per, count, plain(vault.pk), str(user.pk),
                    ACTIONS[number % len(ACTIONS)], str(key_id), name,
                ],
            )  # fmt: skip


def bytes_of(client: Any, url: str) -> int:
    """What a browser with an empty cache loads for this page, compressed where the server does so."""
    packed = {"Accept-Encoding": "gzip"}
    answer = client.get(url, headers=packed)
    total = len(answer.content)
    text = client.get(url).content.decode()
    for path in sorted(set(re.findall(r'(?:src|href)="(/static/[^"]+)"', text))):
        found = client.get(path, headers=packed)
        body = b"".join(found.streaming_content) if found.streaming else found.content
        if found.status_code != 200:
            sys.exit(f"bench_web: {path} answered {found.status_code}")
        total += len(body)
    return total


def is_page(client: Any, address: Address) -> bool:
    """Whether a GET is answered by a whole page."""
    answer = client.get(address.url)
    if answer.status_code >= 500:
        sys.exit(f"bench_web: {address.url} answered {answer.status_code}")
    whole = not answer.streaming and b"<html" in answer.content[:2_000]
    return whole and answer.status_code == 200


def sign_in(vault: Any) -> Any:
    """A browser of somebody who may see everything."""
    from django.test import Client

    from vault.models import User

    ada = User.objects.get(email="ada@example.com")
    ada.is_appliance_admin = True
    ada.set_password(secrets.token_urlsafe())  # without one, pages of the account lead elsewhere
    ada.save()
    client = Client()
    client.force_login(ada)
    return client


def measure_all(client: Any, vault: Any, rounds: int, only: str) -> list[dict[str, Any]]:
    """A row for each page."""
    found = [
        (address.slug, address.url)
        for address in addresses(vault)
        if address.url and only in address.slug and address.name not in ASKS_AWS and is_page(client, address)
    ]
    urls = dict(found)
    for name, query in QUERIES.items():
        page = name.partition(",")[0]
        if page in urls:
            found.append((name, f"{urls[page]}?{query}"))
    rows = []
    for name, url in found:
        client.get(url)
        queries, took = bench_api.measure(client, url, rounds)
        rows.append(
            {
                "page": name,
                "queries": queries,
                "median_ms": round(statistics.median(took), 1),
                "p95_ms": round(took[max(0, round(len(took) * 0.95) - 1)], 1),
                "bytes": bytes_of(client, url),
            }
        )
        print(f"  {name}: {queries} queries, {rows[-1]['median_ms']} ms", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Fill, open, print; 1 when something is over its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="only pages whose name has this in it")
    parser.add_argument("--json", action="store_true", help="one JSON document in place of the table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keystead-bench-") as folder:
        bench_api.configure(folder)
        from django.db import connection

        with bench_api.database():
            vault, _ = bench_api.people()
            began = time.perf_counter()
            bench_api.fill(vault, given.keys)
            add_events(vault, given.events)
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")
            filled_s = time.perf_counter() - began
            print(f"filled in {filled_s:.0f} s", file=sys.stderr, flush=True)
            rows = measure_all(sign_in(vault), vault, given.rounds, given.only)
    over = [row for row in rows if row["median_ms"] > LIMIT_MS or row["bytes"] > LIMIT_BYTES]
    database = "SQLite" if connection.vendor == "sqlite" else "PostgreSQL"
    if given.json:
        print(
            json.dumps(
                {"database": database, "keys": given.keys, "events": given.events, "rows": rows}, indent=1
            )
        )
    else:
        print(
            f"{database}, {given.keys:,} CloudKeys, {given.events:,} audit events, {given.rounds} requests each\n"
        )
        print("| page | queries | median ms | p95 ms | first visit, bytes |\n|---|---:|---:|---:|---:|")
        for row in rows:
            print(
                f"| {row['page']} | {row['queries']} | {row['median_ms']} | {row['p95_ms']} | {row['bytes']:,} |"
            )
    for row in over:
        print(f"over the limit: {row}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
