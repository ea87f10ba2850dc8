"""What somebody has begun to fill in, kept on the server until it is made or thrown away."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from cloudkeys.models.keysets import KeySet
from vault.models import Vault


class KeySetDraft(models.Model):
    """A key set that is being described step by step. It holds no secret, and nobody but its writer sees it.

    The id is chosen by the page that begins it, so that asking for the page writes nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="key_set_drafts")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="key_set_drafts"
    )
    steps = models.JSONField(
        default=dict, blank=True, help_text="{step: {fields: {name: text}, revision, window}}, as typed."
    )
    made_at = models.DateTimeField(null=True, blank=True)
    key_set = models.ForeignKey(KeySet, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["-updated_at"]

    def __str__(self) -> str:
        return self.title or "unnamed"

    @property
    def title(self) -> str:
        """The name typed so far; may be empty."""
        return str(self.steps.get("what", {}).get("fields", {}).get("name", "")).strip()[:100]
