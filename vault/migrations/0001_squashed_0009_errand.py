"""What 0001 to 0009 make, at once: a first start renders each model once instead of after each of some hundred steps."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import vault.fields


class Migration(migrations.Migration):
    replaces = [
        ("vault", "0001_initial"),
        ("vault", "0002_audit_chain"),
        ("vault", "0003_node_alarms"),
        ("vault", "0004_preferences_attention"),
        ("vault", "0005_node_certificate"),
        ("vault", "0006_audit_filters"),
        ("vault", "0007_hsm"),
        ("vault", "0008_audit_of_the_installation"),
        ("vault", "0009_errand"),
    ]

    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("root_key_id", models.CharField(max_length=64)),
                ("root_check_blob", models.BinaryField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="installation_is_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="Vault",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "type",
                    models.CharField(
                        choices=[("CLOUD_KEY_MANAGEMENT", "Cloud Key Management")],
                        default="CLOUD_KEY_MANAGEMENT",
                        max_length=32,
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                ("description", models.CharField(blank=True, max_length=1000)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("ENABLED", "Enabled"),
                            ("DISABLED", "Disabled"),
                            ("DESTROYED", "Destroyed"),
                        ],
                        default="ENABLED",
                        max_length=16,
                    ),
                ),
                (
                    "blocked",
                    models.BooleanField(
                        default=False, help_text="The data plane refuses every use of this vault's keys."
                    ),
                ),
                (
                    "kek_blob",
                    vault.fields.WrappedSecretField(
                        help_text="The vault's KEK under the root key; gone once destroyed.", null=True
                    ),
                ),
                (
                    "require_second_factor",
                    models.BooleanField(
                        default=False,
                        help_text="Members work in it only in sessions of an account with a second factor. API tokens are not asked.",
                    ),
                ),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("destroyed_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "DESTROYED"), _negated=True),
                        fields=("name",),
                        name="vault_name_is_unique_while_it_lives",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AuditChainHead",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("position", models.BigIntegerField(default=0)),
                ("digest", models.CharField(max_length=64)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="audit_chain_head_is_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="AuditLink",
            fields=[
                ("position", models.BigIntegerField(primary_key=True, serialize=False)),
                ("sequence", models.BigIntegerField(help_text="Of the event.", unique=True)),
                ("digest", models.CharField(max_length=64)),
            ],
            options={
                "ordering": ["position"],
            },
        ),
        migrations.CreateModel(
            name="Generation",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="generation_is_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="GenerationChange",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("generation", models.BigIntegerField(db_index=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("VAULT", "Vault"),
                            ("STORE", "XKS key store"),
                            ("KEY", "CloudKey"),
                            ("TLS", "TLS of the XKS endpoint"),
                        ],
                        max_length=8,
                    ),
                ),
                ("object_id", models.UUIDField()),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.CreateModel(
            name="Node",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(max_length=253, unique=True)),
                ("software_version", models.CharField(blank=True, max_length=32)),
                ("started_at", models.DateTimeField()),
                ("last_seen_at", models.DateTimeField(db_index=True)),
                ("deregistered_at", models.DateTimeField(blank=True, null=True)),
                (
                    "applied_generation",
                    models.BigIntegerField(default=0, help_text="What the agent has read."),
                ),
                (
                    "certificate",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="What its endpoint serves with: xks.wire.CertificateServed.",
                    ),
                ),
                (
                    "max_staleness_s",
                    models.FloatField(
                        help_text="The agent's own bound: its workers refuse after so many seconds without news.",
                        null=True,
                    ),
                ),
                (
                    "alarms",
                    models.JSONField(
                        blank=True, default=list, help_text="[{code, since, detail}], vault.node_alarms."
                    ),
                ),
                ("refused_mark", models.CharField(blank=True, max_length=64)),
                (
                    "refused_from",
                    models.BigIntegerField(help_text="The generation that the node holds.", null=True),
                ),
                (
                    "refused_generation",
                    models.BigIntegerField(help_text="The generation that it found.", null=True),
                ),
                (
                    "accepted_mark",
                    models.CharField(
                        blank=True,
                        help_text="The refused_mark that an operator has accepted last.",
                        max_length=64,
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="Pulse",
            fields=[
                ("name", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("detail", models.JSONField(blank=True, default=dict)),
            ],
        ),
        migrations.CreateModel(
            name="User",
            fields=[
                ("password", models.CharField(max_length=128, verbose_name="password")),
                ("last_login", models.DateTimeField(blank=True, null=True, verbose_name="last login")),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "email",
                    models.EmailField(
                        error_messages={"unique": "A person with this e-mail exists already."},
                        max_length=254,
                        unique=True,
                    ),
                ),
                ("name", models.CharField(blank=True, max_length=150)),
                ("is_active", models.BooleanField(default=True)),
                (
                    "is_appliance_admin",
                    models.BooleanField(
                        default=False,
                        help_text="May create vaults and look after the installation; sees no vault's keys.",
                    ),
                ),
                (
                    "must_change_password",
                    models.BooleanField(
                        default=False,
                        help_text="Signed in with a one-time password: nothing else is allowed until it is changed.",
                    ),
                ),
                ("one_time_password_expires_at", models.DateTimeField(blank=True, null=True)),
                ("time_zone", models.CharField(default="UTC", max_length=64)),
                ("date_joined", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "groups",
                    models.ManyToManyField(
                        blank=True,
                        help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
                (
                    "user_permissions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Specific permissions for this user.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.permission",
                        verbose_name="user permissions",
                    ),
                ),
            ],
            options={
                "ordering": ["email"],
            },
        ),
        migrations.CreateModel(
            name="Membership",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="memberships",
                        to="vault.vault",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="memberships",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("VAULT_ADMIN", "Vault admin"),
                            ("CLOUD_ADMIN", "Cloud admin"),
                            ("AUDITOR", "Auditor"),
                        ],
                        max_length=16,
                    ),
                ),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["created_at"],
                "constraints": [
                    models.UniqueConstraint(fields=("vault", "user"), name="one_membership_per_vault")
                ],
            },
        ),
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="api_tokens",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        blank=True,
                        help_text="The only vault this token may touch; empty means all that its owner may.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="api_tokens",
                        to="vault.vault",
                    ),
                ),
                (
                    "role",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("VAULT_ADMIN", "Vault admin"),
                            ("CLOUD_ADMIN", "Cloud admin"),
                            ("AUDITOR", "Auditor"),
                        ],
                        help_text="A ceiling; empty means the owner's role.",
                        max_length=16,
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                (
                    "prefix",
                    models.CharField(
                        help_text="The part that may be shown, to tell tokens apart.", max_length=16
                    ),
                ),
                (
                    "digest",
                    models.CharField(
                        help_text="SHA-256 of the whole token, which has 256 random bits.",
                        max_length=64,
                        unique=True,
                    ),
                ),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("last_used_at", models.DateTimeField(blank=True, null=True)),
                ("last_used_ip", models.GenericIPAddressField(blank=True, null=True)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["-created_at"],
            },
        ),
        migrations.CreateModel(
            name="IdempotencyRecord",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("key", models.CharField(max_length=255)),
                ("method_path", models.CharField(max_length=512)),
                (
                    "request_digest",
                    models.CharField(help_text="SHA-256 of the canonical request body.", max_length=64),
                ),
                ("target_type", models.CharField(blank=True, max_length=64)),
                ("target_id", models.UUIDField(null=True)),
                ("operation_id", models.UUIDField(null=True)),
                ("status", models.PositiveSmallIntegerField(null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("user", "key", "method_path"), name="idempotency_key_once_per_user_and_path"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AttentionSeen",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attention_seen",
                        to="vault.vault",
                    ),
                ),
                ("key", models.CharField(max_length=200)),
                ("severity", models.PositiveSmallIntegerField()),
                ("what", models.CharField(max_length=500)),
                ("first_seen_at", models.DateTimeField()),
                ("last_seen_at", models.DateTimeField()),
                ("became_critical_at", models.DateTimeField(null=True)),
                ("over_at", models.DateTimeField(null=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("vault", "key"), name="attention_seen_once")],
            },
        ),
        migrations.CreateModel(
            name="AttentionMailbox",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attention_mailboxes",
                        to="vault.vault",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attention_mailboxes",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "critical_told_until",
                    models.DateTimeField(help_text="Items that became critical before this have been told."),
                ),
                ("critical_mailed_at", models.DateTimeField(null=True)),
                (
                    "digest_on",
                    models.DateField(
                        help_text="Day, in the person's time zone, of the last digest looked at.", null=True
                    ),
                ),
                (
                    "digest_of",
                    models.CharField(
                        blank=True, help_text="SHA-256 of what the last digest told.", max_length=64
                    ),
                ),
                ("claimed_until", models.DateTimeField(null=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("vault", "user"), name="attention_mailbox_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="UnusedKeys",
            fields=[
                (
                    "vault",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="unused_keys",
                        serialize=False,
                        to="vault.vault",
                    ),
                ),
                ("counted_at", models.DateTimeField()),
                (
                    "known",
                    models.BooleanField(
                        default=False, help_text="False: uses are on record for less than 90 days."
                    ),
                ),
                ("count", models.PositiveIntegerField(default=0)),
                (
                    "examples",
                    models.JSONField(default=list, help_text="[{id, name}], the oldest keys first."),
                ),
            ],
        ),
        migrations.CreateModel(
            name="AuditEvent",
            fields=[
                ("sequence", models.BigAutoField(primary_key=True, serialize=False)),
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("at", models.DateTimeField(auto_now_add=True)),
                (
                    "vault",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="audit_events",
                        to="vault.vault",
                    ),
                ),
                ("vault_name", models.CharField(blank=True, max_length=100)),
                ("actor_type", models.CharField(max_length=16)),
                ("actor_id", models.CharField(blank=True, max_length=64)),
                ("actor_name", models.CharField(blank=True, max_length=254)),
                ("via", models.CharField(max_length=32)),
                ("source_ip", models.GenericIPAddressField(blank=True, null=True)),
                ("request_id", models.CharField(blank=True, max_length=64)),
                ("action", models.CharField(max_length=64)),
                ("target_type", models.CharField(blank=True, max_length=64)),
                ("target_id", models.CharField(blank=True, max_length=64)),
                ("target_name", models.CharField(blank=True, max_length=254)),
                (
                    "outcome",
                    models.CharField(
                        choices=[("SUCCESS", "Success"), ("DENIED", "Denied"), ("FAILURE", "Failure")],
                        default="SUCCESS",
                        max_length=16,
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=1000)),
                ("before", models.JSONField(blank=True, null=True)),
                ("after", models.JSONField(blank=True, null=True)),
                ("detail", models.JSONField(blank=True, default=dict)),
                ("generation", models.BigIntegerField(blank=True, null=True)),
            ],
            options={
                "ordering": ["-sequence"],
                "indexes": [
                    models.Index(fields=["vault", "-sequence"], name="audit_vault_sequence"),
                    models.Index(fields=["vault", "target_id", "-sequence"], name="audit_target"),
                    models.Index(fields=["vault", "actor_id", "-sequence"], name="audit_actor"),
                    models.Index(fields=["vault", "action", "-sequence"], name="audit_action"),
                    models.Index(fields=["vault", "actor_name", "-sequence"], name="audit_actor_name"),
                    models.Index(fields=["vault", "target_name", "-sequence"], name="audit_target_name"),
                    models.Index(fields=["vault", "target_type", "-sequence"], name="audit_target_type"),
                    models.Index(fields=["vault", "outcome", "-sequence"], name="audit_outcome"),
                    models.Index(fields=["vault", "at"], name="audit_vault_at"),
                    models.Index(
                        condition=models.Q(("vault", None), ("target_type", "vault"), _connector="OR"),
                        fields=["-sequence"],
                        name="audit_installation",
                    ),
                    models.Index(fields=["request_id"], name="audit_request_id"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Errand",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("kind", models.CharField(max_length=64)),
                (
                    "subject_id",
                    models.UUIDField(help_text="What it is about; a thing that may be gone by then."),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="errands",
                        to="vault.vault",
                    ),
                ),
                (
                    "input",
                    models.JSONField(blank=True, default=dict, help_text="What was asked; never a secret."),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("WAITING", "Waiting"),
                            ("RUNNING", "Running"),
                            ("SUCCEEDED", "Done"),
                            ("FAILED", "Failed"),
                        ],
                        default="WAITING",
                        max_length=16,
                    ),
                ),
                ("done", models.PositiveIntegerField(default=0)),
                ("total", models.PositiveIntegerField(default=0)),
                ("cause", models.CharField(blank=True, max_length=1000)),
                ("cure", models.CharField(blank=True, max_length=1000)),
                (
                    "requested_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="errands",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("requested_by_name", models.CharField(blank=True, max_length=254)),
                ("via", models.CharField(blank=True, max_length=32)),
                ("source_ip", models.GenericIPAddressField(null=True)),
                ("request_id", models.CharField(blank=True, max_length=64)),
                ("asked_at", models.DateTimeField()),
                ("started_at", models.DateTimeField(null=True)),
                ("next_try_at", models.DateTimeField(null=True)),
                ("lease_owner", models.CharField(blank=True, max_length=64)),
                ("lease_until", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("kind", "subject_id"), name="errand_once")],
            },
        ),
        migrations.CreateModel(
            name="HsmConnection",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                ("module_path", models.CharField(max_length=500)),
                (
                    "environment",
                    models.JSONField(
                        default=dict, help_text="Variables for the vendor's module, of allowed names."
                    ),
                ),
                (
                    "login",
                    models.CharField(
                        choices=[
                            ("pin", "PIN"),
                            ("module", "Module protection, no PIN"),
                            ("softcard", "Softcard, preloaded"),
                            ("ocs", "Operator cards, preloaded"),
                        ],
                        default="pin",
                        max_length=16,
                    ),
                ),
                (
                    "pin",
                    vault.fields.WrappedSecretField(
                        help_text="The PIN under the installation's KEK.", null=True
                    ),
                ),
                (
                    "pin_source",
                    models.CharField(
                        choices=[
                            ("stored", "Kept encrypted in the database"),
                            ("external", "From a file or the environment of each host"),
                        ],
                        default="stored",
                        max_length=16,
                    ),
                ),
                ("pin_version", models.PositiveIntegerField(default=1)),
                ("timeout_ms", models.PositiveIntegerField(default=1000)),
                (
                    "routing",
                    models.CharField(
                        choices=[
                            ("preferred", "The first member that is well"),
                            ("active-active", "All members in turn"),
                        ],
                        default="preferred",
                        max_length=16,
                    ),
                ),
                (
                    "health_key",
                    models.CharField(
                        blank=True, help_text="CKA_ID of the health-check key, hex.", max_length=128
                    ),
                ),
                (
                    "test_wanted",
                    models.UUIDField(
                        help_text="A test that somebody waits for; the keeper answers it.", null=True
                    ),
                ),
                ("test_report", models.JSONField(help_text="What the last test found.", null=True)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "vaults",
                    models.ManyToManyField(blank=True, related_name="hsm_connections", to="vault.vault"),
                ),
            ],
            options={
                "verbose_name": "HSM connection",
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="WorkerProcess",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="workers", to="vault.node"
                    ),
                ),
                ("pid", models.PositiveIntegerField()),
                (
                    "instance",
                    models.CharField(help_text="Tells two processes with one pid apart.", max_length=64),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("STARTING", "Starting"),
                            ("SERVING", "Serving"),
                            ("DRAINING", "Draining"),
                            ("STOPPED", "Stopped"),
                        ],
                        default="SERVING",
                        help_text="As its agent saw it last.",
                        max_length=8,
                    ),
                ),
                ("applied_generation", models.BigIntegerField(default=0)),
                (
                    "max_staleness_s",
                    models.FloatField(
                        help_text="The longest bound of any lease that it may have.", null=True
                    ),
                ),
                ("registered_at", models.DateTimeField(auto_now_add=True)),
                ("last_seen_at", models.DateTimeField(db_index=True)),
                ("deregistered_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["registered_at"],
                "constraints": [
                    models.UniqueConstraint(fields=("node", "instance"), name="worker_instance_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="UserPreferences",
            fields=[
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="preferences",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "theme",
                    models.CharField(
                        choices=[("system", "As the system"), ("light", "Light"), ("dark", "Dark")],
                        default="system",
                        max_length=8,
                    ),
                ),
                (
                    "density",
                    models.CharField(
                        choices=[("comfortable", "Comfortable"), ("compact", "Compact")],
                        default="comfortable",
                        max_length=12,
                    ),
                ),
                (
                    "attention_mail",
                    models.CharField(
                        choices=[
                            ("OFF", "No mail"),
                            ("CRITICAL", "What is critical, at once"),
                            ("DAILY", "Once a day, when something has changed"),
                            ("CRITICAL_AND_DAILY", "Both"),
                        ],
                        default="OFF",
                        max_length=20,
                    ),
                ),
                (
                    "lists",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text="By page: {columns: [...], density: ...}; see vault.services.preferences.",
                    ),
                ),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name_plural": "user preferences",
            },
        ),
        migrations.CreateModel(
            name="SavedView",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="saved_views",
                        to="vault.vault",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="saved_views",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "page",
                    models.CharField(
                        choices=[
                            ("cloud-keys", "Cloud keys"),
                            ("operations", "Operations"),
                            ("audit-events", "Audit"),
                        ],
                        max_length=32,
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                (
                    "query",
                    models.CharField(
                        blank=True, help_text="The filter as a URL query string.", max_length=2000
                    ),
                ),
                ("columns", models.JSONField(blank=True, default=list)),
                ("shared", models.BooleanField(default=False)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("vault", "user", "page", "name"), name="saved_view_name_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Group",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="groups", to="vault.vault"
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                ("description", models.CharField(blank=True, max_length=1000)),
                ("revision", models.PositiveIntegerField(default=1)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("members", models.ManyToManyField(blank=True, related_name="groups", to="vault.membership")),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(fields=("vault", "name"), name="group_name_unique_in_vault")
                ],
            },
        ),
        migrations.CreateModel(
            name="HsmMember",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "connection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="members",
                        to="vault.hsmconnection",
                    ),
                ),
                (
                    "position",
                    models.PositiveSmallIntegerField(
                        default=0, help_text="The preferred one has the lowest."
                    ),
                ),
                ("token_serial", models.CharField(blank=True, max_length=64)),
                ("token_label", models.CharField(blank=True, max_length=64)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("ACTIVE", "Active"),
                            ("DEGRADED", "Degraded"),
                            ("UNAVAILABLE", "Unavailable"),
                            ("UNKNOWN", "Unknown"),
                        ],
                        default="UNKNOWN",
                        max_length=16,
                    ),
                ),
                ("latency_ms", models.FloatField(null=True)),
                (
                    "identity",
                    models.JSONField(
                        default=dict, help_text="manufacturer, model, serial, firmware and more"
                    ),
                ),
                ("profile", models.JSONField(default=dict, help_text="The capability profile, as probed.")),
                ("message", models.CharField(blank=True, max_length=500)),
                ("checked_at", models.DateTimeField(null=True)),
                (
                    "compared",
                    models.BooleanField(
                        default=False, help_text="It was shown to hold the same keys as the others."
                    ),
                ),
                ("hosts", models.JSONField(default=dict, help_text="What each host's keeper saw last.")),
                ("pin_refused_version", models.PositiveIntegerField(null=True)),
                (
                    "pin_refused_marks",
                    models.JSONField(default=list, help_text="Marks of PINs that the token has refused."),
                ),
                ("pin_accepted_mark", models.CharField(blank=True, max_length=64)),
                ("pin_claim_mark", models.CharField(blank=True, max_length=64)),
                ("pin_claim_count", models.PositiveSmallIntegerField(default=0)),
                ("pin_claimed_by", models.CharField(blank=True, max_length=64)),
                ("pin_claim_until", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "HSM member",
                "ordering": ["position"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("connection", "token_serial", "token_label"), name="hsm_member_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="HsmKey",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "connection",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="keys",
                        to="vault.hsmconnection",
                    ),
                ),
                (
                    "vault",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="hsm_keys",
                        to="vault.vault",
                    ),
                ),
                (
                    "purpose",
                    models.CharField(
                        choices=[
                            ("root", "Root key"),
                            ("wrapping", "Wraps a key set"),
                            ("health", "Health check"),
                            ("resident", "CloudKey version"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("PENDING", "Being made"), ("ACTIVE", "Active"), ("DESTROYED", "Destroyed")],
                        default="PENDING",
                        max_length=16,
                    ),
                ),
                ("label", models.CharField(max_length=128)),
                ("cka_id", models.CharField(help_text="hex", max_length=128)),
                (
                    "replication",
                    models.CharField(
                        choices=[("device-bound", "Device-bound"), ("replicated", "Replicated by Keystead")],
                        default="device-bound",
                        max_length=16,
                    ),
                ),
                ("adopted", models.BooleanField(default=False)),
                ("message", models.CharField(blank=True, max_length=500)),
                (
                    "swept_at",
                    models.DateTimeField(
                        help_text="When a keeper last looked for it on each member.", null=True
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("destroyed_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "HSM key",
                "ordering": ["created_at"],
                "indexes": [
                    models.Index(fields=["cka_id"], name="hsm_key_cka_id"),
                    models.Index(fields=["connection", "purpose", "vault"], name="hsm_key_purpose"),
                    models.Index(fields=["connection", "swept_at"], name="hsm_key_swept"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("destroyed_at", None)),
                        fields=("connection", "cka_id"),
                        name="hsm_key_cka_id_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="HsmKeyPlacement",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="placements",
                        to="vault.hsmkey",
                    ),
                ),
                (
                    "member",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="placements",
                        to="vault.hsmmember",
                    ),
                ),
                ("verified_at", models.DateTimeField()),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("key", "member"), name="hsm_placement_once")],
            },
        ),
    ]
