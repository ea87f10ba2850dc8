"""Long work. The row is the truth, a broker message only a wake-up (DESIGN.md, "The two journeys")."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from vault.models import Vault


class Operation(models.Model):
    """One piece of long work: its steps, what was tried, what comes next, and who asked."""

    class State(models.TextChoices):
        WAITING = "WAITING", "Waiting"
        RUNNING = "RUNNING", "Running"
        SUCCEEDED = "SUCCEEDED", "Done"
        FAILED = "FAILED", "Failed"
        CANCELLED = "CANCELLED", "Cancelled"

    UNFINISHED: ClassVar[tuple[str, ...]] = ("WAITING", "RUNNING")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="operations")
    kind = models.CharField(max_length=64, help_text="A key of cloudkeys.operations.FLOWS.")
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    target_type = models.CharField(max_length=64)
    target_id = models.UUIDField()
    target_name = models.CharField(max_length=254, blank=True)
    input = models.JSONField(default=dict, blank=True, help_text="What was asked; never a secret.")
    memo = models.JSONField(
        default=dict, blank=True, help_text="What steps leave for later steps; never a secret."
    )
    result = models.JSONField(default=dict, blank=True)
    steps = models.JSONField(default=list, help_text="[{name, label, state, started_at, ended_at, detail}]")
    step = models.PositiveSmallIntegerField(default=0, help_text="Index of the next step to run.")
    attempts = models.PositiveIntegerField(default=0, help_text="Of the current step.")
    next_try_at = models.DateTimeField(null=True, blank=True)
    error = models.JSONField(
        null=True, blank=True, help_text="{code, cause, cure, permanent} of the last failure."
    )
    cancel_requested = models.BooleanField(default=False)
    undoing = models.BooleanField(
        default=False, help_text="Running backwards after a cancel or a permanent failure."
    )
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="operations"
    )
    requested_by_name = models.CharField(max_length=254, blank=True)
    via = models.CharField(max_length=32, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        indexes: ClassVar = [
            models.Index(fields=["vault", "-created_at", "id"], name="operation_vault_created"),
            models.Index(fields=["target_id", "-created_at"], name="operation_target"),
            models.Index(fields=["vault", "state", "-finished_at"], name="operation_failed"),
            models.Index(
                fields=["next_try_at"], name="operation_due", condition=Q(state__in=["WAITING", "RUNNING"])
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.target_name}: {self.state}"
