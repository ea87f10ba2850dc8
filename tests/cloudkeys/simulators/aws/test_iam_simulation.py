"""SimulatePrincipalPolicy answers what would really happen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws.context import ACCOUNTS
from cloudkeys.simulators.aws.server import RunningServer
from tests.cloudkeys.simulators.aws.conftest import make_client

ANN = f"arn:aws:iam::{ACCOUNTS[0]}:user/ann"
KEY = f"arn:aws:kms:eu-west-1:{ACCOUNTS[0]}:key/1"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.fixture
def iam(server: RunningServer) -> Any:
    client = make_client(server, "iam")
    client.create_user(UserName="ann")
    client.put_user_policy(
        UserName="ann",
        PolicyName="kms",
        PolicyDocument=policy(
            {"Effect": "Allow", "Action": "kms:*", "Resource": KEY},
            {"Effect": "Deny", "Action": "kms:ScheduleKeyDeletion", "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "iam:*",
                "Resource": "*",
                "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}},
            },
        ),
    )
    return client


def verdicts(answer: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {
        (one["EvalActionName"], one["EvalResourceName"]): one["EvalDecision"]
        for one in answer["EvaluationResults"]
    }


def test_each_action_and_resource_has_its_answer(iam: Any) -> None:
    answer = iam.simulate_principal_policy(
        PolicySourceArn=ANN,
        ActionNames=["kms:Encrypt", "kms:ScheduleKeyDeletion", "s3:GetObject"],
        ResourceArns=[KEY, KEY + "2"],
    )

    assert verdicts(answer) == {
        ("kms:Encrypt", KEY): "allowed",
        ("kms:Encrypt", KEY + "2"): "implicitDeny",
        ("kms:ScheduleKeyDeletion", KEY): "explicitDeny",
        ("kms:ScheduleKeyDeletion", KEY + "2"): "explicitDeny",
        ("s3:GetObject", KEY): "implicitDeny",
        ("s3:GetObject", KEY + "2"): "implicitDeny",
    }
    assert answer["IsTruncated"] is False
    first = answer["EvaluationResults"][0]
    assert first["MatchedStatements"] == [{"SourcePolicyId": "user_ann_kms", "SourcePolicyType": "user"}]
    assert first["ResourceSpecificResults"][0]["EvalResourceDecision"] == "allowed"


def test_missing_context_is_named_and_given_context_counts(iam: Any) -> None:
    without = iam.simulate_principal_policy(PolicySourceArn=ANN, ActionNames=["iam:ListUsers"])
    given = iam.simulate_principal_policy(
        PolicySourceArn=ANN,
        ActionNames=["iam:ListUsers"],
        ContextEntries=[
            {
                "ContextKeyName": "aws:RequestedRegion",
                "ContextKeyValues": ["eu-west-1"],
                "ContextKeyType": "string",
            }
        ],
    )

    assert without["EvaluationResults"][0]["EvalDecision"] == "implicitDeny"
    assert without["EvaluationResults"][0]["MissingContextValues"] == ["aws:requestedregion"]
    assert given["EvaluationResults"][0]["EvalDecision"] == "allowed"
    assert given["EvaluationResults"][0]["MissingContextValues"] == []


def test_further_policies_and_a_resource_policy_count(iam: Any) -> None:
    more = iam.simulate_principal_policy(
        PolicySourceArn=ANN,
        ActionNames=["s3:GetObject"],
        PolicyInputList=[policy({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})],
    )
    key_policy = policy({"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*"})
    denied = iam.simulate_principal_policy(
        PolicySourceArn=ANN, ActionNames=["kms:Encrypt"], ResourceArns=[KEY], ResourcePolicy=key_policy
    )

    assert verdicts(more) == {("s3:GetObject", "*"): "allowed"}
    assert verdicts(denied) == {("kms:Encrypt", KEY): "explicitDeny"}


def test_long_answers_come_in_pages(iam: Any) -> None:
    actions = [f"kms:Action{number}" for number in range(7)]
    pages = list(
        iam.get_paginator("simulate_principal_policy").paginate(
            PolicySourceArn=ANN, ActionNames=actions, PaginationConfig={"PageSize": 3}
        )
    )

    assert [len(page["EvaluationResults"]) for page in pages] == [3, 3, 1]
    assert [one["EvalActionName"] for page in pages for one in page["EvaluationResults"]] == actions


def test_it_tells_what_the_simulator_then_does(server: RunningServer, iam: Any) -> None:
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    hers = make_client(server, "iam", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))
    region = [
        {
            "ContextKeyName": "aws:RequestedRegion",
            "ContextKeyValues": ["eu-west-1"],
            "ContextKeyType": "string",
        }
    ]

    foretold = iam.simulate_principal_policy(
        PolicySourceArn=ANN, ActionNames=["iam:ListUsers"], ContextEntries=region
    )

    assert verdicts(foretold) == {("iam:ListUsers", "*"): "allowed"}
    assert hers.list_users()["Users"]
    elsewhere = make_client(
        server, "iam", region="us-east-1", credentials=(key["AccessKeyId"], key["SecretAccessKey"])
    )
    with pytest.raises(ClientError, match="iam:ListUsers"):
        elsewhere.list_users()


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"PolicySourceArn": ANN + "a", "ActionNames": ["kms:Encrypt"]}, "NoSuchEntity"),
        ({"PolicySourceArn": ANN, "ActionNames": ["Encrypt"]}, "InvalidInput"),
        ({"PolicySourceArn": ANN, "ActionNames": ["kms:*"]}, "InvalidInput"),
        ({"PolicySourceArn": ANN, "ActionNames": ["kms:Encrypt"], "PolicyInputList": ["{"]}, "InvalidInput"),
        ({"PolicySourceArn": ANN, "ActionNames": ["kms:Encrypt"], "CallerArn": ANN}, "NotImplemented"),
    ],
)
def test_a_wrong_question_is_refused(iam: Any, params: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as error:
        iam.simulate_principal_policy(**params)

    assert error.value.response["Error"]["Code"] == code
