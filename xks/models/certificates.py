"""Certificates of the XKS endpoint: those that were installed or asked for, and which one is served."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from vault.fields import WrappedSecretField


class EndpointCertificate(models.Model):
    """A key with its certificate chain, or (PENDING) with the request that a CA is to sign."""

    class State(models.TextChoices):
        PENDING = "PENDING", "Waits for its signed chain"
        ACTIVE = "ACTIVE", "Served"
        REPLACED = "REPLACED", "Kept, not served"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    state = models.CharField(max_length=8, choices=State)
    names = models.JSONField(default=list, help_text="Host names, the first being the subject's CN.")
    key_type = models.CharField(max_length=32)
    private_key = WrappedSecretField()
    request = models.TextField(blank=True, help_text="PEM of the CSR.")
    chain = models.TextField(blank=True, help_text="PEM, leaf first.")
    subject = models.CharField(max_length=1024, blank=True)
    issuer = models.CharField(max_length=1024, blank=True)
    serial = models.CharField(max_length=64, blank=True)
    fingerprint = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the leaf, as on the wire."
    )
    not_before = models.DateTimeField(null=True, blank=True)
    not_after = models.DateTimeField(null=True, blank=True)
    aws_trusted = models.BooleanField(default=False, help_text="The chain ends in a CA of AWS's list.")
    warnings = models.JSONField(default=list, help_text="What the checks had to say when it was installed.")
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    activated_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["state"], condition=models.Q(state="ACTIVE"), name="one_active_endpoint_certificate"
            )
        ]

    def __str__(self) -> str:
        return ", ".join(self.names) or str(self.pk)


class EndpointTls(models.Model):
    """The one row that agents look at: how the endpoint serves TLS, beside the active certificate."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    client_roots = models.TextField(
        blank=True, help_text="PEM: CAs under which clients must show a certificate."
    )
    revision = models.PositiveIntegerField(default=1, help_text="Raised with every change of either.")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="endpoint_tls_is_single")
        ]

    def __str__(self) -> str:
        return "TLS of the XKS endpoint"
