"""What --keep adds to the demo, so that every page has something to show.

More people and groups, keys in every state, an unlinked store, an account whose credential AWS refuses and what failed because of it,
access rules, limits, a certificate, a doctor's report, saved views, a token, traffic; then the weeks before (demo_history.py).
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from demo_api import Api, Deviation
from demo_certificate import sign_request
from demo_instance import ADMIN_EMAIL

if TYPE_CHECKING:
    from demo import Walk

PEOPLE = (
    ("Cloud admin", "CLOUD_ADMIN", "Grace Hopper", "grace@acme.test"),
    ("Auditor", "AUDITOR", "Emmy Noether", "emmy@acme.test"),
)
UNLINKED_REGION = "eu-central-1"
KEYS = (
    ("payments-archive", "Statements of closed years", {"team": "payments"}),
    ("reporting", "Nightly reports", {"team": "finance", "stage": "prod"}),
    ("legacy-ledger", "The ledger before 2019", {"team": "finance"}),
    ("cards-2025", "Card data until last year", {"team": "cards"}),
    ("customer-mail", "Letters to customers", {"team": "mail", "stage": "prod"}),
    ("claims-scans", "Scanned claims", {"team": "claims", "stage": "prod"}),
)


def add_more(walk: Walk, region: str) -> None:
    """Add them all; sign-ins of the new people are added to the walk's. Raises demo_api.Deviation."""
    add_people(walk)
    made = add_keys(walk, region)
    add_unlinked(walk)
    add_failing_account(walk, region)
    add_rules(walk)
    add_views(walk, made)
    add_certificate(walk)
    add_traffic(walk)
    api = walk.api
    api.post(f"xks-key-stores/{walk.key_set['xks_key_store']}/doctor", samples=5)
    api.post("cloud-keys/bulk", vault=walk.vault["id"], action="rotate", ids=made[-2:])
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("demo_history.py")), walk.vault["id"]],
        env=walk.instance.environ,
        check=True,
    )


def add_people(walk: Walk) -> None:
    """A cloud admin, an auditor, and a group without anybody."""
    api, group = walk.api, walk.account["group"]["id"]
    for who, role, name, email in PEOPLE:
        made = api.post("members", vault=walk.vault["id"], email=email, name=name, role=role, groups=[group])
        password = secrets.token_urlsafe(15)
        person = Api(api.url)
        person.sign_in(email, made["one_time_password"])
        person.set_password(made["one_time_password"], password)
        person.close()
        walk.sign_ins[who] = (email, password)
    api.post("groups", vault=walk.vault["id"], name="Archive team", description="Cold data in Frankfurt")


def add_keys(walk: Walk, region: str) -> list[str]:
    """Keys in every state; return their ids."""
    api, ids = walk.api, []
    for name, description, tags in KEYS:
        made = api.post(
            "cloud-keys", key_set=walk.key_set["id"], region=region, name=name, description=description, tags=tags,
            administrators=walk.key["administrators"], users=walk.key["users"],
        )  # fmt: skip
        api.wait(made["operation"])
        ids.append(made["cloud_key"]["id"])
        path = f"cloud-keys/{ids[-1]}"
        match name:
            case "payments-archive":
                api.wait(api.post(f"{path}/disable", reason="Not in use since May")["operation"])
            case "reporting":
                api.post(f"{path}/block", reason="Incident 7")
            case "legacy-ledger":
                done = api.post(
                    f"{path}/schedule-deletion", confirm_name=name, window_days=7, reason="Project ended"
                )
                api.wait(done["operation"])
            case "cards-2025":
                api.post(f"{path}/retire", reason="Replaced by payments-prod")
    return ids


def add_unlinked(walk: Walk) -> None:
    """A key set whose AWS key store is made by hand, and one that is no external key store."""
    api, group = walk.api, walk.account["group"]["id"]
    unlinked = api.post(
        "key-sets",
        name="cold-archive",
        description="Its AWS key store is made by hand",
        group=group,
        csp_account=walk.account["id"],
        use_as_external_key_store=True,
        links=[{"region": UNLINKED_REGION, "linked": False}],
        expiration={"kind": "after", "days": 365, "then": "disable"},
    )
    api.post("cloud-keys", key_set=unlinked["id"], region=UNLINKED_REGION, name="archive-2024")
    api.post(
        "key-sets",
        name="spare",
        description="Not used by AWS yet",
        group=group,
        csp_account=walk.account["id"],
    )


def add_failing_account(walk: Walk, region: str) -> None:
    """An account whose secret is wrong, and a key store that could not be made because of it."""
    api, group = walk.api, walk.account["group"]["id"]
    account = api.post(
        "csp-accounts", name="aws-recovery", description="Second site; its secret was rotated elsewhere", group=group,
        partition="simulator", access_key_id=walk.aws["access_key_id"], secret_access_key=secrets.token_urlsafe(30)[:40],
        default_region=region,
    )  # fmt: skip
    api.post(f"csp-accounts/{account['id']}/test")
    made = api.post(
        "key-sets", name="recovery-hyok", description="For the second site", group=group, csp_account=account["id"],
        use_as_external_key_store=True, links=[{"region": UNLINKED_REGION}],
    )  # fmt: skip
    with suppress(Deviation):  # as it is meant to
        api.wait(made["operations"][0])


def add_rules(walk: Walk) -> None:
    """Rules of the store that are enforced, and a stricter version that runs in shadow."""
    leavers = {
        "name": "no leavers",
        "effect": "DENY",
        "conditions": [{"field": "principal", "values": ["arn:aws:iam::111122223333:user/leaver-*"]}],
    }
    nights = {
        "name": "closed on Sundays",
        "effect": "DENY",
        "conditions": [{"field": "time", "values": ["SUN 00:00-24:00 Europe/Berlin"]}],
    }
    api = walk.api
    made = api.post(
        "access-rules", store=walk.key_set["xks_key_store"], rules=[leavers], reason="People who have left"
    )
    path = f"access-rules/{made['id']}"
    api.post(f"{path}/enforce", version=1)
    api.post(f"{path}/versions", rules=[leavers, nights], reason="Nobody works on Sundays")
    api.post(f"{path}/shadow", version=2)
    made = api.post("access-rules", cloud_key=walk.key["id"], rules=[leavers], reason="As for the store")
    api.post(f"access-rules/{made['id']}/versions", rules=[leavers, nights], reason="Not enforced yet")


def add_views(walk: Walk, ids: list[str]) -> None:
    """A saved view and a token."""
    api = walk.api
    api.post(
        "saved-views",
        vault=walk.vault["id"],
        page="cloud-keys",
        name="Stopped",
        query="state=DISABLED",
        shared=True,
    )
    api.post("auth/tokens", name="terraform", vault=walk.vault["id"])


def add_certificate(walk: Walk) -> None:
    """A certificate that the demo's own CA has signed, so that the simulator goes on trusting the endpoint."""
    email, password = walk.sign_ins["Appliance admin"]
    assert email == ADMIN_EMAIL  # noqa: S101
    appliance = Api(walk.instance.url)
    appliance.sign_in(email, password)
    pending = appliance.post("certificates/requests")
    chain = sign_request(pending["request"], walk.instance.folder / "data" / "tls")
    appliance.post_at(pending["revision"], f"certificates/{pending['id']}/chain", chain=chain)
    appliance.post("certificates/requests")
    appliance.close()


def add_traffic(walk: Walk) -> None:
    """Objects written and read, so that the last minutes are not empty."""
    s3 = walk.client("s3")
    for number in range(25):
        s3.put_object(Bucket="card-payments", Key=f"load/{number}", Body=b"x" * 100)
        s3.get_object(Bucket="card-payments", Key=f"load/{number}")["Body"].read()
    with suppress(ClientError):  # its key is disabled
        walk.client("kms").encrypt(KeyId="alias/payments-archive", Plaintext=b"refused")
