"""Rotation of a CSP account's access key against the simulated IAM."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.utils import timezone

from cloudkeys.models import CspAccount, Operation
from cloudkeys.operations import cancel_operation, retry_operation, runner
from cloudkeys.providers import aws_connection
from cloudkeys.services import accounts
from cloudkeys.simulators.aws.faults import Fault
from tests.cloudkeys.cloud import Aws, simulated_account
from tests.cloudkeys.crashing import before_step, held_at, run_to_end
from vault.actors import Actor
from vault.errors import Conflict
from vault.keys import unseal
from vault.models import Vault


@pytest.fixture
def account(owner: Actor, payments: Vault, aws: Aws) -> CspAccount:
    schedule = {"kind": "every", "every": 90, "unit": "days"}
    return simulated_account(owner, payments, aws, user="keystead", rotation_schedule=schedule)


@pytest.fixture
def rotate(owner: Actor, account: CspAccount) -> Callable[[], Operation]:
    return lambda: accounts.rotate_csp_credential(owner, account.pk)


def access_keys(aws: Aws, user: str = "keystead") -> dict[str, str]:
    found = aws.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]
    return {key["AccessKeyId"]: key["Status"] for key in found}


def let_grace_pass(account: CspAccount) -> None:
    rows = CspAccount.objects.filter(pk=account.pk).exclude(retire_after=None)
    rows.update(retire_after=timezone.now() - timedelta(seconds=1))


def test_the_old_key_is_deactivated_and_deleted_after_the_grace_period(
    aws: Aws, account: CspAccount, rotate: Callable[[], Operation]
) -> None:
    old = account.access_key_id
    operation = rotate()
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    account.refresh_from_db()
    new = account.access_key_id
    assert access_keys(aws) == {old: "Inactive", new: "Active"}
    assert account.rotation_state == "DEACTIVATED"
    assert account.retire_after is not None
    assert timedelta(hours=23) < account.retire_after - timezone.now() <= timedelta(hours=24)
    operation.refresh_from_db()
    assert operation.next_try_at is not None
    assert operation.next_try_at >= account.retire_after - timedelta(seconds=1)
    assert account.next_rotation_at is not None
    assert account.next_rotation_at > timezone.now() + timedelta(days=88)
    assert run_to_end(operation, partial(let_grace_pass, account)).state == "SUCCEEDED"
    assert access_keys(aws) == {new: "Active"}


def test_a_foreign_second_key_is_never_deleted(
    aws: Aws, account: CspAccount, rotate: Callable[[], Operation]
) -> None:
    foreign = aws.client("iam").create_access_key(UserName="keystead")["AccessKey"]["AccessKeyId"]
    operation = run_to_end(rotate())
    assert operation.state == "FAILED"
    assert operation.error["code"] == "two_access_keys"
    assert foreign in operation.error["cause"]
    assert access_keys(aws) == {account.access_key_id: "Active", foreign: "Active"}
    account.refresh_from_db()
    assert account.rotation_state == "IDLE"


def test_a_lost_answer_leaves_no_orphan(
    aws: Aws, account: CspAccount, rotate: Callable[[], Operation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """IAM made the key, its answer was lost: nobody has the secret, so that key goes and another one comes."""
    monkeypatch.setattr(aws_connection, "ATTEMPTS", 1)
    aws.server.sim.faults.add(Fault("lose_answer", "iam", "CreateAccessKey"))
    operation = rotate()
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    orphan = set(access_keys(aws)) - {account.access_key_id}
    assert len(orphan) == 1
    run_to_end(operation, partial(let_grace_pass, account))
    assert operation.state == "SUCCEEDED"
    account.refresh_from_db()
    assert access_keys(aws) == {account.access_key_id: "Active"}
    assert account.access_key_id not in orphan


def test_a_key_that_aws_does_not_know_everywhere_yet_is_waited_for(
    aws: Aws, account: CspAccount, rotate: Callable[[], Operation]
) -> None:
    operation = rotate()
    with held_at("csp_account.rotate_credential", "verify"):
        runner.run_operation(operation.pk)
    account.refresh_from_db()
    iam = aws.client("iam")
    pending = account.pending_access_key_id
    iam.update_access_key(UserName="keystead", AccessKeyId=pending, Status="Inactive")
    Operation.objects.filter(pk=operation.pk).update(next_try_at=None)
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    operation.refresh_from_db()
    assert "does not know" in operation.steps[1]["detail"]
    account.refresh_from_db()
    assert account.access_key_id != pending
    iam.update_access_key(UserName="keystead", AccessKeyId=pending, Status="Active")
    assert run_to_end(operation, partial(let_grace_pass, account)).state == "SUCCEEDED"


def test_a_cancel_before_the_switch_deletes_the_new_key(
    owner: Actor, aws: Aws, account: CspAccount, rotate: Callable[[], Operation]
) -> None:
    operation = rotate()
    with before_step("csp_account.rotate_credential", "switch", lambda: cancel_operation(owner, operation)):
        run_to_end(operation)
    assert operation.state == "CANCELLED"
    account.refresh_from_db()
    assert access_keys(aws) == {account.access_key_id: "Active"}
    assert (account.rotation_state, account.pending_access_key_id) == ("IDLE", "")
    assert account.pending_secret_access_key is None


def test_after_the_switch_there_is_no_way_back(
    owner: Actor, account: CspAccount, rotate: Callable[[], Operation]
) -> None:
    operation = rotate()
    runner.run_operation(operation.pk)
    operation.refresh_from_db()
    with pytest.raises(Conflict, match="no way back"):
        cancel_operation(owner, operation)


def test_a_failure_after_the_switch_undoes_nothing_and_a_retry_goes_on_there(
    owner: Actor, aws: Aws, account: CspAccount, rotate: Callable[[], Operation]
) -> None:
    old = account.access_key_id
    operation = rotate()
    iam = aws.client("iam")
    deny = (
        '{"Version": "2012-10-17", "Statement": '
        '[{"Effect": "Deny", "Action": "iam:UpdateAccessKey", "Resource": "*"}]}'
    )
    with before_step(
        "csp_account.rotate_credential",
        "deactivate",
        lambda: iam.put_user_policy(UserName="keystead", PolicyName="deny", PolicyDocument=deny),
    ):
        run_to_end(operation)
    assert operation.state == "FAILED"
    assert operation.error["code"] == "access_denied"
    account.refresh_from_db()
    assert access_keys(aws) == {old: "Active", account.access_key_id: "Active"}
    assert account.rotation_state == "SWITCHED"
    iam.delete_user_policy(UserName="keystead", PolicyName="deny")
    retry_operation(owner, operation)
    assert run_to_end(operation, partial(let_grace_pass, account)).state == "SUCCEEDED"
    account.refresh_from_db()
    assert access_keys(aws) == {account.access_key_id: "Active"}


def test_an_assumed_role_is_verified_with_the_new_key(owner: Actor, payments: Vault, aws: Aws) -> None:
    iam = aws.client("iam")
    trust = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",'
        ' "Principal": {"AWS": "arn:aws:iam::111122223333:root"},'
        ' "Condition": {"StringEquals": {"sts:ExternalId": "keystead-1"}}}]}'
    )
    arn = iam.create_role(RoleName="keystead", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    account = simulated_account(
        owner, payments, aws, name="role", user="keystead-user", auth_method="ASSUME_ROLE", role_arn=arn,
        external_id="keystead-1",
    )  # fmt: skip
    old = account.access_key_id
    operation = accounts.rotate_csp_credential(owner, account.pk)
    assert run_to_end(operation, partial(let_grace_pass, account)).state == "SUCCEEDED", operation.error
    account.refresh_from_db()
    assert account.access_key_id != old
    assert unseal(account, "secret_access_key").reveal()


def test_a_second_rotation_is_a_conflict_that_names_the_first(
    rotate: Callable[[], Operation],
) -> None:
    first = rotate()
    with pytest.raises(Conflict, match=str(first.pk)):
        rotate()
