"""How a person wishes to see and hear things."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models


class UserPreferences(models.Model):
    """Wishes of one person; without a row, the defaults. Time zone and name stand on the user."""

    class Theme(models.TextChoices):
        SYSTEM = "system", "As the system"
        LIGHT = "light", "Light"
        DARK = "dark", "Dark"

    class Density(models.TextChoices):
        COMFORTABLE = "comfortable", "Comfortable"
        COMPACT = "compact", "Compact"

    class AttentionMail(models.TextChoices):
        OFF = "OFF", "No mail"
        CRITICAL = "CRITICAL", "What is critical, at once"
        DAILY = "DAILY", "Once a day, when something has changed"
        CRITICAL_AND_DAILY = "CRITICAL_AND_DAILY", "Both"

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE, related_name="preferences"
    )
    theme = models.CharField(max_length=8, choices=Theme, default=Theme.SYSTEM)
    density = models.CharField(max_length=12, choices=Density, default=Density.COMFORTABLE)
    attention_mail = models.CharField(max_length=20, choices=AttentionMail, default=AttentionMail.OFF)
    lists = models.JSONField(
        default=dict,
        blank=True,
        help_text="By page: {columns: [...], density: ...}; see vault.services.preferences.",
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural: ClassVar[str] = "user preferences"

    def __str__(self) -> str:
        return f"preferences of {self.user_id}"
