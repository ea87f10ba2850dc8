"""How fast the XKS endpoint is: Encrypt, Decrypt and health under closed loops, and Encrypt in an open loop.

Starts an agent and an XKS server of its own (TLS, journal, access rules, 10,000 keys, two workers) in a temporary
folder. PEER=url,prefix,access key id,secret,key measures another XKS proxy beside it, in turns (ours, theirs, ours,
theirs), and tells the ratios. PROTECTION=hsm-resident (or hsm-wrapped) has its keys, then ten, in a SoftHSM token of
its own, as AWS's reference proxy has. GROWTH=1 measures growth instead (bench_growth.py). LONG=1 makes the open loop 600 s.

Prints a Markdown table to standard error and one JSON document to standard output (--output FILE: there as well).
Needs wrk and h2load (Debian: wrk, nghttp2-client).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_xks_instance import Content, Instance
from bench_xks_load import (
    Operation,
    Run,
    Target,
    ToolMissing,
    listening_pids,
    requests_for,
    resident_kib,
    run_h2load,
    run_wrk,
    start_open_loop,
)

CONNECTIONS = (1, 24, 64)
CASES: tuple[tuple[Operation, int], ...] = (
    ("encrypt", 32),
    ("encrypt", 4096),
    ("decrypt", 32),
    ("decrypt", 4096),
    ("health", 0),
)
RATE = 1800.0
OPEN_CONNECTIONS = 64
OPEN_S, LONG_S = 60.0, 600.0
WARM_UP_S = 1.0
GOALS = {1: None, 24: 2.0, 64: 3.0}
"""Encrypt requests/s over the peer's, by connections."""


def machine() -> dict[str, Any]:
    """What this ran on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def measure_case(
    targets: list[Target],
    operation: Operation,
    size: int,
    connections: int,
    *,
    seconds: float,
    rounds: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """Measure each target in turns; return a row for each, with the single runs."""
    runs: dict[str, list[Run]] = {target.name: [] for target in targets}
    requests = {target.name: requests_for(target, operation, size) for target in targets}
    for _ in range(rounds):
        for target in targets:
            ready = requests[target.name]
            run_wrk(target, ready, folder, connections=connections, seconds=WARM_UP_S)
            runs[target.name].append(run_wrk(target, ready, folder, connections=connections, seconds=seconds))
    return [
        {
            "target": name,
            "operation": operation,
            "plaintext_bytes": size,
            "connections": connections,
            **asdict(Run.median(found)),
            "runs": [asdict(run) for run in found],
        }
        for name, found in runs.items()
    ]


def measure_h2load(targets: list[Target], *, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """The same Encrypt by h2load, over HTTP/1.1 and HTTP/2."""
    rows = []
    for http2 in (False, True):
        for target in targets:
            request = requests_for(target, "encrypt", 32, 1)[0]
            try:
                run = run_h2load(target, request, folder, connections=24, seconds=seconds, http2=http2)
            except RuntimeError as error:
                rows.append(
                    {
                        "target": target.name,
                        "tool": "h2load h2" if http2 else "h2load h1",
                        "failed": str(error)[:300],
                    }
                )
            else:
                rows.append(
                    {
                        "target": target.name, "operation": "encrypt", "plaintext_bytes": 32, "connections": 24,
                        **asdict(run),
                    }
                )  # fmt: skip
    return rows


def measure_open_loop(
    target: Target, instance: Instance | None, *, rate: float, seconds: float
) -> dict[str, Any]:
    """Run the open loop, memory being looked at every few seconds."""
    process = start_open_loop(target, rate=rate, seconds=seconds, connections=OPEN_CONNECTIONS)
    memory: list[int] = []
    every = max(0.5, seconds / 60)
    while process.poll() is None:
        time.sleep(every)
        memory.append(resident(target, instance))
    told = process.stdout.read() if process.stdout is not None else b""
    if process.returncode != 0:
        raise RuntimeError("the open loop failed")
    return {
        "target": target.name,
        **json.loads(told),
        "connections": OPEN_CONNECTIONS,
        "rss_kib_begin": memory[len(memory) // 10] if memory else 0,
        "rss_kib_end": memory[-2] if len(memory) > 1 else 0,
        "rss_kib_max": max(memory, default=0),
    }


def resident(target: Target, instance: Instance | None) -> int:
    """Return the KiB of all processes that serve the target, 0 when they cannot be seen."""
    if instance is not None:
        return instance.memory_kib()["server"]
    return sum(resident_kib(pid) for pid in listening_pids(target.port))


def ratios(rows: list[dict[str, Any]], peer: str) -> list[dict[str, Any]]:
    """Return ours over the peer's for each case that both ran."""
    found = []
    for ours in rows:
        if ours["target"] == peer or "failed" in ours:
            continue
        what = ("operation", "plaintext_bytes", "connections", "tool")
        for theirs in rows:
            if (
                theirs["target"] != peer
                or "failed" in theirs
                or any(ours[name] != theirs[name] for name in what)
            ):
                continue
            found.append(
                {
                    **{name: ours[name] for name in what},
                    "requests_per_s": round(ours["requests_per_s"] / theirs["requests_per_s"], 2),
                    **{
                        name: round(ours[name] / theirs[name], 2) if theirs[name] else None
                        for name in ("p50_ms", "p99_ms", "p999_ms")
                    },
                }
            )
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the tables that people read."""
    lines = [
        "| target | operation | plaintext | connections | tool | requests/s | p50 ms | p99 ms | p99.9 ms | errors | RSS MiB |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in document["closed_loop"]:
        if "failed" in row:
            continue
        memory = row.get("rss_kib", 0) / 1024
        lines.append(
            f"| {row['target']} | {row['operation']} | {row['plaintext_bytes'] or ''} | {row['connections']} |"
            f" {row['tool']} | {row['requests_per_s']:,.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} |"
            f" {row['p999_ms']:.2f} | {row['errors']} | {f'{memory:.0f}' if memory else ''} |"
        )
    if document["open_loop"]:
        lines += [
            "",
            "| open loop | requests/s | seconds | p50 ms | p99 ms | p99.9 ms | max ms | errors | sent late p99 ms | RSS MiB begin, end |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['target']} | {row['rate']:,.0f} | {row['seconds']:.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} |"
            f" {row['p999_ms']:.2f} | {row['max_ms']:.2f} | {row['errors']} | {row['sent_late_p99_ms']:.2f} |"
            f" {row['rss_kib_begin'] / 1024:.0f}, {row['rss_kib_end'] / 1024:.0f} |"
            for row in document["open_loop"]
        ]
    if document["ratios"]:
        lines += [
            "",
            "| ours / peer | plaintext | connections | tool | requests/s | p50 | p99 | p99.9 |",
            "|---|---:|---:|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['operation']} | {row['plaintext_bytes'] or ''} | {row['connections']} | {row['tool']} |"
            f" {row['requests_per_s']} | {row['p50_ms']} | {row['p99_ms']} | {row['p999_ms']} |"
            for row in document["ratios"]
        ]
    return "\n".join(lines)


def measure(wanted: argparse.Namespace) -> dict[str, Any]:
    """Return the document."""
    began = time.monotonic()
    document: dict[str, Any] = {
        "machine": machine(),
        "instance": {
            "keys": wanted.keys, "workers": wanted.workers, "journal": wanted.sync, "tls": True, "rules": True,
            "protection": wanted.protection,
        },
        "closed_loop": [],
        "open_loop": [],
        "ratios": [],
    }  # fmt: skip
    peer = Target.from_text(wanted.peer) if wanted.peer else None
    content = Content(keys=wanted.keys, protection=wanted.protection)
    with (
        tempfile.TemporaryDirectory(prefix="ksb") as name,
        Instance(content, workers=wanted.workers, sync=wanted.sync) as instance,
    ):
        folder = Path(name)
        targets = [instance.target, *([peer] if peer is not None else [])]
        owners = {instance.target.name: instance}
        rows = document["closed_loop"]
        document["instance"]["rss_kib_loaded"] = instance.memory_kib()
        for operation, size in CASES:
            if operation not in wanted.operations or size not in (*wanted.sizes, 0):
                continue
            for connections in wanted.connections:
                told = measure_case(
                    targets, operation, size, connections, seconds=wanted.seconds, rounds=wanted.rounds,
                    folder=folder,
                )  # fmt: skip
                for row, target in zip(told, targets, strict=True):
                    row["rss_kib"] = resident(target, owners.get(target.name))
                    print(
                        f"{row['target']} {operation} {size} B, {connections} connections:"
                        f" {row['requests_per_s']:,.0f}/s p50 {row['p50_ms']} p99 {row['p99_ms']} ms,"
                        f" {row['errors']} errors",
                        file=sys.stderr,
                    )
                rows += told
        if wanted.h2load:
            rows += measure_h2load(targets, seconds=wanted.seconds, folder=folder)
        if wanted.open_seconds:
            for target in targets:
                document["open_loop"].append(
                    measure_open_loop(
                        target, owners.get(target.name), rate=wanted.rate, seconds=wanted.open_seconds
                    )
                )
        document["instance"]["rss_kib_used"] = instance.memory_kib()
    if peer is not None:
        document["ratios"] = ratios(document["closed_loop"], peer.name)
    document["took_s"] = round(time.monotonic() - began, 1)
    return document


def arguments() -> argparse.Namespace:
    """Return what is wanted, by the command line and the environment."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", default=os.environ.get("PEER", ""), help="url,prefix,akid,secret,key")
    parser.add_argument(
        "--protection",
        choices=("software", "hsm-wrapped", "hsm-resident"),
        default=os.environ.get("PROTECTION") or "software",
    )
    parser.add_argument("--keys", type=int, help="10,000; 10 when they live in an HSM")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sync", choices=("write", "group"), default="write")
    parser.add_argument("--seconds", type=float, default=5, help="of each closed loop")
    parser.add_argument("--rounds", type=int, help="of each closed loop; 2 with a peer, else 1")
    parser.add_argument("--connections", type=int, nargs="+", default=list(CONNECTIONS))
    parser.add_argument(
        "--operations",
        nargs="+",
        choices=("encrypt", "decrypt", "health"),
        default=["encrypt", "decrypt", "health"],
    )
    parser.add_argument("--sizes", type=int, nargs="+", choices=(32, 4096), default=[32, 4096])
    parser.add_argument("--no-h2load", dest="h2load", action="store_false")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument(
        "--open-seconds",
        type=float,
        default=LONG_S if os.environ.get("LONG") == "1" else OPEN_S,
        help="0: none",
    )
    parser.add_argument("--smoke", action="store_true", help="everything once, as short as it goes")
    parser.add_argument("--output", type=Path)
    wanted = parser.parse_args()
    if wanted.rounds is None:
        wanted.rounds = 2 if wanted.peer else 1
    if wanted.keys is None:
        wanted.keys = 10 if wanted.protection == "hsm-resident" else 10_000
    if wanted.smoke:
        wanted.keys, wanted.seconds, wanted.connections = min(wanted.keys, 50), 1, [4]
        wanted.open_seconds, wanted.rate = 2, 100.0
    return wanted


def main() -> None:
    """Measure and print."""
    wanted = arguments()
    try:
        document = measure(wanted)
    except (ToolMissing, ValueError) as error:
        sys.exit(str(error))
    text = json.dumps(document, indent=1)
    if wanted.output is not None:
        wanted.output.write_text(text + "\n")
    print(markdown(document), file=sys.stderr)
    print(text)


if __name__ == "__main__":
    main()
