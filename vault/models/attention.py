"""What attention items there were, so that mails tell of changes only; and facts too dear to find out for a page."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from vault.models.tenancy import Vault


class AttentionSeen(models.Model):
    """One attention item of a vault: since when it stands, and whether it is over."""

    id = models.BigAutoField(primary_key=True)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="attention_seen")
    key = models.CharField(max_length=200)
    severity = models.PositiveSmallIntegerField()
    what = models.CharField(max_length=500)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    became_critical_at = models.DateTimeField(null=True)
    over_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["vault", "key"], name="attention_seen_once")]

    def __str__(self) -> str:
        return self.key


class AttentionMailbox(models.Model):
    """How far one person has been told about one vault, and who is mailing to it just now."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="attention_mailboxes")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="attention_mailboxes"
    )
    critical_told_until = models.DateTimeField(
        help_text="Items that became critical before this have been told."
    )
    critical_mailed_at = models.DateTimeField(null=True)
    digest_on = models.DateField(
        null=True, help_text="Day, in the person's time zone, of the last digest looked at."
    )
    digest_of = models.CharField(max_length=64, blank=True, help_text="SHA-256 of what the last digest told.")
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["vault", "user"], name="attention_mailbox_once")
        ]

    def __str__(self) -> str:
        return f"{self.user_id} of {self.vault_id}"


class UnusedKeys(models.Model):
    """Enabled keys of a vault that nobody has used for 90 days: counted by the clock, since a page must not wait for it."""

    vault = models.OneToOneField(
        Vault, primary_key=True, on_delete=models.CASCADE, related_name="unused_keys"
    )
    counted_at = models.DateTimeField()
    known = models.BooleanField(default=False, help_text="False: uses are on record for less than 90 days.")
    count = models.PositiveIntegerField(default=0)
    examples = models.JSONField(default=list, help_text="[{id, name}], the oldest keys first.")

    def __str__(self) -> str:
        return f"{self.vault_id}: {self.count}"
