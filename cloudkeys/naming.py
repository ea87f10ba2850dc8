"""Names and identifiers that clouds restrict, and the credentials that we make for them."""

from __future__ import annotations

import base64
import re
import secrets
from functools import cache

import botocore.loaders

from vault.errors import ValidationFailed
from vault.secret import Secret

XKS_API_PATH = "/kms/xks/v1"  # XKS Proxy API 1.0.3, "URI path"
MAX_URI = 256
MAX_PATH = 128

_ALIAS = re.compile(r"[a-zA-Z0-9/_-]{1,250}", re.ASCII)
_EXTERNAL_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9_-]+)+", re.ASCII)
_ENDPOINT = re.compile(r"https://[a-zA-Z0-9.-]+", re.ASCII)
_VPC_SERVICE = re.compile(r"com\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+", re.ASCII)
_PRINCIPAL = re.compile(r"arn:(aws|aws-us-gov|aws-cn):iam::(\d{12}):(user|role)/[\w+=,.@/-]{1,576}", re.ASCII)
_ACCESS_KEY_ID = re.compile(r"[A-Z0-9]{16,128}", re.ASCII)
_ROLE_ARN = re.compile(r"arn:(aws|aws-us-gov|aws-cn):iam::\d{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)


def check_name(name: str, *, field: str = "name", limit: int = 100) -> str:
    """Return the trimmed name of something people name. Raises ValidationFailed."""
    name = name.strip()
    if not name:
        raise ValidationFailed(
            "A name is needed.", field=field, cure="Give one that your colleagues will recognise."
        )
    if len(name) > limit or not name.isprintable():
        raise ValidationFailed(
            f"A name has at most {limit} printable characters.", field=field, cure="Shorten it, on one line."
        )
    return name


def check_alias_name(name: str, *, field: str = "name") -> str:
    """A CloudKey's name is its alias in AWS (CreateAlias: [a-zA-Z0-9/_-], not aws/). Raises ValidationFailed."""
    if not _ALIAS.fullmatch(name):
        raise ValidationFailed(
            "The name becomes the alias in AWS KMS, which takes letters, digits, '/', '_' and '-' (250 at most).",
            field=field,
            cure="Take those characters only, for example payments-prod.",
        )
    if name.startswith("aws/"):
        raise ValidationFailed(
            "Aliases that begin with aws/ belong to AWS.",
            field=field,
            cure="Begin the name with something else.",
        )
    return name


def check_external_key_id(
    value: str, path_prefix: str, endpoint: str, *, field: str = "external_key_id"
) -> str:
    """XKS: at most 128 of [A-Za-z0-9._-], the longest URI with it within 256 characters. Raises ValidationFailed."""
    if not _EXTERNAL_KEY_ID.fullmatch(value):
        raise ValidationFailed(
            "An external key id has 1 to 128 letters, digits, '.', '_' and '-'.",
            field=field,
            cure="Leave it out, and one is made.",
        )
    longest = len(endpoint) + len(f"{path_prefix}{XKS_API_PATH}/keys/{value}/metadata")
    if longest > MAX_URI:
        raise ValidationFailed(
            f"With the endpoint and path of this store the URI would have {longest} characters; AWS allows {MAX_URI}.",
            field=field,
            cure=f"Shorten it by {longest - MAX_URI}.",
        )
    return value


def check_path_prefix(value: str, *, field: str = "path_prefix") -> str:
    """'' or '/segment...' so that the prefix and /kms/xks/v1 stay within 128 characters. Raises ValidationFailed."""
    if value and (not _PREFIX.fullmatch(value) or len(value) + len(XKS_API_PATH) > MAX_PATH):
        raise ValidationFailed(
            f"A path prefix is empty, or begins with '/', has letters, digits, '-', '_' and '/', and at most "
            f"{MAX_PATH - len(XKS_API_PATH)} characters.",
            field=field,
            cure="Take, for example, /payments; do not end it with '/'.",
        )
    if value.endswith(XKS_API_PATH):
        raise ValidationFailed(
            "AWS's path ends with /kms/xks/v1; the prefix is what stands before it.",
            field=field,
            cure="Leave /kms/xks/v1 out.",
        )
    return value


def check_endpoint(value: str, *, field: str = "endpoint") -> str:
    """AWS's XksProxyUriEndpoint: ^https://[a-zA-Z0-9.-]+$, 10 to 128 long, so no port. Raises ValidationFailed."""
    if not _ENDPOINT.fullmatch(value) or not 10 <= len(value) <= 128:
        raise ValidationFailed(
            "AWS takes an endpoint of the form https://host.example.com: no port, no path (it always asks port 443).",
            field=field,
            cure="Give the DNS name that AWS reaches this installation by.",
        )
    return value


def check_vpc_service_name(value: str, *, field: str = "vpc_endpoint_service_name") -> str:
    """AWS's XksProxyVpcEndpointServiceName. Raises ValidationFailed."""
    if not _VPC_SERVICE.fullmatch(value) or not 20 <= len(value) <= 64:
        raise ValidationFailed(
            "This is no name of a VPC endpoint service.",
            field=field,
            cure="Copy it from the AWS console; it looks like com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0.",
        )
    return value


def check_access_key_id(value: str, *, field: str = "access_key_id") -> str:
    """IAM: 16 to 128 letters and digits. Raises ValidationFailed."""
    if not _ACCESS_KEY_ID.fullmatch(value):
        raise ValidationFailed(
            "An AWS access key id has 16 to 128 capital letters and digits.",
            field=field,
            cure="Copy it from IAM; it begins with AKIA. Do not paste the secret here.",
        )
    return value


def check_role_arn(value: str, partition: str, *, field: str = "role_arn") -> str:
    """An IAM role's ARN in the account's partition. Raises ValidationFailed."""
    found = _ROLE_ARN.fullmatch(value)
    if not found or found[1] != arn_partition(partition):
        raise ValidationFailed(
            f"This is no ARN of an IAM role in the partition {arn_partition(partition)}.",
            field=field,
            cure=f"It looks like arn:{arn_partition(partition)}:iam::123456789012:role/Name.",
        )
    return value


def check_principals(values: list[str], partition: str, account: str, *, field: str) -> list[str]:
    """IAM user and role ARNs of that account, without repeats. `account` may be empty when not yet known."""
    for index, value in enumerate(values):
        found = _PRINCIPAL.fullmatch(value) if isinstance(value, str) else None
        if not found or found[1] != arn_partition(partition) or (account and found[2] != account):
            raise ValidationFailed(
                f"This is no IAM user or role of account {account or 'the CSP account'}.",
                field=f"{field}[{index}]",
                cure="Pick it from the account's IAM principals.",
            )
    return list(dict.fromkeys(values))


def check_tags(values: dict[str, str], *, field: str = "tags") -> dict[str, str]:
    """KMS tags: at most 50, key 1..128, value 0..256, no aws: prefix. Raises ValidationFailed."""
    if len(values) > 50:
        raise ValidationFailed("A KMS key has at most 50 tags.", field=field, cure="Remove some.")
    for key, value in values.items():
        if not isinstance(value, str) or not 1 <= len(key) <= 128 or len(value) > 256:
            raise ValidationFailed(
                "A tag has a key of 1 to 128 characters and a text of at most 256.",
                field=f"{field}.{key}",
                cure="Shorten it.",
            )
        if key.lower().startswith(("aws:", "keystead:")):
            raise ValidationFailed(
                "Tags that begin with aws: or keystead: are reserved.",
                field=f"{field}.{key}",
                cure="Name it otherwise.",
            )
    return dict(values)


def arn_partition(partition: str) -> str:
    """The partition as ARNs spell it: the simulator imitates `aws`."""
    return "aws" if partition == "simulator" else partition


@cache
def regions_of(partition: str) -> frozenset[str]:
    """Region names of an AWS partition, from botocore's endpoint data."""
    endpoints = botocore.loaders.create_loader().load_data("endpoints")
    for entry in endpoints["partitions"]:
        if entry["partition"] == arn_partition(partition):
            return frozenset(entry["regions"])
    return frozenset()


def check_region(value: str, partition: str, *, field: str = "region") -> str:
    """A region of the partition. Raises ValidationFailed."""
    if value not in regions_of(partition):
        raise ValidationFailed(
            f"{value or 'An empty value'} is no region of the partition {arn_partition(partition)}.",
            field=field,
            cure="Give a region such as " + (sorted(regions_of(partition)) or ["eu-west-1"])[0] + ".",
        )
    return value


def new_xks_access_key_id() -> str:
    """26 characters of A-Z2-7 (XKS Proxy API: 20 to 30 of them): 128 random bits plus two."""
    return base64.b32encode(secrets.token_bytes(20)).decode()[:26]


def new_xks_secret() -> Secret:
    """44 characters of base64 over 256 random bits (XKS Proxy API: 43 to 64 of A-Za-z0-9/+=)."""
    return Secret(base64.b64encode(secrets.token_bytes(32)))


def check_custom_key_store_id(value: str) -> str:
    """Return `value` when it can be the id of an AWS key store, or is empty. Raises ValidationFailed."""
    if value and not re.fullmatch(r"cks-[0-9A-Za-z]{1,60}", value):
        raise ValidationFailed(
            "This is no id of a custom key store.",
            field="custom_key_store_id",
            cure="Copy it from the AWS console, where it begins with cks-.",
        )
    return value
