"""How a process of this host reaches the members of an HSM connection: sockets of helpers, and groups over them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast
from uuid import UUID

from django.db.models import QuerySet

from hsm.base import (
    DataInvalid,
    HsmAuthenticationFailed,
    HsmBusy,
    HsmError,
    HsmUnavailable,
    KeyAmbiguous,
    KeyNotFound,
    MechanismUnavailable,
)
from hsm.client import SyncMember
from hsm.group import Routing, SyncGroup, SyncMemberLike
from vault import env
from vault.errors import Conflict, DomainError, Unavailable
from vault.models import HsmConnection, HsmMember, Vault

_LOOK_AGAIN_S: Final = 2.0


@dataclass(frozen=True)
class MemberRecord:
    """A member as the data plane is told of it. ``fit``: it was compared with the others and may serve."""

    id: str
    name: str
    model: str
    socket: str
    state: str
    fit: bool


@dataclass(frozen=True)
class GroupRecord:
    """A connection as the data plane is told of it."""

    id: str
    name: str
    routing: str
    health_key: bytes
    members: tuple[MemberRecord, ...]


def run_folder() -> Path:
    """Return the folder of the helpers' sockets on this host: hsm/ beside the XKS socket."""
    xks_socket: Path = env.get("KEYSTEAD_XKS_SOCKET")
    return xks_socket.parent / "hsm"


def socket_path(member_id: UUID | str) -> str:
    """Return where the helper of a member listens on this host."""
    return str(run_folder() / f"{member_id}.sock")


def fit_members(connection: HsmConnection) -> list[HsmMember]:
    """Return the members that may serve, the preferred one first: all that were compared, or the only one.

    A member that is away now stays among them: whoever uses the group routes around it and sees it return.
    """
    members = sorted(connection.members.all(), key=lambda each: each.position)  # type: ignore[attr-defined]
    if len(members) == 1:
        return members
    return [each for each in members if each.compared]


def client_of(member: HsmMember) -> SyncMember:
    """Return a client of one member's helper on this host; the caller closes it."""
    return SyncMember(str(member.pk), socket_path(member.pk))


# --- groups -------------------------------------------------------------------------------------------------------

_lock = threading.Lock()


@dataclass
class _Known:
    group: SyncGroup
    made_of: tuple[str, tuple[str, ...]]
    looked_at: float


_groups: dict[UUID, _Known] = {}


def forget_groups() -> None:
    """Close every connection to helpers that this process has; for tests and after fork."""
    with _lock:
        known = list(_groups.values())
        _groups.clear()
    for each in known:
        each.group.close()


def sync_group(connection_id: UUID) -> SyncGroup:
    """Return the connection's members as one, for threads: cached a process, of members that are fit to serve.

    Raises HsmUnavailable when the connection has none, or is gone.
    """
    now = time.monotonic()
    with _lock:
        known = _groups.get(connection_id)
        if known is not None and now - known.looked_at < _LOOK_AGAIN_S:
            return known.group
    row = HsmConnection.objects.prefetch_related("members").filter(pk=connection_id).first()
    if row is None:
        raise HsmUnavailable(f"there is no HSM connection {connection_id} any more")
    members = fit_members(row)
    if not members:
        raise HsmUnavailable(
            f"no member of the HSM connection {row.name} serves yet: they are compared with each other first"
        )
    made_of = (row.routing, tuple(str(each.pk) for each in members))
    with _lock:
        known = _groups.get(connection_id)
        if known is not None and known.made_of == made_of:
            known.looked_at = now
            return known.group
        group = SyncGroup(
            cast("list[SyncMemberLike]", [client_of(each) for each in members]),
            routing=cast("Routing", row.routing),
        )
        # The old group is not closed here: a thread may be using it. Its sockets go with it.
        _groups[connection_id] = _Known(group, made_of, now)
        return group


def group_records() -> list[GroupRecord]:
    """Return every connection as this host's data plane reaches it. Two queries."""
    rows = HsmConnection.objects.prefetch_related("members").order_by("name")
    return [
        GroupRecord(
            id=str(row.pk),
            name=row.name,
            routing=row.routing,
            health_key=bytes.fromhex(row.health_key),
            members=tuple(_member_record(each, alone=row.members.count() == 1) for each in _ordered(row)),  # type: ignore[attr-defined]
        )
        for row in rows
    ]


def _ordered(row: HsmConnection) -> list[HsmMember]:
    return sorted(row.members.all(), key=lambda each: each.position)  # type: ignore[attr-defined]


def _member_record(row: HsmMember, *, alone: bool) -> MemberRecord:
    return MemberRecord(
        id=str(row.pk),
        name=row.token_label or row.token_serial,
        model=str(row.identity.get("model", "")) or "unknown",
        socket=socket_path(row.pk),
        state=row.state,
        fit=alone or row.compared,
    )


def connections_for(vault: Vault) -> QuerySet[HsmConnection]:
    """Return the connections that a vault may choose for its key sets."""
    return HsmConnection.objects.filter(vaults=vault).order_by("name")


# --- errors in the product's words --------------------------------------------------------------------------------


def domain_error(error: HsmError, name: str) -> DomainError:
    """Return an HSM's error as one that people can act upon; ``name`` is the connection's."""
    text = f"The HSM {name}: {error}."
    if isinstance(error, HsmAuthenticationFailed):
        return Conflict(
            text, cause="hsm_authentication", cure="Find the right PIN, then change it on the HSM's page."
        )
    if isinstance(error, HsmUnavailable | HsmBusy):
        return Unavailable(
            text, cause="hsm_unavailable", cure="Look at its members on the HSM's page; try again then."
        )
    if isinstance(error, MechanismUnavailable):
        return Conflict(
            text, cause="hsm_mechanism", cure="Choose another protection; the HSM's page shows what works."
        )
    if isinstance(error, KeyNotFound):
        return Conflict(text, cause="hsm_key_not_found", cure="Look at where the key is, on the HSM's page.")
    if isinstance(error, KeyAmbiguous):
        return Conflict(
            text,
            cause="hsm_key_ambiguous",
            cure="Keep one of the objects in the HSM; Keystead does not guess.",
        )
    if isinstance(error, DataInvalid):
        return Conflict(
            text,
            cause="hsm_data_invalid",
            cure="The HSM holds another key under this id, or the data was altered.",
        )
    return Conflict(text, cause="hsm_error", cure="Look at the member's message on the HSM's page.")


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Turn errors of an HSM into domain errors."""
    try:
        yield
    except HsmError as error:
        raise domain_error(error, name) from error
