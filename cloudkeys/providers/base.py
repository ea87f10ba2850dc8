"""What Keystead asks of a cloud: a narrow protocol, with dataclasses in and out and one kind of error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from vault.errors import DomainError
from vault.secret import Secret


class ProviderError(DomainError):
    """A cloud refused or did not answer.

    permanent: trying the same again cannot help. code: our word for it, stable (see ErrorCode). cause and cure: for a
    tired admin. provider_code: the cloud's own word. Never holds a secret, nor the cloud's text where it might.
    """

    # Where an error table knows no finer word (vault/api/problems.py looks codes up by class).
    code = "provider_error"

    def __init__(
        self, code: str, cause: str, cure: str = "", *, permanent: bool, provider_code: str = ""
    ) -> None:
        super().__init__(cause, cure=cure, provider_code=provider_code)
        self.code = code
        self.cause = cause
        self.permanent = permanent
        self.provider_code = provider_code


class ErrorCode(StrEnum):
    """The words that flows and pages tell apart."""

    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    EXTERNAL_KEY_IN_USE = "external_key_in_use"
    ACCESS_DENIED = "access_denied"
    INVALID_CREDENTIAL = "invalid_credential"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    PROVIDER_FAULT = "provider_fault"
    WRONG_STATE = "wrong_state"
    NOT_EMPTY = "not_empty"
    LIMIT = "limit"
    INVALID_REQUEST = "invalid_request"
    XKS_REFUSED = "xks_refused"
    SIMULATOR_OFF = "simulator_off"


@dataclass(frozen=True)
class Credentials:
    """How to sign in: an access key, and the role to assume with it when there is one."""

    partition: str
    access_key_id: str
    secret_access_key: Secret
    default_region: str
    role_arn: str = ""
    external_id: str = ""


@dataclass(frozen=True)
class Identity:
    """Whose credential it is."""

    account_id: str
    arn: str


@dataclass(frozen=True)
class ActionCheck:
    """One action, what needs it, and whether the credential may do it: allowed, denied or unknown."""

    action: str
    feature: str
    result: str
    detail: str = ""


@dataclass(frozen=True)
class AccountReport:
    """The outcome of a connection test. `ok` when every needed action is allowed or at least not denied."""

    identity: Identity
    checks: tuple[ActionCheck, ...]

    @property
    def denied(self) -> tuple[ActionCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.result == "denied")

    @property
    def ok(self) -> bool:
        """Whether nothing that Keystead needs is denied."""
        return not self.denied


@dataclass(frozen=True)
class Principal:
    """A user or role that can be named in a key policy."""

    kind: str
    name: str
    arn: str


@dataclass(frozen=True)
class AccessKey:
    """An access key of our own user as the cloud lists it."""

    access_key_id: str
    active: bool
    created_at: datetime | None = None


@dataclass(frozen=True)
class NewAccessKey:
    """A new access key: the only time that its secret is seen."""

    access_key_id: str
    secret_access_key: Secret


@dataclass(frozen=True)
class KeyStoreSpec:
    """An external key store to be made."""

    name: str
    endpoint: str
    uri_path: str
    connectivity: str
    vpc_endpoint_service_name: str
    proxy_access_key_id: str
    proxy_secret: Secret


@dataclass(frozen=True)
class KeyStoreChanges:
    """What of an external key store is to change; None leaves it."""

    name: str | None = None
    endpoint: str | None = None
    uri_path: str | None = None
    connectivity: str | None = None
    vpc_endpoint_service_name: str | None = None
    proxy_access_key_id: str | None = None
    proxy_secret: Secret | None = None


@dataclass(frozen=True)
class KeyStore:
    """A custom key store as the cloud describes it."""

    id: str
    name: str
    type: str
    state: str
    error_code: str = ""
    endpoint: str = ""
    uri_path: str = ""
    connectivity: str = ""
    vpc_endpoint_service_name: str = ""
    proxy_access_key_id: str = ""
    created_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """For AwsStoreLink.cloud_state."""
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "state": self.state,
            "error_code": self.error_code,
            "endpoint": self.endpoint,
            "uri_path": self.uri_path,
            "connectivity": self.connectivity,
            "vpc_endpoint_service_name": self.vpc_endpoint_service_name,
            "proxy_access_key_id": self.proxy_access_key_id,
        }


@dataclass(frozen=True)
class KeySpec:
    """A key pointer to be made in an external key store."""

    key_store_id: str
    external_key_id: str
    description: str
    administrators: Sequence[str] = ()
    users: Sequence[str] = ()
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PointerKey:
    """A key pointer as the cloud describes it. state is the cloud's word: Enabled, Disabled, PendingDeletion, ..."""

    id: str
    arn: str
    state: str
    origin: str
    description: str = ""
    key_store_id: str = ""
    external_key_id: str = ""
    deletion_at: datetime | None = None
    aliases: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For CloudKey.cloud_state."""
        return {
            "id": self.id,
            "arn": self.arn,
            "state": self.state,
            "origin": self.origin,
            "description": self.description,
            "key_store_id": self.key_store_id,
            "external_key_id": self.external_key_id,
            "deletion_at": self.deletion_at.isoformat() if self.deletion_at else None,
            "aliases": list(self.aliases),
        }


class Provider(Protocol):
    """One cloud, seen with one account's credentials. Every method may raise ProviderError; none blocks for long.

    `find_*` return None for what is not there; everything else raises ProviderError(code=not_found).
    """

    def identity(self) -> Identity:
        """Whose credential this is."""
        ...

    def probe_access(self) -> AccountReport:
        """What the credential may do, action by action. Changes nothing."""
        ...

    def least_privilege_policy(self) -> dict[str, Any]:
        """The policy document that grants exactly what Keystead uses."""
        ...

    def list_principals(self) -> list[Principal]:
        """Users and roles that can be named as administrators and users of keys."""
        ...

    def list_access_keys(self) -> list[AccessKey]:
        """Our own user's access keys."""
        ...

    def access_key_was_used(self, access_key_id: str) -> bool:
        """Whether an access key of our own user was ever used, as far as the cloud knows."""
        ...

    def create_access_key(self) -> NewAccessKey:
        """Make another access key for our own user. code=limit when there are two."""
        ...

    def set_access_key_active(self, access_key_id: str, active: bool) -> None:
        """Switch an access key of our own user on or off."""
        ...

    def delete_access_key(self, access_key_id: str) -> None:
        """Delete an access key of our own user; nothing happens when it is gone."""
        ...

    def find_key_store(self, region: str, *, id: str = "", name: str = "") -> KeyStore | None:
        """A custom key store by id or by name."""
        ...

    def create_key_store(self, region: str, spec: KeyStoreSpec) -> str:
        """Make an external key store and return its id. The cloud calls our endpoint meanwhile."""
        ...

    def update_key_store(self, region: str, id: str, changes: KeyStoreChanges) -> None:
        """Change an external key store."""
        ...

    def connect_key_store(self, region: str, id: str) -> None:
        """Begin to connect it; look with find_key_store."""
        ...

    def disconnect_key_store(self, region: str, id: str) -> None:
        """Begin to disconnect it."""
        ...

    def delete_key_store(self, region: str, id: str) -> None:
        """Delete a disconnected and empty one; nothing happens when it is gone."""
        ...

    def create_key(self, region: str, spec: KeySpec) -> PointerKey:
        """Make a key pointer. code=external_key_in_use when the external key has one. Our endpoint is called."""
        ...

    def find_key(self, region: str, id: str) -> PointerKey | None:
        """A key by id, ARN or alias, without its list of aliases."""
        ...

    def find_key_by_external_id(
        self, region: str, key_store_id: str, external_key_id: str
    ) -> PointerKey | None:
        """The key pointer to an external key. Slow: looks at every key."""
        ...

    def key_aliases(self, region: str, id: str) -> list[str]:
        """Names of a key's aliases (`alias/...`)."""
        ...

    def key_tags(self, region: str, id: str) -> dict[str, str]:
        """A key's tags."""
        ...

    def create_alias(self, region: str, alias: str, id: str) -> None:
        """Give a key an alias. code=already_exists when it is taken."""
        ...

    def delete_alias(self, region: str, alias: str) -> None:
        """Remove an alias; nothing happens when it is gone."""
        ...

    def set_description(self, region: str, id: str, description: str) -> None:
        """Change a key's description."""
        ...

    def set_policy(self, region: str, id: str, administrators: Sequence[str], users: Sequence[str]) -> None:
        """Write administrators and users into the key policy. Never locks the account out."""
        ...

    def set_tags(self, region: str, id: str, tags: dict[str, str]) -> None:
        """Make the key's tags these, and no others (the cloud's own apart)."""
        ...

    def enable_key(self, region: str, id: str) -> None:
        """Let the cloud use the key again."""
        ...

    def disable_key(self, region: str, id: str) -> None:
        """Stop the cloud's use of the key."""
        ...

    def schedule_key_deletion(self, region: str, id: str, days: int) -> datetime | None:
        """Delete the pointer after so many days; the date, or None when it was scheduled already."""
        ...

    def cancel_key_deletion(self, region: str, id: str) -> None:
        """Keep the pointer after all; it is disabled then. Nothing happens when no deletion was scheduled."""
        ...
