"""The clouds: an explicit table from name to adapter, and how an account becomes a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudkeys.models import CspAccount
from cloudkeys.providers import aws
from cloudkeys.providers.base import AccountReport, Credentials, Principal, Provider, ProviderError
from vault.keys import unseal
from vault.secret import Secret

__all__ = [
    "PROVIDERS",
    "Provider",
    "ProviderError",
    "is_alias_free",
    "least_privilege_policy",
    "list_principals",
    "open_provider",
    "probe_account",
]

PROVIDERS: dict[str, Callable[[Credentials], Provider]] = {"aws": aws.AwsProvider}


def open_provider(
    account: CspAccount,
    *,
    access_key_id: str = "",
    secret_access_key: Secret | None = None,
    direct: bool = False,
) -> Provider:
    """A connection with the account's credential, or with another access key of it (rotation).

    `direct` leaves the role to assume out: it speaks as the user whose access key it is. Nothing is sent yet.
    """
    secret = secret_access_key or unseal(account, "secret_access_key")
    assumes = account.auth_method == CspAccount.AuthMethod.ASSUME_ROLE and not direct
    return PROVIDERS[account.provider](
        Credentials(
            partition=account.partition,
            access_key_id=access_key_id or account.access_key_id,
            secret_access_key=secret,
            default_region=account.default_region,
            role_arn=account.role_arn if assumes else "",
            external_id=account.external_id if assumes else "",
        )
    )


def probe_account(account: CspAccount) -> AccountReport:
    """Identity, and action by action what the credential may do. Changes nothing. Raises ProviderError."""
    return open_provider(account).probe_access()


def least_privilege_policy(account: CspAccount) -> dict[str, Any]:
    """The IAM policy that grants exactly what Keystead uses in this account. Nothing is asked of the cloud."""
    return open_provider(account).least_privilege_policy()


def list_principals(account: CspAccount) -> list[Principal]:
    """IAM users and roles of the account, by name. Raises ProviderError."""
    return open_provider(account).list_principals()


def is_alias_free(account: CspAccount, region: str, alias: str) -> bool:
    """Whether no key of the account and region has this alias (`alias/...`). Raises ProviderError."""
    return open_provider(account).find_key(region, alias) is None
