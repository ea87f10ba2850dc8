"""Secondary authorization: may this use go ahead, beyond what AWS IAM has allowed?

The default is to trust IAM.  A judge is called after the key has been found and before its state is
looked at, for every operation but health, which the specification exempts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from xks.bodies import CallerMetadata, UseMetadata
from xks.errors import AccessDeniedException
from xks.policy_rules import ALLOWED, NO_RULE_ALLOWS, RuleSet

if TYPE_CHECKING:
    from xks.keyring import Key, Store
    from xks.policy_shadow import ShadowCounts


class Judge(Protocol):
    """Decides on one use of one key."""

    def __call__(self, store: Store, key: Key, operation: str, metadata: CallerMetadata, now: float) -> None:
        """Return to allow.

        ``operation`` is metadata, encrypt or decrypt; ``now`` is seconds since the epoch.

        Raises:
            AccessDeniedException: the use is not allowed; the message names the rule, no more.
        """


def trust_iam(store: Store, key: Key, operation: str, metadata: CallerMetadata, now: float) -> None:
    """Allow everything: the caller's IAM and key policy in AWS have decided already."""


class RulesJudge:
    """Judges by the rules of the store and then by those of the key: both must let a use through."""

    def __init__(self, shadow: ShadowCounts | None = None) -> None:
        """``shadow`` takes what shadowed rules would have done; None ignores them."""
        self._shadow = shadow

    def __call__(self, store: Store, key: Key, operation: str, metadata: CallerMetadata, now: float) -> None:
        """See Judge."""
        if self._shadow is not None:
            if (candidate := store.shadow_rules) is not None:
                self._try(candidate, key, operation, metadata, now)
            if (candidate := key.shadow_rules) is not None:
                self._try(candidate, key, operation, metadata, now)
        if (rules := store.rules) is not None:
            verdict = verdict_on(rules, key, operation, metadata, now)
            if verdict != ALLOWED:
                raise _denial(rules, verdict, "key store")
        if (rules := key.rules) is not None:
            verdict = verdict_on(rules, key, operation, metadata, now)
            if verdict != ALLOWED:
                raise _denial(rules, verdict, "key")

    def _try(self, rules: RuleSet, key: Key, operation: str, metadata: CallerMetadata, now: float) -> None:
        verdict = verdict_on(rules, key, operation, metadata, now)
        if self._shadow is not None:
            self._shadow.note(rules, verdict, metadata.aws_principal_arn)


def verdict_on(rules: RuleSet, key: Key, operation: str, metadata: CallerMetadata, now: float) -> int:
    """Return what ``rules`` say of one use (see RuleSet.judge)."""
    return rules.judge(
        metadata.aws_principal_arn,
        metadata.kms_operation,
        metadata.aws_source_vpc,
        metadata.aws_source_vpce,
        metadata.kms_via_service if isinstance(metadata, UseMetadata) else None,
        key.tags,
        now,
        is_metadata=operation == "metadata",
    )


def _denial(rules: RuleSet, verdict: int, whose: str) -> AccessDeniedException:
    told = f"the access rules of this {whose} (version {rules.version})"
    if verdict == NO_RULE_ALLOWS:
        return AccessDeniedException(f"no rule of {told} allows this use")
    return AccessDeniedException(f"the rule '{rules.name_of(verdict)}' of {told} denies this use")
