"""Mails about what needs attention: on change only, never storms, each person in their own time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail

from tests.cast import Cast
from vault import mail as our_mail
from vault.actors import Actor
from vault.attention import Item, Severity
from vault.models import AttentionMailbox, User, UserPreferences
from xks.services import attention_mails

pytestmark = pytest.mark.django_db
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CLOCK = Actor.system("worker", "keystead schedule")


def item(kind: str, severity: Severity = Severity.CRITICAL, what: str = "It fails.") -> Item:
    return Item(kind, severity, what, "Nobody can read.", "Mend", "mend", "cloud_key", "1", "one")


class World:
    """A clock, the items of the moment, and a mail server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        self.items: list[Item] = []
        monkeypatch.setattr(attention_mails.timezone, "now", lambda: self.now)
        monkeypatch.setattr(attention_mails, "attention_of_vault", lambda actor, vault: list(self.items))

    def run(self, **later: float) -> list[str]:
        """Let time pass, look, and return the subjects of the mails that were sent."""
        self.now += timedelta(**later)
        before = len(mail.outbox)
        sent = attention_mails.mail_attention(CLOCK)
        assert sent == len(mail.outbox) - before
        return [message.subject for message in mail.outbox[before:]]


@pytest.fixture
def world(cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Any) -> World:
    settings.MAIL_CONFIGURED = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    return World(monkeypatch)


def wish(cast: Cast, who: str, what: str) -> None:
    UserPreferences.objects.create(user=cast.users[who], attention_mail=what)


def test_nobody_who_did_not_ask_is_mailed(cast: Cast, world: World) -> None:
    world.items = [item("a")]
    wish(cast, "auditor", "OFF")
    assert world.run() == []


def test_critical_is_told_at_once_and_once(cast: Cast, world: World) -> None:
    wish(cast, "owner", "CRITICAL")
    world.items = [item("a"), item("b", Severity.WARNING)]
    assert world.run() == ["Payments: It fails."]
    assert mail.outbox[0].to == ["owner@example.com"]
    assert "What to do: Mend" in mail.outbox[0].body
    assert world.run(hours=1) == world.run(hours=30) == []


def test_new_ones_wait_a_quarter_of_an_hour_and_come_together(cast: Cast, world: World) -> None:
    wish(cast, "owner", "CRITICAL")
    world.items = [item("a")]
    assert len(world.run()) == 1
    world.items += [item("b"), item("c")]
    assert world.run(minutes=5) == []
    assert world.run(minutes=11) == ["Payments: 2 critical things"]


def test_what_flaps_is_told_once_a_day(cast: Cast, world: World) -> None:
    wish(cast, "owner", "CRITICAL")
    told = 0
    for _ in range(20):
        world.items = [item("a")]
        told += len(world.run(minutes=20))
        world.items = []
        told += len(world.run(minutes=20))
    assert told == 1
    assert world.run(hours=25) == []
    world.items = [item("a")]
    assert len(world.run(minutes=20)) == 1


def test_what_grows_critical_is_told_then(cast: Cast, world: World) -> None:
    wish(cast, "owner", "CRITICAL")
    world.items = [item("a", Severity.WARNING)]
    assert world.run() == []
    world.items = [item("a")]
    assert len(world.run(minutes=5)) == 1


def test_who_asks_late_hears_of_what_comes_then(cast: Cast, world: World) -> None:
    wish(cast, "owner", "CRITICAL")
    world.items = [item("a")]
    world.run()
    wish(cast, "auditor", "CRITICAL")
    assert world.run(minutes=20) == []
    world.items = [item("a"), item("b")]
    assert len(world.run(minutes=20)) == 2


def test_digest_comes_in_the_morning_of_the_person_and_only_when_something_changed(
    cast: Cast, world: World
) -> None:
    wish(cast, "owner", "DAILY")
    User.objects.filter(pk=cast.users["owner"].pk).update(time_zone="America/New_York")
    world.items = [item("a", Severity.WARNING, "Node x has not been heard of for 40 s.")]
    world.now = datetime(2026, 11, 22, 11, 30, tzinfo=UTC)  # half past six in New York
    assert world.run() == []
    assert world.run(minutes=45) == ["Payments: 1 things need attention"]
    assert world.run(hours=2) == []
    # The next day the same item, told with another age: nothing new.
    world.items = [item("a", Severity.WARNING, "Node x has not been heard of for 90 s.")]
    assert world.run(hours=24) == []
    world.items = []
    assert world.run(hours=24) == ["Payments: all is well again"]
    assert world.run(hours=24) == []


def test_a_mail_that_was_not_taken_is_tried_again(
    cast: Cast, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish(cast, "owner", "CRITICAL_AND_DAILY")
    world.items = [item("a")]
    with monkeypatch.context() as patch:
        patch.setattr(our_mail, "_send", lambda to, subject, body: False)
        assert world.run() == []
    assert len(world.run(minutes=2)) == 2


def test_a_mailbox_that_another_worker_holds_is_left_alone_until_its_claim_ends(
    cast: Cast, world: World
) -> None:
    wish(cast, "owner", "CRITICAL")
    AttentionMailbox.objects.create(
        vault=cast.vault,
        user=cast.users["owner"],
        critical_told_until=START,
        claimed_until=START + timedelta(minutes=5),
    )
    world.items = [item("a")]
    assert world.run(minutes=1) == []
    assert len(world.run(minutes=6)) == 1


def test_nothing_is_looked_at_without_a_mail_server(cast: Cast, world: World, settings: Any) -> None:
    settings.MAIL_CONFIGURED = False
    wish(cast, "owner", "CRITICAL")
    world.items = [item("a")]
    assert world.run() == []
    assert not AttentionMailbox.objects.exists()


def test_a_name_cannot_break_a_subject(cast: Cast, world: World) -> None:
    wish(cast, "owner", "CRITICAL")
    world.items = [item("a", what="Evil\r\nBcc: all@example.com fails.")]
    (subject,) = world.run()
    assert "\n" not in subject
    assert mail.outbox[0].recipients() == ["owner@example.com"]
