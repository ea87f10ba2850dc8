"""Policy documents: who may use a KMS key, and what Keystead itself needs.

Sources: AWS KMS developer guide, "Default key policy" and "Permissions for AWS services in key policies"; Service
Authorization Reference for AWS KMS and IAM (which actions take which resources).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VERSION = "2012-10-17"

ADMINISTRATOR_ACTIONS = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:GetKeyPolicy",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)
USER_ACTIONS = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey*",
    "kms:ReEncrypt*",
)
GRANT_ACTIONS = ("kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant")


def key_policy(
    partition: str, account_id: str, administrators: Sequence[str], users: Sequence[str]
) -> dict[str, Any]:
    """A KMS key policy for these principals (ARNs). The account's root is always in it, so nobody is ever locked out.

    Users may use the key, and let AWS services that act for them have grants, but no other grants.
    """
    statements: list[dict[str, Any]] = [
        {
            "Sid": "EnableIAMPolicies",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:{partition}:iam::{account_id}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ]
    if administrators:
        statements.append(
            {
                "Sid": "KeyAdministrators",
                "Effect": "Allow",
                "Principal": {"AWS": sorted(administrators)},
                "Action": list(ADMINISTRATOR_ACTIONS),
                "Resource": "*",
            }
        )
    if users:
        statements.append(
            {
                "Sid": "KeyUsers",
                "Effect": "Allow",
                "Principal": {"AWS": sorted(users)},
                "Action": list(USER_ACTIONS),
                "Resource": "*",
            }
        )
        statements.append(
            {
                "Sid": "GrantsForAwsServices",
                "Effect": "Allow",
                "Principal": {"AWS": sorted(users)},
                "Action": list(GRANT_ACTIONS),
                "Resource": "*",
                "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}},
            }
        )
    return {"Version": VERSION, "Id": "keystead", "Statement": statements}


@dataclass(frozen=True)
class Need:
    """Actions that one feature needs, on which resources (with {partition}, {account} and {user}), and for whom.

    whose: `acting` is the identity that Keystead acts as (the assumed role where there is one), `user` the IAM user
    whose access key it has.
    """

    feature: str
    sid: str
    actions: tuple[str, ...]
    resources: tuple[str, ...] = ("*",)
    whose: str = "acting"


_KEY = "arn:{partition}:kms:*:{account}:key/*"
_ALIAS = "arn:{partition}:kms:*:{account}:alias/*"

NEEDS: tuple[Need, ...] = (
    Need(
        "Linked external key stores",
        "KeyStores",
        (
            "kms:CreateCustomKeyStore",
            "kms:DescribeCustomKeyStores",
            "kms:UpdateCustomKeyStore",
            "kms:ConnectCustomKeyStore",
            "kms:DisconnectCustomKeyStore",
            "kms:DeleteCustomKeyStore",
        ),
    ),
    Need(
        "Creating and finding KMS keys",
        "CreateAndFindKeys",
        # A key that is made with tags has no ARN yet when KMS asks whether it may be tagged.
        ("kms:CreateKey", "kms:TagResource", "kms:ListKeys", "kms:ListAliases"),
    ),
    Need(
        "CloudKeys in AWS KMS",
        "Keys",
        (
            "kms:DescribeKey",
            "kms:EnableKey",
            "kms:DisableKey",
            "kms:ScheduleKeyDeletion",
            "kms:CancelKeyDeletion",
            "kms:UpdateKeyDescription",
            "kms:PutKeyPolicy",
            "kms:UntagResource",
            "kms:ListResourceTags",
        ),
        (_KEY,),
    ),
    Need(
        "Aliases equal to CloudKey names", "Aliases", ("kms:CreateAlias", "kms:DeleteAlias"), (_KEY, _ALIAS)
    ),
    Need("Picking administrators and users of keys", "Principals", ("iam:ListUsers", "iam:ListRoles")),
    Need(
        "Rotating this account's access key",
        "OwnAccessKeys",
        (
            "iam:ListAccessKeys",
            "iam:CreateAccessKey",
            "iam:UpdateAccessKey",
            "iam:DeleteAccessKey",
        ),
        ("{user}",),
        whose="user",
    ),
    Need(
        "Rotating this account's access key",
        "OwnAccessKeyUse",
        ("iam:GetAccessKeyLastUsed",),
        # AWS authorises it against the user; where the key is another's, against "*".
        ("{user}",),
        whose="user",
    ),
    Need("The connection test", "ConnectionTest", ("iam:SimulatePrincipalPolicy",), ("{acting}",)),
)


def trust_policy(user_arn: str, external_id: str) -> dict[str, Any]:
    """The trust policy of a role that Keystead's IAM user assumes, for whoever gives that external id only."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"AWS": user_arn},
        "Action": "sts:AssumeRole",
    }
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return {"Version": VERSION, "Statement": [statement]}


def least_privilege_policy(
    partition: str, account_id: str = "*", user_arn: str = "", acting_arn: str = ""
) -> dict[str, Any]:
    """The IAM policy with exactly what Keystead uses. Without a known user, its own access keys only (aws:username).

    For an account with a role to assume, `acting_arn` is the role; the statement of the access keys and the right to
    assume the role (added then) belong to the user.
    """
    own = f"arn:{partition}:iam::{account_id}:user/${{aws:username}}"
    names = {
        "partition": partition,
        "account": account_id,
        "user": user_arn or own,
        "acting": acting_arn or user_arn or own,
    }
    statements = [
        {
            "Sid": need.sid,
            "Effect": "Allow",
            "Action": list(need.actions),
            "Resource": [resource.format(**names) for resource in need.resources],
        }
        for need in NEEDS
    ]
    if acting_arn and acting_arn != user_arn:
        statements.append(
            {"Sid": "AssumeRole", "Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": [acting_arn]}
        )
    return {"Version": VERSION, "Statement": statements}
