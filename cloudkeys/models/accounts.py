"""Credentials at one cloud."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from vault.fields import WrappedSecretField
from vault.models import Group, Vault


class CspAccount(models.Model):
    """How Keystead signs in at a cloud service provider: an access key, or a role that it assumes with one."""

    class Provider(models.TextChoices):
        AWS = "aws", "AWS"

    class Partition(models.TextChoices):
        AWS = "aws", "AWS"
        AWS_US_GOV = "aws-us-gov", "AWS GovCloud (US)"
        AWS_CN = "aws-cn", "AWS China"
        SIMULATOR = "simulator", "Bundled simulator"

    class AuthMethod(models.TextChoices):
        ACCESS_KEY = "ACCESS_KEY", "Access key"
        ASSUME_ROLE = "ASSUME_ROLE", "Access key that assumes a role"

    class Health(models.TextChoices):
        UNKNOWN = "UNKNOWN", "Not looked at yet"
        OK = "OK", "Works"
        DEGRADED = "DEGRADED", "Works in part"
        FAILING = "FAILING", "Fails"

    class Rotation(models.TextChoices):
        """Where a rotation of the access key stands; kept on the row so that a crash loses no credential."""

        IDLE = "IDLE", "No rotation under way"
        CREATED = "CREATED", "New access key stored, not yet verified"
        SWITCHED = "SWITCHED", "New access key in use, old one still active"
        DEACTIVATED = "DEACTIVATED", "Old access key inactive, waiting for the grace period"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="csp_accounts")
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=1000, blank=True)
    group = models.ForeignKey(
        Group, null=True, blank=True, on_delete=models.PROTECT, related_name="csp_accounts"
    )
    provider = models.CharField(max_length=16, choices=Provider, default=Provider.AWS)
    partition = models.CharField(max_length=16, choices=Partition, default=Partition.AWS)
    auth_method = models.CharField(max_length=16, choices=AuthMethod, default=AuthMethod.ACCESS_KEY)
    access_key_id = models.CharField(max_length=128)
    secret_access_key = WrappedSecretField(null=True)
    role_arn = models.CharField(max_length=2048, blank=True)
    external_id = models.CharField(max_length=1224, blank=True)
    default_region = models.CharField(max_length=32)

    cloud_account_id = models.CharField(
        max_length=32, blank=True, help_text="Account number that the credential proved."
    )
    principal_arn = models.CharField(max_length=2048, blank=True)
    health = models.CharField(max_length=16, choices=Health, default=Health.UNKNOWN)
    health_checked_at = models.DateTimeField(null=True, blank=True)
    health_detail = models.JSONField(default=dict, blank=True)

    rotation_schedule = models.JSONField(
        default=dict, help_text="cloudkeys.schedules.Schedule; never inherited here."
    )
    credential_created_at = models.DateTimeField(null=True, blank=True)
    next_rotation_at = models.DateTimeField(null=True, blank=True, db_index=True)
    rotation_state = models.CharField(max_length=16, choices=Rotation, default=Rotation.IDLE)
    pending_access_key_id = models.CharField(max_length=128, blank=True)
    pending_secret_access_key = WrappedSecretField(null=True)
    retiring_access_key_id = models.CharField(max_length=128, blank=True)
    retire_after = models.DateTimeField(null=True, blank=True)

    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["vault", "name"], name="csp_account_name_unique")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_simulated(self) -> bool:
        """Whether this account lives in the bundled simulator, which every page has to say."""
        return self.partition == self.Partition.SIMULATOR
