"""Policies are read as AWS reads them, and decide as AWS decides."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudkeys.simulators.aws import access
from cloudkeys.simulators.aws.access import ALLOWED, EXPLICIT_DENY, IMPLICIT_DENY, Identity, decide
from cloudkeys.simulators.aws.context import AwsError, Caller
from cloudkeys.simulators.aws.iam_store import PolicySource
from cloudkeys.simulators.aws.policy import PolicySyntaxError, parse_policy
from cloudkeys.simulators.aws.server import RunningServer
from tests.cloudkeys.simulators.aws.conftest import make_client

ACCOUNT, OTHER = "111122223333", "444455556666"
USER = f"arn:aws:iam::{ACCOUNT}:user/ann"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/app"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/app/s1"
KEY = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1"


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {**allow(action, resource, **more), "Effect": "Deny"}


def user(*statements: dict[str, Any]) -> Identity:
    policies = (PolicySource("p", "user", document(*statements)),) if statements else ()
    return Identity(ACCOUNT, USER, (USER,), policies)


def root_of(account: str) -> dict[str, str]:
    return {"AWS": f"arn:aws:iam::{account}:root"}


@pytest.mark.parametrize(
    ("statements", "action", "resource", "verdict"),
    [
        ([], "kms:Encrypt", KEY, IMPLICIT_DENY),
        ([allow("kms:Encrypt")], "kms:Encrypt", KEY, ALLOWED),
        ([allow("KMS:enc*")], "kms:Encrypt", KEY, ALLOWED),
        ([allow("kms:Encrypt")], "kms:Decrypt", KEY, IMPLICIT_DENY),
        ([allow(["kms:Decrypt", "kms:E?crypt"])], "kms:Encrypt", KEY, ALLOWED),
        ([allow("kms:*", KEY)], "kms:Encrypt", KEY, ALLOWED),
        ([allow("kms:*", KEY)], "kms:Encrypt", KEY + "1", IMPLICIT_DENY),
        ([allow("kms:*", f"arn:aws:kms:*:{ACCOUNT}:key/*")], "kms:Encrypt", KEY, ALLOWED),
        ([allow("kms:*", KEY.replace("key/", "KEY/"))], "kms:Encrypt", KEY, IMPLICIT_DENY),
        ([allow(), deny("kms:Decrypt")], "kms:Decrypt", KEY, EXPLICIT_DENY),
        ([allow(), deny("kms:Decrypt")], "kms:Encrypt", KEY, ALLOWED),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], "kms:Encrypt", KEY, ALLOWED),
        ([{"Effect": "Allow", "NotAction": "kms:*", "Resource": "*"}], "kms:Encrypt", KEY, IMPLICIT_DENY),
        ([{"Effect": "Allow", "Action": "*", "NotResource": KEY}], "kms:Encrypt", KEY, IMPLICIT_DENY),
        ([{"Effect": "Allow", "Action": "*", "NotResource": KEY}], "kms:Encrypt", KEY + "2", ALLOWED),
        (
            [allow("iam:*", f"arn:aws:iam::{ACCOUNT}:user/${{aws:username}}")],
            "iam:CreateAccessKey",
            USER,
            ALLOWED,
        ),
        (
            [allow("iam:*", f"arn:aws:iam::{ACCOUNT}:user/${{aws:username}}")],
            "iam:CreateAccessKey",
            USER + "a",
            IMPLICIT_DENY,
        ),
        ([allow(Condition={"StringEquals": {"aws:username": "ann"}})], "s3:GetObject", "*", ALLOWED),
        ([allow(Condition={"StringEquals": {"aws:username": "bob"}})], "s3:GetObject", "*", IMPLICIT_DENY),
    ],
)
def test_identity_policies(statements: list[Any], action: str, resource: str, verdict: str) -> None:
    decision = decide(user(*statements), action, resource, {"aws:username": "ann"})

    assert decision.verdict == verdict


@pytest.mark.parametrize(
    ("identity", "key_policy", "verdict", "reason"),
    [
        # The account is named: identity policies decide.
        (user(allow()), [allow("kms:*", Principal=root_of(ACCOUNT))], ALLOWED, ""),
        (user(allow()), [allow("kms:*", Principal={"AWS": ACCOUNT})], ALLOWED, ""),
        (user(), [allow("kms:*", Principal=root_of(ACCOUNT))], IMPLICIT_DENY, "identity-based"),
        # It is not: no identity policy helps.
        (user(allow()), [allow("kms:*", Principal={"AWS": ROLE})], IMPLICIT_DENY, "resource-based"),
        (user(), [allow("kms:*", Principal={"AWS": [ROLE, USER]})], ALLOWED, ""),
        (user(), [allow("kms:*", Principal="*")], ALLOWED, ""),
        (user(), [allow("kms:*", Principal={"AWS": "*"})], ALLOWED, ""),
        (
            user(),
            [allow("kms:*", Principal={"Service": "s3.amazonaws.com"})],
            IMPLICIT_DENY,
            "resource-based",
        ),
        (user(), [allow("kms:Decrypt", Principal={"AWS": USER})], IMPLICIT_DENY, "resource-based"),
        (user(allow()), [deny(Principal={"AWS": USER})], EXPLICIT_DENY, "explicit deny in a resource-based"),
        (
            user(allow()),
            [deny(Principal=root_of(ACCOUNT))],
            EXPLICIT_DENY,
            "explicit deny in a resource-based",
        ),
        (user(deny()), [allow(Principal={"AWS": USER})], EXPLICIT_DENY, "explicit deny in an identity-based"),
        # A session is meant by its own ARN and by its role's.
        (Identity(ACCOUNT, SESSION, (SESSION, ROLE)), [allow(Principal={"AWS": ROLE})], ALLOWED, ""),
        (Identity(ACCOUNT, SESSION, (SESSION, ROLE)), [allow(Principal={"AWS": SESSION})], ALLOWED, ""),
        # The account's root needs no identity policy, but the key policy must name it.
        (Identity(ACCOUNT, "root", ("root",), (), True), [allow(Principal=root_of(ACCOUNT))], ALLOWED, ""),
        (
            Identity(ACCOUNT, "root", ("root",), (), True),
            [allow(Principal={"AWS": USER})],
            IMPLICIT_DENY,
            "resource-based",
        ),
    ],
)
def test_a_key_policy_decides(identity: Identity, key_policy: list[Any], verdict: str, reason: str) -> None:
    decision = decide(
        identity,
        "kms:Encrypt",
        KEY,
        {},
        resource_policy=document(*key_policy),
        resource_account=ACCOUNT,
        resource_policy_decides=True,
    )

    assert decision.verdict == verdict
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("statements", "policy", "verdict"),
    [
        ([allow()], [allow(Principal=root_of(ACCOUNT))], ALLOWED),
        ([], [allow(Principal={"AWS": USER})], IMPLICIT_DENY),
        ([allow()], [allow(Principal=root_of(OTHER))], IMPLICIT_DENY),
        ([allow()], [allow(Principal={"AWS": USER})], ALLOWED),
        ([allow()], None, IMPLICIT_DENY),
    ],
)
def test_across_accounts_both_must_allow(
    statements: list[Any], policy: list[Any] | None, verdict: str
) -> None:
    decision = decide(
        user(*statements),
        "s3:GetObject",
        "arn:aws:s3:::b/k",
        {},
        resource_policy=None if policy is None else document(*policy),
        resource_account=OTHER,
    )

    assert decision.verdict == verdict


def test_in_one_account_a_resource_policy_may_allow_alone() -> None:
    policy = document(allow("s3:GetObject", Principal={"AWS": USER}))

    assert decide(user(), "s3:GetObject", "arn:aws:s3:::b/k", {}, resource_policy=policy).verdict == ALLOWED


def test_not_principal_spares_those_it_names() -> None:
    policy = document(deny(NotPrincipal={"AWS": USER}))
    other = Identity(ACCOUNT, ROLE, (ROLE,), user(allow()).policies)

    assert decide(user(allow()), "s3:GetObject", "*", {}, resource_policy=policy).verdict == ALLOWED
    assert decide(other, "s3:GetObject", "*", {}, resource_policy=policy).verdict == EXPLICIT_DENY


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{", "identity", "Syntax errors"),
        ("[]", "identity", "Syntax errors"),
        ('{"Statement": [], "Statement": []}', "identity", "Syntax errors"),
        (document(), "identity", "Syntax errors"),
        (json.dumps({"Version": "2020-01-01", "Statement": [allow()]}), "identity", "legacy parsing"),
        (json.dumps({"Statement": [allow()], "Extra": 1}), "identity", "Syntax errors"),
        (document({"Effect": "Maybe", "Action": "*", "Resource": "*"}), "identity", "Syntax errors"),
        (document({"Action": "*", "Resource": "*"}), "identity", "Effect"),
        (document({"Effect": "Allow", "Resource": "*"}), "identity", "must contain actions"),
        (document({"Effect": "Allow", "Action": "*"}), "identity", "must contain resources"),
        (document(allow(NotAction="*")), "identity", "both Action and NotAction"),
        (document(allow("Encrypt")), "identity", "prefaced by a vendor"),
        (document(allow("kms:En crypt")), "identity", "special characters"),
        (document(allow(7)), "identity", "Syntax errors"),
        (document(allow("*", "mybucket")), "identity", "ARN format"),
        (document(allow(Principal="*")), "identity", "should not specify a principal"),
        (document(allow()), "resource", "Missing required field Principal"),
        (document(allow(Principal={"AWS": "ann"})), "resource", "Invalid principal"),
        (
            document(allow(Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/*"})),
            "resource",
            "Invalid principal",
        ),
        (document(allow(Principal={"Aws": "*"})), "resource", "Invalid principal"),
        (document(allow("sts:AssumeRole", Principal="*")), "trust", "prohibited field Resource"),
        (document(allow(Condition={"Same": {"a": "b"}})), "identity", "Invalid Condition type"),
        (document(allow(Condition={"Bool": "x"})), "identity", "Syntax errors"),
        (document(allow(Condition={"Bool": {"a": {}}})), "identity", "Syntax errors"),
        (document(allow(Sid="a b")), "identity", "alpha-numeric"),
        (document(allow(Sid="a"), allow(Sid="a")), "identity", "must be unique"),
        (document(allow(Comment="x")), "identity", "Syntax errors"),
    ],
)
def test_a_malformed_policy_is_refused(text: str, kind: str, message: str) -> None:
    with pytest.raises(PolicySyntaxError, match=message):
        parse_policy(text, kind)


@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["Version", "Statement", "Effect", "Action", "Principal", "Resource", "Condition"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        ).map(json.dumps),
    ),
    st.sampled_from(["identity", "resource", "trust"]),
)
def test_no_text_breaks_the_parser(text: str, kind: str) -> None:
    refused = None
    try:
        policy = parse_policy(text, kind)
    except PolicySyntaxError as error:
        refused = str(error)

    assert refused or policy.statements


def test_nested_brackets_without_end_are_a_syntax_error() -> None:
    with pytest.raises(PolicySyntaxError, match="Syntax errors"):
        parse_policy('{"Statement": ' + "[" * 100_000, "identity")


def caller_named(server: RunningServer, name: str) -> Caller:
    iam = make_client(server, "iam")
    made = iam.create_user(UserName=name)["User"]
    return Caller(ACCOUNT, made["Arn"], made["UserId"], "AKIA", user_name=name)


def test_authorize_raises_in_the_words_of_the_service(server: RunningServer) -> None:
    ann = caller_named(server, "ann")

    with pytest.raises(AwsError) as kms:
        access.authorize(server.sim, ann, "kms:Encrypt", KEY, {}, document(allow(Principal=root_of(ACCOUNT))))
    with pytest.raises(AwsError) as s3:
        access.authorize(server.sim, ann, "s3:GetObject", "arn:aws:s3:::b/k", {}, resource_account=ACCOUNT)
    with pytest.raises(AwsError) as denied:
        access.authorize(server.sim, ann, "kms:Encrypt", KEY, {}, document(deny(Principal="*")))

    assert (kms.value.code, kms.value.status) == ("AccessDeniedException", 400)
    assert kms.value.message == (
        f"User: {USER} is not authorized to perform: kms:Encrypt on resource: {KEY}"
        " because no identity-based policy allows the kms:Encrypt action"
    )
    assert kms.value.extra == {"explicit_deny": False}
    assert (s3.value.code, s3.value.status) == ("AccessDenied", 403)
    assert 'on resource: "arn:aws:s3:::b/k" because' in s3.value.message
    assert denied.value.extra == {"explicit_deny": True}
    assert denied.value.message.endswith("with an explicit deny in a resource-based policy")


def test_a_recreated_user_is_another_one(server: RunningServer) -> None:
    iam = make_client(server, "iam")
    before = caller_named(server, "ann")
    iam.delete_user(UserName="ann")
    after = caller_named(server, "ann")
    iam.put_user_policy(UserName="ann", PolicyName="all", PolicyDocument=document(allow()))

    access.authorize(server.sim, after, "kms:ListKeys", "*", {})
    with pytest.raises(AwsError, match="identity-based"):
        access.authorize(server.sim, before, "kms:ListKeys", "*", {})


def test_global_condition_keys_come_with_every_request(server: RunningServer) -> None:
    iam = make_client(server, "iam")
    ann = caller_named(server, "ann")
    iam.tag_user(UserName="ann", Tags=[{"Key": "Team", "Value": "blue"}])
    condition = {
        "StringEquals": {
            "aws:PrincipalTag/team": "blue",
            "aws:username": "ann",
            "aws:PrincipalAccount": ACCOUNT,
        },
        "ArnLike": {"aws:PrincipalArn": USER},
        "DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"},
        "Bool": {"aws:ViaAWSService": "false"},
    }
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=document(allow(Condition=condition)))

    access.authorize(server.sim, ann, "kms:ListKeys", "*", {})
    through_s3 = Caller(ACCOUNT, USER, ann.principal_id, "AKIA", user_name="ann", source="s3.amazonaws.com")
    assert access.is_allowed(server.sim, ann, "kms:ListKeys", "*", {})
    assert not access.is_allowed(server.sim, through_s3, "kms:ListKeys", "*", {})


def test_policies_may_name_only_principals_that_exist(server: RunningServer) -> None:
    caller_named(server, "ann")
    elsewhere = "arn:aws:iam::999988887777:user/unknown"
    text = document(
        allow(
            Principal={
                "AWS": [USER, USER + "a", ROLE, SESSION, f"arn:aws:iam::{ACCOUNT}:root", elsewhere, "*"]
            }
        )
    )

    assert access.unknown_principals(server.sim, text) == [USER + "a", ROLE, SESSION]
