"""How fast a disable takes effect under load, with notifications and with every one of them lost.

    bench_kill_switch.py [--switches N] [--clients N] [--only notified|lost] [--json FILE] [--markdown FILE]

On the database of KEYSTEAD_DATABASE_URL, else SQLite: an agent, an XKS server with two workers, and a process that disables
and enables one key, while clients encrypt with it as fast as they are answered. For each disable: the milliseconds from the commit to
the last answer that a client *received* with a result (later than when the worker decided), and whether any was sent after all workers
had confirmed and still got a result. That must never be; the program then exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT))

from bench_xks_instance import Content, Instance  # noqa: E402
from bench_xks_load import Target, raw_request, requests_for, tls_context  # noqa: E402
from bench_xks_open import Connection  # noqa: E402

LIMITS_MS = {"notified": 100.0, "every notification lost": 600.0}
PAUSE_S = 0.15


class KillInstance(Instance):
    """The agent hears of commits, or (``deaf``) of none."""

    deaf = False

    def start(self, name: str, *command: str) -> None:
        """Start it; a deaf agent is this program."""
        if name != "agent" or not self.deaf:
            super().start(name, *command)
            return
        with (self.folder / "agent.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", __file__, "deaf-agent"],
                cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip


class Client(threading.Thread):
    """Encrypts with one key as fast as it is answered; keeps (sent, received) of what got a result."""

    def __init__(self, target: Target, enough: threading.Event) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._enough = enough
        self.accepted: list[tuple[float, float]] = []
        self.refused = 0
        self.errors: dict[str, int] = {}

    def run(self) -> None:
        """Until told."""
        import select

        connection = Connection(self._target, tls_context())
        unsigned = requests_for(self._target, "encrypt", 32, 1)[0]
        signed_at, data = 0.0, b""
        while not self._enough.is_set():
            sent = time.monotonic()
            if sent - signed_at > 30:
                signed_at, data = sent, raw_request(self._target, unsigned, datetime.now(UTC))
            try:
                connection.send(data, sent)
                status = None
                while status is None:
                    select.select([connection], [], [], 1)
                    status = connection.read()
            except OSError as error:
                self.errors[type(error).__name__] = self.errors.get(type(error).__name__, 0) + 1
                connection.socket.close()
                connection = Connection(self._target, tls_context())
                continue
            if status == 200:
                self.accepted.append((sent, time.monotonic()))
            elif status == 400:
                self.refused += 1
            else:
                self.errors[str(status)] = self.errors.get(str(status), 0) + 1
        connection.socket.close()


def deaf_agent() -> None:
    """Run the agent with a watch that never hears anything: what is left is its poll."""
    import django

    django.setup()
    from xks import agent_reader

    class Deaf:
        def __init__(self) -> None:
            self._woken = threading.Event()

        def wait(self, seconds: float) -> None:
            self._woken.wait(seconds)

        def wake(self) -> None:
            self._woken.set()

        def reset(self) -> None:
            return

        def close(self) -> None:
            return

    agent_reader.new_watch = Deaf  # type: ignore[assignment]
    from vault.cli import main

    main(["xks", "agent"])


def drive(external_key_id: str, switches: int) -> None:
    """Disable and enable so often; print when each disable was committed and confirmed, as JSON."""
    import django

    django.setup()
    from django.db import transaction

    from cloudkeys.models import CloudKey
    from cloudkeys.services.lifecycle import disable_cloud_key, enable_cloud_key
    from vault.actions import Action
    from vault.actors import Actor
    from vault.services.confirmations import confirm_switch

    actor = Actor.system("cli", "benchmark")
    key = CloudKey.objects.get(external_key_id=external_key_id)
    for number in range(switches):
        committed: list[float] = []
        actor.before_commit = [
            lambda tx, c=committed: transaction.on_commit(lambda: c.append(time.monotonic()))
        ]
        done = disable_cloud_key(actor, key.pk, reason="benchmark")
        actor.before_commit = []
        confirmation = confirm_switch(actor, Action.CLOUD_KEY_DISABLE, done.key, done.generation)
        confirmed = time.monotonic()
        if confirmation is None:
            raise SystemExit("the switch changed nothing")
        time.sleep(PAUSE_S)
        enable_cloud_key(actor, key.pk, reason="benchmark")
        opened = time.monotonic()
        print(
            json.dumps(
                {
                    "committed": committed[0],
                    "confirmed": confirmed if confirmation.complete else None,
                    "opened": opened,
                    "ms": confirmation.milliseconds,
                    "counted": confirmation.counted,
                }
            ),
            flush=True,
        )
        # Not in step with the poll.
        time.sleep(PAUSE_S + (number * 0.0371) % 0.5)


def measure(deaf: bool, switches: int, clients: int, settings: dict[str, str]) -> dict[str, Any]:
    """Run once."""
    instance = KillInstance(content=Content(keys=1), settings=settings)
    instance.deaf = deaf
    with instance:
        enough = threading.Event()
        threads = [Client(instance.target, enough) for _ in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        began = time.monotonic()
        driven = subprocess.run(
            [sys.executable, __file__, "drive", instance.target.keys[0], str(switches)],
            env=instance.environ, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        took = time.monotonic() - began
        enough.set()
        for thread in threads:
            thread.join(5)
        proof = subprocess.run(
            [sys.executable, "-P", "-m", "vault.cli", "audit", "prove-disable", instance.target.keys[0], "--json"],
            env=instance.environ, cwd=instance.folder, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        verdict = (
            json.loads(proof.stdout)["verdict"]
            if proof.stdout.startswith("{")
            else f"exit {proof.returncode}"
        )
    rows = [json.loads(line) for line in driven.stdout.splitlines() if line.startswith("{")]
    accepted = sorted((pair for thread in threads for pair in thread.accepted), key=lambda pair: pair[1])
    return {**judge(rows, accepted), "seconds": round(took, 1), "refused": sum(t.refused for t in threads),
            "errors": {k: v for t in threads for k, v in t.errors.items()}, "last_switch_proof": verdict}  # fmt: skip


def judge(rows: list[dict[str, Any]], accepted: list[tuple[float, float]]) -> dict[str, Any]:
    """From commit to the last answer with a result; and what got one though it was sent after all had confirmed."""
    last_ms: list[float] = []
    after = 0
    for row in rows:
        window = [
            pair for pair in accepted if row["committed"] < pair[1] and pair[0] < row["opened"] - PAUSE_S / 2
        ]
        window = [pair for pair in window if pair[1] < row["opened"]]
        last_ms.append(max((received - row["committed"]) * 1000 for _, received in window) if window else 0.0)
        if row["confirmed"] is not None:
            after += sum(sent > row["confirmed"] for sent, _ in window)
    ordered = sorted(last_ms)
    return {
        "switches": len(rows),
        "accepted": len(accepted),
        "p50_ms": round(percentile(ordered, 0.5), 1),
        "p99_ms": round(percentile(ordered, 0.99), 1),
        "max_ms": round(ordered[-1], 1),
        "confirmed_by_all": sum(row["confirmed"] is not None for row in rows),
        "confirmed_p50_ms": percentile(sorted(row["ms"] for row in rows), 0.5),
        "confirmed_max_ms": max(row["ms"] for row in rows),
        "accepted_after_confirmation": after,
    }


def percentile(ordered: list[float], share: float) -> float:
    """The value below or at which so much lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> int:
    """Measure both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument(
        "--only", choices=("notified", "lost"), help="one of the two; a database server holds one run"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    settings = {
        name: os.environ[name]
        for name in ("KEYSTEAD_DATABASE_URL", "KEYSTEAD_REDIS_URL")
        if name in os.environ
    }
    if settings:
        settings["KEYSTEAD_SECRET_KEY"] = secrets.token_urlsafe(50)
    database = "PostgreSQL" if "KEYSTEAD_DATABASE_URL" in settings else "SQLite"
    found: dict[str, Any] = {}
    for name, deaf in (("notified", False), ("every notification lost", True)):
        if options.only is None or deaf == (options.only == "lost"):
            found[name] = measure(deaf, options.switches, options.clients, settings)
    document = {
        "database": database,
        "clients": options.clients,
        "machine": platform.platform(),
        "runs": found,
    }
    lines = [
        f"| {database} | switches | p50 ms | p99 ms | max ms | confirmed by all, p50 / max ms | accepted after that |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, run in found.items():
        lines.append(
            f"| {name} | {run['switches']} | {run['p50_ms']} | {run['p99_ms']} | {run['max_ms']} |"
            f" {run['confirmed_p50_ms']} / {run['confirmed_max_ms']} | {run['accepted_after_confirmation']} |"
        )
    print(json.dumps(document, indent=2))
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    bad = [name for name, run in found.items() if run["accepted_after_confirmation"]]
    late = [name for name, run in found.items() if run["p99_ms"] > LIMITS_MS[name]]
    for name in bad:
        print(f"FAILED: {name}: a use was answered after every worker had confirmed", file=sys.stderr)
    for name in late:
        print(f"slower than {LIMITS_MS[name]:.0f} ms (p99): {name}", file=sys.stderr)
    return 1 if bad or late else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["deaf-agent"]:
        sys.path.insert(0, str(ROOT))
        deaf_agent()
    elif sys.argv[1:2] == ["drive"]:
        drive(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
