"""The keeper with real tokens: helpers, health, comparison, keys on every member, tests, and what it survives."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from hsm import wire
from tests.vault.hsm_world import ACTOR, PIN, hsm_world, until
from vault import hsm, hsm_pins
from vault.errors import Conflict
from vault.hsm_keys import leave, reach
from vault.hsm_member import MemberWatch
from vault.hsm_watch import compare_members, sweep_keys
from vault.keys import ensure_root_key
from vault.models import AuditEvent, HsmConnection, HsmKey, HsmKeyPlacement, HsmMember, Installation
from vault.services.hsm import (
    MemberSpec,
    delete_connection,
    keys_on_one_member,
    test_connection,
    update_connection,
)

test_connection.__test__ = False  # type: ignore[attr-defined]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def root_installed(root_file):
    """A root key in a file."""
    Installation.objects.all().delete()
    ensure_root_key(create_allowed=True)


@pytest.fixture
def one(monkeypatch, root_installed):
    with hsm_world(monkeypatch, "one") as world:
        yield world


@pytest.fixture
def two(monkeypatch, root_installed):
    with hsm_world(monkeypatch, "one", "two") as world:
        yield world


def test_a_connection_comes_to_serve_and_its_report_says_how(one):
    row = one.connect("one")
    one.keep()
    report = test_connection(ACTOR, row.pk)

    assert report["ok"], report
    (member,) = report["members"]
    assert member["login"] == "ok"
    assert member["round_trip"] is True
    assert 0 < member["latency_ms"] < 1000
    assert "hsm-resident" in member["possible"]
    row.refresh_from_db()
    health = HsmKey.objects.get(connection=row, purpose="health")
    assert row.health_key == health.cka_id
    assert health.state == "ACTIVE"
    told = hsm.sync_group(row.pk).call(
        wire.Describe(0, bytes.fromhex(row.health_key)), deadline=wire.boot_clock() + 5
    )
    for name, value in {
        "extractable": False,
        "sensitive": True,
        "encrypt": True,
        "decrypt": True,
        "wrap": True,
        "unwrap": True,
    }.items():
        assert told.info[name] is value
    seen = until(lambda: one.serving(row) and row.members.get(), what="ACTIVE")
    assert seen.identity["model"]
    assert seen.pin_accepted_mark == "v1"
    until(lambda: row.members.get().latency_ms is not None)


def test_keys_are_made_on_both_members_and_cannot_be_taken_out(two):
    row = two.connect("one", "two", routing="active-active")
    two.keep()
    until(lambda: two.serving(row), 30, "both members compared and active")

    key = hsm.create_hsm_key(row, purpose="resident", vault=None, label="shared", replication="replicated")

    assert key.state == "ACTIVE"
    assert key.cka_id == key.pk.hex
    assert HsmKeyPlacement.objects.filter(key=key).count() == 2
    group = hsm.sync_group(row.pk)
    for member in row.members.all():
        alone = group.hold([str(member.pk)])
        told = alone.call(wire.Describe(0, key.pk.bytes), deadline=wire.boot_clock() + 5).info
        assert (told["extractable"], told["sensitive"]) == (False, True)
    first, second = [group.hold([str(each.pk)]) for each in row.members.order_by("position")]
    made = first.encrypt(key.pk.bytes, b"value", b"aad", deadline=wire.boot_clock() + 5)
    assert (
        second.decrypt(key.pk.bytes, made.nonce, made.ciphertext, b"aad", deadline=wire.boot_clock() + 5)
        == b"value"
    )
    assert AuditEvent.objects.filter(action="vault:hsm_key:create", target_id=str(key.pk)).exists()

    with pytest.raises(Conflict, match="1 key version"):
        delete_connection(ACTOR, row.pk)

    # The same key goes missing on one member: found, reported.
    members = reach(row)
    members[1].call(wire.Destroy(0, key.pk.bytes))
    leave(members)
    HsmKey.objects.filter(pk=key.pk).update(swept_at=None)
    sweep_keys(row)
    assert [each.pk for each in keys_on_one_member(ACTOR, row.pk)] == [key.pk]
    assert AuditEvent.objects.filter(action="vault:hsm_key:missing", target_id=str(key.pk)).count() == 1

    hsm.destroy_hsm_key(key, actor=ACTOR)
    hsm.destroy_hsm_key(key, actor=ACTOR)
    delete_connection(ACTOR, row.pk)
    assert not HsmConnection.objects.exists()


def test_a_device_bound_key_that_does_not_reach_the_other_member_leaves_nothing(two, monkeypatch):
    monkeypatch.setattr("vault.hsm_keys.REPLICATION_WAIT_S", 0.5)
    row = two.connect("one", "two")
    two.keep()
    until(lambda: two.serving(row), 30)

    with pytest.raises(Exception, match="did not appear on two") as refused:
        hsm.create_hsm_key(row, purpose="resident", vault=None, label="bound", replication="device-bound")

    assert refused.value.code == "unavailable"
    assert not HsmKey.objects.exclude(purpose="health").exists()
    found = hsm.sync_group(row.pk).call(wire.FindByLabel(0, "bound"), deadline=wire.boot_clock() + 5)
    assert found.info["keys"] == []


def test_a_helper_that_is_killed_comes_back_and_the_audit_record_tells(one):
    row = one.connect("one")
    keeper = one.keep()
    until(lambda: one.serving(row), 30)
    (watch,) = keeper.members.values()
    pid = watch.running.pid

    os.kill(pid, signal.SIGKILL)

    until(lambda: watch.running is not None and watch.running.pid != pid, what="another helper")
    until(
        lambda: AuditEvent.objects.filter(action="vault:hsm_member:state").count() >= 2, what="gone and back"
    )
    assert until(lambda: one.serving(row))


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite has one writer")
def test_a_helper_that_is_killed_comes_back_while_another_process_holds_the_database(one):
    """Somebody's long transaction must not keep an HSM away."""
    row = one.connect("one")
    keeper = one.keep()
    until(lambda: one.serving(row))
    (watch,) = keeper.members.values()
    watch._began -= 120  # it has run well for long
    before = watch.running.pid
    group = hsm.sync_group(row.pk)
    key = bytes.fromhex(until(lambda: HsmConnection.objects.get().health_key))

    writer = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    with contextlib.closing(writer):
        writer.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        os.kill(before, signal.SIGKILL)
        back = until(lambda: (it := watch.running) and it.pid != before and it.ready and it, within_s=15)
        assert time.monotonic() - began < 12
        made = group.encrypt(key, b"value", b"aad", deadline=wire.boot_clock() + 5)
        assert made.ciphertext
        writer.execute("ROLLBACK")

    # What could not be written is written afterwards, and nothing was started twice.
    until(lambda: one.serving(row) and HsmMember.objects.get().pin_accepted_mark == "v1")
    assert watch.running is back
    assert back.exit_code is None
    assert HsmMember.objects.get().pin_refused_marks == []


def test_a_refused_pin_is_tried_once_though_the_refusal_cannot_be_written(one, monkeypatch):
    attempts = []
    launch = MemberWatch._launch

    def counted(self, plan, pin, socket):
        attempts.append(pin)
        return launch(self, plan, pin, socket)

    refused = hsm_pins.refused
    locked = [True]

    def write(*args):
        if locked[0]:
            raise OperationalError("database is locked")
        refused(*args)

    monkeypatch.setattr(MemberWatch, "_launch", counted)
    monkeypatch.setattr(hsm_pins, "refused", write)
    monkeypatch.setattr(hsm_pins, "CLAIM", timedelta(0))
    row = one.connect("one", pin="not the PIN")
    keeper = one.keep()
    until(lambda: attempts and keeper.members and next(iter(keeper.members.values()))._refusals)
    time.sleep(5)

    assert len(attempts) == 1
    assert HsmMember.objects.get().pin_refused_marks == []
    locked[0] = False
    until(lambda: HsmMember.objects.get().pin_refused_marks == ["v1"])
    assert len(attempts) == 1
    assert AuditEvent.objects.filter(action="vault:hsm_pin:refuse").count() <= 1
    assert not one.serving(row)


def test_a_helper_that_hangs_is_killed_and_replaced(one):
    row = one.connect("one")
    keeper = one.keep()
    until(lambda: one.serving(row), 30)
    HsmConnection.objects.filter(pk=row.pk).update(timeout_ms=500)
    (watch,) = keeper.members.values()
    until(lambda: watch._plan.timeout_ms == 500 and watch.running is not None and one.serving(row))
    pid = watch.running.pid

    os.kill(pid, signal.SIGSTOP)
    watch.check_now()

    until(lambda: watch.running is not None and watch.running.pid != pid, 30, "another helper")
    until(lambda: one.serving(row))


def test_a_member_with_other_keys_does_not_serve(two):
    row = two.connect("one", "two")
    two.keep()
    until(lambda: two.serving(row), 30)
    wrong = HsmKey.objects.create(connection=row, purpose="wrapping", label="twice", cka_id="")
    HsmKey.objects.filter(pk=wrong.pk).update(cka_id=wrong.pk.hex, state="ACTIVE", swept_at=timezone.now())
    members = reach(row)
    for each in members:
        each.call(wire.Generate(0, wrong.pk.bytes, "twice", "wrapping"))
    leave(members)

    HsmMember.objects.filter(connection=row, position=1).update(compared=False)
    assert compare_members(row) is False

    first, second = row.members.order_by("position")
    assert (first.compared, second.compared) == (True, False)
    assert "another key" in second.message
    record = next(each for each in hsm.group_records() if each.id == str(row.pk))
    assert [each.fit for each in record.members] == [True, False]


def test_removing_the_member_that_alone_holds_a_key_is_refused_and_names_it(two):
    row = two.connect("one", "two")
    two.keep()
    until(lambda: two.serving(row), 30)
    key = hsm.create_hsm_key(row, purpose="resident", vault=None, label="lonely", replication="replicated")
    HsmKeyPlacement.objects.filter(key=key, member__token_label="two").delete()

    with pytest.raises(Conflict, match="one alone holds lonely"):
        update_connection(ACTOR, row.pk, members=[MemberSpec(label="two")])
    assert row.members.count() == 2
    assert PIN not in str(list(AuditEvent.objects.values_list("after", "before", "detail")))
