"""Django settings. What an operator may choose comes from vault.env; everything else is decided here."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vault import env, logs

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = env.data_dir()
EMBEDDED = env.is_embedded()
PUBLIC_URL: str = env.get_or_default("KEYSTEAD_PUBLIC_URL")
BEHIND_TLS = urlsplit(PUBLIC_URL).scheme == "https"

DEBUG = False
SECRET_KEY = env.secret_key()
ALLOWED_HOSTS: list[str] = env.get_or_default("KEYSTEAD_ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
ROOT_URLCONF = "vault.urls"
WSGI_APPLICATION = "vault.wsgi.application"
USE_TZ = True
TIME_ZONE = "UTC"
# One language is offered, and no middleware asks the browser for another: docs/decisions/0010-translation.md.
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English")]
USE_I18N = True
LOCALE_PATHS = [BASE_DIR / "locale"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "vault",
    "cloudkeys",
    "xks",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "django_htmx",
]

MIDDLEWARE = [
    "vault.middleware.HealthMiddleware",
    "vault.middleware.ProxyMiddleware",
    "vault.middleware.RequestLogMiddleware",
    "vault.middleware.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "vault.static_files.CompressedStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "vault.password_gate.PasswordGateMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "builtins": ["django.templatetags.i18n"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "vault.web.frame.preferences",
            ],
        },
    },
]

# --- database, cache, queue -----------------------------------------------------------------------------------

_database: env.DatabaseUrl | None = env.get_or_default("KEYSTEAD_DATABASE_URL")
if _database is not None:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _database.name,
            "USER": _database.user,
            "PASSWORD": _database.password,
            "HOST": _database.host,
            "PORT": str(_database.port or ""),
            "OPTIONS": {"connect_timeout": "5", **_database.options},
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
        }
    }
else:
    # WAL lets readers go on while one writes; synchronous=FULL because a key must not encrypt before its commit
    # would survive a power cut; IMMEDIATE because a transaction that reads first and then writes could otherwise
    # fail with SQLITE_BUSY, which no busy_timeout cures.
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "db.sqlite3",
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
            },
            "CONN_MAX_AGE": 60,
        }
    }

_redis: str | None = env.get_or_default("KEYSTEAD_REDIS_URL")
if _redis is not None:
    CACHES: dict[str, dict[str, Any]] = {
        "default": {
            "BACKEND": "vault.cache.SharedCache",
            "LOCATION": _redis,
            "OPTIONS": {"socket_connect_timeout": 0.5, "socket_timeout": 1.0},
        }
    }
    CELERY_BROKER_URL = _redis
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, object] = {
        "visibility_timeout": 3600,
        "socket_connect_timeout": 2,
    }
else:
    # Its default of 300 entries would let a stranger flush the counters of failed sign-ins by making others.
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        }
    }
    CELERY_BROKER_URL = "localhost"
    CELERY_BROKER_TRANSPORT = "vault.queue:FolderTransport"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(DATA_DIR / "broker" / "queue"),
        "data_folder_out": str(DATA_DIR / "broker" / "queue"),
        "control_folder": str(DATA_DIR / "broker" / "control"),
        "store_processed": False,
        "polling_interval": 0.05,
    }

# Results live in Operation rows. A message is only a wake-up: acknowledged late, doubled or lost it does no harm.
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CONCURRENCY: int = env.get_or_default("KEYSTEAD_WORKER_CONCURRENCY")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
# How long the worker's timer may sleep through a signal to stop, in seconds.
CELERY_WORKER_TIMER_PRECISION = 0.2
# Seconds between. A message that nobody took within that time is worth nothing: the next one says the same.
_EVERY = {
    "cloudkeys.sweep_operations": 2.0,
    "cloudkeys.rotate_due_keys": 60.0,
    "cloudkeys.expire_due_keys": 60.0,
    "cloudkeys.finish_due_deletions": 300.0,
    "cloudkeys.rotate_due_credentials": 300.0,
    "cloudkeys.rotate_due_xks_credentials": 300.0,
    "cloudkeys.refresh_due_links": 60.0,
    "cloudkeys.refresh_due_pointers": 60.0,
    "cloudkeys.look_at_due_accounts": 60.0,
    "cloudkeys.forget_old_refreshes": 3600.0,
    "cloudkeys.destroy_unused_hsm_keys": 20.0,
    "xks.verify_audit_record": 300.0,
    "xks.note_chain": 60.0,
    "xks.count_unused_keys": 300.0,
    "xks.mail_attention": 120.0,
    "vault.watch_nodes": 5.0,
    "vault.move_root_key": 15.0,
    "xks.examine_stores": 15.0,
}
CELERY_BEAT_SCHEDULE: dict[str, dict[str, object]] = {
    name: {"task": name, "schedule": seconds, "options": {"expires": seconds, "ignore_result": True}}
    for name, seconds in _EVERY.items()
}

# --- people ---------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "vault.User"
AUTHENTICATION_BACKENDS = ["vault.sign_in_backend.SignInBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "vault.adapter.AccountAdapter"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_SESSION_REMEMBER = False
# It would write a row for every request; vault.api.authentication notes a session's use once a minute.
USERSESSIONS_TRACK_ACTIVITY = False
USERSESSIONS_ADAPTER = "vault.adapter.SessionsAdapter"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
MFA_ADAPTER = "vault.adapter.MfaAdapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes", "webauthn"]
MFA_TOTP_ISSUER = "Keystead"
MFA_FORMS = {
    "activate_totp": "vault.web.second_factor.ActivateForm",
    "add_webauthn": "vault.web.second_factor.AddPasskeyForm",
    "edit_webauthn": "vault.web.second_factor.RenamePasskeyForm",
}
MFA_PASSKEY_LOGIN_ENABLED = True
# Browsers themselves allow passkeys over plain HTTP on localhost alone.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not BEHIND_TLS
# A reset is asked for by anybody: an address without an account gets no mail.
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
SESSION_COOKIE_SECURE = BEHIND_TLS
CSRF_COOKIE_SECURE = BEHIND_TLS
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "vault.pages.csrf_failure"
# The __Host- prefix binds a cookie to this very host and to TLS; browsers refuse it over plain HTTP.
SESSION_COOKIE_NAME = "__Host-keystead-session" if BEHIND_TLS else "keystead-session"
CSRF_COOKIE_NAME = "__Host-keystead-csrf" if BEHIND_TLS else "keystead-csrf"

# --- answers --------------------------------------------------------------------------------------------------

SECURE_HSTS_SECONDS = 365 * 24 * 3600 if BEHIND_TLS else 0
SECURE_SSL_REDIRECT = BEHIND_TLS
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024

STATIC_URL = "/static/"
# Served from where they lie, so that there is no collecting step between a clone and a running server.
WHITENOISE_USE_FINDERS = True
STATIC_ROOT = None

LOGGING_CONFIG = None
logs.configure(env.get_or_default("KEYSTEAD_LOG_FORMAT"), env.get_or_default("KEYSTEAD_LOG_LEVEL"))

KEYSTEAD_API_RATES: dict[str, int] = {"actor": env.get_or_default("KEYSTEAD_API_RATE")}

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["vault.denial.DenyAll"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_VERSIONING_CLASS": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Keystead REST API",
    "DESCRIPTION": "Vaults, CSP accounts, key sets and CloudKeys.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_ADD_EXPLICIT_BLANK_NULL_CHOICE": False,
    "ENUM_NAME_OVERRIDES": {
        "VaultStateEnum": "vault.models.tenancy.Vault.State",
        "VaultTypeEnum": "vault.models.tenancy.Vault.Type",
        "KeySetTypeEnum": "cloudkeys.models.keysets.KeySet.Type",
        "CloudKeyStateEnum": "cloudkeys.models.keys.CloudKey.State",
        "StoreLinkStateEnum": "cloudkeys.models.stores.AwsStoreLink.State",
        "CredentialStateEnum": "cloudkeys.models.stores.XksCredential.State",
        "OperationStateEnum": "cloudkeys.models.operations.Operation.State",
        "RuleFindingSeverityEnum": ["DANGER", "WARNING", "NOTE"],
        "DoctorSeverityEnum": ["ok", "info", "warn", "error"],
        "HsmReplicationEnum": "vault.models.hsm.HsmKey.Replication",
        "StepStateEnum": ["PENDING", "RUNNING", "WAITING", "DONE", "FAILED", "UNDOING", "UNDONE"],
    },
}

# --- mail -----------------------------------------------------------------------------------------------------

_mail: env.MailUrl | None = env.get_or_default("KEYSTEAD_MAIL_URL")
MAIL_CONFIGURED = _mail is not None
DEFAULT_FROM_EMAIL: str = env.get_or_default("KEYSTEAD_MAIL_FROM") or "keystead@localhost"
SERVER_EMAIL = DEFAULT_FROM_EMAIL
EMAIL_TIMEOUT = 10
if _mail is not None:
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    EMAIL_HOST = _mail.host
    EMAIL_PORT = _mail.port
    EMAIL_HOST_USER = _mail.user
    EMAIL_HOST_PASSWORD = _mail.password
    EMAIL_USE_TLS = _mail.scheme == "smtp+starttls"
    EMAIL_USE_SSL = _mail.scheme == "smtps"
else:
    # Nothing may be mailed to nowhere in silence: code asks MAIL_CONFIGURED and shows once instead.
    EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"

SILENCED_SYSTEM_CHECKS = [
    # HSTS for subdomains and in browsers' preload lists would bind hosts that are not Keystead's.
    "security.W005",
    "security.W021",
]

# --- what the services read; here rather than from vault.env, so that a test can override them -----------------

KEYSTEAD_SIMULATOR: bool = env.get_or_default("KEYSTEAD_SIMULATOR")
KEYSTEAD_XKS_MAX_STALENESS: float = env.get_or_default("KEYSTEAD_XKS_MAX_STALENESS")
KEYSTEAD_XKS_ENDPOINT_NETWORKS = env.get_or_default("KEYSTEAD_XKS_ENDPOINT_NETWORKS")
KEYSTEAD_XKS_CREDENTIAL_SILENCE: float = env.get_or_default("KEYSTEAD_XKS_CREDENTIAL_SILENCE")
KEYSTEAD_XKS_PUBLIC_ENDPOINT: str = env.get_or_default("KEYSTEAD_XKS_PUBLIC_ENDPOINT")
