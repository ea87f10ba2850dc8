"""PINs: tried once by one of many, remembered when refused, seen by nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core import serializers
from django.db import connections
from django.utils import timezone

from hsm.base import HsmAuthenticationFailed, HsmUnavailable
from tests.vault.hsm_world import ACTOR, PIN, hsm_world, until
from vault import hsm_pins
from vault.errors import ValidationFailed
from vault.hsm_keeper import Keeper
from vault.hsm_modules import check_environment, check_module
from vault.keys import ensure_root_key, unseal
from vault.models import AuditEvent, HsmConnection, HsmMember, Installation
from vault.secret import Secret
from vault.services.hsm import MemberSpec, change_pin, create_connection, update_connection
from vault.services.hsm import test_connection as run_test

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
WRONG = "0000-Wrong-Kettle"


@pytest.fixture
def root_installed(root_file):
    """A root key in a file."""
    Installation.objects.all().delete()
    ensure_root_key(create_allowed=True)


@pytest.fixture
def one(monkeypatch, root_installed):
    with hsm_world(monkeypatch, "one") as world:
        yield world


class Counting:
    """Stands for a token that refuses every PIN, and counts how often one reaches it."""

    def __init__(self) -> None:
        self.tried: list[bytes] = []

    def __call__(self, config, *, environment=None, stderr=None):
        self.tried.append(config.pin)
        return _Refusing()


class _Refusing:
    exit_code = 65
    pid = 0
    ready = None

    def poll_ready(self):
        raise HsmAuthenticationFailed("the PIN is wrong (CKR_PIN_INCORRECT)")

    def kill(self):
        pass

    def stop(self, timeout_s=0):
        pass


def member_of(row):
    return HsmMember.objects.get(connection=row)


def test_of_four_keepers_one_tries_a_wrong_pin_and_none_again(one):
    row = one.connect("one", pin=WRONG)
    token = Counting()
    keepers = [Keeper(spawn_helper=token, host=f"host-{number}") for number in range(4)]
    try:
        for keeper in keepers:
            keeper.look()
        until(lambda: member_of(row).pin_refused_version == 1)
        for keeper in keepers:
            for watch in keeper.members.values():
                watch._wake.set()
        until(lambda: len(member_of(row).hosts) == 4, 15, "all four have told why they do not try")
        assert token.tried == [WRONG.encode()]

        change_pin(ACTOR, row.pk, Secret("1111-Another-Wrong"))
        until(lambda: len(token.tried) == 2)
        until(lambda: member_of(row).pin_refused_version == 2)
        until(lambda: "the PIN" in member_of(row).message, 15, "told instead of that another was just trying")
    finally:
        for keeper in keepers:
            keeper.end()
    assert len(token.tried) == 2
    assert AuditEvent.objects.filter(action="vault:hsm_pin:refuse").count() == 2


FOUR = """
import os, sys, time
import django
django.setup()
from vault import hsm_pins
member, mark, log = sys.argv[1:]
tried = 0
ends = time.monotonic() + 4
while time.monotonic() < ends:
    if hsm_pins.claim(member, mark, str(os.getpid())):
        with open(log, "ab", buffering=0) as file:
            file.write(b"tried\\n")
        time.sleep(0.2)
        hsm_pins.refused(member, mark, "wrong")
    time.sleep(0.01)
"""


def test_four_processes_at_once_reach_the_token_once(one, tmp_path):
    row = one.connect("one", pin=WRONG)
    member = member_of(row)
    log = tmp_path / "tries"
    log.touch()
    database = connections["default"].settings_dict
    environ = dict(os.environ) | {"DJANGO_SETTINGS_MODULE": "vault.settings", "KEYSTEAD_SECRET_KEY": "x" * 60}
    if connections["default"].vendor == "postgresql":
        host = database["HOST"]
        url = f"postgres://{database['USER']}:{database['PASSWORD']}@{host}:{database['PORT']}/{database['NAME']}"
        environ["KEYSTEAD_DATABASE_URL"] = url
    else:
        pytest.skip("the test's database of SQLite is its process's own")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FOUR, str(member.pk), "v1", str(log)], env=environ, cwd=Path.cwd()
        )
        for _ in range(4)
    ]
    assert [each.wait(40) for each in processes] == [0, 0, 0, 0]
    assert log.read_text() == "tried\n"
    assert member_of(row).pin_refused_marks == ["v1"]


def test_a_real_token_sees_a_wrong_pin_once_and_then_the_right_one(one):
    row = one.connect("one", pin=WRONG)
    one.keep()
    until(lambda: member_of(row).pin_refused_version == 1, 20)
    report = run_test(ACTOR, row.pk)
    assert report["ok"] is False
    assert report["members"][0]["login"] == "refused"

    change_pin(ACTOR, row.pk, Secret(PIN))

    until(lambda: one.serving(row), 30, "it serves with the right PIN")
    assert member_of(row).pin_refused_version is None
    assert member_of(row).pin_accepted_mark == "v2"


def test_a_wrong_new_pin_leaves_the_helper_that_is_logged_in(one):
    row = one.connect("one")
    keeper = one.keep()
    until(lambda: one.serving(row), 30)
    (watch,) = keeper.members.values()
    pid = watch.running.pid

    change_pin(ACTOR, row.pk, Secret(WRONG))

    until(lambda: member_of(row).pin_refused_version == 2, 20)
    watch.check_now()
    until(lambda: one.serving(row), 20, "it goes on with what it was logged in with")
    assert watch.running.pid == pid


def test_a_login_that_ends_without_a_word_counts_and_is_not_tried_for_ever(one):
    row = one.connect("one")
    member = member_of(row)
    for _ in range(hsm_pins.MOST_UNKNOWN):
        assert hsm_pins.claim(member.pk, "v1", "host")
        assert not hsm_pins.claim(member.pk, "v1", "another")
        hsm_pins.unknown(member.pk, "v1")
    assert not hsm_pins.claim(member.pk, "v1", "host")
    assert member_of(row).pin_refused_marks == ["v1"]
    assert hsm_pins.claim(member.pk, "v2", "host")


def test_a_token_that_was_not_reached_has_not_tried_a_pin(one):
    row = one.connect("one")
    member = member_of(row)
    for _ in range(5):
        assert hsm_pins.claim(member.pk, "v1", "host")
        hsm_pins.released(member.pk, "v1")
    HsmMember.objects.filter(pk=member.pk).update(pin_claim_until=timezone.now() - hsm_pins.CLAIM)
    assert hsm_pins.claim(member.pk, "v1", "host")
    assert HsmUnavailable.permanent is False


def test_a_pin_is_in_no_process_list_environment_dump_log_or_message(one, capfd, caplog):
    row = one.connect("one")
    keeper = one.keep()
    until(lambda: one.serving(row), 30)
    (watch,) = keeper.members.values()
    pid = watch.running.pid
    for name in ("cmdline", "environ"):
        for each in (pid, os.getpid()):
            assert PIN.encode() not in Path(f"/proc/{each}/{name}").read_bytes()
    row.refresh_from_db()
    shown = [
        serializers.serialize("json", [row, *row.members.all()]),
        repr(row.__dict__),
        json.dumps(list(AuditEvent.objects.values("before", "after", "detail", "reason")), default=str),
        repr(vars(watch)),
        repr(watch._plan.config(Secret(PIN), "/s", "")),
    ]
    stored = bytes(HsmConnection.objects.values_list("pin", flat=True).get(pk=row.pk))
    assert PIN.encode() not in stored
    assert unseal(row, "pin") == Secret(PIN)
    one.stop()
    out, err = capfd.readouterr()
    for text in [*shown, out, err, caplog.text]:
        assert PIN not in text


def test_a_pin_from_outside(one, monkeypatch):
    row = one.connect("one", name="Luna A", pin=None, pin_source="external")
    assert hsm_pins.variable_of(row) == "KEYSTEAD_HSM_PIN_LUNA_A"
    with pytest.raises(hsm_pins.PinMissing, match="KEYSTEAD_HSM_PIN_LUNA_A_FILE"):
        hsm_pins.pin_of(row)
    file = one.folder / "pin"
    file.write_text(f"{PIN}\n")
    monkeypatch.setenv("KEYSTEAD_HSM_PIN_LUNA_A_FILE", str(file))
    assert hsm_pins.pin_of(row) == Secret(PIN)
    mark = hsm_pins.mark_of(row, Secret(PIN))
    assert mark.startswith("v1:")
    assert mark != hsm_pins.mark_of(row, Secret(WRONG))
    with pytest.raises(ValidationFailed, match="no PIN is kept"):
        update_connection(ACTOR, row.pk, pin=Secret(PIN))
    one.keep()
    until(lambda: one.serving(row), 30)


@pytest.mark.parametrize(
    "path", ["libsofthsm2.so", "/etc/passwd", "/usr/lib/softhsm/../../../etc/passwd", "/tmp/evil.so"]
)
def test_a_module_from_elsewhere_is_refused(path, monkeypatch):
    monkeypatch.setenv("KEYSTEAD_HSM_MODULE_DIRS", "/usr/lib/softhsm")
    with pytest.raises(ValidationFailed) as refused:
        create_connection(ACTOR, name="x", module_path=path, members=[MemberSpec("1")], pin="1")
    assert refused.value.field == "module_path"


def test_a_link_out_of_the_folder_and_a_file_for_all_to_write_are_refused(tmp_path, monkeypatch):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "evil.so").write_bytes(b"")
    (inside / "link.so").symlink_to(outside / "evil.so")
    open_to_all = inside / "open.so"
    open_to_all.write_bytes(b"")
    open_to_all.chmod(0o666)
    monkeypatch.setenv("KEYSTEAD_HSM_MODULE_DIRS", str(inside))
    for name in ("link.so", "open.so"):
        with pytest.raises(ValidationFailed, match="not allowed"):
            check_module(str(inside / name))
    with pytest.raises(ValidationFailed, match="not on this host"):
        check_module(str(inside / "none.so"), must_exist=True)


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "PYTHONPATH", "KEYSTEAD_SECRET_KEY", "HOME"])
def test_variables_that_name_code_are_refused_even_when_added(name, monkeypatch):
    if name != "HOME":
        monkeypatch.setenv("KEYSTEAD_HSM_VARIABLES", name)
    with pytest.raises(ValidationFailed, match="not allowed"):
        check_environment({name: "x"})
    assert check_environment({"SOFTHSM2_CONF": "/a"}) == {"SOFTHSM2_CONF": "/a"}
