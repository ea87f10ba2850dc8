"""A real XKS endpoint (TLS, worker processes) with one key in software and one in HSM members of ours."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.hsm.devices import KEY, WRAPPING, Device
from tests.xks import world
from tests.xks.fake_agent import FakeAgent
from tests.xks.test_server import free_port
from xks import wire
from xks.server import clean_environment

ROOT = Path(__file__).parents[2]
RESIDENT, SOFTWARE = "resident-key", "foo"
_GROUP = "group-1"


@dataclass(frozen=True)
class Endpoint:
    """Where it listens."""

    port: int
    agent: FakeAgent


def _records(devices: Sequence[Device]) -> tuple[list[wire.AgentMessage], wire.Invocations]:
    members = tuple(
        wire.HsmMemberRecord(each.name, each.name, "SoftHSM v2", each.socket, "ACTIVE") for each in devices
    )
    groups = wire.HsmGroups((wire.HsmGroupRecord(_GROUP, "hsm", "preferred", members, WRAPPING),))
    resident = world.key_record(
        RESIDENT, versions=[wire.VersionRecord(1, resident=wire.ResidentRecord(_GROUP, KEY))]
    )
    store = msgspec.structs.replace(world.STORES[0], hsm_groups=(_GROUP,))
    load = world.full_load(stores=[store, *world.STORES[1:]], keys=[*world.KEYS, resident])
    return [groups, *load], wire.Invocations(resident.id, 1, 1 << 30)


@contextlib.contextmanager
def endpoint(devices: Sequence[Device], *, workers: int = 2) -> Iterator[Endpoint]:
    """Serve until the body ends. The devices' helpers may come and go meanwhile."""
    messages, invocations = _records(devices)
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        folder, port = Path(name), free_port()
        (folder / "run").mkdir(mode=0o700)
        log = (folder / "server.log").open("wb")
        with log, FakeAgent(folder / "run" / "xks.sock") as agent:
            agent.greeting = lambda hello: [
                *messages,
                world.lease(1, 3600, counted_workers=workers),
                invocations,
            ]
            environ = {
                **clean_environment(os.environ),
                "KEYSTEAD_DATA_DIR": name,
                "KEYSTEAD_XKS_PORT": str(port),
                "KEYSTEAD_XKS_WORKERS": str(workers),
            }
            server = subprocess.Popen(
                [sys.executable, "-m", "xks.server"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )
            try:
                agent.wait_applied(1, workers=workers)
                yield Endpoint(port, agent)
            finally:
                server.terminate()
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()
