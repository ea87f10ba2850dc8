"""The simulated AWS, and credentials of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloudkeys.providers.aws import AwsProvider
from cloudkeys.providers.base import Credentials
from tests.cloudkeys.cloud import ACCOUNT, ALLOW_ALL, REGION, Aws, aws, proxy, tls_files
from vault.secret import Secret

__all__ = ["aws", "proxy", "tls_files"]

NewUser = Callable[..., Credentials]


@pytest.fixture
def new_user(aws: Aws) -> NewUser:
    """Make an IAM user with that policy and return its credentials."""

    def make(name: str = "keystead", policy: str = ALLOW_ALL) -> Credentials:
        iam = aws.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials("simulator", made["AccessKeyId"], Secret(made["SecretAccessKey"]), REGION)

    return make


@pytest.fixture
def provider(new_user: NewUser) -> AwsProvider:
    """A provider that may do everything."""
    return AwsProvider(new_user())


__all__ += ["ACCOUNT"]
