"""A keeper with real helper processes over real SoftHSM tokens, inside a test."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import connections

from hsm.softhsm import TokenFolder, make_tokens
from vault import hsm
from vault.actors import Actor
from vault.hsm_keeper import Keeper
from vault.models import HsmConnection, HsmMember
from vault.secret import Secret
from vault.services.hsm import MemberSpec, create_connection

PIN = "7391-Owl-Teapot"
ACTOR = Actor.system("cli")


def until(found: Callable[[], Any], within_s: float = 20.0, what: str = "") -> Any:
    """Wait for something true and return it."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s:g} s: {what or found}")


@dataclass
class HsmWorld:
    """Tokens, and a keeper that looks after whatever is connected."""

    folder: Path
    tokens: TokenFolder
    keepers: list[tuple[Keeper, threading.Thread]] = field(default_factory=list)

    def connect(
        self, *labels: str, pin: str | None = PIN, name: str = "soft", **values: Any
    ) -> HsmConnection:
        """Connect tokens of ours as one HSM."""
        return create_connection(
            ACTOR,
            name=name,
            module_path=self.tokens.module,
            environment=self.tokens.environment,
            members=[MemberSpec(label=each) for each in labels],
            pin=Secret(pin) if pin is not None else None,
            timeout_ms=5000,
            **values,
        )

    def keep(self, host: str = "host-a") -> Keeper:
        """Start a keeper."""
        keeper = Keeper(host=host)

        def run() -> None:
            try:
                keeper.run()
            finally:
                connections.close_all()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.keepers.append((keeper, thread))
        return keeper

    def stop(self) -> None:
        """End the keepers and their helpers."""
        for keeper, _ in self.keepers:
            keeper.stop()
        for _, thread in self.keepers:
            thread.join(15)
        hsm.forget_groups()
        self.keepers.clear()

    @staticmethod
    def serving(row: HsmConnection) -> bool:
        """Whether every member serves."""
        return all(each.state == HsmMember.State.ACTIVE for each in HsmMember.objects.filter(connection=row))


@contextmanager
def hsm_world(monkeypatch: Any, *labels: str) -> Iterator[HsmWorld]:
    """Make tokens (of a short path, because sockets must have one) and end everything afterwards."""
    with tempfile.TemporaryDirectory(prefix="ksh") as name:
        folder = Path(name)
        monkeypatch.setenv("KEYSTEAD_XKS_SOCKET", str(folder / "xks.sock"))
        tokens = make_tokens(folder / "soft", labels, pin=PIN)
        monkeypatch.setenv("KEYSTEAD_HSM_MODULE_DIRS", str(Path(tokens.module).parent))
        world = HsmWorld(folder, tokens)
        try:
            yield world
        finally:
            world.stop()
