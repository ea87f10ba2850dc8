"""Rotation of a store's XKS credential: both live, given to AWS region by region, judged by use, the old one retired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys import upkeep
from cloudkeys.flows import xks_credential_rotation
from cloudkeys.models import Operation, XksCredential, XksCredentialRegion, XksKeyStore
from cloudkeys.operations import cancel_operation, retry_operation, runner
from cloudkeys.services import credential_rotation, credentials, stores
from tests.cloudkeys.cloud import REGION, Aws, World, connected, new_world, simulated_account
from tests.cloudkeys.crashing import before_step, every_crash_point, run_to_end
from vault.actions import Action
from vault.actors import Actor
from vault.errors import Conflict, PermissionDenied, ValidationFailed
from vault.models import AuditEvent, Vault, WorkerProcess

KIND = credential_rotation.KIND
OTHER = "eu-central-1"
HOURS = timedelta(hours=2)
SYSTEM = Actor.system("worker", "test")


@pytest.fixture(autouse=True)
def _served(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy knows a credential as soon as it is made, as the data plane would."""
    make = xks_credential_rotation.make_credential

    def made(tx: Any, store: XksKeyStore) -> credentials.NewCredential:
        new = make(tx, store)
        aws.proxy.secrets[new.credential.access_key_id] = new.secret.reveal_text()
        return new

    monkeypatch.setattr(xks_credential_rotation, "make_credential", made)


@pytest.fixture
def linked(world: World) -> World:
    return connected(world)


def rotate(world: World, **more: Any) -> Operation:
    return credential_rotation.rotate_xks_credential(world.actor, world.store.pk, **more)


def go(operation: Operation) -> Operation:
    """As far as it goes now."""
    Operation.objects.filter(pk=operation.pk).update(next_try_at=None)
    runner.run_operation(operation.pk)
    operation.refresh_from_db()
    return operation


def step(operation: Operation) -> tuple[str, str]:
    entry = operation.steps[operation.step]
    return entry["name"], entry["detail"]


def live(world: World) -> list[str]:
    rows = world.store.credentials.filter(state="ACTIVE").order_by("created_at")
    return [row.access_key_id for row in rows]


def in_aws(world: World, region: str = REGION) -> list[str]:
    return [store["XksProxyConfiguration"]["AccessKeyId"] for store in world.aws.key_stores(region)]


def used(
    world: World, which: int, region: str = REGION, *, ago: timedelta = timedelta(), ok: bool = True
) -> None:
    """The data plane has seen the store's live credential number `which` in use."""
    credential = XksCredential.objects.get(access_key_id=live(world)[which])
    row, _ = XksCredentialRegion.objects.get_or_create(credential=credential, region=region)
    row.last_used_at = timezone.now() - ago
    row.last_succeeded_at = row.last_used_at if ok else row.last_succeeded_at
    row.save()


def time_passes(world: World, span: timedelta = HOURS) -> None:
    """All that was noted of this store's credentials is older by so much."""
    for row in XksCredentialRegion.objects.filter(credential__store=world.store):
        for name in ("given_at", "last_used_at", "last_succeeded_at"):
            if (at := getattr(row, name)) is not None:
                setattr(row, name, at - span)
        row.save()


def new_in_use(world: World) -> None:
    """Hours pass, in which AWS uses the new one in every region where it has it."""
    time_passes(world)
    new = world.store.credentials.filter(state="ACTIVE").order_by("-created_at").first()
    if new is not None:
        now = timezone.now()
        new.regions.exclude(given="").update(last_used_at=now, last_succeeded_at=now)


# --- the linked path


def test_the_old_credential_goes_when_aws_uses_the_new_one_and_no_more_the_old(linked: World) -> None:
    (old,) = live(linked)
    used(linked, 0)
    operation = go(rotate(linked))
    first, new = live(linked)
    assert (first, in_aws(linked)) == (old, [new])
    assert step(operation)[0] == "watch"
    # AWS's hosts may remember the old one for a while after the update: it stays live as long as it is used.
    used(linked, 1)
    used(linked, 0)
    assert "old credential is not silent" in step(go(operation))[1]
    time_passes(linked, timedelta(minutes=55))
    used(linked, 0, ago=timedelta(minutes=54))
    used(linked, 1)
    assert live(linked) == [old, new]
    assert go(operation).state == "WAITING"
    time_passes(linked, timedelta(minutes=10))
    used(linked, 1)
    assert go(operation).state == "SUCCEEDED", (operation.error, operation.steps)
    assert live(linked) == [new]
    retired = linked.store.credentials.get(access_key_id=old)
    assert (retired.state, retired.secret_access_key) == ("RETIRED", None)
    assert operation.result["retired"] == [old]
    assert operation.result["access_key_id"] == new
    assert operation.result["confirmed_by"].startswith("1 of 1 XKS workers")
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert {Action.XKS_CREDENTIAL_ROTATE, Action.XKS_CREDENTIAL_GIVE, Action.XKS_CREDENTIAL_RETIRE} <= actions
    assert not AuditEvent.objects.filter(action=Action.XKS_CREDENTIAL_SHOW, target_name=new).exists()


def test_the_secret_never_stands_in_operation_or_record(linked: World) -> None:
    operation = go(rotate(linked))
    secret = linked.aws.proxy.secrets[live(linked)[1]]
    told = [str(vars(operation)), *map(str, AuditEvent.objects.values_list("after", "detail", "before"))]
    assert all(secret not in text for text in told)


def test_a_region_where_neither_is_used_is_reported_and_nothing_retired(linked: World) -> None:
    operation = go(rotate(linked))
    used(linked, 0)
    used(linked, 1)
    time_passes(linked)
    assert go(operation).state == "WAITING"
    assert operation.error["code"] == "region_silent"
    assert REGION in operation.error["cause"]
    go(operation)
    assert len(live(linked)) == 2
    events = AuditEvent.objects.filter(action=Action.XKS_CREDENTIAL_ROTATE, detail__what="silent")
    assert events.count() == 1  # once, not at each look
    used(linked, 1)
    assert go(operation).state == "SUCCEEDED"


def test_a_use_that_was_refused_does_not_prove_the_new_one(linked: World) -> None:
    operation = go(rotate(linked))
    XksCredentialRegion.objects.all().update(last_succeeded_at=None)
    time_passes(linked)
    used(linked, 1, ok=False)
    assert "has not been used yet" in step(go(operation))[1]
    assert len(live(linked)) == 2


def test_every_region_counts_and_trouble_in_one_does_not_hold_up_the_others(
    world: World, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for region in (OTHER, REGION):
        link = stores.create_store_link(world.actor, world.store.pk, stores.LinkRequest(region=region))
        assert link.operation is not None
        assert run_to_end(link.operation).state == "SUCCEEDED"
    give, failing = xks_credential_rotation._give_to_aws, [OTHER]

    def flaky(ctx: Any, credential: Any, link: Any) -> None:
        if link.region in failing:
            raise xks_credential_rotation.OperationError("away", "AWS is away", permanent=False)
        give(ctx, credential, link)

    monkeypatch.setattr(xks_credential_rotation, "_give_to_aws", flaky)
    operation = go(rotate(world))
    new = live(world)[1]
    assert (in_aws(world), in_aws(world, OTHER)) == ([new], [live(world)[0]])
    assert operation.error["code"] == "away"
    failing.clear()
    go(operation)
    assert in_aws(world, OTHER) == [new]
    time_passes(world)
    used(world, 1)
    used(world, 0, OTHER)
    assert go(operation).state == "WAITING"
    assert operation.steps[operation.step]["detail"].startswith(OTHER)
    time_passes(world)
    used(world, 1)
    used(world, 1, OTHER)
    assert go(operation).state == "SUCCEEDED"
    assert live(world) == [new]


def test_uses_that_a_lost_node_cannot_tell_of_are_waited_for(linked: World) -> None:
    operation = go(rotate(linked))
    time_passes(linked)
    used(linked, 1)
    worker = WorkerProcess.objects.get()
    worker.pk, worker.instance, worker.last_seen_at = None, "two", timezone.now() - timedelta(minutes=20)
    worker._state.adding = True
    worker.save()
    assert go(operation).error["code"] == "uses_not_reported"
    assert len(live(linked)) == 2
    WorkerProcess.objects.filter(instance="two").update(last_seen_at=timezone.now() - timedelta(hours=3))
    assert go(operation).state == "SUCCEEDED"


def test_a_use_in_the_last_moment_keeps_the_old_one(linked: World) -> None:
    operation = go(rotate(linked))
    new_in_use(linked)
    with before_step(KIND, "retire_old", lambda: used(linked, 0)):
        go(operation)
    assert step(operation)[0] == "retire_old"
    assert len(live(linked)) == 2
    new_in_use(linked)
    assert go(operation).state == "SUCCEEDED"


# --- the unlinked path


@pytest.fixture
def unlinked(world: World) -> World:
    stores.create_store_link(world.actor, world.store.pk, stores.LinkRequest(region=REGION, linked=False))
    used(world, 0)
    return world


def test_a_person_carries_the_file_once_and_says_when_it_is_done(
    unlinked: World, outsider: Actor, auditor: Actor
) -> None:
    operation = go(rotate(unlinked))
    assert step(operation) == ("hand_over", f"a person has to give AWS the new credential in {REGION}")
    view = credential_rotation.show_rotation(auditor, unlinked.store.pk)
    assert view.file_available
    assert [(status.region, status.state) for status in view.regions] == [(REGION, "TO_GIVE")]
    with pytest.raises(PermissionDenied):
        credential_rotation.take_rotation_file(auditor, unlinked.store.pk)
    taken = credential_rotation.take_rotation_file(unlinked.actor, unlinked.store.pk)
    assert taken.credential.access_key_id == live(unlinked)[1]
    file = taken.console_file()["XksProxyAuthenticationCredential"]
    assert file["RawSecretAccessKey"] == unlinked.aws.proxy.secrets[live(unlinked)[1]]
    with pytest.raises(Conflict, match="shown once"):
        credential_rotation.take_rotation_file(unlinked.actor, unlinked.store.pk)
    credential_rotation.mark_given(unlinked.actor, unlinked.store.pk, region=REGION)
    assert step(go(operation))[0] == "watch"
    # Said to be done, but AWS does not use it: nothing is retired on a person's word alone.
    time_passes(unlinked)
    assert go(operation).error["code"] == "region_silent"
    used(unlinked, 1)
    assert go(operation).state == "SUCCEEDED"


def test_use_of_the_new_one_shows_that_aws_has_it(unlinked: World) -> None:
    operation = go(rotate(unlinked))
    used(unlinked, 1)
    assert step(go(operation))[0] == "watch"
    row = XksCredentialRegion.objects.get(credential__access_key_id=live(unlinked)[1])
    assert row.given == "PERSON"


def test_a_region_known_by_use_alone_is_asked_about_and_can_be_given_up(world: World) -> None:
    used(world, 0)
    used(world, 0, OTHER, ago=timedelta(days=3))
    operation = go(rotate(world))
    assert step(operation)[1].endswith(f"in {OTHER}, {REGION}")
    credential_rotation.mark_given(world.actor, world.store.pk, region=OTHER, not_needed=True)
    credential_rotation.mark_given(world.actor, world.store.pk, region=REGION)
    assert step(go(operation))[0] == "watch"
    # Given up, and yet in use: that is believed more than the word.
    time_passes(world)
    used(world, 1)
    used(world, 0, OTHER)
    assert "old credential is not silent" in step(go(operation))[1]
    time_passes(world)
    used(world, 1)
    assert go(operation).state == "SUCCEEDED"


def test_a_store_of_which_no_region_is_known_waits_for_one(world: World) -> None:
    operation = go(rotate(world))
    assert "no region is known" in step(operation)[1]
    with pytest.raises(ValidationFailed):
        credential_rotation.mark_given(world.actor, world.store.pk, region="nowhere")
    credential_rotation.mark_given(world.actor, world.store.pk, region=REGION)
    assert step(go(operation))[0] == "watch"


def test_a_linked_region_is_not_done_by_hand(linked: World) -> None:
    rotate(linked)
    with pytest.raises(Conflict, match="not made the new credential yet"):
        credential_rotation.mark_given(linked.actor, linked.store.pk, region=REGION)
    runner.sweep()
    with pytest.raises(Conflict, match="Keystead drives"):
        credential_rotation.mark_given(linked.actor, linked.store.pk, region=REGION)


# --- cancel, failure, doubles


def test_one_rotation_at_a_time(linked: World) -> None:
    rotate(linked)
    with pytest.raises(Conflict, match="under way"):
        rotate(linked)
    with pytest.raises(ValidationFailed, match="60 seconds"):
        rotate(linked, silence_s=5)


def test_a_cancel_gives_aws_the_old_one_back_and_retires_the_new_one_when_it_is_silent(linked: World) -> None:
    (old,) = live(linked)
    operation = go(rotate(linked))
    used(linked, 1)
    cancel_operation(linked.actor, operation)
    go(operation)
    assert in_aws(linked) == [old]
    assert operation.state == "WAITING"
    assert len(live(linked)) == 2  # AWS's hosts may still sign with the new one
    with pytest.raises(Conflict, match="being cancelled"):
        credential_rotation.mark_given(linked.actor, linked.store.pk, region=REGION)
    operation.memo["given_back_at"] = (timezone.now() - HOURS).isoformat()
    Operation.objects.filter(pk=operation.pk).update(memo=operation.memo)
    time_passes(linked)
    assert go(operation).state == "CANCELLED"
    assert live(linked) == [old]


def test_a_cancel_keeps_what_a_person_gave_to_aws(unlinked: World) -> None:
    operation = go(rotate(unlinked))
    credential_rotation.mark_given(unlinked.actor, unlinked.store.pk, region=REGION)
    go(operation)
    cancel_operation(unlinked.actor, operation)
    assert go(operation).state == "CANCELLED"
    assert len(live(unlinked)) == 2
    assert "stays live" in operation.steps[0]["detail"]
    again = go(rotate(unlinked))
    new = live(unlinked)[2]
    credential_rotation.mark_given(unlinked.actor, unlinked.store.pk, region=REGION)
    new_in_use(unlinked)
    assert go(again).state == "SUCCEEDED"
    assert live(unlinked) == [new]


def test_a_cancel_before_anything_was_given_retires_the_new_one_at_once(unlinked: World) -> None:
    operation = go(rotate(unlinked))
    cancel_operation(unlinked.actor, operation)
    assert go(operation).state == "CANCELLED"
    assert len(live(unlinked)) == 1


def test_retiring_is_the_point_of_no_return(linked: World) -> None:
    operation = go(rotate(linked))
    new_in_use(linked)
    with before_step(KIND, "retire_old", lambda: cancel_operation(linked.actor, operation)):
        go(operation)
    assert (operation.undoing, len(live(linked))) == (True, 2)


def test_a_failure_keeps_both_and_a_retry_goes_on_with_the_same_credential(linked: World, aws: Aws) -> None:
    operation = rotate(linked)
    with before_step(KIND, "hand_over", lambda: aws.proxy.secrets.clear()):
        go(operation)
    assert operation.state == "FAILED", operation.error
    assert len(live(linked)) == 2
    new = live(linked)[1]
    aws.serve(linked.store)
    retry_operation(linked.actor, operation)
    go(operation)
    assert (in_aws(linked), live(linked)[1]) == ([new], new)


def test_a_new_credential_retired_by_hand_ends_the_rotation(linked: World) -> None:
    operation = go(rotate(linked))
    new = linked.store.credentials.get(access_key_id=live(linked)[1])
    credentials.retire_xks_credential(linked.actor, new.pk, force=True, reason="leaked")
    assert go(operation).error["code"] == "new_credential_gone"
    assert operation.state == "FAILED"
    assert len(live(linked)) == 1


# --- the schedule


def test_the_schedule_begins_rotations_and_is_moved_on(linked: World) -> None:
    every = {"kind": "every", "every": 90, "unit": "days"}
    store = stores.update_xks_store(linked.actor, linked.store.pk, {"rotation_schedule": every})
    assert store.next_rotation_at is not None
    assert store.next_rotation_at > timezone.now() + timedelta(days=88)
    assert upkeep.rotate_due_xks_credentials(SYSTEM) == 0
    XksKeyStore.objects.filter(pk=store.pk).update(next_rotation_at=timezone.now() - timedelta(minutes=1))
    assert upkeep.rotate_due_xks_credentials(SYSTEM) == 1
    assert upkeep.rotate_due_xks_credentials(SYSTEM) == 0
    operation = Operation.objects.get(kind=KIND)
    go(operation)
    new_in_use(linked)
    assert go(operation).state == "SUCCEEDED"
    store.refresh_from_db()
    assert store.next_rotation_at > timezone.now() + timedelta(days=88)
    stores.update_xks_store(linked.actor, linked.store.pk, {"rotation_schedule": {"kind": "none"}})
    store.refresh_from_db()
    assert store.next_rotation_at is None


def test_a_rotation_that_failed_is_not_begun_again_at_once(linked: World) -> None:
    past = timezone.now() - timedelta(minutes=1)
    XksKeyStore.objects.filter(pk=linked.store.pk).update(next_rotation_at=past)
    upkeep.rotate_due_xks_credentials(SYSTEM)
    Operation.objects.filter(kind=KIND).update(state="FAILED", finished_at=timezone.now())
    assert upkeep.rotate_due_xks_credentials(SYSTEM) == 0
    Operation.objects.filter(kind=KIND).update(finished_at=timezone.now() - timedelta(days=2))
    assert upkeep.rotate_due_xks_credentials(SYSTEM) == 1


# --- killed anywhere


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("crash_stride")
def test_killed_after_every_call_and_every_commit(
    owner: Actor, payments: Vault, aws: Aws, xks_workers: Any
) -> None:
    account = simulated_account(owner, payments, aws)

    def scenario(number: int) -> World:
        return connected(new_world(owner, payments, aws, account, f"pay-{number}"))

    def between(world: World) -> None:
        """Whatever AWS signs with at this moment, the data plane must know it."""
        (signs_with,) = [
            store["XksProxyConfiguration"]["AccessKeyId"]
            for store in aws.key_stores()
            if store["XksProxyConfiguration"]["UriPath"].startswith(world.store.path_prefix + "/")
        ]
        assert signs_with in live(world)

    def check(world: World, operation: Operation, where: str) -> None:
        assert operation.state == "SUCCEEDED", (where, operation.error, operation.steps)
        between(world)
        assert len(live(world)) == 1, where
        assert world.store.credentials.count() == 2, where
        retired = AuditEvent.objects.filter(
            action=Action.XKS_CREDENTIAL_RETIRE,
            target_id=str(world.store.credentials.get(state="RETIRED").pk),
        )
        assert retired.count() == 1, where

    points = every_crash_point(scenario, rotate, check, pass_time=new_in_use, between=between)
    assert {"aws UpdateCustomKeyStore", "commit"} <= set(points)
