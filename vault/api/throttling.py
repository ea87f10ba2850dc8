"""Rate limits: a counter a minute for each caller, in the shared cache, answered with 429 and Retry-After."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from vault.actors import Actor
from vault.api.authentication import source_ip
from vault.services.counters import caller_of, count_one

# Requests a minute; settings.KEYSTEAD_API_RATES may replace single values.
DEFAULT_RATES = {"actor": 1200, "anonymous": 120, "sign_in": 30}
WINDOW_S = 60


def rate(scope: str) -> int:
    """Requests a minute that `scope` allows one caller."""
    chosen: dict[str, int] = getattr(settings, "KEYSTEAD_API_RATES", {})
    return chosen.get(scope, DEFAULT_RATES[scope])


class CallerThrottle(BaseThrottle):
    """Counts requests by token, else by user, else by address; the operation's declaration may name a stricter scope.

    A fixed window, because one atomic increment is exact with any number of processes.
    """

    def __init__(self) -> None:
        self._retry_after = 1.0

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count this request; False when its window is full."""
        declared = view.declared
        scope = declared.throttle if declared is not None else ""
        actor = request.auth if isinstance(request.auth, Actor) else None
        if scope == "sign_in" or actor is None:
            scope = scope or "anonymous"
            caller = caller_of(source_ip(request))
        else:
            scope = "actor"
            caller = f"token:{actor.token.pk}" if actor.token is not None else f"user:{actor.id}"
        now = time.time()
        window, within = divmod(now, WINDOW_S)
        self._retry_after = WINDOW_S - within
        return count_one(f"api-rate:{scope}:{caller}:{int(window)}", 2 * WINDOW_S) <= rate(scope)

    def wait(self) -> float:
        """Seconds until the next window begins."""
        return self._retry_after
