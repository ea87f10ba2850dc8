"""Between a helper that has started and those who use its member: what one encrypts the other must decrypt, first.

A helper begins on a socket that nobody uses but keepers. Where the other members of its connection are, the keys that
everything depends on are compared with them, on this host, and the socket is then given its usual name; so that a token
that came back with other keys (restored from a backup, exchanged) serves nobody for a moment. Nobody waits where there
is nobody to be compared with: an only member, or the last that answers, which serves as before and is compared when the
next one is back.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import DatabaseError

from hsm import wire
from hsm.base import HsmError, HsmTimeout, KeyNotFound, MechanismUnavailable
from hsm.client import SyncMember
from hsm.compare import compare
from vault.hsm_groups import socket_path
from vault.models import HsmConnection, HsmKey, HsmMember

ALONE_AFTER_S: Final = 10.0
"""So long others may take to answer (they start too, after a reboot) before a member serves without them."""
CALL_S: Final = 2.0
MOST_KEYS: Final = 20


@dataclass(frozen=True)
class Verdict:
    """Whether a helper may serve. `message` says why not, or what is to be known; empty when all is well."""

    admitted: bool
    message: str = ""
    differs: bool = False
    """Whether it was shown to hold other keys than the others."""


def waiting_path(member_id: UUID | str) -> str:
    """Where a helper listens until it may serve."""
    return socket_path(f"{member_id}.new")


class Gate:
    """Of one member on this host."""

    def __init__(self, member_id: UUID) -> None:
        self.member_id = member_id
        self.is_open = False
        self._uncompared = ""
        self._others: tuple[UUID, ...] = ()
        self._needed: tuple[str, ...] = ()
        self._since = 0.0

    def learn(self, connection: HsmConnection, member: HsmMember) -> None:
        """Take from the database what must be known of the others; it is remembered for when the database is away."""
        # One that was never compared serves nobody yet (hsm_groups.fit_members), and is no measure for others.
        rows = HsmMember.objects.filter(connection=connection, compared=True).exclude(pk=member.pk)
        others = tuple(rows.values_list("pk", flat=True)) if member.compared else ()
        keys: list[str] = []
        if others:
            wanted = HsmKey.objects.filter(
                connection=connection,
                state=HsmKey.State.ACTIVE,
                purpose__in=[HsmKey.Purpose.ROOT, HsmKey.Purpose.WRAPPING],
            )
            keys = list(wanted.order_by("created_at").values_list("cka_id", flat=True)[:MOST_KEYS])
        self._others = others
        self._needed = tuple(each for each in (connection.health_key, *keys) if each)

    def close(self) -> None:
        """Its helper ends: whoever comes finds nobody."""
        if self.is_open:
            self.is_open = False
            with suppress(OSError):
                os.unlink(socket_path(self.member_id))

    def begin(self) -> None:
        """A helper is ready, on the waiting socket."""
        self.is_open = False
        self._since = time.monotonic()

    def judge(self) -> Verdict:
        """Compare the helper that waits with the others. Asks HSMs; raises HsmTimeout when it does not answer itself."""
        if not self._others or not self._needed:
            return Verdict(True)
        mine = SyncMember(str(self.member_id), waiting_path(self.member_id))
        others: list[SyncMember] = []
        try:
            with suppress(KeyNotFound, MechanismUnavailable):
                mine.encrypt(
                    bytes.fromhex(self._needed[0]),
                    os.urandom(32),
                    b"keystead:gate",
                    verify=False,
                    timeout_s=CALL_S,
                )
            others = [found for each in self._others if (found := _answering(each)) is not None]
            return self._compare(mine, others)
        except HsmTimeout:
            raise
        except HsmError as error:
            return Verdict(False, str(error))
        finally:
            for client in (mine, *others):
                client.close()

    def _compare(self, mine: SyncMember, others: list[SyncMember]) -> Verdict:
        name, reference = mine.member_id, {each.member_id for each in others}
        waiting = not others
        for key in self._needed if others else ():
            # The others first: what one of them encrypts this one decrypts.
            found = compare([*others, mine], bytes.fromhex(key), reference=reference, timeout_s=CALL_S)
            if name in found.differing:
                words = f"It holds another key under the id {key} than the other members, and does not serve."
                return Verdict(False, words, differs=True)
            if name in found.unknown:
                return Verdict(False, f"It was not compared yet: {found.unknown[name]}")
            # Without the key on this side, or on all others, there is nothing to compare; the sweep reports it.
            waiting |= name in found.fit and not reference & set(found.fit) and bool(found.unknown)
        if not waiting:
            return Verdict(True)
        if time.monotonic() - self._since < ALONE_AFTER_S:
            return Verdict(False, "It waits to be compared with the other members, of which none answers.")
        return Verdict(
            True, "It serves without having been compared since its start: no other member answers."
        )

    def open(self, verdict: Verdict) -> None:
        """Give the waiting socket its usual name. Raises OSError."""
        os.rename(waiting_path(self.member_id), socket_path(self.member_id))
        self.is_open = True
        self._uncompared = verdict.message

    def uncompared(self) -> str:
        """What is to be told of a member that serves without having been compared; empty once another one answers.

        Those two are then compared by the watch of their connection (vault/hsm_watch.py). Asks HSMs' helpers.
        """
        for each in self._others if self._uncompared else ():
            client = _answering(each)
            if client is not None:
                client.close()
                self._uncompared = ""
                break
        return self._uncompared


def _answering(member_id: UUID) -> SyncMember | None:
    """A client of another member's helper on this host, which may be waiting itself; None while it does not answer."""
    for path in (socket_path(member_id), waiting_path(member_id)):
        client = SyncMember(str(member_id), path)
        try:
            client.call(wire.Status(0), timeout_s=CALL_S)
        except HsmError:
            client.close()
            continue
        return client
    return None


def learn_if_possible(gate: Gate, rows: tuple[HsmConnection, HsmMember] | None) -> None:
    """As `Gate.learn`; with the database away what was known stays."""
    if rows is not None:
        with suppress(DatabaseError):
            gate.learn(*rows)
