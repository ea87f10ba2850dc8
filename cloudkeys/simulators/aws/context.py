"""What every service of the simulator shares: who calls, what is asked, what went wrong, and the simulator.

The seams between the services, in one place:

* ``iam.find_access_key(sim, access_key_id) -> (secret, Caller, active, session_token | None) | None``
  is asked by ``auth`` for every request.
* ``access.authorize(sim, caller, action, resource_arn, context, resource_policy=None) -> None`` raises
  ``AwsError("AccessDeniedException", ...)``; ``extra["explicit_deny"]`` is true when a statement denied, so
  that KMS knows whether a grant may still allow.
* ``iam.ensure_administrator(sim, administrator)`` makes the IAM user of a bootstrap ``Administrator``, with
  exactly that user name, user id and access key; it is called at every start and changes nothing the second time.
* ``kms_crypto.generate_data_key`` and ``kms_crypto.decrypt`` are what S3 calls, in the process.
* A service's handler takes ``(sim, request)`` and answers a dict (JSON and query services; the frame
  serialises it by botocore's model of the operation) or a ``RawResponse``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudkeys.simulators.aws.faults import Faults
    from cloudkeys.simulators.aws.state import State
    from cloudkeys.simulators.aws.xks_client import XksClient

ACCOUNTS = ("111122223333", "444455556666")
DEFAULT_REGION = "eu-west-1"
# The pattern of the regions of the partition "aws" in botocore's partitions file.
REGION_PATTERN = re.compile(r"(us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-[0-9]{1,2}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one simulator is run.

    ``data_dir`` is the folder of the simulator's own state (``<data dir>/simulator``). ``xks_ca_file`` is the
    PEM bundle that stands for AWS's list of trusted authorities (None: the system's). ``connect_to`` sends a
    host name (as in ``https://<host>``) to an address and port of this machine; no other host is ever called.
    ``max_custom_key_stores`` is AWS's quota by account and region. ``xks_timeout_s`` is the time
    in seconds that KMS waits for an external key store proxy, connection included (AWS: 0.25).
    """

    data_dir: Path
    accounts: tuple[str, ...] = ACCOUNTS
    default_region: str = DEFAULT_REGION
    host: str = "127.0.0.1"
    port: int = 0
    xks_ca_file: Path | None = None
    connect_to: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    xks_timeout_s: float = 0.25
    max_body_bytes: int = 256 * 1024 * 1024
    max_custom_key_stores: int = 10


@dataclass(frozen=True, slots=True)
class Caller:
    """The principal behind a request.

    ``principal_arn`` is what AWS writes into awsPrincipalArn (for an assumed role the
    ``arn:aws:sts::<account>:assumed-role/<role>/<session>`` form). ``source`` names the AWS service that calls on
    behalf of the principal (``s3.eu-west-1.amazonaws.com``), None for a direct call.
    """

    account_id: str
    principal_arn: str
    principal_id: str
    access_key_id: str
    user_name: str | None = None
    role_name: str | None = None
    session_name: str | None = None
    source: str | None = None
    is_root: bool = False


@dataclass(slots=True)
class ApiRequest:
    """One authenticated request. ``headers`` have lower-case names; ``path`` and ``query`` are as sent."""

    service: str
    operation: str
    region: str
    params: dict[str, Any]
    headers: Mapping[str, str]
    body: bytes
    caller: Caller
    request_id: str
    method: str = "POST"
    path: str = "/"
    query: str = ""


@dataclass(frozen=True, slots=True)
class RawResponse:
    """An answer that the frame sends as it is. ``Content-Length`` and the request id are added by the frame."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class AwsError(Exception):
    """An error as the AWS API names it; the frame writes it in the shape of the service's protocol.

    ``extra`` holds further members of the error document (S3's BucketName, Key...) and, under names that the
    frame never writes (``explicit_deny``), hints between services.
    """

    def __init__(
        self, code: str, message: str = "", status: int = 400, extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.extra: dict[str, Any] = dict(extra or {})


@dataclass(frozen=True, slots=True)
class Administrator:
    """The IAM user with all permissions that each account starts with."""

    account_id: str
    user_name: str
    user_id: str
    access_key_id: str
    secret_access_key: str = field(repr=False)

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::{self.account_id}:user/{self.user_name}"


@dataclass(slots=True)
class Simulator:
    """One running simulator: state on disk, faults on request, the client to XKS proxies, its settings.

    ``slots`` holds what a service keeps in memory for this simulator only (S3's bucket keys, moto's
    backends), by the name of the module that owns it.
    """

    settings: Settings
    state: State
    faults: Faults
    xks: XksClient
    slots: dict[str, Any] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds since the epoch on the simulator's clock, which the control endpoint can put forward.

        Signatures are checked against the real clock, since clients sign with theirs.
        """
        return time.time() + self.state.clock_offset_s()

    def close(self) -> None:
        """Close the state and the connections to XKS proxies."""
        self.xks.close()
        self.state.close()


def check_region(region: str) -> None:
    """Raise AwsError when the name is not a region of the partition ``aws``."""
    if not REGION_PATTERN.fullmatch(region):
        raise AwsError(
            "UnrecognizedClientException",
            f"Credential should be scoped to a valid region. {region!r} is none.",
        )
