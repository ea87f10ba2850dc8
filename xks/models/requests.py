"""Single XKS requests as the journal recorded them, and how many came with which delay."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class XksRequest(models.Model):
    """One record of a journal. On PostgreSQL the table is partitioned by day (xks.request_partitions).

    A record is named by chain, segment and entry; ``id`` only orders those of one moment. No foreign keys: the record
    outlives what it speaks of.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    vault_id = models.UUIDField(null=True)
    store_id = models.UUIDField(null=True)
    key_id = models.UUIDField(null=True)
    chain_id = models.UUIDField()
    segment = models.PositiveIntegerField()
    entry = models.PositiveIntegerField()
    generation = models.BigIntegerField()
    version = models.IntegerField()
    microseconds = models.BigIntegerField()
    operation = models.CharField(max_length=200)
    outcome = models.CharField(max_length=200)
    access_key_id = models.CharField(max_length=200)
    region = models.CharField(max_length=200)
    external_key_id = models.CharField(max_length=200)
    principal_arn = models.CharField(max_length=200)
    kms_key_arn = models.CharField(max_length=200)
    kms_operation = models.CharField(max_length=200)
    kms_via_service = models.CharField(max_length=200)
    source_vpc = models.CharField(max_length=200)
    source_vpce = models.CharField(max_length=200)
    kms_request_id = models.CharField(max_length=64)
    withheld = models.BooleanField(default=False, help_text="Recorded, but its result did not leave.")

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["vault_id", "at", "id"], name="xks_request_vault"),
            models.Index(fields=["store_id", "at", "id"], name="xks_request_store"),
            models.Index(fields=["key_id", "at", "id"], name="xks_request_key"),
            models.Index(fields=["kms_request_id"], name="xks_request_kms"),
        ]
        constraints: ClassVar = [
            # With the time, because a partitioned table takes no uniqueness without what it is partitioned by.
            models.UniqueConstraint(fields=["chain_id", "segment", "entry", "at"], name="xks_request_once")
        ]

    def __str__(self) -> str:
        return f"{self.at} {self.operation} {self.outcome} {self.kms_request_id}"


class RequestStore(models.Model):
    """From when single records are kept: one row. What is older has been dropped, its hourly sums stay."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    kept_from = models.DateTimeField()
    looked_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="xks_request_store_is_single")
        ]

    def __str__(self) -> str:
        return f"since {self.kept_from}"


class Traffic(models.Model):
    """How many requests of one store took how long in one minute or hour (xks.traffic_buckets).

    Minutes stay for two days, hours for good.
    """

    span_s = models.PositiveSmallIntegerField(help_text="60 or 3600.")
    at = models.DateTimeField(help_text="When the minute or hour began.")
    store_id = models.UUIDField()
    bucket = models.PositiveSmallIntegerField(help_text="Of the microseconds.")
    requests = models.BigIntegerField()
    errors = models.BigIntegerField(help_text="Of these, answered with an error.")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["span_s", "store_id", "at", "bucket"], name="xks_traffic_once")
        ]
        indexes: ClassVar = [models.Index(fields=["span_s", "at"], name="xks_traffic_at")]

    def __str__(self) -> str:
        return f"{self.at} {self.store_id} {self.bucket}: {self.requests}"


class AuditIntegrity(models.Model):
    """What the last verification of the record found: one row (xks.services.integrity)."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    checked_at = models.DateTimeField(null=True)
    seconds = models.FloatField(default=0)
    node_name = models.CharField(max_length=253, blank=True, help_text="Whose journals were at hand.")
    holds = models.BooleanField(default=True)
    held_at = models.DateTimeField(null=True, help_text="When it last held.")
    findings = models.JSONField(default=list)
    gaps = models.JSONField(default=list)
    notes = models.JSONField(default=list)
    seals = models.BigIntegerField(default=0)
    head = models.CharField(max_length=64, blank=True)
    segments = models.BigIntegerField(default=0)
    records = models.BigIntegerField(default=0)
    stored = models.BigIntegerField(default=0)
    events = models.BigIntegerField(default=0)
    claimed_at = models.DateTimeField(null=True, help_text="When a check was begun.")

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="audit_integrity_is_single")
        ]

    def __str__(self) -> str:
        return f"{self.checked_at}: {'holds' if self.holds else 'does not hold'}"


class StreamPosition(models.Model):
    """How far audit events have gone to the SIEM: one row. One agent at a time sends them."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    position = models.BigIntegerField(default=0, help_text="Of the last link that was delivered.")
    holder = models.CharField(max_length=253, blank=True)
    held_until = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="xks_stream_position_is_single")
        ]

    def __str__(self) -> str:
        return f"{self.position} by {self.holder}"
