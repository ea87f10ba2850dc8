"""Rows for the agent's tests, made without the services, and a worker's side of the agent's socket."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import models, transaction
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, KeyVersion, XksCredential, XksKeyStore
from vault import keys
from vault.generations import raise_generation
from vault.models import GenerationChange, Vault
from xks import wire
from xks.agent import Agent
from xks.agent_state import NodeState

KEY, STORE, VAULT = GenerationChange.Kind.KEY, GenerationChange.Kind.STORE, GenerationChange.Kind.VAULT
_counter = iter(range(10**9))


def material(number: int = 1) -> bytes:
    """Return 32 bytes that tell which version they are of."""
    return bytes([number]) * 32


def make_vault(name: str = "Acme", **fields: Any) -> Vault:
    """Return a vault with a KEK; the root key is made when there is none."""
    keys.ensure_root_key(create_allowed=True)
    vault = Vault(name=name, **fields)
    with transaction.atomic():
        vault.kek_blob = keys.new_vault_kek(vault.pk)
        vault.save()
    return vault


def make_store(vault: Vault, path_prefix: str = "/acme", **fields: Any) -> XksKeyStore:
    """Return an external key store with one active credential and a health-check key."""
    key_set = KeySet.objects.create(vault=vault, name=f"set {next(_counter)}")
    store = XksKeyStore.objects.create(vault=vault, key_set=key_set, path_prefix=path_prefix, **fields)
    make_credential(store)
    make_key(store, "health", kind=CloudKey.Kind.HEALTH_CHECK)
    return store


def make_credential(store: XksKeyStore, **fields: Any) -> XksCredential:
    """Return a credential whose secret is its access key id, twice, in small letters."""
    credential = XksCredential(
        vault=store.vault, store=store, access_key_id=f"CREDENTIAL{next(_counter):012d}", **fields
    )
    keys.seal(credential, "secret_access_key", credential.access_key_id.lower() * 2)
    credential.save()
    return credential


def make_key(
    store: XksKeyStore, external_key_id: str = "", *, versions: Iterable[int] = (1,), **fields: Any
) -> CloudKey:
    """Return a key whose version n has the material of ``material(n)``; the last version is current."""
    numbers = list(versions)
    name = external_key_id or f"key-{next(_counter)}"
    key = CloudKey.objects.create(
        vault=store.vault,
        key_set=store.key_set,
        store=store,
        name=name,
        external_key_id=name,
        **{
            "permitted_uses": ["ENCRYPT", "DECRYPT"],
            "rotated_at": timezone.now(),
            "current_version": max(numbers, default=1),
            **fields,
        },
    )
    for number in numbers:
        make_version(key, number)
    return key


def make_version(key: CloudKey, number: int) -> KeyVersion:
    """Return a new version of a key."""
    version = KeyVersion(vault=key.vault, cloud_key=key, number=number)
    keys.seal(version, "material", material(number))
    version.save()
    return version


@contextmanager
def changed(*touched: tuple[GenerationChange.Kind, models.Model | UUID]) -> Iterator[list[int]]:
    """A transaction that tells the data plane of these objects; the list receives its generation."""
    generation: list[int] = []
    with transaction.atomic():
        yield generation
        generation.append(
            raise_generation([(kind, row if isinstance(row, UUID) else row.pk) for kind, row in touched])
        )


class RunningAgent:
    """The agent on a thread of its own, as the command runs it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.socket_path = folder / "run" / "xks.sock"
        self._settings = {
            "node_name": "node-a",
            "max_staleness_s": 60.0,
            "software_version": "test",
            **settings,
        }
        self._started = threading.Event()
        self._stop: Callable[[], None] | None = None
        self.error: BaseException | None = None
        self.state = NodeState(60.0)
        """Of the agent that runs."""
        self._thread = threading.Thread(target=self._main)

    def __enter__(self) -> RunningAgent:
        self._thread.start()
        assert self._started.wait(10), self.error
        if self.error is not None:
            self._thread.join()
            raise self.error
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        if self.error is not None and exc[0] is None:
            raise self.error

    def stop(self) -> None:
        """End it as SIGTERM does, and wait for its end."""
        if self._stop is not None:
            self._stop()
        self._thread.join(15)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        agent = Agent(socket_path=self.socket_path, **self._settings)
        self.state = agent.state

        def end() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stop.set)

        self._stop = end
        await agent.run(stop, started=self._started.set)


class Worker:
    """A worker's side of the socket, on blocking calls: says what the test says, keeps what it hears."""

    def __init__(self, path: Path, *, started_at_s: float | None = None) -> None:
        self._path = path
        self._started_at_s = wire.boot_clock() if started_at_s is None else started_at_s
        self._socket: socket.socket | None = None
        self.stores: dict[str, wire.StoreRecord] = {}
        self.keys: dict[str, wire.KeyRecord] = {}
        self.generation = 0
        self.leases: list[wire.Lease] = []
        self.deltas: list[wire.Delta] = []
        self.root_problems: list[str] = []

    def __enter__(self) -> Worker:
        self.connect()
        return self

    def __exit__(self, *exc: object) -> None:
        self.hang_up()

    def connect(self, **changes: Any) -> None:
        """Connect and say hello."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10)
        self._socket.connect(str(self._path))
        fields: dict[str, Any] = {
            "pid": os.getpid(),
            "started_at_s": self._started_at_s,
            "boot_id": "",
            "generation": self.generation,
            "software_version": "test",
        }
        self.say(wire.Hello(**{**fields, **changes}))

    def say(self, message: wire.WorkerMessage) -> None:
        """Send one message."""
        assert self._socket is not None
        self._socket.sendall(wire.encode_frame(message))

    def send_bytes(self, data: bytes) -> None:
        """Send anything."""
        assert self._socket is not None
        self._socket.sendall(data)

    def hang_up(self) -> None:
        """Let the connection break, without goodbye."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def hear(self) -> wire.AgentMessage | None:
        """Return the next message, applied; None when the agent has hung up."""
        head = self._read(4)
        if head is None:
            return None
        body = self._read(int.from_bytes(head, "big"))
        assert body is not None
        message = wire._agent_decoder.decode(body)
        match message:
            case wire.Lease():
                self.leases.append(message)
            case wire.Delta():
                self._apply(message)
            case wire.HsmGroups():
                self.root_problems.append(message.root_problem)
        return message

    def _apply(self, delta: wire.Delta) -> None:
        if delta.full and not (self.deltas and not self.deltas[-1].final):
            self.stores, self.keys = {}, {}
        self.deltas.append(delta)
        for store_id in delta.removed_stores:
            self.stores.pop(store_id, None)
        for key_id in delta.removed_keys:
            self.keys.pop(key_id, None)
        self.stores.update((store.id, store) for store in delta.stores)
        self.keys.update((key.id, key) for key in delta.keys)
        if delta.final:
            self.generation = delta.generation

    def hear_until(self, done: Callable[[], bool], *, confirm: bool = True) -> None:
        """Listen until ``done()``; what was applied is confirmed as a worker does."""
        while not done():
            message = self.hear()
            assert message is not None, "the agent hung up"
            if confirm and isinstance(message, wire.Delta) and message.final:
                self.say(wire.Applied(os.getpid(), message.generation))

    def hear_until_the_end(self) -> None:
        """Listen until the agent hangs up."""
        while self.hear() is not None:
            pass

    def hear_what_is_there(self) -> None:
        """Take in what has arrived by now."""
        assert self._socket is not None
        while select.select([self._socket], [], [], 0)[0]:
            assert self.hear() is not None, "the agent hung up"

    def _read(self, length: int) -> bytes | None:
        assert self._socket is not None
        parts = b""
        while len(parts) < length:
            try:
                part = self._socket.recv(length - len(parts))
            except ConnectionResetError:  # it hung up before it had read all that we said
                return None
            if not part:
                return None
            parts += part
        return parts
