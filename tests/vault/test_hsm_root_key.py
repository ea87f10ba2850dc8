"""The root key in an HSM: there from a file, over to another HSM, back; killed on the way; the HSM away."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction
from django.utils import timezone

from cloudkeys.models import CspAccount
from hsm.software import new_key
from tests.vault.hsm_world import ACTOR, PIN, hsm_world, until
from tests.vault.rootkeys import make_vault
from vault import health, hsm, keys, startup
from vault.actors import Actor
from vault.errors import Conflict, Unavailable, ValidationFailed
from vault.fields import WrappedBlob
from vault.keys import RootKeyAway, RootKeyForeign, ensure_root_key, seal, unseal
from vault.models import Errand, HsmKey, Installation, User, Vault
from vault.rewrap import RewrapRefused, move_root_to_hsm, rewrap_root
from vault.services.hsm import delete_connection, update_connection
from vault.services.root_key_move import ask_for_move, do_asked_moves

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def accounts(root_file):
    """Three vaults with a sealed secret each, under a root key in a file."""
    Installation.objects.all().delete()
    ensure_root_key(create_allowed=True)
    made = []
    for name in ("one", "two", "three"):
        with transaction.atomic():
            vault = make_vault(name)
            account = CspAccount(vault=vault, name=name, access_key_id="AKIA", default_region="eu-west-1")
            seal(account, "secret_access_key", f"secret of {name}")
            account.save()
            made.append(account)
    return made


@pytest.fixture
def world(monkeypatch, accounts):
    with hsm_world(monkeypatch, "one", "two") as world:
        monkeypatch.setenv("KEYSTEAD_HSM_PIN_LUNA_A", PIN)
        pin_file = world.folder / "pin"
        pin_file.write_text(PIN + "\n")
        monkeypatch.setenv("KEYSTEAD_HSM_PIN_LUNA_B_FILE", str(pin_file))
        yield world


def connect(world, label, name):
    """An HSM whose PIN comes from outside."""
    row = world.connect(label, name=name, pin=None, pin_source="external")
    if not world.keepers:
        world.keep()
    until(lambda: world.serving(row), 30, f"{name} serves")
    return row


def all_open(accounts):
    """Whether every secret is read, with nothing remembered."""
    keys.forget_keys()
    for account in accounts:
        fresh = CspAccount.objects.get(pk=account.pk)
        assert unseal(fresh, "secret_access_key").reveal_text() == f"secret of {account.name}"


def roots():
    """Ids of root keys that stored KEKs need."""
    blobs = [*Vault.objects.values_list("kek_blob", flat=True), Installation.objects.get().root_check_blob]
    return {WrappedBlob(each).key_id for each in blobs}


def test_file_to_hsm_to_other_hsm_to_file_killed_on_the_way(world, accounts, root_file, tmp_path):
    first = connect(world, "one", "luna-a")

    reached = []

    def kill_at(name):
        reached.append(name)
        if reached.count("vault-moved") == 1 and name == "vault-moved":
            raise Killed

    with pytest.raises(Killed):
        move_root_to_hsm(first, ACTOR, checkpoint=kill_at)
    assert len(roots()) == 2
    all_open(accounts)

    seen = []
    done = move_root_to_hsm(first, ACTOR, progress=lambda number, total: seen.append((number, total)))
    assert (done.moved, done.already) == (2, 2)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    root_file.unlink()
    all_open(accounts)
    in_hsm = HsmKey.objects.get(purpose="root")
    assert roots() == {in_hsm.cka_id}
    with transaction.atomic():
        assert make_vault("made since").kek_blob.key_id == in_hsm.cka_id

    with pytest.raises(Conflict, match="root key of this installation"):
        delete_connection(ACTOR, first.pk)
    with pytest.raises(ValidationFailed, match="it alone opens"):
        update_connection(ACTOR, first.pk, pin_source="stored", pin=PIN)
    with pytest.raises(CommandError, match="does not give it out"):
        call_command("keys_export_root", shares=2, threshold=2)

    connect(world, "two", "luna-b")
    call_command("keys_migrate_root", hsm="luna-b")
    all_open(accounts)
    second = HsmKey.objects.get(purpose="root", message="")
    assert roots() == {second.cka_id} != {in_hsm.cka_id}

    new_file = tmp_path / "new-root"
    new_file.write_bytes(new_key())
    new_file.chmod(0o600)
    rewrap_root(new_file, ACTOR)
    world.stop()
    all_open(accounts)


def test_a_move_asked_for_on_a_page_is_gone_on_with_when_a_worker_dies_and_when_the_hsm_is_away(
    world, accounts
):
    """As workers do it: one is killed in the midst; then the HSM is away; then it is done, and nobody had the page open."""
    first = connect(world, "one", "luna-a")
    admin = Actor(user=User.objects.create(email="admin@example.com", is_appliance_admin=True), via="web")
    asked = ask_for_move(admin, first.pk)
    total = Vault.objects.exclude(kek_blob=None).count() + 1

    def die(row, actor, *, progress):
        def counted(done, all_of_them):
            progress(done, all_of_them)
            if done == 2:
                raise Killed

        return move_root_to_hsm(row, actor, progress=counted)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vault.services.root_key_move.move_root_to_hsm", die)
        with pytest.raises(Killed):
            do_asked_moves()
    asked.refresh_from_db()
    assert (asked.state, asked.done, asked.total) == ("RUNNING", 2, total)
    assert do_asked_moves() == 0  # the lease of the dead one holds for a while
    assert len(roots()) == 2
    all_open(accounts)
    Errand.objects.update(lease_until=timezone.now() - timedelta(seconds=1))

    world.stop()
    keys.forget_keys()
    hsm.forget_groups()
    assert do_asked_moves() == 1
    asked.refresh_from_db()
    assert asked.state == "WAITING"
    assert asked.cause
    world.keep()
    until(lambda: not keys.root_problem(), 30, "the HSM is back")
    hsm.forget_groups()
    Errand.objects.update(next_try_at=timezone.now())
    assert do_asked_moves() == 1
    asked.refresh_from_db()
    assert (asked.state, asked.done, asked.total) == ("SUCCEEDED", total, total)
    assert roots() == {HsmKey.objects.get(purpose="root").cka_id}
    all_open(accounts)


def test_a_stored_pin_is_no_way_to_the_root_key(world, accounts):
    row = world.connect("one", name="inside")
    with pytest.raises(RewrapRefused, match="external"):
        move_root_to_hsm(row, ACTOR)
    assert not HsmKey.objects.filter(purpose="root").exists()


def test_with_the_hsm_away_a_process_starts_degraded_and_recovers(world, accounts, root_file):
    row = connect(world, "one", "luna-a")
    move_root_to_hsm(row, ACTOR)
    root_file.unlink()
    world.stop()
    keys.forget_keys()

    startup.check_root_key()  # does not raise

    assert health.problems() == []
    assert any("HSM that holds the root key" in each for each in health.root_key_warnings())
    fresh = CspAccount.objects.get(pk=accounts[0].pk)
    with pytest.raises(RootKeyAway, match="luna-a") as away:
        unseal(fresh, "secret_access_key")
    assert isinstance(away.value, Unavailable)  # 503 in the API, a page that says so in the web
    assert PIN not in str(away.value)

    world.keep()
    until(lambda: not keys.root_problem(), 30, "the root key is back")
    hsm.forget_groups()
    all_open(accounts)
    assert health.root_key_warnings() == []


def test_a_root_key_without_a_record_is_found_in_the_hsm_by_its_id(world, accounts):
    """As a restore on another machine needs it: the HSM is connected, the record is in the backup still."""
    row = connect(world, "one", "luna-a")
    key = hsm.create_hsm_key(row, purpose="root", vault=None, label="keystead-root")
    wrapped = keys.find_root(key.cka_id).encrypt(b"k" * 32, b"place")
    key.delete()
    keys.forget_keys()

    assert keys.find_root(key.cka_id).decrypt(wrapped, b"place") == b"k" * 32
    with pytest.raises(RootKeyForeign):
        keys.find_root("ab" * 16)
