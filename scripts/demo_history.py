"""The weeks before today, which a demo cannot wait for: uses by hour, delays, dates that are due, a draft. Invented, and only for the demo.

demo_history.py VAULT     in the environment of the demo's instance
"""

from __future__ import annotations

import math
import os
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DAYS = 45
ROLE = "arn:aws:sts::111122223333:assumed-role/{}/session"
USERS = (
    # Key, role, service, uses in a busy hour.
    ("payments-prod", "app-prod", "s3.eu-west-1.amazonaws.com", 420),
    ("payments-prod", "billing-job", "rds.eu-west-1.amazonaws.com", 150),
    ("customer-mail", "mail-gateway", "s3.eu-west-1.amazonaws.com", 210),
    ("claims-scans", "scan-intake", "s3.eu-west-1.amazonaws.com", 90),
    ("claims-scans", "claims-api", "ec2.eu-west-1.amazonaws.com", 30),
    ("payments-archive", "auditors", "s3.eu-west-1.amazonaws.com", 3),
)


def main() -> None:
    """Write it all."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "vault.settings"
    import django

    django.setup()
    from django.utils import timezone

    from vault.models import Vault

    vault = Vault.objects.get(pk=sys.argv[1])
    now = timezone.now()
    dice = random.Random(7)  # noqa: S311  # the same picture each time
    add_uses(vault, now, dice)
    add_dates(vault, now)
    add_draft(vault)
    add_waiting(vault, now)


def add_uses(vault: Any, now: datetime, dice: random.Random) -> None:
    """Uses and delays of each hour, busier by day and on weekdays."""
    from django.db import transaction

    from cloudkeys.models import CloudKey
    from xks.audit_seals import add_seal
    from xks.models import RequestStore, Traffic, UsageHour
    from xks.traffic_buckets import bucket_of

    keys = {key.name: key for key in CloudKey.objects.filter(vault=vault)}
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    uses, delays = [], []
    for back in range(1, DAYS * 24):
        hour = this_hour - timedelta(hours=back)
        day = 0.25 + 0.75 * max(0.0, math.sin((hour.hour - 5) / 15 * math.pi))
        week = 0.3 if hour.weekday() >= 5 else 1.0
        counts: dict[tuple[Any, int], list[int]] = {}
        for name, role, service, busy in USERS:
            key = keys[name]
            if name == "payments-archive" and back < 30 * 24:
                continue
            total = round(busy * day * week * dice.uniform(0.7, 1.3))
            refused = dice.random() < 0.03
            shares = [("decrypt", "OK", round(total * 0.8)), ("encrypt", "OK", total - round(total * 0.8))]
            if refused:
                shares.append(("decrypt", "AccessDenied", dice.randint(1, 4)))
            for operation, outcome, count in shares:
                if not count:
                    continue
                uses.append(
                    UsageHour(
                        hour=hour, store_id=str(key.store_id), key_id=str(key.pk), operation=operation,
                        principal_arn=ROLE.format(role), kms_via_service=service, outcome=outcome, count=count,
                        last_at=hour + timedelta(minutes=dice.randint(5, 59)),
                    )
                )  # fmt: skip
                slow = max(1, count // 100)
                for micros, part in (
                    (dice.randint(500, 900), count - slow),
                    (dice.randint(2_500, 9_000), slow),
                ):
                    if part > 0:
                        sums = counts.setdefault((key.store_id, bucket_of(micros)), [0, 0])
                        sums[0] += part
                        sums[1] += part if outcome != "OK" else 0
        for (store, bucket), (requests, errors) in counts.items():
            delays.append(
                Traffic(span_s=3600, at=hour, store_id=store, bucket=bucket, requests=requests, errors=errors)
            )
    # Single requests are kept from this hour on. The check of the record holds older sums to nothing, as when they were dropped,
    # which a seal has to say.
    with transaction.atomic():
        RequestStore.objects.update_or_create(pk=1, defaults={"kept_from": this_hour})
        add_seal({"kind": "store", "kept_from": this_hour.isoformat()})
    UsageHour.objects.bulk_create(uses, batch_size=500, ignore_conflicts=True)
    Traffic.objects.bulk_create(delays, batch_size=500, ignore_conflicts=True)


def add_dates(vault: Any, now: datetime) -> None:
    """Keys made some weeks ago, rotations and an expiry that come in the next weeks."""
    from cloudkeys.models import CloudKey, CspAccount

    for number, key in enumerate(CloudKey.objects.filter(vault=vault, kind="USER").order_by("name")):
        made = now - timedelta(days=50 + 11 * number)
        CloudKey.objects.filter(pk=key.pk).update(
            created_at=made,
            next_rotation_at=now + timedelta(days=6 + 9 * number) if key.state == "ENABLED" else None,
            **({"expires_at": now + timedelta(days=23)} if key.name == "customer-mail" else {}),
        )
    CspAccount.objects.filter(vault=vault, name="aws-prod").update(next_rotation_at=now + timedelta(days=19))


def add_draft(vault: Any) -> None:
    """A key set that somebody has begun to describe."""
    from cloudkeys.models import CspAccount, KeySetDraft
    from vault.models import Membership

    owner = Membership.objects.filter(vault=vault, role="VAULT_ADMIN").order_by("created_at").first()
    account = CspAccount.objects.filter(vault=vault).order_by("created_at").first()
    if owner is None or account is None:
        raise SystemExit("demo_history: the vault has no admin or no account")
    KeySetDraft.objects.create(
        vault=vault,
        user=owner.user,
        steps={
            "what": {"fields": {"type": "AWS", "name": "mail-hyok", "description": "Letters to customers"}, "revision": 1},
            "account": {"fields": {"csp_account": str(account.pk)}, "revision": 1},
        },
    )  # fmt: skip


def add_waiting(vault: Any, now: datetime) -> None:
    """Work that AWS has asked to come back for later."""
    from cloudkeys.models import CloudKey, Operation
    from cloudkeys.operations import KINDS

    key = CloudKey.objects.get(vault=vault, name="customer-mail")
    steps = KINDS["cloud_key.update_pointer"].new_steps()
    steps[0] |= {"state": "WAITING", "started_at": (now - timedelta(minutes=3)).isoformat()}
    Operation.objects.create(
        vault=vault, kind="cloud_key.update_pointer", state="WAITING", target_type="cloudkey", target_id=key.pk,
        target_name=key.name, steps=steps, attempts=3, next_try_at=now + timedelta(hours=20),
        requested_by_name="Grace Hopper", via="web",
        error={"code": "ThrottlingException", "cause": "AWS KMS asks for fewer calls a second in this account.",
               "cure": "Nothing: it is tried again by itself.", "permanent": False},
    )  # fmt: skip


if __name__ == "__main__":
    main()
