"""Secondary authorization: may this use go ahead, beyond what AWS IAM has allowed?

The default is to trust IAM.  A judge is called after the key has been found and before its state is
looked at, for every operation but health, which the specification exempts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from xks.bodies import RequestMetadata
    from xks.keyring import Key, Store


class Judge(Protocol):
    """Decides on one use of one key."""

    def __call__(self, store: Store, key: Key, operation: str, metadata: RequestMetadata) -> None:
        """Return to allow.

        ``operation`` is metadata, encrypt or decrypt.

        Raises:
            AccessDeniedException: the use is not allowed; the message names the rule, no more.
        """


def trust_iam(store: Store, key: Key, operation: str, metadata: RequestMetadata) -> None:
    """Allow everything: the caller's IAM and key policy in AWS have decided already."""
