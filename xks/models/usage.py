"""What is known of the use of keys: hourly sums of the journal, and how far each segment has been counted."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from xks.models.journal import JournalChain


class JournalShipment(models.Model):
    """How far one segment is in the database; moved on in the transaction that writes its records and sums."""

    chain = models.ForeignKey(JournalChain, on_delete=models.CASCADE, related_name="shipments")
    segment = models.PositiveIntegerField()
    entries = models.PositiveBigIntegerField(
        default=0, help_text="Entries of the segment that are in the sums."
    )
    complete = models.BooleanField(default=False)
    damaged = models.BooleanField(default=False, help_text="What follows could not be read, or is gone.")
    stored_from = models.PositiveBigIntegerField(
        default=0, help_text="Entries before were counted by a release that kept no single records."
    )
    last_at = models.DateTimeField(null=True, help_text="When the last record that was shipped was made.")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["chain", "segment"], name="journal_segment_shipped_once")
        ]

    def __str__(self) -> str:
        return f"{self.chain_id} segment {self.segment}: {self.entries}"


class UsageHour(models.Model):
    """How often a key was used in one hour, by operation, principal, service and outcome. Kept for good."""

    hour = models.DateTimeField()
    store_id = models.CharField(max_length=64)
    key_id = models.CharField(max_length=64, blank=True)
    operation = models.CharField(max_length=16)
    principal_arn = models.CharField(max_length=200, blank=True)
    kms_via_service = models.CharField(max_length=200, blank=True)
    outcome = models.CharField(max_length=64)
    count = models.BigIntegerField(default=0)
    last_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=[
                    "hour",
                    "store_id",
                    "key_id",
                    "operation",
                    "principal_arn",
                    "kms_via_service",
                    "outcome",
                ],
                name="usage_hour_once",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["key_id", "hour"], name="usage_hour_key"),
            models.Index(fields=["principal_arn", "hour"], name="usage_hour_principal"),
            models.Index(fields=["outcome", "hour"], name="usage_hour_outcome"),
        ]

    def __str__(self) -> str:
        return f"{self.hour} {self.key_id} {self.operation}: {self.count}"
