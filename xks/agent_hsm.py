"""What the agent tells of HSMs, and the one thing that it asks of them: to open a key set's KEK."""

from __future__ import annotations

from hsm.pkcs11 import Pkcs11KeyWrapper
from vault.hsm import group_records, sync_group
from xks.agent_database import close_own_connection
from xks.agent_keks import WrappedKek
from xks.wire import HsmGroupRecord, HsmGroups, HsmMemberRecord


def hsm_groups() -> HsmGroups:
    """Return the HSM connections of this installation as workers of this node reach them.

    A member that has not been compared with the others is named, for health, but not used.
    """
    return HsmGroups(
        tuple(
            HsmGroupRecord(
                id=group.id,
                name=group.name,
                routing=group.routing,
                members=tuple(
                    HsmMemberRecord(
                        each.id, each.name, each.model, each.socket if each.fit else "", each.state
                    )
                    for each in group.members
                ),
                health_key=group.health_key,
            )
            for group in group_records()
        )
    )


def open_kek(kek: WrappedKek) -> bytes:
    """Have the HSM open a key set's KEK.  Raises HsmError."""
    try:
        group = sync_group(kek.connection_id)
    finally:
        close_own_connection()  # the calling thread is one of several, and looks at the database seldom
    return Pkcs11KeyWrapper(group, kek.hsm_key).decrypt(kek.blob, kek.place)
