"""AWS: KMS custom key stores and keys, IAM principals and access keys, STS.

The SDK's surface that is used, and nothing else: KMS {Create,Describe,Update,Connect,Disconnect,Delete}CustomKeyStore(s),
CreateKey, DescribeKey, ListKeys, CreateAlias, DeleteAlias, ListAliases, ListResourceTags, TagResource, UntagResource,
UpdateKeyDescription, PutKeyPolicy, EnableKey, DisableKey, ScheduleKeyDeletion, CancelKeyDeletion; IAM ListUsers,
ListRoles, {List,Create,Update,Delete}AccessKey(s), GetAccessKeyLastUsed, SimulatePrincipalPolicy; STS GetCallerIdentity,
AssumeRole. Their permissions stand in aws_policy.NEEDS; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from cloudkeys.providers import aws_access, aws_policy
from cloudkeys.providers.aws_connection import Connection, connection_for
from cloudkeys.providers.aws_errors import translated
from cloudkeys.providers.base import (
    AccessKey,
    AccountReport,
    Credentials,
    ErrorCode,
    Identity,
    KeySpec,
    KeyStore,
    KeyStoreChanges,
    KeyStoreSpec,
    NewAccessKey,
    PointerKey,
    Principal,
    ProviderError,
)
from vault.secret import Secret

# Roles of AWS services themselves; nobody gives them a key by hand.
SERVICE_ROLE_PATH = "/aws-service-role/"


class AwsProvider:
    """One AWS account, as one credential sees it. Cheap to make: connections are shared by credential."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._connection: Connection = connection_for(credentials)

    def _call(self, service: str, operation: str, region: str = "", **request: Any) -> dict[str, Any]:
        """One request. Raises ProviderError. The session of an assumed role that has ended is renewed once."""
        for last in (False, True):
            client = self._connection.client(service, region)
            method: Callable[..., dict[str, Any]] = getattr(client, operation)
            try:
                with translated(self._connection.where):
                    return method(**request)
            except ProviderError as error:
                if last or not error.provider_code.startswith("ExpiredToken"):
                    raise
                self._connection.forget_session()
        raise AssertionError("unreachable")

    # --- identity and access --------------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """GetCallerIdentity, asked anew."""
        return self._connection.identity(fresh=True)

    def probe_access(self) -> AccountReport:
        """Identity, and every action of aws_policy.NEEDS."""
        return aws_access.probe_access(self._connection, self._credentials.role_arn)

    def least_privilege_policy(self) -> dict[str, Any]:
        """The IAM policy, for any account number when that is not known yet."""
        return aws_policy.least_privilege_policy(
            self._connection.partition, acting_arn=self._credentials.role_arn
        )

    def list_principals(self) -> list[Principal]:
        """ListUsers and ListRoles, every page, without the roles of AWS services."""
        found = [
            Principal("user", user["UserName"], user["Arn"])
            for user in self._pages("iam", "list_users", "Users", "Marker", "Marker")
        ]
        found += [
            Principal("role", role["RoleName"], role["Arn"])
            for role in self._pages("iam", "list_roles", "Roles", "Marker", "Marker")
            if not role["Path"].startswith(SERVICE_ROLE_PATH)
        ]
        return sorted(found, key=lambda each: (each.kind != "user", each.name.lower()))

    def _pages(
        self,
        service: str,
        operation: str,
        member: str,
        asked: str,
        answered: str,
        region: str = "",
        **request: Any,
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call(service, operation, region, **request)
            found += page.get(member, [])
            token = page.get(answered)
            if not token or not (page.get("IsTruncated") or page.get("Truncated")):
                return found
            request[asked] = token

    def list_access_keys(self) -> list[AccessKey]:
        """ListAccessKeys of the user that signs."""
        return [
            AccessKey(key["AccessKeyId"], key["Status"] == "Active", key.get("CreateDate"))
            for key in self._pages("iam", "list_access_keys", "AccessKeyMetadata", "Marker", "Marker")
        ]

    def access_key_was_used(self, access_key_id: str) -> bool:
        """GetAccessKeyLastUsed; AWS keeps no date for a key that was never used."""
        said = self._call("iam", "get_access_key_last_used", AccessKeyId=access_key_id)
        return said.get("AccessKeyLastUsed", {}).get("LastUsedDate") is not None

    def create_access_key(self) -> NewAccessKey:
        """CreateAccessKey for the user that signs."""
        made = self._call("iam", "create_access_key")["AccessKey"]
        return NewAccessKey(made["AccessKeyId"], Secret(made["SecretAccessKey"]))

    def set_access_key_active(self, access_key_id: str, active: bool) -> None:
        """UpdateAccessKey."""
        self._call(
            "iam", "update_access_key", AccessKeyId=access_key_id, Status="Active" if active else "Inactive"
        )

    def delete_access_key(self, access_key_id: str) -> None:
        """DeleteAccessKey."""
        self._unless_gone(lambda: self._call("iam", "delete_access_key", AccessKeyId=access_key_id))

    @staticmethod
    def _unless_gone(call: Callable[[], object]) -> None:
        try:
            call()
        except ProviderError as error:
            if error.code != ErrorCode.NOT_FOUND:
                raise

    # --- key stores -----------------------------------------------------------------------------------------------

    def find_key_store(self, region: str, *, id: str = "", name: str = "") -> KeyStore | None:
        """DescribeCustomKeyStores by id or by name."""
        asked = {"CustomKeyStoreId": id} if id else {"CustomKeyStoreName": name}
        try:
            found = self._call("kms", "describe_custom_key_stores", region, **asked).get(
                "CustomKeyStores", []
            )
        except ProviderError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise
        return _key_store(found[0]) if found else None

    def create_key_store(self, region: str, spec: KeyStoreSpec) -> str:
        """CreateCustomKeyStore of type EXTERNAL_KEY_STORE."""
        request: dict[str, Any] = {
            "CustomKeyStoreName": spec.name,
            "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
            "XksProxyUriEndpoint": spec.endpoint,
            "XksProxyUriPath": spec.uri_path,
            "XksProxyConnectivity": spec.connectivity,
            "XksProxyAuthenticationCredential": _credential(spec.proxy_access_key_id, spec.proxy_secret),
        }
        if spec.vpc_endpoint_service_name:
            request["XksProxyVpcEndpointServiceName"] = spec.vpc_endpoint_service_name
        made: str = self._call("kms", "create_custom_key_store", region, **request)["CustomKeyStoreId"]
        return made

    def update_key_store(self, region: str, id: str, changes: KeyStoreChanges) -> None:
        """UpdateCustomKeyStore with what is given."""
        named = {
            "NewCustomKeyStoreName": changes.name,
            "XksProxyUriEndpoint": changes.endpoint,
            "XksProxyUriPath": changes.uri_path,
            "XksProxyConnectivity": changes.connectivity,
            "XksProxyVpcEndpointServiceName": changes.vpc_endpoint_service_name,
        }
        request: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if changes.proxy_access_key_id is not None and changes.proxy_secret is not None:
            request["XksProxyAuthenticationCredential"] = _credential(
                changes.proxy_access_key_id, changes.proxy_secret
            )
        self._call("kms", "update_custom_key_store", region, CustomKeyStoreId=id, **request)

    def connect_key_store(self, region: str, id: str) -> None:
        """ConnectCustomKeyStore; asynchronous at AWS."""
        self._call("kms", "connect_custom_key_store", region, CustomKeyStoreId=id)

    def disconnect_key_store(self, region: str, id: str) -> None:
        """DisconnectCustomKeyStore; asynchronous at AWS."""
        self._call("kms", "disconnect_custom_key_store", region, CustomKeyStoreId=id)

    def delete_key_store(self, region: str, id: str) -> None:
        """DeleteCustomKeyStore."""
        self._unless_gone(lambda: self._call("kms", "delete_custom_key_store", region, CustomKeyStoreId=id))

    # --- keys -----------------------------------------------------------------------------------------------------

    def create_key(self, region: str, spec: KeySpec) -> PointerKey:
        """CreateKey of origin EXTERNAL_KEY_STORE."""
        request: dict[str, Any] = {
            "Origin": "EXTERNAL_KEY_STORE",
            "CustomKeyStoreId": spec.key_store_id,
            "XksKeyId": spec.external_key_id,
            "Description": spec.description,
            "Policy": self._policy(spec.administrators, spec.users),
        }
        if spec.tags:
            request["Tags"] = _tags(spec.tags)
        return _pointer(self._call("kms", "create_key", region, **request)["KeyMetadata"])

    def _policy(self, administrators: Sequence[str], users: Sequence[str]) -> str:
        account_id = self._connection.identity().account_id
        return json.dumps(
            aws_policy.key_policy(self._connection.partition, account_id, administrators, users)
        )

    def find_key(self, region: str, id: str) -> PointerKey | None:
        """DescribeKey; it takes an id, an ARN or `alias/...`."""
        try:
            return _pointer(self._call("kms", "describe_key", region, KeyId=id)["KeyMetadata"])
        except ProviderError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise

    def find_key_by_external_id(
        self, region: str, key_store_id: str, external_key_id: str
    ) -> PointerKey | None:
        """ListKeys and DescribeKey of each: KMS has no search by external key. Keys that are not shown are passed over."""
        for entry in self._pages("kms", "list_keys", "Keys", "Marker", "NextMarker", region, Limit=1000):
            try:
                key = self.find_key(region, entry["KeyId"])
            except ProviderError as error:
                if error.code != ErrorCode.ACCESS_DENIED:
                    raise
                continue
            if key and key.key_store_id == key_store_id and key.external_key_id == external_key_id:
                return key
        return None

    def key_aliases(self, region: str, id: str) -> list[str]:
        """ListAliases of one key."""
        pages = self._pages("kms", "list_aliases", "Aliases", "Marker", "NextMarker", region, KeyId=id)
        return sorted(entry["AliasName"] for entry in pages)

    def key_tags(self, region: str, id: str) -> dict[str, str]:
        """ListResourceTags."""
        pages = self._pages("kms", "list_resource_tags", "Tags", "Marker", "NextMarker", region, KeyId=id)
        return {tag["TagKey"]: tag["TagValue"] for tag in pages}

    def create_alias(self, region: str, alias: str, id: str) -> None:
        """CreateAlias."""
        self._call("kms", "create_alias", region, AliasName=alias, TargetKeyId=id)

    def delete_alias(self, region: str, alias: str) -> None:
        """DeleteAlias."""
        self._unless_gone(lambda: self._call("kms", "delete_alias", region, AliasName=alias))

    def set_description(self, region: str, id: str, description: str) -> None:
        """UpdateKeyDescription."""
        self._call("kms", "update_key_description", region, KeyId=id, Description=description)

    def set_policy(self, region: str, id: str, administrators: Sequence[str], users: Sequence[str]) -> None:
        """PutKeyPolicy; AWS's lockout check stays on."""
        self._call(
            "kms",
            "put_key_policy",
            region,
            KeyId=id,
            PolicyName="default",
            Policy=self._policy(administrators, users),
        )

    def set_tags(self, region: str, id: str, tags: dict[str, str]) -> None:
        """TagResource and UntagResource, only where something differs."""
        present = self.key_tags(region, id)
        superfluous = [name for name in present if name not in tags and not name.startswith("aws:")]
        changed = {name: value for name, value in tags.items() if present.get(name) != value}
        # Removed first, so that a full set of 50 can be replaced.
        if superfluous:
            self._call("kms", "untag_resource", region, KeyId=id, TagKeys=superfluous)
        if changed:
            self._call("kms", "tag_resource", region, KeyId=id, Tags=_tags(changed))

    def enable_key(self, region: str, id: str) -> None:
        """EnableKey."""
        self._call("kms", "enable_key", region, KeyId=id)

    def disable_key(self, region: str, id: str) -> None:
        """DisableKey."""
        self._call("kms", "disable_key", region, KeyId=id)

    def schedule_key_deletion(self, region: str, id: str, days: int) -> datetime | None:
        """ScheduleKeyDeletion; one that is scheduled already stays as it is."""
        try:
            said = self._call("kms", "schedule_key_deletion", region, KeyId=id, PendingWindowInDays=days)
        except ProviderError as error:
            if error.code != ErrorCode.WRONG_STATE:
                raise
            key = self.find_key(region, id)
            if key is None or key.state != "PendingDeletion":
                raise
            return None
        return _utc(said.get("DeletionDate"))

    def cancel_key_deletion(self, region: str, id: str) -> None:
        """CancelKeyDeletion."""
        try:
            self._call("kms", "cancel_key_deletion", region, KeyId=id)
        except ProviderError as error:
            if error.code != ErrorCode.WRONG_STATE:
                raise
            key = self.find_key(region, id)
            if key is None or key.state == "PendingDeletion":
                raise


def _credential(access_key_id: str, secret: Secret) -> dict[str, str]:
    return {"AccessKeyId": access_key_id, "RawSecretAccessKey": secret.reveal_text()}


def _tags(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"TagKey": name, "TagValue": value} for name, value in sorted(tags.items())]


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment is not None else None


def _key_store(entry: dict[str, Any]) -> KeyStore:
    proxy = entry.get("XksProxyConfiguration", {})
    return KeyStore(
        id=entry["CustomKeyStoreId"],
        name=entry["CustomKeyStoreName"],
        type=entry.get("CustomKeyStoreType", "AWS_CLOUDHSM"),
        state=entry["ConnectionState"],
        error_code=entry.get("ConnectionErrorCode", ""),
        endpoint=proxy.get("UriEndpoint", ""),
        uri_path=proxy.get("UriPath", ""),
        connectivity=proxy.get("Connectivity", ""),
        vpc_endpoint_service_name=proxy.get("VpcEndpointServiceName", ""),
        proxy_access_key_id=proxy.get("AccessKeyId", ""),
        created_at=_utc(entry.get("CreationDate")),
    )


def _pointer(metadata: dict[str, Any]) -> PointerKey:
    return PointerKey(
        id=metadata["KeyId"],
        arn=metadata["Arn"],
        state=metadata["KeyState"],
        origin=metadata.get("Origin", ""),
        description=metadata.get("Description", ""),
        key_store_id=metadata.get("CustomKeyStoreId", ""),
        external_key_id=metadata.get("XksKeyConfiguration", {}).get("Id", ""),
        deletion_at=_utc(metadata.get("DeletionDate")),
    )
