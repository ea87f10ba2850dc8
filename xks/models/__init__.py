"""Rows of the control side of the XKS endpoint; the data plane never loads them."""

from xks.models.limits import StoreLimits
from xks.models.rules import AccessRuleSet, AccessRuleVersion, ShadowTally

__all__ = ["AccessRuleSet", "AccessRuleVersion", "ShadowTally", "StoreLimits"]
