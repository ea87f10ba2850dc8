"""Long work as parts/progress.html draws it."""

from __future__ import annotations

from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext

from cloudkeys.models import Operation
from cloudkeys.operations.kinds import KINDS


def progress_of(
    operation: Operation, url: str, *, id: str = "", actions_template: str = ""
) -> dict[str, Any]:
    """Steps, what it waits for and what went wrong; asked for again at `url` until it is over."""
    error = operation.error or {}
    under_way = operation.state in Operation.UNFINISHED
    steps = []
    for number, step in enumerate(operation.steps):
        is_now = under_way and number == operation.step and not operation.undoing
        waits = is_now and operation.next_try_at is not None
        cause = step.get("detail") or ""
        if is_now and error.get("cause"):
            cause = f"{error['cause']} {error.get('cure', '')}".strip()
        state = "WAITING" if waits and step.get("state") == "RUNNING" else step.get("state", "PENDING")
        steps.append(
            {
                "title": step.get("label") or step.get("name"),
                "state": state,
                "at": parse_datetime(str(step.get("ended_at") or step.get("started_at") or "")),
                "cause": cause,
                "next_try_at": operation.next_try_at if waits else None,
            }
        )
    declared = KINDS.get(operation.kind)
    title = declared.label if declared is not None else operation.kind
    return {
        "id": id or f"operation-{operation.pk}",
        "url": url,
        "live": under_way,
        "state": operation.state,
        "title": gettext("%(title)s: being undone") % {"title": title}
        if operation.undoing and under_way
        else title,
        "steps": steps,
        "cause": error.get("cause", "") if operation.state == Operation.State.FAILED else "",
        "cure": error.get("cure", "") if operation.state == Operation.State.FAILED else "",
        "actions_template": actions_template,
        "operation": operation,
        "may_cancel": under_way
        and not operation.cancel_requested
        and declared is not None
        and declared.may_cancel_at(operation.step),
        "may_retry": operation.state == Operation.State.FAILED,
    }
