"""What concerns a connection's members together: its health-check key, comparison, tests, keys that are on one member only."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog
from django.db import DatabaseError, close_old_connections, connections, transaction
from django.db.models import F, Q
from django.utils import timezone

from hsm import wire
from hsm.base import HsmError, KeyNotFound
from hsm.client import SyncMember
from hsm.compare import Comparison, compare
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.hsm_keys import Reached, check_flags, holds, leave, reach, remove_orphans, spread_key
from vault.hsm_locked import first_line
from vault.hsm_member import SLOW_MS, round_trip
from vault.hsm_sight import conclude
from vault.models import AuditEvent, HsmConnection, HsmKey, HsmKeyPlacement, HsmMember

if TYPE_CHECKING:
    from vault.hsm_keeper import Keeper

log = structlog.get_logger("keystead.hsm")

HEALTH_LABEL: Final = "keystead-health-check"
LOOK_S: Final = 1.0
SOON_S: Final = 2.0
SETTLED_S: Final = 60.0
SWEEP_S: Final = 60.0
SWEEP_AGE: Final = timedelta(minutes=10)
SWEEP_KEYS: Final = 200
MOST_RESIDENT: Final = 10
ROUNDS: Final = 20
MAKING: Final = timedelta(minutes=2)
HEALTH_FLAGS: Final = {
    "extractable": False,
    "sensitive": True,
    "encrypt": True,
    "decrypt": True,
    "wrap": True,
    "unwrap": True,
}


class ConnectionWatch(threading.Thread):
    """Looks after the members of one connection together, from this host."""

    def __init__(self, connection_id: UUID, host: str, keeper: Keeper) -> None:
        super().__init__(name=f"hsm-group-{str(connection_id)[:8]}", daemon=True)
        self.connection_id = connection_id
        self.host = host
        self.keeper = keeper
        self._stopping = threading.Event()
        self._compare_at = 0.0
        self._sweep_at = 0.0
        self._tested: UUID | None = None

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()

    def run(self) -> None:
        """Until told to stop."""
        while not self._stopping.is_set():
            try:
                self._turn()
            except DatabaseError as error:
                log.warning("hsm: the database does not answer", error=first_line(error))
            except Exception:
                log.exception(
                    "hsm: looking after a connection failed; it goes on", connection=str(self.connection_id)
                )
                self._stopping.wait(5)
            close_old_connections()
            self._stopping.wait(LOOK_S)
        connections.close_all()

    def _turn(self) -> None:
        row = HsmConnection.objects.filter(pk=self.connection_id).first()
        if row is None:
            self.stop()
            return
        now = time.monotonic()
        if now >= self._compare_at:
            settled = self._see_to_health_key(row) and compare_members(row)
            self._compare_at = now + (SETTLED_S if settled else SOON_S)
        if row.test_wanted is not None and row.test_wanted != self._tested:
            self._tested = row.test_wanted
            answer_test(row, row.test_wanted, self.host)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            sweep_keys(row)
            remove_orphans(row, timezone.now())

    def _see_to_health_key(self, row: HsmConnection) -> bool:
        """Whether the connection has a health-check key that some member holds; it is made where it is missing."""
        before = row.health_key
        try:
            found = ensure_health_key(row)
        except HsmError as error:
            log.info("hsm: no health-check key yet", connection=row.name, error=str(error))
            return False
        if found and row.health_key != before:
            for watch in self.keeper.members.values():
                watch.check_now()
        return found


# --- the health-check key -----------------------------------------------------------------------------------------


def ensure_health_key(row: HsmConnection) -> bool:
    """Find or make the health-check key, attributes verified; False while members are away that must have it.

    A key that is there is found by its CKA_ID or, the first time, by its label on every member. One that some member lacks
    (a new member) is replaced, for it cannot be copied. Raises HsmError.
    """
    members = reach(row)
    try:
        if not members:
            return False
        if row.health_key:
            holding = [holds(each, bytes.fromhex(row.health_key)) for each in _answering(members)]
            if holding and all(holding):
                return True
            if not holding or len(holding) < len(members):
                return any(holding)  # made anew only once everybody can be asked
        for each in members:
            each.call(wire.Status(0), timeout_s=3.0)
        found = _found_by_label(members)
        if found is not None:
            _take_health_key(row, found, made=False)
            return True
        return _make_health_key(row, members)
    finally:
        leave(members)


def _answering(members: list[Reached]) -> list[Reached]:
    found = []
    for each in members:
        try:
            each.call(wire.Status(0), timeout_s=3.0)
        except HsmError:
            continue
        found.append(each)
    return found


def _found_by_label(members: list[Reached]) -> bytes | None:
    """The CKA_ID of a fitting key that every member has under our label, if there is exactly one."""
    common: set[str] | None = None
    for each in members:
        ids = set((each.call(wire.FindByLabel(0, HEALTH_LABEL)).info or {}).get("keys", []))
        common = ids if common is None else common & ids
    for candidate in sorted(common or ()):
        key = bytes.fromhex(candidate)
        try:
            for each in members:
                check_flags(each, key, **HEALTH_FLAGS)
        except HsmError as error:
            log.warning(
                "hsm: a key with the health check's label is not fit for it", key=candidate, error=str(error)
            )
            continue
        if len(members) == 1 or compare([each.client for each in members], key).settled:
            return key
    return None


def _make_health_key(row: HsmConnection, members: list[Reached]) -> bool:
    """Make it on every member; one keeper does so, the others wait. Raises HsmError."""
    with transaction.atomic():
        HsmConnection.objects.select_for_update(of=("self",)).get(pk=row.pk)
        busy = HsmKey.objects.filter(
            connection=row,
            purpose=HsmKey.Purpose.HEALTH,
            state=HsmKey.State.PENDING,
            created_at__gt=timezone.now() - MAKING,
        ).exists()
        if busy:
            return False
        made = uuid.uuid4()
        key = HsmKey.objects.create(
            id=made, connection=row, purpose=HsmKey.Purpose.HEALTH, label=HEALTH_LABEL, cka_id=made.hex
        )
    try:
        first, *others = members
        if others:
            spread_key(members, made.bytes, HEALTH_LABEL, final="health")
            key.replication = HsmKey.Replication.REPLICATED
        else:
            first.call(wire.Generate(0, made.bytes, HEALTH_LABEL, "health"))
        for each in members:
            check_flags(each, made.bytes, **HEALTH_FLAGS)
    except BaseException:
        for each in members:
            try:
                each.call(wire.Destroy(0, made.bytes))
            except KeyNotFound:
                continue
            except HsmError:
                return False  # its row stays PENDING, and is seen to later
        key.delete()
        raise
    key.save(update_fields=["replication"])
    _take_health_key(row, made.bytes, made=True)
    return True


def _take_health_key(row: HsmConnection, key: bytes, *, made: bool) -> None:
    now = timezone.now()
    with change(Actor.system("hsm")) as tx:
        HsmKey.objects.filter(connection=row, purpose=HsmKey.Purpose.HEALTH, destroyed_at=None).exclude(
            cka_id=key.hex()
        ).exclude(state=HsmKey.State.PENDING).update(state=HsmKey.State.DESTROYED, destroyed_at=now)
        kept, _ = HsmKey.objects.update_or_create(
            connection=row,
            cka_id=key.hex(),
            destroyed_at=None,
            defaults={
                "purpose": HsmKey.Purpose.HEALTH,
                "state": HsmKey.State.ACTIVE,
                "label": HEALTH_LABEL,
                "adopted": not made,
                "swept_at": now,
            },
        )
        for member in HsmMember.objects.filter(connection=row):
            HsmKeyPlacement.objects.update_or_create(key=kept, member=member, defaults={"verified_at": now})
        HsmConnection.objects.filter(pk=row.pk).update(health_key=key.hex())
        tx.audit(
            Action.HSM_KEY_CREATE,
            kept,
            after={"connection": row.name, "cka_id": key.hex(), "purpose": "health", "found": not made},
        )
    row.health_key = key.hex()
    log.info("hsm: the health-check key", connection=row.name, made=made)


# --- comparison ---------------------------------------------------------------------------------------------------


def compare_members(row: HsmConnection) -> bool:
    """Find out which members hold the same keys, and let those serve; True when that is settled for all.

    Compared are the health-check key, every key that others depend on (root, wrapping), and a sample of resident keys. A
    member with another key under one of the ids is taken out of service; one that lacks a key is not, for the group turns to
    the others for that key, and the sweep reports it.
    """
    rows = list(HsmMember.objects.filter(connection=row).order_by("position"))
    if len(rows) == 1:
        if not rows[0].compared:
            _mark(rows[0].pk, compared=True, message="")
        return True
    reference = {str(each.pk) for each in rows if each.compared}
    clients: list[SyncMember] = []
    members = reach(row)
    try:
        clients = [each.client for each in members]
        health = compare(clients, bytes.fromhex(row.health_key), reference=reference)
        results = [
            health,
            *[compare(clients, bytes.fromhex(each), reference=reference) for each in _sample(row)],
        ]
    finally:
        leave(members)
    bad = {member: result for result in results for member in result.differing}
    for each in rows:
        name = str(each.pk)
        if name in bad:
            _mark(each.pk, compared=False, message=_words(bad[name], rows))
        elif name in health.fit:
            _mark(each.pk, compared=True, message="")
    return all(result.settled for result in results[:1]) and not bad


def _words(result: Comparison, rows: list[HsmMember]) -> str:
    names = {str(each.pk): str(each) for each in rows}
    others = ", ".join(names.get(each, each) for each in result.differing)
    return f"It holds another key under the id {result.key} than the other members ({others}), and does not serve."


def _sample(row: HsmConnection) -> list[str]:
    keys = HsmKey.objects.filter(connection=row, state=HsmKey.State.ACTIVE)
    needed = keys.filter(purpose__in=[HsmKey.Purpose.ROOT, HsmKey.Purpose.WRAPPING]).order_by("created_at")
    found = list(needed.values_list("cka_id", flat=True)[:200])
    resident = keys.filter(purpose=HsmKey.Purpose.RESIDENT).order_by("-swept_at")
    some = list(resident.values_list("cka_id", flat=True)[:200])
    return found + random.sample(some, min(MOST_RESIDENT, len(some)))


def _mark(member_id: UUID, *, compared: bool, message: str) -> None:
    with transaction.atomic():
        member = (
            HsmMember.objects.select_for_update(of=("self",))
            .select_related("connection")
            .filter(pk=member_id)
            .first()
        )
        if member is None or (member.compared == compared and not message):
            return
        member.compared = compared
        conclude(member)
        if message:
            member.message = message[:500]
        member.save(update_fields=["compared", "state", "message", "latency_ms"])
    log.warning("hsm: a member was compared", member=str(member), serves=compared, message=message)


# --- where keys are -----------------------------------------------------------------------------------------------


def sweep_keys(row: HsmConnection) -> int:
    """Look for some keys, those not looked at for longest, on every member that answers; report what went missing."""
    now = timezone.now()
    due = Q(swept_at=None) | Q(swept_at__lt=now - SWEEP_AGE)
    keys = list(
        HsmKey.objects.filter(due, connection=row, state=HsmKey.State.ACTIVE).order_by(
            F("swept_at").asc(nulls_first=True)
        )[:SWEEP_KEYS]
    )
    if not keys:
        return 0
    members = reach(row)
    try:
        answering = _answering(members)
        for key in keys:
            seen: dict[Reached, bool] = {}
            for each in answering:
                try:
                    seen[each] = holds(each, bytes.fromhex(key.cka_id))
                except HsmError:
                    continue
            _note_places(key, {each.row: there for each, there in seen.items()})
    finally:
        leave(members)
    return len(keys)


def _note_places(key: HsmKey, seen: dict[HsmMember, bool]) -> None:
    now = timezone.now()
    with change(Actor.system("hsm")) as tx:
        for member, there in seen.items():
            if there:
                HsmKeyPlacement.objects.update_or_create(
                    key=key, member=member, defaults={"verified_at": now}
                )
                continue
            gone, _ = HsmKeyPlacement.objects.filter(key=key, member=member).delete()
            if gone:
                tx.audit(
                    Action.HSM_KEY_MISSING,
                    key,
                    vault=key.vault,
                    outcome=AuditEvent.Outcome.FAILURE,
                    detail={
                        "member": str(member),
                        "connection": member.connection.name,
                        "cka_id": key.cka_id,
                    },
                )
                log.error("hsm: a member lost a key", member=str(member), key=key.cka_id)
        HsmKey.objects.filter(pk=key.pk).update(swept_at=now)


# --- tests --------------------------------------------------------------------------------------------------------


def answer_test(row: HsmConnection, wanted: UUID, host: str) -> None:
    """Test every member from this host and write the report, unless another host was faster."""
    members = reach(row)
    try:
        # A connection that was made a moment ago: its helpers are starting.
        ends = time.monotonic() + 8.0
        while time.monotonic() < ends and len(_answering(members)) < len(members):
            if all(_gave_up(each.row) for each in members):
                break
            time.sleep(0.3)
        with contextlib.suppress(HsmError):  # what is wrong with a member stands in its part of the report
            ensure_health_key(row)
        found = [_test_member(each, row) for each in members]
    finally:
        leave(members)
    row.refresh_from_db()
    report = {
        "id": str(wanted),
        "at": timezone.now().isoformat(),
        "host": host,
        "ok": all(each["ok"] for each in found),
        "members": found,
    }
    HsmConnection.objects.filter(pk=row.pk, test_wanted=wanted).update(test_report=report, test_wanted=None)


def _gave_up(member: HsmMember) -> bool:
    fresh = HsmMember.objects.filter(pk=member.pk).first()
    return fresh is None or fresh.state == HsmMember.State.UNAVAILABLE


def _test_member(member: Reached, row: HsmConnection) -> dict[str, Any]:
    fresh = HsmMember.objects.filter(pk=member.row.pk).first() or member.row
    result: dict[str, Any] = {
        "id": str(fresh.pk),
        "member": str(fresh),
        "ok": False,
        "login": "not tried",
        "round_trip": False,
        "latency_ms": None,
        "latency_max_ms": None,
        "possible": [],
        "missing": [],
        "warnings": [],
        "error": "",
    }
    if fresh.pin_refused_version == row.pin_version:
        result.update(login="refused", error=fresh.message or "The PIN was refused.")
        return result
    try:
        told = member.call(wire.Probe(0), timeout_s=20.0).info or {}
        result["login"] = "ok"
        profile = told.get("profile", {})
        result.update(possible=profile.get("possible", []), missing=profile.get("missing", []))
        HsmMember.objects.filter(pk=fresh.pk).update(profile=profile, identity=told.get("identity", {}))
        health = row.health_key or HsmConnection.objects.values_list("health_key", flat=True).get(pk=row.pk)
        if health:
            times = [
                round_trip(member.client, bytes.fromhex(health), row.timeout_ms / 1000) for _ in range(ROUNDS)
            ]
            result.update(round_trip=True, latency_ms=round(median(times), 2), latency_max_ms=max(times))
        else:
            result["warnings"].append("There is no health-check key yet; the round trip was not tried.")
    except HsmError as error:
        result["error"] = (
            fresh.message if type(error).__name__ == "HelperGone" and fresh.message else str(error)
        )
        return result
    if result["latency_ms"] is not None and result["latency_ms"] > SLOW_MS:
        result["warnings"].append(
            f"A call takes {result['latency_ms']:.0f} ms, more than {SLOW_MS:g}: AWS waits 250 ms for everything together."
        )
    if not result["possible"]:
        result["warnings"].append("Neither wrapped nor resident keys are possible with this token.")
    result["ok"] = result["round_trip"]
    return result
