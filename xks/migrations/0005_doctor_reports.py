"""What the doctor found last at each external key store."""

import uuid
from typing import ClassVar

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """See the module."""

    dependencies: ClassVar = [
        ("cloudkeys", "0001_initial"),
        ("vault", "0001_initial"),
        ("xks", "0004_request_store"),
    ]

    operations: ClassVar = [
        migrations.CreateModel(
            name="DoctorReport",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("endpoint", models.CharField(max_length=128)),
                ("region", models.CharField(max_length=32)),
                ("severity", models.CharField(help_text="The worst of its findings.", max_length=8)),
                ("findings", models.JSONField(default=list, help_text="[{id, severity, what, why, do}]")),
                (
                    "latency",
                    models.JSONField(default=dict, help_text="{encrypt|decrypt: {samples, p50_ms, ...}}"),
                ),
                ("seconds", models.FloatField(default=0)),
                ("examined_at", models.DateTimeField()),
                ("examined_by", models.CharField(blank=True, max_length=254)),
                (
                    "store",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="doctor_report",
                        to="cloudkeys.xkskeystore",
                    ),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="doctor_reports",
                        to="vault.vault",
                    ),
                ),
            ],
            options={"ordering": ["examined_at"]},
        ),
    ]
