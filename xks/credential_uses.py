"""Remembers when each credential was last seen in each region, until the agent is told."""

from __future__ import annotations

from xks.wire import CredentialUse

MAX_USES = 4096
"""Pairs of credential and region kept apart between two reports; the regions beyond go under ""."""


class CredentialUses:
    """What this worker has seen of credentials since its last report. Times are seconds since the epoch."""

    __slots__ = ("_refused", "_succeeded")

    def __init__(self) -> None:
        self._succeeded: dict[tuple[str, str], float] = {}
        self._refused: dict[tuple[str, str], float] = {}

    def note(self, access_key_id: str, region: str, now: float, succeeded: bool) -> None:
        """Remember a request whose signature was valid; ``succeeded``: it is answered with 200."""
        times = self._succeeded if succeeded else self._refused
        name = (access_key_id, region)
        # The caller chooses the region, so whoever holds a credential could name any number of them.
        times[name if name in times or len(times) < MAX_USES else (access_key_id, "")] = now

    def take(self) -> list[CredentialUse]:
        """Return what was seen since the last call, and begin anew."""
        succeeded, refused = self._succeeded, self._refused
        self._succeeded, self._refused = {}, {}
        uses = []
        for name in succeeded | refused:
            at = succeeded.get(name)
            uses.append(CredentialUse(*name, max(at or 0.0, refused.get(name, 0.0)), at))
        return uses

    def put_back(self, uses: list[CredentialUse]) -> None:
        """Remember again what could not be told."""
        for use in uses:
            name = (use.access_key_id, use.region)
            self._refused[name] = max(self._refused.get(name, 0.0), use.last_at)
            if use.succeeded_at is not None:
                self._succeeded[name] = max(self._succeeded.get(name, 0.0), use.succeeded_at)
