"""The XKS endpoint over HSM members: what scripts/bench_hsm.py measures with requests as KMS sends them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.hsm.devices import Device
from tests.hsm.endpoint import Endpoint
from tests.xks import world

OPEN_LOOP = Path(__file__).with_name("bench_xks_open.py")


class Load:
    """An open loop of signed Encrypt requests for one key, in a process of its own."""

    def __init__(
        self, serving: Endpoint, key: str, *, rate: float, seconds: float, connections: int = 64
    ) -> None:
        """Begin to send."""
        target = {
            "name": key,
            "host": "localhost",
            "port": serving.port,
            "tls": True,
            "prefix": world.PREFIX,
            "access_key_id": world.CREDENTIAL.access_key_id,
            "secret": world.SECRET.decode(),
            "keys": [key],
        }
        settings = {"target": target, "rate": rate, "seconds": seconds, "connections": connections}
        self._process = subprocess.Popen(
            [sys.executable, str(OPEN_LOOP)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._process.stdin.write(json.dumps(settings))
        self._process.stdin.close()

    def result(self) -> dict[str, Any]:
        """Wait for the end; return what bench_xks_open prints."""
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        with self._process.stdout as stdout:
            said = stdout.read()
        if self._process.wait() != 0:
            raise RuntimeError("the open loop failed")
        result: dict[str, Any] = json.loads(said)
        return result


def loads(serving: Endpoint, seconds: float, rates: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Send to several keys at once."""
    under_way = {key: Load(serving, key, rate=rate, seconds=seconds) for key, rate in rates.items()}
    return {key: load.result() for key, load in under_way.items()}


def while_failing(
    serving: Endpoint,
    key: str,
    devices: Sequence[Device],
    fault: Callable[[Device], None],
    *,
    rate: float,
    seconds: float,
    others: dict[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Send for so long; after a third of it these devices fail, after two thirds they are started again."""
    began = time.monotonic()

    def act() -> None:
        time.sleep(seconds / 3)
        for each in devices:
            fault(each)
        time.sleep(max(0.0, began + seconds * 2 / 3 - time.monotonic()))
        for each in devices:
            each.shim.tell()
            if each.running is not None:
                each.kill()
            each.start()

    actor = threading.Thread(target=act)
    actor.start()
    found = loads(serving, seconds, {key: rate, **(others or {})})
    actor.join()
    return found
