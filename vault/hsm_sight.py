"""What keepers saw of members, put together: each host writes its own sight, the row shows what follows from all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from vault.actors import Actor
from vault.changes import change
from vault.models import HsmMember
from vault.services.hsm import note_member_state

State = HsmMember.State
FRESH: Final = timedelta(minutes=2)
NOT_COMPARED: Final = "It was not shown yet to hold the same keys as the others, and does not serve."


def tell(
    member_id: UUID,
    host: str,
    state: str | None,
    message: str,
    *,
    latency_ms: float | None = None,
    identity: dict[str, Any] | None = None,
    profile: dict[str, Any] | None = None,
) -> None:
    """Write what this host saw; audited when the member goes away or comes back. ``state`` None leaves it as it is.

    Raises DatabaseError.
    """
    now = timezone.now()
    with change(Actor.system("hsm", f"keeper of HSMs on {host}")) as tx:
        member = (
            HsmMember.objects.select_for_update(of=("self",))
            .select_related("connection")
            .filter(pk=member_id)
            .first()
        )
        if member is None:
            return
        if identity:
            member.identity = identity
        if profile:
            member.profile = profile
        if state is not None:
            before = member.state
            member.hosts = {
                name: sight for name, sight in member.hosts.items() if name == host or _is_fresh(sight, now)
            } | {
                host: {
                    "state": str(state),
                    "message": message[:400],
                    "latency_ms": latency_ms,
                    "at": now.isoformat(),
                }
            }
            member.checked_at = now
            conclude(member)
            if member.state != before and before != State.UNKNOWN:
                note_member_state(tx, member, before, member.state, member.message)
        member.save(
            update_fields=["identity", "profile", "hosts", "checked_at", "state", "message", "latency_ms"]
        )


def conclude(member: HsmMember) -> None:
    """Set state, message and latency from what the hosts saw."""
    if not member.hosts:
        return
    sights = member.hosts
    states = {sight["state"] for sight in sights.values()}
    if states == {State.ACTIVE.value}:
        member.state = State.ACTIVE
    elif states == {State.UNAVAILABLE.value}:
        member.state = State.UNAVAILABLE
    else:
        member.state = State.DEGRADED
    bad = sorted(name for name, sight in sights.items() if sight["message"])
    messages = [
        f"{name}: {sights[name]['message']}" if len(sights) > 1 else sights[name]["message"] for name in bad
    ]
    alone = member.connection.members.count() == 1  # type: ignore[attr-defined]
    if member.state == State.ACTIVE and not alone and not member.compared:
        member.state = State.DEGRADED
        messages.insert(0, NOT_COMPARED)
    member.message = " ".join(messages)[:500]
    latencies = [sight["latency_ms"] for sight in sights.values() if sight.get("latency_ms") is not None]
    member.latency_ms = max(latencies, default=None)


def _is_fresh(sight: dict[str, Any], now: datetime) -> bool:
    try:
        return now - datetime.fromisoformat(sight["at"]) < FRESH
    except (KeyError, ValueError):
        return False
