import threading
import uuid

import pytest
from django.core import serializers
from django.db import connection, transaction
from rest_framework.renderers import JSONRenderer
from rest_framework.serializers import ModelSerializer

from cloudkeys.models import CspAccount
from hsm.base import DataInvalid
from hsm.software import SoftwareKeyWrapper, wrapping_key_id
from tests.vault.rootkeys import make_vault, write_key
from vault import keys
from vault.fields import PlaintextRefused, WrappedBlob
from vault.keys import (
    RootKeyForeign,
    RootKeyMissing,
    RootKeyUnsafe,
    SecretAbsent,
    SecretUnreadable,
    VaultKeyDestroyed,
    ensure_root_key,
    seal,
    unseal,
)
from vault.models import Installation, Vault
from vault.secret import Secret

pytestmark = pytest.mark.django_db
MATERIAL = b"\x07known key bytes of this test\x07\x07\x07"


@pytest.fixture(autouse=True)
def no_installation(root_file):
    """Each test begins with an empty database and no root key, whatever a wider fixture has made."""
    Installation.objects.all().delete()


@pytest.fixture
def vault() -> Vault:
    ensure_root_key(create_allowed=True)
    return make_vault("Payments")


def account_of(vault: Vault, name: str = "prod") -> CspAccount:
    return CspAccount(vault=vault, name=name, access_key_id="AKIA", default_region="eu-west-1")


class TestRootKeyAtStart:
    def test_embedded_and_empty_makes_one(self, root_file):
        ensure_root_key(create_allowed=True)
        row = Installation.objects.get()
        assert row.root_key_id == wrapping_key_id(root_file.read_bytes())
        assert root_file.read_bytes() not in bytes(row.root_check_blob)

    def test_a_second_start_changes_nothing(self, root_file):
        ensure_root_key(create_allowed=True)
        before = root_file.read_bytes(), bytes(Installation.objects.get().root_check_blob)
        keys.forget_keys()
        ensure_root_key(create_allowed=True)
        assert before == (root_file.read_bytes(), bytes(Installation.objects.get().root_check_blob))

    def test_not_embedded_makes_none(self, root_file):
        with pytest.raises(RootKeyMissing, match="only an embedded installation"):
            ensure_root_key(create_allowed=False)
        assert not root_file.exists()
        assert not Installation.objects.exists()

    @pytest.mark.parametrize("create_allowed", [True, False])
    def test_an_empty_database_takes_up_the_key_that_is_there(self, root_file, create_allowed):
        # Also the state after a crash between writing the file and committing the row.
        key = write_key(root_file)
        ensure_root_key(create_allowed=create_allowed)
        assert Installation.objects.get().root_key_id == wrapping_key_id(key)
        assert root_file.read_bytes() == key

    def test_the_file_is_there_before_the_row(self, root_file, monkeypatch):
        class Crash(Exception):
            pass

        def crash(**values):
            assert len(root_file.read_bytes()) == 32
            raise Crash

        monkeypatch.setattr(Installation.objects, "create", crash)
        with pytest.raises(Crash):
            ensure_root_key(create_allowed=True)
        monkeypatch.undo()
        monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", str(root_file))
        key = root_file.read_bytes()
        ensure_root_key(create_allowed=True)
        assert root_file.read_bytes() == key
        assert Installation.objects.get().root_key_id == wrapping_key_id(key)

    @pytest.mark.parametrize("create_allowed", [True, False])
    def test_a_missing_key_is_never_replaced(self, root_file, create_allowed):
        ensure_root_key(create_allowed=True)
        needed = Installation.objects.get().root_key_id
        root_file.unlink()
        keys.forget_keys()
        with pytest.raises(RootKeyMissing, match=f"needs root key {needed}.*import-root") as caught:
            ensure_root_key(create_allowed=create_allowed)
        assert "\n" not in str(caught.value)
        assert not root_file.exists()

    def test_a_foreign_key_is_told_apart_and_both_ids_are_named(self, root_file):
        ensure_root_key(create_allowed=True)
        needed = Installation.objects.get().root_key_id
        other = write_key(root_file)
        keys.forget_keys()
        with pytest.raises(RootKeyForeign) as caught:
            ensure_root_key(create_allowed=True)
        assert needed in str(caught.value)
        assert wrapping_key_id(other) in str(caught.value)
        assert other.hex() not in str(caught.value)

    def test_an_unsafe_mode_ends_the_start(self, root_file):
        ensure_root_key(create_allowed=True)
        root_file.chmod(0o640)
        keys.forget_keys()
        with pytest.raises(RootKeyUnsafe):
            ensure_root_key(create_allowed=True)

    def test_a_damaged_installation_row_is_not_taken_for_a_foreign_key(self, root_file):
        ensure_root_key(create_allowed=True)
        row = Installation.objects.get()
        blob = bytearray(row.root_check_blob)
        blob[-1] ^= 1
        Installation.objects.update(root_check_blob=bytes(blob))
        with pytest.raises(RootKeyForeign, match="altered or damaged"):
            ensure_root_key(create_allowed=True)

    def test_vaults_without_an_installation_row_never_get_a_new_root(self, vault, root_file):
        Installation.objects.all().delete()
        root_file.unlink()
        with pytest.raises(RootKeyForeign, match="no installation record"):
            ensure_root_key(create_allowed=True)
        assert not root_file.exists()

    def test_no_new_vault_before_there_is_a_root(self):
        with pytest.raises(RootKeyMissing):
            make_vault("too early")
        with pytest.raises(RootKeyMissing):
            keys.root_wrapper()


@pytest.mark.django_db(transaction=True)
def test_first_starts_at_once_agree_on_one_root(root_file):
    failures = []
    gate = threading.Barrier(4)

    def start():
        try:
            gate.wait(10)
            ensure_root_key(create_allowed=True)
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert Installation.objects.get().root_key_id == wrapping_key_id(root_file.read_bytes())


@pytest.mark.django_db(transaction=True)
def test_a_kek_is_made_only_inside_the_vaults_transaction(root_file):
    ensure_root_key(create_allowed=True)
    with pytest.raises(RuntimeError, match="inside the transaction"):
        make_vault("Payments")
    with transaction.atomic():
        vault = make_vault("Payments")
    assert vault.kek_blob.key_id == Installation.objects.get().root_key_id


class TestSecrets:
    @pytest.mark.parametrize("value", [MATERIAL, "text äöü", Secret(b"\xff\x00"), b""])
    def test_a_sealed_secret_opens_after_a_round_trip(self, vault, value):
        account = account_of(vault)
        seal(account, "secret_access_key", value)
        account.save()
        keys.forget_keys()
        again = CspAccount.objects.get(pk=account.pk)
        assert isinstance(again.secret_access_key, WrappedBlob)
        assert unseal(again, "secret_access_key") == Secret(value)

    def test_nothing_in_the_row_is_the_secret(self, vault):
        account = account_of(vault)
        seal(account, "secret_access_key", MATERIAL)
        account.save()
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM cloudkeys_cspaccount")
            row = cursor.fetchone()
        stored = b"|".join(
            bytes(cell) if isinstance(cell, bytes | memoryview) else repr(cell).encode() for cell in row
        )
        assert MATERIAL not in stored
        assert MATERIAL.hex().encode() not in stored

    def test_each_vault_has_its_own_kek(self, vault):
        other = make_vault("Cards")
        assert keys.vault_wrapper(vault).key_id != keys.vault_wrapper(other).key_id

    def test_moved_to_another_row_it_does_not_open(self, vault):
        one, two = account_of(vault, "one"), account_of(vault, "two")
        seal(one, "secret_access_key", MATERIAL)
        two.secret_access_key = one.secret_access_key
        with pytest.raises(SecretUnreadable, match=str(two.pk)) as caught:
            unseal(two, "secret_access_key")
        assert isinstance(caught.value.__cause__, DataInvalid)

    def test_moved_to_another_column_it_does_not_open(self, vault):
        account = account_of(vault)
        seal(account, "secret_access_key", MATERIAL)
        account.pending_secret_access_key = account.secret_access_key
        with pytest.raises(SecretUnreadable, match="pending_secret_access_key"):
            unseal(account, "pending_secret_access_key")

    def test_a_row_given_to_another_vault_does_not_open(self, vault):
        account = account_of(vault)
        seal(account, "secret_access_key", MATERIAL)
        account.vault = make_vault("Cards")
        with pytest.raises(SecretUnreadable, match="another vault"):
            unseal(account, "secret_access_key")

    def test_edited_it_does_not_open(self, vault):
        account = account_of(vault)
        seal(account, "secret_access_key", MATERIAL)
        blob = bytearray(account.secret_access_key)
        for at in (0, 1, 2, 20, 40, len(blob) - 1):
            edited = bytearray(blob)
            edited[at] ^= 4
            account.secret_access_key = WrappedBlob(edited)
            with pytest.raises(SecretUnreadable):
                unseal(account, "secret_access_key")

    def test_a_kek_swapped_between_vaults_does_not_open(self, vault):
        other = make_vault("Cards")
        vault.kek_blob = other.kek_blob
        with pytest.raises(SecretUnreadable, match="kek_blob"):
            keys.vault_wrapper(vault)

    def test_an_id_given_as_text_is_the_same_place(self, vault):
        number = uuid.uuid4()
        account = account_of(vault)
        account.pk = str(number).upper()
        seal(account, "secret_access_key", MATERIAL)
        account.pk = number
        assert unseal(account, "secret_access_key").reveal() == MATERIAL

    def test_an_empty_column_is_absent(self, vault):
        with pytest.raises(SecretAbsent):
            unseal(account_of(vault), "secret_access_key")

    def test_a_destroyed_kek_ends_it(self, vault):
        account = account_of(vault)
        seal(account, "secret_access_key", MATERIAL)
        vault.kek_blob = None
        with pytest.raises(VaultKeyDestroyed):
            unseal(account, "secret_access_key")
        with pytest.raises(VaultKeyDestroyed):
            seal(account, "secret_access_key", MATERIAL)

    @pytest.mark.parametrize("act", [lambda a: seal(a, "name", "x"), lambda a: unseal(a, "name")])
    def test_other_columns_are_refused(self, vault, act):
        with pytest.raises(TypeError, match="no WrappedSecretField"):
            act(account_of(vault))

    def test_the_kek_column_itself_is_not_for_seal(self, vault):
        with pytest.raises(TypeError, match="new_vault_kek"):
            unseal(vault, "kek_blob")

    def test_a_row_without_primary_key_is_refused(self, vault):
        account = account_of(vault)
        account.pk = None
        with pytest.raises(ValueError, match="primary key"):
            seal(account, "secret_access_key", MATERIAL)

    def test_text_for_other_peoples_columns(self, vault):
        sealed = keys.seal_text("mfa", "JBSWY3DPEHPK3PXP")
        assert "JBSWY3DPEHPK3PXP" not in sealed
        assert keys.unseal_text("mfa", sealed).reveal_text() == "JBSWY3DPEHPK3PXP"
        with pytest.raises(SecretUnreadable):
            keys.unseal_text("other purpose", sealed)
        with pytest.raises(SecretUnreadable, match="base64"):
            keys.unseal_text("mfa", "JBSWY3DPEHPK3PXP!")


class TestKekCache:
    def test_the_root_is_asked_once_per_blob(self, vault, monkeypatch):
        keys.forget_keys()
        opened = []
        real = SoftwareKeyWrapper.decrypt

        def counted(self, blob, place):
            opened.append(place)
            return real(self, blob, place)

        monkeypatch.setattr(SoftwareKeyWrapper, "decrypt", counted)
        first = keys.vault_wrapper(vault)
        assert keys.vault_wrapper(Vault.objects.get(pk=vault.pk)) is first
        assert len(opened) == 1
        fresh = keys.new_vault_kek(vault.pk)
        vault.kek_blob = fresh
        assert keys.vault_wrapper(vault) is not first
        assert len(opened) == 2
        assert sum(1 for owner in keys._keks if owner == vault.pk) == 1

    def test_it_is_bounded(self, vault, monkeypatch):
        monkeypatch.setattr(keys, "_KEK_CACHE_SIZE", 3)
        for number in range(6):
            keys.vault_wrapper(make_vault(f"v{number}"))
        assert len(keys._keks) == 3

    def test_a_destroyed_vaults_kek_is_dropped(self, vault):
        keys.vault_wrapper(vault)
        keys.forget_vault(vault.pk)
        assert vault.pk not in keys._keks


class TestField:
    @pytest.mark.parametrize(
        "value", [b"plain key material of 32 bytes..", b"", "text", b"\x01\x01" + b"x" * 43, 7]
    )
    def test_plaintext_is_refused_when_saved_and_not_quoted(self, vault, value):
        account = account_of(vault)
        account.secret_access_key = value
        with pytest.raises(PlaintextRefused, match="secret_access_key") as caught:
            account.save()
        assert "plain key" not in str(caught.value)

    def test_is_in_no_fixture_and_no_form(self, vault):
        seal(account := account_of(vault), "secret_access_key", MATERIAL)
        account.save()
        assert "secret_access_key" not in serializers.serialize("json", [account])
        field = CspAccount._meta.get_field("secret_access_key")
        assert not field.editable
        with pytest.raises(TypeError, match="never serialised"):
            field.value_to_string(account)

    def test_a_serializer_that_names_it_fails_instead_of_showing_it(self, vault):
        class All(ModelSerializer):
            class Meta:
                model = CspAccount
                fields = "__all__"

        class Careless(ModelSerializer):
            class Meta:
                model = CspAccount
                fields = ("name", "secret_access_key")

        seal(account := account_of(vault), "secret_access_key", MATERIAL)
        assert "secret_access_key" not in All(account).data
        with pytest.raises(TypeError, match="never serialised"):
            JSONRenderer().render(Careless(account).data)

    def test_text_forms_show_no_bytes(self, vault):
        seal(account := account_of(vault), "secret_access_key", MATERIAL)
        for shown in (
            repr(account.secret_access_key),
            str(account.secret_access_key),
            f"{account.secret_access_key:>80}",
        ):
            assert shown.strip() == f"<wrapped secret, {46 + len(MATERIAL)} bytes>"

    def test_migrations_do_not_repeat_what_the_class_sets(self):
        _, path, args, kwargs = CspAccount._meta.get_field("secret_access_key").deconstruct()
        assert (path, args, kwargs) == ("vault.fields.WrappedSecretField", [], {"null": True})
