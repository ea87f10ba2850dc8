"""The snapshot and its changes: slices, removal, revocation, generations and leases."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xks import world
from tests.xks.shell import Shell, apply
from xks import wire
from xks.keyring import EMPTY, Change, ChangeRefused, Credential, Serving, SigningState

ENCRYPT = world.encrypt_body()


def delta(generation: int = 2, **changes: Any) -> wire.Delta:
    return wire.Delta(generation=generation, full=False, final=True, **changes)


@pytest.fixture
def serving() -> Serving:
    serving = Serving()
    apply(serving, *world.full_load())
    return serving


def test_full_load_in_slices_is_seen_only_as_a_whole() -> None:
    serving = Serving()
    slices = list(wire.slice_delta(5, full=True, stores=world.STORES, keys=world.KEYS, records=3))
    assert len(slices) > 4
    change = Change(serving, slices[0])
    for item in slices:
        for _ in change.add(item):
            assert serving.keyring is EMPTY
    change.commit()
    assert serving.keyring.generation == 5
    assert set(serving.keyring.stores) == {"store-1", "store-2", "store-3", "store-4"}
    assert set(serving.keyring.prefixes) == {world.PREFIX, world.OTHER_PREFIX, ""}
    assert set(serving.keyring.prefixes[""]) == {
        world.NO_PREFIX_CREDENTIAL.access_key_id,
        world.BLOCKED_CREDENTIAL.access_key_id,
    }


def test_destroyed_key_is_not_held(serving: Serving) -> None:
    assert "destroyed_key" not in serving.keyring.stores["store-1"].keys
    apply(serving, delta(keys=[world.key_record("foo", state="DESTROYED", versions=[], current_version=0)]))
    assert "foo" not in serving.keyring.stores["store-1"].keys


def test_a_change_leaves_the_snapshot_in_use_alone(serving: Serving) -> None:
    before = serving.keyring
    foo, other_store = before.stores["store-1"].keys["foo"], before.stores["store-2"]
    apply(serving, delta(keys=[world.key_record("foo", state="DISABLED"), world.key_record("new")]))
    after = serving.keyring
    assert before.stores["store-1"].keys["foo"] is foo
    assert foo.refusal is None
    assert "new" not in before.stores["store-1"].keys
    assert after.stores["store-1"].keys["foo"].refusal == "the external key is disabled"
    assert "new" in after.stores["store-1"].keys
    assert after.stores["store-2"] is other_store
    assert after.prefixes is before.prefixes
    assert (before.generation, after.generation) == (1, 2)


def test_removed_key(serving: Serving) -> None:
    apply(serving, delta(removed_keys=["store-1/foo", "never heard of"]))
    assert "foo" not in serving.keyring.stores["store-1"].keys
    assert "foo" in serving.keyring.stores["store-2"].keys


def test_removed_store_takes_its_keys_along(serving: Serving) -> None:
    apply(serving, delta(removed_stores=["store-2", "never heard of"]))
    assert "store-2" not in serving.keyring.stores
    assert world.OTHER_PREFIX not in serving.keyring.prefixes
    # Its keys are forgotten: removing one now changes nothing, and it may come again with a store.
    apply(serving, delta(3, removed_keys=["store-2/foo"]))
    apply(serving, delta(4, stores=[world.STORES[1]], keys=[world.key_record("foo", "store-2")]))
    assert set(serving.keyring.stores["store-2"].keys) == {"foo"}


def test_key_that_moves_leaves_its_old_place(serving: Serving) -> None:
    moved = world.key_record("bar", id="store-1/foo")
    apply(serving, delta(keys=[moved]))
    assert "foo" not in serving.keyring.stores["store-1"].keys
    assert serving.keyring.stores["store-1"].keys["bar"].id == "store-1/foo"


def test_removal_of_a_former_key_spares_its_successor(serving: Serving) -> None:
    apply(serving, delta(keys=[world.key_record("foo", id="successor")]))
    apply(serving, delta(3, removed_keys=["store-1/foo"]))
    assert serving.keyring.stores["store-1"].keys["foo"].id == "successor"


def test_store_that_changes_keeps_its_keys(serving: Serving) -> None:
    renamed = wire.StoreRecord("store-1", "/renamed", False, [world.CREDENTIAL], "health")
    apply(serving, delta(stores=[renamed]))
    assert "foo" in serving.keyring.stores["store-1"].keys
    assert "/renamed" in serving.keyring.prefixes
    assert world.PREFIX not in serving.keyring.prefixes


def test_full_load_forgets_what_it_does_not_name(serving: Serving) -> None:
    apply(serving, *world.full_load(2, stores=world.STORES[:1], keys=[world.key_record("foo")]))
    assert set(serving.keyring.stores) == {"store-1"}
    assert set(serving.keyring.stores["store-1"].keys) == {"foo"}
    apply(serving, delta(3, removed_keys=["store-2/foo", "store-1/health"]))
    assert set(serving.keyring.stores["store-1"].keys) == {"foo"}


def test_what_a_full_load_replaced_is_let_go_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xks.keyring.LET_GO", 2)
    serving = Serving()
    apply(serving, *world.full_load())
    held = serving.keyring
    names = set(held.stores["store-1"].keys)
    load = world.full_load(2)
    change = Change(serving, load[0])
    for item in load:
        for _ in change.add(item):
            pass
    assert not list(change.let_go()), "nothing has been replaced before the commit"
    change.commit()
    assert len(list(change.let_go())) > 4
    assert not list(change.let_go())
    # The old snapshot is whole for whoever still works with it, and the new one has its own tables.
    assert set(held.stores["store-1"].keys) == names
    apply(serving, delta(3, removed_keys=[serving.keyring.stores["store-1"].keys["foo"].id]))
    assert "foo" not in serving.keyring.stores["store-1"].keys
    assert "foo" in held.stores["store-1"].keys


def test_empty_change_carries_the_generation(serving: Serving) -> None:
    apply(serving, delta(17))
    assert serving.keyring.generation == 17
    assert "foo" in serving.keyring.stores["store-1"].keys


# --- credentials


def test_credential_that_stays_keeps_its_signing_keys(serving: Serving) -> None:
    held = serving.keyring.stores["store-1"].credentials[0]
    held.remember("20260101", "eu-west-1", b"k" * 32)
    third = wire.CredentialRecord("A" * 20, b"x" * 43)
    apply(
        serving, delta(stores=[wire.StoreRecord("store-1", world.PREFIX, False, [world.CREDENTIAL, third])])
    )
    assert serving.keyring.stores["store-1"].credentials[0] is held
    apply(serving, *world.full_load(3))
    assert serving.keyring.stores["store-1"].credentials[0] is held


def test_credential_whose_secret_changed_keeps_none(serving: Serving) -> None:
    serving.keyring.stores["store-1"].credentials[0].remember("20260101", "eu-west-1", b"k" * 32)
    changed = wire.CredentialRecord(world.CREDENTIAL.access_key_id, b"y" * 43)
    apply(serving, delta(stores=[wire.StoreRecord("store-1", world.PREFIX, False, [changed])]))
    assert serving.keyring.stores["store-1"].credentials[0].signing_keys == {}


async def test_revoked_credential_is_refused_though_its_signing_key_was_kept(shell: Shell) -> None:
    assert (await shell.call("encrypt", ENCRYPT)).status == 200
    left = wire.StoreRecord("store-1", world.PREFIX, False, [world.SECOND_CREDENTIAL], "health")
    apply(shell.serving, delta(stores=[left]))
    assert (await shell.call("encrypt", ENCRYPT)).error == (401, "AuthenticationFailedException")
    assert (await shell.call("encrypt", ENCRYPT, credential=world.SECOND_CREDENTIAL)).status == 200


async def test_disable_block_and_enable_take_effect_with_the_change(shell: Shell) -> None:
    for generation, change, status in (
        (2, {"state": "DISABLED"}, 400),
        (3, {}, 200),
        (4, {"blocked": True}, 400),
        (5, {}, 200),
    ):
        apply(shell.serving, delta(generation, keys=[world.key_record("foo", **change)]))
        assert (await shell.call("encrypt", ENCRYPT)).status == status
    blocked = wire.StoreRecord("store-1", world.PREFIX, True, [world.CREDENTIAL], "health")
    apply(shell.serving, delta(6, stores=[blocked]))
    assert (await shell.call("encrypt", ENCRYPT)).error == (400, "InvalidStateException")


def test_two_stores_of_one_prefix_cannot_share_an_access_key_id(serving: Serving) -> None:
    before = serving.keyring
    clash = wire.StoreRecord("store-9", "", False, [world.NO_PREFIX_CREDENTIAL])
    with pytest.raises(ChangeRefused, match="access key id"):
        apply(serving, delta(stores=[clash]))
    assert serving.keyring is before


# --- refusals


def test_partial_change_needs_something_to_change() -> None:
    with pytest.raises(ChangeRefused, match="nothing is held"):
        apply(Serving(), delta())


@pytest.mark.parametrize("full", [True, False])
def test_lower_generation_is_refused(serving: Serving, full: bool) -> None:
    apply(serving, delta(9))
    with pytest.raises(ChangeRefused, match="lower"):
        Change(serving, wire.Delta(8, full, True))
    with pytest.raises(ChangeRefused, match="lower"):
        Change(serving, wire.Delta(8, False, True, rollback_accepted=True))
    assert serving.keyring.generation == 9


def test_lower_generation_is_taken_when_an_operator_accepts_it(serving: Serving) -> None:
    assert serving.take_lease(world.lease(1), wire.boot_clock())
    apply(serving, delta(9))
    apply(serving, *world.full_load(4, rollback_accepted=True))
    assert serving.keyring.generation == 4
    # The leases so far vouched for the other database.
    assert serving.expired(wire.boot_clock())


def test_same_generation_may_come_again(serving: Serving) -> None:
    apply(serving, *world.full_load(1))
    assert serving.keyring.generation == 1


def test_slices_of_two_changes_do_not_mix(serving: Serving) -> None:
    change = Change(serving, wire.Delta(2, False, False))
    for other in (wire.Delta(3, False, True), wire.Delta(2, True, True)):
        with pytest.raises(ChangeRefused, match="another change"):
            list(change.add(other))


def test_key_of_an_unknown_store_is_refused(serving: Serving) -> None:
    with pytest.raises(ChangeRefused, match="store-9"):
        apply(serving, delta(keys=[world.key_record("foo", "store-9")]))


@pytest.mark.parametrize(
    "changes",
    [{"current_version": 2}, {"versions": []}, {"versions": [wire.VersionRecord(1, bytes(16))]}],
    ids=["no current version", "no version", "short key"],
)
def test_key_that_cannot_work_is_refused(serving: Serving, changes: dict[str, Any]) -> None:
    with pytest.raises(ChangeRefused):
        apply(serving, delta(keys=[world.key_record("foo", **changes)]))
    assert serving.keyring.generation == 1


# --- leases


def test_lease_runs_out(serving: Serving) -> None:
    assert serving.expired(100.0)
    assert serving.take_lease(wire.Lease(1, 60.0, 100.0), now=100.5)
    assert not serving.expired(159.9)
    assert serving.expired(160.0)
    assert serving.problem(159.9) is None
    assert serving.problem(160.0) is not None


def test_lease_that_waited_does_not_come_alive_late(serving: Serving) -> None:
    assert serving.take_lease(wire.Lease(1, 60.0, 100.0), now=1000.0)
    assert serving.expired(1000.0)


def test_lease_from_the_future_counts_from_now(serving: Serving) -> None:
    assert serving.take_lease(wire.Lease(1, 60.0, 5000.0), now=100.0)
    assert serving.expired(160.0)


def test_older_lease_does_not_shorten(serving: Serving) -> None:
    assert serving.take_lease(wire.Lease(1, 60.0, 100.0), now=100.0)
    assert not serving.take_lease(wire.Lease(1, 60.0, 90.0), now=100.0)
    assert not serving.expired(159.0)


def test_lease_for_a_generation_not_held_is_ignored(serving: Serving) -> None:
    assert not serving.take_lease(wire.Lease(2, 60.0, 100.0), now=100.0)
    assert serving.expired(100.0)
    apply(serving, delta(3))
    # Nor one for an older: it may be of a database that went back.
    assert not serving.take_lease(wire.Lease(2, 60.0, 100.0), now=100.0)
    assert serving.take_lease(wire.Lease(3, 60.0, 100.0), now=100.0)


def test_lease_without_keys_is_ignored() -> None:
    assert not Serving().take_lease(wire.Lease(0, 60.0, 100.0), now=100.0)


# --- against a model: whatever the changes, what is held is what a dict would hold

IDS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), IDS, IDS, st.sampled_from(["store-1", "store-2"])),
        st.tuples(st.just("drop"), IDS),
        st.tuples(st.just("drop store")),
    ),
    max_size=12,
)


@given(STEPS, st.integers(1, 4))
def test_changes_against_a_model(steps: list[tuple[str, ...]], records: int) -> None:
    serving = Serving()
    apply(serving, *world.full_load(keys=[]))
    model: dict[str, tuple[str, str]] = {}
    for generation, step in enumerate(steps, 2):
        changes: dict[str, Any] = {}
        if step[0] == "put":
            _, key_id, external, store = step
            if any(home == (store, external) and other != key_id for other, home in model.items()):
                continue  # the database keeps external key ids unique in their store
            model[key_id] = (store, external)
            changes["keys"] = [world.key_record(external, store, id=key_id)]
        elif step[0] == "drop":
            model.pop(step[1], None)
            changes["removed_keys"] = [step[1]]
        else:
            model = {key_id: home for key_id, home in model.items() if home[0] != "store-2"}
            changes.update(removed_stores=["store-2"], stores=[world.STORES[1]])
        apply(serving, *wire.slice_delta(generation, full=False, records=records, **changes))
    held = {
        key.id: (store.id, external)
        for store in serving.keyring.stores.values()
        for external, key in store.keys.items()
    }
    assert held == model


def test_reprs_show_no_secret() -> None:
    record = world.key_record("foo")
    material = repr(record.versions[0].material)[2:-1]
    serving = Serving()
    apply(serving, *world.full_load())
    ring = serving.keyring
    text = " ".join(
        map(
            repr,
            (
                record,
                world.STORES,
                ring,
                *ring.stores.values(),
                ring.prefixes,
                ring.stores["store-1"].keys,
                Credential(world.CREDENTIAL, "s"),
            ),
        )
    )
    assert material not in text
    assert world.SECRET.decode() not in text


def test_what_has_proved_right_goes_with_the_table_of_credentials(serving: Serving) -> None:
    table = serving.keyring.prefixes[world.PREFIX]
    held = table[world.CREDENTIAL.access_key_id]
    state = SigningState(held, "20260101", "us-east-1", ("host", "x-amz-date"), None, None)
    table.remember("text", state)
    # A change of keys keeps it, one of stores does not, whichever store it is.
    apply(serving, delta(keys=[world.key_record("new")]))
    assert serving.keyring.prefixes[world.PREFIX].proven == {"text": state}
    apply(serving, delta(3, stores=[world.STORES[1]]))
    assert not serving.keyring.prefixes[world.PREFIX].proven
