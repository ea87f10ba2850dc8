"""Key sets: keys of one kind under one account, with one protection and one default schedule."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from cloudkeys.models.accounts import CspAccount
from vault.fields import WrappedSecretField
from vault.models import Group, HsmConnection, HsmKey, Vault


class KeySet(models.Model):
    """What its CloudKeys have in common. Keys without a schedule or expiration of their own inherit these live."""

    class Type(models.TextChoices):
        AWS = "AWS", "AWS key"

    class Protection(models.TextChoices):
        SOFTWARE = "software", "Software"
        HSM_WRAPPED = "hsm-wrapped", "Wrapped by an HSM"
        HSM_RESIDENT = "hsm-resident", "Resident in an HSM"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="key_sets")
    csp_account = models.ForeignKey(
        CspAccount, null=True, blank=True, on_delete=models.PROTECT, related_name="key_sets"
    )
    type = models.CharField(max_length=8, choices=Type, default=Type.AWS)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=1000, blank=True)
    group = models.ForeignKey(Group, null=True, blank=True, on_delete=models.PROTECT, related_name="key_sets")
    protection = models.CharField(
        max_length=16,
        choices=Protection,
        default=Protection.SOFTWARE,
        help_text="Of versions made from now on; each version keeps the one that it was made under.",
    )
    hsm_connection = models.ForeignKey(
        HsmConnection,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="key_sets",
        help_text="Where new versions are made or wrapped; null for software.",
    )
    hsm_replication = models.CharField(
        max_length=16,
        choices=HsmKey.Replication,
        blank=True,
        help_text="How its keys get to all members of the HSM; empty: replicated where there are several.",
    )
    hsm_key = models.ForeignKey(
        HsmKey,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="key_sets",
        help_text="The wrapping key in the HSM under which kek_blob opens.",
    )
    kek_blob = WrappedSecretField(
        null=True,
        help_text="The key set's KEK: encrypted as data in the HSM, and that under the vault's KEK.",
    )
    rotation_schedule = models.JSONField(default=dict)
    expiration = models.JSONField(default=dict)
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["vault", "name"], name="key_set_name_unique")
        ]

    def __str__(self) -> str:
        return self.name
