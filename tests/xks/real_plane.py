"""A real agent, a real XKS server and, where wanted, a real PostgreSQL, for tests that break them.

What changes the database (switches, counts) is a process of its own with the instance's settings: ``python -m
tests.xks.real_plane`` answers lines of JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bench_xks_instance import Content, Instance  # noqa: E402
from bench_xks_load import Target, connect, encrypt_request, signed_headers  # noqa: E402

from xks.server import clean_environment  # noqa: E402

SECRET_KEY = "a-secret-key-of-the-tests-that-is-long-enough-to-be-one"


class Answer(NamedTuple):
    """What became of one request. Times are of CLOCK_MONOTONIC; status 0: no answer came."""

    request_id: str
    sent: float
    done: float
    status: int
    error: str


class Client(threading.Thread):
    """Encrypts with one key, one request after the other, on a connection that it keeps while it can."""

    def __init__(self, target: Target, *, pause_s: float = 0.0, wall: float = 0.0, name: str = "") -> None:
        super().__init__(daemon=True, name=name or None)
        self.target = target
        self.pause_s = pause_s
        self.wall = wall
        """So many seconds the instance's wall clock is ahead; requests are dated by it."""
        self.answers: list[Answer] = []
        self._request_id, self._sent = "", 0.0
        self.enough = threading.Event()
        self._connection = connect(target)

    def run(self) -> None:
        """Until told."""
        while not self.enough.wait(self.pause_s):
            self.ask()
        self.close()

    def ask(self) -> Answer:
        """Send one request and keep what became of it."""
        try:
            self.send()
            return self.receive()
        except (OSError, http.client.HTTPException) as fault:
            return self._keep(0, type(fault).__name__)

    def send(self) -> None:
        """Send one request. Raises OSError and HTTPException."""
        request = encrypt_request(self.target, self.target.keys[0], b"x" * 32, b"a" * 64)
        self._request_id = json.loads(request.body)["requestMetadata"]["kmsRequestId"]
        at = datetime.fromtimestamp(time.time() + self.wall, UTC)
        headers = {"content-type": "application/json", **signed_headers(self.target, request, at)}
        self._sent = time.monotonic()
        self._connection.request("POST", request.path, request.body, headers)

    def receive(self) -> Answer:
        """Wait for its answer. Raises OSError and HTTPException."""
        got = self._connection.getresponse()
        status, body = got.status, got.read()
        return self._keep(status, "" if status == 200 else str(json.loads(body).get("errorName")))

    def _keep(self, status: int, error: str) -> Answer:
        if not status:
            self._connection.close()
            self._connection = connect(self.target)
        answer = Answer(self._request_id, self._sent, time.monotonic(), status, error)
        self.answers.append(answer)
        return answer

    def waits(self) -> bool:
        """Whether what was sent is not answered yet."""
        assert self._connection.sock is not None
        return not select.select([self._connection.sock], [], [], 0)[0]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextlib.contextmanager
def load(target: Target, clients: int = 3, **settings: Any) -> Iterator[list[Client]]:
    """Let clients encrypt for as long as the body runs."""
    threads = [Client(target, name=f"client{number}", **settings) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.enough.set()
        for thread in threads:
            thread.join(20)


def answers_of(clients: list[Client]) -> list[Answer]:
    """All of them, in the order in which they were sent."""
    return sorted((one for client in clients for one in client.answers), key=lambda one: one.sent)


class Control:
    """The process that changes and counts, line by line."""

    def __init__(self, instance: Instance) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.xks.real_plane"],
            env=instance.environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.ask("current")

    def ask(self, what: str, **told: Any) -> dict[str, Any]:
        """Have it do something and return what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **told}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process that does {what} has ended"
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer
        return answer

    def end(self) -> None:
        """End it."""
        self._process.communicate(timeout=10)


class Plane(Instance):
    """One node that can be broken, and its control process."""

    def __enter__(self) -> Plane:
        """See Instance."""
        super().__enter__()
        try:
            self.control = Control(self)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: Any) -> None:
        """See Instance."""
        if hasattr(self, "control"):
            self.control.end()
        super().__exit__(*exc)

    def start(self, name: str, *command: str) -> None:
        """See Instance. The server itself is started, with a budget that settings do not allow: the machine may be busy."""
        if name != "serve":
            super().start(name, *command)
            return
        # `keystead xks serve` lets nothing through but what the server needs.
        kept = {
            name: self.environ[name] for name in ("LD_PRELOAD", "WALL_CLOCK_AHEAD") if name in self.environ
        }
        with (self.folder / "serve.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "xks.server"],
                env={**clean_environment(self.environ), **kept, "KEYSTEAD_XKS_BUDGET_MS": "2000"},
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def keystead(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a ``keystead`` command to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "vault.cli", *words],
            env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def ping(self) -> tuple[int, str]:
        """What a balancer is told on a connection of its own; 0 when nothing answers."""
        connection = connect(self.target)
        try:
            connection.request("GET", "/ping")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()


@contextlib.contextmanager
def plane(database_url: str = "", **settings: str) -> Iterator[Plane]:
    """Run a node on SQLite, or on the PostgreSQL of this URL."""
    if database_url:
        # Nothing here uses Redis: neither agent nor workers do.
        named = {"KEYSTEAD_DATABASE_URL": database_url, "KEYSTEAD_REDIS_URL": "redis://127.0.0.1:1/0"}
        settings = {**named, "KEYSTEAD_SECRET_KEY": SECRET_KEY, **settings}
    settings = {"KEYSTEAD_NODE_NAME": "node-1", **settings}
    with Plane(content=Content(keys=3, rules=False), settings=settings) as made:
        yield made


@contextlib.contextmanager
def postgres() -> Iterator[Any]:
    """Run a PostgreSQL that can be stopped and started again (tests.cluster.servers.Database)."""
    from tests.cluster.servers import Database, services

    with tempfile.TemporaryDirectory(prefix="ks") as name:
        folder = Path(name)
        user = services.other_user()
        if user is not None:
            import shutil

            shutil.chown(folder, user)
        database = Database(folder)
        database.start()
        try:
            yield database
        finally:
            database.stop()


# --- the control process -----------------------------------------------------------------------------------------


def _switch(what: str, external_key_id: str) -> dict[str, Any]:
    from cloudkeys.models import CloudKey
    from cloudkeys.services.lifecycle import disable_cloud_key, enable_cloud_key
    from vault.actions import Action
    from vault.actors import Actor
    from vault.services.confirmations import confirm_switch

    actor = Actor.system("cli", "test")
    key = CloudKey.objects.get(external_key_id=external_key_id)
    if what == "enable":
        done, action = enable_cloud_key(actor, key.pk, reason="test"), Action.CLOUD_KEY_ENABLE
    else:
        done, action = disable_cloud_key(actor, key.pk, reason="test"), Action.CLOUD_KEY_DISABLE
    told = confirm_switch(actor, action, done.key, done.generation)
    if told is None:
        return {"generation": 0}
    return {
        "generation": told.generation,
        "confirmed": told.confirmed,
        "counted": told.counted,
        "complete": told.complete,
        "ms": told.milliseconds,
        "missing": [{"pid": one.pid, "why": one.why} for one in told.missing_workers],
    }


def _count() -> dict[str, Any]:
    from django.db.models import Sum

    from xks.models import JournalChain, Traffic, UsageHour, XksRequest

    return {
        "ids": list(XksRequest.objects.values_list("kms_request_id", flat=True)),
        "places": XksRequest.objects.values("chain_id", "segment", "entry").distinct().count(),
        "usage": UsageHour.objects.aggregate(sum=Sum("count"))["sum"] or 0,
        "minutes": Traffic.objects.filter(span_s=60).aggregate(sum=Sum("requests"))["sum"] or 0,
        "hours": Traffic.objects.filter(span_s=3600).aggregate(sum=Sum("requests"))["sum"] or 0,
        "chains": JournalChain.objects.count(),
    }


def _current() -> dict[str, Any]:
    from cloudkeys.models import XksKeyStore
    from vault.generations import current_generation, wait_for_generation
    from vault.models import Node

    now = wait_for_generation(current_generation(), timeout_s=0)
    return {
        "generation": now.generation,
        "confirmed": now.confirmed,
        "counted": now.counted,
        "missing": [{"pid": one.pid, "why": one.why} for one in now.missing_workers],
        "store": str(XksKeyStore.objects.values_list("pk", flat=True).first()),
        "alarms": [alarm["code"] for node in Node.objects.all() for alarm in node.alarms],
    }


def main() -> None:
    """Answer lines for as long as there are any."""
    import django

    django.setup()
    from django.db import connection

    for line in sys.stdin:
        told = json.loads(line)
        try:
            match told["what"]:
                case "disable" | "enable":
                    answer = _switch(told["what"], told["key"])
                case "count":
                    answer = _count()
                case "current":
                    answer = _current()
                case other:
                    raise ValueError(other)
        except Exception as error:  # the test is told, and fails
            answer = {"failed": f"{type(error).__name__}: {error}"}
        connection.close()  # the server may be stopped before the next line
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
