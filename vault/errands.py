"""Asking for an errand, and doing it in a worker. What is done in somebody's name is done with their rights at that moment.

A room that has errands gives its own Celery task, which calls `run_due` with what is to be done; the same task is in the schedule,
so that a lost message, or a worker that died, costs seconds.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from vault.actors import Actor
from vault.celery import app
from vault.errors import DomainError, PermissionDenied, Unavailable
from vault.models import Errand, Vault

log = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=2)
"""Longer than one step of any errand; a worker that died is missed for so long."""
AGAIN: Final = timedelta(seconds=15)
GIVE_UP: Final = timedelta(hours=1)
"""How long after it was asked for an errand is begun or tried again: a restored backup does not go on with old ones."""

Progress = Callable[[int, int], None]
Work = Callable[[Errand, Actor, Progress], None]


class LeaseLost(Exception):
    """Another worker does this errand now."""


def ask(
    actor: Actor,
    kind: str,
    subject_id: UUID,
    task: str,
    *,
    vault: Vault | None = None,
    input: dict[str, Any] | None = None,
) -> tuple[Errand, bool]:
    """Ask for an errand, inside the caller's `change()`; the caller has authorised. One under way is left as it is.

    Returns the row, and whether it was asked for anew.
    """
    now = timezone.now()
    row, _ = Errand.objects.select_for_update().get_or_create(
        kind=kind,
        subject_id=subject_id,
        defaults={"vault": vault, "asked_at": now, "state": Errand.State.SUCCEEDED},
    )
    if row.under_way and row.asked_at > now - GIVE_UP:
        return row, False
    row.vault, row.input, row.state = vault, input or {}, Errand.State.WAITING
    row.done = row.total = 0
    row.cause = row.cure = row.lease_owner = ""
    row.requested_by, row.requested_by_name = actor.user, actor.display_name[:254]
    row.via, row.source_ip, row.request_id = actor.via, actor.source_ip, actor.request_id
    row.asked_at, row.started_at, row.next_try_at, row.lease_until, row.finished_at = (
        now,
        None,
        None,
        None,
        None,
    )
    row.save()
    transaction.on_commit(lambda: _wake(task))
    return row, True


def _wake(task: str) -> None:
    try:
        app.send_task(task, ignore_result=True, retry=False, expires=60)
    except Exception as error:
        # Any transport has exceptions of its own, and nobody waits for a broker that is down: the schedule makes up for it.
        log.warning("no worker woken for %s (%s); the schedule finds it", task, type(error).__name__)


def last_errand(kind: str, subject_id: UUID | None = None) -> Errand | None:
    """The last errand of a kind, on one thing or on any. One query."""
    rows = Errand.objects.filter(kind=kind)
    rows = rows.filter(subject_id=subject_id) if subject_id is not None else rows
    return rows.order_by("-asked_at").first()


def run_due(kind: str, work: Work) -> int:
    """Do every errand of this kind that is due; return how many were seen to. Outside a transaction."""
    number = 0
    _give_up(kind)
    while (row := _claim(kind)) is not None:
        _run(row, work)
        number += 1
    return number


def _give_up(kind: str) -> None:
    now = timezone.now()
    # With a lease that holds, somebody is at work, however long it takes.
    Errand.objects.filter(Q(lease_until=None) | Q(lease_until__lt=now)).filter(
        kind=kind, state__in=Errand.UNFINISHED, asked_at__lt=now - GIVE_UP
    ).update(
        state=Errand.State.FAILED,
        cause="No worker finished it within an hour.",
        cure="See System for the workers, then ask for it again.",
        finished_at=now,
    )


def _claim(kind: str) -> Errand | None:
    now = timezone.now()
    free = Q(state=Errand.State.WAITING) & (Q(next_try_at=None) | Q(next_try_at__lte=now))
    abandoned = Q(state=Errand.State.RUNNING, lease_until__lt=now)
    for pk in list(
        Errand.objects.filter(free | abandoned, kind=kind).order_by("asked_at").values_list("pk", flat=True)
    ):
        owner = uuid.uuid4().hex
        taken = Errand.objects.filter(free | abandoned, pk=pk).update(
            state=Errand.State.RUNNING, lease_owner=owner, lease_until=now + LEASE, started_at=now
        )
        if taken:
            return Errand.objects.select_related("requested_by").get(pk=pk)
    return None


def _run(row: Errand, work: Work) -> None:
    owner = row.lease_owner

    def tell(**values: Any) -> None:
        if not Errand.objects.filter(pk=row.pk, lease_owner=owner).update(**values):
            raise LeaseLost

    def progress(done: int, total: int) -> None:
        tell(done=done, total=total, lease_until=timezone.now() + LEASE)

    def end(state: str, cause: str = "", cure: str = "") -> None:
        tell(
            state=state,
            cause=cause[:1000],
            cure=cure[:1000],
            lease_until=None,
            next_try_at=None,
            finished_at=timezone.now(),
        )

    try:
        try:
            work(row, _actor_of(row), progress)
        except LeaseLost:
            raise
        except Unavailable as error:
            if row.asked_at < timezone.now() - GIVE_UP + AGAIN:
                end(Errand.State.FAILED, str(error), error.cure)
            else:
                tell(
                    state=Errand.State.WAITING,
                    cause=str(error)[:1000],
                    cure=error.cure[:1000],
                    next_try_at=timezone.now() + AGAIN,
                    lease_until=None,
                )
        except DomainError as error:
            end(Errand.State.FAILED, str(error), error.cure)
        except Exception:
            log.exception("an errand failed: %s", row.kind)
            end(Errand.State.FAILED, "Something went wrong that was not foreseen.", "See the worker's log.")
        else:
            end(Errand.State.SUCCEEDED)
    except LeaseLost:
        log.warning("%s is done by another worker now", row.kind)


def _actor_of(row: Errand) -> Actor:
    if row.requested_by is None or not row.requested_by.is_active:
        raise PermissionDenied("Whoever asked for it is not there any more.", cure="Ask for it yourself.")
    return Actor(user=row.requested_by, via=row.via, source_ip=row.source_ip, request_id=row.request_id)
