"""What the control plane knows of the workers' journals: chains, anchors, seals (docs/journal.md)."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from vault.fields import WrappedSecretField


class JournalChain(models.Model):
    """The journal of one worker process: its segments, one key ratcheting through them.

    ``state`` is that of the first segment that is not sealed yet; those before are erased.
    """

    class End(models.TextChoices):
        OPEN = "", "Open"
        CLEAN = "CLEAN", "Closed in good order"
        KILLED = "KILLED", "The worker ended in the midst"
        DAMAGED = "DAMAGED", "Not what was written"
        LOST = "LOST", "Lost with its node"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    node_name = models.CharField(max_length=253)
    process = models.CharField(max_length=64, help_text="Names the worker process (xks.agent_registry).")
    state = WrappedSecretField(null=True)
    sealed_segments = models.PositiveIntegerField(default=0)
    sealed_mac = models.CharField(max_length=32, help_text="Last MAC of what is sealed, hex.")
    anchor_segment = models.PositiveIntegerField(null=True)
    anchor_sequence = models.PositiveBigIntegerField(null=True)
    anchor_mac = models.CharField(max_length=32, blank=True)
    anchored_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)
    end = models.CharField(max_length=8, choices=End, blank=True, default=End.OPEN)
    shipped = models.BooleanField(
        default=False, help_text="It has ended, and all that can be read of it is in the database."
    )

    class Meta:
        ordering: ClassVar = ["started_at"]
        indexes: ClassVar = [
            models.Index(fields=["node_name", "ended_at"], name="journal_chain_node"),
            models.Index(fields=["node_name", "shipped"], name="journal_chain_shipped"),
        ]

    def __str__(self) -> str:
        return f"{self.node_name} {self.id.hex}"


class AuditKey(models.Model):
    """The key that signs seals: one row. The private half is sealed under the installation's key."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    public_key = models.CharField(max_length=64, help_text="Ed25519, hex.")
    private_key = models.TextField(help_text="Sealed (vault.keys.seal_text).")
    created_at = models.DateTimeField(auto_now_add=True)
    # The end of the list of seals; the row is locked by whoever adds one.
    seals = models.BigIntegerField(default=0)
    last_digest = models.CharField(max_length=64)

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=models.Q(id=1), name="audit_key_is_single")]

    def __str__(self) -> str:
        return self.public_key


class AuditSeal(models.Model):
    """One seal (xks.seals): a signed line."""

    number = models.BigIntegerField(primary_key=True)
    line = models.TextField()
    signature = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["number"]

    def __str__(self) -> str:
        return f"seal {self.number}"
