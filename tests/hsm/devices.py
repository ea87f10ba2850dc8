"""Tokens for tests: SoftHSM behind the shim, each with a helper process of its own. Clones hold the same keys."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hsm import wire
from hsm.base import HsmError
from hsm.client import AsyncMember, SyncMember
from hsm.softhsm import TokenFolder, clone, make_tokens
from hsm.spawning import Running, spawn
from tests.hsm.shim import Shim, build

KEY = bytes.fromhex("11" * 16)
WRAPPING = bytes.fromhex("22" * 16)
PIN = "4711-device"
LABEL = "keystead-test"


class Device:
    """One token and its helper, which can be killed and started again."""

    def __init__(self, name: str, root: Path, tokens: TokenFolder, library: Path) -> None:
        self.name = name
        self.tokens = tokens
        self.socket = str(root / f"{name}.sock")
        self.shim = Shim(library, tokens.module, root / f"{name}.control", root / f"{name}.log")
        self.stderr = root / f"{name}.stderr"
        self.running: Running | None = None

    def config(self, **changes: object) -> wire.HelperConfig:
        config = wire.HelperConfig(
            module=str(self.shim.library),
            socket=self.socket,
            token_serial=self.tokens.tokens[0].serial,
            pin=PIN.encode(),
        )
        for name, value in changes.items():
            assert hasattr(config, name)
            setattr(config, name, value)
        return config

    def start(self, **changes: object) -> Running:
        """Start its helper and wait until it serves. Raises what the helper was refused with."""
        self.begin(**changes)
        assert self.running is not None
        try:
            self.running.wait_ready(30)
        except HsmError:
            self.stop()
            raise
        return self.running

    def begin(self, **changes: object) -> None:
        """Start its helper, and do not wait; the one before has ended."""
        self.stop()
        with self.stderr.open("ab") as log:
            self.running = spawn(
                self.config(**changes),
                environment=self.tokens.environment | self.shim.environment,
                stderr=log,
            )

    def wait_ended(self, timeout_s: float = 20.0) -> int:
        """Return the exit code of a helper that ends by itself."""
        assert self.running is not None
        ends = time.monotonic() + timeout_s
        while (code := self.running.exit_code) is None:
            assert time.monotonic() < ends, "the helper goes on"
            time.sleep(0.005)
        self.running.stop()
        return code

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()
            self.running = None

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()

    def member(self) -> SyncMember:
        return SyncMember(self.name, self.socket)

    def async_member(self, **options: int) -> AsyncMember:
        return AsyncMember(self.name, self.socket, **options)


class Workshop:
    """A folder with a token that holds KEY and WRAPPING; devices are clones of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = build(folder)
        self._count = 0
        original = folder / "original"
        original.mkdir()
        self.original = make_tokens(original, [LABEL], pin=PIN)
        device = Device("original", folder, self.original, self.library)
        device.start()
        member = device.member()
        try:
            member.call(wire.Generate(0, KEY, "test key", "resident"))
            member.call(wire.Generate(0, WRAPPING, "test wrapping key", "wrapping"))
        finally:
            member.close()
            device.stop()

    @contextlib.contextmanager
    def devices(self, *names: str) -> Iterator[list[Device]]:
        """Give devices that hold the same keys, not started; stopped at the end."""
        self._count += 1
        root = self.folder / str(self._count)
        root.mkdir(mode=0o700)
        made = []
        for name in names:
            (root / f"{name}.softhsm").mkdir()
            made.append(Device(name, root, clone(self.original, root / f"{name}.softhsm"), self.library))
        try:
            yield made
        finally:
            for each in made:
                each.stop()
            shutil.rmtree(root)


@contextlib.contextmanager
def workshop() -> Iterator[Workshop]:
    """Make a workshop in a folder with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ks-hsm-", dir="/tmp"))
    try:
        yield Workshop(folder)
    finally:
        shutil.rmtree(folder)
