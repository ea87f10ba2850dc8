"""What becomes of requests beyond what the endpoint can take: are those let in still fast, and the others refused soon?

Starts its own server (TLS, two workers) with an agent that says what is to be served, and drives it with h2load:

* closed loop at some connections and at five times as many: answered requests a second must stay near;
* open loop at twice a store's rate limit: the limit must be used, and everything else get 429 at once.

Prints a Markdown table, or one JSON document with --json. Exits 1 when a bound is missed (--no-bounds: never).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.xks import world  # noqa: E402
from tests.xks.fake_agent import FakeAgent  # noqa: E402
from tests.xks.test_server import free_port  # noqa: E402
from xks import wire  # noqa: E402
from xks.server import clean_environment  # noqa: E402

SOON_MS = 250.0
SHARE = 0.9
WORKERS = 2


@dataclass
class Run:
    """What one run saw; milliseconds."""

    name: str
    seconds: float
    answered: int
    refused: int
    failed: int
    answered_per_s: float
    answered_p50: float
    answered_p99: float
    refused_p99: float
    refused_max: float


def percentile(values: list[float], share: float) -> float:
    """Return the value below which that share lies, 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def load(
    name: str, port: int, folder: Path, *, connections: int, seconds: int, rate: float | None = None
) -> Run:
    """Send one signed Encrypt over and over; ``rate`` is requests a second in all, None for as fast as answered."""
    path, raw = world.path("encrypt"), world.dumped(world.encrypt_body(b"x" * 32, b"a" * 64))
    body, log = folder / "body.json", folder / "log.tsv"
    body.write_bytes(raw)
    log.unlink(missing_ok=True)
    headers = {**world.sign(path, raw, host=f"localhost:{port}"), "content-type": "application/json"}
    command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{seconds}", "--warm-up-time=1", f"-d{body}"]
    command += [f"--log-file={log}", *(f"-H{key}: {value}" for key, value in headers.items())]
    if rate is not None:
        command.append(f"--rps={rate / connections:.3f}")
    done = subprocess.run(
        [*command, f"https://localhost:{port}{path}"], capture_output=True, text=True, check=True
    )
    times: dict[int, list[float]] = {}
    for line in log.read_text().splitlines():
        _, status, microseconds = line.split("\t")
        times.setdefault(int(status), []).append(int(microseconds) / 1000)
    answered = times.pop(200, [])
    refused = [value for status in (429, 503) for value in times.pop(status, [])]
    failed = sum(len(values) for values in times.values())
    if not answered:
        raise SystemExit(f"nothing was answered:\n{done.stdout}")
    return Run(
        name,
        float(seconds),
        len(answered),
        len(refused),
        failed,
        round(len(answered) / seconds, 1),
        round(statistics.median(answered), 2),
        round(percentile(answered, 0.99), 2),
        round(percentile(refused, 0.99), 2),
        round(max(refused, default=0.0), 2),
    )


def measure(connections: int, seconds: int) -> tuple[list[Run], float]:
    """Return the runs, and the rate limit of those that have one."""
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        folder, port = Path(name), free_port()
        (folder / "run").mkdir(mode=0o700)
        with FakeAgent(folder / "run" / "xks.sock") as agent:
            agent.greeting = lambda hello: [*world.full_load(), world.lease(1, 3600, counted_workers=WORKERS)]
            environ = {
                **clean_environment(os.environ),
                "KEYSTEAD_DATA_DIR": name,
                "KEYSTEAD_XKS_PORT": str(port),
                "KEYSTEAD_XKS_WORKERS": str(WORKERS),
            }
            server = subprocess.Popen(
                [sys.executable, "-m", "xks.server"],
                cwd=ROOT,
                env=environ,
                stdout=sys.stderr,
                stderr=sys.stderr,
            )
            try:
                agent.wait_applied(1, workers=WORKERS)
                runs = [
                    load(f"{count} connections", port, folder, connections=count, seconds=seconds)
                    for count in (connections, 5 * connections)
                ]
                limit = round(runs[0].answered_per_s / 4)
                store = msgspec.structs.replace(world.STORES[0], rate_per_s=float(limit))
                agent.send(wire.Delta(2, False, True, stores=[store]))
                agent.wait_applied(2, workers=WORKERS)
                twice = 2.0 * limit
                runs.append(
                    load(
                        f"limit {limit}/s, offered {2 * limit}/s", port, folder, connections=connections,
                        seconds=seconds, rate=twice,
                    )
                )  # fmt: skip
                return runs, float(limit)
            finally:
                server.terminate()
                server.wait()


def faults(runs: list[Run], limit: float) -> list[str]:
    """Return what misses a bound."""
    peak, crowd, limited = runs
    found = []
    if crowd.answered_per_s < SHARE * peak.answered_per_s:
        found.append(
            f"five times the connections: only {crowd.answered_per_s / peak.answered_per_s:.0%} of the peak"
        )
    if not SHARE * limit <= limited.answered_per_s <= 1.2 * limit:
        found.append(f"a limit of {limit}/s let {limited.answered_per_s}/s through")
    for run in runs:
        if run.refused_max > SOON_MS:
            found.append(f"{run.name}: a refusal took {run.refused_max} ms")
        if run.failed:
            found.append(f"{run.name}: {run.failed} answers were neither 200, 429 nor 503")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-bounds", action="store_true")
    wanted = parser.parse_args()
    runs, limit = measure(wanted.connections, wanted.seconds)
    missed = faults(runs, limit)
    if wanted.json:
        print(json.dumps({"limit_per_s": limit, "runs": [asdict(run) for run in runs], "missed": missed}))
    else:
        print("| run | answered/s | p50 ms | p99 ms | refused | refused p99 ms | refused max ms | failed |")
        print("|---|---|---|---|---|---|---|---|")
        for run in runs:
            print(
                f"| {run.name} | {run.answered_per_s} | {run.answered_p50} | {run.answered_p99} | {run.refused} |"
                f" {run.refused_p99} | {run.refused_max} | {run.failed} |"
            )
    if missed and not wanted.no_bounds:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
