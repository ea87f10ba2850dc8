"""A key set's face to AWS: one XKS proxy face, and one AWS key store in each region."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from cloudkeys.models.keysets import KeySet
from vault.fields import WrappedSecretField
from vault.models import Vault


class XksKeyStore(models.Model):
    """The proxy face: a path prefix (empty allowed: then the access key id alone tells the store) and credentials."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="xks_key_stores")
    key_set = models.OneToOneField(KeySet, on_delete=models.PROTECT, related_name="xks_key_store")
    path_prefix = models.CharField(
        max_length=117, blank=True, help_text="'' or '/something'; /kms/xks/v1 follows."
    )
    blocked = models.BooleanField(default=False)
    blocked_reason = models.CharField(max_length=1000, blank=True)
    max_staleness_s = models.PositiveIntegerField(null=True, blank=True)
    allowed_regions = models.JSONField(
        default=list, blank=True, help_text="SigV4 regions accepted; empty means any."
    )
    rotation_schedule = models.JSONField(
        default=dict, blank=True, help_text="When its XKS credential is rotated by itself; empty: never."
    )
    next_rotation_at = models.DateTimeField(null=True, blank=True, db_index=True)
    is_conformance = models.BooleanField(
        default=False, help_text="Made to check the endpoint with AWS's test client."
    )
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["path_prefix"],
                condition=~models.Q(path_prefix=""),
                name="path_prefix_unique_unless_empty",
            ),
            # The most that KEYSTEAD_XKS_MAX_STALENESS may be; the service holds it to what it is.
            models.CheckConstraint(
                condition=models.Q(max_staleness_s=None)
                | models.Q(max_staleness_s__gte=1, max_staleness_s__lte=86400),
                name="store_staleness_in_bounds",
            ),
        ]

    def __str__(self) -> str:
        return f"external key store of {self.key_set_id}"


class XksCredential(models.Model):
    """One SigV4 credential that AWS KMS signs with. Two or more may live at once."""

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        RETIRED = "RETIRED", "Retired"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="xks_credentials")
    store = models.ForeignKey(XksKeyStore, on_delete=models.CASCADE, related_name="credentials")
    access_key_id = models.CharField(max_length=30, unique=True)
    secret_access_key = WrappedSecretField(null=True)
    state = models.CharField(max_length=8, choices=State, default=State.ACTIVE)
    shown_at = models.DateTimeField(
        null=True, blank=True, help_text="When its secret left Keystead for the admin; once."
    )
    retired_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["created_at"]

    def __str__(self) -> str:
        return self.access_key_id


class XksCredentialRegion(models.Model):
    """One credential in one AWS region: how AWS came by it there, and when the data plane last saw it in use.

    The region is the one that the caller names in its signature; "" gathers what is beyond the number kept apart.
    The agents move the two times on, never back.
    """

    class Given(models.TextChoices):
        NOT_YET = "", "Not yet"
        KEYSTEAD = "KEYSTEAD", "Keystead gave it to AWS"
        PERSON = "PERSON", "A person gave it to AWS"
        NOT_NEEDED = "NOT_NEEDED", "The region uses the store no more"

    id = models.BigAutoField(primary_key=True)
    credential = models.ForeignKey(XksCredential, on_delete=models.CASCADE, related_name="regions")
    region = models.CharField(max_length=32, blank=True)
    given = models.CharField(max_length=10, choices=Given, blank=True, default=Given.NOT_YET)
    given_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(
        null=True, blank=True, help_text="Last request with a valid signature, whatever its answer."
    )
    last_succeeded_at = models.DateTimeField(null=True, blank=True, help_text="Last one answered with 200.")

    class Meta:
        ordering: ClassVar = ["region"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["credential", "region"], name="credential_region_once")
        ]

    def __str__(self) -> str:
        return f"{self.credential_id} in {self.region or 'other regions'}"


class AwsStoreLink(models.Model):
    """The AWS side of a store in one region: linked (Keystead drives it) or not (the admin does, in the console)."""

    class State(models.TextChoices):
        NOT_LINKED = "NOT_LINKED", "Not linked"
        PENDING = "PENDING", "Being made"
        DISCONNECTED = "DISCONNECTED", "Disconnected"
        CONNECTING = "CONNECTING", "Connecting"
        CONNECTED = "CONNECTED", "Connected"
        DISCONNECTING = "DISCONNECTING", "Disconnecting"
        FAILED = "FAILED", "Failed"
        GONE = "GONE", "Gone from AWS"

    class Connectivity(models.TextChoices):
        PUBLIC_ENDPOINT = "PUBLIC_ENDPOINT", "Public endpoint"
        VPC_ENDPOINT_SERVICE = "VPC_ENDPOINT_SERVICE", "VPC endpoint service"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="aws_store_links")
    store = models.ForeignKey(XksKeyStore, on_delete=models.CASCADE, related_name="links")
    region = models.CharField(max_length=32)
    name = models.CharField(max_length=256, help_text="The custom key store's name in AWS.")
    custom_key_store_id = models.CharField(max_length=64, blank=True)
    linked = models.BooleanField(default=False)
    endpoint = models.CharField(max_length=128)
    connectivity = models.CharField(max_length=24, choices=Connectivity, default=Connectivity.PUBLIC_ENDPOINT)
    vpc_endpoint_service_name = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.NOT_LINKED)
    connection_error_code = models.CharField(max_length=64, blank=True)
    cloud_state = models.JSONField(default=dict, blank=True)
    cloud_state_at = models.DateTimeField(null=True, blank=True)
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["region"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["store", "region"], name="one_aws_store_per_region")
        ]

    def __str__(self) -> str:
        return f"{self.name} in {self.region}"
