"""What each node serves TLS with, and word of a change of it to the agents."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """See the module."""

    dependencies: ClassVar = [("vault", "0004_preferences_attention")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="node",
            name="certificate",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="What its endpoint serves with: xks.wire.CertificateServed.",
            ),
        ),
        migrations.AlterField(
            model_name="generationchange",
            name="kind",
            field=models.CharField(
                choices=[
                    ("VAULT", "Vault"),
                    ("STORE", "XKS key store"),
                    ("KEY", "CloudKey"),
                    ("TLS", "TLS of the XKS endpoint"),
                ],
                max_length=8,
            ),
        ),
    ]
