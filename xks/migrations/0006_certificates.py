"""Certificates of the XKS endpoint."""

import uuid
from typing import ClassVar

from django.db import migrations, models

import vault.fields


class Migration(migrations.Migration):
    """See the module."""

    dependencies: ClassVar = [
        ("xks", "0005_doctor_reports"),
    ]

    operations: ClassVar = [
        migrations.CreateModel(
            name="EndpointCertificate",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("PENDING", "Waits for its signed chain"),
                            ("ACTIVE", "Served"),
                            ("REPLACED", "Kept, not served"),
                        ],
                        max_length=8,
                    ),
                ),
                (
                    "names",
                    models.JSONField(default=list, help_text="Host names, the first being the subject's CN."),
                ),
                ("key_type", models.CharField(max_length=32)),
                ("private_key", vault.fields.WrappedSecretField()),
                ("request", models.TextField(blank=True, help_text="PEM of the CSR.")),
                ("chain", models.TextField(blank=True, help_text="PEM, leaf first.")),
                ("subject", models.CharField(blank=True, max_length=1024)),
                ("issuer", models.CharField(blank=True, max_length=1024)),
                ("serial", models.CharField(blank=True, max_length=64)),
                (
                    "fingerprint",
                    models.CharField(
                        blank=True, help_text="SHA-256 of the leaf, as on the wire.", max_length=64
                    ),
                ),
                ("not_before", models.DateTimeField(blank=True, null=True)),
                ("not_after", models.DateTimeField(blank=True, null=True)),
                (
                    "aws_trusted",
                    models.BooleanField(default=False, help_text="The chain ends in a CA of AWS's list."),
                ),
                (
                    "warnings",
                    models.JSONField(
                        default=list, help_text="What the checks had to say when it was installed."
                    ),
                ),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("activated_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["-created_at"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "ACTIVE")),
                        fields=("state",),
                        name="one_active_endpoint_certificate",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="EndpointTls",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                (
                    "client_roots",
                    models.TextField(
                        blank=True, help_text="PEM: CAs under which clients must show a certificate."
                    ),
                ),
                (
                    "revision",
                    models.PositiveIntegerField(default=1, help_text="Raised with every change of either."),
                ),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="endpoint_tls_is_single")
                ],
            },
        ),
    ]
