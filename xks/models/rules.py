"""Access rules of a store or a key: every version kept, one of them enforced, one watched in the shadow."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models import Q

from cloudkeys.models import CloudKey, XksKeyStore
from vault.models import Vault


class AccessRuleSet(models.Model):
    """The access rules of one store, or of one of its keys. Nothing enforced means that AWS IAM is trusted."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="access_rule_sets")
    store = models.ForeignKey(XksKeyStore, on_delete=models.CASCADE, related_name="access_rule_sets")
    cloud_key = models.OneToOneField(
        CloudKey,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="access_rule_set",
        help_text="Null: these are the store's.",
    )
    enforced = models.ForeignKey(
        "AccessRuleVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    shadowed = models.ForeignKey(
        "AccessRuleVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    shadowed_at = models.DateTimeField(null=True, blank=True)
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["created_at"]
        verbose_name = "set of access rules"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["store"], condition=Q(cloud_key=None), name="one_access_rule_set_per_store"
            )
        ]

    def __str__(self) -> str:
        return (
            f"access rules of {'key' if self.cloud_key_id else 'store'} {self.cloud_key_id or self.store_id}"
        )


class AccessRuleVersion(models.Model):
    """One version; it never changes. `rules` is what xks.rules_input reads."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="access_rule_versions")
    rule_set = models.ForeignKey(AccessRuleSet, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    rules = models.JSONField(default=list)
    reason = models.CharField(max_length=1000, blank=True)
    author_type = models.CharField(max_length=16)
    author_id = models.CharField(max_length=36, blank=True)
    author_name = models.CharField(max_length=254, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-number"]
        verbose_name = "version of access rules"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["rule_set", "number"], name="access_rule_version_once")
        ]

    def __str__(self) -> str:
        return f"version {self.number} of {self.rule_set_id}"


class ShadowTally(models.Model):
    """What one node's workers saw a shadowed version do since it was put in the shadow."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="+")
    version = models.ForeignKey(AccessRuleVersion, on_delete=models.CASCADE, related_name="tallies")
    node = models.CharField(max_length=253, help_text="The node's name.")
    judged = models.BigIntegerField(default=0)
    denied = models.JSONField(default=dict, help_text="By the rule's name; '' for no rule having allowed.")
    principals = models.JSONField(default=dict, help_text="Denied, by awsPrincipalArn; '' for all others.")
    began_at = models.DateTimeField(auto_now_add=True)
    last_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["node"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["version", "node"], name="one_tally_per_version_and_node")
        ]

    def __str__(self) -> str:
        return f"{self.version_id} on {self.node}"
