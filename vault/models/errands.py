"""Work that a page has asked for and that a worker does, for what is no Operation of a vault: the last one of each kind on each thing."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from vault.models.tenancy import Vault


class Errand(models.Model):
    """The row is the truth, a broker message only a wake-up: it survives a closed tab, and a worker that dies."""

    class State(models.TextChoices):
        WAITING = "WAITING", "Waiting"
        RUNNING = "RUNNING", "Running"
        SUCCEEDED = "SUCCEEDED", "Done"
        FAILED = "FAILED", "Failed"

    UNFINISHED: ClassVar[tuple[str, ...]] = ("WAITING", "RUNNING")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=64)
    subject_id = models.UUIDField(help_text="What it is about; a thing that may be gone by then.")
    vault = models.ForeignKey(Vault, null=True, on_delete=models.CASCADE, related_name="errands")
    input = models.JSONField(default=dict, blank=True, help_text="What was asked; never a secret.")
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    done = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    cause = models.CharField(max_length=1000, blank=True)
    cure = models.CharField(max_length=1000, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="errands"
    )
    requested_by_name = models.CharField(max_length=254, blank=True)
    via = models.CharField(max_length=32, blank=True)
    source_ip = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    asked_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    next_try_at = models.DateTimeField(null=True)
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["kind", "subject_id"], name="errand_once")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.state}"

    @property
    def under_way(self) -> bool:
        """Whether a worker does it, or is to do it."""
        return self.state in self.UNFINISHED
