"""AWS KMS: the operations that the simulator has, and the answer for those that it has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudkeys.simulators.aws import (
    kms_aliases,
    kms_crypto,
    kms_grants,
    kms_keys,
    kms_policies,
    kms_stores,
    kms_tags,
)
from cloudkeys.simulators.aws.context import ApiRequest, Simulator
from cloudkeys.simulators.aws.kms_access import unsupported

OPERATIONS: dict[str, Callable[[Simulator, ApiRequest], dict[str, Any]]] = {
    "CancelKeyDeletion": kms_keys.cancel_key_deletion,
    "ConnectCustomKeyStore": kms_stores.connect_custom_key_store,
    "CreateAlias": kms_aliases.create_alias,
    "CreateCustomKeyStore": kms_stores.create_custom_key_store,
    "CreateGrant": kms_grants.create_grant,
    "CreateKey": kms_keys.create_key,
    "Decrypt": kms_crypto.decrypt_operation,
    "DeleteAlias": kms_aliases.delete_alias,
    "DeleteCustomKeyStore": kms_stores.delete_custom_key_store,
    "DescribeCustomKeyStores": kms_stores.describe_custom_key_stores,
    "DescribeKey": kms_keys.describe_key,
    "DisableKey": kms_keys.disable_key,
    "DisconnectCustomKeyStore": kms_stores.disconnect_custom_key_store,
    "EnableKey": kms_keys.enable_key,
    "Encrypt": kms_crypto.encrypt_operation,
    "GenerateDataKey": kms_crypto.generate_data_key_operation,
    "GenerateDataKeyWithoutPlaintext": kms_crypto.generate_data_key_operation,
    "GenerateRandom": kms_crypto.generate_random,
    "GetKeyPolicy": kms_policies.get_key_policy,
    "ListAliases": kms_aliases.list_aliases,
    "ListGrants": kms_grants.list_grants,
    "ListKeyPolicies": kms_policies.list_key_policies,
    "ListKeys": kms_keys.list_keys,
    "ListResourceTags": kms_tags.list_resource_tags,
    "ListRetirableGrants": kms_grants.list_retirable_grants,
    "PutKeyPolicy": kms_policies.put_key_policy,
    "ReEncrypt": kms_crypto.re_encrypt,
    "RetireGrant": kms_grants.retire_grant,
    "RevokeGrant": kms_grants.revoke_grant,
    "ScheduleKeyDeletion": kms_keys.schedule_key_deletion,
    "TagResource": kms_tags.tag_resource,
    "UntagResource": kms_tags.untag_resource,
    "UpdateAlias": kms_aliases.update_alias,
    "UpdateCustomKeyStore": kms_stores.update_custom_key_store,
    "UpdateKeyDescription": kms_keys.update_key_description,
}


def handle(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """Answer one KMS request. Raises AwsError, UnsupportedOperationException for an operation that is not there."""
    operation = OPERATIONS.get(request.operation)
    if operation is None:
        raise unsupported(f"The simulator does not have kms:{request.operation}.")
    # Waiting periods end by the clock, not by a timer: nobody can see a key that should be gone.
    kms_keys.destroy_due_keys(sim)
    return operation(sim, request)
