"""Filters and columns that a person keeps under a name."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from vault.models.tenancy import Vault


class SavedView(models.Model):
    """A named filter of one list, for its owner or, when shared, for everybody in the vault."""

    class Page(models.TextChoices):
        CLOUD_KEYS = "cloud-keys", "Cloud keys"
        OPERATIONS = "operations", "Operations"
        AUDIT_EVENTS = "audit-events", "Audit"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="saved_views")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views")
    page = models.CharField(max_length=32, choices=Page)
    name = models.CharField(max_length=100)
    query = models.CharField(max_length=2000, blank=True, help_text="The filter as a URL query string.")
    columns = models.JSONField(default=list, blank=True)
    shared = models.BooleanField(default=False)
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["vault", "user", "page", "name"], name="saved_view_name_once")
        ]

    def __str__(self) -> str:
        return self.name
