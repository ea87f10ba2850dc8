"""IAM through boto3: principals, access keys, policies, pages; nothing is forgotten over a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws import iam as iam_service
from cloudkeys.simulators.aws.context import ACCOUNTS, Settings
from cloudkeys.simulators.aws.faults import Fault
from cloudkeys.simulators.aws.server import RunningServer, running
from tests.cloudkeys.simulators.aws.conftest import make_client
from tests.cloudkeys.simulators.aws.model_check import Watch

ACCOUNT = ACCOUNTS[0]
ALLOW_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    ],
}


def text(document: Any) -> str:
    return json.dumps(document)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture
def iam(server: RunningServer) -> Iterator[Any]:
    client = make_client(server, "iam")
    watch = Watch(client)
    yield client
    assert watch.problems == []


def test_a_user_is_made_found_and_deleted(iam: Any) -> None:
    made = iam.create_user(UserName="Ann", Path="/people/", Tags=[{"Key": "team", "Value": "blue"}])["User"]

    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/people/Ann"
    assert made["UserId"].startswith("AIDA")
    assert iam.get_user(UserName="ann")["User"] == made
    assert [one["UserName"] for one in iam.list_users(PathPrefix="/people/")["Users"]] == ["Ann"]
    assert iam.list_users(PathPrefix="/machines/")["Users"] == []
    with pytest.raises(ClientError) as again:
        iam.create_user(UserName="ANN")
    assert code_of(again) == ("EntityAlreadyExists", 409)
    iam.delete_user(UserName="Ann")
    with pytest.raises(ClientError, match="The user with name Ann cannot be found") as gone:
        iam.get_user(UserName="Ann")
    assert code_of(gone) == ("NoSuchEntity", 404)


def test_without_a_name_the_caller_is_meant(iam: Any) -> None:
    assert iam.get_user()["User"]["UserName"] == "Administrator"
    assert len(iam.list_access_keys()["AccessKeyMetadata"]) == 1


def test_accounts_do_not_see_each_other(server: RunningServer, iam: Any) -> None:
    iam.create_user(UserName="ann")

    with pytest.raises(ClientError) as error:
        make_client(server, "iam", account=ACCOUNTS[1]).get_user(UserName="ann")

    assert code_of(error) == ("NoSuchEntity", 404)


def test_lists_come_in_pages(iam: Any) -> None:
    for number in range(5):
        iam.create_user(UserName=f"user-{number}")

    first = iam.list_users(MaxItems=2)
    names = [
        user["UserName"]
        for page in iam.get_paginator("list_users").paginate(PaginationConfig={"PageSize": 2})
        for user in page["Users"]
    ]

    assert first["IsTruncated"] is True
    assert len(first["Users"]) == 2
    assert names == ["Administrator", "user-0", "user-1", "user-2", "user-3", "user-4"]
    with pytest.raises(ClientError) as error:
        iam.list_users(Marker="%%%")
    assert code_of(error) == ("ValidationError", 400)


def test_a_wrong_parameter_is_named(iam: Any) -> None:
    with pytest.raises(ClientError, match="userName") as error:
        iam.create_user(UserName="no spaces")

    assert code_of(error) == ("ValidationError", 400)


def test_a_user_has_two_access_keys_at_most(iam: Any) -> None:
    iam.create_user(UserName="ann")
    keys = [iam.create_access_key(UserName="ann")["AccessKey"] for _ in range(2)]
    iam.update_access_key(UserName="ann", AccessKeyId=keys[0]["AccessKeyId"], Status="Inactive")

    with pytest.raises(ClientError, match="AccessKeysPerUser: 2") as error:
        iam.create_access_key(UserName="ann")

    assert code_of(error) == ("LimitExceeded", 409)
    listed = {
        one["AccessKeyId"]: one["Status"] for one in iam.list_access_keys(UserName="ann")["AccessKeyMetadata"]
    }
    assert listed == {keys[0]["AccessKeyId"]: "Inactive", keys[1]["AccessKeyId"]: "Active"}


def test_an_access_key_works_until_it_is_inactive_or_deleted(server: RunningServer, iam: Any) -> None:
    iam.create_user(UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    credentials = (key["AccessKeyId"], key["SecretAccessKey"])
    sts = make_client(server, "sts", credentials=credentials)

    assert sts.get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/ann"
    iam.update_access_key(UserName="ann", AccessKeyId=credentials[0], Status="Inactive")
    with pytest.raises(ClientError) as inactive:
        sts.get_caller_identity()
    assert code_of(inactive) == ("InvalidClientTokenId", 403)
    iam.update_access_key(UserName="ann", AccessKeyId=credentials[0], Status="Active")
    assert sts.get_caller_identity()["Account"] == ACCOUNT
    iam.delete_access_key(UserName="ann", AccessKeyId=credentials[0])
    with pytest.raises(ClientError) as deleted:
        sts.get_caller_identity()
    assert code_of(deleted) == ("InvalidClientTokenId", 403)
    with pytest.raises(ClientError) as again:
        iam.delete_access_key(UserName="ann", AccessKeyId=credentials[0])
    assert code_of(again) == ("NoSuchEntity", 404)


def test_a_late_key_is_unknown_to_its_first_requests(server: RunningServer, iam: Any) -> None:
    iam.create_user(UserName="ann")
    server.sim.faults.add(Fault("late_key", count=2))
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    sts = make_client(server, "sts", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))

    for _ in range(2):
        with pytest.raises(ClientError) as error:
            sts.get_caller_identity()
        assert code_of(error) == ("InvalidClientTokenId", 403)

    assert sts.get_caller_identity()["Arn"].endswith("user/ann")
    assert server.sim.faults.waiting() == []


def test_the_last_use_of_a_key_is_told(server: RunningServer, iam: Any) -> None:
    iam.create_user(UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    unused = iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])
    sts = make_client(
        server, "sts", region="us-east-1", credentials=(key["AccessKeyId"], key["SecretAccessKey"])
    )
    sts.get_caller_identity()
    used = iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])

    assert unused == {
        **unused,
        "UserName": "ann",
        "AccessKeyLastUsed": {"ServiceName": "N/A", "Region": "N/A"},
    }
    assert used["AccessKeyLastUsed"]["ServiceName"] == "sts"
    assert used["AccessKeyLastUsed"]["Region"] == "us-east-1"
    assert used["AccessKeyLastUsed"]["LastUsedDate"] >= key["CreateDate"]


def test_what_is_not_empty_is_not_deleted(iam: Any) -> None:
    iam.create_user(UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]["AccessKeyId"]
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=text(ALLOW_ALL))
    iam.attach_user_policy(UserName="ann", PolicyArn=iam_service.ADMINISTRATOR_POLICY)
    iam.create_group(GroupName="staff")
    iam.add_user_to_group(GroupName="staff", UserName="ann")
    undo = [
        ("access keys", lambda: iam.delete_access_key(UserName="ann", AccessKeyId=key)),
        ("remove users from group", lambda: iam.remove_user_from_group(GroupName="staff", UserName="ann")),
        (
            "detach all",
            lambda: iam.detach_user_policy(UserName="ann", PolicyArn=iam_service.ADMINISTRATOR_POLICY),
        ),
        ("delete policies", lambda: iam.delete_user_policy(UserName="ann", PolicyName="p")),
    ]

    for what, remove in undo:
        with pytest.raises(ClientError, match=what) as error:
            iam.delete_user(UserName="ann")
        assert code_of(error) == ("DeleteConflict", 409)
        remove()

    iam.delete_user(UserName="ann")
    assert [user["UserName"] for user in iam.list_users()["Users"]] == ["Administrator"]


def test_a_users_permissions_come_from_its_groups_too(server: RunningServer, iam: Any) -> None:
    iam.create_user(UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    hers = make_client(server, "iam", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))
    with pytest.raises(
        ClientError, match="no identity-based policy allows the iam:ListUsers action"
    ) as error:
        hers.list_users()
    assert code_of(error) == ("AccessDenied", 403)
    iam.create_group(GroupName="staff")
    iam.put_group_policy(GroupName="staff", PolicyName="p", PolicyDocument=text(ALLOW_ALL))
    iam.add_user_to_group(GroupName="staff", UserName="ann")

    assert len(hers.list_users()["Users"]) == 2
    iam.put_user_policy(
        UserName="ann",
        PolicyName="no",
        PolicyDocument=text(
            {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "iam:List*", "Resource": "*"}}
        ),
    )
    with pytest.raises(ClientError, match="with an explicit deny in an identity-based policy"):
        hers.list_users()


def test_a_managed_policys_default_version_counts(server: RunningServer, iam: Any) -> None:
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}
    arn = iam.create_policy(PolicyName="p", PolicyDocument=text(nothing))["Policy"]["Arn"]
    iam.create_user(UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    hers = make_client(server, "iam", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))
    iam.attach_user_policy(UserName="ann", PolicyArn=arn)
    with pytest.raises(ClientError, match="explicit deny"):
        hers.list_users()
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=text(ALLOW_ALL))
    with pytest.raises(ClientError, match="explicit deny"):
        hers.list_users()

    iam.set_default_policy_version(PolicyArn=arn, VersionId="v2")

    assert hers.list_users()["Users"]
    assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 1
    with pytest.raises(ClientError) as attached:
        iam.delete_policy(PolicyArn=arn)
    assert code_of(attached) == ("DeleteConflict", 409)


def test_policy_documents_are_checked_and_come_back_whole(iam: Any) -> None:
    iam.create_user(UserName="ann")
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=text(ALLOW_ALL))

    assert iam.get_user_policy(UserName="ann", PolicyName="p")["PolicyDocument"] == ALLOW_ALL
    with pytest.raises(ClientError, match="must contain resources") as error:
        iam.put_user_policy(
            UserName="ann", PolicyName="p", PolicyDocument='{"Statement":{"Effect":"Allow","Action":"*"}}'
        )
    assert code_of(error) == ("MalformedPolicyDocument", 400)
    many = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["a:b"] * 400, "Resource": "*"}],
    }
    with pytest.raises(ClientError) as big:
        iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=text(many))
    assert code_of(big) == ("LimitExceeded", 409)
    assert iam.get_user_policy(UserName="ann", PolicyName="p")["PolicyDocument"] == ALLOW_ALL


def test_a_trust_policy_may_name_only_who_exists(iam: Any) -> None:
    stranger = json.loads(text(TRUST).replace(":root", ":user/nobody"))

    with pytest.raises(ClientError, match="Invalid principal") as error:
        iam.create_role(RoleName="app", AssumeRolePolicyDocument=text(stranger))

    assert code_of(error) == ("MalformedPolicyDocument", 400)
    made = iam.create_role(RoleName="app", Path="/x/", AssumeRolePolicyDocument=text(TRUST), Description="d")[
        "Role"
    ]
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/x/app"
    assert made["AssumeRolePolicyDocument"] == TRUST
    assert iam.get_role(RoleName="app")["Role"]["MaxSessionDuration"] == 3600


@pytest.mark.parametrize(
    ("call", "params"),
    [
        ("create_user", {"UserName": "x", "PermissionsBoundary": iam_service.ADMINISTRATOR_POLICY}),
        ("list_mfa_devices", {}),
    ],
)
def test_what_is_not_there_says_so(iam: Any, call: str, params: dict[str, str]) -> None:
    with pytest.raises(ClientError) as error:
        getattr(iam, call)(**params)

    assert code_of(error) == ("NotImplemented", 501)


def test_everything_survives_a_restart(settings: Settings) -> None:
    with running(settings) as server:
        iam = make_client(server, "iam")
        iam.create_user(UserName="ann")
        key = iam.create_access_key(UserName="ann")["AccessKey"]
        iam.attach_user_policy(UserName="ann", PolicyArn=iam_service.ADMINISTRATOR_POLICY)

    with running(settings) as server:
        hers = make_client(server, "iam", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))
        assert [user["UserName"] for user in hers.list_users()["Users"]] == ["Administrator", "ann"]
        assert len(hers.list_access_keys(UserName="Administrator")["AccessKeyMetadata"]) == 1


def test_every_operation_answers_in_the_shape_of_the_model(server: RunningServer) -> None:
    iam = make_client(server, "iam")
    watch = Watch(iam)
    allow, trust, aws = text(ALLOW_ALL), text(TRUST), iam_service.ADMINISTRATOR_POLICY
    tags = [{"Key": "k", "Value": "v"}]
    iam.create_user(UserName="ann", Tags=tags)
    iam.get_user(UserName="ann")
    iam.list_users()
    iam.tag_user(UserName="ann", Tags=[{"Key": "k2", "Value": ""}])
    assert len(iam.list_user_tags(UserName="ann")["Tags"]) == 2
    iam.untag_user(UserName="ann", TagKeys=["k2"])
    iam.create_group(GroupName="staff")
    iam.add_user_to_group(GroupName="staff", UserName="ann")
    assert [user["UserName"] for user in iam.get_group(GroupName="staff")["Users"]] == ["ann"]
    iam.list_groups()
    assert [group["GroupName"] for group in iam.list_groups_for_user(UserName="ann")["Groups"]] == ["staff"]
    iam.remove_user_from_group(GroupName="staff", UserName="ann")
    iam.create_role(RoleName="app", AssumeRolePolicyDocument=trust, Tags=tags)
    iam.get_role(RoleName="app")
    iam.list_roles()
    iam.update_role(RoleName="app", MaxSessionDuration=7200)
    iam.update_assume_role_policy(RoleName="app", PolicyDocument=trust)
    iam.tag_role(RoleName="app", Tags=tags)
    iam.list_role_tags(RoleName="app")
    iam.untag_role(RoleName="app", TagKeys=["k"])
    key = iam.create_access_key(UserName="ann")["AccessKey"]["AccessKeyId"]
    iam.list_access_keys(UserName="ann")
    iam.update_access_key(UserName="ann", AccessKeyId=key, Status="Inactive")
    iam.get_access_key_last_used(AccessKeyId=key)
    iam.delete_access_key(UserName="ann", AccessKeyId=key)
    assert iam.get_account_summary()["SummaryMap"]["Users"] == 2
    arn = iam.create_policy(PolicyName="p", PolicyDocument=allow, Description="d", Tags=tags)["Policy"]["Arn"]
    iam.get_policy(PolicyArn=arn)
    iam.get_policy(PolicyArn=aws)
    iam.get_policy_version(PolicyArn=aws, VersionId="v1")
    assert arn in [policy["Arn"] for policy in iam.list_policies(Scope="Local")["Policies"]]
    assert iam.list_policies(OnlyAttached=True)["Policies"][0]["Arn"] == aws
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=allow, SetAsDefault=True)
    assert iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"] == ALLOW_ALL
    iam.set_default_policy_version(PolicyArn=arn, VersionId="v1")
    iam.list_policy_versions(PolicyArn=arn)
    iam.delete_policy_version(PolicyArn=arn, VersionId="v2")
    iam.simulate_principal_policy(
        PolicySourceArn=f"arn:aws:iam::{ACCOUNT}:user/ann", ActionNames=["kms:Encrypt"], ResourceArns=["*"]
    )
    for kind, name in (("user", "ann"), ("group", "staff"), ("role", "app")):
        who = {f"{kind.capitalize()}Name": name}
        getattr(iam, f"put_{kind}_policy")(**who, PolicyName="p", PolicyDocument=allow)
        assert getattr(iam, f"get_{kind}_policy")(**who, PolicyName="p")["PolicyDocument"] == ALLOW_ALL
        assert getattr(iam, f"list_{kind}_policies")(**who)["PolicyNames"] == ["p"]
        getattr(iam, f"delete_{kind}_policy")(**who, PolicyName="p")
        getattr(iam, f"attach_{kind}_policy")(**who, PolicyArn=arn)
        attached = getattr(iam, f"list_attached_{kind}_policies")(**who)["AttachedPolicies"]
        assert attached == [{"PolicyName": "p", "PolicyArn": arn}]
        getattr(iam, f"detach_{kind}_policy")(**who, PolicyArn=arn)
        getattr(iam, f"delete_{kind}")(**who)
    iam.delete_policy(PolicyArn=arn)

    assert watch.problems == []
    assert watch.operations == set(iam_service.OPERATIONS)
