"""Counts what shadowed rules would have refused, until the agent is told."""

from __future__ import annotations

from xks.policy_rules import ALLOWED, RuleSet
from xks.wire import ShadowCount

MAX_RULE_SETS = 1000
"""Versions counted between two reports."""
MAX_PRINCIPALS = 50
"""Denied principals told apart for each version; the others are counted together under ""."""


class _Tally:
    __slots__ = ("denied", "judged", "principals")

    def __init__(self) -> None:
        self.judged = 0
        self.denied: dict[str, int] = {}
        self.principals: dict[str, int] = {}


class ShadowCounts:
    """What this worker has counted since its last report."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def note(self, rules: RuleSet, verdict: int, principal: str) -> None:
        """Count one judgement."""
        name = (rules.id, rules.version)
        tally = self._tallies.get(name)
        if tally is None:
            if len(self._tallies) >= MAX_RULE_SETS:
                return
            tally = self._tallies[name] = _Tally()
        tally.judged += 1
        if verdict != ALLOWED:
            rule = rules.name_of(verdict)
            tally.denied[rule] = tally.denied.get(rule, 0) + 1
            if principal not in tally.principals and len(tally.principals) >= MAX_PRINCIPALS:
                principal = ""
            tally.principals[principal] = tally.principals.get(principal, 0) + 1

    def take(self) -> list[ShadowCount]:
        """Return what was counted since the last call, and begin anew."""
        counts = [
            ShadowCount(rule_set_id, version, tally.judged, tally.denied, tally.principals)
            for (rule_set_id, version), tally in self._tallies.items()
        ]
        self._tallies = {}
        return counts
