"""Protections of key sets: wrapped by an HSM, resident in one, changed, and keys taken over; HSMs in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.flows import FLOWS
from cloudkeys.models import CloudKey, KeySet, KeyVersion, Operation
from cloudkeys.operations import runner
from cloudkeys.operations.kinds import KINDS
from cloudkeys.services import hsm_keys, key_sets, lifecycle, protection, versions
from cloudkeys.services.invocations import MOST, ROTATE_AT, reserve_invocations
from hsm.base import DataInvalid
from tests.cast import Cast
from tests.cloudkeys import hsm_world
from tests.cloudkeys.hsm_world import GONE, FakeHsms
from tests.cloudkeys.world import new_key, new_key_set, store_of
from vault.actors import Actor
from vault.errors import Conflict, NotFound, PermissionDenied, Unavailable, ValidationFailed
from vault.keys import associated_data
from vault.models import AuditEvent, GenerationChange, HsmConnection, HsmKey
from xks.agent_keks import Keks, WrappedKek
from xks.agent_loading import Applied, load_changes, load_everything

SYSTEM = Actor.system("worker")


@pytest.fixture
def hsms(monkeypatch: pytest.MonkeyPatch) -> FakeHsms:
    return hsm_world.install(monkeypatch)


@pytest.fixture
def hsm(hsms: FakeHsms, cast: Cast) -> HsmConnection:
    return hsms.connect(cast.vault)


def make_set(cast: Cast, kind: str, **more: Any) -> KeySet:
    return new_key_set(cast.actor("owner"), cast.vault, None, protection=kind, **more).key_set


def key_of(cast: Cast, key_set: KeySet, name: str = "payments") -> CloudKey:
    return new_key(cast.actor("owner"), key_set, name)


def opener(hsms: FakeHsms) -> Keks:
    def open_kek(kek: WrappedKek) -> bytes:
        from hsm.pkcs11 import Pkcs11KeyWrapper

        return Pkcs11KeyWrapper(hsms, kek.hsm_key).decrypt(kek.blob, kek.place)  # type: ignore[arg-type]

    return Keks(open_kek)


def run_rotation() -> None:
    """Run the steps of the rotation that has begun, without workers to wait for."""
    operation = Operation.objects.get(kind="cloud_key.rotate", state__in=Operation.UNFINISHED)
    runner.run_operation(operation.pk)


# --- choosing


@pytest.mark.parametrize("kind", ["hsm-wrapped", "hsm-resident"])
def test_no_hsm_no_such_protection(cast: Cast, hsms: FakeHsms, kind: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        make_set(cast, kind)
    assert refused.value.field == "protection"
    hsms.connect(None)  # another vault's
    with pytest.raises(ValidationFailed):
        make_set(cast, kind)
    assert not KeySet.objects.exists()


def test_several_hsms_need_a_name(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    other = hsms.connect(cast.vault, "second")
    with pytest.raises(ValidationFailed) as refused:
        make_set(cast, "hsm-resident")
    assert refused.value.field == "hsm_connection"
    assert make_set(cast, "hsm-resident", hsm_connection=other.pk).hsm_connection == other
    with pytest.raises(ValidationFailed):
        make_set(cast, "software", hsm_connection=other.pk, name="x")


def test_hsm_that_is_gone_makes_nothing(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    hsms.failure = GONE
    with pytest.raises(Unavailable):
        make_set(cast, "hsm-wrapped")
    assert not KeySet.objects.exists()
    key_set_made = make_set(cast, "hsm-resident")  # nothing is asked for before there is a key
    with pytest.raises(Unavailable):
        key_of(cast, key_set_made)
    assert not CloudKey.objects.filter(kind="USER").exists()


# --- wrapped


def test_wrapped_set_loads_with_one_call(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key_set = make_set(cast, "hsm-wrapped")
    for number in range(20):
        key_of(cast, key_set, f"key-{number}")
    assert hsms.in_transaction == 0, "an HSM was asked with rows locked"
    hsms.calls.clear()
    keks = opener(hsms)
    loaded = load_everything(60.0, keks)
    assert hsms.calls == ["decrypt"]
    assert keks.calls == 1
    keys = [record for record in loaded.keys if record.external_key_id != loaded.stores[0].health_key_id]
    assert len({record.versions[0].material for record in keys}) == 20
    assert all(len(record.versions[0].material) == 32 for record in loaded.keys)
    assert loaded.stores[0].hsm_groups == (str(hsm.pk),)
    assert loaded.stores[0].hsm_required == ""
    assert not loaded.left_out
    keks.stop()


def test_wrapped_material_needs_vault_and_hsm(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key_set = make_set(cast, "hsm-wrapped")
    key = key_of(cast, key_set)
    loaded = load_everything(60.0, opener(hsms))
    plain = next(record.versions[0].material for record in loaded.keys if record.id == str(key.pk))
    version = key.versions.get()
    assert version.protection == "hsm-wrapped"
    stored = bytes(version.material or b"") + bytes(key_set.kek_blob or b"")
    assert plain not in stored
    kek = next(iter(protection._keks.values()))[1]
    assert (
        kek.decrypt(
            bytes(version.material or b""), associated_data("cloudkeys_keyversion", version.pk, "material")
        )
        == plain
    )
    # Moved to another row it does not open.
    with pytest.raises(DataInvalid):
        kek.decrypt(bytes(version.material or b""), b"elsewhere")


def test_wrapped_keys_are_known_while_the_hsm_is_gone_and_load_by_themselves(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xks.agent_keks.RETRY_S", (0.01,))
    wrapped = key_of(cast, make_set(cast, "hsm-wrapped"))
    soft = key_of(cast, make_set(cast, "software", name="soft", path_prefix="/soft"), "soft")
    hsms.failure = GONE
    keks = opener(hsms)
    loaded = load_everything(60.0, keks)
    records = {record.id: record for record in loaded.keys}
    assert records[str(wrapped.pk)].versions[0].material == b""
    assert len(records[str(soft.pk)].versions[0].material) == 32
    assert not loaded.left_out, "it is known, and not lost"
    hsms.failure = None
    with keks._news:
        assert keks._news.wait_for(lambda: bool(keks._late), 5)
    again = load_changes(Applied.after(loaded, None), 60.0, keks, keks.take_late())
    assert again is not None
    assert again.generation == loaded.generation
    by_id = {record.id: record for record in again.keys}
    assert len(by_id[str(wrapped.pk)].versions[0].material) == 32
    assert str(soft.pk) not in by_id
    keks.stop()


def test_altered_kek_leaves_its_keys_out(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key_set = make_set(cast, "hsm-wrapped")
    key = key_of(cast, key_set)
    other = make_set(cast, "hsm-wrapped", name="other", path_prefix="/other")
    KeySet.objects.filter(pk=key_set.pk).update(kek_blob=other.kek_blob)
    loaded = load_everything(60.0, opener(hsms))
    assert [item.id for item in loaded.left_out] == [str(key.pk)]


# --- resident


def test_resident_key_has_no_material_here(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key_set = make_set(cast, "hsm-resident")
    key = key_of(cast, key_set)
    assert hsms.in_transaction == 0, "an HSM was asked with rows locked"
    version = key.versions.get()
    assert version.material is None
    assert version.hsm_key is not None
    assert version.hsm_key.purpose == "resident"
    loaded = load_everything(60.0, None)
    record = next(record for record in loaded.keys if record.id == str(key.pk))
    place = record.versions[0].resident
    assert place is not None
    assert (place.group, place.key.hex()) == (str(hsm.pk), version.hsm_key.cka_id)
    assert record.versions[0].material == b""
    assert loaded.stores[0].hsm_required == str(hsm.pk)
    health = next(record for record in loaded.keys if record.id != str(key.pk))
    assert len(health.versions[0].material) == 32, (
        "the node's own cryptography is tested by the node's own key"
    )


def test_a_key_that_is_not_written_down_is_destroyed_in_the_hsm(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_set = make_set(cast, "hsm-resident")

    def fail(*args: object, **named: object) -> None:
        raise RuntimeError("the database went away")

    monkeypatch.setattr("cloudkeys.services.cloud_keys.add_version", fail)
    before = len(hsms.keys)
    with pytest.raises(RuntimeError):
        key_of(cast, key_set)
    assert len(hsms.keys) == before
    assert hsms.calls[-2:] == ["create", "destroy"]
    # What is wrong with the request is said before a key is made.
    hsms.calls.clear()
    with pytest.raises(ValidationFailed):
        new_key(cast.actor("owner"), key_set, "x", region="nowhere")
    assert hsms.calls == []


def test_rotation_makes_the_version_in_the_background(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(cast, make_set(cast, "hsm-resident"))
    hsms.failure = GONE
    begun = versions.rotate_cloud_key(cast.actor("owner"), key.pk)
    assert versions.lacks_material(begun.version)
    loaded = load_everything(60.0, None)
    record = next(record for record in loaded.keys if record.id == str(key.pk))
    assert [version.number for version in record.versions] == [1], "what is not made is nowhere"
    run_rotation()
    operation = Operation.objects.get(pk=begun.operation.pk)
    assert operation.state in Operation.UNFINISHED, "it goes on when the HSM is back"
    assert "hsm" in str(operation.error).lower()
    hsms.failure = None
    Operation.objects.update(next_try_at=timezone.now())
    run_rotation()
    version = key.versions.get(number=2)
    assert version.hsm_key is not None
    assert version.activated_at is None, "no worker has confirmed it"
    assert hsms.in_transaction == 0


def test_every_step_of_the_rotation_has_its_function() -> None:
    assert {step.name for step in KINDS["cloud_key.rotate"].steps} == set(FLOWS["cloud_key.rotate"].run)


def test_destroyed_version_is_destroyed_in_the_hsm(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    owner = cast.actor("owner")
    key = key_of(cast, make_set(cast, "hsm-resident"))
    inside = bytes.fromhex(key.versions.get().hsm_key.cka_id)  # type: ignore[union-attr]
    lifecycle.schedule_deletion(owner, key.pk, confirm_name=key.name)
    assert hsm_keys.destroy_unused_hsm_keys() == 0
    assert inside in hsms.keys
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(days=1))
    lifecycle.destroy_unlinked_key(owner, key.pk, confirm_name=key.name, pointer_is_gone=True)
    hsms.failure = GONE
    with pytest.raises(type(GONE)):
        hsms.destroy_hsm_key(HsmKey.objects.get(cka_id=inside.hex()))
    hsms.failure = None
    assert hsm_keys.destroy_unused_hsm_keys() == 1
    assert inside not in hsms.keys
    assert HsmKey.objects.get(cka_id=inside.hex()).state == "DESTROYED"
    assert hsm_keys.destroy_unused_hsm_keys() == 0


def test_orphans_of_deleted_key_sets_are_destroyed(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key = key_of(cast, make_set(cast, "hsm-resident"))
    KeyVersion.objects.filter(cloud_key=key).delete()
    assert hsm_keys.destroy_unused_hsm_keys() == 0, "it may just be being made"
    HsmKey.objects.update(created_at=timezone.now() - timedelta(hours=2))
    assert hsm_keys.destroy_unused_hsm_keys() == 1


# --- invocations


def test_invocations_are_reserved_and_end(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key = key_of(cast, make_set(cast, "hsm-resident"))
    assert reserve_invocations(key.pk, 1, 65_536) == 65_536
    assert reserve_invocations(key.pk, 1, 65_536) == 65_536
    assert key.versions.get().reserved_invocations == 131_072
    assert reserve_invocations(key.pk, 2, 65_536) == 0, "no such version"
    KeyVersion.objects.update(reserved_invocations=MOST - 65_536)
    assert reserve_invocations(key.pk, 1, 65_536) == 65_536
    assert reserve_invocations(key.pk, 1, 65_536) == 0, "not once more"
    assert (
        reserve_invocations(
            key_of(cast, make_set(cast, "software", name="s", path_prefix="/s"), "s").pk, 1, 1
        )
        == 0
    )


def test_a_worn_version_rotates_by_itself(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key = key_of(cast, make_set(cast, "hsm-resident"))
    KeyVersion.objects.filter(cloud_key=key).update(reserved_invocations=ROTATE_AT - 1)
    assert versions.rotate_due_keys(SYSTEM) == 0
    KeyVersion.objects.filter(cloud_key=key).update(reserved_invocations=ROTATE_AT)
    assert versions.rotate_due_keys(SYSTEM) == 1
    assert versions.rotate_due_keys(SYSTEM) == 0, "one is under way"
    CloudKey.objects.filter(pk=key.pk).update(current_version=2)
    Operation.objects.update(state="SUCCEEDED")
    assert versions.rotate_due_keys(SYSTEM) == 0, "the old version encrypts no more"


# --- changing the protection


def test_changed_protection_is_for_new_versions(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    owner = cast.actor("owner")
    key_set = make_set(cast, "software")
    key = key_of(cast, key_set)
    changed = key_sets.update_key_set(owner, key_set.pk, {"protection": "hsm-wrapped"})
    assert (changed.protection, changed.hsm_connection) == ("hsm-wrapped", hsm)
    (event,) = AuditEvent.objects.filter(action="cloudkeys:key_set:update")
    assert event.after["protection"] == "hsm-wrapped"
    assert GenerationChange.objects.filter(kind="STORE", object_id=store_of(key_set).pk).count() >= 2
    found = protection.protections_of(changed)
    assert (found.keys_behind, found.keys_with_old, found.versions) == (1, 1, {"software": 1})
    second = key_of(cast, changed, "second")
    assert second.versions.get().protection == "hsm-wrapped"
    versions.rotate_cloud_key(owner, key.pk)
    run_rotation()
    assert [version.protection for version in key.versions.all()] == ["software", "hsm-wrapped"]
    CloudKey.objects.filter(pk=key.pk).update(current_version=2)
    found = protection.protections_of(changed)
    assert (found.keys_behind, found.keys_with_old) == (0, 1), (
        "its old version stays, for what it has encrypted"
    )
    assert [row.pk for row in protection.keys_with_old_versions(changed)] == [key.pk]
    loaded = load_everything(60.0, opener(hsms))
    record = next(record for record in loaded.keys if record.id == str(key.pk))
    assert sorted(version.number for version in record.versions) == [1, 2]
    # And back, and on to resident: nothing becomes unreadable on the way.
    back = key_sets.update_key_set(owner, key_set.pk, {"protection": "software"})
    assert (back.hsm_connection, back.kek_blob is None) == (None, False)
    resident = key_sets.update_key_set(owner, key_set.pk, {"protection": "hsm-resident"})
    key_of(cast, resident, "third")
    loaded = load_everything(60.0, opener(hsms))
    assert not loaded.left_out
    assert len([record for record in loaded.keys if record.versions[0].resident is not None]) == 1


def test_key_set_moved_to_another_hsm_keeps_its_kek(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    owner = cast.actor("owner")
    key_set = make_set(cast, "hsm-wrapped")
    key = key_of(cast, key_set)
    before = load_everything(60.0, opener(hsms))
    other = hsms.connect(cast.vault, "second")
    moved = key_sets.update_key_set(owner, key_set.pk, {"hsm_connection": other.pk})
    assert moved.hsm_key is not None
    assert moved.hsm_key.connection == other
    after = load_everything(60.0, opener(hsms))
    assert not after.left_out
    assert {r.id: r.versions for r in before.keys} == {r.id: r.versions for r in after.keys}
    assert key.versions.get().material is not None


def test_half_made_rotation_of_another_protection_is_not_used(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    owner = cast.actor("owner")
    key_set = make_set(cast, "software")
    key = key_of(cast, key_set)
    versions.rotate_cloud_key(owner, key.pk)
    Operation.objects.update(state="FAILED")
    key_sets.update_key_set(owner, key_set.pk, {"protection": "hsm-resident"})
    begun = versions.rotate_cloud_key(owner, key.pk)
    assert begun.version.number == 3
    left = key.versions.get(number=2)
    assert (left.material, left.destroyed_at is None) == (None, False)


# --- adopting


def adopt(actor: Actor, key_set: KeySet, **more: Any) -> hsm_keys.Adopted:
    values = {"label": "foo", "name": "payments-old", "region": "eu-west-1", **more}
    return hsm_keys.adopt_cloud_key(actor, key_set.pk, **values)


def test_a_key_that_was_made_without_cka_id_is_given_one(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    key_set = make_set(cast, "hsm-resident")
    hsms.put("foo", nameless=True)
    made = adopt(cast.actor("appliance"), key_set)
    first = made.key.versions.get(number=1)
    assert first.hsm_key is not None
    assert len(first.hsm_key.cka_id) == 32
    assert hsms.labels["foo"] == [bytes.fromhex(first.hsm_key.cka_id)]


def test_adopted_key_reads_and_a_new_one_encrypts(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key_set = make_set(cast, "hsm-resident")
    inside = hsms.put("foo")
    made = adopt(cast.actor("appliance"), key_set)
    assert made.rotated
    assert made.key.external_key_id == "foo"
    assert made.key.current_version == 2
    first, second = made.key.versions.all()
    assert first.hsm_key is not None
    assert (first.hsm_key.cka_id, first.hsm_key.adopted) == (inside.hex(), True)
    assert bytes(first.adopted_metadata or b"x") == b"" or first.adopted_metadata == b""
    assert first.reserved_invocations == MOST
    assert second.reserved_invocations == 0
    (event,) = AuditEvent.objects.filter(action="cloudkeys:cloud_key:adopt")
    assert event.detail["cka_id"] == inside.hex()
    loaded = load_everything(60.0, None)
    record = next(record for record in loaded.keys if record.id == str(made.key.pk))
    places = {version.number: version.resident for version in record.versions}
    assert places[1] is not None
    assert (places[1].key, places[1].adopted) == (inside, b"")
    assert places[2] is not None
    assert places[2].adopted is None


def test_adopted_key_with_declared_use_goes_on(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    key_set = make_set(cast, "hsm-resident")
    hsms.put("foo", wrap=True, value_len=0)
    made = adopt(cast.actor("appliance"), key_set, prior_invocations=1_000_000, fixed_metadata="djAuMC4x")
    assert not made.rotated
    assert made.key.current_version == 1
    assert len(made.warnings) == 2
    version = made.key.versions.get()
    assert version.reserved_invocations == 1_000_000
    assert bytes(version.adopted_metadata or b"") == b"v0.0.1"


@pytest.mark.parametrize(
    "attributes",
    [
        {"sensitive": False},
        {"value_len": 16},
        {"aes": False},
        {"extractable": True},
        {"extractable": None},
        {"encrypt": False},
        {"decrypt": False},
    ],
)
def test_attributes_of_adopted_keys_are_checked(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection, attributes: dict[str, Any]
) -> None:
    hsms.put("foo", **attributes)
    with pytest.raises(ValidationFailed):
        adopt(cast.actor("appliance"), make_set(cast, "hsm-resident"))
    assert not HsmKey.objects.exists()


def test_a_key_that_is_used_already_is_not_adopted(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    admin = cast.actor("appliance")
    key_set = make_set(cast, "hsm-resident")
    wrapped = make_set(cast, "hsm-wrapped", name="w", path_prefix="/w")
    for number, row in enumerate([wrapped.hsm_key, key_of(cast, key_set).versions.get().hsm_key]):
        assert row is not None
        inside = bytes.fromhex(row.cka_id)
        hsms.labels[f"used-{number}"] = [inside]
        hsms.attributes[inside] = hsm_world.GOOD
        with pytest.raises(Conflict):
            adopt(admin, key_set, label=f"used-{number}", name=f"n{number}")
    health = hsms.put("health")
    HsmConnection.objects.update(health_key=health.hex())
    with pytest.raises(Conflict):
        adopt(admin, key_set, label="health")
    hsms.put("foo")
    adopt(admin, key_set)
    with pytest.raises((Conflict, ValidationFailed)):
        adopt(admin, key_set, name="again")


def test_who_may_adopt_and_where(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    hsms.put("foo")
    key_set = make_set(cast, "hsm-resident")
    with pytest.raises(PermissionDenied):
        adopt(cast.actor("owner"), key_set)
    soft = make_set(cast, "software", name="s", path_prefix="/s")
    with pytest.raises(Conflict):
        adopt(cast.actor("appliance"), soft)
    soft.pk = None
    with pytest.raises(NotFound):
        adopt(cast.actor("appliance"), KeySet(name="none"))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"label": "unknown"}, "key_label"),
        ({"fixed_metadata": "!"}, "fixed_metadata"),
        ({"fixed_metadata": "AgAAAAE="}, "fixed_metadata"),
        ({"prior_invocations": -1}, "prior_invocations"),
        ({"label": "twice"}, "cka_id"),
    ],
)
def test_what_is_wrong_with_an_adoption(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection, values: dict[str, Any], field: str
) -> None:
    hsms.put("foo")
    first = hsms.put("twice")
    hsms.put("twice")
    key_set = make_set(cast, "hsm-resident")
    with pytest.raises(ValidationFailed) as refused:
        adopt(cast.actor("appliance"), key_set, **values)
    assert refused.value.field == field
    if field == "cka_id":
        assert (
            adopt(cast.actor("appliance"), key_set, **values, cka_id=first.hex()).key.external_key_id
            == "twice"
        )


def test_the_check_over_the_api_tells_and_changes_nothing(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    inside = hsms.put("foo", wrap=True)
    address = f"/api/v1/key-sets/{make_set(cast, 'hsm-resident').pk}/adopt-check"
    body = {"key_label": "foo", "name": "payments-old", "region": "eu-west-1"}
    api = cast.api("appliance")
    found = api.post(address, body)
    assert found.status_code == 200, found.content
    told = found.json()
    assert (told["cka_id"], told["rotates"], len(told["warnings"])) == (inside.hex(), True, 1)
    assert told["members"] == [str(each) for each in hsm.members.all()]
    assert api.post(address, {**body, "prior_invocations": 7}).json()["rotates"] is False
    missing = api.post(address, {**body, "key_label": "bar"})
    assert (missing.status_code, missing.json()["field"]) == (400, "key_label")
    assert not CloudKey.objects.filter(name="payments-old").exists()
    assert not AuditEvent.objects.filter(action="cloudkeys:cloud_key:adopt").exists()


def test_a_repeated_request_adopts_once(cast: Cast, hsms: FakeHsms, hsm: HsmConnection) -> None:
    hsms.put("foo", wrap=True)
    address = f"/api/v1/key-sets/{make_set(cast, 'hsm-resident').pk}/adopt"
    body = {"key_label": "foo", "name": "payments-old", "region": "eu-west-1"}
    api = cast.api("appliance")
    first = api.post(address, body, headers={"Idempotency-Key": "taken-over-once"})
    assert (first.status_code, len(first.json()["warnings"])) == (201, 1)
    calls = list(hsms.calls)
    again = api.post(address, body, headers={"Idempotency-Key": "taken-over-once"})
    assert again.status_code == 201
    assert again.json() == {**first.json(), "warnings": [], "idempotency_replayed": True}
    assert hsms.calls == calls
    assert CloudKey.objects.filter(name="payments-old").count() == 1
