"""Celery tasks: thin. What is due stands in the database; a message only says "look now".

Every task may run anywhere, any number of times, at once with itself: what it does is claimed row by row. So a lost,
doubled or late message does no harm, and neither do two beats.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from cloudkeys import upkeep
from cloudkeys.operations import runner
from cloudkeys.operations.requests import RUN_TASK
from cloudkeys.services import hsm_keys, lifecycle, versions
from vault.actors import Actor

SWEEP_TASK = "cloudkeys.sweep_operations"


def _beat() -> Actor:
    return Actor.system("worker", "keystead schedule")


@shared_task(name=RUN_TASK)
def run_operation(operation_id: str) -> str:
    """Run one operation as far as it goes now."""
    return runner.run_operation(UUID(operation_id)).value


@shared_task(name=SWEEP_TASK)
def sweep_operations() -> int:
    """Run what is due or was abandoned."""
    return runner.sweep()


@shared_task(name="cloudkeys.rotate_due_keys")
def rotate_due_keys() -> int:
    """Begin rotations whose date has come."""
    return versions.rotate_due_keys(_beat())


@shared_task(name="cloudkeys.expire_due_keys")
def expire_due_keys() -> int:
    """Act on keys that expire."""
    return lifecycle.expire_due_keys(_beat())


@shared_task(name="cloudkeys.finish_due_deletions")
def finish_due_deletions() -> int:
    """Begin destructions whose window is over."""
    return lifecycle.finish_due_deletions(_beat())


@shared_task(name="cloudkeys.destroy_unused_hsm_keys")
def destroy_unused_hsm_keys() -> int:
    """Destroy, in their HSMs, keys whose versions have been destroyed."""
    return hsm_keys.destroy_unused_hsm_keys()


@shared_task(name="cloudkeys.rotate_due_credentials")
def rotate_due_credentials() -> int:
    """Begin rotations of access keys whose date has come."""
    return upkeep.rotate_due_credentials(_beat())


@shared_task(name="cloudkeys.rotate_due_xks_credentials")
def rotate_due_xks_credentials() -> int:
    """Begin rotations of XKS credentials whose date has come."""
    return upkeep.rotate_due_xks_credentials(_beat())


@shared_task(name="cloudkeys.refresh_due_links")
def refresh_due_links() -> int:
    """Ask AWS about key stores."""
    return upkeep.refresh_due_links(_beat())


@shared_task(name="cloudkeys.refresh_due_pointers")
def refresh_due_pointers() -> int:
    """Ask AWS about keys."""
    return upkeep.refresh_due_pointers(_beat())


@shared_task(name="cloudkeys.forget_old_refreshes")
def forget_old_refreshes() -> int:
    """Delete old looks at AWS."""
    return upkeep.forget_old_refreshes()


@shared_task(name="cloudkeys.look_at_due_accounts")
def look_at_due_accounts() -> int:
    """Test accounts."""
    return upkeep.look_at_due_accounts(_beat())


@worker_ready.connect
def sweep_at_start(sender: Any, **_: Any) -> None:
    """Look at once for what a worker that died left behind, without waiting for the beat."""
    sender.app.send_task(SWEEP_TASK, ignore_result=True, expires=60)


@worker_shutting_down.connect
def stop_between_steps(**_: Any) -> None:
    """Let the present steps end and give the leases back, so that the next worker goes on at once."""
    runner.stopping.set()
