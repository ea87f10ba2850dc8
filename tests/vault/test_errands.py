"""Errands: asked for once, done by one worker, taken up again, and told as they end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from tests.cast import Cast
from vault import errands
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, Unavailable
from vault.models import Errand

KIND, TASK = "test.errand", "test.task"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that workers were told of."""
    told: list[str] = []
    monkeypatch.setattr("vault.errands.app.send_task", lambda name, **more: told.append(name))
    return told


def ask(actor: Actor, subject: Any, **more: Any) -> Errand:
    with change(actor):
        return errands.ask(actor, KIND, subject, TASK, **more)[0]


def test_asked_twice_it_is_one_and_a_worker_is_woken_once(cast: Cast, woken: list[str]) -> None:
    actor, subject = cast.actor("appliance"), uuid4()
    first = ask(actor, subject, input={"a": 1})
    assert ask(actor, subject).pk == first.pk
    assert (woken, Errand.objects.count()) == ([TASK], 1)
    seen: list[Any] = []

    def work(row: Errand, who: Actor, progress: errands.Progress) -> None:
        progress(2, 5)
        now = Errand.objects.get(pk=row.pk)
        seen.append((row.input, who.user, now.state, now.done, now.total))

    assert errands.run_due(KIND, work) == 1
    assert seen == [({"a": 1}, cast.users["appliance"], "RUNNING", 2, 5)]
    row = Errand.objects.get()
    assert (row.state, row.done, row.lease_until) == ("SUCCEEDED", 2, None)
    assert errands.run_due(KIND, work) == 0
    assert ask(actor, subject).state == "WAITING"  # done before: it is asked for anew
    assert len(woken) == 2


def test_a_broker_that_is_down_hinders_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*args: Any, **kwargs: Any) -> None:
        raise OSError("no broker")

    monkeypatch.setattr("vault.errands.app.send_task", down)
    ask(cast.actor("appliance"), uuid4())
    assert errands.run_due(KIND, lambda *given: None) == 1


def test_what_a_dead_worker_left_is_taken_up_and_the_dead_one_can_say_nothing_more(
    cast: Cast, woken: list[str]
) -> None:
    ask(cast.actor("appliance"), uuid4())

    def slow(row: Errand, who: Actor, progress: errands.Progress) -> None:
        assert errands.run_due(KIND, lambda *given: None) == 0  # leased
        Errand.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        assert errands.run_due(KIND, lambda *given: None) == 1
        progress(1, 2)
        raise AssertionError("its lease was lost")

    assert errands.run_due(KIND, slow) == 1
    row = Errand.objects.get()
    assert (row.state, row.done) == ("SUCCEEDED", 0)


def test_what_is_away_is_tried_again_and_what_is_refused_is_not(cast: Cast, woken: list[str]) -> None:
    actor, subject = cast.actor("appliance"), uuid4()
    ask(actor, subject)

    def away(*given: Any) -> None:
        raise Unavailable("The HSM does not answer.", cure="See to it.")

    assert errands.run_due(KIND, away) == 1
    row = Errand.objects.get()
    assert (row.state, row.cause, row.cure) == ("WAITING", "The HSM does not answer.", "See to it.")
    assert row.next_try_at is not None
    assert errands.run_due(KIND, away) == 0
    Errand.objects.update(next_try_at=timezone.now())

    def refused(*given: Any) -> None:
        raise Conflict("It is taken.", cure="Free it.")

    assert errands.run_due(KIND, refused) == 1
    row = Errand.objects.get()
    assert (row.state, row.cause, row.cure) == ("FAILED", "It is taken.", "Free it.")
    ask(actor, subject)

    def broken(*given: Any) -> None:
        raise RuntimeError("secret words")

    assert errands.run_due(KIND, broken) == 1
    row = Errand.objects.get()
    assert row.state == "FAILED"
    assert "secret words" not in row.cause + row.cure


def test_an_old_one_is_given_up_and_so_is_that_of_somebody_who_is_gone(cast: Cast, woken: list[str]) -> None:
    actor, subject = cast.actor("appliance"), uuid4()
    ask(actor, subject)
    Errand.objects.update(asked_at=timezone.now() - timedelta(hours=2))
    assert errands.run_due(KIND, lambda *given: None) == 0
    assert "within an hour" in Errand.objects.get().cause
    ask(actor, subject)
    type(cast.users["appliance"]).objects.filter(pk=cast.users["appliance"].pk).update(is_active=False)
    assert errands.run_due(KIND, lambda *given: None) == 1
    assert Errand.objects.get().cause == "Whoever asked for it is not there any more."
