"""The chain over audit events: written with them, without gaps, and every kind of tampering shows."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, record_refusal
from vault.event_chain import FIRST_DIGEST, EventsBroken, check_events, link_digest
from vault.models import AuditChainHead, AuditEvent, AuditLink

pytestmark = pytest.mark.django_db


def write(count: int = 3) -> list[AuditEvent]:
    actor = Actor.system("cli")
    for number in range(count):
        with change(actor) as tx:
            tx.audit(
                Action.VAULT_UPDATE,
                None,
                target_name=f"vault {number}",
                before={"b": number, "a": "é", "nested": {"z": 1, "a": [1.5, None]}},
                after={"x": True},
                detail={"number": number},
            )
    return list(AuditEvent.objects.order_by("sequence"))


def first_bad(**signed: object) -> int:
    with pytest.raises(EventsBroken) as caught:
        check_events(**signed)  # type: ignore[arg-type]
    return caught.value.position


def test_events_of_every_kind_are_linked() -> None:
    write(2)
    record_refusal(Actor(source_ip="2001:db8::0:1"), Action.SIGN_IN_REFUSED, reason="wrong password")
    with change(Actor.system("cli")) as tx:
        tx.audit(Action.VAULT_CREATE, None)
        tx.audit(Action.VAULT_DISABLE, None)
    with change(Actor.system("cli")):
        pass  # nothing happened, nothing is linked
    assert check_events() == 5
    assert AuditChainHead.objects.get().position == 5


def test_nothing_yet() -> None:
    assert check_events() == 0


def test_a_rollback_leaves_no_gap() -> None:
    write(1)
    with transaction.atomic():
        write(2)
        transaction.set_rollback(True)
    write(1)
    assert list(AuditLink.objects.values_list("position", flat=True)) == [1, 2]
    assert check_events() == 2


def test_events_of_an_older_release_are_linked_first() -> None:
    AuditEvent.objects.create(action="old:one", detail={"a": 1})
    AuditEvent.objects.create(action="old:two", detail={})
    write(1)
    assert check_events() == 3
    assert AuditLink.objects.get(position=1).digest == link_digest(
        FIRST_DIGEST, AuditEvent.objects.get(action="old:one")
    )


def test_a_deleted_vault_changes_no_digest(cast) -> None:
    with change(Actor.system("cli")) as tx:
        tx.audit(Action.VAULT_UPDATE, cast.vault)
    count = check_events()
    AuditEvent.objects.filter(vault=cast.vault).update(vault=None)  # as the foreign key does by itself
    assert check_events() == count


@pytest.mark.parametrize("column", ["reason", "actor_name", "action", "outcome", "target_id", "vault_name"])
def test_edited(column: str) -> None:
    events = write()
    AuditEvent.objects.filter(pk=events[1].pk).update(**{column: "other"})
    assert first_bad() == 2


def test_edited_values() -> None:
    events = write()
    AuditEvent.objects.filter(pk=events[1].pk).update(after={"x": False})
    assert first_bad() == 2


def test_removed() -> None:
    events = write()
    events[1].delete()
    assert first_bad() == 2


def test_removed_with_its_link() -> None:
    events = write()
    AuditLink.objects.filter(sequence=events[1].sequence).delete()
    events[1].delete()
    assert first_bad() == 2


def test_swapped() -> None:
    write()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE vault_auditlink SET sequence = -sequence")
    first, second = AuditLink.objects.filter(position__in=(1, 2)).order_by("position")
    AuditLink.objects.filter(position=1).update(sequence=-second.sequence)
    AuditLink.objects.filter(position=2).update(sequence=-first.sequence)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE vault_auditlink SET sequence = -sequence WHERE sequence < 0")
    assert first_bad() == 1


def test_put_in() -> None:
    write()
    AuditEvent.objects.create(action="forged")
    with pytest.raises(EventsBroken, match="put in from outside"):
        check_events()


def test_made_anew_from_the_start() -> None:
    write()
    signed = {3: AuditLink.objects.get(position=3).digest}
    assert check_events(signed) == 3
    AuditEvent.objects.filter(sequence=AuditLink.objects.get(position=1).sequence).update(reason="forged")
    digest = FIRST_DIGEST
    for link in AuditLink.objects.order_by("position"):
        digest = link_digest(digest, AuditEvent.objects.get(sequence=link.sequence))
        AuditLink.objects.filter(pk=link.pk).update(digest=digest)
    assert check_events() == 3  # consistent in itself
    assert first_bad(signed=signed) == 3  # but not what was signed


def test_cut_at_the_end() -> None:
    events = write()
    signed = {3: AuditLink.objects.get(position=3).digest}
    AuditLink.objects.filter(position=3).delete()
    events[2].delete()
    assert check_events() == 2
    assert first_bad(signed=signed) == 3
