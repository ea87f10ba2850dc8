"""What needs attention of HSMs: members that are down, PINs that were refused, keys on one member alone. Asks the database only."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count, Q

from vault.actors import Actor
from vault.attention import MOST_EXAMPLES, MOST_ROWS, Item, Ref, Severity
from vault.models import HsmConnection, HsmKey, HsmMember, Vault

_TARGET = "hsm_connection"


def hsm_items(actor: Actor, now: datetime) -> Iterator[Item]:
    """Of every connection. Three queries."""
    rows = list(HsmConnection.objects.prefetch_related("members").order_by("name")[:MOST_ROWS])
    for row in rows:
        yield from _of_connection(row)
    alone = (
        HsmKey.objects.filter(
            state=HsmKey.State.ACTIVE, connection__in=[row for row in rows if len(row.members.all()) > 1]
        )  # type: ignore[attr-defined]
        .exclude(purpose=HsmKey.Purpose.HEALTH)
        .order_by()
        .annotate(placed=Count("placements"))
        .filter(placed=1)
        .values_list("pk", "label", "connection_id")[:1000]
    )
    held: dict[object, list[Ref]] = {}
    for pk, label, connection_id in alone:
        held.setdefault(connection_id, []).append(Ref(str(pk), label))
    for row in rows:
        refs = held.get(row.pk, [])
        if refs:
            yield Item(
                kind="hsm.keys_alone",
                severity=Severity.WARNING,
                what=f"{len(refs):,} key{' is' if len(refs) == 1 else 's are'} on one member of {row.name} only.",
                why="If that member is lost, so is everything under them.",
                fix="Show keys",
                action="open_hsm",
                target_type=_TARGET,
                target_id=str(row.pk),
                target_name=row.name,
                count=len(refs),
                examples=tuple(refs[:MOST_EXAMPLES]),
            )


def vault_hsm_items(actor: Actor, vault: Vault, now: datetime) -> Iterator[Item]:
    """Of the connections in which this vault has keys, as far as they do not serve. Two queries."""
    rows = (
        HsmConnection.objects.filter(Q(keys__vault=vault) & ~Q(keys__state=HsmKey.State.DESTROYED))
        .distinct()
        .prefetch_related("members")
        .order_by("name")[:MOST_ROWS]
    )
    for row in rows:
        yield from _of_connection(row)


def _item(row: HsmConnection, kind: str, severity: Severity, what: str, why: str) -> Item:
    return Item(
        kind=kind,
        severity=severity,
        what=what,
        why=why,
        fix="Show HSM",
        action="open_hsm",
        target_type=_TARGET,
        target_id=str(row.pk),
        target_name=row.name,
    )


def _named(members: list[HsmMember]) -> str:
    return f"Member{'s' if len(members) > 1 else ''} {', '.join(str(each) for each in members)}"


def _of_connection(row: HsmConnection) -> Iterator[Item]:
    members: list[HsmMember] = list(row.members.all())  # type: ignore[attr-defined]
    if row.needs_pin and any(each.pin_refused_version == row.pin_version for each in members):
        yield _item(
            row,
            "hsm.pin_refused",
            Severity.CRITICAL,
            f"The HSM {row.name} refused its PIN.",
            "Nobody tries it again until it is changed, so that the token does not lock itself.",
        )
    down = [each for each in members if each.state == HsmMember.State.UNAVAILABLE]
    if members and len(down) == len(members):
        yield _item(
            row,
            "hsm.down",
            Severity.CRITICAL,
            f"No member of the HSM {row.name} answers.",
            "Keys that live in it are refused; nodes that start cannot open the keys that it wraps. Running nodes go on with those.",
        )
        return
    if down:
        told = next((f"{each.message.rstrip('.')}. " for each in down if each.message), "")
        yield _item(
            row,
            "hsm.member_down",
            Severity.WARNING,
            f"{_named(down)} of the HSM {row.name} {'is' if len(down) == 1 else 'are'} down.",
            f"{told}The others serve; new versions of keys wait until all hold them.",
        )
    lame = [each for each in members if each.state == HsmMember.State.DEGRADED]
    if lame:
        yield _item(
            row,
            "hsm.member_degraded",
            Severity.WARNING,
            f"{_named(lame)} of the HSM {row.name} {'is not as it' if len(lame) == 1 else 'are not as they'} should be.",
            next((each.message for each in lame if each.message), "Its page tells more."),
        )
