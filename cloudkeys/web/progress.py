"""An Operation as templates/parts/progress.html draws it: steps with their time, cause and next try."""

from __future__ import annotations

from typing import Any

from django.urls import NoReverseMatch, reverse

from cloudkeys.models import Operation


def progress_of(operation: Operation, url: str, title: str = "") -> dict[str, Any]:
    """What the part needs; `url` answers the same part again, and is asked only while there is something to wait for."""
    error = operation.error or {}
    waiting = operation.state in Operation.UNFINISHED
    steps = [
        {
            "title": step["label"],
            "state": step["state"],
            "at": step["ended_at"] or step["started_at"],
            "cause": step["detail"],
            "next_try_at": operation.next_try_at if waiting and index == operation.step else None,
        }
        for index, step in enumerate(operation.steps)
    ]
    failed = operation.state == Operation.State.FAILED
    return {
        "id": f"progress-{operation.pk}",
        "url": url,
        "live": waiting,
        "state": operation.state,
        "title": title or operation.target_name,
        "cause": error.get("cause", "") if failed else "",
        "cure": error.get("cure", "") if failed else "",
        "steps": steps,
        "operation_url": operation_url(operation),
        "actions_template": "cloudkeys/operation_link.html" if operation_url(operation) else "",
    }


def operation_url(operation: Operation) -> str:
    """Its page; empty while there is none."""
    try:
        return reverse("operation", kwargs={"vault_id": operation.vault_id, "operation_id": operation.pk})
    except NoReverseMatch:
        return ""
