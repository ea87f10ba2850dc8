"""What the doctor found last at each external key store."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from cloudkeys.models import XksKeyStore
from vault.models import Vault


class DoctorReport(models.Model):
    """The last report of one store and endpoint; the next one replaces it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="doctor_reports")
    store = models.OneToOneField(XksKeyStore, on_delete=models.CASCADE, related_name="doctor_report")
    endpoint = models.CharField(max_length=128)
    region = models.CharField(max_length=32)
    severity = models.CharField(max_length=8, help_text="The worst of its findings.")
    findings = models.JSONField(default=list, help_text="[{id, severity, what, why, do}]")
    latency = models.JSONField(default=dict, help_text="{encrypt|decrypt: {samples, p50_ms, ...}}")
    seconds = models.FloatField(default=0)
    examined_at = models.DateTimeField()
    examined_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering: ClassVar = ["examined_at"]

    def __str__(self) -> str:
        return f"doctor's report on {self.store_id}"
