"""What 0001 to 0009 make, at once: a first start renders each model once instead of after each of some hundred steps."""

import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import vault.fields


class Migration(migrations.Migration):
    replaces = [
        ("cloudkeys", "0001_initial"),
        ("cloudkeys", "0002_list_indexes"),
        ("cloudkeys", "0003_credential_rotation"),
        ("cloudkeys", "0004_attention_indexes"),
        ("cloudkeys", "0005_store_staleness"),
        ("cloudkeys", "0006_count_indexes"),
        ("cloudkeys", "0007_key_set_drafts"),
        ("cloudkeys", "0008_key_set_counts"),
        ("cloudkeys", "0009_hsm_protection"),
    ]

    initial = True

    dependencies = [
        ("vault", "0001_squashed_0009_errand"),
    ]

    operations = [
        migrations.CreateModel(
            name="CspAccount",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="csp_accounts",
                        to="vault.vault",
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                ("description", models.CharField(blank=True, max_length=1000)),
                (
                    "group",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="csp_accounts",
                        to="vault.group",
                    ),
                ),
                ("provider", models.CharField(choices=[("aws", "AWS")], default="aws", max_length=16)),
                (
                    "partition",
                    models.CharField(
                        choices=[
                            ("aws", "AWS"),
                            ("aws-us-gov", "AWS GovCloud (US)"),
                            ("aws-cn", "AWS China"),
                            ("simulator", "Bundled simulator"),
                        ],
                        default="aws",
                        max_length=16,
                    ),
                ),
                (
                    "auth_method",
                    models.CharField(
                        choices=[
                            ("ACCESS_KEY", "Access key"),
                            ("ASSUME_ROLE", "Access key that assumes a role"),
                        ],
                        default="ACCESS_KEY",
                        max_length=16,
                    ),
                ),
                ("access_key_id", models.CharField(max_length=128)),
                ("secret_access_key", vault.fields.WrappedSecretField(null=True)),
                ("role_arn", models.CharField(blank=True, max_length=2048)),
                ("external_id", models.CharField(blank=True, max_length=1224)),
                ("default_region", models.CharField(max_length=32)),
                (
                    "cloud_account_id",
                    models.CharField(
                        blank=True, help_text="Account number that the credential proved.", max_length=32
                    ),
                ),
                ("principal_arn", models.CharField(blank=True, max_length=2048)),
                (
                    "health",
                    models.CharField(
                        choices=[
                            ("UNKNOWN", "Not looked at yet"),
                            ("OK", "Works"),
                            ("DEGRADED", "Works in part"),
                            ("FAILING", "Fails"),
                        ],
                        default="UNKNOWN",
                        max_length=16,
                    ),
                ),
                ("health_checked_at", models.DateTimeField(blank=True, null=True)),
                ("health_detail", models.JSONField(blank=True, default=dict)),
                (
                    "rotation_schedule",
                    models.JSONField(
                        default=dict, help_text="cloudkeys.schedules.Schedule; never inherited here."
                    ),
                ),
                ("credential_created_at", models.DateTimeField(blank=True, null=True)),
                ("next_rotation_at", models.DateTimeField(blank=True, db_index=True, null=True)),
                (
                    "rotation_state",
                    models.CharField(
                        choices=[
                            ("IDLE", "No rotation under way"),
                            ("CREATED", "New access key stored, not yet verified"),
                            ("SWITCHED", "New access key in use, old one still active"),
                            ("DEACTIVATED", "Old access key inactive, waiting for the grace period"),
                        ],
                        default="IDLE",
                        max_length=16,
                    ),
                ),
                ("pending_access_key_id", models.CharField(blank=True, max_length=128)),
                ("pending_secret_access_key", vault.fields.WrappedSecretField(null=True)),
                ("retiring_access_key_id", models.CharField(blank=True, max_length=128)),
                ("retire_after", models.DateTimeField(blank=True, null=True)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(fields=("vault", "name"), name="csp_account_name_unique")
                ],
            },
        ),
        migrations.CreateModel(
            name="Operation",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="operations",
                        to="vault.vault",
                    ),
                ),
                ("kind", models.CharField(help_text="A key of cloudkeys.operations.FLOWS.", max_length=64)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("WAITING", "Waiting"),
                            ("RUNNING", "Running"),
                            ("SUCCEEDED", "Done"),
                            ("FAILED", "Failed"),
                            ("CANCELLED", "Cancelled"),
                        ],
                        default="WAITING",
                        max_length=16,
                    ),
                ),
                ("target_type", models.CharField(max_length=64)),
                ("target_id", models.UUIDField()),
                ("target_name", models.CharField(blank=True, max_length=254)),
                (
                    "input",
                    models.JSONField(blank=True, default=dict, help_text="What was asked; never a secret."),
                ),
                (
                    "memo",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="What steps leave for later steps; never a secret.",
                    ),
                ),
                ("result", models.JSONField(blank=True, default=dict)),
                (
                    "steps",
                    models.JSONField(
                        default=list, help_text="[{name, label, state, started_at, ended_at, detail}]"
                    ),
                ),
                (
                    "step",
                    models.PositiveSmallIntegerField(default=0, help_text="Index of the next step to run."),
                ),
                ("attempts", models.PositiveIntegerField(default=0, help_text="Of the current step.")),
                ("next_try_at", models.DateTimeField(blank=True, null=True)),
                (
                    "error",
                    models.JSONField(
                        blank=True, help_text="{code, cause, cure, permanent} of the last failure.", null=True
                    ),
                ),
                ("cancel_requested", models.BooleanField(default=False)),
                (
                    "undoing",
                    models.BooleanField(
                        default=False, help_text="Running backwards after a cancel or a permanent failure."
                    ),
                ),
                ("lease_owner", models.CharField(blank=True, max_length=64)),
                ("lease_until", models.DateTimeField(blank=True, null=True)),
                (
                    "requested_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="operations",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("requested_by_name", models.CharField(blank=True, max_length=254)),
                ("via", models.CharField(blank=True, max_length=32)),
                ("request_id", models.CharField(blank=True, max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["-created_at"],
                "indexes": [
                    models.Index(fields=["vault", "-created_at", "id"], name="operation_vault_created"),
                    models.Index(fields=["target_id", "-created_at"], name="operation_target"),
                    models.Index(fields=["vault", "state", "-finished_at"], name="operation_failed"),
                    models.Index(
                        condition=models.Q(("state__in", ["WAITING", "RUNNING"])),
                        fields=["next_try_at"],
                        name="operation_due",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="KeySet",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="key_sets", to="vault.vault"
                    ),
                ),
                (
                    "csp_account",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="key_sets",
                        to="cloudkeys.cspaccount",
                    ),
                ),
                ("type", models.CharField(choices=[("AWS", "AWS key")], default="AWS", max_length=8)),
                ("name", models.CharField(max_length=100)),
                ("description", models.CharField(blank=True, max_length=1000)),
                (
                    "group",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="key_sets",
                        to="vault.group",
                    ),
                ),
                (
                    "protection",
                    models.CharField(
                        choices=[
                            ("software", "Software"),
                            ("hsm-wrapped", "Wrapped by an HSM"),
                            ("hsm-resident", "Resident in an HSM"),
                        ],
                        default="software",
                        help_text="Of versions made from now on; each version keeps the one that it was made under.",
                        max_length=16,
                    ),
                ),
                (
                    "hsm_connection",
                    models.ForeignKey(
                        blank=True,
                        help_text="Where new versions are made or wrapped; null for software.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="key_sets",
                        to="vault.hsmconnection",
                    ),
                ),
                (
                    "hsm_replication",
                    models.CharField(
                        blank=True,
                        choices=[("device-bound", "Device-bound"), ("replicated", "Replicated by Keystead")],
                        help_text="How its keys get to all members of the HSM; empty: replicated where there are several.",
                        max_length=16,
                    ),
                ),
                (
                    "hsm_key",
                    models.ForeignKey(
                        blank=True,
                        help_text="The wrapping key in the HSM under which kek_blob opens.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="key_sets",
                        to="vault.hsmkey",
                    ),
                ),
                (
                    "kek_blob",
                    vault.fields.WrappedSecretField(
                        help_text="The key set's KEK: encrypted as data in the HSM, and that under the vault's KEK.",
                        null=True,
                    ),
                ),
                ("rotation_schedule", models.JSONField(default=dict)),
                ("expiration", models.JSONField(default=dict)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(fields=("vault", "name"), name="key_set_name_unique")
                ],
            },
        ),
        migrations.CreateModel(
            name="KeySetDraft",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="key_set_drafts",
                        to="vault.vault",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="key_set_drafts",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "steps",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="{step: {fields: {name: text}, revision, window}}, as typed.",
                    ),
                ),
                ("made_at", models.DateTimeField(blank=True, null=True)),
                (
                    "key_set",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="cloudkeys.keyset",
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["-updated_at"],
            },
        ),
        migrations.CreateModel(
            name="XksKeyStore",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="xks_key_stores",
                        to="vault.vault",
                    ),
                ),
                (
                    "key_set",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="xks_key_store",
                        to="cloudkeys.keyset",
                    ),
                ),
                (
                    "path_prefix",
                    models.CharField(
                        blank=True, help_text="'' or '/something'; /kms/xks/v1 follows.", max_length=117
                    ),
                ),
                ("blocked", models.BooleanField(default=False)),
                ("blocked_reason", models.CharField(blank=True, max_length=1000)),
                ("max_staleness_s", models.PositiveIntegerField(blank=True, null=True)),
                (
                    "allowed_regions",
                    models.JSONField(
                        blank=True, default=list, help_text="SigV4 regions accepted; empty means any."
                    ),
                ),
                (
                    "rotation_schedule",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="When its XKS credential is rotated by itself; empty: never.",
                    ),
                ),
                ("next_rotation_at", models.DateTimeField(blank=True, db_index=True, null=True)),
                (
                    "is_conformance",
                    models.BooleanField(
                        default=False, help_text="Made to check the endpoint with AWS's test client."
                    ),
                ),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["created_at"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("path_prefix", ""), _negated=True),
                        fields=("path_prefix",),
                        name="path_prefix_unique_unless_empty",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("max_staleness_s", None),
                            models.Q(("max_staleness_s__gte", 1), ("max_staleness_s__lte", 86400)),
                            _connector="OR",
                        ),
                        name="store_staleness_in_bounds",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="XksCredential",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="xks_credentials",
                        to="vault.vault",
                    ),
                ),
                (
                    "store",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="credentials",
                        to="cloudkeys.xkskeystore",
                    ),
                ),
                ("access_key_id", models.CharField(max_length=30, unique=True)),
                ("secret_access_key", vault.fields.WrappedSecretField(null=True)),
                (
                    "state",
                    models.CharField(
                        choices=[("ACTIVE", "Active"), ("RETIRED", "Retired")], default="ACTIVE", max_length=8
                    ),
                ),
                (
                    "shown_at",
                    models.DateTimeField(
                        blank=True, help_text="When its secret left Keystead for the admin; once.", null=True
                    ),
                ),
                ("retired_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["created_at"],
            },
        ),
        migrations.CreateModel(
            name="AwsStoreLink",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="aws_store_links",
                        to="vault.vault",
                    ),
                ),
                (
                    "store",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="links",
                        to="cloudkeys.xkskeystore",
                    ),
                ),
                ("region", models.CharField(max_length=32)),
                ("name", models.CharField(help_text="The custom key store's name in AWS.", max_length=256)),
                ("custom_key_store_id", models.CharField(blank=True, max_length=64)),
                ("linked", models.BooleanField(default=False)),
                ("endpoint", models.CharField(max_length=128)),
                (
                    "connectivity",
                    models.CharField(
                        choices=[
                            ("PUBLIC_ENDPOINT", "Public endpoint"),
                            ("VPC_ENDPOINT_SERVICE", "VPC endpoint service"),
                        ],
                        default="PUBLIC_ENDPOINT",
                        max_length=24,
                    ),
                ),
                ("vpc_endpoint_service_name", models.CharField(blank=True, max_length=64)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("NOT_LINKED", "Not linked"),
                            ("PENDING", "Being made"),
                            ("DISCONNECTED", "Disconnected"),
                            ("CONNECTING", "Connecting"),
                            ("CONNECTED", "Connected"),
                            ("DISCONNECTING", "Disconnecting"),
                            ("FAILED", "Failed"),
                            ("GONE", "Gone from AWS"),
                        ],
                        default="NOT_LINKED",
                        max_length=16,
                    ),
                ),
                ("connection_error_code", models.CharField(blank=True, max_length=64)),
                ("cloud_state", models.JSONField(blank=True, default=dict)),
                ("cloud_state_at", models.DateTimeField(blank=True, null=True)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["region"],
                "constraints": [
                    models.UniqueConstraint(fields=("store", "region"), name="one_aws_store_per_region")
                ],
            },
        ),
        migrations.CreateModel(
            name="XksCredentialRegion",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "credential",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="regions",
                        to="cloudkeys.xkscredential",
                    ),
                ),
                ("region", models.CharField(blank=True, max_length=32)),
                (
                    "given",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("", "Not yet"),
                            ("KEYSTEAD", "Keystead gave it to AWS"),
                            ("PERSON", "A person gave it to AWS"),
                            ("NOT_NEEDED", "The region uses the store no more"),
                        ],
                        default="",
                        max_length=10,
                    ),
                ),
                ("given_at", models.DateTimeField(blank=True, null=True)),
                (
                    "last_used_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="Last request with a valid signature, whatever its answer.",
                        null=True,
                    ),
                ),
                (
                    "last_succeeded_at",
                    models.DateTimeField(blank=True, help_text="Last one answered with 200.", null=True),
                ),
            ],
            options={
                "ordering": ["region"],
                "constraints": [
                    models.UniqueConstraint(fields=("credential", "region"), name="credential_region_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="CloudKey",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="cloud_keys",
                        to="vault.vault",
                    ),
                ),
                (
                    "key_set",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="cloud_keys",
                        to="cloudkeys.keyset",
                    ),
                ),
                (
                    "csp_account",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="cloud_keys",
                        to="cloudkeys.cspaccount",
                    ),
                ),
                (
                    "store",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="cloud_keys",
                        to="cloudkeys.xkskeystore",
                    ),
                ),
                (
                    "link",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="cloud_keys",
                        to="cloudkeys.awsstorelink",
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("USER", "CloudKey"), ("HEALTH_CHECK", "Health-check key")],
                        default="USER",
                        max_length=16,
                    ),
                ),
                ("name", models.CharField(max_length=250)),
                ("description", models.CharField(blank=True, max_length=1000)),
                ("region", models.CharField(blank=True, max_length=32)),
                ("external_key_id", models.CharField(max_length=128)),
                (
                    "origin",
                    models.CharField(
                        choices=[
                            ("generated", "Generated"),
                            ("imported", "Imported"),
                            ("external", "External"),
                            ("discovered", "Discovered"),
                        ],
                        default="generated",
                        max_length=16,
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("ENABLED", "Enabled"),
                            ("DISABLED", "Disabled"),
                            ("PENDING_DELETION", "Pending deletion"),
                            ("DESTROYED", "Destroyed"),
                        ],
                        default="ENABLED",
                        max_length=20,
                    ),
                ),
                ("blocked", models.BooleanField(default=False)),
                (
                    "permitted_uses",
                    models.JSONField(
                        default=list, help_text="Of ENCRYPT, DECRYPT; health-check keys also WRAP, UNWRAP."
                    ),
                ),
                ("exportable", models.BooleanField(default=False)),
                ("deletable", models.BooleanField(default=True)),
                ("current_version", models.PositiveIntegerField(default=1)),
                (
                    "administrators",
                    models.JSONField(blank=True, default=list, help_text="IAM principal ARNs."),
                ),
                ("users", models.JSONField(blank=True, default=list, help_text="IAM principal ARNs.")),
                ("tags", models.JSONField(blank=True, default=dict)),
                (
                    "pointer_state",
                    models.CharField(
                        choices=[
                            ("NOT_LINKED", "Not linked"),
                            ("PENDING", "Being made"),
                            ("LINKED", "Linked"),
                            ("FAILED", "Failed"),
                            ("GONE", "Gone from AWS"),
                        ],
                        default="NOT_LINKED",
                        max_length=16,
                    ),
                ),
                ("kms_key_id", models.CharField(blank=True, max_length=64)),
                ("kms_key_arn", models.CharField(blank=True, max_length=2048)),
                (
                    "cloud_state",
                    models.JSONField(
                        blank=True, default=dict, help_text="What AWS last said; never changes `state`."
                    ),
                ),
                ("cloud_state_at", models.DateTimeField(blank=True, null=True)),
                (
                    "rotation_schedule",
                    models.JSONField(
                        blank=True, help_text="Null: inherited live from the key set.", null=True
                    ),
                ),
                (
                    "rotated_at",
                    models.DateTimeField(
                        help_text="When the current version began; schedules count from here."
                    ),
                ),
                ("next_rotation_at", models.DateTimeField(blank=True, null=True)),
                (
                    "expiration",
                    models.JSONField(
                        blank=True, help_text="Null: inherited live from the key set.", null=True
                    ),
                ),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                (
                    "expired_at",
                    models.DateTimeField(blank=True, help_text="When the expiry was acted upon.", null=True),
                ),
                (
                    "delete_after",
                    models.DateTimeField(blank=True, help_text="End of the deletion window.", null=True),
                ),
                (
                    "retired_at",
                    models.DateTimeField(
                        blank=True, help_text="When it became decrypt-only for good.", null=True
                    ),
                ),
                ("destroyed_at", models.DateTimeField(blank=True, null=True)),
                ("state_reason", models.CharField(blank=True, max_length=1000)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["name", "id"],
                "indexes": [
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
                    models.Index(
                        fields=["vault", "next_rotation_at", "id", "kind", "state"],
                        name="cloud_key_vault_rotation",
                    ),
                    models.Index(
                        fields=["vault", "expires_at", "id", "kind", "state", "expired_at"],
                        name="cloud_key_vault_expires",
                    ),
                    models.Index(
                        fields=["vault", "kind", "csp_account", "state", "blocked"],
                        name="cloud_key_vault_counts",
                    ),
                    models.Index(fields=["vault", "state", "id"], name="cloud_key_vault_state_id"),
                    models.Index(
                        condition=models.Q(("blocked", True)),
                        fields=["vault", "name", "id"],
                        name="cloud_key_vault_blocked",
                    ),
                    models.Index(fields=["vault", "pointer_state", "id"], name="cloud_key_vault_pointer"),
                    models.Index(
                        fields=["vault", "state", "delete_after", "id"], name="cloud_key_vault_deletion"
                    ),
                    models.Index(fields=["external_key_id"], name="cloud_key_external_id"),
                    models.Index(fields=["kms_key_id"], name="cloud_key_kms_id"),
                    models.Index(fields=["vault", "state", "name", "id"], name="cloud_key_vault_state"),
                    models.Index(fields=["key_set", "name", "id"], name="cloud_key_key_set_name"),
                    models.Index(fields=["key_set", "kind", "state"], name="cloud_key_key_set_counts"),
                    models.Index(
                        condition=models.Q(("next_rotation_at__isnull", False)),
                        fields=["next_rotation_at"],
                        name="cloud_key_next_rotation",
                    ),
                    models.Index(
                        condition=models.Q(("expires_at__isnull", False)),
                        fields=["expires_at"],
                        name="cloud_key_expires",
                    ),
                    models.Index(
                        condition=models.Q(("delete_after__isnull", False)),
                        fields=["delete_after"],
                        name="cloud_key_delete_after",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("store", "external_key_id"), name="external_key_id_once_and_for_all"
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("kind", "USER"), models.Q(("state", "DESTROYED"), _negated=True)),
                        fields=("csp_account", "region", "name"),
                        name="alias_free_in_account_and_region",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="KeyVersion",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="key_versions",
                        to="vault.vault",
                    ),
                ),
                (
                    "cloud_key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="versions",
                        to="cloudkeys.cloudkey",
                    ),
                ),
                ("number", models.PositiveIntegerField()),
                ("material", vault.fields.WrappedSecretField(null=True)),
                (
                    "protection",
                    models.CharField(
                        choices=[
                            ("software", "Software"),
                            ("hsm-wrapped", "Wrapped by an HSM"),
                            ("hsm-resident", "Resident in an HSM"),
                        ],
                        default="software",
                        max_length=16,
                    ),
                ),
                (
                    "hsm_key",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="key_version",
                        to="vault.hsmkey",
                    ),
                ),
                (
                    "reserved_invocations",
                    models.BigIntegerField(
                        default=0,
                        help_text="How often a key in an HSM may have encrypted; raised ahead, in blocks.",
                    ),
                ),
                (
                    "adopted_metadata",
                    models.BinaryField(
                        blank=True,
                        help_text="Of a key used through AWS's reference proxy before: its fixed ciphertextMetadata, empty for none.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "activated_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When it began to encrypt: only once every worker process could decrypt with it.",
                        null=True,
                    ),
                ),
                ("destroyed_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["number"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("reserved_invocations__gte", 2147483648)),
                        fields=["reserved_invocations"],
                        name="key_version_worn",
                    ),
                    models.Index(
                        condition=models.Q(("protection", "software"), _negated=True),
                        fields=["cloud_key", "protection"],
                        name="key_version_protected",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("cloud_key", "number"), name="version_number_once")
                ],
            },
        ),
    ]
