"""Keys, aliases, tags and key policies of the simulator's KMS."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws import kms_stores
from cloudkeys.simulators.aws.context import ACCOUNTS
from cloudkeys.simulators.aws.server import RunningServer
from tests.cloudkeys.simulators.aws.conftest import make_client, make_store
from tests.cloudkeys.simulators.aws.fake_proxy import ExternalKey, FakeProxy, error

MISSING = "11111111-2222-3333-4444-555555555555"


def code_of(call: Callable[..., Any], **params: Any) -> str:
    """The error code with which a call is refused."""
    with pytest.raises(ClientError) as refused:
        call(**params)
    return str(refused.value.response["Error"]["Code"])


@pytest.fixture
def kms(server: RunningServer) -> Any:
    """The administrator's KMS client."""
    return make_client(server, "kms")


@pytest.fixture
def key_id(kms: Any) -> str:
    """A fresh key of origin AWS_KMS."""
    return str(kms.create_key()["KeyMetadata"]["KeyId"])


@pytest.fixture
def xks(xks_server: RunningServer) -> tuple[Any, str]:
    """A client and the id of a connected external key store."""
    client = make_client(xks_server, "kms")
    store_id = make_store(client)
    client.connect_custom_key_store(CustomKeyStoreId=store_id)
    kms_stores.wait_for_connections(xks_server.sim)
    return client, store_id


def create_external(xks: tuple[Any, str], key: str = "key-1") -> dict[str, Any]:
    """Create a KMS key over an external key."""
    client, store_id = xks
    answer = client.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=key)
    return dict(answer["KeyMetadata"])


def test_create_and_describe(kms: Any) -> None:
    tags = [{"TagKey": "team", "TagValue": "blue"}]
    made = kms.create_key(Description="mine", Tags=tags)["KeyMetadata"]
    assert made["Arn"] == f"arn:aws:kms:eu-west-1:{ACCOUNTS[0]}:key/{made['KeyId']}"
    assert (made["KeyState"], made["Enabled"], made["Origin"]) == ("Enabled", True, "AWS_KMS")
    assert kms.describe_key(KeyId=made["Arn"])["KeyMetadata"] == made
    assert kms.list_resource_tags(KeyId=made["KeyId"])["Tags"] == tags


def test_key_without_material_waits_for_its_import(kms: Any) -> None:
    made = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]
    assert (made["KeyState"], made["Enabled"]) == ("PendingImport", False)
    assert code_of(kms.encrypt, KeyId=made["KeyId"], Plaintext=b"x") == "KMSInvalidStateException"
    assert code_of(kms.enable_key, KeyId=made["KeyId"]) == "KMSInvalidStateException"
    kms.schedule_key_deletion(KeyId=made["KeyId"])
    kms.cancel_key_deletion(KeyId=made["KeyId"])
    assert kms.describe_key(KeyId=made["KeyId"])["KeyMetadata"]["KeyState"] == "PendingImport"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException"),
        ({"MultiRegion": True}, "UnsupportedOperationException"),
        ({"Origin": "AWS_CLOUDHSM"}, "UnsupportedOperationException"),
        ({"Origin": "EXTERNAL_KEY_STORE"}, "ValidationException"),
        ({"XksKeyId": "a"}, "ValidationException"),
        (
            {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": "cks-1", "XksKeyId": "a"},
            "CustomKeyStoreNotFoundException",
        ),
        ({"Tags": [{"TagKey": "aws:x", "TagValue": ""}]}, "TagException"),
        ({"Tags": [{"TagKey": "x", "TagValue": ""}] * 2}, "TagException"),
        ({"Policy": "{}"}, "MalformedPolicyDocumentException"),
    ],
)
def test_create_refuses(kms: Any, params: dict[str, Any], code: str) -> None:
    assert code_of(kms.create_key, **params) == code
    assert kms.list_keys()["Keys"] == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (MISSING, "NotFoundException"),
        ("alias/none", "NotFoundException"),
        ("nonsense", "NotFoundException"),
        ("arn:aws:kms:eu-west-1", "InvalidArnException"),
        (f"arn:aws:kms:us-east-1:{ACCOUNTS[0]}:key/{MISSING}", "NotFoundException"),
        (f"arn:aws:kms:eu-west-1:{ACCOUNTS[1]}:key/{MISSING}", "AccessDeniedException"),
    ],
)
def test_names_of_no_key(kms: Any, name: str, code: str) -> None:
    assert code_of(kms.describe_key, KeyId=name) == code


def test_regions_and_accounts_are_apart(server: RunningServer, kms: Any, key_id: str) -> None:
    arn = f"arn:aws:kms:eu-west-1:{ACCOUNTS[0]}:key/{key_id}"
    assert make_client(server, "kms", region="us-east-1").list_keys()["Keys"] == []
    other = make_client(server, "kms", account=ACCOUNTS[1])
    assert other.list_keys()["Keys"] == []
    assert code_of(other.describe_key, KeyId=key_id) == "NotFoundException"
    assert code_of(other.describe_key, KeyId=arn) == "AccessDeniedException"
    assert kms.list_keys()["Keys"] == [{"KeyId": key_id, "KeyArn": arn}]


def test_listing_in_pages(kms: Any) -> None:
    made = {kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)}
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(one["Keys"]) for one in pages] == [2, 2, 1]
    assert {key["KeyId"] for one in pages for key in one["Keys"]} == made
    assert code_of(kms.list_keys, Marker="x") == "InvalidMarkerException"


def test_disable_and_enable(kms: Any, key_id: str) -> None:
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    kms.disable_key(KeyId=key_id)
    kms.disable_key(KeyId=key_id)
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Disabled"
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "DisabledException"
    assert code_of(kms.decrypt, CiphertextBlob=blob) == "DisabledException"
    kms.enable_key(KeyId=key_id)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_deletion(server: RunningServer, kms: Any, key_id: str) -> None:
    kms.create_alias(AliasName="alias/a", TargetKeyId=key_id)
    for days in (6, 31):
        assert code_of(kms.schedule_key_deletion, KeyId=key_id, PendingWindowInDays=days) == (
            "ValidationException"
        )
    answer = kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert (answer["KeyState"], answer["PendingWindowInDays"]) == ("PendingDeletion", 7)
    assert code_of(kms.schedule_key_deletion, KeyId=key_id) == "KMSInvalidStateException"
    for call, params in (
        (kms.enable_key, {}),
        (kms.disable_key, {}),
        (kms.encrypt, {"Plaintext": b"x"}),
        (kms.update_key_description, {"Description": "x"}),
        (kms.tag_resource, {"Tags": [{"TagKey": "a", "TagValue": "b"}]}),
    ):
        assert code_of(call, KeyId=key_id, **params) == "KMSInvalidStateException"
    server.sim.state.advance_clock(6 * 86400)
    kms.cancel_key_deletion(KeyId=key_id)
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Disabled"
    assert code_of(kms.cancel_key_deletion, KeyId=key_id) == "KMSInvalidStateException"
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    server.sim.state.advance_clock(7 * 86400 + 1)
    assert code_of(kms.describe_key, KeyId=key_id) == "NotFoundException"
    assert kms.list_aliases()["Aliases"] == []


def test_operations_that_take_no_alias(kms: Any, key_id: str) -> None:
    kms.create_alias(AliasName="alias/a", TargetKeyId=key_id)
    assert code_of(kms.disable_key, KeyId="alias/a") == "NotFoundException"
    assert kms.describe_key(KeyId="alias/a")["KeyMetadata"]["KeyId"] == key_id


def test_aliases(kms: Any, key_id: str) -> None:
    second = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/a", TargetKeyId=key_id)
    assert code_of(kms.create_alias, AliasName="alias/a", TargetKeyId=second) == "AlreadyExistsException"
    kms.update_alias(AliasName="alias/a", TargetKeyId=second)
    (alias,) = kms.list_aliases(KeyId=second)["Aliases"]
    assert alias["AliasArn"] == f"arn:aws:kms:eu-west-1:{ACCOUNTS[0]}:alias/a"
    assert kms.describe_key(KeyId=alias["AliasArn"])["KeyMetadata"]["KeyId"] == second
    assert kms.list_aliases(KeyId=key_id)["Aliases"] == []
    kms.delete_alias(AliasName="alias/a")
    assert code_of(kms.delete_alias, AliasName="alias/a") == "NotFoundException"
    assert code_of(kms.update_alias, AliasName="alias/a", TargetKeyId=second) == "NotFoundException"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a", "ValidationException"),
        ("alias/", "ValidationException"),
        ("alias/aws/mine", "NotAuthorizedException"),
    ],
)
def test_names_that_no_alias_may_have(kms: Any, key_id: str, name: str, code: str) -> None:
    assert code_of(kms.create_alias, AliasName=name, TargetKeyId=key_id) == code


def test_tags(kms: Any, key_id: str) -> None:
    kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": n, "TagValue": "1"} for n in "ab"])
    kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": "a", "TagValue": "2"}])
    kms.untag_resource(KeyId=key_id, TagKeys=["b", "never there"])
    assert kms.list_resource_tags(KeyId=key_id)["Tags"] == [{"TagKey": "a", "TagValue": "2"}]
    many = [{"TagKey": f"t{n}", "TagValue": ""} for n in range(50)]
    assert code_of(kms.tag_resource, KeyId=key_id, Tags=many) == "LimitExceededException"


def _policy(*principals: str, action: str = "kms:*") -> str:
    statements = [
        {"Effect": "Allow", "Principal": {"AWS": name}, "Action": action, "Resource": "*"}
        for name in principals
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def test_key_policy(server: RunningServer, kms: Any, key_id: str) -> None:
    root = f"arn:aws:iam::{ACCOUNTS[0]}:root"
    default = json.loads(kms.get_key_policy(KeyId=key_id)["Policy"])
    assert default["Statement"][0]["Principal"] == {"AWS": root}
    kms.put_key_policy(KeyId=key_id, Policy=_policy(root, f"arn:aws:iam::{ACCOUNTS[1]}:root"))
    arn = kms.describe_key(KeyId=key_id)["KeyMetadata"]["Arn"]
    other = make_client(server, "kms", account=ACCOUNTS[1])
    blob = other.encrypt(KeyId=arn, Plaintext=b"across")["CiphertextBlob"]
    assert other.decrypt(CiphertextBlob=blob)["Plaintext"] == b"across"
    assert code_of(kms.get_key_policy, KeyId=key_id, PolicyName="other") == "NotFoundException"
    assert kms.list_key_policies(KeyId=key_id)["PolicyNames"] == ["default"]


def test_a_policy_that_locks_its_maker_out_is_refused(kms: Any, key_id: str) -> None:
    lockout = _policy(f"arn:aws:iam::{ACCOUNTS[0]}:root", action="kms:Encrypt")
    assert code_of(kms.put_key_policy, KeyId=key_id, Policy=lockout) == "MalformedPolicyDocumentException"
    assert code_of(kms.create_key, Policy=lockout) == "MalformedPolicyDocumentException"
    kms.put_key_policy(KeyId=key_id, Policy=lockout, BypassPolicyLockoutSafetyCheck=True)
    assert code_of(kms.put_key_policy, KeyId=key_id, Policy=lockout) == "AccessDeniedException"


def test_a_policy_that_names_nobody_is_refused(kms: Any, key_id: str) -> None:
    ghost = _policy(f"arn:aws:iam::{ACCOUNTS[0]}:root", f"arn:aws:iam::{ACCOUNTS[0]}:user/ghost")
    assert code_of(kms.put_key_policy, KeyId=key_id, Policy=ghost) == "MalformedPolicyDocumentException"
    assert code_of(kms.put_key_policy, KeyId=key_id, Policy="no json") == "MalformedPolicyDocumentException"


def test_grants(server: RunningServer, kms: Any, key_id: str) -> None:
    iam = make_client(server, "iam")
    arn = iam.create_user(UserName="grantee")["User"]["Arn"]
    access = iam.create_access_key(UserName="grantee")["AccessKey"]
    grantee = make_client(server, "kms", credentials=(access["AccessKeyId"], access["SecretAccessKey"]))
    context = {"project": "one"}
    assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=b"x") == "AccessDeniedException"
    grant = {
        "KeyId": key_id,
        "GranteePrincipal": arn,
        "RetiringPrincipal": arn,
        "Operations": ["Encrypt"],
        "Constraints": {"EncryptionContextSubset": context},
        "Name": "one",
    }
    made = kms.create_grant(**grant)
    assert kms.create_grant(**grant)["GrantId"] == made["GrantId"]
    assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=b"x") == "AccessDeniedException"
    blob = grantee.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={**context, "more": "m"})
    assert blob["KeyId"].endswith(key_id)
    assert code_of(
        grantee.decrypt, CiphertextBlob=blob["CiphertextBlob"], EncryptionContext={**context, "more": "m"}
    ) == ("AccessDeniedException")
    (listed,) = kms.list_grants(KeyId=key_id)["Grants"]
    assert (listed["GranteePrincipal"], listed["Operations"]) == (arn, ["Encrypt"])
    assert kms.list_retirable_grants(RetiringPrincipal=arn)["Grants"] == [listed]
    grantee.retire_grant(GrantToken=made["GrantToken"])
    assert kms.list_grants(KeyId=key_id)["Grants"] == []
    again = kms.create_grant(**grant)["GrantId"]
    assert code_of(kms.revoke_grant, KeyId=key_id, GrantId="0" * 64) == "NotFoundException"
    kms.revoke_grant(KeyId=key_id, GrantId=again)
    assert code_of(grantee.encrypt, KeyId=key_id, Plaintext=b"x", EncryptionContext=context) == (
        "AccessDeniedException"
    )
    ghost = {**grant, "GranteePrincipal": f"arn:aws:iam::{ACCOUNTS[0]}:user/ghost", "Name": "two"}
    assert code_of(kms.create_grant, **ghost) == "InvalidArnException"


def test_create_over_an_external_key(xks: tuple[Any, str], proxy: FakeProxy) -> None:
    made = create_external(xks)
    assert made["XksKeyConfiguration"] == {"Id": "key-1"}
    assert (made["Origin"], made["CustomKeyStoreId"]) == ("EXTERNAL_KEY_STORE", xks[1])
    asked = proxy.seen[-1]
    assert asked.path == "/keys/key-1/metadata"
    metadata = asked.document["requestMetadata"]
    assert metadata.pop("kmsRequestId")
    assert metadata == {
        "awsPrincipalArn": f"arn:aws:iam::{ACCOUNTS[0]}:user/Administrator",
        "kmsOperation": "CreateKey",
    }


def test_an_external_key_backs_one_key_of_a_store(
    xks_server: RunningServer, xks: tuple[Any, str], proxy: FakeProxy
) -> None:
    made = create_external(xks)
    with pytest.raises(ClientError, match="XksKeyAlreadyInUseException"):
        create_external(xks)
    xks[0].schedule_key_deletion(KeyId=made["KeyId"], PendingWindowInDays=7)
    with pytest.raises(ClientError, match="XksKeyAlreadyInUseException"):
        create_external(xks)
    xks_server.sim.state.advance_clock(7 * 86400 + 1)
    assert create_external(xks)["KeyId"] != made["KeyId"]


@pytest.mark.parametrize(
    "wrong",
    [{"spec": "AES_128"}, {"usage": ("ENCRYPT",)}, {"usage": ()}, {"status": "DISABLED"}],
)
def test_external_keys_that_cannot_back_a_key(
    xks: tuple[Any, str], proxy: FakeProxy, wrong: dict[str, Any]
) -> None:
    proxy.keys["key-1"] = ExternalKey(**wrong)
    with pytest.raises(ClientError, match="XksKeyInvalidConfigurationException"):
        create_external(xks)
    assert xks[0].list_keys()["Keys"] == []


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        (error(404, "KeyNotFoundException"), "XksKeyNotFoundException", 400),
        (error(503, "DependencyTimeoutException"), "DependencyTimeoutException", 503),
        (error(401, "AuthenticationFailedException"), "CustomKeyStoreInvalidStateException", 400),
        ((200, {"keySpec": "AES_256"}), "CustomKeyStoreInvalidStateException", 400),
    ],
)
def test_proxies_that_do_not_describe_the_key(
    xks: tuple[Any, str], proxy: FakeProxy, answer: Any, code: str, status: int
) -> None:
    proxy.override = lambda seen: answer
    with pytest.raises(ClientError, match=code) as refused:
        create_external(xks)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_keys_of_a_disconnected_store_are_unavailable(xks: tuple[Any, str], proxy: FakeProxy) -> None:
    client, store_id = xks
    key = create_external(xks)["KeyId"]
    client.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    asked = len(proxy.seen)
    shown = client.describe_key(KeyId=key)["KeyMetadata"]
    assert (shown["KeyState"], shown["Enabled"]) == ("Unavailable", False)
    assert code_of(client.encrypt, KeyId=key, Plaintext=b"x") == "KMSInvalidStateException"
    with pytest.raises(ClientError, match="CustomKeyStoreInvalidStateException"):
        create_external(xks, "key-2")
    client.disable_key(KeyId=key)
    assert code_of(client.encrypt, KeyId=key, Plaintext=b"x") == "DisabledException"
    assert len(proxy.seen) == asked
