import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction

from cloudkeys.models import CspAccount
from hsm.software import SoftwareKeyWrapper, wrapping_key_id
from tests.vault.rootkeys import make_vault, write_key
from vault import keys, rewrap, rootkey
from vault.actors import Actor
from vault.keys import ensure_root_key, seal, unseal
from vault.models import AuditEvent, Installation, Vault
from vault.rewrap import RewrapRefused, rewrap_root

pytestmark = pytest.mark.django_db(transaction=True)
ACTOR = Actor.system("cli")
CHECKPOINTS = [
    "next-placed",
    "installation-moved",
    "vault-moved",
    "verified",
    "previous-kept",
    "files-switched",
]


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs, nothing catches it."""


@pytest.fixture
def accounts(root_file):
    """Three vaults with a sealed secret each."""
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
def new_file(tmp_path):
    path = tmp_path / "new-root"
    write_key(path)
    return path


def check_all_open():
    for account in CspAccount.objects.select_related("vault"):
        assert unseal(account, "secret_access_key").reveal_text() == f"secret of {account.name}"


def check_moved(root_file, new_file, old):
    """Everything is under the new root, the files have their final names, and each alone does its part."""
    new = new_file.read_bytes()
    assert root_file.read_bytes() == new
    assert rootkey.previous_path(root_file).read_bytes() == old
    assert not rootkey.next_path(root_file).exists()
    assert rewrap.root_ids_in_use() == [wrapping_key_id(new)]
    assert Installation.objects.get().root_key_id == wrapping_key_id(new)
    rootkey.previous_path(root_file).unlink()
    keys.forget_keys()
    ensure_root_key(create_allowed=False)
    check_all_open()


def test_every_kek_moves_and_every_secret_still_opens(root_file, new_file, accounts):
    old = root_file.read_bytes()
    sealed = {account.pk: bytes(account.secret_access_key) for account in accounts}
    done = rewrap_root(new_file, ACTOR)
    assert (done.moved, done.already, done.files_switched) == (4, 0, True)
    assert done.old_root_ids == (wrapping_key_id(old),)
    # Only KEKs are re-wrapped; what they wrap is as it was.
    assert {a.pk: bytes(a.secret_access_key) for a in CspAccount.objects.all()} == sealed
    check_moved(root_file, new_file, old)


@pytest.mark.parametrize("point", CHECKPOINTS)
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_at_any_point_it_works_on_and_can_be_resumed(root_file, new_file, accounts, point, nth):
    old = root_file.read_bytes()
    reached = []

    def kill(name):
        reached.append(name)
        if reached.count(point) == nth:
            raise Killed

    try:
        rewrap_root(new_file, ACTOR, checkpoint=kill)
    except Killed:
        pass
    else:
        assert reached.count(point) < nth
    # A new process: it starts, opens everything, and can make another vault.
    keys.forget_keys()
    ensure_root_key(create_allowed=True)
    check_all_open()
    with transaction.atomic():
        make_vault("made after the crash")
    keys.forget_keys()
    rewrap_root(new_file, ACTOR)
    check_moved(root_file, new_file, old)


def test_a_running_process_goes_on_at_every_step(root_file, new_file, accounts):
    """It holds the old root in memory, never restarts, and makes a vault between any two steps."""
    seen = []

    def other_process_works(name):
        seen.append(name)
        keys._keks.clear()
        check_all_open()
        with transaction.atomic():
            vault = make_vault(f"during {name} {len(seen)}")
        if name != "next-placed":
            assert vault.kek_blob.key_id == wrapping_key_id(new_file.read_bytes())

    old = root_file.read_bytes()
    rewrap_root(new_file, ACTOR, checkpoint=other_process_works)
    assert set(seen) == set(CHECKPOINTS)
    check_moved(root_file, new_file, old)


def test_a_vault_destroyed_meanwhile_stays_destroyed(root_file, new_file, accounts):
    last = Vault.objects.order_by("pk").last()

    def destroy(name):
        if name == "installation-moved":
            Vault.objects.filter(pk=last.pk).update(kek_blob=None)

    rewrap_root(new_file, ACTOR, checkpoint=destroy)
    last.refresh_from_db()
    assert last.kek_blob is None


def test_a_kek_replaced_between_read_and_write_is_not_overwritten(root_file, new_file, accounts, monkeypatch):
    victim = Vault.objects.order_by("pk").first()
    fresh_kek = []
    real = rewrap._rewrap

    def replaced_meanwhile(blob, place, new_root, old_ids):
        result = real(blob, place, new_root, old_ids)
        if str(victim.pk).encode() in place and not fresh_kek:
            old_root = keys.find_root(blob.key_id)
            fresh_kek.append(b"K" * 32)
            Vault.objects.filter(pk=victim.pk).update(kek_blob=old_root.encrypt(fresh_kek[0], place))
        return result

    monkeypatch.setattr(rewrap, "_rewrap", replaced_meanwhile)
    rewrap_root(new_file, ACTOR)
    victim.refresh_from_db()
    opened = SoftwareKeyWrapper(new_file.read_bytes()).decrypt(
        victim.kek_blob, keys.vault_kek_place(victim.pk)
    )
    assert opened == fresh_kek[0]


def test_a_damaged_blob_stops_it_and_stays_as_it_is(root_file, new_file, accounts):
    victim = Vault.objects.order_by("pk").last()
    damaged = bytearray(victim.kek_blob)
    damaged[-1] ^= 1
    Vault.objects.filter(pk=victim.pk).update(kek_blob=bytes(damaged))
    old = root_file.read_bytes()
    with pytest.raises(RewrapRefused, match=f"{victim.pk}:kek_blob is damaged.*delete that vault"):
        rewrap_root(new_file, ACTOR)
    victim.refresh_from_db()
    assert bytes(victim.kek_blob) == bytes(damaged)
    assert root_file.read_bytes() == old


def test_a_new_blob_is_opened_before_the_old_one_goes(root_file, new_file, accounts, monkeypatch):
    new_id = wrapping_key_id(new_file.read_bytes())
    real = SoftwareKeyWrapper.encrypt

    def broken(self, plaintext, place):
        return real(self, b"x" * 32 if self.key_id == new_id else plaintext, place)

    monkeypatch.setattr(SoftwareKeyWrapper, "encrypt", broken)
    with pytest.raises(rewrap.RewrapUnverified):
        rewrap_root(new_file, ACTOR)
    monkeypatch.undo()
    monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", str(root_file))
    keys.forget_keys()
    check_all_open()
    assert new_id not in rewrap.root_ids_in_use()


def test_doing_it_again_changes_nothing(root_file, new_file, accounts):
    rewrap_root(new_file, ACTOR)
    before = {vault.pk: bytes(vault.kek_blob) for vault in Vault.objects.all()}
    events = AuditEvent.objects.count()
    done = rewrap_root(new_file, ACTOR)
    assert (done.moved, done.already) == (0, 4)
    assert {vault.pk: bytes(vault.kek_blob) for vault in Vault.objects.all()} == before
    assert AuditEvent.objects.count() == events


def test_older_roots_are_kept_for_older_backups(root_file, tmp_path, accounts):
    roots = [root_file.read_bytes()]
    for name in ("second", "third"):
        path = tmp_path / name
        roots.append(write_key(path))
        rewrap_root(path, ACTOR)
    assert root_file.read_bytes() == roots[2]
    assert rootkey.previous_path(root_file).read_bytes() == roots[1]
    assert rootkey.retired_path(root_file, wrapping_key_id(roots[0])).read_bytes() == roots[0]
    assert rootkey.retired_path(root_file, wrapping_key_id(roots[0])).stat().st_mode & 0o777 == 0o600


def test_moving_back_to_an_older_root_works(root_file, tmp_path, new_file, accounts):
    old = tmp_path / "old"
    write_key(old, root_file.read_bytes())
    rewrap_root(new_file, ACTOR)
    rewrap_root(old, ACTOR)
    assert root_file.read_bytes() == old.read_bytes()
    assert rewrap.root_ids_in_use() == [wrapping_key_id(old.read_bytes())]
    keys.forget_keys()
    check_all_open()


def test_a_second_move_waits_for_the_first(root_file, new_file, tmp_path, accounts):
    def kill(name):
        if name == "vault-moved":
            raise Killed

    with pytest.raises(Killed):
        rewrap_root(new_file, ACTOR, checkpoint=kill)
    other = tmp_path / "other"
    write_key(other)
    with pytest.raises(RewrapRefused, match=r"is unfinished.*Finish it first"):
        rewrap_root(other, ACTOR)


def test_a_leftover_that_nothing_needs_is_told_apart(root_file, new_file, accounts):
    write_key(rootkey.next_path(root_file))
    with pytest.raises(RewrapRefused, match="never began"):
        rewrap_root(new_file, ACTOR)
    check_all_open()


def test_a_read_only_folder_is_worked_with(root_file, new_file, accounts, monkeypatch):
    # A secret mount: the operator has put the new root beside the old one.
    write_key(rootkey.next_path(root_file), new_file.read_bytes())
    old = root_file.read_bytes()
    monkeypatch.setattr(rewrap.os, "access", lambda path, mode: False)
    done = rewrap_root(new_file, ACTOR)
    assert not done.files_switched
    assert root_file.read_bytes() == old
    keys.forget_keys()
    ensure_root_key(create_allowed=False)
    check_all_open()


def test_each_move_is_in_the_audit_record(root_file, new_file, accounts):
    old, new = wrapping_key_id(root_file.read_bytes()), wrapping_key_id(new_file.read_bytes())
    rewrap_root(new_file, ACTOR)
    events = AuditEvent.objects.filter(action="vault:root_key:rewrap")
    assert events.count() == 4
    assert {event.vault_name for event in events} == {"", "one", "two", "three"}
    for event in events:
        assert event.before == {"root_key_id": old}
        assert event.after == {"root_key_id": new}


class TestCommand:
    def test_makes_the_new_key_when_there_is_none(self, root_file, tmp_path, accounts, capsys):
        target = tmp_path / "fresh"
        call_command("keys_rewrap", new_root_key_file=target)
        said = capsys.readouterr().out
        assert "Made a new root key" in said
        assert "4 moved now" in said
        assert target.read_bytes() == root_file.read_bytes()
        assert target.read_bytes().hex() not in said
        check_all_open()

    def test_refusals_are_one_line(self, root_file, tmp_path, accounts):
        target = tmp_path / "open"
        write_key(target, mode=0o644)
        with pytest.raises(CommandError, match="chmod 600") as caught:
            call_command("keys_rewrap", new_root_key_file=target)
        assert "\n" not in str(caught.value)
        check_all_open()
