"""Signs of life that any process of the installation can read, whichever machine it runs on."""

from __future__ import annotations

from django.db import models


class Pulse(models.Model):
    """When something last happened, by name: `chain` is that beat, broker and a worker together have run a task."""

    name = models.CharField(max_length=64, primary_key=True)
    at = models.DateTimeField()
    detail = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return f"{self.name} at {self.at}"
