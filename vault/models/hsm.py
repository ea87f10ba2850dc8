"""HSMs: connections, their members, and the keys that Keystead has in them. No key byte is ever in these tables."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from vault.fields import WrappedSecretField
from vault.models.tenancy import Vault


class HsmConnection(models.Model):
    """A PKCS#11 module and the tokens behind it that hold the same keys."""

    class Login(models.TextChoices):
        PIN = "pin", "PIN"
        MODULE = "module", "Module protection, no PIN"
        SOFTCARD = "softcard", "Softcard, preloaded"
        OCS = "ocs", "Operator cards, preloaded"

    class PinSource(models.TextChoices):
        STORED = "stored", "Kept encrypted in the database"
        EXTERNAL = "external", "From a file or the environment of each host"

    class Routing(models.TextChoices):
        PREFERRED = "preferred", "The first member that is well"
        ACTIVE_ACTIVE = "active-active", "All members in turn"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    module_path = models.CharField(max_length=500)
    environment = models.JSONField(
        default=dict, help_text="Variables for the vendor's module, of allowed names."
    )
    login = models.CharField(max_length=16, choices=Login, default=Login.PIN)
    pin = WrappedSecretField(null=True, help_text="The PIN under the installation's KEK.")
    pin_source = models.CharField(max_length=16, choices=PinSource, default=PinSource.STORED)
    pin_version = models.PositiveIntegerField(default=1)
    timeout_ms = models.PositiveIntegerField(default=1000)
    routing = models.CharField(max_length=16, choices=Routing, default=Routing.PREFERRED)
    vaults = models.ManyToManyField(Vault, blank=True, related_name="hsm_connections")
    health_key = models.CharField(
        max_length=128, blank=True, help_text="CKA_ID of the health-check key, hex."
    )
    test_wanted = models.UUIDField(
        null=True, help_text="A test that somebody waits for; the keeper answers it."
    )
    test_report = models.JSONField(null=True, help_text="What the last test found.")
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name = "HSM connection"

    def __str__(self) -> str:
        return self.name

    @property
    def needs_pin(self) -> bool:
        """Whether a helper logs in with a PIN."""
        return self.login == self.Login.PIN


class HsmMember(models.Model):
    """One token of a connection, and what the keepers last saw of it.

    A PIN is told apart by its *mark*: the connection's version of it and, where it comes from outside, a keyed digest.
    Before any login a process claims the member (``pin_claim_*``), so that a PIN that nobody has tried is tried once.
    """

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", "Active"
        DEGRADED = "DEGRADED", "Degraded"
        UNAVAILABLE = "UNAVAILABLE", "Unavailable"
        UNKNOWN = "UNKNOWN", "Unknown"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    connection = models.ForeignKey(HsmConnection, on_delete=models.CASCADE, related_name="members")
    position = models.PositiveSmallIntegerField(default=0, help_text="The preferred one has the lowest.")
    token_serial = models.CharField(max_length=64, blank=True)
    token_label = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.UNKNOWN)
    latency_ms = models.FloatField(null=True)
    identity = models.JSONField(default=dict, help_text="manufacturer, model, serial, firmware and more")
    profile = models.JSONField(default=dict, help_text="The capability profile, as probed.")
    message = models.CharField(max_length=500, blank=True)
    checked_at = models.DateTimeField(null=True)
    compared = models.BooleanField(
        default=False, help_text="It was shown to hold the same keys as the others."
    )
    hosts = models.JSONField(default=dict, help_text="What each host's keeper saw last.")
    pin_refused_version = models.PositiveIntegerField(null=True)
    pin_refused_marks = models.JSONField(default=list, help_text="Marks of PINs that the token has refused.")
    pin_accepted_mark = models.CharField(max_length=64, blank=True)
    pin_claim_mark = models.CharField(max_length=64, blank=True)
    pin_claim_count = models.PositiveSmallIntegerField(default=0)
    pin_claimed_by = models.CharField(max_length=64, blank=True)
    pin_claim_until = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["position"]
        verbose_name = "HSM member"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["connection", "token_serial", "token_label"], name="hsm_member_once"
            )
        ]

    def __str__(self) -> str:
        return self.token_label or self.token_serial


class HsmKey(models.Model):
    """A key of ours inside an HSM. PENDING from before it is made until it is verified on every member that it needs.

    The id's hex is the CKA_ID, except for adopted keys.
    """

    class Purpose(models.TextChoices):
        ROOT = "root", "Root key"
        WRAPPING = "wrapping", "Wraps a key set"
        HEALTH = "health", "Health check"
        RESIDENT = "resident", "CloudKey version"

    class Replication(models.TextChoices):
        DEVICE_BOUND = "device-bound", "Device-bound"
        REPLICATED = "replicated", "Replicated by Keystead"

    class State(models.TextChoices):
        PENDING = "PENDING", "Being made"
        ACTIVE = "ACTIVE", "Active"
        DESTROYED = "DESTROYED", "Destroyed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    connection = models.ForeignKey(HsmConnection, on_delete=models.PROTECT, related_name="keys")
    vault = models.ForeignKey(Vault, null=True, on_delete=models.PROTECT, related_name="hsm_keys")
    purpose = models.CharField(max_length=16, choices=Purpose)
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    label = models.CharField(max_length=128)
    cka_id = models.CharField(max_length=128, help_text="hex")
    replication = models.CharField(max_length=16, choices=Replication, default=Replication.DEVICE_BOUND)
    adopted = models.BooleanField(default=False)
    message = models.CharField(max_length=500, blank=True)
    swept_at = models.DateTimeField(null=True, help_text="When a keeper last looked for it on each member.")
    created_at = models.DateTimeField(auto_now_add=True)
    destroyed_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["created_at"]
        verbose_name = "HSM key"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["connection", "cka_id"],
                condition=models.Q(destroyed_at=None),
                name="hsm_key_cka_id_once",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["cka_id"], name="hsm_key_cka_id"),
            models.Index(fields=["connection", "purpose", "vault"], name="hsm_key_purpose"),
            models.Index(fields=["connection", "swept_at"], name="hsm_key_swept"),
        ]

    def __str__(self) -> str:
        return self.label


class HsmKeyPlacement(models.Model):
    """That a member holds a key, as it was last verified."""

    id = models.BigAutoField(primary_key=True)
    key = models.ForeignKey(HsmKey, on_delete=models.CASCADE, related_name="placements")
    member = models.ForeignKey(HsmMember, on_delete=models.CASCADE, related_name="placements")
    verified_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["key", "member"], name="hsm_placement_once")]

    def __str__(self) -> str:
        return f"{self.key_id} on {self.member_id}"
