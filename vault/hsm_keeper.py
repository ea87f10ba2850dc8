"""The keeper of HSMs (`keystead hsm serve`), one a host.

Each member has a thread here (vault/hsm_member.py), so that a token that hangs delays no other, and each connection has one
for what concerns its members together (vault/hsm_watch.py). The keeper loads no module itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, close_old_connections

from hsm.spawning import spawn
from vault import env
from vault.hsm_groups import run_folder
from vault.hsm_locked import first_line
from vault.hsm_member import LOOK_S, MemberWatch, Spawn
from vault.hsm_watch import ConnectionWatch
from vault.models import HsmMember

log = structlog.get_logger("keystead.hsm")


class Keeper:
    """All members and connections of this host."""

    def __init__(self, *, spawn_helper: Spawn = spawn, host: str | None = None) -> None:
        self.host = host or str(env.get("KEYSTEAD_NODE_NAME"))
        self.members: dict[UUID, MemberWatch] = {}
        self.connections: dict[UUID, Any] = {}
        self._spawn = spawn_helper
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End everything soon."""
        self._stopping.set()

    def run(self, pulse: Callable[[], None] = lambda: None) -> None:
        """Keep helpers until told to stop; then end them all."""
        make_run_folder()
        try:
            while not self._stopping.is_set():
                try:
                    self.look()
                except DatabaseError as error:
                    log.warning("hsm: the database does not answer; helpers go on", error=first_line(error))
                close_old_connections()
                pulse()
                self._stopping.wait(LOOK_S)
        finally:
            self.end()

    def look(self) -> None:
        """Start and stop threads as the rows say."""
        wanted = dict(HsmMember.objects.values_list("pk", "connection_id"))
        for member_id in wanted.keys() - self.members.keys():
            watch = MemberWatch(member_id, self.host, self._spawn)
            self.members[member_id] = watch
            watch.start()
        for connection_id in set(wanted.values()) - self.connections.keys():
            both = ConnectionWatch(connection_id, self.host, self)
            self.connections[connection_id] = both
            both.start()
        for member_id in self.members.keys() - wanted.keys():
            self.members.pop(member_id).stop()
        for connection_id in self.connections.keys() - set(wanted.values()):
            self.connections.pop(connection_id).stop()
        for member_id, watch in list(self.members.items()):
            if not watch.is_alive():
                del self.members[member_id]  # started anew at the next turn

    def end(self) -> None:
        """Stop every helper and thread, and wait for them a little."""
        threads = [*self.members.values(), *self.connections.values()]
        for each in threads:
            each.stop()
        ends = time.monotonic() + 4.0
        for each in threads:
            each.join(max(0.1, ends - time.monotonic()))
        self.members.clear()
        self.connections.clear()


def make_run_folder() -> Path:
    """Make the folder of the helpers' sockets, for this user alone. Raises OSError."""
    folder = run_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    return folder
