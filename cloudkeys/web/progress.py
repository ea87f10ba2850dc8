"""An Operation as templates/parts/progress.html draws it: steps with their time, cause and next try."""

from __future__ import annotations

from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext

from cloudkeys.models import Operation
from cloudkeys.operations.kinds import KINDS
from vault.web.palette import maybe_url


def progress_of(operation: Operation, url: str, title: str = "", *, id: str = "") -> dict[str, Any]:
    """What the part needs; `url` answers the same part again, and is asked only while there is something to wait for.

    `title`: what is done, its kind's usual words when left out. `id`: of the element.
    """
    error = operation.error or {}
    under_way = operation.state in Operation.UNFINISHED
    failed = operation.state == Operation.State.FAILED
    declared = KINDS.get(operation.kind)
    if not title:
        title = gettext(declared.label) if declared is not None else operation.kind
        if operation.undoing and under_way:
            title = gettext("%(title)s: being undone") % {"title": title}
    page = operation_url(operation)
    return {
        "id": id or f"progress-{operation.pk}",
        "url": url,
        "live": under_way,
        "state": operation.state,
        "title": title,
        "cause": error.get("cause", "") if failed else "",
        "cure": error.get("cure", "") if failed else "",
        "steps": [_step(operation, number, under_way) for number in range(len(operation.steps))],
        "operation": operation,
        "operation_url": page,
        "actions_template": "cloudkeys/operation_link.html" if page else "",
        "may_cancel": under_way
        and not operation.cancel_requested
        and declared is not None
        and declared.may_cancel_at(operation.step),
        "may_retry": failed,
    }


def _step(operation: Operation, number: int, under_way: bool) -> dict[str, Any]:
    step = operation.steps[number]
    error = operation.error or {}
    is_now = under_way and number == operation.step and not operation.undoing
    waits = is_now and operation.next_try_at is not None
    cause = step.get("detail") or ""
    if is_now and error.get("cause"):
        cause = f"{error['cause']} {error.get('cure', '')}".strip()
    at = step.get("ended_at") or step.get("started_at")
    return {
        "title": step.get("label") or step.get("name"),
        "state": "WAITING" if waits and step.get("state") == "RUNNING" else step.get("state", "PENDING"),
        "at": parse_datetime(str(at)) if at else None,
        "cause": cause,
        "next_try_at": operation.next_try_at if waits else None,
    }


def operation_url(operation: Operation) -> str:
    """Its page; empty while there is none."""
    return maybe_url("operation", vault_id=operation.vault_id, operation_id=operation.pk)
