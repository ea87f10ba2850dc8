"""A helper that was started again serves only once its member was compared with the others. Real tokens."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from hsm import wire
from hsm.base import HsmUnavailable
from tests.vault.hsm_world import hsm_world, until
from vault import hsm, hsm_gate
from vault.hsm_groups import client_of, socket_path
from vault.hsm_keys import leave, reach
from vault.keys import ensure_root_key
from vault.models import HsmConnection, HsmMember, Installation

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def two(monkeypatch, root_file):
    Installation.objects.all().delete()
    ensure_root_key(create_allowed=True)
    with hsm_world(monkeypatch, "one", "two") as world:
        yield world


def serving(two):
    """A connection of two members that serve, its keeper's watches by position, and the health-check key."""
    row = two.connect("one", "two")
    keeper = two.keep()
    until(lambda: two.serving(row), 30)
    key = bytes.fromhex(HsmConnection.objects.get().health_key)
    members = list(row.members.order_by("position"))
    watches = [keeper.members[each.pk] for each in members]
    until(lambda: all(each.gate.is_open for each in watches))
    for each in watches:
        each._began -= 120  # it has run well for long: started again at once
        until(lambda each=each: (each.gate._needed and each.gate._others) or each.check_now())
    return row, members, watches, key


def restart(watch):
    pid = watch.running.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: watch.running is not None and watch.running.pid != pid, 30, "another helper")


def replace_health_key(row, member, key):
    """Another key under the same id on one member, as after a restored or exchanged token."""
    members = reach(row)
    reached = next(each for each in members if each.row.pk == member.pk)
    reached.call(wire.Destroy(0, key))
    reached.call(wire.Generate(0, key, "keystead-health-check", "health"))
    leave(members)


def test_a_member_that_comes_back_with_other_keys_serves_nobody(two):
    row, (_, second), (_, watch), key = serving(two)
    replace_health_key(row, second, key)

    restart(watch)

    until(lambda: "another key" in row.members.get(pk=second.pk).message, what="it is told")
    assert row.members.get(pk=second.pk).compared is True, (
        "no other check has seen it yet, or it would prove nothing"
    )
    assert not watch.gate.is_open
    assert not Path(socket_path(second.pk)).exists()
    with closing(client_of(second)) as client, pytest.raises(HsmUnavailable):
        client.call(wire.Status(0), timeout_s=2)
    made = hsm.sync_group(row.pk).encrypt(key, b"value", b"aad", deadline=wire.boot_clock() + 5)
    assert made.ciphertext, "the other serves"


def test_a_member_that_comes_back_as_it_was_serves_at_once_also_with_all_started_anew(two):
    row, (first, second), (one, other), key = serving(two)
    began = time.monotonic()
    restart(other)
    until(lambda: other.gate.is_open)
    assert time.monotonic() - began < hsm_gate.ALONE_AFTER_S
    with closing(client_of(first)) as mine, closing(client_of(second)) as theirs:
        made = mine.encrypt(key, b"value", b"aad", verify=False, timeout_s=5)
        assert theirs.decrypt(key, made.nonce, made.ciphertext, b"aad", timeout_s=5) == b"value"

    for each in (one, other):
        each._began -= 120
    pids = {each.running.pid for each in (one, other)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # Each is the other's measure, though both wait.
    until(
        lambda: all(
            each.running and each.running.pid not in pids and each.gate.is_open for each in (one, other)
        ),
        25,
    )
    until(lambda: two.serving(row), 30)


def test_the_last_member_that_answers_serves_after_a_while(two, monkeypatch):
    monkeypatch.setattr(hsm_gate, "ALONE_AFTER_S", 2.0)
    _row, (first, _), (one, other), key = serving(two)
    with monkeypatch.context() as away:
        away.setattr(other, "_start", lambda rows: None)  # its token stays away
        os.kill(other.running.pid, signal.SIGKILL)
        until(lambda: other.running is None)
        restart(one)
        assert not one.gate.is_open
        until(lambda: one.gate.is_open, 15)
        with closing(client_of(first)) as client:
            assert client.encrypt(key, b"value", b"aad", verify=False, timeout_s=5).ciphertext
        # Whoever looks at the HSM sees it, until there is somebody to be compared with.
        one.check_now()
        until(lambda: "without having been compared" in HsmMember.objects.get(pk=first.pk).message)
        assert HsmMember.objects.get(pk=first.pk).state == HsmMember.State.DEGRADED
    until(lambda: other.running is not None and other.gate.is_open, 30)
    one.check_now()
    until(lambda: HsmMember.objects.get(pk=first.pk).state == HsmMember.State.ACTIVE, 30)


def test_an_only_member_waits_for_nobody(monkeypatch, root_file):
    Installation.objects.all().delete()
    ensure_root_key(create_allowed=True)
    with hsm_world(monkeypatch, "one") as world:
        row = world.connect("one")
        keeper = world.keep()
        until(lambda: world.serving(row), 30)
        (watch,) = keeper.members.values()
        watch._began -= 120
        monkeypatch.setattr(hsm_gate, "compare", None)
        restart(watch)
        until(lambda: watch.gate.is_open, 2)
