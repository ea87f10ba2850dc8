"""The installation, its vaults, and who belongs to which."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from vault.fields import WrappedSecretField


class Installation(models.Model):
    """The one row that ties a database to its root key (DESIGN.md, "Keys at rest")."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    root_key_id = models.CharField(max_length=64)
    root_check_blob = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(id=1), name="installation_is_single")
        ]

    def __str__(self) -> str:
        return f"installation under root key {self.root_key_id}"


class Vault(models.Model):
    """A tenant: its keys, accounts and people, under a key encryption key of its own."""

    class Type(models.TextChoices):
        CLOUD_KEY_MANAGEMENT = "CLOUD_KEY_MANAGEMENT", "Cloud Key Management"

    class State(models.TextChoices):
        ENABLED = "ENABLED", "Enabled"
        DISABLED = "DISABLED", "Disabled"
        DESTROYED = "DESTROYED", "Destroyed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    type = models.CharField(max_length=32, choices=Type, default=Type.CLOUD_KEY_MANAGEMENT)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=1000, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.ENABLED)
    blocked = models.BooleanField(
        default=False, help_text="The data plane refuses every use of this vault's keys."
    )
    kek_blob = WrappedSecretField(
        null=True, help_text="The vault's KEK under the root key; gone once destroyed."
    )
    require_second_factor = models.BooleanField(
        default=False,
        help_text="Members work in it only in sessions of an account with a second factor. API tokens are not asked.",
    )
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    destroyed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["name"],
                condition=~models.Q(state="DESTROYED"),
                name="vault_name_is_unique_while_it_lives",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def serves(self) -> bool:
        """Whether the data plane may use this vault's keys at all."""
        return self.state == self.State.ENABLED and not self.blocked


class Role(models.TextChoices):
    """Roles in a vault; what each may do stands in vault/permissions.py."""

    VAULT_ADMIN = "VAULT_ADMIN", "Vault admin"
    CLOUD_ADMIN = "CLOUD_ADMIN", "Cloud admin"
    AUDITOR = "AUDITOR", "Auditor"


class Membership(models.Model):
    """One person's role in one vault."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role)
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["vault", "user"], name="one_membership_per_vault")
        ]

    def __str__(self) -> str:
        return f"{self.user_id} as {self.role} in {self.vault_id}"


class Group(models.Model):
    """People of a vault who together own CSP accounts and key sets (the "admin group" of the guide)."""

    CLOUD_ADMIN_GROUP = "Cloud Admin Group"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="groups")
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=1000, blank=True)
    members = models.ManyToManyField(Membership, related_name="groups", blank=True)
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["vault", "name"], name="group_name_unique_in_vault")
        ]

    def __str__(self) -> str:
        return self.name
