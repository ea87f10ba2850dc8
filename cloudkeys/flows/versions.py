"""Rotation of a CloudKey: every worker can decrypt with the new version before any encrypts with it."""

from __future__ import annotations

from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.models import KeyVersion
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, StepContext
from cloudkeys.services.due_dates import lock_schedules
from cloudkeys.services.protection import material_for
from cloudkeys.services.versions import activate_version, give_material, lacks_material
from vault.errors import Conflict, Unavailable


def make(ctx: StepContext) -> None:
    """Have the HSM make or wrap the new version, on every member; a software version is there already."""
    number = int(ctx.input["version"])
    key = ctx.target()
    version: KeyVersion = key.versions.get(number=number)
    if not lacks_material(version):
        return
    try:
        with (
            material_for(key.key_set, f"{key.name} v{number}") as material,
            ctx.commit(unless_cancelled=True) as tx,
        ):
            give_material(tx, ctx.target(lock=True), number, material)
    except Unavailable as error:
        raise OperationError("hsm_unavailable", error.message, error.cure, permanent=False) from error
    except Conflict as error:
        raise OperationError("hsm_refused", error.message, error.cure, permanent=True) from error
    ctx.detail = f"version {number}"


def activate(ctx: StepContext) -> None:
    """Let the new version encrypt."""
    number = int(ctx.input["version"])
    with ctx.commit(unless_cancelled=True) as tx:
        lock_schedules(ctx.target().key_set_id)
        activate_version(tx, ctx.target(lock=True), number)
    ctx.detail = f"version {number}"


ROTATE = Flow(
    run={"make": make, "wait_workers": wait_workers, "activate": activate, "wait_active": wait_workers}
)
