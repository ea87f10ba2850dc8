"""How often a store may be called."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from cloudkeys.models import XksKeyStore
from vault.models import Vault


class StoreLimits(models.Model):
    """Requests a second of one external key store, for the whole fleet; a store without a row has no limit."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="store_limits")
    store = models.OneToOneField(XksKeyStore, on_delete=models.CASCADE, related_name="limits")
    requests_per_s = models.PositiveIntegerField(null=True, blank=True, help_text="Of the store as a whole.")
    credential_requests_per_s = models.PositiveIntegerField(
        null=True, blank=True, help_text="Of each of its credentials."
    )
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["created_at"]
        verbose_name = "limit"

    def __str__(self) -> str:
        return f"limits of {self.store_id}"
