"""The key store that an endpoint is checked with."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import call_command

from cloudkeys.models import CloudKey, XksCredential, XksKeyStore
from tests.cloudkeys import hsm_world
from vault import keys
from vault.actors import Actor
from vault.errors import Conflict, ValidationFailed
from vault.models import AuditEvent, User, Vault
from xks import conformance, conformance_hsm
from xks.conformance import KEYS, prepare_conformance_store

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def actor() -> Actor:
    """The local operator, in an installation with an administrator."""
    keys.ensure_root_key(create_allowed=True)
    User.objects.create_user("admin@keystead.test", name="Ada", is_appliance_admin=True)
    return Actor.system("cli")


def test_store_has_the_keys_that_the_client_asks_for(actor: Actor) -> None:
    made = prepare_conformance_store(actor)

    assert made.store.is_conformance
    assert made.store.path_prefix.startswith("/")
    rows = CloudKey.objects.filter(store=made.store, kind=CloudKey.Kind.USER)
    assert {key.external_key_id: (tuple(key.permitted_uses), key.state) for key in rows} == {
        "foo": (("ENCRYPT", "DECRYPT"), "ENABLED"),
        "encrypt_only_key": (("ENCRYPT",), "ENABLED"),
        "decrypt_only_key": (("DECRYPT",), "ENABLED"),
        "impotent_key": ((), "ENABLED"),
        "disabled_key": (("ENCRYPT", "DECRYPT"), "DISABLED"),
    }
    assert Vault.objects.get().memberships.get().user.email == "admin@keystead.test"


def test_second_call_finds_the_first_ones_store_and_secret(actor: Actor) -> None:
    first, second = prepare_conformance_store(actor), prepare_conformance_store(actor)

    assert second.store.pk == first.store.pk
    assert second.credential.secret == first.credential.secret
    assert AuditEvent.objects.filter(action="cloudkeys:xks_credential:show").count() >= 2


@pytest.mark.parametrize("harm", ["key disabled", "key blocked", "store blocked", "key destroyed"])
def test_altered_store_is_replaced(actor: Actor, harm: str) -> None:
    first = prepare_conformance_store(actor)
    foo = CloudKey.objects.filter(store=first.store, external_key_id="foo")
    match harm:
        case "key disabled":
            foo.update(state="DISABLED")
        case "key blocked":
            foo.update(blocked=True)
        case "key destroyed":
            foo.update(state="DESTROYED")
        case "store blocked":
            XksKeyStore.objects.update(blocked=True)

    second = prepare_conformance_store(actor)

    assert second.store.pk != first.store.pk
    assert conformance.find_intact_store() == second.store
    assert second.store.vault_id == first.store.vault_id


def test_blocked_vault_is_replaced(actor: Actor) -> None:
    first = prepare_conformance_store(actor)
    Vault.objects.update(blocked=True)

    assert prepare_conformance_store(actor).store.vault_id != first.store.vault_id


def test_retired_credential_is_replaced(actor: Actor) -> None:
    first = prepare_conformance_store(actor)
    XksCredential.objects.update(state=XksCredential.State.RETIRED, secret_access_key=None)

    second = prepare_conformance_store(actor)

    assert second.store.pk == first.store.pk
    assert second.credential.credential.pk != first.credential.credential.pk


@pytest.mark.parametrize("protection", ["hsm-wrapped", "hsm-resident"])
def test_hsm_protection_where_there_is_no_hsm_at_all(
    actor: Actor, protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance_hsm, "find_module", lambda: None)
    with pytest.raises(Conflict, match="SoftHSM is not installed"):
        prepare_conformance_store(actor, protection)


@pytest.mark.parametrize("protection", ["hsm-wrapped", "hsm-resident"])
def test_hsm_protection_takes_the_hsm_that_is_connected(
    actor: Actor, protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hsms = hsm_world.install(monkeypatch)
    connection = hsms.connect(None)
    made = prepare_conformance_store(actor, protection)
    assert made.store.key_set.protection == protection
    assert made.store.key_set.hsm_connection == connection
    assert prepare_conformance_store(actor, protection).store == made.store
    software = prepare_conformance_store(actor).store
    assert software != made.store
    assert software.key_set.protection == "software"


def test_unknown_protection(actor: Actor) -> None:
    with pytest.raises(ValidationFailed):
        prepare_conformance_store(actor, "paper")

    assert not Vault.objects.exists()


def test_without_an_administrator_there_is_no_vault(actor: Actor) -> None:
    User.objects.all().delete()

    with pytest.raises(Conflict, match="no appliance admin"):
        prepare_conformance_store(actor)


def run(*arguments: str) -> tuple[str, str]:
    """Run the command and return what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    call_command("xks_conformance_store", *arguments, stdout=out, stderr=err, skip_checks=True)
    return out.getvalue(), err.getvalue()


def test_command_prints_what_the_client_needs(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_PORT", "9443")
    out, err = run("--json")

    shown = json.loads(out)
    store = XksKeyStore.objects.get(is_conformance=True)
    credential = store.credentials.get()
    assert shown == {
        "endpoint": "https://localhost:9443",
        "uri_path_prefix": store.path_prefix,
        "access_key_id": credential.access_key_id,
        "secret_access_key": keys.unseal(credential, "secret_access_key").reveal_text(),
        "keys": {name: name for name in KEYS},
    }
    assert "no XKS worker runs" in err


def test_command_for_people(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_TLS", "off")
    out, _ = run()

    assert "http://localhost:8443" in out
    assert all(name in out for name in KEYS)
