"""CSP accounts, key sets, external key stores, CloudKeys, and the work that is done on them."""

from cloudkeys.models.accounts import CspAccount
from cloudkeys.models.drafts import KeySetDraft
from cloudkeys.models.keys import CloudKey, KeyVersion
from cloudkeys.models.keysets import KeySet
from cloudkeys.models.operations import Operation
from cloudkeys.models.stores import AwsStoreLink, XksCredential, XksCredentialRegion, XksKeyStore

__all__ = [
    "AwsStoreLink",
    "CloudKey",
    "CspAccount",
    "KeySet",
    "KeySetDraft",
    "KeyVersion",
    "Operation",
    "XksCredential",
    "XksCredentialRegion",
    "XksKeyStore",
]
