"""The provider contract over AWS: the real SDK against the bundled simulator and a proxy that it really calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudkeys.providers.aws import AwsProvider
from cloudkeys.providers.base import Credentials, KeyStoreSpec
from tests.cloudkeys.cloud import ACCOUNT, REGION, Aws
from tests.cloudkeys.providers.conftest import NewUser
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.contracts.provider import Cloud, ProviderContract, key, store_id
from vault.secret import Secret

__all__ = ["key", "store_id"]


@pytest.fixture
def cloud(aws: Aws, new_user: NewUser) -> Cloud:
    aws.proxy.keys.update({name: fake_proxy.ExternalKey() for name in ("xks-1", "xks-2")})
    credentials: Credentials = new_user()
    stranger = replace(credentials, secret_access_key=Secret("not the right secret, but as long as one"))
    return Cloud(
        provider=AwsProvider(credentials),
        region=REGION,
        store=KeyStoreSpec(
            name="pay-hyok",
            endpoint="https://xks.keystead.test",
            uri_path=fake_proxy.PATH,
            connectivity="PUBLIC_ENDPOINT",
            vpc_endpoint_service_name="",
            proxy_access_key_id=fake_proxy.ACCESS_KEY_ID,
            proxy_secret=Secret(fake_proxy.SECRET),
        ),
        external_key_ids=["xks-1", "xks-2"],
        strangers=lambda: AwsProvider(stranger),
        administrators=[f"arn:aws:iam::{ACCOUNT}:user/keystead"],
    )


class TestAws(ProviderContract):
    """AWS."""
