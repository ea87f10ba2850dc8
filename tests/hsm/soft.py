"""A SoftHSM token with its helper, for tests that need a real one. Nothing is shared with the machine's own SoftHSM."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from hsm import wire
from hsm.client import SyncMember
from hsm.group import SyncGroup
from hsm.softhsm import TokenFolder, find_module, make_tokens
from hsm.spawning import Running, spawn

PIN = "7391-soft-pin"
LABEL = "keystead-test"
NO_GCM = {"AES_GCM": 0x7FFFFFF0}
"""Mechanism numbers under which the token seems to have no AES-GCM."""

assert find_module(), "the tests need SoftHSM: apt install softhsm2"


def config_for(tokens: TokenFolder, socket: Path, **changes: object) -> wire.HelperConfig:
    """Return a helper's configuration for the first token."""
    config = wire.HelperConfig(
        module=tokens.module, socket=str(socket), token_serial=tokens.tokens[0].serial, pin=PIN.encode()
    )
    for name, value in changes.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    return config


@contextlib.contextmanager
def helper(
    tokens: TokenFolder, socket: Path, *, log: Path | None = None, **changes: object
) -> Iterator[Running]:
    """Run a helper on the first token."""
    with contextlib.ExitStack() as stack:
        stderr = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        running = spawn(config_for(tokens, socket, **changes), environment=tokens.environment, stderr=stderr)
        try:
            running.wait_ready(30)
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def soft_member(folder: Path, **changes: object) -> Iterator[SyncMember]:
    """Make a token, run a helper, and give a client of it."""
    tokens = make_tokens(folder / "softhsm", [LABEL], pin=PIN)
    with helper(tokens, folder / "m.sock", **changes):
        member = SyncMember("soft", str(folder / "m.sock"))
        try:
            yield member
        finally:
            member.close()


def group_of(member: SyncMember) -> SyncGroup:
    """Return a group of one."""
    return SyncGroup([member])


def in_module(tokens: TokenFolder, script: str, environment: Mapping[str, str] | None = None) -> str:
    """Run Python in a process of its own with ``module``, ``session`` (logged in) and ``ck`` at hand."""
    prelude = (
        "import json, sys\nfrom hsm import ck\nfrom hsm.cryptoki import Module\n"
        "told = json.load(sys.stdin)\nmodule = Module(told['module'])\nmodule.initialize()\n"
        "slot = next(t.slot for t in module.tokens() if t.serial == told['serial'])\n"
        "session = module.open_session(slot, read_write=True)\nmodule.login(session, told['pin'].encode())\n"
    )
    told = {"module": tokens.module, "serial": tokens.tokens[0].serial, "pin": PIN}
    done = subprocess.run(
        [sys.executable, "-c", prelude + script],
        input=json.dumps(told),
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
        env=os.environ | tokens.environment | dict(environment or {}),
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
