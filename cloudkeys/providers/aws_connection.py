"""Clients of the AWS SDK: made once for each credential, shared by threads, and deaf to this machine's own AWS set-up."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from django.conf import settings

from cloudkeys.providers.aws_errors import translated
from cloudkeys.providers.base import Credentials, ErrorCode, Identity, ProviderError
from vault import env

CONNECT_TIMEOUT_S = 4
# KMS itself waits for our endpoint in some calls, and CreateCustomKeyStore asks it several times.
READ_TIMEOUT_S = 15
ATTEMPTS = 3
SESSION_NAME = "keystead"
SESSION_S = 3600
RENEW_BEFORE_S = 300
KEPT_CONNECTIONS = 32

_lock = threading.Lock()
_session: boto3.session.Session | None = None
_connections: OrderedDict[str, Connection] = OrderedDict()


def _sdk() -> boto3.session.Session:
    """One SDK session for the process: it loads the service models once. Call with the lock held.

    It reads no ~/.aws, no profile and no AWS_ENDPOINT_URL: the account in the database alone says who we are and where.
    """
    global _session
    if _session is None:
        # (name in a config file, environment variable, default, conversion), as botocore.session declares them.
        unread = {
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
        core = botocore.session.Session(session_vars=unread)
        _session = boto3.session.Session(botocore_session=core)
    return _session


class Connection:
    """The clients of one credential."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._clients: dict[tuple[str, str, bool], tuple[Any, float]] = {}
        self._identity: Identity | None = None
        self._own_lock = threading.Lock()

    @property
    def partition(self) -> str:
        """As ARNs spell it; the simulator imitates `aws`."""
        return "aws" if self.is_simulated else self._credentials.partition

    @property
    def is_simulated(self) -> bool:
        """Whether this is the bundled simulator."""
        return self._credentials.partition == "simulator"

    @property
    def where(self) -> str:
        """How a person knows the other side."""
        return "the bundled AWS simulator" if self.is_simulated else "AWS"

    def client(self, service: str, region: str = "", *, direct: bool = False) -> Any:
        """A client of `service` in `region` (the account's default). `direct` leaves the role to assume out.

        Raises ProviderError when the simulator is off, or the role cannot be assumed.
        """
        region = region or self._credentials.default_region
        direct = direct or not self._credentials.role_arn
        with self._own_lock:
            made, until = self._clients.get((service, region, direct), (None, 0.0))
            if made is not None and time.monotonic() < until:
                return made
            keys, until = self._keys(direct)
            made = self._make(service, region, keys)
            self._clients[service, region, direct] = (made, until)
            return made

    def forget_session(self) -> None:
        """Drop what the role's session signed; the next call assumes it anew."""
        with self._own_lock:
            self._clients = {name: entry for name, entry in self._clients.items() if name[2]}

    def identity(self, *, fresh: bool = False) -> Identity:
        """Whose credential it is; asked once, unless `fresh`."""
        if self._identity is None or fresh:
            client = self.client("sts")
            with translated(self.where):
                said = client.get_caller_identity()
            self._identity = Identity(account_id=said["Account"], arn=said["Arn"])
        return self._identity

    def _keys(self, direct: bool) -> tuple[dict[str, str], float]:
        own = {
            "aws_access_key_id": self._credentials.access_key_id,
            "aws_secret_access_key": self._credentials.secret_access_key.reveal_text(),
        }
        if direct:
            return own, float("inf")
        client = self._make("sts", self._credentials.default_region, own)
        request: dict[str, Any] = {
            "RoleArn": self._credentials.role_arn,
            "RoleSessionName": SESSION_NAME,
            "DurationSeconds": SESSION_S,
        }
        if self._credentials.external_id:
            request["ExternalId"] = self._credentials.external_id
        with translated(self.where):
            given = client.assume_role(**request)["Credentials"]
        keys = {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }
        return keys, time.monotonic() + SESSION_S - RENEW_BEFORE_S

    def _make(self, service: str, region: str, keys: dict[str, str]) -> Any:
        options: dict[str, Any] = {}
        if self.is_simulated:
            options["endpoint_url"] = simulator_url()
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=16,
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # not in its stubs yet
            user_agent_extra="keystead",
            # A proxy of this machine is for the way out, not for the way to itself.
            proxies={} if self.is_simulated else None,
        )
        with _lock, translated(self.where):
            make: Any = _sdk().client
            return make(service, region_name=region, config=config, **keys, **options)


def simulator_url() -> str:
    """Where the bundled simulator listens; the one address that is not AWS's. Raises ProviderError when it is off."""
    if not settings.KEYSTEAD_SIMULATOR:
        raise ProviderError(
            ErrorCode.SIMULATOR_OFF,
            "This account lives in the bundled simulator, which is switched off here.",
            "Set KEYSTEAD_SIMULATOR=on, or use an account of AWS itself.",
            permanent=True,
        )
    return f"http://127.0.0.1:{env.get('KEYSTEAD_SIMULATOR_PORT')}"


def connection_for(credentials: Credentials) -> Connection:
    """The shared connection of a credential; the least recently used ones are dropped."""
    secret = hashlib.sha256(credentials.secret_access_key.reveal()).hexdigest()
    port = str(env.get("KEYSTEAD_SIMULATOR_PORT")) if credentials.partition == "simulator" else ""
    key = "\0".join(
        (
            credentials.partition,
            credentials.access_key_id,
            secret,
            credentials.default_region,
            credentials.role_arn,
            credentials.external_id,
            port,
        )
    )
    with _lock:
        found = _connections.get(key)
        if found is None:
            found = _connections[key] = Connection(credentials)
        _connections.move_to_end(key)
        while len(_connections) > KEPT_CONNECTIONS:
            _connections.popitem(last=False)
        return found
