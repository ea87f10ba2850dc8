"""Our own check of an endpoint: what each trouble is called, and what may be asked at all."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cloudkeys import preflight
from cloudkeys.operations.errors import OperationError
from cloudkeys.preflight import check_endpoint
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.cloudkeys.simulators.aws.conftest import free_port, proxy, tls_files
from vault.errors import ValidationFailed
from vault.secret import Secret

__all__ = ["free_port", "proxy", "tls_files"]


@pytest.fixture(autouse=True)
def _reached(
    monkeypatch: pytest.MonkeyPatch, proxy: fake_proxy.FakeProxy, tls_files: dict[str, Path]
) -> None:
    """xks.keystead.test is the fake proxy, and its authority is trusted."""
    monkeypatch.setenv("KEYSTEAD_XKS_PORT", str(proxy.port))
    monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(tls_files["ca"]))


def ask(**changes: Any) -> preflight.EndpointReport:
    given: dict[str, Any] = {
        "endpoint": "https://xks.keystead.test",
        "uri_path": fake_proxy.PATH,
        "access_key_id": fake_proxy.ACCESS_KEY_ID,
        "secret": Secret(fake_proxy.SECRET),
        "region": "eu-west-1",
        "simulated": True,
        **changes,
    }
    return check_endpoint(
        given.pop("endpoint"), given.pop("uri_path"), given.pop("access_key_id"), given.pop("secret"), **given
    )


def refused(**changes: Any) -> OperationError:
    with pytest.raises(OperationError) as caught:
        ask(**changes)
    assert caught.value.cause
    assert caught.value.cure
    return caught.value


def test_a_healthy_endpoint_is_described(proxy: fake_proxy.FakeProxy) -> None:
    report = ask()
    assert report.tls_version.startswith("TLSv1.")
    assert (report.fleet_size, report.vendor) == (1, "Test")
    assert "healthy in" in report.summary
    (seen,) = proxy.seen
    assert set(seen.document) == {"requestMetadata"}
    assert set(seen.document["requestMetadata"]) == {"kmsRequestId", "kmsOperation"}
    # As AWS KMS signs: the host without a port.
    assert seen.headers["host"] == "xks.keystead.test"


def test_a_slow_answer_is_told() -> None:
    assert "AWS allows 250 ms" in preflight.EndpointReport(300, "TLSv1.3", 1, "x").summary
    assert "AWS" not in preflight.EndpointReport(200, "TLSv1.3", 1, "x").summary


def test_a_wrong_credential() -> None:
    error = refused(secret=Secret("A" * 44))
    assert (error.code, error.permanent) == ("endpoint_credential", True)


def test_a_wrong_path() -> None:
    assert refused(uri_path="/elsewhere/kms/xks/v1").code == "endpoint_path"


@pytest.mark.parametrize(
    ("answer", "code", "permanent"),
    [
        ((400, {"errorName": "InvalidStateException"}), "endpoint_refused", True),
        ((503, {"errorName": "DependencyTimeoutException"}), "endpoint_fault", False),
        ((302, {}), "endpoint_fault", True),
        ((200, b"<html>"), "endpoint_foreign", True),
        ((200, {"xksProxyFleetSize": 1}), "endpoint_foreign", True),
        ((200, {**fake_proxy.HEALTH, "ekmFleetDetails": "x"}), "endpoint_foreign", True),
        (b"", "endpoint_unreachable", False),
        (b"SSH-2.0-OpenSSH\r\n", "endpoint_unreachable", False),
    ],
)
def test_answers(proxy: fake_proxy.FakeProxy, answer: Any, code: str, permanent: bool) -> None:
    proxy.override = lambda seen: answer
    error = refused()
    assert (error.code, error.permanent) == (code, permanent)


def test_a_fleet_that_is_all_unavailable(proxy: fake_proxy.FakeProxy) -> None:
    proxy.health["ekmFleetDetails"][0]["healthStatus"] = "UNAVAILABLE"
    assert refused().code == "endpoint_unavailable"


def test_an_unknown_authority(monkeypatch: pytest.MonkeyPatch, tls_files: dict[str, Path]) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(tls_files["stranger"]))
    assert refused().code == "endpoint_certificate"


def test_a_certificate_of_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_PUBLIC_ENDPOINT", "https://other.example.com")
    assert refused(endpoint="https://other.example.com").code == "endpoint_certificate"


def test_an_authority_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(tmp_path / "none.pem"))
    error = refused()
    assert (error.code, error.permanent) == ("no_private_ca", False)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_PORT", str(free_port))
    error = refused()
    assert (error.code, error.permanent) == ("endpoint_unreachable", False)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("KEYSTEAD_XKS_PORT", str(silent.getsockname()[1]))
        error = refused()
    assert (error.code, error.permanent) == ("endpoint_timeout", False)


# --- what may be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1%eth0", "224.0.0.1", "::ffff:169.254.169.254"],
)
def test_this_machine_and_its_link_are_not_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]
    )
    error = refused(endpoint="https://feel.example.com", simulated=False)
    assert (error.code, error.permanent) == ("endpoint_not_public", True)


def test_the_simulators_map_is_not_for_real_accounts(
    monkeypatch: pytest.MonkeyPatch, proxy: fake_proxy.FakeProxy
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refused(simulated=False).code == "endpoint_unknown"
    assert proxy.seen == []


@pytest.mark.parametrize(
    "endpoint", ["http://xks.keystead.test", "https://xks.keystead.test:22", "https://h/path"]
)
def test_only_https_hosts_are_asked(endpoint: str) -> None:
    with pytest.raises(ValidationFailed):
        ask(endpoint=endpoint)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.16.0.9", "192.168.1.1", "100.64.0.1", "fd00::7", "::ffff:10.1.2.3"]
)
def test_private_networks_are_not_felt_around_in(
    address: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT = "https://own.example.com"
    known = {"feel.example.com": address, "own.example.com": "203.0.113.9"}
    _resolves(monkeypatch, known)
    with pytest.raises(OperationError) as found:
        preflight._resolve("feel.example.com")
    assert found.value.code == "endpoint_not_allowed"
    assert "KEYSTEAD_XKS_ENDPOINT_NETWORKS" in found.value.cure
    settings.KEYSTEAD_XKS_ENDPOINT_NETWORKS = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    if address in ("10.1.2.3", "fd00::7", "::ffff:10.1.2.3"):
        assert preflight._resolve("feel.example.com") == address


def test_our_own_endpoint_may_be_private_by_any_of_its_names(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT = "https://own.example.com"
    _resolves(
        monkeypatch,
        {"own.example.com": "10.1.2.3", "same.example.com": "10.1.2.3", "next.example.com": "10.1.2.4"},
    )
    assert preflight._resolve("own.example.com") == preflight._resolve("same.example.com") == "10.1.2.3"
    with pytest.raises(OperationError):
        preflight._resolve("next.example.com")


def _resolves(monkeypatch: pytest.MonkeyPatch, known: dict[str, str]) -> None:
    def getaddrinfo(host: str, port: int, **more: Any) -> list[Any]:
        return [(None, None, 0, "", (known[host], port))]

    monkeypatch.setattr(preflight.socket, "getaddrinfo", getaddrinfo)
