"""External key stores of the simulator: every rule and every way in which connecting can fail."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws import kms_stores
from cloudkeys.simulators.aws.context import ACCOUNTS, Settings
from cloudkeys.simulators.aws.server import RunningServer, running
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.cloudkeys.simulators.aws.conftest import CREDENTIAL, HOST, make_client, make_store, store_state
from tests.cloudkeys.simulators.aws.fake_proxy import FakeProxy, error

VPC = {
    "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE",
    "XksProxyVpcEndpointServiceName": "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0",
}


def code_of(call: Callable[..., Any], **params: Any) -> str:
    """The error code with which a call is refused."""
    with pytest.raises(ClientError) as refused:
        call(**params)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return str(refused.value.response["Error"]["Code"])


@pytest.fixture
def kms(xks_server: RunningServer) -> Any:
    """The administrator's KMS client."""
    return make_client(xks_server, "kms")


def connect(server: RunningServer, kms: Any, store_id: str) -> tuple[str, str | None]:
    """Connect and wait until it is decided how that went."""
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    kms_stores.wait_for_connections(server.sim)
    return store_state(kms, store_id)


def test_create_asks_health_with_what_aws_sends(kms: Any, proxy: FakeProxy) -> None:
    store_id = make_store(kms)
    (seen,) = proxy.seen
    assert seen.path == "/health"
    assert set(seen.document["requestMetadata"]) == {"kmsRequestId", "kmsOperation"}
    assert seen.document["requestMetadata"]["kmsOperation"] == "CreateCustomKeyStore"
    assert seen.headers["host"] == HOST
    assert "SignedHeaders=host;x-amz-date," in seen.headers["authorization"]
    assert "/eu-west-1/kms-xks-proxy/aws4_request" in seen.headers["authorization"]
    assert store_state(kms, store_id) == ("DISCONNECTED", None)


def test_describe_shows_the_proxy_without_its_secret(kms: Any) -> None:
    store_id = make_store(kms)
    (entry,) = kms.describe_custom_key_stores(CustomKeyStoreName="store")["CustomKeyStores"]
    assert entry["CustomKeyStoreId"] == store_id
    assert entry["CustomKeyStoreType"] == "EXTERNAL_KEY_STORE"
    assert entry["XksProxyConfiguration"] == {
        "Connectivity": "PUBLIC_ENDPOINT",
        "AccessKeyId": fake_proxy.ACCESS_KEY_ID,
        "UriEndpoint": f"https://{HOST}",
        "UriPath": fake_proxy.PATH,
    }
    assert code_of(kms.describe_custom_key_stores, CustomKeyStoreId="cks-nothing") == (
        "CustomKeyStoreNotFoundException"
    )


def test_endpoint_and_path_are_unique_in_an_account_and_region(
    xks_server: RunningServer, kms: Any, proxy: FakeProxy
) -> None:
    make_store(kms)
    with pytest.raises(ClientError, match="XksProxyUriInUseException"):
        make_store(kms, CustomKeyStoreName="second")
    with pytest.raises(ClientError, match="CustomKeyStoreNameInUseException"):
        make_store(kms, XksProxyUriPath="/other/kms/xks/v1")
    make_store(make_client(xks_server, "kms", region="us-east-1"))
    make_store(make_client(xks_server, "kms", account=ACCOUNTS[1]))
    assert len(proxy.seen) == 3


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"CustomKeyStoreType": "AWS_CLOUDHSM"}, "UnsupportedOperationException"),
        ({"XksProxyUriEndpoint": f"https://{HOST}:8443"}, "ValidationException"),
        ({"XksProxyUriEndpoint": f"http://{HOST}.example"}, "ValidationException"),
        ({"XksProxyUriPath": "/kms/xks/one"}, "ValidationException"),
        ({"XksProxyUriPath": "/a b/kms/xks/v1"}, "ValidationException"),
        ({"XksProxyConnectivity": "VPC_ENDPOINT_SERVICE"}, "ValidationException"),
        (
            {"XksProxyVpcEndpointServiceName": "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0"},
            "ValidationException",
        ),
        (
            {
                **VPC,
                "XksProxyVpcEndpointServiceName": "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0",
            },
            "XksProxyVpcEndpointServiceInvalidConfigurationException",
        ),
        (
            {"XksProxyAuthenticationCredential": {**CREDENTIAL, "AccessKeyId": "abcdefghijklmnopqrst"}},
            "ValidationException",
        ),
        ({"KeyStorePassword": "kmsPswd"}, "ValidationException"),
    ],
)
def test_create_refuses_what_aws_refuses(
    kms: Any, proxy: FakeProxy, changes: dict[str, Any], code: str
) -> None:
    assert code_of(make_store, kms=kms, **changes) == code
    assert proxy.seen == []
    assert kms.describe_custom_key_stores()["CustomKeyStores"] == []


def test_a_refused_credential_is_not_repeated(kms: Any) -> None:
    secret = "not!base64" * 5
    with pytest.raises(ClientError) as refused:
        make_store(kms, XksProxyAuthenticationCredential={**CREDENTIAL, "RawSecretAccessKey": secret})
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert secret not in str(refused.value)


def test_quota_of_stores(xks_settings: Settings) -> None:
    with running(dataclasses.replace(xks_settings, max_custom_key_stores=1)) as server:
        kms = make_client(server, "kms")
        make_store(kms)
        code = code_of(make_store, kms=kms, CustomKeyStoreName="b", XksProxyUriPath="/b/kms/xks/v1")
    assert code == "LimitExceededException"


def _bad_health(change: dict[str, Any]) -> Callable[[FakeProxy], None]:
    def apply(proxy: FakeProxy) -> None:
        proxy.health.update(change)

    return apply


def _answers(answer: fake_proxy.Answer) -> Callable[[FakeProxy], None]:
    def apply(proxy: FakeProxy) -> None:
        proxy.override = lambda seen: answer

    return apply


def _forgets_credential(proxy: FakeProxy) -> None:
    proxy.secrets = {}


def _has_other_secret(proxy: FakeProxy) -> None:
    proxy.secrets = {fake_proxy.ACCESS_KEY_ID: "x" * 43}


def _moves(proxy: FakeProxy) -> None:
    proxy.prefix = "/elsewhere"


UNAVAILABLE = {"id": "one", "model": "m", "healthStatus": "UNAVAILABLE"}
WRONG = [
    (_forgets_credential, "INVALID_CREDENTIALS", "XksProxyIncorrectAuthenticationCredentialException"),
    (_has_other_secret, "INVALID_CREDENTIALS", "XksProxyIncorrectAuthenticationCredentialException"),
    (_moves, "XKS_PROXY_INVALID_CONFIGURATION", "XksProxyInvalidConfigurationException"),
    (
        _answers(error(403, "AccessDeniedException")),
        "XKS_PROXY_ACCESS_DENIED",
        "XksProxyInvalidConfigurationException",
    ),
    (
        _answers(error(400, "InvalidStateException")),
        "XKS_PROXY_INVALID_CONFIGURATION",
        "XksProxyInvalidConfigurationException",
    ),
    (
        _answers(error(503, "DependencyTimeoutException")),
        "XKS_PROXY_TIMED_OUT",
        "XksProxyUriUnreachableException",
    ),
    (_answers((200, b"<html>")), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_answers((200, [])), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_answers((502, b"bad gateway")), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_answers((200, b" " * 70000)), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_answers(b""), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_answers(b"SSH-2.0\r\n\r\n"), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_bad_health({"ekmVendor": None}), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_bad_health({"xksProxyFleetSize": 0}), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (_bad_health({"ekmFleetDetails": []}), "XKS_PROXY_INVALID_RESPONSE", "XksProxyInvalidResponseException"),
    (
        _bad_health({"ekmFleetDetails": [{"id": "a", "model": "m", "healthStatus": "FINE"}]}),
        "XKS_PROXY_INVALID_RESPONSE",
        "XksProxyInvalidResponseException",
    ),
    (
        _bad_health({"ekmFleetDetails": [UNAVAILABLE, UNAVAILABLE]}),
        "XKS_PROXY_NOT_REACHABLE",
        "XksProxyUriUnreachableException",
    ),
]


@pytest.mark.parametrize(("spoil", "code", "exception"), WRONG)
def test_what_is_wrong_has_its_own_code(
    xks_server: RunningServer,
    kms: Any,
    proxy: FakeProxy,
    spoil: Callable[[FakeProxy], None],
    code: str,
    exception: str,
) -> None:
    store_id = make_store(kms)
    spoil(proxy)
    assert connect(xks_server, kms, store_id) == ("FAILED", code)
    elsewhere = make_client(xks_server, "kms", region="us-east-1")
    assert code_of(make_store, kms=elsewhere) == exception
    assert elsewhere.describe_custom_key_stores()["CustomKeyStores"] == []


def test_one_available_member_is_enough(xks_server: RunningServer, kms: Any, proxy: FakeProxy) -> None:
    proxy.health["ekmFleetDetails"].append(UNAVAILABLE)
    assert connect(xks_server, kms, make_store(kms)) == ("CONNECTED", None)


def test_time_out(xks_settings: Settings, xks_server: RunningServer, kms: Any, proxy: FakeProxy) -> None:
    store_id = make_store(kms)
    xks_server.sim.xks._transport.timeout_s = 0.15
    with _holding(proxy):
        assert connect(xks_server, kms, store_id) == ("FAILED", "XKS_PROXY_TIMED_OUT")
    kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)


@contextlib.contextmanager
def _holding(proxy: FakeProxy) -> Iterator[None]:
    """A proxy that answers nothing before the block ends."""
    released = threading.Event()

    def wait(seen: fake_proxy.Seen) -> bytes:
        released.wait()
        return b""

    proxy.override = wait
    try:
        yield
    finally:
        released.set()


def test_tls_that_aws_does_not_trust(
    xks_settings: Settings, tls_files: dict[str, Path], proxy: FakeProxy
) -> None:
    with running(dataclasses.replace(xks_settings, xks_ca_file=tls_files["stranger"])) as server:
        kms = make_client(server, "kms")
        assert code_of(make_store, kms=kms) == "XksProxyInvalidConfigurationException"
        store_id = make_store(kms, **VPC)
        assert connect(server, kms, store_id) == ("FAILED", "XKS_PROXY_INVALID_TLS_CONFIGURATION")


def test_certificate_of_another_host(xks_settings: Settings, proxy: FakeProxy) -> None:
    settings = dataclasses.replace(xks_settings, connect_to={"other.test": ("127.0.0.1", proxy.port)})
    with running(settings) as server:
        kms = make_client(server, "kms")
        store_id = make_store(kms, XksProxyUriEndpoint="https://other.test", **VPC)
        assert connect(server, kms, store_id) == ("FAILED", "XKS_PROXY_INVALID_TLS_CONFIGURATION")


def test_nobody_listens(xks_settings: Settings, free_port: int) -> None:
    settings = dataclasses.replace(xks_settings, connect_to={HOST: ("127.0.0.1", free_port)})
    with running(settings) as server:
        kms = make_client(server, "kms")
        assert code_of(make_store, kms=kms) == "XksProxyUriUnreachableException"
        store_id = make_store(kms, **VPC)
        assert connect(server, kms, store_id) == ("FAILED", "XKS_PROXY_NOT_REACHABLE")


def test_no_host_outside_the_map_is_ever_called(xks_server: RunningServer, kms: Any) -> None:
    code = code_of(make_store, kms=kms, XksProxyUriEndpoint="https://kms.example.com")
    assert code == "XksProxyUriUnreachableException"
    store_id = make_store(kms, XksProxyUriEndpoint="https://kms.example.com", **VPC)
    assert connect(xks_server, kms, store_id) == ("FAILED", "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND")


def test_vpc_stores_call_health_when_they_connect_only(
    xks_server: RunningServer, kms: Any, proxy: FakeProxy
) -> None:
    store_id = make_store(kms, **VPC)
    assert proxy.seen == []
    with pytest.raises(ClientError, match="XksProxyUriEndpointInUseException"):
        make_store(kms, CustomKeyStoreName="b", XksProxyUriPath="/b/kms/xks/v1")
    assert connect(xks_server, kms, store_id) == ("CONNECTED", None)
    assert proxy.seen[0].document["requestMetadata"]["kmsOperation"] == "ConnectCustomKeyStore"


def test_a_failed_store_must_be_disconnected_first(
    xks_server: RunningServer, kms: Any, proxy: FakeProxy
) -> None:
    store_id = make_store(kms)
    right, proxy.secrets = proxy.secrets, {}
    assert connect(xks_server, kms, store_id) == ("FAILED", "INVALID_CREDENTIALS")
    for call in (kms.connect_custom_key_store, kms.delete_custom_key_store):
        assert code_of(call, CustomKeyStoreId=store_id) == "CustomKeyStoreInvalidStateException"
    kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    proxy.secrets = right
    assert connect(xks_server, kms, store_id) == ("CONNECTED", None)


def test_update_while_connected(xks_server: RunningServer, kms: Any, proxy: FakeProxy) -> None:
    store_id = make_store(kms)
    connect(xks_server, kms, store_id)
    new = {"AccessKeyId": "TSRQPONMLKJIHGFEDCBA", "RawSecretAccessKey": "b" * 43}
    update = {"CustomKeyStoreId": store_id, "XksProxyAuthenticationCredential": new}
    assert code_of(kms.update_custom_key_store, **update) == (
        "XksProxyIncorrectAuthenticationCredentialException"
    )
    proxy.secrets[new["AccessKeyId"]] = new["RawSecretAccessKey"]
    kms.update_custom_key_store(**update)
    del proxy.secrets[fake_proxy.ACCESS_KEY_ID]
    kms.update_custom_key_store(CustomKeyStoreId=store_id, NewCustomKeyStoreName="renamed")
    (entry,) = kms.describe_custom_key_stores()["CustomKeyStores"]
    assert entry["CustomKeyStoreName"] == "renamed"
    assert entry["XksProxyConfiguration"]["AccessKeyId"] == new["AccessKeyId"]
    assert entry["ConnectionState"] == "CONNECTED"
    assert code_of(
        kms.update_custom_key_store, CustomKeyStoreId=store_id, XksProxyUriEndpoint=f"https://{HOST}"
    ) == ("CustomKeyStoreInvalidStateException")
    assert code_of(kms.update_custom_key_store, CustomKeyStoreId=store_id) == "ValidationException"


def test_update_keeps_names_and_addresses_unique(kms: Any, proxy: FakeProxy) -> None:
    make_store(kms)
    proxy.override = lambda seen: (200, proxy.health)
    other = make_store(kms, CustomKeyStoreName="b", XksProxyUriPath="/b/kms/xks/v1")
    for change, code in (
        ({"NewCustomKeyStoreName": "store"}, "CustomKeyStoreNameInUseException"),
        ({"XksProxyUriPath": fake_proxy.PATH}, "XksProxyUriInUseException"),
    ):
        assert code_of(kms.update_custom_key_store, CustomKeyStoreId=other, **change) == code


def test_delete(xks_server: RunningServer, kms: Any) -> None:
    store_id = make_store(kms)
    connect(xks_server, kms, store_id)
    assert code_of(kms.delete_custom_key_store, CustomKeyStoreId=store_id) == (
        "CustomKeyStoreInvalidStateException"
    )
    key = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="key-1")
    kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    assert code_of(kms.delete_custom_key_store, CustomKeyStoreId=store_id) == "CustomKeyStoreHasCMKsException"
    kms.schedule_key_deletion(KeyId=key["KeyMetadata"]["KeyId"], PendingWindowInDays=7)
    assert code_of(kms.delete_custom_key_store, CustomKeyStoreId=store_id) == "CustomKeyStoreHasCMKsException"
    xks_server.sim.state.advance_clock(8 * 86400)
    kms.delete_custom_key_store(CustomKeyStoreId=store_id)
    assert kms.describe_custom_key_stores()["CustomKeyStores"] == []
    assert code_of(kms.disconnect_custom_key_store, CustomKeyStoreId=store_id) == (
        "CustomKeyStoreNotFoundException"
    )


def test_a_store_that_was_connecting_goes_on_after_a_restart(
    xks_settings: Settings, xks_server: RunningServer, kms: Any
) -> None:
    store_id = make_store(kms)
    with xks_server.sim.state.transaction() as db:
        db.execute("UPDATE kms_stores SET state = 'CONNECTING'")
    with running(xks_settings) as again:
        kms_stores.wait_for_connections(again.sim)
        assert store_state(make_client(again, "kms"), store_id) == ("CONNECTED", None)


def test_a_disconnection_wins_over_a_connection_on_its_way(
    xks_server: RunningServer, kms: Any, proxy: FakeProxy
) -> None:
    store_id = make_store(kms)
    with _holding(proxy):
        kms.connect_custom_key_store(CustomKeyStoreId=store_id)
        assert store_state(kms, store_id) == ("CONNECTING", None)
        kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    kms_stores.wait_for_connections(xks_server.sim)
    assert store_state(kms, store_id) == ("DISCONNECTED", None)


def test_another_account_does_not_see_the_store(xks_server: RunningServer, kms: Any) -> None:
    store_id = make_store(kms)
    other = make_client(xks_server, "kms", account=ACCOUNTS[1])
    assert other.describe_custom_key_stores()["CustomKeyStores"] == []
    for call in (other.connect_custom_key_store, other.delete_custom_key_store):
        assert code_of(call, CustomKeyStoreId=store_id) == "CustomKeyStoreNotFoundException"
