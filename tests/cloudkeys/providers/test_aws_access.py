"""What a credential may do, and the least policy for what Keystead does."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from cloudkeys.providers import aws as aws_module
from cloudkeys.providers import aws_policy
from cloudkeys.providers.aws import AwsProvider
from cloudkeys.providers.base import Credentials, ErrorCode, ProviderError
from tests.cloudkeys.cloud import ACCOUNT, REGION, Aws
from tests.cloudkeys.providers.conftest import NewUser
from vault.secret import Secret

DENY_ALIASES = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "*", "Resource": "*"},
            {"Effect": "Deny", "Action": "kms:CreateAlias", "Resource": "*"},
        ],
    }
)
ONLY_LOOK = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["kms:List*", "iam:ListUsers"], "Resource": "*"}],
    }
)


def results(provider: AwsProvider) -> dict[str, str]:
    return {check.action: check.result for check in provider.probe_access().checks}


def test_a_denied_action_is_named_with_the_feature_that_needs_it(new_user: NewUser) -> None:
    report = AwsProvider(new_user(policy=DENY_ALIASES)).probe_access()
    assert not report.ok
    assert [(check.action, check.feature) for check in report.denied] == [
        ("kms:CreateAlias", "Aliases equal to CloudKey names")
    ]


def test_without_the_simulation_only_reading_calls_are_tried(new_user: NewUser, aws: Aws) -> None:
    found = results(AwsProvider(new_user(policy=ONLY_LOOK)))
    assert found["iam:SimulatePrincipalPolicy"] == "denied"
    assert found["kms:ListKeys"] == "allowed"
    assert found["kms:DescribeCustomKeyStores"] == "denied"
    assert found["iam:ListUsers"] == "allowed"
    assert found["iam:ListRoles"] == "denied"
    assert found["kms:CreateKey"] == "unknown"
    assert aws.kms_keys() == []


def test_the_least_policy_is_enough_for_the_test_and_every_action(new_user: NewUser) -> None:
    policy = aws_policy.least_privilege_policy("aws", ACCOUNT)
    assert set(results(AwsProvider(new_user(policy=json.dumps(policy)))).values()) == {"allowed"}


def test_the_least_policy_is_the_least(new_user: NewUser) -> None:
    """Nothing beyond the table, and each row of the table is missed when it is gone."""
    policy = aws_policy.least_privilege_policy("aws", ACCOUNT)
    statements = policy["Statement"]
    assert not any("*" in action for statement in statements for action in statement["Action"])
    for index, statement in enumerate(statements):
        if statement["Sid"] == "ConnectionTest":
            continue
        smaller = {**policy, "Statement": statements[:index] + statements[index + 1 :]}
        found = results(AwsProvider(new_user(f"user-{index}", json.dumps(smaller))))
        missed = {action for action, result in found.items() if result == "denied"}
        assert missed == set(statement["Action"]), statement["Sid"]


def test_needs_are_exactly_the_sdk_calls_that_the_adapter_makes() -> None:
    """From the source: every operation name that is passed to the SDK, and GetCallerIdentity, which needs no right."""
    source = Path(aws_module.__file__).read_text()
    names = {
        node.args[index].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("_call", "_pages")
        for index in [1]
        if isinstance(node.args[index], ast.Constant)
    }
    called = {"".join(part.capitalize() for part in name.split("_")) for name in names}
    needed = {action.split(":")[1] for need in aws_policy.NEEDS for action in need.actions}
    assert called | {"SimulatePrincipalPolicy"} == needed


def test_a_role_is_assumed_with_its_external_id(new_user: NewUser, aws: Aws) -> None:
    credentials = new_user()
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/keystead"},
                "Condition": {"StringEquals": {"sts:ExternalId": "keystead-1"}},
            }
        ],
    }
    iam = aws.client("iam")
    arn = iam.create_role(RoleName="keystead", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    least = aws_policy.least_privilege_policy("aws", ACCOUNT, credentials_arn(aws), arn)
    iam.put_role_policy(RoleName="keystead", PolicyName="p", PolicyDocument=json.dumps(least))

    def assuming(external_id: str) -> AwsProvider:
        return AwsProvider(
            Credentials(
                "simulator",
                credentials.access_key_id,
                credentials.secret_access_key,
                REGION,
                role_arn=arn,
                external_id=external_id,
            )
        )

    provider = assuming("keystead-1")
    assert provider.identity().arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/keystead/keystead"
    assert set(results(provider).values()) == {"allowed"}
    with pytest.raises(ProviderError) as caught:
        assuming("wrong").identity()
    assert (caught.value.code, caught.value.permanent) == (ErrorCode.ACCESS_DENIED, True)


def credentials_arn(aws: Aws) -> str:
    return str(aws.client("iam").get_user(UserName="keystead")["User"]["Arn"])


def test_service_roles_are_no_principals_and_pages_are_followed(provider: AwsProvider, aws: Aws) -> None:
    iam = aws.client("iam")
    for number in range(120):
        iam.create_user(UserName=f"user-{number:03}")
    trust = '{"Version": "2012-10-17", "Statement": []}'
    trust = trust.replace(
        "[]", '[{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}]'
    )
    iam.create_role(RoleName="app", AssumeRolePolicyDocument=trust)
    iam.create_role(RoleName="aws", Path="/aws-service-role/s3/", AssumeRolePolicyDocument=trust)
    found = provider.list_principals()
    assert len([each for each in found if re.fullmatch(r"user-\d+", each.name)]) == 120
    assert [each.name for each in found if each.kind == "role"] == ["app"]


# --- key policies -------------------------------------------------------------------------------------------------

ADA = f"arn:aws:iam::{ACCOUNT}:user/ada"


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_root_stands_in_every_key_policy(partition: str) -> None:
    policy = aws_policy.key_policy(partition, ACCOUNT, [], [])
    assert policy["Statement"] == [
        {
            "Sid": "EnableIAMPolicies",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:{partition}:iam::{ACCOUNT}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ]


def test_users_may_use_and_grant_to_aws_services_only() -> None:
    policy = aws_policy.key_policy("aws", ACCOUNT, [], [ADA])
    _, use, grants = policy["Statement"]
    assert use["Principal"] == {"AWS": [ADA]}
    assert not any(action.startswith(("kms:Put", "kms:Schedule", "kms:*")) for action in use["Action"])
    assert grants["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def test_administrators_may_not_use() -> None:
    policy = aws_policy.key_policy("aws", ACCOUNT, [ADA], [])
    actions = policy["Statement"][1]["Action"]
    assert not {"kms:Encrypt", "kms:Decrypt", "kms:CreateGrant", "kms:*"} & set(actions)


def test_the_same_principals_give_the_same_policy() -> None:
    other = f"arn:aws:iam::{ACCOUNT}:user/bob"
    assert aws_policy.key_policy("aws", ACCOUNT, [ADA, other], []) == aws_policy.key_policy(
        "aws", ACCOUNT, [other, ADA], []
    )


def test_a_secret_is_in_no_text_of_a_credential() -> None:
    credentials = Credentials("aws", "AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI"), REGION)
    assert "wJalr" not in repr(credentials)
