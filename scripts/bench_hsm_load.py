"""Loading very many keys that an HSM wraps: one call for each key set, none for a request, and requests are answered meanwhile.

``make bench-hsm ARGS="--only load"``; an instance of its own with a keeper, an agent, workers, and a SoftHSM token.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_xks_instance import Content, Instance
from bench_xks_load import resident_kib, start_open_loop

from hsm import wire
from hsm.client import SyncMember

_LOADED = re.compile(
    r"loaded everything .*hsm_calls=(\d+) hsm_seconds=([\d.]+) .*?key_sets_without_hsm=(\d+) keys=(\d+) seconds=([\d.]+)"
)
PATIENCE_S = 120.0


def loads_of(instance: Instance) -> list[dict[str, float]]:
    """Return what the agent's log tells of its full loads."""
    text = (instance.folder / "agent.log").read_text("utf-8", "replace")
    return [
        {
            "hsm_calls": int(found[1]),
            "hsm_s": float(found[2]),
            "key_sets_without_hsm": int(found[3]),
            "keys": int(found[4]),
            "seconds": float(found[5]),
        }
        for found in _LOADED.finditer(text)
    ]


def decrypts(instance: Instance) -> int:
    """Return how often the helper has decrypted so far, whoever asked."""
    [path] = (instance.folder / "var" / "run" / "hsm").glob("*.sock")
    member = SyncMember("bench", str(path))
    try:
        told = member.call(wire.Status(0), timeout_s=5).info or {}
    finally:
        member.close()
    return int(told["counters"]["decrypts"])


def _helper_kib(instance: Instance) -> int:
    tasks = Path(f"/proc/{instance.processes['keeper'].pid}/task").iterdir()
    children = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    return sum(resident_kib(pid) for pid in children)


def _peak_kib(pid: int) -> int:
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1])


def measure(*, keys: int, key_sets: int, rate: float, seconds: float) -> dict[str, Any]:
    """Fill, load, send requests, load once more while they go on; return the figures."""
    began = time.monotonic()
    with Instance(Content(keys=keys, stores=key_sets, protection="hsm-wrapped")) as instance:
        ready_s = time.monotonic() - began
        [first] = loads_of(instance)
        document: dict[str, Any] = {
            "keys": keys,
            "key_sets": key_sets,
            "filled_and_ready_s": round(ready_s, 1),
        }
        document["first"] = first
        document["memory_kib"] = {**instance.memory_kib(), "helper": _helper_kib(instance)}
        document["agent_peak_kib"] = _peak_kib(instance.processes["agent"].pid)

        before, at = decrypts(instance), time.monotonic()
        document["requests"] = _answer(
            start_open_loop(instance.target, rate=rate, seconds=seconds, connections=16)
        )
        document["requests"]["hsm_decrypts"] = decrypts(instance) - before
        document["requests"]["elapsed_s"] = round(time.monotonic() - at, 1)

        before = decrypts(instance)
        loop = start_open_loop(instance.target, rate=rate, seconds=seconds, connections=16)
        time.sleep(0.3)
        instance.stop("agent")
        instance.start("agent")
        ends = time.monotonic() + PATIENCE_S
        while len(loads_of(instance)) < 2:
            if time.monotonic() > ends:
                raise SystemExit(f"the agent does not load again:\n{instance.logs()}")
            time.sleep(0.05)
        loaded_before_the_end = loop.poll() is None
        document["reload"] = loads_of(instance)[1]
        document["during_reload"] = _answer(loop)
        document["during_reload"]["ended_before_the_loop"] = loaded_before_the_end
        document["during_reload"]["hsm_decrypts"] = decrypts(instance) - before
    return document


def _answer(process: Any) -> dict[str, Any]:
    said = process.stdout.read()
    process.stdout.close()
    if process.wait() != 0:
        raise RuntimeError("the open loop failed")
    answer: dict[str, Any] = json.loads(said)
    return answer


def _others(loop: dict[str, Any]) -> str:
    return (
        ", ".join(f"{count} x {status}" for status, count in loop["statuses"].items() if status != "200")
        or "0"
    )


def show(found: dict[str, Any]) -> None:
    """Print what docs/benchmarks.md shows."""
    memory = {name: f"{kib / 1024:.0f} MiB" for name, kib in found["memory_kib"].items()}
    print(
        f"\n## {found['keys']:,} hsm-wrapped keys in {found['key_sets']:,} key sets (filled, loaded and ready after "
        f"{found['filled_and_ready_s']} s)\n\n"
        "| load | keys | seconds | calls of the HSM | seconds in them | requests meanwhile | not 200 | p50 ms | p99 ms | worst ms |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, load, loop in (
        ("first", found["first"], None),
        ("again, agent started afresh under requests", found["reload"], found["during_reload"]),
    ):
        told = (
            [f"{loop['requests']:,}", _others(loop), loop["p50_ms"], loop["p99_ms"], loop["max_ms"]]
            if loop is not None
            else [""] * 5
        )
        cells = [name, f"{load['keys']:,}", load["seconds"], f"{load['hsm_calls']:,}", load["hsm_s"], *told]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    quiet = found["requests"]
    print(
        f"\nWithout a load: {quiet['requests']:,} requests, {_others(quiet)} not 200, p50 {quiet['p50_ms']}, p99 "
        f"{quiet['p99_ms']} ms; the helper decrypted {quiet['hsm_decrypts']} times in these {quiet['elapsed_s']} s (the "
        f"keeper's health checks). Memory: {memory}, the agent's peak {found['agent_peak_kib'] / 1024:.0f} MiB."
    )
