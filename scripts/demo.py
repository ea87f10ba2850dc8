"""make demo: the whole KeyControl guide by REST, against the bundled AWS simulator, with real parts.

Starts Keystead in a temporary folder on free ports, walks the guide's six steps, rotates the key, and reads the
old object. Ends with status 0 only when everything was as it must be. --keep leaves it running, with more in it.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from demo_api import Api, Deviation, Teller, require
from demo_instance import ADMIN_EMAIL, Instance, StartFailed
from demo_more import add_more

REGION = "eu-west-1"
BUCKET = "card-payments"
OBJECT = "2026/11/statement.txt"
CONTENT = b"Account 4711: 1,250.00 EUR"
TRUST = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",'
    ' "Principal": {"Service": "ec2.amazonaws.com"}}]}'
)


@dataclass
class Walk:
    """What the steps leave for each other."""

    instance: Instance
    tell: Teller
    sign_ins: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    aws: dict[str, str] = field(default_factory=dict, repr=False)
    admin: Api | None = None
    vault: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    key_set: dict[str, Any] = field(default_factory=dict)
    key: dict[str, Any] = field(default_factory=dict)

    @property
    def api(self) -> Api:
        """The vault admin's session."""
        if self.admin is None:
            raise Deviation("the vault admin has not signed in")
        return self.admin

    def client(self, service: str) -> Any:
        """An unmodified boto3 client of the simulator."""
        return boto3.client(
            service,
            endpoint_url=self.aws["endpoint"],
            region_name=REGION,
            aws_access_key_id=self.aws["access_key_id"],
            aws_secret_access_key=self.aws["secret_access_key"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def key_now(self) -> dict[str, Any]:
        """The CloudKey as the API shows it."""
        return dict(self.api.get(f"cloud-keys/{self.key['id']}"))


def create_vault(walk: Walk) -> None:
    """Step 1 of the guide."""
    appliance = Api(walk.instance.url)
    me = appliance.sign_in(ADMIN_EMAIL, walk.instance.admin_password)
    walk.sign_ins["Appliance admin"] = (ADMIN_EMAIL, walk.instance.admin_password)
    walk.tell.saw(f"signed in as {me['email']}, appliance admin: {me['is_appliance_admin']}")
    made = appliance.post(
        "vaults",
        name="Acme Payments",
        description="Keys of the payments platform",
        admin_name="Ada Lovelace",
        admin_email="ada@acme.test",
    )
    appliance.close()
    walk.vault = made
    require(bool(made["one_time_password"]), "no one-time password was shown though no mail is set up")
    walk.sign_ins["Vault admin"] = (made["admin_email"], made["one_time_password"])
    walk.tell.saw(f"vault {made['name']} ({made['id']})")
    walk.tell.saw(f"vault admin {made['admin_email']}: one-time password shown once")


def sign_in_as_vault_admin(walk: Walk) -> None:
    """Step 2 of the guide, first half."""
    email, one_time = walk.sign_ins["Vault admin"]
    walk.admin = api = Api(walk.instance.url)
    me = api.sign_in(email, one_time)
    require(me["must_change_password"], "the one-time password need not be changed")
    refused = api.refusal("csp-accounts")
    walk.tell.saw(
        f"before a new password is set everything is refused: {refused['status']} {refused['title']}"
    )
    password = secrets.token_urlsafe(15)
    me = api.set_password(one_time, password)
    require(not me["must_change_password"], "the password still has to be changed")
    walk.sign_ins["Vault admin"] = (email, password)
    walk.tell.saw(
        f"new password set; role {me['memberships'][0]['role']} in {me['memberships'][0]['vault']['name']}"
    )


def add_account(walk: Walk) -> None:
    """Step 2 of the guide, second half."""
    walk.aws = aws = walk.instance.simulator_credentials()
    iam = walk.client("iam")
    iam.create_user(UserName="grace")
    iam.create_role(RoleName="app-prod", AssumeRolePolicyDocument=TRUST)
    group = walk.api.me["memberships"][0]["groups"][0]
    made = walk.api.post(
        "csp-accounts",
        name="aws-prod",
        description="Bundled simulator",
        group=group["id"],
        partition="simulator",
        access_key_id=aws["access_key_id"],
        secret_access_key=aws["secret_access_key"],
        default_region=REGION,
        rotation_schedule={
            "kind": "every",
            "every": 90,
            "unit": "days",
            "hour": 3,
            "time_zone": "Europe/Berlin",
        },
    )
    require("secret_access_key" not in made, "the secret of the CSP account was sent back")
    tested = walk.api.post(f"csp-accounts/{made['id']}/test")
    checks = tested["health_detail"].get("checks", [])
    allowed = sum(check["result"] == "allowed" for check in checks)
    require(tested["health"] == "OK", f"connection test: {tested['health']} {tested['health_detail']}")
    walk.account = tested
    walk.tell.saw(f"CSP account aws-prod ({made['id']}), partition simulator, owned by {group['name']}")
    walk.tell.saw(
        f"connection test: {tested['health']}, {tested['principal_arn']}, {allowed} of {len(checks)} actions allowed"
    )
    policy = walk.api.get(f"csp-accounts/{made['id']}/policy")
    walk.tell.saw(f"least IAM policy: {len(policy['Statement'])} statements")


def create_key_set(walk: Walk) -> None:
    """Steps 3 and 4 of the guide."""
    made = walk.api.post(
        "key-sets",
        name="pay-hyok",
        description="Held here, used by AWS",
        group=walk.account["group"]["id"],
        csp_account=walk.account["id"],
        use_as_external_key_store=True,
        path_prefix="",
        links=[{"region": REGION}],
        rotation_schedule={
            "kind": "every",
            "every": 12,
            "unit": "months",
            "hour": 3,
            "time_zone": "Europe/Berlin",
        },
    )
    walk.key_set = made
    credential = made["credential"]
    require(bool(credential["secret_access_key"]), "the XKS credential was not shown")
    walk.tell.saw(
        f"key set pay-hyok ({made['id']}), external key store {made['xks_key_store']}, path prefix empty"
    )
    walk.tell.saw(f"XKS credential {credential['access_key_id']}, shown once, with the AWS console's file")
    began = time.monotonic()
    done = walk.api.wait(made["operations"][0])
    walk.tell.saw(f"{done['kind']}: {', '.join(step['label'] for step in done['steps'])}")
    link = walk.api.get(f"xks-key-stores/{made['xks_key_store']}")["links"][0]
    require(
        link["state"] == "CONNECTED", f"the AWS key store is {link['state']} {link['connection_error_code']}"
    )
    seen = walk.client("kms").describe_custom_key_stores(CustomKeyStoreId=link["custom_key_store_id"])
    state = seen["CustomKeyStores"][0]["ConnectionState"]
    require(state == "CONNECTED", f"KMS says {state}")
    walk.tell.saw(
        f"{link['custom_key_store_id']} in {REGION}: KMS says {state}, after {time.monotonic() - began:.2f} s"
    )
    again = walk.api.get(f"xks-key-stores/{made['xks_key_store']}")["credentials"][0]
    require("secret_access_key" not in again, "the XKS secret is shown a second time")


def create_cloud_key(walk: Walk) -> None:
    """Step 5 of the guide."""
    found = walk.api.get(f"csp-accounts/{walk.account['id']}/iam-principals")["items"]
    by_name = {principal["name"]: principal["arn"] for principal in found}
    require({"grace", "app-prod"} <= by_name.keys(), f"the account's IAM principals are {sorted(by_name)}")
    began = time.monotonic()
    made = walk.api.post(
        "cloud-keys",
        key_set=walk.key_set["id"],
        region=REGION,
        name="payments-prod",
        description="Card payments",
        administrators=[by_name["grace"], walk.account["principal_arn"]],
        users=[by_name["app-prod"], walk.account["principal_arn"]],
    )
    walk.key = made["cloud_key"]
    done = walk.api.wait(made["operation"])
    took = time.monotonic() - began
    key = walk.key = walk.key_now()
    require(
        (key["state"], key["pointer_state"]) == ("ENABLED", "LINKED"),
        f"it is {key['state']}, {key['pointer_state']}",
    )
    require(took < 3.0, f"ENABLED and LINKED took {took:.2f} s, which is not under 3 s")
    walk.tell.saw(f"CloudKey {key['name']}, external key id {key['external_key_id']}")
    walk.tell.saw(
        f"ENABLED and LINKED after {took:.2f} s: {', '.join(step['label'] for step in done['steps'])}"
    )
    kms = walk.client("kms")
    metadata = kms.describe_key(KeyId=key["alias"])["KeyMetadata"]
    require(metadata["Arn"] == key["kms_key_arn"], f"{key['alias']} leads to {metadata['Arn']}")
    require(
        metadata["XksKeyConfiguration"]["Id"] == key["external_key_id"], "KMS refers to another external key"
    )
    walk.tell.saw(f"KMS: {key['alias']} is {metadata['Arn']}")
    walk.tell.saw(f"KMS: Origin {metadata['Origin']}, KeyState {metadata['KeyState']}")


def use_from_s3(walk: Walk) -> None:
    """Step 6 of the guide, first third."""
    s3 = walk.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    rule = {
        "ApplyServerSideEncryptionByDefault": {
            "SSEAlgorithm": "aws:kms",
            "KMSMasterKeyID": walk.key["kms_key_arn"],
        },
        # With bucket keys S3 keeps a data key for a while, and a disable shows only when it asks KMS again.
        "BucketKeyEnabled": False,
    }
    s3.put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": [rule]})
    put = s3.put_object(Bucket=BUCKET, Key=OBJECT, Body=CONTENT)
    require(put.get("SSEKMSKeyId") == walk.key["kms_key_arn"], f"S3 encrypted under {put.get('SSEKMSKeyId')}")
    walk.tell.saw(f"s3://{BUCKET}/{OBJECT}: {put['ServerSideEncryption']} under {put['SSEKMSKeyId']}")
    expect_readable(walk, OBJECT, CONTENT)


def expect_readable(walk: Walk, name: str, content: bytes) -> None:
    """Read an object that must be readable."""
    read = walk.client("s3").get_object(Bucket=BUCKET, Key=name)["Body"].read()
    require(read == content, f"{name} holds something else than was written")
    walk.tell.saw(f"GetObject {name}: {len(read)} bytes, as written")


def expect_unreadable(walk: Walk) -> None:
    """Read the object, which must be refused."""
    try:
        walk.client("s3").get_object(Bucket=BUCKET, Key=OBJECT)
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        require(
            code.startswith("KMS.") or code == "AccessDenied",
            f"GetObject failed with {code}: not for the key",
        )
        walk.tell.saw(f"GetObject {OBJECT}: refused, {status} {code}")
        return
    raise Deviation(f"{OBJECT} could be read although its key is disabled")


def disable(walk: Walk) -> None:
    """Step 6, second third."""
    done = walk.api.post(f"cloud-keys/{walk.key['id']}/disable", reason="Suspected breach (demo)")
    sure = done["confirmation"]
    walk.tell.saw(
        f"confirmed by {sure['confirmed']} of {sure['counted']} XKS worker processes after {sure['milliseconds']} ms"
        f" (bound: {sure['bound_s']:.0f} s)"
    )
    require(sure["complete"] and sure["counted"] == 2, f"not everybody confirmed: {sure}")
    expect_unreadable(walk)
    walk.api.wait(done["operation"])
    state = walk.client("kms").describe_key(KeyId=walk.key["kms_key_id"])["KeyMetadata"]["KeyState"]
    require(state == "Disabled", f"KMS says {state}")
    walk.tell.saw(f"KMS: KeyState {state}")
    expect_unreadable(walk)


def enable(walk: Walk) -> None:
    """Step 6, last third."""
    walk.api.wait(
        walk.api.post(f"cloud-keys/{walk.key['id']}/enable", reason="All clear (demo)")["operation"]
    )
    key = walk.key_now()
    state = walk.client("kms").describe_key(KeyId=key["kms_key_id"])["KeyMetadata"]["KeyState"]
    require((key["state"], state) == ("ENABLED", "Enabled"), f"ours {key['state']}, KMS says {state}")
    walk.tell.saw(f"ours {key['state']}, KMS: KeyState {state}")
    expect_readable(walk, OBJECT, CONTENT)


def rotate(walk: Walk) -> None:
    """Beyond the guide: AWS itself cannot rotate such a key."""
    done = walk.api.wait(walk.api.post(f"cloud-keys/{walk.key['id']}/rotate")["operation"])
    key = walk.key_now()
    require(key["current_version"] == 2, f"the current version is {key['current_version']}")
    require(key["kms_key_arn"] == walk.key["kms_key_arn"], "the KMS key changed")
    walk.tell.saw(
        f"version {key['current_version']} encrypts: {', '.join(step['label'] for step in done['steps'])}"
    )
    walk.tell.saw("same external key, same KMS key, same alias: nothing changed in AWS")
    expect_readable(walk, OBJECT, CONTENT)
    newer = "2026/12/statement.txt"
    walk.client("s3").put_object(Bucket=BUCKET, Key=newer, Body=CONTENT[::-1])
    expect_readable(walk, newer, CONTENT[::-1])


def look_at_audit(walk: Walk) -> None:
    """Who did what, as an auditor sees it."""
    events = walk.api.get("audit-events", limit="200")["items"]
    mine = {event["action"] for event in events}
    wanted = {"cloudkeys:cloud_key:disable", "cloudkeys:cloud_key:enable", "cloudkeys:cloud_key:rotate"}
    require(wanted <= mine, f"missing from the audit record: {sorted(wanted - mine)}")
    walk.tell.saw(
        f"{len(events)} events, {len(mine)} kinds; the last: {events[0]['action']} by {events[0]['actor_name']}"
    )


STEPS = (
    ("Create a vault (appliance admin)", create_vault),
    ("Sign in as its vault admin", sign_in_as_vault_admin),
    ("Add and test a CSP account", add_account),
    ("Create a key set, used as external key store, and connect it", create_key_set),
    ("Create a CloudKey", create_cloud_key),
    ("Encrypt an S3 object with it (SSE-KMS, bucket keys off) and read it", use_from_s3),
    ("Disable the CloudKey: the object can no longer be read", disable),
    ("Enable it: the object can be read again", enable),
    ("Rotate it: old and new objects can be read", rotate),
    ("Look at the audit record", look_at_audit),
)


def main() -> int:
    """Walk; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave it running, with more in it, and tell how to sign in"
    )
    keep: bool = parser.parse_args().keep
    instance = Instance()
    tell = Teller()
    walk = Walk(instance, tell)
    kept = False
    print(f"Keystead demo: real parts, a simulated AWS, everything in {instance.folder}")
    try:
        print(f"started in {instance.start():.1f} s: {instance.url}", flush=True)
        for title, step in STEPS:
            with tell.step(title):
                step(walk)
        print(f"\nAll as it must be, in {tell.seconds:.1f} s.")
        if keep:
            add_more(walk, REGION)
            tell_how_to_go_on(walk)
            kept = True
        return 0
    except (Deviation, StartFailed, ClientError, BotoCoreError) as error:
        print(f"\nDEVIATION: {error}", file=sys.stderr)
        if not isinstance(error, StartFailed):
            print(f"The end of Keystead's log:\n{instance.log_end()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if walk.admin is not None:
            walk.admin.close()
        if not kept:
            print(f"stopped in {instance.stop():.1f} s", flush=True)
            instance.remove()


def tell_how_to_go_on(walk: Walk) -> None:
    """Say where everything is."""
    instance = walk.instance
    process = instance.process
    print(
        f"\nLeft running:\n  Web and REST API   {instance.url}   (API documentation: {instance.url}/api/v1/docs)"
    )
    print(
        f"  XKS endpoint       https://localhost:{instance.xks_port}   (CA: {instance.folder}/data/tls/ca.pem)"
    )
    print(f"  AWS simulator      {walk.aws['endpoint']}")
    print("Sign-ins:")
    for who, (email, password) in walk.sign_ins.items():
        print(f"  {who:<18} {email:<24} {password}")
    print("For awscli, and for the keystead command beside this instance:")
    shown = ("DATA_DIR", "WEB_PORT", "XKS_PORT", "SIMULATOR_PORT")
    settings = " ".join(f"KEYSTEAD_{name}={instance.environ[f'KEYSTEAD_{name}']}" for name in shown)
    print(f'  export {settings}\n  eval "$(.venv/bin/keystead simulator credentials)"')
    print(f"Stop it, then remove it:\n  kill {process.pid if process else ''}\n  rm -r {instance.folder}")


if __name__ == "__main__":
    sys.exit(main())
