"""What happened, to what, by whom: written in the same transaction as the change itself."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from vault.models.tenancy import Vault


class AuditEvent(models.Model):
    """One event. Names are copied as text, so that the record outlives what it speaks of."""

    class Outcome(models.TextChoices):
        SUCCESS = "SUCCESS", "Success"
        DENIED = "DENIED", "Denied"
        FAILURE = "FAILURE", "Failure"

    sequence = models.BigAutoField(primary_key=True)
    id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(auto_now_add=True)
    vault = models.ForeignKey(
        Vault, null=True, blank=True, on_delete=models.SET_NULL, related_name="audit_events"
    )
    vault_name = models.CharField(max_length=100, blank=True)
    actor_type = models.CharField(max_length=16)  # user, token, system, cli
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=254, blank=True)
    via = models.CharField(max_length=32)  # api, web, cli, worker, agent
    source_ip = models.GenericIPAddressField(null=True, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=64)  # vault.actions.Action, source:subject:verb
    target_type = models.CharField(max_length=64, blank=True)
    target_id = models.CharField(max_length=64, blank=True)
    target_name = models.CharField(max_length=254, blank=True)
    outcome = models.CharField(max_length=16, choices=Outcome, default=Outcome.SUCCESS)
    reason = models.CharField(max_length=1000, blank=True)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    detail = models.JSONField(default=dict, blank=True)
    generation = models.BigIntegerField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-sequence"]
        indexes: ClassVar = [
            models.Index(fields=["vault", "-sequence"], name="audit_vault_sequence"),
            models.Index(fields=["vault", "target_id", "-sequence"], name="audit_target"),
            models.Index(fields=["vault", "actor_id", "-sequence"], name="audit_actor"),
            models.Index(fields=["vault", "action", "-sequence"], name="audit_action"),
            models.Index(fields=["vault", "actor_name", "-sequence"], name="audit_actor_name"),
            models.Index(fields=["vault", "target_name", "-sequence"], name="audit_target_name"),
            models.Index(fields=["vault", "target_type", "-sequence"], name="audit_target_type"),
            models.Index(fields=["vault", "outcome", "-sequence"], name="audit_outcome"),
            models.Index(fields=["vault", "at"], name="audit_vault_at"),
            models.Index(
                fields=["-sequence"],
                name="audit_installation",
                condition=models.Q(vault=None) | models.Q(target_type="vault"),
            ),
            models.Index(fields=["request_id"], name="audit_request_id"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target_name} by {self.actor_name}: {self.outcome}"


class AuditChainHead(models.Model):
    """The end of the chain over audit events (vault.event_chain): one row, locked by whoever adds to it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    position = models.BigIntegerField(default=0)
    digest = models.CharField(max_length=64)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="audit_chain_head_is_single")
        ]

    def __str__(self) -> str:
        return f"{self.position} {self.digest}"


class AuditLink(models.Model):
    """One link of the chain. No foreign key: that an event is gone must show here."""

    position = models.BigIntegerField(primary_key=True)
    sequence = models.BigIntegerField(unique=True, help_text="Of the event.")
    digest = models.CharField(max_length=64)

    class Meta:
        ordering: ClassVar = ["position"]

    def __str__(self) -> str:
        return f"{self.position} {self.digest}"
