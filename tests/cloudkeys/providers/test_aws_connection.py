"""Clients: one place to connect to, time-outs, and nothing from this machine's own AWS set-up."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudkeys.providers import aws_connection
from cloudkeys.providers.aws import AwsProvider
from cloudkeys.providers.aws_connection import Connection, connection_for
from cloudkeys.providers.base import Credentials, ErrorCode, ProviderError
from tests.cloudkeys.cloud import ACCOUNT, Aws
from tests.cloudkeys.providers.conftest import NewUser
from vault.secret import Secret

REAL = Credentials("aws", "AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI"), "eu-west-1")


@pytest.mark.parametrize(
    ("partition", "region", "kms", "iam"),
    [
        ("aws", "eu-west-1", "https://kms.eu-west-1.amazonaws.com", "https://iam.amazonaws.com"),
        (
            "aws-cn",
            "cn-north-1",
            "https://kms.cn-north-1.amazonaws.com.cn",
            "https://iam.cn-north-1.amazonaws.com.cn",
        ),
        (
            "aws-us-gov",
            "us-gov-west-1",
            "https://kms.us-gov-west-1.amazonaws.com",
            "https://iam.us-gov.amazonaws.com",
        ),
    ],
)
def test_each_partition_has_its_own_endpoints(partition: str, region: str, kms: str, iam: str) -> None:
    connection = Connection(replace(REAL, partition=partition, default_region=region))
    assert connection.partition == partition
    assert connection.client("kms").meta.endpoint_url == kms
    assert connection.client("iam").meta.endpoint_url == iam


def test_the_environment_cannot_redirect_us_or_lend_a_credential(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\nregion = us-east-1\nendpoint_url = http://169.254.169.254\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://169.254.169.254")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHISMACHINE000")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of this machine")
    monkeypatch.setattr(aws_connection, "_session", None)
    client = Connection(REAL).client("kms")
    assert client.meta.endpoint_url == "https://kms.eu-west-1.amazonaws.com"
    signer = client._request_signer._credentials
    assert (signer.access_key, signer.token) == ("AKIAIOSFODNN7EXAMPLE", None)


def test_time_outs_and_retries_are_bounded() -> None:
    config = Connection(REAL).client("kms").meta.config
    assert config.connect_timeout == aws_connection.CONNECT_TIMEOUT_S
    assert config.read_timeout == aws_connection.READ_TIMEOUT_S
    assert config.retries == {"mode": "standard", "total_max_attempts": aws_connection.ATTEMPTS}


def test_the_simulator_is_refused_when_it_is_off(settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = False
    with pytest.raises(ProviderError, match="switched off") as caught:
        AwsProvider(replace(REAL, partition="simulator")).identity()
    assert (caught.value.code, caught.value.permanent) == (ErrorCode.SIMULATOR_OFF, True)


def test_the_simulator_is_asked_on_loopback_only(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    monkeypatch.setenv("KEYSTEAD_SIMULATOR_PORT", "4577")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.com:3128")
    client = Connection(replace(REAL, partition="simulator")).client("kms")
    assert client.meta.endpoint_url == "http://127.0.0.1:4577"
    assert client._endpoint.http_session._proxy_config.proxy_url_for("http://127.0.0.1:4577/") is None


def test_one_credential_is_one_connection_and_another_secret_another() -> None:
    assert connection_for(REAL) is connection_for(replace(REAL))
    assert connection_for(REAL) is not connection_for(replace(REAL, secret_access_key=Secret("other")))
    assert connection_for(REAL) is not connection_for(replace(REAL, role_arn="arn:aws:iam::1:role/r"))


def test_few_connections_are_kept() -> None:
    for number in range(aws_connection.KEPT_CONNECTIONS + 5):
        connection_for(replace(REAL, external_id=str(number)))
    assert len(aws_connection._connections) == aws_connection.KEPT_CONNECTIONS


def test_threads_share_clients(new_user: NewUser, aws: Aws) -> None:
    credentials = new_user()
    found: list[str] = []

    def ask() -> None:
        found.append(AwsProvider(credentials).identity().account_id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ACCOUNT] * 8


def test_the_session_of_a_role_that_has_ended_is_renewed(new_user: NewUser, aws: Aws) -> None:
    credentials = new_user()
    trust = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",'
        f' "Principal": {{"AWS": "arn:aws:iam::{ACCOUNT}:root"}}}}]}}'
    )
    iam = aws.client("iam")
    arn = iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    allow = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    iam.put_role_policy(RoleName="r", PolicyName="p", PolicyDocument=allow)
    provider = AwsProvider(replace(credentials, role_arn=arn))
    assert provider.find_key_store("eu-west-1", name="none") is None
    aws.server.sim.state.advance_clock(2 * 3600.0)
    assert provider.find_key_store("eu-west-1", name="none") is None
