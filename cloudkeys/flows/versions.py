"""Rotation of a CloudKey: every worker can decrypt with the new version before any encrypts with it."""

from __future__ import annotations

from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.operations.steps import Flow, StepContext
from cloudkeys.services.due_dates import lock_schedules
from cloudkeys.services.versions import activate_version


def activate(ctx: StepContext) -> None:
    """Let the new version encrypt."""
    number = int(ctx.input["version"])
    with ctx.commit(unless_cancelled=True) as tx:
        lock_schedules(ctx.target().key_set_id)
        activate_version(tx, ctx.target(lock=True), number)
    ctx.detail = f"version {number}"


ROTATE = Flow(run={"wait_workers": wait_workers, "activate": activate, "wait_active": wait_workers})
