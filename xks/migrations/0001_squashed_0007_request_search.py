"""What 0001 to 0007 make, at once: a first start renders each model once instead of after each of some hundred steps."""

import uuid
from importlib import import_module

import django.db.models.deletion
from django.db import migrations, models

import vault.fields


_request_store = import_module("xks.migrations.0004_request_store")


class Migration(migrations.Migration):
    replaces = [
        ("xks", "0001_access_rules"),
        ("xks", "0002_audit_chain"),
        ("xks", "0003_usage"),
        ("xks", "0004_request_store"),
        ("xks", "0005_doctor_reports"),
        ("xks", "0006_certificates"),
        ("xks", "0007_request_search"),
    ]

    initial = True

    dependencies = [
        ("vault", "0001_squashed_0009_errand"),
        ("cloudkeys", "0001_squashed_0009_hsm_protection"),
    ]

    operations = [
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
        migrations.CreateModel(
            name="DoctorReport",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="doctor_reports",
                        to="vault.vault",
                    ),
                ),
                (
                    "store",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="doctor_report",
                        to="cloudkeys.xkskeystore",
                    ),
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
            ],
            options={
                "ordering": ["examined_at"],
            },
        ),
        migrations.CreateModel(
            name="JournalChain",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("node_name", models.CharField(max_length=253)),
                (
                    "process",
                    models.CharField(
                        help_text="Names the worker process (xks.agent_registry).", max_length=64
                    ),
                ),
                ("state", vault.fields.WrappedSecretField(null=True)),
                ("sealed_segments", models.PositiveIntegerField(default=0)),
                ("sealed_mac", models.CharField(help_text="Last MAC of what is sealed, hex.", max_length=32)),
                ("anchor_segment", models.PositiveIntegerField(null=True)),
                ("anchor_sequence", models.PositiveBigIntegerField(null=True)),
                ("anchor_mac", models.CharField(blank=True, max_length=32)),
                ("anchored_at", models.DateTimeField(null=True)),
                ("started_at", models.DateTimeField(auto_now_add=True)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "end",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("", "Open"),
                            ("CLEAN", "Closed in good order"),
                            ("KILLED", "The worker ended in the midst"),
                            ("DAMAGED", "Not what was written"),
                            ("LOST", "Lost with its node"),
                        ],
                        default="",
                        max_length=8,
                    ),
                ),
                (
                    "shipped",
                    models.BooleanField(
                        default=False,
                        help_text="It has ended, and all that can be read of it is in the database.",
                    ),
                ),
            ],
            options={
                "ordering": ["started_at"],
                "indexes": [
                    models.Index(fields=["node_name", "ended_at"], name="journal_chain_node"),
                    models.Index(fields=["node_name", "shipped"], name="journal_chain_shipped"),
                ],
            },
        ),
        migrations.CreateModel(
            name="AuditKey",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("public_key", models.CharField(help_text="Ed25519, hex.", max_length=64)),
                ("private_key", models.TextField(help_text="Sealed (vault.keys.seal_text).")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("seals", models.BigIntegerField(default=0)),
                ("last_digest", models.CharField(max_length=64)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="audit_key_is_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="AuditSeal",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("line", models.TextField()),
                ("signature", models.BinaryField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["number"],
            },
        ),
        migrations.CreateModel(
            name="StoreLimits",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="store_limits",
                        to="vault.vault",
                    ),
                ),
                (
                    "store",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="limits",
                        to="cloudkeys.xkskeystore",
                    ),
                ),
                (
                    "requests_per_s",
                    models.PositiveIntegerField(blank=True, help_text="Of the store as a whole.", null=True),
                ),
                (
                    "credential_requests_per_s",
                    models.PositiveIntegerField(
                        blank=True, help_text="Of each of its credentials.", null=True
                    ),
                ),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "limit",
                "ordering": ["created_at"],
            },
        ),
        migrations.CreateModel(
            name="XksRequest",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("vault_id", models.UUIDField(null=True)),
                ("store_id", models.UUIDField(null=True)),
                ("key_id", models.UUIDField(null=True)),
                ("chain_id", models.UUIDField()),
                ("segment", models.PositiveIntegerField()),
                ("entry", models.PositiveIntegerField()),
                ("generation", models.BigIntegerField()),
                ("version", models.IntegerField()),
                ("microseconds", models.BigIntegerField()),
                ("operation", models.CharField(max_length=200)),
                ("outcome", models.CharField(max_length=200)),
                ("access_key_id", models.CharField(max_length=200)),
                ("region", models.CharField(max_length=200)),
                ("external_key_id", models.CharField(max_length=200)),
                ("principal_arn", models.CharField(max_length=200)),
                ("kms_key_arn", models.CharField(max_length=200)),
                ("kms_operation", models.CharField(max_length=200)),
                ("kms_via_service", models.CharField(max_length=200)),
                ("source_vpc", models.CharField(max_length=200)),
                ("source_vpce", models.CharField(max_length=200)),
                ("kms_request_id", models.CharField(max_length=64)),
                (
                    "withheld",
                    models.BooleanField(default=False, help_text="Recorded, but its result did not leave."),
                ),
            ],
            options={},
        ),
        migrations.CreateModel(
            name="RequestStore",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("kept_from", models.DateTimeField()),
                ("looked_at", models.DateTimeField(null=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="xks_request_store_is_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="Traffic",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("span_s", models.PositiveSmallIntegerField(help_text="60 or 3600.")),
                ("at", models.DateTimeField(help_text="When the minute or hour began.")),
                ("store_id", models.UUIDField()),
                ("bucket", models.PositiveSmallIntegerField(help_text="Of the microseconds.")),
                ("requests", models.BigIntegerField()),
                ("errors", models.BigIntegerField(help_text="Of these, answered with an error.")),
            ],
            options={
                "indexes": [models.Index(fields=["span_s", "at"], name="xks_traffic_at")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("span_s", "store_id", "at", "bucket"), name="xks_traffic_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AuditIntegrity",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("checked_at", models.DateTimeField(null=True)),
                ("seconds", models.FloatField(default=0)),
                (
                    "node_name",
                    models.CharField(blank=True, help_text="Whose journals were at hand.", max_length=253),
                ),
                ("holds", models.BooleanField(default=True)),
                ("held_at", models.DateTimeField(help_text="When it last held.", null=True)),
                ("findings", models.JSONField(default=list)),
                ("gaps", models.JSONField(default=list)),
                ("notes", models.JSONField(default=list)),
                ("seals", models.BigIntegerField(default=0)),
                ("head", models.CharField(blank=True, max_length=64)),
                ("segments", models.BigIntegerField(default=0)),
                ("records", models.BigIntegerField(default=0)),
                ("stored", models.BigIntegerField(default=0)),
                ("events", models.BigIntegerField(default=0)),
                ("claimed_at", models.DateTimeField(help_text="When a check was begun.", null=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="audit_integrity_is_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="StreamPosition",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                (
                    "position",
                    models.BigIntegerField(default=0, help_text="Of the last link that was delivered."),
                ),
                ("holder", models.CharField(blank=True, max_length=253)),
                ("held_until", models.DateTimeField(null=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("id", 1)), name="xks_stream_position_is_single"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="UsageHour",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("store_id", models.CharField(max_length=64)),
                ("key_id", models.CharField(blank=True, max_length=64)),
                ("operation", models.CharField(max_length=16)),
                ("principal_arn", models.CharField(blank=True, max_length=200)),
                ("kms_via_service", models.CharField(blank=True, max_length=200)),
                ("outcome", models.CharField(max_length=64)),
                ("count", models.BigIntegerField(default=0)),
                ("last_at", models.DateTimeField()),
            ],
            options={
                "indexes": [
                    models.Index(fields=["key_id", "hour"], name="usage_hour_key"),
                    models.Index(fields=["principal_arn", "hour"], name="usage_hour_principal"),
                    models.Index(fields=["outcome", "hour"], name="usage_hour_outcome"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=(
                            "hour",
                            "store_id",
                            "key_id",
                            "operation",
                            "principal_arn",
                            "kms_via_service",
                            "outcome",
                        ),
                        name="usage_hour_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="JournalShipment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "chain",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="shipments",
                        to="xks.journalchain",
                    ),
                ),
                ("segment", models.PositiveIntegerField()),
                (
                    "entries",
                    models.PositiveBigIntegerField(
                        default=0, help_text="Entries of the segment that are in the sums."
                    ),
                ),
                ("complete", models.BooleanField(default=False)),
                (
                    "damaged",
                    models.BooleanField(
                        default=False, help_text="What follows could not be read, or is gone."
                    ),
                ),
                (
                    "stored_from",
                    models.PositiveBigIntegerField(
                        default=0,
                        help_text="Entries before were counted by a release that kept no single records.",
                    ),
                ),
                (
                    "last_at",
                    models.DateTimeField(
                        help_text="When the last record that was shipped was made.", null=True
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("chain", "segment"), name="journal_segment_shipped_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="AccessRuleVersion",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="access_rule_versions",
                        to="vault.vault",
                    ),
                ),
                ("number", models.PositiveIntegerField()),
                ("rules", models.JSONField(default=list)),
                ("reason", models.CharField(blank=True, max_length=1000)),
                ("author_type", models.CharField(max_length=16)),
                ("author_id", models.CharField(blank=True, max_length=36)),
                ("author_name", models.CharField(blank=True, max_length=254)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "verbose_name": "version of access rules",
                "ordering": ["-number"],
            },
        ),
        migrations.CreateModel(
            name="AccessRuleSet",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="access_rule_sets",
                        to="vault.vault",
                    ),
                ),
                (
                    "store",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="access_rule_sets",
                        to="cloudkeys.xkskeystore",
                    ),
                ),
                (
                    "cloud_key",
                    models.OneToOneField(
                        blank=True,
                        help_text="Null: these are the store's.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="access_rule_set",
                        to="cloudkeys.cloudkey",
                    ),
                ),
                (
                    "enforced",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="xks.accessruleversion",
                    ),
                ),
                (
                    "shadowed",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="xks.accessruleversion",
                    ),
                ),
                ("shadowed_at", models.DateTimeField(blank=True, null=True)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "set of access rules",
                "ordering": ["created_at"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("cloud_key", None)),
                        fields=("store",),
                        name="one_access_rule_set_per_store",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ShadowTally",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="vault.vault"
                    ),
                ),
                (
                    "version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="tallies",
                        to="xks.accessruleversion",
                    ),
                ),
                ("node", models.CharField(help_text="The node's name.", max_length=253)),
                ("judged", models.BigIntegerField(default=0)),
                (
                    "denied",
                    models.JSONField(
                        default=dict, help_text="By the rule's name; '' for no rule having allowed."
                    ),
                ),
                (
                    "principals",
                    models.JSONField(
                        default=dict, help_text="Denied, by awsPrincipalArn; '' for all others."
                    ),
                ),
                ("began_at", models.DateTimeField(auto_now_add=True)),
                ("last_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["node"],
                "constraints": [
                    models.UniqueConstraint(fields=("version", "node"), name="one_tally_per_version_and_node")
                ],
            },
        ),
        migrations.AddField(
            model_name="AccessRuleVersion",
            name="rule_set",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="versions", to="xks.accessruleset"
            ),
        ),
        migrations.AddConstraint(
            model_name="AccessRuleVersion",
            constraint=models.UniqueConstraint(
                fields=("rule_set", "number"), name="access_rule_version_once"
            ),
        ),
        # Apart from its model, whose own would be made after all else, and so after the table is divided below.
        migrations.AddIndex(
            "xksrequest", models.Index(fields=["vault_id", "at", "id"], name="xks_request_vault")
        ),
        migrations.AddIndex(
            "xksrequest", models.Index(fields=["store_id", "at", "id"], name="xks_request_store")
        ),
        migrations.AddIndex(
            "xksrequest", models.Index(fields=["key_id", "at", "id"], name="xks_request_key")
        ),
        migrations.AddIndex("xksrequest", models.Index(fields=["kms_request_id"], name="xks_request_kms")),
        migrations.AddConstraint(
            "xksrequest",
            models.UniqueConstraint(fields=("chain_id", "segment", "entry", "at"), name="xks_request_once"),
        ),
        # On PostgreSQL; see 0004.
        migrations.RunPython(_request_store.partition_requests, migrations.RunPython.noop),
    ]
