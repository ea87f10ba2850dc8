"""Our own check of an XKS endpoint, as AWS KMS will call it, before anything is made in AWS.

A GetHealthStatus of the XKS Proxy API 1.0.3, signed with the store's own credential. AWS names only a class of
trouble; here the cause is named. Only `https://` and a host name can be asked for, on port 443, nothing of the answer
but its meaning is shown, and addresses of this very machine, of its link and of private networks are refused (but for those
that the appliance admin has named), so that nobody can feel around our network with it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from django.conf import settings

from cloudkeys import naming
from cloudkeys.operations.errors import OperationError
from cloudkeys.simulators.aws.product import simulator_settings
from vault.secret import Secret

PORT = 443
TIMEOUT_S = 5.0
# What AWS KMS allows for a whole call; ours comes from elsewhere, so a slow one is told and not refused.
AWS_BUDGET_MS = 250
MAX_ANSWER = 64 * 1024


@dataclass(frozen=True)
class EndpointReport:
    """What the endpoint showed."""

    milliseconds: int
    tls_version: str
    fleet_size: int
    vendor: str

    @property
    def summary(self) -> str:
        """For the step's detail."""
        slow = f"; AWS allows {AWS_BUDGET_MS} ms" if self.milliseconds > AWS_BUDGET_MS else ""
        return f"healthy in {self.milliseconds} ms{slow}, {self.tls_version}, fleet of {self.fleet_size}"


def check_endpoint(
    endpoint: str, uri_path: str, access_key_id: str, secret: Secret, *, region: str, simulated: bool
) -> EndpointReport:
    """Ask `endpoint` (https://host) for its health under `uri_path`. Raises OperationError with cause and cure.

    `simulated`: reached and trusted as the bundled simulator does it, with its connect-to map (https://xks.keystead.test
    is this machine's XKS port) and its list of authorities.
    """
    host = naming.check_endpoint(endpoint).removeprefix("https://").lower()
    address, port, authorities = find_place(host, simulated=simulated)
    context = ssl.create_default_context() if authorities is None else _private_context(authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    body = json.dumps(
        {"requestMetadata": {"kmsRequestId": str(uuid.uuid4()), "kmsOperation": "KmsHealthCheck"}}
    ).encode()
    headers = _signed_headers(host, f"{uri_path}/health", body, access_key_id, secret, region)
    began = time.monotonic()
    status, answer, tls = _call(address, port, host, context, f"{uri_path}/health", headers, body)
    milliseconds = round((time.monotonic() - began) * 1000)
    return _judge(status, answer, milliseconds, tls)


def find_place(host: str, *, simulated: bool) -> tuple[str, int, Path | None]:
    """Address and port that stand for an endpoint's host, judged, and the private authorities to trust there, if any.

    Raises OperationError when the name does not resolve, or to an address that may not be asked.
    """
    seen = simulator_settings() if simulated else None
    if seen is not None and host in seen.connect_to:
        address, port = seen.connect_to[host]
        return address, port, seen.xks_ca_file
    return _resolve(host), PORT, None


def _private_context(authorities: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(authorities) if authorities else None)
    except (OSError, ssl.SSLError) as error:
        raise OperationError(
            "no_private_ca",
            f"The authorities in {authorities} cannot be read ({type(error).__name__}).",
            "Start the XKS endpoint once; it makes its certificates then.",
            permanent=False,
        ) from None


def _resolve(host: str) -> str:
    """The address to ask; chosen once, so that it is the one that was judged."""
    try:
        found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    except OSError:
        raise OperationError(
            "endpoint_unknown",
            f"The host name {host} does not resolve from here.",
            "Check the endpoint's name and its DNS record.",
            permanent=True,
        ) from None
    address = str(found[0][4][0])
    judged = ipaddress.ip_address(address.split("%")[0])
    if isinstance(judged, ipaddress.IPv6Address) and judged.ipv4_mapped is not None:
        judged = judged.ipv4_mapped
    if judged.is_loopback or judged.is_link_local or judged.is_multicast or judged.is_unspecified:
        raise OperationError(
            "endpoint_not_public",
            f"{host} resolves to an address of this machine or its own link, which AWS could not reach.",
            "Give the DNS name by which AWS reaches this installation.",
            permanent=True,
        )
    if not _may_be_asked(host, judged):
        raise OperationError(
            "endpoint_not_allowed",
            f"{host} resolves to an address of a private network, which is not asked from here.",
            "Give the DNS name by which AWS reaches this installation. If this is it, have the appliance admin name its network "
            "in KEYSTEAD_XKS_ENDPOINT_NETWORKS.",
            permanent=True,
        )
    return address


def _may_be_asked(host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Public addresses, the networks that the appliance admin named, and where this installation's own endpoint is."""
    if address.is_global or any(address in network for network in settings.KEYSTEAD_XKS_ENDPOINT_NETWORKS):
        return True
    own = settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT.removeprefix("https://").lower()
    if host == own:
        return True
    try:
        found = socket.getaddrinfo(own, PORT, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return str(address) in {str(item[4][0]).split("%")[0] for item in found}


def _signed_headers(
    host: str, path: str, body: bytes, access_key_id: str, secret: Secret, region: str
) -> dict[str, str]:
    # Host without a port, as AWS KMS signs it.
    request = AWSRequest("POST", f"https://{host}{path}", data=body, headers={"Host": host})
    SigV4Auth(Credentials(access_key_id, secret.reveal_text()), "kms-xks-proxy", region).add_auth(request)
    return {**dict(request.headers.items()), "Content-Type": "application/json", "Host": host}


def _call(
    address: str,
    port: int,
    host: str,
    context: ssl.SSLContext,
    path: str,
    headers: dict[str, str],
    body: bytes,
) -> tuple[int, bytes, str]:
    """One request, no redirect followed. Raises OperationError for everything below HTTP."""
    try:
        with (
            socket.create_connection((address, port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S)
            connection.sock = secured
            connection.request("POST", path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER), secured.version() or "TLS"
    except ssl.SSLCertVerificationError as error:
        raise OperationError(
            "endpoint_certificate",
            f"The certificate of {host} is not trusted: {error.verify_message}.",
            "AWS needs the whole chain of a public authority, for exactly this host name.",
            permanent=True,
        ) from None
    except ssl.SSLError as error:
        raise OperationError(
            "endpoint_tls",
            f"No TLS with {host}: {error.reason or type(error).__name__}.",
            "The endpoint must speak TLS 1.2 or 1.3 on port 443.",
            permanent=True,
        ) from None
    except TimeoutError:
        raise OperationError(
            "endpoint_timeout",
            f"{host} did not answer within {TIMEOUT_S:g} s.",
            "See that the XKS workers run, and that port 443 of the endpoint leads to them.",
            permanent=False,
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise OperationError(
            "endpoint_unreachable",
            f"{host} cannot be reached ({type(error).__name__}).",
            "See that the XKS workers run, and that port 443 of the endpoint leads to them.",
            permanent=False,
        ) from None


_REFUSALS: dict[int, tuple[str, str, str]] = {
    401: (
        "endpoint_credential",
        "The endpoint refused the store's own credential.",
        "See that the endpoint is this installation's, that its clock is right, and that nothing rewrites Host.",
    ),
    404: (
        "endpoint_path",
        "The endpoint does not know this store's path.",
        "See that the endpoint is this installation's, and that no balancer rewrites paths.",
    ),
    400: (
        "endpoint_refused",
        "The endpoint refused the health check; a blocked store or vault does so.",
        "Unblock the store, then retry.",
    ),
}


def _judge(status: int, answer: bytes, milliseconds: int, tls: str) -> EndpointReport:
    if status in _REFUSALS:
        code, cause, cure = _REFUSALS[status]
        raise OperationError(code, cause, cure, permanent=True)
    if status != 200:
        raise OperationError(
            "endpoint_fault",
            f"The endpoint answered the health check with HTTP {status}.",
            "Look at the XKS workers' log; behind a balancer, see that it has a healthy node.",
            permanent=status < 500,
        )
    try:
        said: Any = json.loads(answer)
        states = [member["healthStatus"] for member in said["ekmFleetDetails"]]
        report = EndpointReport(
            milliseconds, tls, int(said["xksProxyFleetSize"]), str(said["xksProxyVendor"])[:64]
        )
    except (ValueError, TypeError, KeyError):
        raise OperationError(
            "endpoint_foreign",
            "What answered at the endpoint is no XKS proxy.",
            "See that port 443 of the endpoint leads to Keystead's XKS port.",
            permanent=True,
        ) from None
    if all(state == "UNAVAILABLE" for state in states):
        raise OperationError(
            "endpoint_unavailable",
            "The endpoint says that every key manager behind it is unavailable.",
            "Look at the XKS nodes; AWS would refuse the store with XKS_PROXY_NOT_REACHABLE.",
            permanent=False,
        )
    return report
