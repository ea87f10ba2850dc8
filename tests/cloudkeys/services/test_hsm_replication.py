"""How a key set's keys get to all members of their HSM, chosen and shown."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeys.models import KeySet
from cloudkeys.services import hsm_replication, key_sets, protection
from tests.cast import Cast
from tests.cloudkeys import hsm_world
from tests.cloudkeys.hsm_world import FakeHsms
from tests.cloudkeys.world import new_key, new_key_set
from vault.errors import Conflict, ValidationFailed
from vault.models import AuditEvent, HsmConnection, HsmKey, HsmMember
from xks.agent_keks import Keks, WrappedKek
from xks.agent_loading import load_everything


@pytest.fixture
def hsms(monkeypatch: pytest.MonkeyPatch) -> FakeHsms:
    return hsm_world.install(monkeypatch)


@pytest.fixture
def hsm(hsms: FakeHsms, cast: Cast) -> HsmConnection:
    return hsms.connect(cast.vault)


def make_set(cast: Cast, kind: str, **more: Any) -> KeySet:
    return new_key_set(cast.actor("owner"), cast.vault, None, protection=kind, **more).key_set


def key_of(cast: Cast, key_set: KeySet, name: str = "payments") -> Any:
    return new_key(cast.actor("owner"), key_set, name)


def opener(hsms: FakeHsms) -> Keks:
    def open_kek(kek: WrappedKek) -> bytes:
        from hsm.pkcs11 import Pkcs11KeyWrapper

        return Pkcs11KeyWrapper(hsms, kek.hsm_key).decrypt(kek.blob, kek.place)  # type: ignore[arg-type]

    return Keks(open_kek)


def two_members(hsm: HsmConnection) -> HsmConnection:
    HsmMember.objects.create(connection=hsm, token_label="second", position=1, state="ACTIVE")
    return hsm


def ways(hsm: HsmConnection, purpose: str = "resident") -> list[str]:
    rows = HsmKey.objects.filter(connection=hsm, purpose=purpose).order_by("created_at")
    return [row.replication for row in rows]


def test_how_keys_reach_the_members_is_chosen_and_holds_for_new_ones(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    owner = cast.actor("owner")
    key_set = make_set(cast, "hsm-resident")
    key_of(cast, key_set, "alone")
    two_members(hsm)
    key_of(cast, key_set, "of-several")
    changed = key_sets.update_key_set(owner, key_set.pk, {"hsm_replication": "device-bound"})
    assert changed.hsm_replication == "device-bound"
    event = AuditEvent.objects.filter(action="cloudkeys:key_set:update").latest("id")
    assert (event.before["hsm_replication"], event.after["hsm_replication"]) == ("", "device-bound")
    key_of(cast, changed, "bound")
    assert ways(hsm) == ["device-bound", "replicated", "device-bound"]
    assert hsm_replication.replications_of(changed) == {"device-bound": 2, "replicated": 1}
    # Left to Keystead again; a change of something else keeps what is chosen.
    key_sets.update_key_set(owner, key_set.pk, {"hsm_replication": "replicated"})
    kept = key_sets.update_key_set(owner, key_set.pk, {"protection": "hsm-resident", "name": "other"})
    assert kept.hsm_replication == "replicated"
    assert key_sets.update_key_set(owner, key_set.pk, {"hsm_replication": None}).hsm_replication == ""
    software = key_sets.update_key_set(owner, key_set.pk, {"protection": "software"})
    assert (software.hsm_replication, software.hsm_connection) == ("", None)


def test_a_wrapped_set_is_wrapped_anew_by_a_key_of_the_chosen_kind(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    owner, _ = cast.actor("owner"), two_members(hsm)
    key_set = make_set(cast, "hsm-wrapped")
    key_of(cast, key_set)
    before = load_everything(60.0, opener(hsms))
    bound = key_sets.update_key_set(owner, key_set.pk, {"hsm_replication": "device-bound"})
    assert bound.hsm_key is not None
    assert bound.hsm_key.replication == "device-bound"
    assert ways(hsm, "wrapping") == ["replicated", "device-bound"]
    after = load_everything(60.0, opener(hsms))
    assert not after.left_out
    assert {r.id: r.versions for r in before.keys} == {r.id: r.versions for r in after.keys}
    # The next set of that kind shares the wrapping key, and choosing the same again asks the HSM nothing.
    again = make_set(cast, "hsm-wrapped", hsm_replication="device-bound", name="second")
    assert again.hsm_key == bound.hsm_key
    asked = len(hsms.calls)
    key_sets.update_key_set(owner, key_set.pk, {"hsm_replication": "device-bound"})
    assert len(hsms.calls) == asked


def test_what_cannot_be_chosen_is_refused_with_its_reason(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    def refused(**values: Any) -> str:
        with pytest.raises(ValidationFailed) as error:
            make_set(cast, **values)
        assert error.value.field == "hsm_replication"
        return error.value.message

    assert "in no HSM" in refused(kind="software", hsm_replication="replicated")
    assert "has one member" in refused(kind="hsm-resident", hsm_replication="replicated")
    assert "unknown" in refused(kind="hsm-resident", hsm_replication="by post")
    two_members(hsm).members.filter(token_label="second").update(profile={"oaep": []})  # type: ignore[attr-defined]
    assert "Keys cannot be copied to second" in refused(kind="hsm-resident", hsm_replication="replicated")
    assert not KeySet.objects.exists()
    # What was possible when it was chosen stays when something else is changed.
    hsm.members.update(profile={})  # type: ignore[attr-defined]
    key_set = make_set(cast, "hsm-resident", hsm_replication="replicated")
    hsm.members.filter(token_label="second").delete()  # type: ignore[attr-defined]
    key_sets.update_key_set(cast.actor("owner"), key_set.pk, {"protection": "hsm-resident"})
    key_of(cast, key_set)
    assert ways(hsm) == ["device-bound"], "with one member it need never be extractable"


def test_a_copied_key_is_not_taken_where_device_bound_was_chosen_meanwhile(
    cast: Cast, hsms: FakeHsms, hsm: HsmConnection
) -> None:
    two_members(hsm)
    key_set = make_set(cast, "hsm-resident")
    with protection.material_for(key_set, "late") as material:
        key_set.hsm_replication = "device-bound"
        with pytest.raises(Conflict):
            material.check(key_set)
