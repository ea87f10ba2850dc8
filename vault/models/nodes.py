"""Data-plane nodes, and the generation that tells them what has changed (DESIGN.md, "The data plane")."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models


class Generation(models.Model):
    """One counter row, updated last in a transaction: its row lock orders commits, as no sequence would."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    value = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="generation_is_single")
        ]

    def __str__(self) -> str:
        return str(self.value)


class GenerationChange(models.Model):
    """What a generation touched; an agent that missed some reads from here. Deletions are written too."""

    class Kind(models.TextChoices):
        VAULT = "VAULT", "Vault"
        STORE = "STORE", "XKS key store"
        KEY = "KEY", "CloudKey"
        TLS = "TLS", "TLS of the XKS endpoint"

    id = models.BigAutoField(primary_key=True)
    generation = models.BigIntegerField(db_index=True)
    kind = models.CharField(max_length=8, choices=Kind)
    object_id = models.UUIDField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["id"]

    def __str__(self) -> str:
        return f"{self.generation}: {self.kind} {self.object_id}"


class Node(models.Model):
    """One data-plane node: an agent and its worker processes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=253, unique=True)
    software_version = models.CharField(max_length=32, blank=True)
    started_at = models.DateTimeField()
    last_seen_at = models.DateTimeField(db_index=True)
    deregistered_at = models.DateTimeField(null=True, blank=True)
    applied_generation = models.BigIntegerField(default=0, help_text="What the agent has read.")
    certificate = models.JSONField(
        default=dict, blank=True, help_text="What its endpoint serves with: xks.wire.CertificateServed."
    )
    max_staleness_s = models.FloatField(
        null=True, help_text="The agent's own bound: its workers refuse after so many seconds without news."
    )
    alarms = models.JSONField(
        default=list, blank=True, help_text="[{code, since, detail}], vault.node_alarms."
    )
    # While the agent refuses a database that went backwards: what it holds, and what it found.
    refused_mark = models.CharField(max_length=64, blank=True)
    refused_from = models.BigIntegerField(null=True, help_text="The generation that the node holds.")
    refused_generation = models.BigIntegerField(null=True, help_text="The generation that it found.")
    accepted_mark = models.CharField(
        max_length=64, blank=True, help_text="The refused_mark that an operator has accepted last."
    )

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class WorkerProcess(models.Model):
    """One serving process of a node; the kill switch counts these."""

    class State(models.TextChoices):
        STARTING = "STARTING", "Starting"
        SERVING = "SERVING", "Serving"
        DRAINING = "DRAINING", "Draining"
        STOPPED = "STOPPED", "Stopped"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="workers")
    pid = models.PositiveIntegerField()
    instance = models.CharField(max_length=64, help_text="Tells two processes with one pid apart.")
    state = models.CharField(
        max_length=8, choices=State, default=State.SERVING, help_text="As its agent saw it last."
    )
    applied_generation = models.BigIntegerField(default=0)
    max_staleness_s = models.FloatField(
        null=True, help_text="The longest bound of any lease that it may have."
    )
    registered_at = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(db_index=True)
    deregistered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["registered_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["node", "instance"], name="worker_instance_once")
        ]

    def __str__(self) -> str:
        return f"{self.node_id} pid {self.pid}"
