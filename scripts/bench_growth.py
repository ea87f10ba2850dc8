"""What growth costs: from 10 keys in one store to 100,000 keys in 1,000 stores.

Fills a database for each size and measures in processes of this script's own: the agent's full load and the load of
one changed key (seconds of processor time), what a worker needs to apply both, its memory for each key (fresh, and
once every key has been used), and one Encrypt through the whole application without the network. With a size's agent
and server running, a whole refresh under load shows what it does to p99.

Prints a Markdown table to standard error and one JSON document to standard output. Exits 1 when a bound is missed
(--no-bounds: never).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_xks import machine
from bench_xks_instance import ROOT, Content, Instance
from bench_xks_load import encrypt_request, resident_kib, signed_headers, start_open_loop

SIZES = ((10, 1), (10_000, 100), (100_000, 1_000))
"""Keys, stores."""
GROWTH_SHARE = 0.10
LOAD_S = 3.0
DELTA_S = 0.05
KEY_KIB = 1.5
REFRESH_MS = 5.0
CALLS = 20_000
ROUNDS = 5


# --- within a process of its own, with the database of its environment -----------------------------------


def measure_agent() -> dict[str, Any]:
    """Processor seconds of the agent's loads, and the load itself as frames in the file named LOAD_FILE."""
    import django

    django.setup()
    from django.db import connection, transaction

    from cloudkeys.models import CloudKey
    from vault.generations import raise_generation
    from vault.models import GenerationChange
    from xks import wire
    from xks.agent_loading import Applied, load_changes, load_everything

    connection.ensure_connection()
    gc.collect()
    seconds = []
    for _ in range(2):
        began = time.process_time()
        loaded = load_everything(60.0)
        seconds.append(time.process_time() - began)
    began = time.process_time()
    frames = [
        wire.encode_frame(delta)
        for delta in wire.slice_delta(loaded.generation, full=True, stores=loaded.stores, keys=loaded.keys)
    ]
    encode_s = time.process_time() - began
    Path(os.environ["LOAD_FILE"]).write_bytes(b"".join(frames))
    applied = Applied.after(loaded, None)
    delta_s = []
    for _ in range(5):
        key = CloudKey.objects.exclude(name="health").order_by("pk").first()
        with transaction.atomic():
            raise_generation([(GenerationChange.Kind.KEY, key.pk if key is not None else None)])  # type: ignore[list-item]
        began = time.process_time()
        changed = load_changes(applied, 60.0)
        if changed is None or len(changed.keys) != 1:
            raise RuntimeError("the change was not seen")
        delta_s.append(time.process_time() - began)
        applied = Applied.after(changed, applied)
    return {
        "load_s": round(min(seconds), 3),
        "encode_s": round(encode_s, 3),
        "agent_delta_ms": round(min(delta_s) * 1000, 2),
    }


def measure_worker() -> dict[str, Any]:
    """What a worker needs for the same: seconds, KiB for each key, microseconds of one Encrypt."""
    from tests.xks.bench_shell import Exchange, Headers, Scope
    from xks import wire
    from xks.app import App
    from xks.journal_writer import FileJournal
    from xks.keyring import Change, Serving
    from xks.operations import Engine
    from xks.policy import RulesJudge

    told = json.loads(sys.stdin.read())
    frames = Path(os.environ["LOAD_FILE"]).read_bytes()
    gc.collect()
    before = resident_kib(os.getpid())
    serving = Serving()
    began = time.process_time()
    change: Change | None = None
    at = 0
    while at < len(frames):
        length = int.from_bytes(frames[at : at + 4], "big")
        delta = wire._agent_decoder.decode(frames[at + 4 : at + 4 + length])
        change = change or Change(serving, delta)
        for _ in change.add(delta):
            pass
        at += 4 + length
    assert change is not None  # noqa: S101 # of the benchmark itself
    change.commit()
    apply_s = time.process_time() - began
    del frames, delta, change
    gc.collect()
    fresh = resident_kib(os.getpid())
    serving.take_lease(wire.Lease(serving.keyring.generation, 3600, wire.boot_clock()), wire.boot_clock())
    keyring = serving.keyring
    count = sum(len(store.keys) for store in keyring.stores.values())

    # One changed key.
    store = next(iter(keyring.stores.values()))
    key = next(key for key in store.keys.values() if key.external_key_id != "health")
    record = wire.KeyRecord(
        key.id, key.store_id, key.external_key_id, "ENABLED", False, ["ENCRYPT", "DECRYPT"], 1,
        [wire.VersionRecord(1, bytes(32))],
    )  # fmt: skip
    began = time.process_time()
    single = Change(serving, wire.Delta(keyring.generation + 1, False, True, keys=[record]))
    for _ in single.add(wire.Delta(keyring.generation + 1, False, True, keys=[record])):
        pass
    single.commit()
    delta_s = time.process_time() - began
    lease = wire.Lease(serving.keyring.generation, 3600, wire.boot_clock())
    serving.take_lease(lease, wire.boot_clock())

    from bench_xks_load import Target

    target = Target(**{**told, "keys": tuple(told["keys"])})
    items = []
    for number in range(min(CALLS, 1000)):
        request = encrypt_request(target, target.keys[number * 7919 % len(target.keys)], b"p" * 32, b"a" * 64)
        headers = {
            "host": target.authority,
            "content-length": str(len(request.body)),
            **signed_headers(target, request),
        }
        items.append((Scope(request.path, Headers(headers)), request.body))

    async def calls() -> float:
        with tempfile.TemporaryDirectory() as name:
            journal = FileJournal(Path(name), node="bench")
            journal.start("ab" * 16, bytes(32))
            app = App(Engine(serving, node_name="bench", judge=RulesJudge()), journal=journal)
            best = float("inf")
            for _ in range(ROUNDS):
                began = time.thread_time()
                for scope, body in items:
                    exchange = Exchange(body)
                    await app.__rsgi__(scope, exchange)
                    if exchange.status != 200:
                        raise RuntimeError(f"answered {exchange.status}: {exchange.answer!r}")
                best = min(best, time.thread_time() - began)
            await journal.stop()
            return best / len(items) * 1e6

    encrypt_us = asyncio.run(calls())
    gc.collect()
    settled = resident_kib(os.getpid())
    for each in keyring.stores.values():
        for key in each.keys.values():
            key.current.derive(bytes(12))
    gc.collect()
    used = resident_kib(os.getpid())
    return {
        "apply_s": round(apply_s, 3),
        "worker_delta_ms": round(delta_s * 1000, 2),
        "kib_a_key_fresh": round((fresh - before) / count, 2),
        "kib_a_key_used": round((fresh - before + used - settled) / count, 2),
        "encrypt_us": round(encrypt_us, 1),
        "worker_mib": round(used / 1024, 1),
    }


# --- around them ------------------------------------------------------------------------------------------


def _in_process(what: str, environ: dict[str, str], given: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, what], env=environ, cwd=ROOT, input=given, stdout=subprocess.PIPE,
        text=True, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def refresh_under_load(instance: Instance, *, rate: float, seconds: float) -> dict[str, Any]:
    """p99 of an open loop alone, and while every store and up to 1,000 keys change about every second."""
    quiet = _open_loop(instance, rate, seconds, changes=0)
    busy = _open_loop(instance, rate, seconds, changes=max(1, round(seconds)))
    return {
        "quiet_p99_ms": quiet["p99_ms"],
        "refresh_p99_ms": busy["p99_ms"],
        "refresh_errors": busy["errors"],
        "p99_moves_ms": round(busy["p99_ms"] - quiet["p99_ms"], 2),
    }


def _open_loop(instance: Instance, rate: float, seconds: float, *, changes: int) -> dict[str, Any]:
    toucher = instance.toucher() if changes else None
    process = start_open_loop(instance.target, rate=rate, seconds=seconds, connections=64)
    for _ in range(changes):
        time.sleep(seconds / (changes + 1))
        if toucher is not None and toucher.stdin is not None:
            toucher.stdin.write(b"now\n")
            toucher.stdin.flush()
    told = process.stdout.read() if process.stdout is not None else b""
    if toucher is not None:
        toucher.communicate()
    if process.wait() != 0:
        raise RuntimeError("the open loop failed")
    answer: dict[str, Any] = json.loads(told)
    return answer


def measure(sizes: list[tuple[int, int]], *, rate: float, seconds: float) -> dict[str, Any]:
    """Return the document."""
    document: dict[str, Any] = {"machine": machine(), "sizes": []}
    for keys, stores in sizes:
        row: dict[str, Any] = {"keys": keys, "stores": stores}
        with (
            tempfile.TemporaryDirectory(prefix="ksg") as name,
            Instance(Content(keys=keys, stores=stores)) as instance,
        ):
            environ = {**instance.environ, "LOAD_FILE": str(Path(name) / "load")}
            if seconds:
                row |= refresh_under_load(instance, rate=rate, seconds=seconds)
            for process in ("serve", "agent"):
                instance.stop(process)
            row |= _in_process("agent", environ)
            row |= _in_process("worker", environ, json.dumps(vars(instance.target)))
        print(row, file=sys.stderr)
        document["sizes"].append(row)
    return document


def faults(document: dict[str, Any]) -> list[str]:
    """Return what misses a bound."""
    first, last = document["sizes"][0], document["sizes"][-1]
    found = []
    grown = last["encrypt_us"] / first["encrypt_us"] - 1
    if grown > GROWTH_SHARE:
        found.append(f"an Encrypt takes {grown:.0%} longer with {last['keys']} keys")
    for row in document["sizes"]:
        many = f"{row['keys']} keys: "
        if row["load_s"] + row["encode_s"] > LOAD_S:
            found.append(f"{many}the agent's full load takes {row['load_s'] + row['encode_s']:.1f} s")
        if row["apply_s"] > LOAD_S:
            found.append(f"{many}a worker takes {row['apply_s']} s to apply a full load")
        if row["agent_delta_ms"] + row["worker_delta_ms"] > DELTA_S * 1000:
            found.append(
                f"{many}one changed key costs {row['agent_delta_ms'] + row['worker_delta_ms']:.0f} ms"
            )
        if row["keys"] >= 100_000 and row["kib_a_key_used"] > KEY_KIB:
            found.append(f"{many}{row['kib_a_key_used']} KiB a key")
        if row.get("p99_moves_ms", 0) > REFRESH_MS:
            found.append(f"{many}a refresh moves p99 by {row['p99_moves_ms']} ms")
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the table that people read."""
    names = {
        "keys": "keys", "stores": "stores", "encrypt_us": "Encrypt us", "load_s": "load s", "encode_s": "encode s",
        "apply_s": "apply s", "agent_delta_ms": "delta, agent ms", "worker_delta_ms": "delta, worker ms",
        "kib_a_key_fresh": "KiB a key, fresh", "kib_a_key_used": "used", "worker_mib": "worker MiB",
        "quiet_p99_ms": "p99 ms", "refresh_p99_ms": "p99 ms with refreshes",
    }  # fmt: skip
    lines = ["| " + " | ".join(names.values()) + " |", "|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in document["sizes"]]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:] == ["agent"]:
        print(json.dumps(measure_agent()))
        return
    if sys.argv[1:] == ["worker"]:
        print(json.dumps(measure_worker()))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, nargs="+", help="sizes; a store for each 100 keys")
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=15, help="of each open loop; 0: none")
    parser.add_argument("--no-bounds", action="store_true")
    wanted = parser.parse_args()
    sizes = [(keys, max(1, keys // 100)) for keys in wanted.keys] if wanted.keys else list(SIZES)
    document = measure(sizes, rate=wanted.rate, seconds=wanted.seconds)
    document["missed"] = faults(document)
    print(markdown(document), file=sys.stderr)
    print(json.dumps(document, indent=1))
    if document["missed"] and not wanted.no_bounds:
        sys.exit("; ".join(document["missed"]))


if __name__ == "__main__":
    main()
