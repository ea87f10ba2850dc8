"""If-Match on updates (RFC 9110, 13.1.1): nobody overwrites what they have not seen."""

from __future__ import annotations

import re
from typing import Any

from rest_framework.request import Request

from vault.actors import Actor
from vault.api.problems import ApiError
from vault.errors import StaleRevision
from vault.models import AuditEvent

_ETAG = re.compile(r'"(\d{1,9})"')


def expected_revision(request: Request, *, required: bool) -> int | None:
    """The revision that If-Match names; None for `*`, or when absent and not required.

    Raises ApiError: 428 when absent and required, 400 when it is no ETag of ours, 412 for a weak one (RFC 9110 demands the
    strong comparison, which a weak tag never passes).
    """
    header = request.META.get("HTTP_IF_MATCH")
    given = (header or "").strip()
    if header is None or (required and not given):
        if required:
            raise ApiError(
                "precondition_required", "This change needs the header If-Match.", field="If-Match"
            )
        return None
    if given == "*":
        return None
    if given.startswith("W/"):
        raise ApiError("stale_revision", "If-Match holds a weak ETag, which never matches.", field="If-Match")
    found = _ETAG.fullmatch(given)
    if found is None:
        raise ApiError(
            "bad_request",
            "If-Match holds no single ETag of ours.",
            field="If-Match",
            cure='Send the ETag as it came: "3".',
        )
    return int(found[1])


def explain_stale(error: StaleRevision, request: Any, kwargs: dict[str, Any]) -> None:
    """Add to the 412 what was changed of late: the newest audit events of that object (they hold no secrets)."""
    actor = getattr(request, "auth", None)
    target = next((str(value) for name, value in kwargs.items() if name.endswith("_id")), "")
    if not isinstance(actor, Actor) or not target:
        return
    events = actor.visible(AuditEvent).filter(target_id=target, outcome=AuditEvent.Outcome.SUCCESS)
    error.context["changed"] = [
        {
            "at": event.at.isoformat(),
            "by": event.actor_name,
            "action": event.action,
            "before": event.before,
            "after": event.after,
        }
        for event in events.order_by("-sequence")[:5]
    ]
