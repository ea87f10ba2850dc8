"""What writing down every use costs: the disk, `write` against `group`, shipping, and bytes.

    bench_journal.py [--only disk|serve|ship] [--records N] [--seconds S] [--json FILE] [--markdown FILE]

* disk: appends of the size of a record, each followed by fdatasync, in the folder for temporary files;
* serve: Encrypt on 1 and 24 connections, once with `write` and once with `group`: an agent and an XKS server with two workers,
  TLS and access rules, as `make bench-xks` starts them;
* ship: a journal with N records of 200 keys and 50 principals is shipped by xks.journal_shipping into the database of
  KEYSTEAD_DATABASE_URL, else SQLite, with nothing else to do: records a second, and bytes a record in the journal, compressed,
  and in the database with its indexes and sums.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts"))

SYNCS = 2_000
SYNC_BYTES = 130
KEYS, PRINCIPALS, SERVICES = 200, 50, 8
SPREAD_S = 7200
"""The records of the shipped journal lie within so many seconds."""
DAY = 86_400
DISK = ("fdatasync_p50_ms", "fdatasync_p99_ms", "fdatasync_max_ms", "write_p50_ms")
SHOWN = ("records_per_s", "us_a_record", "journal_bytes", "compressed_bytes", "store_bytes")


def percentile(ordered: list[float], share: float) -> float:
    """The value below which that share lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def disk() -> dict[str, Any]:
    """Time appends and fdatasync as the journal makes them."""
    writes, syncs = [], []
    data = os.urandom(SYNC_BYTES)
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(file.fileno(), data)
            written = time.perf_counter()
            os.fdatasync(file.fileno())
            writes.append((written - began) * 1000)
            syncs.append((time.perf_counter() - written) * 1000)
    writes.sort()
    syncs.sort()
    return {
        "folder": tempfile.gettempdir(),
        "write_p50_ms": round(percentile(writes, 0.5), 4),
        "fdatasync_p50_ms": round(percentile(syncs, 0.5), 3),
        "fdatasync_p99_ms": round(percentile(syncs, 0.99), 3),
        "fdatasync_max_ms": round(syncs[-1], 3),
    }


def serve(seconds: float) -> dict[str, Any]:
    """Ask the same of an endpoint that writes and of one that also waits for the disk."""
    from bench_xks_instance import Content, Instance
    from bench_xks_load import requests_for, run_wrk

    found: dict[str, Any] = {}
    for sync in ("write", "group"):
        with Instance(Content(keys=KEYS), sync=sync) as instance, tempfile.TemporaryDirectory() as name:
            requests = requests_for(instance.target, "encrypt", 32)
            for connections in (1, 24):
                run_wrk(instance.target, requests, Path(name), connections=connections, seconds=1)
                run = run_wrk(instance.target, requests, Path(name), connections=connections, seconds=seconds)
                found.setdefault(sync, {})[connections] = {
                    "requests_per_s": round(run.requests_per_s),
                    "p50_ms": run.p50_ms,
                    "p99_ms": run.p99_ms,
                    "errors": run.errors,
                }
    for connections, run in found["group"].items():
        before = found["write"][connections]
        run["added_p50_ms"] = round(run["p50_ms"] - before["p50_ms"], 3)
        run["added_p99_ms"] = round(run["p99_ms"] - before["p99_ms"], 3)
    return found


def ship(records: int, settings: dict[str, str]) -> dict[str, Any]:
    """Ship a journal, in a process of its own with a data folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEYSTEAD_", "AWS_", "DJANGO_"))}
        environ = {**kept, **settings, "DJANGO_SETTINGS_MODULE": "vault.settings", "KEYSTEAD_DATA_DIR": name}
        done = subprocess.run(
            [sys.executable, __file__, "ship-here", str(records)],
            env=environ, cwd=ROOT, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def ship_here(count: int) -> dict[str, Any]:
    """Fill a journal, ship it into this process's database, and measure both."""
    import django

    django.setup()
    from django.core.management import call_command

    from vault import keys
    from xks.agent_database import use_own_connection
    from xks.agent_journal import new_chain
    from xks.agent_registry import ProcessName
    from xks.journal_shipping import Shipper
    from xks.journal_writer import FileJournal, read_segment, segment_path
    from xks.models import Traffic, UsageHour, XksRequest

    call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
    keys.ensure_root_key(create_allowed=True)
    use_own_connection(snapshots=False)
    folder = Path(os.environ["KEYSTEAD_DATA_DIR"]) / "journal"
    chain, state = new_chain("node-1", ProcessName("", 0, 1, 1))
    journal = FileJournal(folder, node="node-1", boot_id="", segment_bytes=2**40)
    journal.start(chain.id.hex, state)
    # All of one day: a journal that lies across midnight is shipped into two partitions.
    begin = time.time() // DAY * DAY - DAY + 3600
    for record in _records(count, begin):
        journal.append(record)
    journal._close_file()  # and not ended: a journal is shipped while it is written
    path = segment_path(folder, chain.id.hex, 0)
    written = path.stat().st_size
    before = _database_bytes()
    shipper = Shipper(folder)
    wall, cpu = time.perf_counter(), time.process_time()
    while shipper.ship(chain, batches=4)[1]:
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if XksRequest.objects.count() != count:
        raise SystemExit("not every record was shipped")
    store = _database_bytes() - before
    return {
        "records": count,
        "records_per_s": round(count / wall),
        "us_a_record": round(wall / count * 1e6, 1),
        "own_cpu_us_a_record": round(cpu / count * 1e6, 1),
        "journal_bytes": round(written / count, 1),
        "compressed_bytes": round(len(gzip.compress(read_segment(folder, chain.id.hex, 0))) / count, 1),
        "store_bytes": round(store / count, 1),
        "sums": UsageHour.objects.count() + Traffic.objects.count(),
    }


def _records(count: int, begin: float) -> Any:
    from xks.journal import Record

    draw = random.Random(7)  # noqa: S311 - the same every time
    stores = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(4)]
    key_ids = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(KEYS)]
    arns = [
        f"arn:aws:kms:eu-central-1:111122223333:key/{uuid.UUID(int=draw.getrandbits(128))}"
        for _ in range(KEYS)
    ]
    for number in range(count):
        key = min(int(draw.paretovariate(1.0)) - 1, KEYS - 1)  # a few keys have most of the uses
        person = min(int(draw.paretovariate(1.2)) - 1, PRINCIPALS - 1)
        operation = "decrypt" if draw.random() < 0.8 else "encrypt"
        yield Record(
            at=begin + number / count * SPREAD_S,
            generation=12,
            store_id=stores[key % 4],
            access_key_id="BENCHMARKCREDENTIALAAAAAA",
            region="eu-central-1",
            operation=operation,
            outcome="OK" if draw.random() < 0.999 else "InvalidStateException",
            microseconds=int(draw.gammavariate(4, 40)),
            external_key_id=key_ids[key],
            key_id=key_ids[key],
            version=3,
            principal_arn=f"arn:aws:sts::111122223333:assumed-role/service-{person}/i-{person:017x}",
            kms_key_arn=arns[key],
            kms_operation="Decrypt" if operation == "decrypt" else "GenerateDataKey",
            kms_request_id=str(uuid.UUID(int=draw.getrandbits(128))),
            kms_via_service=f"service{key % SERVICES}.eu-central-1.amazonaws.com",
        )


def _database_bytes() -> int:
    from django.db import connection

    from xks.models import Traffic, UsageHour, XksRequest

    tables = [model._meta.db_table for model in (XksRequest, UsageHour, Traffic)]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r'"
                " AND (relname = ANY(%s) OR oid IN (SELECT inhrelid FROM pg_inherits))",
                [tables],
            )
        else:
            cursor.execute(
                "SELECT sum(pgsize) FROM dbstat WHERE name LIKE 'xks_%%' OR name LIKE 'sqlite_autoindex_xks_%%'"
            )
        return int(cursor.fetchone()[0] or 0)


def markdown(found: dict[str, Any]) -> str:
    """Return the figures as tables."""
    lines = []
    if "disk" in found:
        told = found["disk"]
        lines += [
            f"| after {SYNC_BYTES} bytes | fdatasync, p50 ms | p99 ms | longest ms | the write before it, p50 ms |",
            "|---|---:|---:|---:|---:|",
            f"| this disk | {' | '.join(str(told[name]) for name in DISK)} |",
            "",
        ]
    if "serve" in found:
        lines += [
            "| journal | connections | requests/s | p50 ms | p99 ms | p50 added | p99 added | errors |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {sync} | {connections} | {run['requests_per_s']:,} | {run['p50_ms']} | {run['p99_ms']} |"
            f" {run.get('added_p50_ms', '')} | {run.get('added_p99_ms', '')} | {run['errors']} |"
            for sync, runs in found["serve"].items()
            for connections, run in runs.items()
        ]
        lines.append("")
    if "ship" in found:
        told = found["ship"]
        lines += [
            f"| {told['database']} | records/s | us a record | journal, bytes | compressed | in the database |",
            "|---|---:|---:|---:|---:|---:|",
            f"| {told['records']:,} records | {' | '.join(f'{told[name]:,}' for name in SHOWN)} |",
            "",
        ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("disk", "serve", "ship"))
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    settings = {
        name: os.environ[name]
        for name in ("KEYSTEAD_DATABASE_URL", "KEYSTEAD_REDIS_URL")
        if name in os.environ
    }
    if settings:
        settings["KEYSTEAD_SECRET_KEY"] = os.urandom(32).hex()
    found: dict[str, Any] = {"machine": platform.platform()}
    if options.only in (None, "disk"):
        found["disk"] = disk()
    if options.only in (None, "serve"):
        found["serve"] = serve(options.seconds)
    if options.only in (None, "ship"):
        database = "PostgreSQL" if settings else "SQLite"
        found["ship"] = {"database": database, **ship(options.records, settings)}
    print(json.dumps(found, indent=2))
    text = markdown(found)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["ship-here"]:
        print(json.dumps(ship_here(int(sys.argv[2]))))
    else:
        sys.exit(main())
