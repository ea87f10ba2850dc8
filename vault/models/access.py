"""API tokens, and the memory that makes a repeated POST harmless."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from vault.models.tenancy import Role, Vault


class ApiToken(models.Model):
    """A bearer token: acts as its owner, never above the owner's role at the time of use."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    vault = models.ForeignKey(
        Vault,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="api_tokens",
        help_text="The only vault this token may touch; empty means all that its owner may.",
    )
    role = models.CharField(
        max_length=16, choices=Role, blank=True, help_text="A ceiling; empty means the owner's role."
    )
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, help_text="The part that may be shown, to tell tokens apart.")
    digest = models.CharField(
        max_length=64, unique=True, help_text="SHA-256 of the whole token, which has 256 random bits."
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_ip = models.GenericIPAddressField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}...)"


class IdempotencyRecord(models.Model):
    """What a POST with an Idempotency-Key made, so that a replay finds it. Holds no response body, so no secret."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    method_path = models.CharField(max_length=512)
    request_digest = models.CharField(max_length=64, help_text="SHA-256 of the canonical request body.")
    target_type = models.CharField(max_length=64, blank=True)
    target_id = models.UUIDField(null=True)
    operation_id = models.UUIDField(null=True)
    status = models.PositiveSmallIntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["user", "key", "method_path"], name="idempotency_key_once_per_user_and_path"
            )
        ]

    def __str__(self) -> str:
        return f"{self.method_path} {self.key}"
