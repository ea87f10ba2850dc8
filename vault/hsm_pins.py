"""PINs: where they come from, and the promise that a PIN which nobody knows to be right is tried once, by one process.

A token locks itself after a few wrong PINs, so that four processes which each try a mistyped one can take a company's keys
away. Every login of every process is therefore *claimed* in the database first, one at a time a member; a refusal is
remembered for the PIN's mark, and nobody tries that mark again. A claim that ends without a word (a crash in the midst of
the login) counts as a try whose end is unknown: after two of them the mark counts as refused.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from vault import keys
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.models import AuditEvent, HsmConnection, HsmMember
from vault.secret import Secret

CLAIM: Final = timedelta(seconds=90)
"""A login that takes longer has died; a helper that opens a token ends itself long before."""
MOST_UNKNOWN: Final = 2
_MOST_MARKS: Final = 50
_PREFIX: Final = "KEYSTEAD_HSM_PIN_"


class PinMissing(Exception):
    """A connection needs a PIN that is not to be had on this host. One line: cause and cure."""


def variable_of(connection: HsmConnection) -> str:
    """Return the name of the environment variable that holds a connection's PIN (or, with _FILE, names its file)."""
    return _PREFIX + re.sub(r"[^A-Z0-9]", "_", connection.name.upper())


def pin_of(connection: HsmConnection) -> Secret:
    """Return the PIN: unsealed, or from this process's environment. Raises PinMissing, and what vault.keys.unseal raises."""
    if connection.pin_source == HsmConnection.PinSource.STORED:
        if connection.pin is None:
            raise PinMissing("No PIN was given yet. Set one with Change PIN.")
        return keys.unseal(connection, "pin")
    name = variable_of(connection)
    value, file_name = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if value and file_name:
        raise PinMissing(f"The PIN is given twice, as {name} and {name}_FILE. Remove one of the two.")
    if file_name:
        try:
            with open(file_name, "rb") as file:
                value = file.read(1024).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise PinMissing(f"The file that {name}_FILE names cannot be read. Correct it.") from None
    if not value:
        raise PinMissing(
            f"This host has no PIN for it. Set {name}_FILE (or {name}) where keystead hsm serve runs."
        )
    return Secret(value)


def mark_of(connection: HsmConnection, pin: Secret) -> str:
    """Return what tells this PIN from others without telling it.

    A stored PIN by its version; one from outside by a digest besides, keyed with the secret key of the installation, which
    the database does not hold.
    """
    if connection.pin_source == HsmConnection.PinSource.STORED:
        return f"v{connection.pin_version}"
    key = settings.SECRET_KEY.encode()
    digest = hmac.new(key, b"keystead:hsm-pin:" + connection.pk.bytes + pin.reveal(), hashlib.sha256)
    return f"v{connection.pin_version}:{digest.hexdigest()[:24]}"


def is_refused(member: HsmMember, mark: str) -> bool:
    """Whether the token has refused this PIN before."""
    return mark in member.pin_refused_marks


def claim(member_id: UUID, mark: str, by: str) -> bool:
    """Get the right to log in to a member with this PIN, alone; False when somebody else is at it, or it was refused.

    End it with `accepted`, `refused` or `released`.
    """
    now = timezone.now()
    free = Q(pin_claim_until=None) | Q(pin_claim_until__lt=now)
    member = HsmMember.objects.filter(pk=member_id).first()
    if member is None or is_refused(member, mark):
        return False
    count = 1
    if member.pin_accepted_mark != mark and member.pin_claim_mark == mark:
        count = member.pin_claim_count + 1
    if count > MOST_UNKNOWN:
        if member.pin_claim_until is None or member.pin_claim_until < now:
            refused(member_id, mark, "its login never ended; it is not tried again until the PIN is changed")
        return False
    return bool(
        HsmMember.objects.filter(
            free,
            pk=member_id,
            # What was read must still hold: a refusal or another's try in between changes one of these.
            pin_claim_mark=member.pin_claim_mark,
            pin_claim_count=member.pin_claim_count,
            pin_accepted_mark=member.pin_accepted_mark,
            pin_claim_until=member.pin_claim_until,
        ).update(
            pin_claim_mark=mark, pin_claim_count=count, pin_claimed_by=by[:64], pin_claim_until=now + CLAIM
        )
    )


def accepted(member_id: UUID, mark: str) -> None:
    """The token took the PIN: others may log in with it, one after the other."""
    HsmMember.objects.filter(pk=member_id).update(
        pin_accepted_mark=mark, pin_claim_count=0, pin_claim_until=None, pin_refused_version=None
    )


def released(member_id: UUID, mark: str) -> None:
    """The token was not reached, so that no PIN was tried."""
    HsmMember.objects.filter(pk=member_id, pin_claim_mark=mark).update(
        pin_claim_count=0, pin_claim_until=None
    )


def unknown(member_id: UUID, mark: str) -> None:
    """The login ended without a word (a crash, a hang): the try counts, the next one may begin."""
    HsmMember.objects.filter(pk=member_id, pin_claim_mark=mark).update(pin_claim_until=None)


def refused(member_id: UUID, mark: str, message: str) -> None:
    """The token did not take the PIN: remembered, audited, and told to everybody by the row."""
    with change(Actor.system("hsm")) as tx:
        member = (
            HsmMember.objects.select_for_update(of=("self",))
            .select_related("connection")
            .filter(pk=member_id)
            .first()
        )
        if member is None:
            return
        news = mark not in member.pin_refused_marks
        if news:
            member.pin_refused_marks = [*member.pin_refused_marks, mark][-_MOST_MARKS:]
        member.pin_refused_version = int(mark[1:].partition(":")[0])
        member.pin_accepted_mark = "" if member.pin_accepted_mark == mark else member.pin_accepted_mark
        member.pin_claim_count = 0
        member.pin_claim_until = None
        member.state = HsmMember.State.UNAVAILABLE
        member.message = f"The PIN was refused: {message}"[:500]
        member.save(
            update_fields=[
                "pin_refused_marks", "pin_refused_version", "pin_accepted_mark", "pin_claim_count", "pin_claim_until",
                "state", "message",
            ]
        )  # fmt: skip
        if news:
            tx.audit(
                Action.HSM_PIN_REFUSED,
                member,
                outcome=AuditEvent.Outcome.FAILURE,
                detail={"connection": member.connection.name, "pin_version": member.pin_refused_version},
                reason=message,
            )
