#!/usr/bin/env python3
"""Measure what a helper process and a group of HSM members do on this machine; see docs/benchmarks.md.

Everything runs on SoftHSM tokens in a temporary folder, behind the tests' shim where a fault or a delay is wanted:

- closed loop: requests a second and latency with 1, 24 and 64 requests under way, with and without the self-decrypt;
- slow token: 5 ms on each call that returns data, 1,800 requests a second at fixed moments, p99 below 60 ms;
- failover: two members at 500 requests a second, the preferred one killed, crashed, hung; both gone;
- endpoint: the same over TLS through XKS workers, and software keys beside an HSM that hangs;
- load (only when asked for; 3 minutes): 100,000 keys that an HSM wraps, with one call of it for each key set.

Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop
from bench_hsm_endpoint import loads, while_failing
from bench_hsm_load import measure as measure_load
from bench_hsm_load import show as show_load

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hsm.softhsm import find_module
from tests.hsm.devices import Device, Workshop, workshop
from tests.hsm.endpoint import RESIDENT, SOFTWARE, endpoint
from tests.hsm.load import (
    Failover,
    Run,
    closed_loop,
    group_of,
    lose_preferred,
    open_loop,
    start,
    until,
)

PARTS = ["closed", "slow", "failover", "endpoint"]
ON_DEMAND = ["load"]
BUDGET_S = 0.12
"""The data plane's time budget of a request (KEYSTEAD_XKS_BUDGET_MS)."""
GOAL_P99_MS = 60.0
FAULTS: dict[str, Callable[[Device], None]] = {
    "SIGKILL": lambda device: device.kill(),
    "module crashes": lambda device: device.shim.tell("crash"),
    "module hangs": lambda device: device.shim.tell("hang"),
}
_missed: list[str] = []


def goal(name: str, met: bool) -> None:
    """Note whether a goal was met."""
    if not met:
        _missed.append(name)
    print(f"  {'met' if met else 'MISSED'}: {name}", flush=True)


def cpu_seconds(device: Device) -> float:
    """Return the processor time of a device's helper, from /proc."""
    if device.running is None:
        raise RuntimeError("the helper is not running")
    with open(f"/proc/{device.running.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(
    shop: Workshop, *names: str, orders: tuple[str, ...] = (), **config: object
) -> Iterator[list[Device]]:
    """Give devices whose helpers serve."""
    with shop.devices(*names) as devices:
        for each in devices:
            each.shim.tell(*orders)
            each.start(**config)
        yield devices


def row(name: str, run: Run, more: str = "") -> None:
    """Print a line of a table of docs/benchmarks.md."""
    print(
        f"| {name} | {run.rate:,.0f} | {run.percentile(0.5):.2f} | {run.percentile(0.99):.2f} | {run.worst:.1f} | "
        f"{len(run.errors)} | {more} |",
        flush=True,
    )


HEAD = "| case | requests/s | p50 ms | p99 ms | worst ms | errors | helper's CPU |\n|---|---|---|---|---|---|---|"


async def measure(device: Device, name: str, *, in_flight: int, verify: bool, seconds: float) -> Run:
    """Closed loop on one device."""
    async with group_of([device]) as (group, _):
        await closed_loop(group, in_flight=in_flight, seconds=0.3, verify=verify)  # warm
        before = cpu_seconds(device)
        run = await closed_loop(group, in_flight=in_flight, seconds=seconds, verify=verify)
        used = cpu_seconds(device) - before
    row(name, run, f"{used / run.seconds:.0%}")
    return run


async def closed(shop: Workshop, seconds: float) -> None:
    """The helper on SoftHSM itself, without the shim."""
    print(f"\n## One helper on SoftHSM, closed loop, {seconds:.0f} s each\n\n{HEAD}")
    with shop.devices("a") as [device]:
        device.start(module=device.tokens.module)
        for verify in (False, True):
            for in_flight in (1, 24, 64):
                name = f"{in_flight} in flight, {'with' if verify else 'without'} self-decrypt"
                run = await measure(device, name, in_flight=in_flight, verify=verify, seconds=seconds)
                if run.errors:
                    goal(f"{name}: no error (got {run.errors[0].error})", False)


async def slow(shop: Workshop, seconds: float, rate: float) -> None:
    """A token with 5 ms a call, at fixed moments."""
    print(
        f"\n## A token that takes 5 ms more for each C_Encrypt, C_Decrypt and C_GenerateRandom that returns data\n\n{HEAD}"
    )
    with started(shop, "a", orders=("slow_us 5000",)) as [device]:
        async with group_of([device]) as (group, _):
            await closed_loop(group, in_flight=32, seconds=0.5)
            before = cpu_seconds(device)
            async with open_loop(group, rate=rate, budget_s=BUDGET_S) as run:
                await asyncio.sleep(seconds)
            used = cpu_seconds(device) - before
        row(f"open loop, {rate:,.0f}/s for {seconds:.0f} s", run, f"{used / run.seconds:.0%}")
        run_24 = await measure(device, "24 in flight", in_flight=24, verify=True, seconds=min(5, seconds))
        run_64 = await measure(device, "64 in flight", in_flight=64, verify=True, seconds=min(5, seconds))
    print()
    if run.errors:
        print(f"  first error: {run.errors[0].error}")
    goal(f"{rate:,.0f}/s, no error", not run.errors)
    goal(f"p99 {run.percentile(0.99):.1f} ms < {GOAL_P99_MS:.0f} ms", run.percentile(0.99) < GOAL_P99_MS)
    goal("closed loops without errors", not run_24.errors + run_64.errors)


def failover_row(name: str, found: Failover) -> None:
    """Print a line of the table of failovers."""
    run = found.run
    print(
        f"| {name} | {len(run.requests):,} | {len(run.errors)} | {found.routed_ms:.0f} | {found.refused} | {run.worst:.0f} | "
        f"{found.ended_ms:.0f} | {found.restart_ms:.0f} | {found.return_ms:.0f} | {found.back_ms:.0f} |",
        flush=True,
    )


async def failover(shop: Workshop, rate: float) -> None:
    """The preferred of two members fails under load and returns."""
    print(
        f"\n## Two members, {rate:,.0f} requests/s, budget {BUDGET_S * 1000:.0f} ms: the preferred one fails and is started "
        "again\n\n"
        "| fault | requests | errors | routed around after ms | attempts made again | slowest answer ms | helper ended after ms | "
        "new helper ready in ms | its first answer after ms | it answers all again after ms |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, fault in FAULTS.items():
        with started(shop, "a", "b", deadline_s=2.0) as devices:
            found = await lose_preferred(
                devices, fault, rate=rate, budget_s=BUDGET_S, away_s=1.0, calm_s=2.0, deadline_s=2.0
            )
        failover_row(name, found)
        if found.run.errors:
            print(f"  first error: {found.run.errors[0].error}")
        if found.run.errors:
            goal(f"{name}: no error", False)


async def both(shop: Workshop, rate: float) -> None:
    """Both members gone and back."""
    with started(shop, "a", "b") as devices:
        async with (
            group_of(devices) as (group, members),
            open_loop(group, rate=rate, budget_s=BUDGET_S) as run,
        ):
            await asyncio.sleep(1)
            killed = time.monotonic()
            for each in devices:
                each.kill()
            await asyncio.sleep(2)
            answers = sum(len(each.answered) for each in members)
            ready = await start(devices[0])
            back = await until(lambda: sum(len(each.answered) for each in members) > answers)
            await start(devices[1])
            await asyncio.sleep(2)
    waits = sorted(each.took_ms for each in run.errors)
    last = max(each.due for each in run.errors)
    print(
        f"\nBoth members killed at {rate:,.0f}/s for 2 s: {len(run.errors):,} refused, p99 {waits[int(len(waits) * 0.99)]:.1f} ms, "
        f"slowest {waits[-1]:.0f} ms; the first answer {(back - ready) * 1000:.0f} ms after one of them was ready again, the last "
        f"refusal {(last - ready) * 1000:.0f} ms after (in all {last - killed:.1f} s), nothing restarted."
    )
    goal("refused within the budget", waits[-1] < BUDGET_S * 1000)
    goal("recovered by itself within a second of a member's return", back - ready < 1.0)


async def cost_of_a_start(shop: Workshop) -> None:
    """How long a helper takes to be ready."""
    with shop.devices("a") as [device]:
        taken = []
        for _ in range(5):
            began = time.monotonic()
            device.start()
            taken.append((time.monotonic() - began) * 1000)
            device.stop()
    print(
        f"\nA helper is ready {sorted(taken)[2]:.0f} ms after its start (median of 5; {min(taken):.0f} to {max(taken):.0f})."
    )


def endpoint_row(name: str, found: dict[str, Any]) -> None:
    """Print a line of the endpoint's table."""
    refused = {status: count for status, count in found["statuses"].items() if status != "200"}
    print(
        f"| {name} | {found['requests']:,} | {found['answered']:,} | {refused or 0} | {found['p50_ms']:.1f} | "
        f"{found['p99_ms']:.1f} | {found['max_ms']:.0f} | {found['sent_late_p99_ms']:.1f} |",
        flush=True,
    )


def at_the_endpoint(shop: Workshop, options: argparse.Namespace) -> None:
    """The same over TLS, as KMS would ask: slow token; loss of one member and of both; software keys beside a hung HSM."""
    print(
        "\n## At the XKS endpoint: TLS, 2 workers, open loop over 64 connections, each Encrypt with CDIV (so decrypted again "
        "in the HSM)\n\n| case | requests | answered | others | p50 ms | p99 ms | worst ms | sent late, p99 ms |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    with started(shop, "a", orders=("slow_us 5000",)) as devices, endpoint(devices) as serving:
        loads(serving, 2, {RESIDENT: 500})  # warm
        found = loads(serving, options.slow_seconds, {RESIDENT: options.slow_rate})[RESIDENT]
        endpoint_row(f"token with 5 ms a call, {options.slow_rate:,.0f}/s", found)
        slow_found = found
    lost: list[tuple[str, dict[str, Any]]] = []
    for name, fault in FAULTS.items():
        with started(shop, "a", "b", deadline_s=2.0) as devices, endpoint(devices) as serving:
            loads(serving, 1, {RESIDENT: 200})
            found = while_failing(serving, RESIDENT, devices[:1], fault, rate=options.rate, seconds=9)[
                RESIDENT
            ]
        lost.append((name, found))
        endpoint_row(f"two members, {options.rate:,.0f}/s, the preferred one: {name}, back after 3 s", found)
    with started(shop, "a", "b", deadline_s=10.0) as devices, endpoint(devices) as serving:
        loads(serving, 1, {RESIDENT: 200})
        alone = loads(serving, 6, {SOFTWARE: 800.0})[SOFTWARE]
        endpoint_row("software key, 800/s, nothing beside", alone)
        both_found = while_failing(
            serving,
            RESIDENT,
            devices,
            FAULTS["module hangs"],
            rate=options.rate,
            seconds=9,
            others={SOFTWARE: 800.0},
        )
        endpoint_row("software key, 800/s, while", both_found[SOFTWARE])
        endpoint_row(f"both members hang for 3 s of 9, {options.rate:,.0f}/s", both_found[RESIDENT])
    print()
    goal(f"{options.slow_rate:,.0f}/s on a slow token: no error", slow_found["errors"] == 0)
    goal(f"p99 {slow_found['p99_ms']:.1f} ms < {GOAL_P99_MS:.0f} ms", slow_found["p99_ms"] < GOAL_P99_MS)
    for name, found in lost:
        goal(f"{name}: no error", found["errors"] == 0)
    goal("software keys: no error while the HSM hangs", both_found[SOFTWARE]["errors"] == 0)
    goal(
        "resident keys: nothing but 200, 429 and 503",
        set(both_found[RESIDENT]["statuses"]) <= {"200", "429", "503"},
    )


def load(options: argparse.Namespace) -> None:
    """Very many keys that an HSM wraps."""
    found = measure_load(keys=options.keys, key_sets=options.key_sets, rate=options.rate, seconds=15.0)
    show_load(found)
    print()
    for name in ("first", "reload"):
        goal(f"{name}: one call a key set", found[name]["hsm_calls"] == options.key_sets)
    goal(
        "no call for a request", found["requests"]["hsm_decrypts"] <= 2 + found["requests"]["elapsed_s"] / 15
    )
    during = found["during_reload"]
    goal("the load under requests ended before they did", during["ended_before_the_loop"])
    goal("every request answered while keys load", during["errors"] == 0)


async def run(options: argparse.Namespace) -> None:
    """Run the parts that were asked for."""
    if not {"closed", "slow", "failover"} & set(options.only):
        return
    with workshop() as shop:
        if "closed" in options.only:
            await closed(shop, options.seconds)
        if "slow" in options.only:
            await slow(shop, options.slow_seconds, options.slow_rate)
        if "failover" in options.only:
            await failover(shop, options.rate)
            await both(shop, options.rate)
            await cost_of_a_start(shop)


def main() -> int:
    """Parse arguments, measure, print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *ON_DEMAND], default=PARTS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each closed loop (5)")
    parser.add_argument(
        "--slow-seconds", type=float, default=20.0, help="of the open loop on the slow token (20)"
    )
    parser.add_argument(
        "--slow-rate", type=float, default=1800.0, help="requests a second on the slow token (1,800)"
    )
    parser.add_argument(
        "--rate", type=float, default=500.0, help="requests a second while members fail (500)"
    )
    parser.add_argument("--keys", type=int, default=100_000, help="of the load (100,000)")
    parser.add_argument("--key-sets", type=int, default=1_000, help="of the load (1,000)")
    options = parser.parse_args()
    if find_module() is None:
        print("SoftHSM is not installed (Debian: softhsm2)", file=sys.stderr)
        return 2
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"Keystead {revision or 'unknown'}, Python {sys.version.split()[0]}, {os.cpu_count()} processors")
    uvloop.run(run(options))
    if "endpoint" in options.only:
        with workshop() as shop:
            at_the_endpoint(shop, options)
    if "load" in options.only:
        load(options)
    return 1 if _missed else 0


if __name__ == "__main__":
    sys.exit(main())
