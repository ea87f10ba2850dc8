"""Waiting for the data plane, because AWS calls our endpoint while we call AWS."""

from __future__ import annotations

from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Later, StepContext
from vault.generations import current_generation, wait_for_generation

WAIT_S = 2.0


def wait_workers(ctx: StepContext) -> Later | None:
    """Until every counted XKS worker process has applied what is committed now.

    No worker at all is an error that passes by itself: AWS could reach nobody.
    """
    confirmation = wait_for_generation(current_generation(), WAIT_S)
    if confirmation.counted == 0:
        raise OperationError(
            "no_xks_worker",
            "No XKS worker is running, so AWS would reach nobody.",
            "Start `keystead xks agent` and `keystead xks serve` (`keystead serve` starts both), and look at the nodes.",
            permanent=False,
        )
    told = f"{confirmation.confirmed} of {confirmation.counted} XKS workers, after {confirmation.milliseconds} ms"
    if not confirmation.complete:
        return Later(1.0, f"{told}; still missing: {', '.join(confirmation.missing)}")
    ctx.detail = told
    return None
