"""What a flow is made of, and what its steps are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from cloudkeys.models import CspAccount, Operation
from cloudkeys.operations.errors import LeaseLost, OperationError, Superseded
from cloudkeys.operations.kinds import KINDS, TARGETS, Kind
from cloudkeys.providers import open_provider
from cloudkeys.providers.base import Provider
from vault.actors import Actor
from vault.changes import Change, change

LEASE_S = 30.0


@dataclass(frozen=True)
class Later:
    """A step's answer: nothing is wrong, look again in `after_s` seconds. `detail` says what is waited for."""

    after_s: float
    detail: str


@dataclass
class StepContext:
    """What a running step may use. Everything that it writes goes through `commit`, which the lease fences."""

    operation: Operation
    lease_owner: str
    actor: Actor
    detail: str = ""

    @property
    def kind(self) -> Kind:
        """The declared kind."""
        return KINDS[self.operation.kind]

    @property
    def memo(self) -> dict[str, Any]:
        """What earlier steps left; changes are kept by the next `commit`. Never a secret."""
        memo: dict[str, Any] = self.operation.memo
        return memo

    @property
    def input(self) -> dict[str, Any]:
        """What was asked for."""
        given: dict[str, Any] = self.operation.input
        return given

    @property
    def entry(self) -> dict[str, Any]:
        """The present step's member of Operation.steps."""
        entry: dict[str, Any] = self.operation.steps[self.operation.step]
        return entry

    @property
    def step_age_s(self) -> float:
        """Seconds since the present step, or its undoing, was begun for the first time."""
        text = self.entry.get("undo_started_at") if self.operation.undoing else self.entry["started_at"]
        began = parse_datetime(text or "") or timezone.now()
        return (timezone.now() - began).total_seconds()

    def target(self, *, lock: bool = False) -> Any:
        """The target as it stands in the database now; `lock` selects FOR UPDATE (inside `commit`).

        Raises a permanent OperationError when the row is gone.
        """
        model: type[models.Model] = TARGETS[self.operation.target_type]
        rows = model._default_manager.filter(pk=self.operation.target_id)
        row = rows.select_for_update().first() if lock else rows.first()
        if row is None:
            raise OperationError(
                "target_gone",
                f"{self.operation.target_name} is no longer there.",
                "Nothing is left to do; somebody deleted it in the meantime.",
                permanent=True,
            )
        return row

    def provider(self, account: CspAccount) -> Provider:
        """A connection to the account's cloud. Raises ProviderError."""
        return open_provider(account)

    @contextmanager
    def commit(
        self,
        columns: dict[str, Any] | None = None,
        *,
        unless_cancelled: bool = False,
        actor: Actor | None = None,
    ) -> Iterator[Change]:
        """A transaction that counts only while the lease is ours; the memo and `columns` of the operation go with it.

        The operation's row is written last, so that rows are locked in the order in which services lock them: target,
        operation, generation. `columns` is read at the end. Raises LeaseLost, or Superseded when `unless_cancelled` and
        somebody asked to cancel; both roll back. `actor` is who is audited, when it is not the worker.
        """
        with change(actor or self.actor) as tx:
            yield tx
            rows = Operation.objects.filter(pk=self.operation.pk, lease_owner=self.lease_owner)
            values: dict[str, Any] = {
                "memo": self.operation.memo,
                "updated_at": timezone.now(),
                "lease_until": timezone.now() + timedelta(seconds=LEASE_S),
                **(columns or {}),
            }
            wanted = rows.filter(cancel_requested=False) if unless_cancelled else rows
            if not wanted.update(**values):
                raise Superseded if unless_cancelled and rows.exists() else LeaseLost

    def remember(self, **values: Any) -> None:
        """Keep values for later steps and later tries, at once."""
        self.memo.update(values)
        with self.commit():
            pass


StepFunction = Callable[[StepContext], "Later | None"]
FinishFunction = Callable[[StepContext, Change, "dict[str, Any] | None"], None]


@dataclass(frozen=True)
class Flow:
    """How a kind of operation is done. Each step looks for what an earlier try made before it makes anything.

    run: step name -> function; it may return Later, set `ctx.detail`, or raise an error with `permanent`.
    undo: step name -> function that removes what the step made, also what a crash left behind unrecorded.
    undo_on_failure: whether a permanent failure undoes what was made ("a failure leaves nothing behind").
    on_failed, on_cancelled: what the target's row says then, in the transaction that ends the operation. They get the
    error as it stands in Operation.error.
    """

    run: dict[str, StepFunction]
    undo: dict[str, StepFunction] = field(default_factory=dict)
    undo_on_failure: bool = False
    on_failed: FinishFunction | None = None
    on_cancelled: FinishFunction | None = None


def as_text(moment: datetime) -> str:
    """A time as it stands in JSON columns."""
    return moment.isoformat(timespec="milliseconds")
