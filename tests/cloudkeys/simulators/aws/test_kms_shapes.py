"""Every operation of the simulator's KMS answers in the shape of botocore's service model, and no other does."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.model import ListShape, Shape, StructureShape

from cloudkeys.simulators.aws import kms, kms_stores, protocols
from cloudkeys.simulators.aws.context import ACCOUNTS, AwsError
from cloudkeys.simulators.aws.server import RunningServer
from tests.cloudkeys.simulators.aws.conftest import make_client, make_store

MODEL = protocols.service_model("kms")
ARN = f"arn:aws:iam::{ACCOUNTS[0]}:user/Administrator"
KEY_METADATA = {"AWSAccountId", "KeyId", "Arn", "CreationDate", "Enabled", "Description", "KeyUsage", "KeyState",
                "Origin", "KeyManager", "KeySpec", "EncryptionAlgorithms", "MultiRegion"}  # fmt: skip
# The model marks no output member as required; these are the ones that AWS always gives.
ALWAYS: dict[str, set[str]] = {
    "CancelKeyDeletion": {"KeyId"},
    "CreateCustomKeyStore": {"CustomKeyStoreId"},
    "CreateGrant": {"GrantToken", "GrantId"},
    "CreateKey": {"KeyMetadata"},
    "Decrypt": {"KeyId", "Plaintext", "EncryptionAlgorithm"},
    "DescribeCustomKeyStores": {"CustomKeyStores", "Truncated"},
    "DescribeKey": {"KeyMetadata"},
    "Encrypt": {"CiphertextBlob", "KeyId", "EncryptionAlgorithm"},
    "GenerateDataKey": {"CiphertextBlob", "Plaintext", "KeyId"},
    "GenerateDataKeyWithoutPlaintext": {"CiphertextBlob", "KeyId"},
    "GenerateRandom": {"Plaintext"},
    "GetKeyPolicy": {"Policy", "PolicyName"},
    "ListAliases": {"Aliases", "Truncated"},
    "ListGrants": {"Grants", "Truncated"},
    "ListKeyPolicies": {"PolicyNames", "Truncated"},
    "ListKeys": {"Keys", "Truncated"},
    "ListResourceTags": {"Tags", "Truncated"},
    "ListRetirableGrants": {"Grants", "Truncated"},
    "ReEncrypt": {
        "CiphertextBlob",
        "SourceKeyId",
        "KeyId",
        "SourceEncryptionAlgorithm",
        "DestinationEncryptionAlgorithm",
    },
    "ScheduleKeyDeletion": {"KeyId", "DeletionDate", "KeyState", "PendingWindowInDays"},
}


def _check(shape: Shape, value: Any, path: str) -> None:
    """Assert that a raw JSON value is of the shape: types, enumerations, lengths, and no member beyond it."""
    if isinstance(shape, StructureShape):
        assert isinstance(value, dict), path
        assert set(value) <= set(shape.members), path
        assert set(shape.required_members) <= set(value), path
        for name, inner in value.items():
            _check(shape.members[name], inner, f"{path}.{name}")
    elif isinstance(shape, ListShape):
        assert isinstance(value, list), path
        for inner in value:
            _check(shape.member, inner, f"{path}[]")
    elif shape.type_name == "map":
        assert isinstance(value, dict), path
    elif shape.type_name == "boolean":
        assert isinstance(value, bool), path
    elif shape.type_name == "timestamp":
        assert isinstance(value, (int, float)), path
    elif shape.type_name == "integer":
        assert type(value) is int, path
    else:
        assert isinstance(value, str), path
        if shape.type_name == "blob":
            base64.b64decode(value, validate=True)
        else:
            assert not getattr(shape, "enum", None) or value in shape.enum, path
            assert len(value) <= shape.metadata.get("max", len(value)), path


def test_every_answer_has_its_shape(xks_server: RunningServer) -> None:
    client = make_client(xks_server, "kms")
    seen: set[str] = set()

    def look(http_response: Any, model: Any, **_: Any) -> None:
        assert http_response.status_code == 200, http_response.content
        seen.add(model.name)
        body = http_response.content
        if model.output_shape is None:
            assert body == b""
            return
        assert http_response.headers["Content-Type"] == "application/x-amz-json-1.1"
        document = json.loads(body)
        _check(model.output_shape, document, model.name)
        assert ALWAYS.get(model.name, set()) <= set(document), model.name
        for metadata in [document["KeyMetadata"]] if "KeyMetadata" in document else []:
            assert set(metadata) >= KEY_METADATA

    client.meta.events.register("after-call", look)
    store_id = make_store(client)
    client.connect_custom_key_store(CustomKeyStoreId=store_id)
    kms_stores.wait_for_connections(xks_server.sim)
    client.describe_custom_key_stores()
    xks = client.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="key-1")
    xks_id = xks["KeyMetadata"]["KeyId"]
    key = client.create_key(Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["KeyId"]
    client.describe_key(KeyId=key)
    client.list_keys(Limit=1)
    client.create_alias(AliasName="alias/a", TargetKeyId=key)
    client.update_alias(AliasName="alias/a", TargetKeyId=xks_id)
    client.list_aliases()
    client.delete_alias(AliasName="alias/a")
    client.tag_resource(KeyId=key, Tags=[{"TagKey": "c", "TagValue": "d"}])
    client.list_resource_tags(KeyId=key)
    client.untag_resource(KeyId=key, TagKeys=["c"])
    policy = client.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
    client.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
    client.list_key_policies(KeyId=key)
    client.update_key_description(KeyId=key, Description="d")
    blob = client.encrypt(KeyId=xks_id, Plaintext=b"x")["CiphertextBlob"]
    client.decrypt(CiphertextBlob=blob)
    client.re_encrypt(CiphertextBlob=blob, DestinationKeyId=key)
    client.generate_data_key(KeyId=xks_id, KeySpec="AES_256")
    client.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
    client.generate_random(NumberOfBytes=1)
    grant = {"KeyId": key, "GranteePrincipal": ARN, "RetiringPrincipal": ARN, "Operations": ["Encrypt"]}
    first = client.create_grant(**grant, Name="n", Constraints={"EncryptionContextEquals": {"a": "b"}})
    client.list_grants(KeyId=key)
    client.list_retirable_grants(RetiringPrincipal=ARN)
    client.retire_grant(GrantToken=first["GrantToken"])
    client.revoke_grant(KeyId=key, GrantId=client.create_grant(**grant)["GrantId"])
    client.disable_key(KeyId=key)
    client.enable_key(KeyId=key)
    client.schedule_key_deletion(KeyId=xks_id, PendingWindowInDays=7)
    client.describe_key(KeyId=xks_id)
    client.cancel_key_deletion(KeyId=xks_id)
    client.schedule_key_deletion(KeyId=xks_id, PendingWindowInDays=7)
    client.update_custom_key_store(CustomKeyStoreId=store_id, NewCustomKeyStoreName="n")
    client.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    xks_server.sim.state.advance_clock(8 * 86400)
    client.delete_custom_key_store(CustomKeyStoreId=store_id)
    assert seen == set(kms.OPERATIONS)


def test_the_operations_are_those_of_the_model() -> None:
    assert set(kms.OPERATIONS) <= set(MODEL.operation_names)
    assert set(ALWAYS) <= set(kms.OPERATIONS)


def _minimal(shape: Shape) -> Any:
    """A value that the shape accepts."""
    if isinstance(shape, StructureShape):
        return {name: _minimal(shape.members[name]) for name in shape.required_members}
    if isinstance(shape, ListShape):
        return [_minimal(shape.member)]
    if getattr(shape, "enum", None):
        return shape.enum[0]
    if shape.name == "RegionType":
        return "us-east-1"
    size = max(int(shape.metadata.get("min", 1)), 1)
    return {"blob": b"x" * size, "integer": size, "timestamp": 0, "boolean": False}.get(
        shape.type_name, "a" * size
    )


def test_every_other_operation_says_that_it_is_not_there(server: RunningServer) -> None:
    client = make_client(server, "kms")
    others = {
        name: method
        for method, name in client.meta.method_to_api_mapping.items()
        if name not in kms.OPERATIONS
    }
    assert "ImportKeyMaterial" in others
    for name, method in others.items():
        shape = MODEL.operation_model(name).input_shape
        params = {} if shape is None else _minimal(shape)
        with pytest.raises(ClientError) as refused:
            getattr(client, method)(**params)
        problem = refused.value.response["Error"]
        assert problem["Code"] == "UnsupportedOperationException", name
        assert f"kms:{name}" in problem["Message"]


def test_an_unknown_member_cannot_be_answered() -> None:
    with pytest.raises(KeyError, match="Surprise"):
        protocols.serialize_json("kms", "GenerateRandom", {"Surprise": 1})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "SerializationException"),
        (b"[]", "SerializationException"),
        (b"[" * 100_000, "SerializationException"),
        (b'{"KeyId": 1, "Plaintext": "eA=="}', "SerializationException"),
        (b'{"KeyId": "a", "Plaintext": "no base64!"}', "SerializationException"),
        (b'{"KeyId": "a"}', "ValidationException"),
        (b'{"Plaintext": "eA=="}', "ValidationException"),
        (b'{"KeyId": "", "Plaintext": "eA=="}', "ValidationException"),
        (b'{"KeyId": "a", "Plaintext": "eA==", "EncryptionAlgorithm": "ROT13"}', "ValidationException"),
        (b'{"KeyId": "a", "Plaintext": "eA==", "GrantTokens": "a"}', "SerializationException"),
        (b'{"KeyId": "a", "Plaintext": "eA==", "DryRun": 1}', "SerializationException"),
        (b'{"KeyId": "a", "Plaintext": "eA==", "EncryptionContext": []}', "SerializationException"),
    ],
)
def test_requests_that_break_the_model(body: bytes, code: str) -> None:
    with pytest.raises(AwsError) as refused:
        protocols.parse_json("kms", "Encrypt", body)
    assert (refused.value.code, refused.value.status) == (code, 400)


def test_the_plaintext_is_never_repeated() -> None:
    body = json.dumps({"KeyId": "a", "Plaintext": base64.b64encode(b"secret" * 1000).decode()}).encode()
    with pytest.raises(AwsError, match="less than or equal to 4096") as refused:
        protocols.parse_json("kms", "Encrypt", body)
    assert "secret" not in refused.value.message
