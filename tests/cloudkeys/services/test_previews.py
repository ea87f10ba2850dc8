"""Effects, consequences, a key's life and dates, policy, copies, search, picking principals, the wizard and AWS's steps."""

from __future__ import annotations

import json
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cloudkeys import providers
from cloudkeys.models import CloudKey, CspAccount, KeySet, KeyVersion
from cloudkeys.providers.base import Principal
from cloudkeys.services import (
    accounts,
    effects,
    key_sets,
    key_views,
    lifecycle,
    palette,
    principals,
    renderers,
    wizard,
)
from cloudkeys.services.stores import LinkRequest, create_store_link
from tests.cloudkeys.world import ACCESS_KEY_ID, ACCOUNT, ADA, APP, new_account, new_key, store_of
from vault.actors import Actor
from vault.errors import NotFound, PermissionDenied, ValidationFailed
from vault.models import Vault

pytestmark = pytest.mark.django_db
EVERY = {"kind": "every", "every": 30, "unit": "days", "hour": 3, "time_zone": "UTC"}
DAY = timedelta(days=1)


class TestScheduleEffects:
    """What a new schedule would do is what it then does."""

    def test_told_before_and_true_after(self, owner: Actor, key_set: KeySet) -> None:
        now = timezone.now()
        follower, late, own, retired = (new_key(owner, key_set, name) for name in ("a", "b", "c", "d"))
        CloudKey.objects.filter(pk=late.pk).update(rotated_at=now - 60 * DAY)
        CloudKey.objects.filter(pk=own.pk).update(rotation_schedule=EVERY)
        CloudKey.objects.filter(pk=retired.pk).update(retired_at=now)
        told = effects.schedule_effects(owner, key_set.pk, rotation_schedule=EVERY)
        assert (told.follow, told.own, told.retired, told.overdue) == (2, 1, 1, 1)
        assert [each.name for each in told.follow_examples] == ["a", "b"]
        assert [each.name for each in told.own_examples] == ["c"]
        follower.refresh_from_db()
        assert follower.next_rotation_at is None
        key_sets.update_key_set(owner, key_set.pk, {"rotation_schedule": EVERY})
        dates = CloudKey.objects.filter(pk__in=[follower.pk, late.pk]).order_by("next_rotation_at")
        assert [told.first_due_at, told.last_due_at] == [key.next_rotation_at for key in dates]

    def test_expiration(self, owner: Actor, key_set: KeySet) -> None:
        now = timezone.now()
        old, young = new_key(owner, key_set, "old"), new_key(owner, key_set, "young")
        CloudKey.objects.filter(pk=old.pk).update(created_at=now - 100 * DAY)
        told = effects.schedule_effects(owner, key_set.pk, expiration={"kind": "after", "days": 50})
        assert (told.expiration_follow, told.expiration_past, told.expiration_own) == (2, 1, 0)
        assert told.first_expires_at == CloudKey.objects.get(pk=old.pk).created_at + 50 * DAY
        assert young.expires_at is None

    def test_refuses_nonsense_and_strangers(self, owner: Actor, outsider: Actor, key_set: KeySet) -> None:
        with pytest.raises(ValidationFailed):
            effects.schedule_effects(owner, key_set.pk, rotation_schedule={"kind": "sometimes"})
        with pytest.raises(NotFound):
            effects.schedule_effects(outsider, key_set.pk)


class TestConsequences:
    """What an end takes away."""

    def test_account(self, owner: Actor, account: CspAccount, key_set: KeySet) -> None:
        new_key(owner, key_set)
        found = effects.account_dependents(owner, account.pk)
        assert (found.key_sets, found.cloud_keys, [each.name for each in found.key_set_examples]) == (
            1,
            1,
            ["pay-hyok"],
        )
        assert found.obstacles == ["1 key set works under it: delete it first."]
        free = new_account(owner, account.vault, name="free")
        assert effects.account_dependents(owner, free.pk).obstacles == []

    def test_key_set(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(owner, key_set)
        found = effects.key_set_deletion(owner, key_set.pk)
        assert (found.living_keys, found.key_versions, found.credentials) == (1, 1, 1)
        assert found.obstacles[0].startswith("1 of its keys")
        CloudKey.objects.filter(pk=key.pk).update(state="DESTROYED")
        KeyVersion.objects.filter(cloud_key=key).update(destroyed_at=timezone.now())
        found = effects.key_set_deletion(owner, key_set.pk)
        assert (found.obstacles, found.destroyed_keys) == ([], 1)
        key_sets.delete_key_set(owner, key_set.pk)


class TestKeyViews:
    """A key's page."""

    def test_timeline_has_every_change_the_newest_first_and_turns_pages(
        self, owner: Actor, key_set: KeySet
    ) -> None:
        key = new_key(owner, key_set)
        lifecycle.disable_cloud_key(owner, key.pk, reason="Incident 7")
        lifecycle.enable_cloud_key(owner, key.pk)
        found = key_views.timeline(owner, key.pk)
        words = [moment.words for moment in found if moment.source == "audit"]
        assert words == ["Enabled", "Disabled", "Created"]
        disabled = next(moment for moment in found if moment.words == "Disabled")
        assert (disabled.reason, disabled.who) == ("Incident 7", "owner@example.com")
        assert any(moment.words == "Version 1 began to encrypt" for moment in found)
        earlier = key_views.timeline(owner, key.pk, before=disabled.at)
        assert [moment.words for moment in earlier if moment.source == "audit"] == ["Created"]

    def test_timeline_asks_a_fixed_number_of_queries(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(owner, key_set)

        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                key_views.timeline(Actor(user=owner.user), key.pk)
            return len(captured)

        before = queries()
        for _ in range(5):
            lifecycle.disable_cloud_key(owner, key.pk, reason="x")
            lifecycle.enable_cloud_key(owner, key.pk)
        assert queries() == before <= 6

    def test_dates_ahead(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(owner, key_set, rotation_schedule=EVERY, expiration={"kind": "after", "days": 45})
        what = [each.what for each in key_views.next_dates(key)]
        assert what == ["rotation", "expiry", "later rotation", "later rotation"]
        lifecycle.disable_cloud_key(owner, key.pk, reason="x")
        key.refresh_from_db()
        assert key_views.next_dates(key)[0].waits == "Waits until the key is enabled."

    def test_policy_names_the_principals_and_root(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(owner, key_set, administrators=[ADA], users=[APP])
        policy = key_views.policy_preview(owner, key.pk)
        assert [each["Sid"] for each in policy["Statement"]] == [
            "EnableIAMPolicies", "KeyAdministrators", "KeyUsers", "GrantsForAwsServices",
        ]  # fmt: skip
        assert policy == key_views.policy_preview_for(owner, key_set.pk, administrators=[ADA], users=[APP])
        assert key_views.who_may(owner, key.pk).root == f"arn:aws:iam::{ACCOUNT}:root"
        with pytest.raises(ValidationFailed) as refused:
            key_views.policy_preview_for(owner, key_set.pk, users=["nobody"])
        assert refused.value.field.startswith("users")

    def test_what_aws_says_beside_ours(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(owner, key_set)
        assert key_views.aws_beside_ours(key) == []
        key.cloud_state = {
            "state": "Disabled",
            "external_key_id": key.external_key_id,
            "aliases": ["alias/other"],
        }
        found = {each.name: (each.aws, each.agrees) for each in key_views.aws_beside_ours(key)}
        assert found["State"] == ("Disabled", False)
        assert found["External key id"] == (key.external_key_id, True)
        assert found["Alias"] == ("alias/other", False)
        assert found["Key store"] == (None, None)


class TestCopies:
    """Copy as curl, CLI, JSON."""

    def test_curl_is_one_command_whose_body_makes_such_a_key(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(
            owner, key_set, description="It's $HOME `x`", tags={"team": "pay"}, rotation_schedule=EVERY
        )
        text = renderers.as_curl(key, "https://keystead.example.com/")
        words = shlex.split(text.replace("\\\n", " "))
        assert words[:4] == ["curl", "--fail-with-body", "-X", "POST"]
        assert "https://keystead.example.com/api/v1/cloud-keys" in words
        body = json.loads(words[words.index("-d") + 1])
        assert body["description"] == "It's $HOME `x`"
        assert body["rotation_schedule"] == EVERY
        # A shell sees one command with the very same words.
        shown = subprocess.run(
            ["/bin/sh", "-c", text.replace("curl", "printf '%s\\n'", 1).replace("$(uuidgen)", "u")],
            capture_output=True, text=True, check=True, env={"KEYSTEAD_TOKEN": "t"},
        ).stdout  # fmt: skip
        assert "It's $HOME `x`" in shown

    def test_cli_command_is_taken_by_the_command_itself(self, owner: Actor, key_set: KeySet) -> None:
        from cloudkeys.management.commands.cloud_key import Command

        key = new_key(owner, key_set, users=[APP], tags={"team": "pay me"}, rotation_schedule=EVERY)
        words = shlex.split(renderers.as_cli(key).replace("\\\n", " "))
        assert words[:3] == ["keystead", "cloud-key", "create"]
        options = vars(Command().create_parser("keystead", "cloud-key").parse_args(words[2:]))
        assert options["field_name"] == key.name
        assert options["field_tags"] == ["team=pay me"]
        assert options["field_users"] == [APP]
        from cloudkeys import shorthands

        assert shorthands.schedule(options["field_rotation_schedule"]) == EVERY

    def test_document(self, owner: Actor, key_set: KeySet) -> None:
        key = new_key(owner, key_set, "1/payments-prod")
        document = renderers.as_document(key)
        assert list(document["resource"]["keystead_cloud_key"]) == ["key_1_payments_prod"]
        assert document["import"] == [{"to": "keystead_cloud_key.key_1_payments_prod", "id": str(key.pk)}]
        assert "material" not in json.dumps(document)


class TestSearch:
    """The palette."""

    def find(self, actor: Actor, vault: Vault, text: str) -> list[tuple[str, str, int]]:
        return [(each.type, each.name, each.rank) for each in palette.find_objects(actor, vault, text)]

    def test_by_everything_that_names_a_key(self, owner: Actor, payments: Vault, key_set: KeySet) -> None:
        key = new_key(owner, key_set)
        arn = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/12ab"
        CloudKey.objects.filter(pk=key.pk).update(kms_key_id="12ab", kms_key_arn=arn)
        for text in (
            str(key.pk),
            key.external_key_id,
            "12ab",
            arn,
            f"arn:aws:kms:eu-west-1:{ACCOUNT}:alias/{key.name}",
        ):
            assert self.find(owner, payments, text) == [("cloud_key", key.name, 0)]
        for text, rank in ((key.name, 0), ("alias/payments-prod", 0), ("PAYMENTS", 1), ("prod", 2)):
            assert ("cloud_key", key.name, rank) in self.find(owner, payments, text)
        assert self.find(owner, payments, "%") == []
        assert self.find(owner, payments, "  ") == []

    def test_whole_names_come_before_beginnings_and_parts(
        self, owner: Actor, payments: Vault, key_set: KeySet
    ) -> None:
        for name in ("a-pay", "pay", "pay-2"):
            new_key(owner, key_set, name)
        found = [name for kind, name, _ in self.find(owner, payments, "pay") if kind == "cloud_key"]
        assert found == ["pay", "pay-2", "a-pay"]

    def test_other_objects(self, owner: Actor, payments: Vault, account: CspAccount, key_set: KeySet) -> None:
        store = store_of(key_set)
        create_store_link(owner, store.pk, LinkRequest(region="eu-west-1", linked=False, name="my-store"))
        assert ("csp_account", "prod", 0) in self.find(owner, payments, ACCESS_KEY_ID)
        assert ("csp_account", "prod", 0) in self.find(owner, payments, ACCOUNT)
        assert self.find(owner, payments, str(account.pk)) == [("csp_account", "prod", 0)]
        assert ("key_set", "pay-hyok", 1) in self.find(owner, payments, "pay-h")
        assert ("xks_store", "pay-hyok", 0) in self.find(owner, payments, store.path_prefix)
        assert ("xks_store", "pay-hyok", 0) in self.find(
            owner, payments, store.credentials.get().access_key_id
        )
        assert ("aws_store_link", "my-store", 1) in self.find(owner, payments, "my-")
        assert ("member", "Auditor", 1) in self.find(owner, payments, "audit")

    def test_nothing_of_another_vault(
        self, owner: Actor, outsider: Actor, payments: Vault, key_set: KeySet
    ) -> None:
        key = new_key(owner, key_set)
        with pytest.raises(NotFound):
            palette.find_objects(outsider, payments, key.name)
        other = Vault.objects.exclude(pk=payments.pk).get()
        for text in (key.name, str(key.pk), key.external_key_id, ACCESS_KEY_ID):
            assert self.find(outsider, other, text) == []

    def test_a_fixed_number_of_queries(self, owner: Actor, payments: Vault, key_set: KeySet) -> None:
        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                palette.find_objects(Actor(user=owner.user), payments, "pay")
            return len(captured)

        new_key(owner, key_set, "pay-0")
        assert queries() <= 16
        for number in range(1, 30):
            new_key(owner, key_set, f"pay-{number}")
        assert queries() <= 16


class TestPrincipals:
    """Picking principals by typing."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        calls: list[object] = []

        def answer(account: CspAccount) -> list[Principal]:
            calls.append(account.pk)
            names = ["ada", "bob", *(f"app-{number:02}" for number in range(40))]
            return [Principal("role", name, f"arn:aws:iam::{ACCOUNT}:role/{name}") for name in names]

        monkeypatch.setattr(providers, "list_principals", answer)
        return calls

    def test_pages_and_one_question_a_minute(
        self, owner: Actor, account: CspAccount, asked: list[object]
    ) -> None:
        first = principals.pick_principals(owner, account.pk, search="APP", limit=25)
        assert (first.total, len(first.items), first.next_offset) == (40, 25, 25)
        second = principals.pick_principals(owner, account.pk, search="app", offset=25, limit=25)
        assert (len(second.items), second.next_offset) == (15, None)
        assert not {each.arn for each in first.items} & {each.arn for each in second.items}
        assert len(asked) == 1
        principals.pick_principals(owner, account.pk, fresh=True)
        assert len(asked) == 2

    def test_a_changed_account_is_asked_anew(
        self, owner: Actor, account: CspAccount, asked: list[object]
    ) -> None:
        principals.pick_principals(owner, account.pk)
        accounts.update_csp_account(owner, account.pk, {"description": "other"})
        principals.pick_principals(owner, account.pk)
        assert len(asked) == 2

    def test_beginnings_first_and_kinds(self, owner: Actor, account: CspAccount, asked: list[object]) -> None:
        found = principals.pick_principals(owner, account.pk, search="b").items
        assert found[0].name == "bob"
        assert principals.pick_principals(owner, account.pk, kind="user").items == []

    def test_strangers(self, outsider: Actor, account: CspAccount, asked: list[object]) -> None:
        with pytest.raises(NotFound):
            principals.pick_principals(outsider, account.pk)
        assert asked == []


class TestWizard:
    """Checked step by step; nothing is made."""

    def check(self, actor: Actor, vault: Vault, steps: Any = wizard.STEPS, **values: Any) -> wizard.Checked:
        return wizard.check_key_set(actor, vault, values, steps)

    def test_good_values_are_told_in_words_and_then_make_the_set(
        self, owner: Actor, payments: Vault, account: CspAccount
    ) -> None:
        values: dict[str, Any] = {
            "name": "cold", "csp_account": account.pk, "use_as_external_key_store": True, "rotation_schedule": EVERY,
            "expiration": {"kind": "after", "days": 365, "then": "delete"},
        }  # fmt: skip
        checked = self.check(owner, payments, **values, links=[{"region": "eu-west-1", "linked": False}])
        assert checked.ok, checked.problems
        summary = dict(checked.summary)
        assert summary["Rotation"] == "Every 30 days, at 03:00 (UTC)"
        assert (
            summary["Expiry"]
            == "365 days after it was made, then scheduled for deletion, 30 days later destroyed"
        )
        assert summary["AWS key store in eu-west-1"] == "Public endpoint; you make it in the AWS console"
        assert not KeySet.objects.exists()
        key_sets.create_key_set(
            owner, payments, **values, links=[LinkRequest(region="eu-west-1", linked=False)]
        )

    @pytest.mark.parametrize(
        ("step", "values", "field"),
        [
            ("what", {"name": ""}, "name"),
            ("what", {"name": "x", "description": "y" * 1001}, "description"),
            ("what", {"name": "x", "group": "no"}, "group"),
            ("account", {"csp_account": "00000000-0000-4000-8000-000000000000"}, "csp_account"),
            ("account", {"csp_account": "no"}, "csp_account"),
            ("store", {"links": [{"region": "eu-west-1"}]}, "links"),
            ("store", {"use_as_external_key_store": True, "path_prefix": "no"}, "path_prefix"),
            (
                "store",
                {"use_as_external_key_store": True, "links": [{"region": "eu-west-1"}]},
                "links[0].linked",
            ),
            (
                "store",
                {
                    "use_as_external_key_store": True,
                    "links": [
                        {"region": "eu-west-1", "linked": False},
                        {"region": "eu-west-1", "linked": False},
                    ],
                },
                "links[1].region",
            ),
            (
                "store",
                {
                    "use_as_external_key_store": True,
                    "links": [
                        {"region": "eu-west-1", "linked": False, "connectivity": "VPC_ENDPOINT_SERVICE"}
                    ],
                },
                "links[0].vpc_endpoint_service_name",
            ),
            ("protection", {"protection": "hsm-resident"}, "protection"),
            (
                "schedule",
                {"rotation_schedule": {"kind": "every", "every": 0, "unit": "days"}},
                "rotation_schedule.every",
            ),
            ("schedule", {"expiration": {"kind": "after"}}, "expiration.days"),
        ],
    )
    def test_each_step_names_its_field(
        self, owner: Actor, payments: Vault, step: str, values: dict[str, Any], field: str
    ) -> None:
        (problem,) = self.check(owner, payments, [step], **values).problems
        assert (problem.step, problem.field) == (step, field)
        assert problem.message
        assert problem.cure

    def test_a_taken_name(self, owner: Actor, payments: Vault, key_set: KeySet) -> None:
        (problem,) = self.check(owner, payments, ["what"], name=key_set.name).problems
        assert problem.field == "name"

    def test_auditor_may_not(self, auditor: Actor, payments: Vault) -> None:
        with pytest.raises(PermissionDenied):
            self.check(auditor, payments, name="x")


class TestConsoleSteps:
    """AWS's own steps."""

    def test_public_endpoint_has_every_value(self, owner: Actor, key_set: KeySet) -> None:
        store = store_of(key_set)
        link = create_store_link(owner, store.pk, LinkRequest(region="eu-west-1", linked=False)).link
        steps = wizard.console_steps_of(owner, link.pk)
        values = {label: value for step in steps for label, value in step.values}
        assert values["Proxy URI endpoint"] == link.endpoint
        assert values["Proxy URI path"] == f"{store.path_prefix}/kms/xks/v1"
        assert values["Proxy credential: Access key ID"] == store.credentials.get().access_key_id
        assert values["Proxy connectivity"] == "Public endpoint"
        create = next(step.command for step in steps if step.command.startswith("aws kms create"))
        words = shlex.split(create.replace("\\\n", " "))
        assert words[words.index("--custom-key-store-name") + 1] == "pay-hyok"
        assert words[words.index("--xks-proxy-connectivity") + 1] == "PUBLIC_ENDPOINT"

    def test_vpc_endpoint_service_begins_with_the_network(self) -> None:
        service = "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0"
        steps = wizard.console_steps(
            name="it's mine", region="eu-west-1", endpoint="https://xks.example.com", uri_path="/kms/xks/v1",
            access_key_id="AKID", connectivity="VPC_ENDPOINT_SERVICE", vpc_endpoint_service_name=service,
            custom_key_store_id="cks-1",
        )  # fmt: skip
        values = {label: value for step in steps for label, value in step.values}
        assert values["Principal"] == "cks.kms.eu-west-1.amazonaws.com"
        assert values["Private DNS name"] == "xks.example.com"
        assert values["VPC endpoint service name"] == service
        commands = [step.command for step in steps if step.command]
        assert "vpce-svc-0123456789abcdef0" in commands[0]
        assert shlex.split(commands[1].replace("\\\n", " "))[6] == "it's mine"
        assert commands[2].endswith("--custom-key-store-id cks-1")

    def test_strangers(self, owner: Actor, outsider: Actor, key_set: KeySet) -> None:
        link = create_store_link(
            owner, store_of(key_set).pk, LinkRequest(region="eu-west-1", linked=False)
        ).link
        with pytest.raises(NotFound):
            wizard.console_steps_of(outsider, link.pk)


def test_words_of_schedules() -> None:
    from cloudkeys.schedules import parse_expiration, parse_schedule

    assert wizard.schedule_words(None) == "Never by itself"
    assert (
        wizard.schedule_words(parse_schedule({**EVERY, "every": 1, "unit": "months"}))
        == "Every month, at 03:00 (UTC)"
    )
    at = datetime(2027, 1, 31, tzinfo=UTC).isoformat()
    assert (
        wizard.expiration_words(parse_expiration({"kind": "on", "at": at}))
        == "On 2027-01-31 00:00 UTC, then disabled"
    )
