"""The doctor against a real data plane: endpoint, TLS, credential, health, metadata, Encrypt and Decrypt, all on loopback."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vault.serving import wait_for
from tests.xks.real_plane import Plane, plane

pytestmark = pytest.mark.slow

BOUND_S = 6.0
FINE = {
    "dns", "port", "tls-version", "tls-ciphers", "name", "expiry", "chain", "balancer", "clock", "path", "credential",
    "health", "metadata", "crypto", "blocked", "credential-age", "nodes",
}  # fmt: skip
"""Everything that is looked at, but for how fast it answers."""


@pytest.fixture(scope="module")
def node() -> Iterator[Plane]:
    with plane(KEYSTEAD_XKS_MAX_STALENESS=str(int(BOUND_S)), KEYSTEAD_SIMULATOR="on") as made:
        yield made


def examine(node: Plane) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Return exit status, findings by id, and the whole report."""
    store = node.control.ask("current")["store"]
    done = node.keystead("xks", "doctor", store, "--samples", "5", "--json")
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    report = json.loads(done.stdout)
    return done.returncode, {each["id"]: each for each in report["findings"]}, report


def test_a_sound_endpoint_and_one_whose_agent_hangs(node: Plane) -> None:
    status, found, report = examine(node)
    severities = {id: each["severity"] for id, each in found.items()}
    # How fast it answers is the machine's affair, and others may be at work on it.
    assert {id for id, severity in severities.items() if severity == "error"} <= {"latency"}, found
    assert status == int("error" in severities.values())
    assert severities.keys() >= FINE, severities.keys()
    # The certificate is Keystead's own: good for the simulator, and AWS would not take it.
    assert {id: severities[id] for id in FINE if severities[id] != "ok"} == {"chain": "info"}, found
    assert "TLS passes through" in found["balancer"]["what"]
    assert report["latency"]["encrypt"]["samples"] == report["latency"]["decrypt"]["samples"] == 5

    agent = node.processes["agent"].pid
    os.kill(agent, signal.SIGSTOP)
    try:
        time.sleep(BOUND_S)
        assert wait_for(lambda: node.ping()[0] == 503, 10)
        status, found, _ = examine(node)
    finally:
        os.kill(agent, signal.SIGCONT)
    assert status == 1
    assert found["nodes"]["severity"] == "error"
    assert found["health"]["severity"] == "error"
    assert "503" in found["health"]["what"]
    assert found["health"]["do"]
    # What is not broken is not blamed.
    assert {found[id]["severity"] for id in ("dns", "port", "tls-version", "blocked")} == {"ok"}

    assert wait_for(lambda: node.ping()[0] == 200, 20)
    _, found, _ = examine(node)
    assert {found[id]["severity"] for id in FINE - {"chain"}} == {"ok"}
