"""A simulator on a free port, boto3 clients of its accounts, and an external key store proxy to call."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudkeys.simulators.aws.context import ACCOUNTS, DEFAULT_REGION, Settings
from cloudkeys.simulators.aws.server import RunningServer, running
from tests.cloudkeys.simulators.aws import fake_proxy

HOST = "xks.keystead.test"
CREDENTIAL = {"AccessKeyId": fake_proxy.ACCESS_KEY_ID, "RawSecretAccessKey": fake_proxy.SECRET}
MakeClient = Callable[..., Any]


def _certificate(
    name: str, issuer: tuple[x509.Certificate, Any] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    public = key.public_key()
    signer = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0])
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(signer[1], hashes.SHA256()), key


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A throwaway authority (``ca``), and a certificate and key for the proxy's host that it issued."""
    folder = tmp_path_factory.mktemp("tls")
    ca = _certificate("Throwaway CA", None)
    leaf, key = _certificate(HOST, ca)
    files = {name: folder / f"{name}.pem" for name in ("ca", "leaf", "key", "stranger")}
    files["ca"].write_bytes(ca[0].public_bytes(serialization.Encoding.PEM))
    files["leaf"].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files["stranger"].write_bytes(_certificate("Other CA", None)[0].public_bytes(serialization.Encoding.PEM))
    files["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@pytest.fixture
def proxy(tls_files: dict[str, Path]) -> Iterator[fake_proxy.FakeProxy]:
    """A fake external key store proxy with one key, ``key-1``."""
    with fake_proxy.serving(tls_files["leaf"], tls_files["key"]) as serving:
        serving.keys["key-1"] = fake_proxy.ExternalKey()
        yield serving


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a simulator without any proxy to call."""
    return Settings(data_dir=tmp_path / "simulator")


@pytest.fixture
def server(settings: Settings) -> Iterator[RunningServer]:
    """A running simulator without any proxy to call."""
    with running(settings) as serving:
        yield serving


@pytest.fixture
def xks_settings(tmp_path: Path, tls_files: dict[str, Path], proxy: fake_proxy.FakeProxy) -> Settings:
    """Settings of a simulator that reaches the fake proxy as https://xks.keystead.test.

    The time-out is long, so that a busy test machine changes no result; what tests time-outs sets its own.
    """
    return Settings(
        data_dir=tmp_path / "simulator",
        xks_ca_file=tls_files["ca"],
        connect_to={HOST: ("127.0.0.1", proxy.port)},
        xks_timeout_s=10.0,
    )


@pytest.fixture
def xks_server(xks_settings: Settings) -> Iterator[RunningServer]:
    """A running simulator that reaches the fake proxy."""
    with running(xks_settings) as serving:
        yield serving


def make_client(
    server: RunningServer,
    service: str,
    *,
    account: str = ACCOUNTS[0],
    region: str = DEFAULT_REGION,
    credentials: tuple[str, str] | tuple[str, str, str] | None = None,
    **config: Any,
) -> Any:
    """A boto3 client of the account's administrator (or with the given credentials), which never retries."""
    if credentials is None:
        administrator = server.sim.state.ensure_administrators((account,))[0]
        credentials = (administrator.access_key_id, administrator.secret_access_key)
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    settings = {"retries": {"max_attempts": 0}, "connect_timeout": 10, "read_timeout": 30, **config}
    return _session().client(
        service,
        region_name=region,
        endpoint_url=server.url,
        config=Config(**settings),
        **dict(zip(names, credentials, strict=False)),
    )


@cache
def _session() -> boto3.session.Session:
    """One session for all tests: it keeps the service models that take half a second to read."""
    return boto3.session.Session()


def make_store(kms: Any, **changes: Any) -> str:
    """Create an external key store at the fake proxy; returns its id."""
    params = {
        "CustomKeyStoreName": "store",
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyUriEndpoint": f"https://{HOST}",
        "XksProxyUriPath": fake_proxy.PATH,
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyAuthenticationCredential": CREDENTIAL,
    }
    answer = kms.create_custom_key_store(**{**params, **changes})
    return str(answer["CustomKeyStoreId"])


def store_state(kms: Any, store_id: str) -> tuple[str, str | None]:
    """Connection state and error code of a store."""
    entry = kms.describe_custom_key_stores(CustomKeyStoreId=store_id)["CustomKeyStores"][0]
    return entry["ConnectionState"], entry.get("ConnectionErrorCode")
