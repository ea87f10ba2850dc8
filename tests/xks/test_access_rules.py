"""Services and API of access rules, and their way to the workers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudkeys.models import CloudKey, XksKeyStore
from cloudkeys.services.cloud_keys import update_cloud_key
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key_set
from tests.cloudkeys.world import new_key, store_of
from vault.errors import Conflict, NotFound, StaleRevision, ValidationFailed
from vault.models import AuditEvent, Generation, GenerationChange
from vault.services.vaults import disable_vault
from xks import wire
from xks.agent_loading import Applied, Loaded, load_changes, load_everything
from xks.agent_rules import MAX_PRINCIPALS, ShadowSums
from xks.keyring import Change, Serving
from xks.models import AccessRuleSet, AccessRuleVersion, RequestStore, ShadowTally
from xks.models.usage import UsageHour
from xks.policy_rules import UNREADABLE
from xks.services import access_rules, dry_runs
from xks.services.access_rules import (
    add_version,
    create_rule_set,
    differences,
    enforce_version,
    shadow_version,
    sum_shadow,
)

ADA = "arn:aws:iam::111122223333:user/ada"
NO_ADA = [{"name": "no Ada", "effect": "DENY", "conditions": [{"field": "principal", "values": [ADA]}]}]
NO_BOB = [
    {"name": "no Bob", "effect": "DENY", "conditions": [{"field": "principal", "values": [ADA[:-3] + "bob"]}]}
]
NOBODY = [{"name": "nobody", "effect": "DENY"}]


@pytest.fixture
def store(cast: Cast) -> XksKeyStore:
    return store_of(owned_key_set(cast))


@pytest.fixture
def key(cast: Cast, store: XksKeyStore) -> CloudKey:
    return new_key(cast.actor("owner"), store.key_set, tags={"env": "prod"})


@pytest.fixture
def rules(cast: Cast, store: XksKeyStore) -> AccessRuleSet:
    return create_rule_set(cast.actor("colleague"), store_id=store.pk, rules=NO_ADA, reason="Ticket 1")


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=f"xks:access_rules:{action}").order_by("at"))


def served(loaded: Loaded) -> Serving:
    serving = Serving()
    slices = list(wire.slice_delta(loaded.generation, full=True, stores=loaded.stores, keys=loaded.keys))
    change = Change(serving, slices[0])
    for delta in slices:
        for _ in change.add(delta):
            pass
    change.commit()
    return serving


# --- versions and history


def test_first_version_is_kept_and_nothing_enforced(cast: Cast, rules: AccessRuleSet) -> None:
    version = rules.versions.get()
    assert (version.number, version.reason, version.author_name) == (1, "Ticket 1", "colleague@example.com")
    assert version.rules[0]["conditions"] == [{"field": "principal", "negated": False, "values": [ADA]}]
    assert (rules.enforced, rules.shadowed) == (None, None)
    (event,) = events("create")
    assert event.after == {"version": 1, "rules": version.rules}
    assert (event.reason, event.target_name, event.generation) == ("Ticket 1", "pay-hyok", None)


def test_versions_are_numbered_and_never_change(cast: Cast, rules: AccessRuleSet) -> None:
    actor = cast.actor("owner")
    enforce_version(actor, rules.pk, version=1)
    second = add_version(actor, rules.pk, rules=NO_BOB, reason="Ticket 2")
    rules.refresh_from_db()
    assert second.number == 2
    assert rules.enforced is not None
    assert rules.enforced.number == 1
    (event,) = events("add_version")
    assert event.before is not None
    assert (event.before["version"], event.after["version"]) == (1, 2)
    assert event.detail == {"access_rules": str(rules.pk)}
    assert list(differences(event.before["rules"], event.after["rules"])) == ["- no Ada", "+ no Bob"]


def test_differences() -> None:
    changed = [{**NO_ADA[0], "effect": "ALLOW"}]
    assert list(differences(NO_ADA, changed)) == ["~ no Ada"]
    assert list(differences(NO_ADA, NO_ADA)) == []


def test_only_one_set_for_a_store_or_a_key(cast: Cast, rules: AccessRuleSet, key: CloudKey) -> None:
    actor = cast.actor("owner")
    with pytest.raises(Conflict):
        create_rule_set(actor, store_id=rules.store_id, rules=[])
    create_rule_set(actor, cloud_key_id=key.pk, rules=[])
    with pytest.raises(Conflict):
        create_rule_set(actor, cloud_key_id=key.pk, rules=[])
    for wrong in ({}, {"store_id": rules.store_id, "cloud_key_id": key.pk}):
        with pytest.raises(ValidationFailed):
            create_rule_set(actor, rules=[], **wrong)
    assert AccessRuleSet.objects.count() == 2


def test_bad_rules_change_nothing(cast: Cast, rules: AccessRuleSet) -> None:
    with pytest.raises(ValidationFailed):
        add_version(cast.actor("owner"), rules.pk, rules=[{"name": "x"}])
    assert rules.versions.count() == 1
    assert events("add_version") == []


def test_a_health_check_key_has_none(cast: Cast, store: XksKeyStore) -> None:
    health = store.cloud_keys.get(kind=CloudKey.Kind.HEALTH_CHECK)
    with pytest.raises(Conflict, match="exempt"):
        create_rule_set(cast.actor("owner"), cloud_key_id=health.pk, rules=[])


# --- enforcing


def test_enforce_and_trust_iam_again(cast: Cast, rules: AccessRuleSet) -> None:
    actor = cast.actor("colleague")
    row, generation = enforce_version(actor, rules.pk, version=1, reason="go")
    assert row.enforced is not None
    assert generation == Generation.objects.get().value
    assert GenerationChange.objects.get(generation=generation).object_id == rules.store_id
    row, later = enforce_version(actor, rules.pk, version=None, reason="back")
    assert row.enforced is None
    assert later == generation + 1
    first, second = events("enforce")
    assert (first.before, first.after, first.reason) == ({"enforced": None}, {"enforced": 1}, "go")
    assert (second.before, second.after) == ({"enforced": 1}, {"enforced": None})


def test_enforcing_what_locks_everybody_out_must_be_meant(cast: Cast, rules: AccessRuleSet) -> None:
    actor = cast.actor("owner")
    number = add_version(actor, rules.pk, rules=NOBODY).number
    with pytest.raises(Conflict, match="refuse everybody"):
        enforce_version(actor, rules.pk, version=number)
    row, _ = enforce_version(actor, rules.pk, version=number, even_if_it_locks_out=True)
    assert row.enforced is not None


def test_stale_missing_and_disabled(cast: Cast, rules: AccessRuleSet) -> None:
    actor = cast.actor("owner")
    for act in (enforce_version, shadow_version):
        with pytest.raises(NotFound, match="no version 9"):
            act(actor, rules.pk, version=9)
        with pytest.raises(StaleRevision):
            act(actor, rules.pk, version=1, expected_revision=7)
    with pytest.raises(StaleRevision):
        add_version(actor, rules.pk, rules=[], expected_revision=7)
    disable_vault(cast.actor("appliance"), cast.vault.pk, reason="test")
    with pytest.raises(Conflict, match="disabled"):
        enforce_version(actor, rules.pk, version=1)


# --- delivery


def test_rules_and_tags_reach_the_workers(cast: Cast, rules: AccessRuleSet, key: CloudKey) -> None:
    actor = cast.actor("owner")
    own = create_rule_set(actor, cloud_key_id=key.pk, rules=NO_BOB)
    before = load_everything(60.0)
    assert [store.rules for store in before.stores] == [None]
    applied = Applied.after(before, None)

    enforce_version(actor, rules.pk, version=1)
    loaded = load_changes(applied, 60.0)
    assert loaded is not None
    (record,) = loaded.stores
    assert record.rules is not None
    assert (record.rules.id, record.rules.version) == (str(rules.pk), 1)
    assert loaded.keys == []
    applied = Applied.after(loaded, applied)

    shadow_version(actor, own.pk, version=1)
    loaded = load_changes(applied, 60.0)
    assert loaded is not None
    (key_record,) = loaded.keys
    assert loaded.stores == []
    assert key_record.rules is None
    assert key_record.shadow_rules is not None
    assert key_record.shadow_rules.rules[0].name == "no Bob"
    assert key_record.tags == {"env": "prod"}
    applied = Applied.after(loaded, applied)

    update_cloud_key(actor, key.pk, {"tags": {"env": "dev"}})
    loaded = load_changes(applied, 60.0)
    assert loaded is not None
    assert loaded.keys[0].tags == {"env": "dev"}

    everything = served(load_everything(60.0)).keyring.stores[str(rules.store_id)]
    assert everything.rules is not None
    assert everything.keys[key.external_key_id].tags == (("env", "dev"),)


def test_altered_rules_refuse_everything(
    cast: Cast, rules: AccessRuleSet, caplog: pytest.LogCaptureFixture
) -> None:
    enforce_version(cast.actor("owner"), rules.pk, version=1)
    AccessRuleVersion.objects.update(rules=[{"effect": "ALLOW"}])
    (record,) = load_everything(60.0).stores
    assert record.rules is not None
    assert record.rules.rules == (wire.RuleRecord(UNREADABLE, "DENY"),)
    assert "cannot be read" in caplog.text


# --- the shadow


def count(rules: AccessRuleSet, version: int = 1, **more: Any) -> wire.ShadowCount:
    return wire.ShadowCount(
        **{
            "rule_set_id": str(rules.pk), "version": version, "judged": 10, "denied": {"no Ada": 3},
            "principals": {ADA: 3}, **more,
        }
    )  # fmt: skip


def test_counts_of_nodes_add_up(cast: Cast, rules: AccessRuleSet) -> None:
    row, _ = shadow_version(cast.actor("owner"), rules.pk, version=1)
    for node in ("node-a", "node-b", "node-a"):
        sums = ShadowSums()
        sums.add([count(rules), count(rules, denied={"": 1}, principals={"AWS Internal": 1})])
        sums.write(node)
    assert ShadowTally.objects.count() == 2
    assert row.shadowed is not None
    summary = sum_shadow(row.shadowed)
    assert (summary.judged, summary.denied) == (60, 12)
    assert summary.by_rule == {"no Ada": 9, "": 3}
    assert list(summary.principals.items()) == [(ADA, 9), ("AWS Internal", 3)]
    # Anew, from nought.
    row, _ = shadow_version(cast.actor("owner"), rules.pk, version=1)
    assert row.shadowed is not None
    assert sum_shadow(row.shadowed).judged == 0


def test_counts_of_what_is_not_in_the_shadow_are_dropped(cast: Cast, rules: AccessRuleSet) -> None:
    sums = ShadowSums()
    sums.add([count(rules)])
    sums.write("node-a")
    shadow_version(cast.actor("owner"), rules.pk, version=1)
    sums.add([count(rules, version=2)])
    sums.write("node-a")
    assert ShadowTally.objects.get().judged == 10


def test_counts_that_could_not_be_written_are_kept(rules: AccessRuleSet) -> None:
    sums = ShadowSums()
    sums.add([count(rules)])
    taken = sums.take()
    assert not sums
    sums.add([count(rules)])
    sums.put_back(taken)
    assert sums._sums[str(rules.pk), 1].judged == 20


def test_principals_of_a_tally_are_bounded(rules: AccessRuleSet) -> None:
    sums = ShadowSums()
    for number in range(MAX_PRINCIPALS + 20):
        sums.add([count(rules, principals={f"arn:{number}": 1})])
    kept = sums._sums[str(rules.pk), 1].principals
    assert kept[""] == 20
    assert len(kept) == MAX_PRINCIPALS + 1


def test_enforcing_what_is_in_the_shadow_ends_the_shadow(cast: Cast, rules: AccessRuleSet) -> None:
    actor = cast.actor("owner")
    shadow_version(actor, rules.pk, version=1, reason="watch")
    row, _ = enforce_version(actor, rules.pk, version=1)
    assert row.shadowed is None
    (event,) = events("shadow")
    assert (event.before, event.after, event.reason) == ({"shadowed": None}, {"shadowed": 1}, "watch")


# --- dry runs


def used(rules: AccessRuleSet, hour: int, **more: Any) -> UsageHour:
    at = datetime(2026, 11, 20, hour, tzinfo=UTC)
    return UsageHour.objects.create(
        **{
            "hour": at, "last_at": at, "store_id": str(rules.store_id), "key_id": "some key", "operation": "decrypt",
            "principal_arn": ADA, "outcome": "OK", "count": 100, **more,
        }
    )  # fmt: skip


@pytest.fixture
def no_single_records(db: None) -> None:
    """They have been dropped: only sums tell of that week."""
    RequestStore.objects.update_or_create(pk=1, defaults={"kept_from": datetime(2026, 11, 22, tzinfo=UTC)})


PERIOD = {"since": "2026-11-15T00:00:00Z", "until": "2026-11-22T00:00:00Z"}


@pytest.mark.usefixtures("no_single_records")
def test_dry_run_over_sums(cast: Cast, rules: AccessRuleSet, key: CloudKey) -> None:
    path = f"/api/v1/access-rules/{rules.pk}/dry-run"
    for hour in (3, 4):
        used(rules, hour)
    used(rules, 5, principal_arn="AWS Internal", count=18_000)
    used(rules, 6, outcome="AccessDeniedException", count=4)
    used(rules, 7, operation="health", key_id="", count=1000)
    used(rules, 8, store_id="another", count=1000)
    UsageHour.objects.filter(hour__hour=4).update(hour=datetime(2026, 11, 22, tzinfo=UTC))  # too late
    answer = cast.api("auditor").post(path, {"version": 1, **PERIOD})
    assert answer.status_code == 200
    assert answer.json()["sentence"] == "would have denied 100 of 18,104, from 1 principal"
    assert answer.json()["principals"] == {ADA: 100}
    assert (answer.json()["singly"], answer.json()["kms_operations"]) == (0, {"": 100})
    assert any("hourly sums" in note for note in answer.json()["notes"])
    assert (answer.json()["refused_before"], answer.json()["let_through"]) == (4, 0)
    found = cast.api("auditor").post(path, {"rules": NO_BOB, **PERIOD}).json()
    assert (found["denied"], found["let_through"]) == (0, 4)


@pytest.mark.usefixtures("no_single_records")
def test_dry_run_of_a_key_is_over_its_own_use(cast: Cast, rules: AccessRuleSet, key: CloudKey) -> None:
    own = create_rule_set(cast.actor("owner"), cloud_key_id=key.pk, rules=NO_ADA)
    used(rules, 3)
    used(rules, 3, key_id=str(key.pk), count=7)
    answer = cast.api("auditor").post(f"/api/v1/access-rules/{own.pk}/dry-run", {"version": 1, **PERIOD})
    assert (answer.json()["judged"], answer.json()["denied"]) == (7, 7)


def test_dry_runs_that_cannot_be(cast: Cast, rules: AccessRuleSet) -> None:
    path = f"/api/v1/access-rules/{rules.pk}/dry-run"
    for wrong, field in (
        ({"version": 1, "since": PERIOD["until"], "until": PERIOD["since"]}, "since"),
        (PERIOD, "version"),
        ({"version": 1, "rules": [], **PERIOD}, "version"),
        ({"rules": [{}], **PERIOD}, "rules[0].name"),
    ):
        answer = cast.api("auditor").post(path, wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)


def test_dry_run_of_requests_that_are_given(cast: Cast, rules: AccessRuleSet, key: CloudKey) -> None:
    tagged = [
        {
            "name": "prod",
            "effect": "DENY",
            "conditions": [{"field": "key_tag", "tag": "env", "values": ["prod"]}],
        }
    ]
    body = {
        "rules": tagged,
        "requests": [
            {"principal_arn": ADA, "cloud_key": str(key.pk)},
            {"principal_arn": ADA},
            {
                "principal_arn": ADA,
                "cloud_key": str(key.pk),
                "operation": "metadata",
                "kms_operation": "DescribeKey",
            },
        ],
    }
    answer = cast.api("owner").post(f"/api/v1/access-rules/{rules.pk}/dry-run", body)
    assert answer.status_code == 200, answer.content
    assert (answer.json()["judged"], answer.json()["denied"]) == (3, 1)
    hours = [
        {
            "name": "night",
            "effect": "DENY",
            "conditions": [{"field": "time", "values": ["daily 20:00-06:00 UTC"]}],
        }
    ]
    for at, denied in (("2026-11-22T21:00:00Z", 1), ("2026-11-22T12:00:00Z", 0)):
        body = {"rules": hours, "requests": [{"principal_arn": ADA, "at": at}]}
        assert (
            cast.api("owner").post(f"/api/v1/access-rules/{rules.pk}/dry-run", body).json()["denied"]
            == denied
        )


def test_tags_of_other_stores_cannot_be_asked_for(cast: Cast, rules: AccessRuleSet) -> None:
    tags_of = dry_runs._tags_of_keys(rules)
    other = CloudKey.objects.filter(store=rules.store).first()
    assert other is not None
    CloudKey.objects.filter(pk=other.pk).update(tags={"env": "prod"})
    assert tags_of(str(other.pk)) == (("env", "prod"),)
    assert tags_of("no uuid") == ()
    elsewhere = AccessRuleSet(store_id=cast.other_vault.pk)
    assert dry_runs._tags_of_keys(elsewhere)(str(other.pk)) == ()


# --- API


def test_the_life_of_access_rules_by_api(cast: Cast, store: XksKeyStore) -> None:
    api = cast.api("colleague")
    made = api.post("/api/v1/access-rules", {"store": str(store.pk), "rules": NO_ADA}, key="k1")
    assert made.status_code == 201
    path = made["Location"]
    again = api.post("/api/v1/access-rules", {"store": str(store.pk), "rules": NO_ADA}, key="k1")
    assert again.json() == {**made.json(), "idempotency_replayed": True}

    version = api.post(f"{path}/versions", {"rules": NO_BOB, "reason": "Ticket 2"}, key="k2")
    assert (version.status_code, version.json()["number"], version.json()["findings"]) == (201, 2, [])
    repeated = api.post(f"{path}/versions", {"rules": NO_BOB, "reason": "Ticket 2"}, key="k2")
    assert repeated.json() == {**version.json(), "idempotency_replayed": True}

    shadowed = api.post(f"{path}/shadow", {"version": 2})
    assert shadowed.json()["access_rules"]["shadow"]["judged"] == 0
    assert shadowed.json()["confirmation"]["complete"]
    enforced = api.post(f"{path}/enforce", {"version": 2, "reason": "go"})
    assert enforced.json()["access_rules"]["enforced"]["number"] == 2
    assert enforced.json()["access_rules"]["shadow"] is None
    assert api.post(f"{path}/enforce", {"version": 1}, if_match='"1"').status_code == 412

    listed = api.get(f"{path}/versions").json()["items"]
    assert [item["number"] for item in listed] == [2, 1]
    assert listed[0]["author_name"].startswith("colleague@example.com")
    found = api.get("/api/v1/access-rules", store=str(store.pk), enforced="true").json()["items"]
    assert [item["name"] for item in found] == ["pay-hyok"]
    assert api.get("/api/v1/access-rules", shadowed="true").json()["items"] == []
    assert api.post(f"{path}/enforce", {"version": None}).json()["access_rules"]["enforced"] is None


def test_the_editor_is_told_places_and_findings(cast: Cast) -> None:
    api = cast.api("colleague")
    bad = api.post("/api/v1/access-rules/check", {"rules": [{"name": "x", "effect": "NO"}]})
    assert bad.status_code == 400
    assert bad.json()["errors"][0]["field"] == "rules[0].effect"
    allow = [
        {"name": "a", "effect": "ALLOW", "conditions": [{"field": "account", "values": ["111122223333"]}]}
    ]
    good = api.post("/api/v1/access-rules/check", {"rules": allow})
    assert {finding["code"] for finding in good.json()["findings"]} == {
        "omits-aws-internal",
        "omits-aws-services",
    }
    assert good.json()["rules"][0]["conditions"][0]["negated"] is False


def test_a_list_needs_a_constant_number_of_queries(cast: Cast, store: XksKeyStore) -> None:
    actor = cast.actor("owner")
    for number in range(4):
        key = new_key(actor, store.key_set, f"key-{number}")
        row = create_rule_set(actor, cloud_key_id=key.pk, rules=NO_ADA)
        shadow_version(actor, row.pk, version=1)
    api = cast.api("owner")
    api.get("/api/v1/access-rules")  # the token's first use is noted
    counts = []
    for limit in (1, 4):
        with CaptureQueriesContext(connection) as queries:
            assert len(api.get("/api/v1/access-rules", limit=limit).json()["items"]) == limit
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_rules_go_with_their_store(cast: Cast, rules: AccessRuleSet) -> None:
    enforce_version(cast.actor("owner"), rules.pk, version=1)
    rules.refresh_from_db()
    rules.delete()
    assert not AccessRuleVersion.objects.exists()


def test_lint_uses_the_present_moment() -> None:
    over = [{"name": "x", "effect": "DENY", "conditions": [
        {"field": "time", "values": ["2020-01-01T00:00Z/2020-02-01T00:00Z"], "negated": False}]}]  # fmt: skip
    assert [finding.code for finding in access_rules.lint_rules(over)] == ["never-matches"]
