"""What the agent takes from the database: everything, or what changed, and never a row that was tampered with."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudkeys.models import CloudKey, KeySet, KeyVersion, XksCredential, XksKeyStore
from hsm.software import SoftwareKeyWrapper, new_key
from tests.xks.agent_world import (
    KEY,
    STORE,
    VAULT,
    changed,
    make_credential,
    make_key,
    make_store,
    make_vault,
    make_version,
    material,
)
from vault import keys
from vault.models import Generation, GenerationChange, Vault
from xks import wire
from xks.agent_loading import Applied, Loaded, LogIncomplete, WentBackwards, load_changes, load_everything

pytestmark = pytest.mark.django_db

STALENESS = 60.0


def everything() -> Loaded:
    """Load all, with the usual bound."""
    return load_everything(STALENESS)


def changes_since(loaded: Loaded, *before: Loaded) -> Loaded | None:
    """Load what changed since these loads were applied, one after the other."""
    applied = None
    for item in (*before, loaded):
        applied = Applied.after(item, applied)
    assert applied is not None
    return load_changes(applied, STALENESS)


def test_store_with_credentials_and_health_check_key() -> None:
    vault = make_vault()
    store = make_store(vault, "/acme", allowed_regions=["eu-west-1"], max_staleness_s=30)
    second = make_credential(store)
    make_credential(store, state=XksCredential.State.RETIRED)

    [record] = everything().stores

    assert record.id == str(store.pk)
    assert record.path_prefix == "/acme"
    assert not record.blocked
    assert record.health_key_id == "health"
    assert record.allowed_regions == ["eu-west-1"]
    assert record.max_staleness_s == 30.0
    assert {c.access_key_id for c in record.credentials} == {
        store.credentials.first().access_key_id,  # type: ignore[union-attr]
        second.access_key_id,
    }
    assert wire.CredentialRecord(second.access_key_id, second.access_key_id.lower().encode() * 2) in (
        record.credentials
    )


def test_a_stores_staleness_never_outlasts_the_nodes() -> None:
    make_store(make_vault(), max_staleness_s=86400)

    [record] = everything().stores

    assert record.max_staleness_s == STALENESS


def test_key_with_every_version() -> None:
    store = make_store(make_vault())
    key = make_key(store, "payments", versions=(1, 2, 3), current_version=2, blocked=True)

    [record] = [record for record in everything().keys if record.external_key_id == "payments"]

    assert record == wire.KeyRecord(
        id=str(key.pk),
        store_id=str(store.pk),
        external_key_id="payments",
        state="ENABLED",
        blocked=True,
        uses=["ENCRYPT", "DECRYPT"],
        current_version=2,
        versions=[wire.VersionRecord(number, material(number)) for number in (1, 2, 3)],
    )


@pytest.mark.parametrize(
    ("stored", "served"),
    [
        (["ENCRYPT", "DECRYPT", "WRAP", "UNWRAP"], ["ENCRYPT", "DECRYPT"]),
        (["DECRYPT"], ["DECRYPT"]),
        (["ENCRYPT"], ["ENCRYPT"]),
        ([], []),
    ],
)
def test_uses(stored: list[str], served: list[str]) -> None:
    make_key(make_store(make_vault()), "k", permitted_uses=stored)

    assert [record.uses for record in everything().keys if record.external_key_id == "k"] == [served]


@pytest.mark.parametrize("state", ["ENABLED", "DISABLED", "PENDING_DELETION"])
def test_keys_that_may_not_be_used_are_sent_with_their_versions(state: str) -> None:
    make_key(make_store(make_vault()), "k", state=state)

    [record] = [record for record in everything().keys if record.external_key_id == "k"]

    assert (record.state, len(record.versions)) == (state, 1)


def test_destroyed_key_has_no_versions() -> None:
    key = make_key(make_store(make_vault()), "k", state="DESTROYED")
    key.versions.update(material=None)

    loaded = everything()

    [record] = [record for record in loaded.keys if record.external_key_id == "k"]
    assert (record.state, record.versions) == ("DESTROYED", [])
    assert loaded.left_out == []


@pytest.mark.parametrize("fields", [{"blocked": True}, {"state": Vault.State.DISABLED}])
def test_a_vault_that_does_not_serve_blocks_its_stores(fields: dict[str, object]) -> None:
    make_store(make_vault(**fields), "/one")
    make_store(make_vault("Other"), "/two")

    blocked = {record.path_prefix: record.blocked for record in everything().stores}

    assert blocked == {"/one": True, "/two": False}


def test_a_destroyed_vault_leaves_nothing() -> None:
    vault = make_vault()
    make_store(vault)
    Vault.objects.update(state=Vault.State.DESTROYED, kek_blob=None)
    keys.forget_vault(vault.pk)

    loaded = everything()

    assert (loaded.stores, loaded.keys, loaded.left_out) == ([], [], [])


def test_queries_do_not_grow_with_rows() -> None:
    for number in range(2):
        make_store(make_vault(f"v{number}"), f"/s{number}")
    everything()  # root key and KEKs are in memory now
    with CaptureQueriesContext(
        connection,
    ) as few:
        everything()
    for number in range(2, 6):
        vault = make_vault(f"v{number}")
        for other in range(3):
            store = make_store(vault, f"/s{number}-{other}")
            make_key(store, versions=(1, 2, 3))
    keys.forget_keys()
    with CaptureQueriesContext(connection) as many:
        loaded = everything()

    assert len(loaded.stores) == 14
    assert len(many) == len(few) <= 16


def test_tampered_material_leaves_out_that_key_alone() -> None:
    store = make_store(make_vault())
    good, bad = make_key(store, "good"), make_key(store, "bad", versions=(1, 2))
    blob = bytearray(bad.versions.get(number=1).material or b"")
    blob[-1] ^= 1
    bad.versions.filter(number=1).update(material=bytes(blob))

    loaded = everything()

    assert {record.id for record in loaded.keys} >= {str(good.pk)}
    assert str(bad.pk) not in {record.id for record in loaded.keys}
    [left_out] = loaded.left_out
    assert (left_out.kind, left_out.id) == ("key", str(bad.pk))
    assert "authenticate" in left_out.reason


def test_material_moved_from_another_key_is_left_out() -> None:
    store = make_store(make_vault())
    one, other = make_key(store, "one"), make_key(store, "other")
    one.versions.update(material=other.versions.get().material)

    assert [item.id for item in everything().left_out] == [str(one.pk)]


def test_tampered_credential_leaves_out_that_credential_alone() -> None:
    store = make_store(make_vault())
    bad = make_credential(store)
    other = store.credentials.exclude(pk=bad.pk).get()
    XksCredential.objects.filter(pk=bad.pk).update(secret_access_key=other.secret_access_key)

    loaded = everything()

    [record] = loaded.stores
    assert [c.access_key_id for c in record.credentials] == [other.access_key_id]
    assert [(item.kind, item.id) for item in loaded.left_out] == [("credential", str(bad.pk))]


def test_a_vault_whose_key_does_not_open_does_not_stop_the_others() -> None:
    bad, good = make_vault("bad"), make_vault("good")
    make_store(bad, "/bad")
    make_store(good, "/good")
    Vault.objects.filter(pk=bad.pk).update(kek_blob=good.kek_blob)
    keys.forget_keys()

    loaded = everything()

    records = {record.path_prefix: record for record in loaded.stores}
    assert records["/bad"].credentials == []
    assert len(records["/good"].credentials) == 1
    assert [record.store_id for record in loaded.keys] == [records["/good"].id]
    assert ("vault", str(bad.pk)) in {(item.kind, item.id) for item in loaded.left_out}


def test_a_vault_that_names_an_unknown_root_key_does_not_stop_the_others() -> None:
    bad, good = make_vault("bad"), make_vault("good")
    make_store(bad, "/bad")
    make_store(good, "/good")
    foreign = SoftwareKeyWrapper(new_key()).encrypt(new_key(), keys.vault_kek_place(bad.pk))
    Vault.objects.filter(pk=bad.pk).update(kek_blob=foreign)

    loaded = everything()

    assert len({record.path_prefix: record for record in loaded.stores}["/good"].credentials) == 1
    assert ("vault", str(bad.pk)) in {(item.kind, item.id) for item in loaded.left_out}


def test_key_without_its_current_version_is_left_out() -> None:
    key = make_key(make_store(make_vault()), "k", versions=(1,), current_version=2)

    assert [item.id for item in everything().left_out] == [str(key.pk)]


def test_key_with_material_of_another_length_is_left_out() -> None:
    key = make_key(make_store(make_vault()), "k", versions=())
    version = KeyVersion(vault=key.vault, cloud_key=key, number=1)
    keys.seal(version, "material", b"short")
    version.save()

    loaded = everything()

    assert [(item.id, item.reason) for item in loaded.left_out] == [
        (str(key.pk), "version 1 is no AES-256 key")
    ]


def test_hsm_protected_version_is_left_out() -> None:
    key = make_key(make_store(make_vault()), "k")
    key.versions.update(protection=KeySet.Protection.HSM_WRAPPED)

    assert [item.id for item in everything().left_out] == [str(key.pk)]


@pytest.mark.parametrize("fields", [{"permitted_uses": 5}, {"state": "STRANGE"}])
def test_rows_that_no_worker_could_read_are_left_out(fields: dict[str, object]) -> None:
    key = make_key(make_store(make_vault()), "k", **fields)

    assert [item.id for item in everything().left_out] == [str(key.pk)]


def test_store_with_malformed_regions_is_left_out_with_its_keys() -> None:
    store = make_store(make_vault(), allowed_regions=[1, 2])

    loaded = everything()

    assert (loaded.stores, loaded.keys) == ([], [])
    assert [(item.kind, item.id) for item in loaded.left_out] == [("store", str(store.pk))]


def test_nothing_new_costs_one_query() -> None:
    make_store(make_vault())
    loaded = everything()
    applied = Applied.after(loaded, None)

    with CaptureQueriesContext(connection) as queries:
        assert load_changes(applied, STALENESS) is None

    assert len(queries) == 1


def test_change_of_a_key() -> None:
    store = make_store(make_vault())
    key = make_key(store, "k")
    loaded = everything()
    with changed((KEY, key)) as generation:
        CloudKey.objects.filter(pk=key.pk).update(state="DISABLED")

    delta = changes_since(loaded)

    assert delta is not None
    assert (delta.generation, delta.full) == (generation[0], False)
    assert [(record.id, record.state) for record in delta.keys] == [(str(key.pk), "DISABLED")]
    assert (delta.stores, delta.removed_keys, delta.removed_stores) == ([], [], [])


def test_several_generations_at_once() -> None:
    store = make_store(make_vault())
    key = make_key(store, "k")
    loaded = everything()
    with changed((KEY, key)):
        make_version(key, 2)
    with changed((KEY, key)) as generation:
        CloudKey.objects.filter(pk=key.pk).update(current_version=2)

    delta = changes_since(loaded)

    assert delta is not None
    [record] = delta.keys
    assert (delta.generation, record.current_version, len(record.versions)) == (generation[0], 2, 2)


def test_new_store_brings_its_keys_even_if_the_log_names_only_the_store() -> None:
    vault = make_vault()
    loaded = everything()
    store = make_store(vault)
    with changed((STORE, store)):
        pass

    delta = changes_since(loaded)

    assert delta is not None
    assert [record.id for record in delta.stores] == [str(store.pk)]
    assert [record.external_key_id for record in delta.keys] == ["health"]


def test_blocking_a_vault_reads_its_stores_and_not_its_keys() -> None:
    vault = make_vault()
    store = make_store(vault)
    make_key(store)
    loaded = everything()
    with changed((VAULT, vault)):
        Vault.objects.update(blocked=True)

    delta = changes_since(loaded)

    assert delta is not None
    assert [(record.id, record.blocked) for record in delta.stores] == [(str(store.pk), True)]
    assert delta.keys == []


def test_retired_credential_disappears() -> None:
    store = make_store(make_vault())
    retired = make_credential(store)
    loaded = everything()
    with changed((STORE, store)):
        XksCredential.objects.filter(pk=retired.pk).update(state=XksCredential.State.RETIRED)

    delta = changes_since(loaded)

    assert delta is not None
    assert retired.access_key_id not in {c.access_key_id for c in delta.stores[0].credentials}


def test_deleted_rows_are_named() -> None:
    store = make_store(make_vault())
    key = make_key(store)
    loaded = everything()
    with changed((KEY, key.pk), (STORE, store.pk)):
        CloudKey.objects.all().delete()
        XksKeyStore.objects.all().delete()

    delta = changes_since(loaded)

    assert delta is not None
    assert (delta.removed_stores, delta.removed_keys) == ([str(store.pk)], [str(key.pk)])


def test_key_tampered_with_since_is_taken_away() -> None:
    store = make_store(make_vault())
    key = make_key(store)
    loaded = everything()
    with changed((KEY, key)):
        key.versions.update(material=None)

    delta = changes_since(loaded)

    assert delta is not None
    assert (delta.keys, delta.removed_keys) == ([], [str(key.pk)])


def test_mended_key_comes_back_with_its_vaults_next_change() -> None:
    vault = make_vault()
    key = make_key(make_store(vault))
    blob = key.versions.get().material
    key.versions.update(material=None)
    loaded = everything()
    assert [item.id for item in loaded.left_out] == [str(key.pk)]
    key.versions.update(material=blob)
    with changed((VAULT, vault)):
        pass

    delta = changes_since(loaded)

    assert delta is not None
    assert [record.id for record in delta.keys] == [str(key.pk)]
    assert Applied.after(delta, Applied.after(loaded, None)).left_out_keys == frozenset()


def test_more_ids_than_one_question_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xks.agent_loading.IN_LIST", 2)
    store = make_store(make_vault())
    loaded = everything()
    made = [make_key(store) for _ in range(5)]
    with changed(*((KEY, key) for key in made)):
        pass

    delta = changes_since(loaded)

    assert delta is not None
    assert {record.id for record in delta.keys} == {str(key.pk) for key in made}


def test_lower_generation_is_refused() -> None:
    store = make_store(make_vault())
    with changed((STORE, store)):
        pass
    with changed((STORE, store)):
        pass
    loaded = everything()
    Generation.objects.update(value=loaded.generation - 1)

    with pytest.raises(WentBackwards) as refused:
        changes_since(loaded)

    assert (refused.value.found, refused.value.applied) == (loaded.generation - 1, loaded.generation)


def test_same_number_of_another_history_is_refused() -> None:
    store = make_store(make_vault())
    with changed((STORE, store)):
        pass
    loaded = everything()
    # A standby took over without that commit, and made others: its numbers go on from an older one.
    GenerationChange.objects.filter(generation=loaded.generation).update(object_id=uuid4())
    with changed((STORE, store)):
        pass

    with pytest.raises(WentBackwards):
        changes_since(loaded)


def test_gap_in_the_log_asks_for_everything() -> None:
    store = make_store(make_vault())
    with changed((STORE, store)):
        pass
    loaded = everything()
    for _ in range(2):
        with changed((STORE, store)) as generation:
            pass
    GenerationChange.objects.filter(generation=generation[0] - 1).delete()

    with pytest.raises(LogIncomplete):
        changes_since(loaded)


def test_missing_root_key_is_an_error_and_not_an_empty_vault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    make_store(make_vault())
    monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", f"{tmp_path}/nowhere.key")
    keys.forget_keys()

    with pytest.raises(keys.RootKeyMissing):
        everything()
    keys.forget_keys()


def test_applied_follows_full_and_partial_loads() -> None:
    fingerprint = frozenset[tuple[str, object, object]]()
    full = Loaded(5, fingerprint, True, stores=[wire.StoreRecord("s1", "", False, [])])  # type: ignore[arg-type]
    partial = Loaded(
        6,
        fingerprint,
        False,
        stores=[wire.StoreRecord("s2", "/2", False, [])],
        removed_stores=["s1"],  # type: ignore[arg-type]
    )

    first = Applied.after(full, None)
    second = Applied.after(partial, first)

    assert (first.generation, first.store_ids) == (5, {"s1"})
    assert (second.generation, second.store_ids) == (6, {"s2"})
    assert Applied.after(replace(full, generation=9), second).store_ids == {"s1"}
