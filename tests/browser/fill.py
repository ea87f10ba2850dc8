"""Fills a running installation with three vaults of the owner's: nothing in it, a little, a lot. Prints every page's address as JSON.

Run in a process of its own, with the environment of the server: `python -m tests.browser.fill`.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

MANY = 120


def main() -> None:
    """Make the vaults; print {vault's name: [[URL name, variant, path]]}."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "vault.settings"
    import django

    django.setup()
    from page_addresses import addresses

    from vault.actors import Actor
    from vault.models import User
    from vault.services import vaults
    from xks.services.certificates import request_certificate

    admin = Actor(user=User.objects.get(email="appliance@example.com"), via="web")
    owner = Actor(user=User.objects.get(email="owner@example.com"), via="web")
    request_certificate(admin)
    an_hsm()
    found = {}
    for name in ("bare", "little", "lots"):
        vault = vaults.create_vault(
            admin, name=name, description="", admin_name="owner", admin_email="owner@example.com"
        ).vault
        actor = Actor(user=owner.user, via="web")
        if name != "bare":
            a_little(actor, vault)
        if name == "lots":
            a_lot(vault)
        found[name] = [[each.name, each.variant, each.url] for each in addresses(vault)]
    print(json.dumps(found))


def an_hsm() -> None:
    """A connection with two members of which nobody has heard yet."""
    from vault.models import HsmConnection, HsmMember

    row = HsmConnection.objects.create(name="luna", module_path="/usr/lib/softhsm/absent.so")
    for position in range(2):
        HsmMember.objects.create(
            connection=row, position=position, token_serial=f"luna-{position}", token_label=f"part{position}"
        )


def a_little(actor: Any, vault: Any) -> None:
    """One of each, and keys in each state, made by the services."""
    from django.utils import timezone

    from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySetDraft
    from cloudkeys.services.lifecycle import block_cloud_key
    from tests.cloudkeys.world import new_account, new_key, new_key_set, store_of
    from vault.models import Group
    from vault.services import groups, saved_views, tokens
    from xks.models import DoctorReport
    from xks.services.access_rules import add_version, create_rule_set

    account = new_account(actor, vault, partition="simulator")
    used = new_key_set(actor, vault, account).key_set
    new_key_set(actor, vault, account, name="plain", use_as_external_key_store=False)
    store = store_of(used)
    now = timezone.now()
    AwsStoreLink.objects.create(
        vault=vault, store=store, region="eu-west-1", name="pay-hyok", endpoint="https://xks.bank.test"
    )
    states = ("ENABLED", "DISABLED", "PENDING_DELETION", "ENABLED", "ENABLED")
    for number, state in enumerate(states):
        key = new_key(actor, used, name=f"{vault.name}-{number}")
        more: dict[str, Any] = (
            {"pointer_state": "LINKED", "kms_key_id": "12ab", "kms_key_arn": ARN} if number else {}
        )
        if state == "PENDING_DELETION":
            more["delete_after"] = now + timedelta(days=7)
        CloudKey.objects.filter(pk=key.pk).update(state=state, **more)
        if number == 4:
            block_cloud_key(actor, key.pk, reason="Incident 7")
    CspAccount.objects.filter(pk=account.pk).update(health="FAILING", health_checked_at=now)
    operations(vault, key, 1)
    groups.create_group(actor, vault.pk, name="Team")
    saved_views.create_saved_view(actor, vault.pk, page="cloud-keys", name="Stopped", query="state=DISABLED")
    tokens.create_token(actor, name="ci", vault_id=vault.pk)
    for made in (
        create_rule_set(actor, store_id=store.pk, rules=RULES),
        create_rule_set(
            actor, cloud_key_id=CloudKey.objects.get(name=f"{vault.name}-0", vault=vault).pk, rules=RULES
        ),
    ):
        add_version(
            actor, made.pk, rules=[*RULES, {"name": "all others", "effect": "ALLOW", "conditions": []}]
        )
    DoctorReport.objects.create(
        vault=vault,
        store=store,
        endpoint="https://xks.bank.test",
        region="eu-west-1",
        severity="ok",
        examined_at=now,
    )
    KeySetDraft.objects.create(
        vault=vault, user=actor.user, steps={"what": {"fields": {"name": "begun"}, "revision": 1}}
    )
    uses(vault, key, 30)
    assert Group.objects.filter(vault=vault).exists()


ARN = "arn:aws:kms:eu-west-1:111122223333:key/12ab"
RULES = [{"name": "no leavers", "effect": "DENY", "conditions": [
    {"field": "principal", "values": ["arn:aws:iam::111122223333:user/leaver-*"]}]}]  # fmt: skip


def operations(vault: Any, key: Any, count: int) -> None:
    """So many in each state; a waiting one's next try is far ahead, so that no worker takes it up."""
    from django.utils import timezone

    from cloudkeys.models import Operation
    from cloudkeys.operations import KINDS

    error = {"code": "AccessDeniedException", "cause": "AWS refused.", "cure": "Allow it.", "permanent": True}
    now = timezone.now()
    made = []
    for number in range(count):
        for state, kind in (
            ("FAILED", "cloud_key.rotate"),
            ("SUCCEEDED", "cloud_keys.bulk"),
            ("WAITING", "cloud_key.update_pointer"),
        ):
            steps = KINDS[kind].new_steps()
            steps[0]["state"] = "FAILED" if state == "FAILED" else "DONE"
            bulk = kind == "cloud_keys.bulk"
            made.append(
                Operation(
                    vault=vault, kind=kind, state=state, steps=steps, target_name=vault.name if bulk else key.name,
                    target_type="vault" if bulk else "cloudkey", target_id=vault.pk if bulk else key.pk,
                    input={"action": "disable", "ids": [str(key.pk)]} if bulk else {},
                    result={"done": [], "failed": [{"id": str(key.pk), "name": key.name, "code": "conflict", "cause": "Busy."}]}
                    if bulk else {},
                    error=error if state != "SUCCEEDED" else None, attempts=number + 1, requested_by_name="Ada",
                    next_try_at=now + timedelta(days=2) if state == "WAITING" else None,
                    finished_at=None if state == "WAITING" else now,
                )
            )  # fmt: skip
    Operation.objects.bulk_create(made)


def uses(vault: Any, key: Any, days: int) -> None:
    """Uses of a key, delays of its store, and single requests."""
    from uuid import uuid4

    from django.utils import timezone

    from xks.models import Traffic, UsageHour, XksRequest
    from xks.request_partitions import day_of, ensure_partitions

    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    arn = "arn:aws:sts::111122223333:assumed-role/app-prod/session"
    service = "s3.eu-west-1.amazonaws.com"
    UsageHour.objects.bulk_create(
        UsageHour(
            hour=now - timedelta(days=back), store_id=str(key.store_id), key_id=str(key.pk), operation="decrypt",
            principal_arn=arn, kms_via_service=service, outcome="OK", count=7 + back, last_at=now - timedelta(days=back),
        )
        for back in range(days)
    )  # fmt: skip
    Traffic.objects.bulk_create(
        Traffic(
            span_s=3600,
            at=now - timedelta(hours=back),
            store_id=key.store_id,
            bucket=20,
            requests=90,
            errors=1,
        )
        for back in range(1, 24)
    )
    ensure_partitions([day_of(now)])
    chain = uuid4()
    XksRequest.objects.bulk_create(
        XksRequest(
            at=now + timedelta(seconds=number), vault_id=vault.pk, store_id=key.store_id, key_id=key.pk, chain_id=chain,
            segment=1, entry=number, generation=1, version=1, microseconds=700, operation="decrypt", outcome="OK",
            access_key_id="AKIA", region="eu-west-1", external_key_id=str(key.external_key_id), principal_arn=arn,
            kms_key_arn=ARN, kms_operation="Decrypt", kms_via_service=service, source_vpc="", source_vpce="",
            kms_request_id=str(uuid4()),
        )
        for number in range(days)
    )  # fmt: skip


def a_lot(vault: Any) -> None:
    """Many of everything, as rows."""
    import bench_api

    from cloudkeys.models import CloudKey
    from vault.models import ApiToken, AuditEvent, Group, Membership, Role, SavedView, User

    bench_api.fill(vault, MANY * 3)
    key = CloudKey.objects.filter(vault=vault, store__isnull=False).order_by("created_at").first()
    assert key is not None
    operations(vault, key, MANY)
    people = User.objects.bulk_create(
        User(email=f"person-{number}@example.com", name=f"Person {number}", password="!")
        for number in range(MANY)
    )
    Membership.objects.bulk_create(
        Membership(vault=vault, user=person, role=Role.AUDITOR) for person in people
    )
    Group.objects.bulk_create(Group(vault=vault, name=f"Group {number}") for number in range(MANY))
    owner = User.objects.get(email="owner@example.com")
    ApiToken.objects.bulk_create(
        ApiToken(
            user=owner, vault=vault, name=f"token {number}", prefix=f"ks_{number}", digest=f"{number:064}"
        )
        for number in range(MANY)
    )
    SavedView.objects.bulk_create(
        SavedView(vault=vault, user=owner, page="cloud-keys", name=f"View {number}", query="state=ENABLED")
        for number in range(MANY)
    )
    AuditEvent.objects.bulk_create(
        AuditEvent(
            vault=vault, vault_name=vault.name, actor_type="user", actor_id=str(owner.pk), actor_name="Owner", via="web",
            action="cloudkeys:cloud_key:update", target_type="cloudkey", target_id=str(key.pk), target_name=key.name,
            before={"description": f"{number}"}, after={"description": f"{number + 1}"},
        )
        for number in range(MANY * 5)
    )  # fmt: skip


if __name__ == "__main__":
    main()
