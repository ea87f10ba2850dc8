"""STS through boto3: identities, roles assumed under trust policies and external ids, sessions that end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws.context import ACCOUNTS, Settings
from cloudkeys.simulators.aws.server import RunningServer, running
from cloudkeys.simulators.aws.sts import OPERATIONS
from tests.cloudkeys.simulators.aws.conftest import make_client
from tests.cloudkeys.simulators.aws.model_check import Watch

ACCOUNT, OTHER = ACCOUNTS
ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/app"
LIST_USERS = json.dumps(
    {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iam:ListUsers", "Resource": "*"}}
)


def trust(principal: str, **condition: Any) -> str:
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": "sts:AssumeRole",
    }
    if condition:
        statement["Condition"] = condition
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def make_role(server: RunningServer, document: str, **more: Any) -> None:
    iam = make_client(server, "iam")
    iam.create_role(RoleName="app", Path="/team/", AssumeRolePolicyDocument=document, **more)
    iam.put_role_policy(RoleName="app", PolicyName="p", PolicyDocument=LIST_USERS)


def session_client(server: RunningServer, service: str, credentials: dict[str, Any]) -> Any:
    parts = (credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"])
    return make_client(server, service, credentials=parts)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture
def sts(server: RunningServer) -> Iterator[Any]:
    client = make_client(server, "sts")
    watch = Watch(client)
    yield client
    assert watch.problems == []


def test_the_identity_of_the_caller(server: RunningServer, sts: Any) -> None:
    answer = sts.get_caller_identity()

    assert answer["Account"] == ACCOUNT
    assert answer["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/Administrator"
    assert answer["UserId"].startswith("AIDA")
    assert make_client(server, "sts", account=OTHER).get_caller_identity()["Account"] == OTHER


def test_a_role_is_assumed_and_its_session_has_the_roles_permissions(server: RunningServer, sts: Any) -> None:
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))

    answer = sts.assume_role(RoleArn=ROLE, RoleSessionName="s-1", DurationSeconds=900)

    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s-1"
    assert answer["Credentials"]["AccessKeyId"].startswith("ASIA")
    mine = session_client(server, "sts", answer["Credentials"]).get_caller_identity()
    assert mine["Arn"] == answer["AssumedRoleUser"]["Arn"]
    assert mine["UserId"] == answer["AssumedRoleUser"]["AssumedRoleId"]
    iam = session_client(server, "iam", answer["Credentials"])
    assert iam.list_users()["Users"]
    with pytest.raises(ClientError, match="assumed-role/app/s-1 is not authorized to perform: iam:ListRoles"):
        iam.list_roles()


def test_the_external_id_must_be_right(server: RunningServer) -> None:
    make_role(server, trust(OTHER, StringEquals={"sts:ExternalId": "the-secret-word"}))
    theirs = make_client(server, "sts", account=OTHER)

    for wrong in ({}, {"ExternalId": "guess"}):
        with pytest.raises(
            ClientError, match=f"not authorized to perform: sts:AssumeRole on resource: {ROLE}"
        ) as e:
            theirs.assume_role(RoleArn=ROLE, RoleSessionName="s1", **wrong)
        assert code_of(e) == ("AccessDenied", 403)

    assert theirs.assume_role(RoleArn=ROLE, RoleSessionName="s1", ExternalId="the-secret-word")["Credentials"]


def test_a_missing_role_is_told_like_one_that_does_not_trust(server: RunningServer, sts: Any) -> None:
    make_role(server, trust(f"arn:aws:iam::{OTHER}:root"))

    with pytest.raises(ClientError) as untrusted:
        sts.assume_role(RoleArn=ROLE, RoleSessionName="s1")
    with pytest.raises(ClientError) as missing:
        sts.assume_role(RoleArn=ROLE + "x", RoleSessionName="s1")
    with pytest.raises(ClientError) as wrong_path:
        sts.assume_role(RoleArn=ROLE.replace("team/", ""), RoleSessionName="s1")

    messages = {
        error.value.response["Error"]["Message"].replace("appx", "app") for error in (untrusted, missing)
    }
    assert len(messages) == 1
    assert code_of(wrong_path) == ("AccessDenied", 403)


def test_across_accounts_the_callers_own_policies_must_allow(server: RunningServer) -> None:
    make_role(server, trust(OTHER))
    iam = make_client(server, "iam", account=OTHER)
    iam.create_user(UserName="bob")
    key = iam.create_access_key(UserName="bob")["AccessKey"]
    bob = make_client(server, "sts", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))
    with pytest.raises(ClientError) as error:
        bob.assume_role(RoleArn=ROLE, RoleSessionName="s1")
    assert code_of(error) == ("AccessDenied", 403)

    may = {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ROLE},
    }
    iam.put_user_policy(UserName="bob", PolicyName="p", PolicyDocument=json.dumps(may))

    assert bob.assume_role(RoleArn=ROLE, RoleSessionName="s1")["Credentials"]


def test_a_session_ends(server: RunningServer, sts: Any) -> None:
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))
    credentials = sts.assume_role(RoleArn=ROLE, RoleSessionName="s1", DurationSeconds=900)["Credentials"]
    session = session_client(server, "sts", credentials)
    assert session.get_caller_identity()

    server.sim.state.advance_clock(901)

    with pytest.raises(ClientError) as error:
        session.get_caller_identity()
    assert code_of(error) == ("ExpiredToken", 403)
    with pytest.raises(ClientError) as kms:
        session_client(server, "kms", credentials).list_keys()
    assert code_of(kms) == ("ExpiredTokenException", 400)


def test_a_session_needs_its_token(server: RunningServer, sts: Any) -> None:
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))
    first, second = (
        sts.assume_role(RoleArn=ROLE, RoleSessionName=name)["Credentials"] for name in ("first", "second")
    )
    for token in (second["SessionToken"], "nonsense"):
        with pytest.raises(ClientError) as error:
            session_client(server, "sts", {**first, "SessionToken": token}).get_caller_identity()
        assert code_of(error) == ("InvalidClientTokenId", 403)

    without = make_client(server, "sts", credentials=(first["AccessKeyId"], first["SecretAccessKey"]))
    with pytest.raises(ClientError) as bare:
        without.get_caller_identity()
    assert code_of(bare) == ("InvalidClientTokenId", 403)


def test_a_deleted_role_ends_its_sessions(server: RunningServer, sts: Any) -> None:
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))
    credentials = sts.assume_role(RoleArn=ROLE, RoleSessionName="s1")["Credentials"]
    iam = make_client(server, "iam")
    iam.delete_role_policy(RoleName="app", PolicyName="p")
    iam.delete_role(RoleName="app")
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))

    with pytest.raises(ClientError) as error:
        session_client(server, "sts", credentials).get_caller_identity()

    assert code_of(error) == ("InvalidClientTokenId", 403)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"DurationSeconds": 3601}, "ValidationError"),
        ({"DurationSeconds": 899}, "ValidationError"),
        ({"RoleSessionName": "no spaces"}, "ValidationError"),
        ({"Policy": LIST_USERS}, "NotImplemented"),
    ],
)
def test_a_wrong_request_is_refused(
    server: RunningServer, sts: Any, params: dict[str, Any], code: str
) -> None:
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))

    # boto3 would refuse some of these itself.
    client = make_client(server, "sts", parameter_validation=False)
    with pytest.raises(ClientError) as error:
        client.assume_role(**{"RoleArn": ROLE, "RoleSessionName": "s1", **params})

    assert error.value.response["Error"]["Code"] == code


def test_a_chained_session_lasts_an_hour_at_most(server: RunningServer, sts: Any) -> None:
    make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"), MaxSessionDuration=7200)
    may = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:*", "Resource": "*"}}
    make_client(server, "iam").put_role_policy(
        RoleName="app", PolicyName="sts", PolicyDocument=json.dumps(may)
    )
    credentials = sts.assume_role(RoleArn=ROLE, RoleSessionName="s1", DurationSeconds=7200)["Credentials"]
    chained = session_client(server, "sts", credentials)

    with pytest.raises(ClientError, match="role chaining"):
        chained.assume_role(RoleArn=ROLE, RoleSessionName="s2", DurationSeconds=7200)

    assert chained.assume_role(RoleArn=ROLE, RoleSessionName="s2")["AssumedRoleUser"]["Arn"].endswith("/s2")


def test_sessions_survive_a_restart_and_every_shape_is_right(settings: Settings) -> None:
    with running(settings) as server:
        make_role(server, trust(f"arn:aws:iam::{ACCOUNT}:root"))
        client = make_client(server, "sts")
        watch = Watch(client)
        client.get_caller_identity()
        credentials = client.assume_role(RoleArn=ROLE, RoleSessionName="s1")["Credentials"]
        assert watch.problems == []
        assert watch.operations == set(OPERATIONS)

    with running(settings) as server:
        assert session_client(server, "sts", credentials).get_caller_identity()["Account"] == ACCOUNT


def test_an_unknown_operation_is_refused(sts: Any) -> None:
    with pytest.raises(ClientError) as error:
        sts.get_session_token()

    assert code_of(error) == ("NotImplemented", 501)
