"""CloudKeys and their versions."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q

from cloudkeys.models.accounts import CspAccount
from cloudkeys.models.keysets import KeySet
from cloudkeys.models.stores import AwsStoreLink, XksKeyStore
from vault.fields import WrappedSecretField
from vault.models import HsmKey, Vault


class CloudKey(models.Model):
    """One key, with versions. `state` is ours and rules the data plane; `pointer_state` tells of the KMS key in AWS."""

    class Kind(models.TextChoices):
        USER = "USER", "CloudKey"
        HEALTH_CHECK = "HEALTH_CHECK", "Health-check key"

    class State(models.TextChoices):
        ENABLED = "ENABLED", "Enabled"
        DISABLED = "DISABLED", "Disabled"
        PENDING_DELETION = "PENDING_DELETION", "Pending deletion"
        DESTROYED = "DESTROYED", "Destroyed"

    class PointerState(models.TextChoices):
        NOT_LINKED = "NOT_LINKED", "Not linked"
        PENDING = "PENDING", "Being made"
        LINKED = "LINKED", "Linked"
        FAILED = "FAILED", "Failed"
        GONE = "GONE", "Gone from AWS"

    class Origin(models.TextChoices):
        GENERATED = "generated", "Generated"
        IMPORTED = "imported", "Imported"
        EXTERNAL = "external", "External"
        DISCOVERED = "discovered", "Discovered"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="cloud_keys")
    key_set = models.ForeignKey(KeySet, on_delete=models.PROTECT, related_name="cloud_keys")
    csp_account = models.ForeignKey(
        CspAccount, null=True, blank=True, on_delete=models.PROTECT, related_name="cloud_keys"
    )
    store = models.ForeignKey(XksKeyStore, on_delete=models.PROTECT, related_name="cloud_keys")
    link = models.ForeignKey(
        AwsStoreLink, null=True, blank=True, on_delete=models.PROTECT, related_name="cloud_keys"
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.USER)
    name = models.CharField(max_length=250)
    description = models.CharField(max_length=1000, blank=True)
    region = models.CharField(max_length=32, blank=True)
    external_key_id = models.CharField(max_length=128)
    origin = models.CharField(max_length=16, choices=Origin, default=Origin.GENERATED)
    state = models.CharField(max_length=20, choices=State, default=State.ENABLED)
    blocked = models.BooleanField(default=False)
    permitted_uses = models.JSONField(
        default=list, help_text="Of ENCRYPT, DECRYPT; health-check keys also WRAP, UNWRAP."
    )
    exportable = models.BooleanField(default=False)
    deletable = models.BooleanField(default=True)
    current_version = models.PositiveIntegerField(default=1)
    administrators = models.JSONField(default=list, blank=True, help_text="IAM principal ARNs.")
    users = models.JSONField(default=list, blank=True, help_text="IAM principal ARNs.")
    tags = models.JSONField(default=dict, blank=True)

    pointer_state = models.CharField(max_length=16, choices=PointerState, default=PointerState.NOT_LINKED)
    kms_key_id = models.CharField(max_length=64, blank=True)
    kms_key_arn = models.CharField(max_length=2048, blank=True)
    cloud_state = models.JSONField(
        default=dict, blank=True, help_text="What AWS last said; never changes `state`."
    )
    cloud_state_at = models.DateTimeField(null=True, blank=True)

    rotation_schedule = models.JSONField(
        null=True, blank=True, help_text="Null: inherited live from the key set."
    )
    rotated_at = models.DateTimeField(help_text="When the current version began; schedules count from here.")
    next_rotation_at = models.DateTimeField(null=True, blank=True)
    expiration = models.JSONField(null=True, blank=True, help_text="Null: inherited live from the key set.")
    expires_at = models.DateTimeField(null=True, blank=True)
    expired_at = models.DateTimeField(null=True, blank=True, help_text="When the expiry was acted upon.")
    delete_after = models.DateTimeField(null=True, blank=True, help_text="End of the deletion window.")
    retired_at = models.DateTimeField(
        null=True, blank=True, help_text="When it became decrypt-only for good."
    )
    destroyed_at = models.DateTimeField(null=True, blank=True)
    state_reason = models.CharField(max_length=1000, blank=True)

    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["store", "external_key_id"], name="external_key_id_once_and_for_all"
            ),
            models.UniqueConstraint(
                fields=["csp_account", "region", "name"],
                condition=Q(kind="USER") & ~Q(state="DESTROYED"),
                name="alias_free_in_account_and_region",
            ),
        ]
        indexes: ClassVar = [
            # Lists find a page by keys alone (cloudkeys/api/key_shapes.py). This one also holds what lists filter by, so
            # that a scan for a part of the name, or for few rows among many, does not read the rows themselves.
            models.Index(
                fields=[
                    "vault",
                    "name",
                    "id",
                    "kind",
                    "state",
                    "blocked",
                    "pointer_state",
                    "region",
                    "csp_account",
                ],
                name="cloud_key_vault_name",
            ),
            models.Index(fields=["vault", "created_at", "id"], name="cloud_key_vault_created"),
            # With what the first page counts by, so that it reads the index alone.
            models.Index(
                fields=["vault", "next_rotation_at", "id", "kind", "state"], name="cloud_key_vault_rotation"
            ),
            models.Index(
                fields=["vault", "expires_at", "id", "kind", "state", "expired_at"],
                name="cloud_key_vault_expires",
            ),
            models.Index(
                fields=["vault", "kind", "csp_account", "state", "blocked"], name="cloud_key_vault_counts"
            ),
            models.Index(fields=["vault", "state", "id"], name="cloud_key_vault_state_id"),
            models.Index(
                fields=["vault", "name", "id"], name="cloud_key_vault_blocked", condition=Q(blocked=True)
            ),
            # Whole: SQLite uses an index with a condition only where the query spells it without parameters.
            models.Index(fields=["vault", "pointer_state", "id"], name="cloud_key_vault_pointer"),
            models.Index(fields=["vault", "state", "delete_after", "id"], name="cloud_key_vault_deletion"),
            # Which regions there are, found by leaps (cloudkeys/services/regions.py).
            models.Index(fields=["vault", "region"], name="cloud_key_vault_region"),
            models.Index(fields=["external_key_id"], name="cloud_key_external_id"),
            models.Index(fields=["kms_key_id"], name="cloud_key_kms_id"),
            models.Index(fields=["vault", "state", "name", "id"], name="cloud_key_vault_state"),
            models.Index(fields=["key_set", "name", "id"], name="cloud_key_key_set_name"),
            models.Index(fields=["key_set", "kind", "state"], name="cloud_key_key_set_counts"),
            models.Index(
                fields=["next_rotation_at"],
                name="cloud_key_next_rotation",
                condition=Q(next_rotation_at__isnull=False),
            ),
            models.Index(
                fields=["expires_at"], name="cloud_key_expires", condition=Q(expires_at__isnull=False)
            ),
            models.Index(
                fields=["delete_after"],
                name="cloud_key_delete_after",
                condition=Q(delete_after__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def alias(self) -> str:
        """The alias in AWS KMS: equal to the name."""
        return f"alias/{self.name}"


class KeyVersion(models.Model):
    """AES-256 material of one version; it opens what it encrypted for as long as the key lives.

    `material` is sealed under the vault's KEK (software) or the key set's (hsm-wrapped). A version that lives in an HSM
    has none: `hsm_key` says where it is.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="key_versions")
    cloud_key = models.ForeignKey(CloudKey, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    material = WrappedSecretField(null=True)
    protection = models.CharField(
        max_length=16, choices=KeySet.Protection, default=KeySet.Protection.SOFTWARE
    )
    hsm_key = models.OneToOneField(
        HsmKey, null=True, blank=True, on_delete=models.PROTECT, related_name="key_version"
    )
    reserved_invocations = models.BigIntegerField(
        default=0, help_text="How often a key in an HSM may have encrypted; raised ahead, in blocks."
    )
    adopted_metadata = models.BinaryField(
        null=True,
        blank=True,
        editable=False,
        help_text="Of a key used through AWS's reference proxy before: its fixed ciphertextMetadata, empty for none.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When it began to encrypt: only once every worker process could decrypt with it.",
    )
    destroyed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["cloud_key", "number"], name="version_number_once")
        ]
        indexes: ClassVar = [
            # Versions that rotate because of how often they have encrypted; nearly always none.
            models.Index(
                fields=["reserved_invocations"],
                name="key_version_worn",
                condition=Q(reserved_invocations__gte=2**31),
            ),
            # Which keys of a set still have versions of another protection.
            models.Index(
                fields=["cloud_key", "protection"],
                name="key_version_protected",
                condition=~Q(protection="software"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cloud_key_id} v{self.number}"
