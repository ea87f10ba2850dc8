"""Every KEYSTEAD_* setting in one table, readable without Django.

A setting comes from the environment variable of its name or, for secrets kept in files, from NAME_FILE, whose
content is the value. Settings that name a file themselves (certificates, the root key) take the path either way.
A value that cannot be understood never falls back silently: `get` raises, and `vault.checks` turns the same
error into a system check that ends the start.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vault import env_values as values
from vault.env_values import DatabaseUrl, MailUrl

__all__ = ["SETTINGS", "DatabaseUrl", "MailUrl", "Setting", "SettingError", "get", "is_embedded", "is_set"]

MAX_FILE_BYTES = 64 * 1024
PIN_PREFIX = "KEYSTEAD_HSM_PIN_"  # and the name of an HSM connection: see vault/hsm_pins.py


class SettingError(ValueError):
    """A setting is wrong. Holds its name, the cause and the cure, and never a secret value.

    `kind` is "value" (not understood), "file" (NAME_FILE is unreadable or doubled) or "unknown" (no such setting).
    """

    def __init__(self, name: str, cause: str, cure: str, kind: str = "value") -> None:
        super().__init__(f"{name}: {cause} {cure}")
        self.name = name
        self.cause = cause
        self.cure = cure
        self.kind = kind


@dataclass(frozen=True)
class Setting:
    """One row of the table. `default` is the text that would have been written, or None for no value."""

    name: str
    section: str
    parse: Callable[[str], Any]
    default: str | None
    help: str
    cure: str
    default_note: str = ""
    secret: bool = False
    names_file: bool = False


# --- the table ------------------------------------------------------------------------------------------------

_ROWS = (
    Setting(
        "KEYSTEAD_DATA_DIR", "Where things are", values.path, "./var",
        "Folder of everything that Keystead keeps on disk: embedded database, root key, certificates, queue, logs.",
        "Give the path of a folder that the process may write to.",
    ),
    Setting(
        "KEYSTEAD_DATABASE_URL", "Where things are", values.database_url, None,
        "PostgreSQL to use: postgres://user:password@host:port/name?sslmode=verify-full. "
        "Without it Keystead runs embedded, on SQLite in the data folder.",
        "Write postgres://user:password@host:port/name, with special characters percent-encoded.",
        default_note="SQLite in the data folder", secret=True,
    ),
    Setting(
        "KEYSTEAD_REDIS_URL", "Where things are", values.redis_url, None,
        "Redis for the task queue and the cache: redis://user:password@host:6379/0, or rediss:// for TLS.",
        "Write redis://user:password@host:6379/0 (rediss:// for TLS).",
        default_note="a queue in the data folder and a cache in memory", secret=True,
    ),
    Setting(
        "KEYSTEAD_ROOT_KEY_FILE", "Keys and secrets", values.path, None,
        "File of the 32-byte root key that wraps each vault's key. Mode 0600 or 0400, owned by the process's user.",
        "Give the path of the root key's file.",
        default_note="root.key in the data folder", names_file=True,
    ),
    Setting(
        "KEYSTEAD_HSM_MODULE_DIRS", "HSMs", values.paths,
        "/usr/lib/softhsm:/usr/lib/x86_64-linux-gnu/softhsm:/usr/lib/aarch64-linux-gnu/softhsm:/usr/lib64/pkcs11:"
        "/opt/nfast/toolkits/pkcs11:/usr/safenet/lunaclient/lib:/opt/cloudhsm/lib:/usr/lib/x86_64-linux-gnu/pkcs11:"
        "/usr/lib/keystead/hsm",
        "Folders, separated by colons, in which PKCS#11 modules of HSM connections may lie. A module runs code in Keystead's "
        "name: only root should be able to write there.",
        "Write absolute paths of folders, separated by colons.",
    ),
    Setting(
        "KEYSTEAD_HSM_VARIABLES", "HSMs", values.names, "",
        "Further environment variables, separated by commas, that a connection may give its vendor's module, beside the known "
        "ones of nShield, Luna, CloudHSM, YubiHSM and SoftHSM. PINs that do not lie in the database are given as "
        "KEYSTEAD_HSM_PIN_<NAME> or KEYSTEAD_HSM_PIN_<NAME>_FILE (the connection's name in capitals, other characters as _).",
        "Write names of variables, separated by commas.", default_note="none",
    ),
    Setting(
        "KEYSTEAD_SECRET_KEY", "Keys and secrets", values.secret_key, None,
        "Key that signs sessions and one-time links; at least 50 random characters, the same on every node.",
        "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'.",
        default_note="embedded: made once in secret.key in the data folder", secret=True,
    ),
    Setting(
        "KEYSTEAD_BIND", "Web", values.address, "127.0.0.1",
        "IP address on which web, XKS endpoint and simulator listen. The simulator listens on loopback only.",
        "Give an IP address, such as 127.0.0.1, or 0.0.0.0 for all.",
    ),
    Setting(
        "KEYSTEAD_WEB_PORT", "Web", values.port, "8000",
        "Port of the web interface and the REST API.",
        "Give a number from 1 to 65535.",
    ),
    Setting(
        "KEYSTEAD_WEB_WORKERS", "Web", values.count(1, 64), "1",
        "Number of web worker processes.",
        "Give a whole number from 1 to 64.",
    ),
    Setting(
        "KEYSTEAD_PUBLIC_URL", "Web", values.web_url, None,
        "Address under which people reach the web interface; links in mails begin with it.",
        "Write https:// and the host name, with a port only where it is not 443.",
        default_note="http or https, localhost and the web port",
    ),
    Setting(
        "KEYSTEAD_ALLOWED_HOSTS", "Web", values.hosts, None,
        "Host names that the web answers to, separated by commas; a leading dot admits subdomains.",
        "Write host names separated by commas, without scheme, port or *.",
        default_note="localhost and the public URL's host",
    ),
    Setting(
        "KEYSTEAD_TRUSTED_PROXIES", "Web", values.networks, "",
        "Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, "
        "separated by commas.",
        "Write IP addresses or networks such as 10.0.0.0/24, separated by commas.",
        default_note="none",
    ),
    Setting(
        "KEYSTEAD_API_RATE", "Web", values.count(60, 1_000_000), "1200",
        "Requests a minute that one person or one API token may send to the REST API; more get 429 and Retry-After. "
        "Sign-ins have a lower limit of their own.",
        "Give a whole number from 60 to 1000000.",
    ),
    Setting(
        "KEYSTEAD_WEB_TLS_CERT", "Web", values.path, None,
        "PEM file of the web's certificate chain. Plain HTTP is for loopback or behind a trusted proxy only.",
        "Give the path of a PEM file.", default_note="plain HTTP", names_file=True,
    ),
    Setting(
        "KEYSTEAD_WEB_TLS_KEY", "Web", values.path, None,
        "PEM file (PKCS#8, not encrypted) of the web certificate's private key.",
        "Give the path of a PEM file.", default_note="plain HTTP", names_file=True,
    ),
    Setting(
        "KEYSTEAD_ADMIN_EMAIL", "First administrator", values.email, "admin@keystead.test",
        "E-mail address (the sign-in name) of the appliance administrator who is made at the first start.",
        "Write name@domain.",
    ),
    Setting(
        "KEYSTEAD_ADMIN_PASSWORD", "First administrator", values.admin_password, None,
        "Password of that first administrator, at least 12 characters; used only while there is no administrator.",
        "Give at least 12 characters, or leave it out and read the one-time password that the first start prints.",
        default_note="a one-time password, printed once", secret=True,
    ),
    Setting(
        "KEYSTEAD_MAIL_URL", "Mail", values.mail_url, None,
        "Mail server: smtp://host:25, smtp+starttls://user:password@host:587 or smtps://user:password@host:465.",
        "Write smtp+starttls://user:password@host:587, with special characters percent-encoded.",
        default_note="no mail: one-time passwords are shown once instead", secret=True,
    ),
    Setting(
        "KEYSTEAD_MAIL_FROM", "Mail", values.email, None,
        "Sender address of mails. Needed with a mail server.",
        "Write name@domain.", default_note="none",
    ),
    Setting(
        "KEYSTEAD_XKS_PORT", "XKS endpoint", values.port, "8443",
        "Port of the XKS endpoint that AWS KMS calls (through a balancer on port 443).",
        "Give a number from 1 to 65535.",
    ),
    Setting(
        "KEYSTEAD_XKS_WORKERS", "XKS endpoint", values.count(1, 64), "1",
        "Number of XKS worker processes on this node.",
        "Give a whole number from 1 to 64.",
    ),
    Setting(
        "KEYSTEAD_XKS_TLS", "XKS endpoint", values.switch, "on",
        "on: HTTPS, with a certificate for localhost and xks.keystead.test from a private CA in the data folder "
        "unless one is given. off: plain HTTP behind a balancer that ends TLS.",
        "Write on or off.",
    ),
    Setting(
        "KEYSTEAD_XKS_TLS_CERT", "XKS endpoint", values.path, None,
        "PEM file of the XKS endpoint's certificate chain.",
        "Give the path of a PEM file.", default_note="made in the data folder", names_file=True,
    ),
    Setting(
        "KEYSTEAD_XKS_TLS_KEY", "XKS endpoint", values.path, None,
        "PEM file (PKCS#8, not encrypted) of the XKS certificate's private key.",
        "Give the path of a PEM file.", default_note="made in the data folder", names_file=True,
    ),
    Setting(
        "KEYSTEAD_XKS_PUBLIC_ENDPOINT", "XKS endpoint", values.xks_endpoint, "https://xks.keystead.test",
        "Default of the endpoint that AWS KMS is told to call; https and a host name, no port. "
        "The simulator sends https://xks.keystead.test to this machine's XKS port.",
        "Write https:// and a host name alone.",
    ),
    Setting(
        "KEYSTEAD_XKS_MAX_STALENESS", "XKS endpoint", values.seconds(1, 86400), "60",
        "Seconds for which an XKS worker goes on answering when it no longer hears from the database; then 503.",
        "Give a number of seconds from 1 to 86400.",
    ),
    Setting(
        "KEYSTEAD_XKS_ENDPOINT_NETWORKS", "XKS endpoint", values.networks, "",
        "Private addresses or networks in which endpoints of external key stores may be checked before AWS is told of them, "
        "separated by commas; beside public addresses and that of KEYSTEAD_XKS_PUBLIC_ENDPOINT.",
        "Write IP addresses or networks such as 10.0.0.0/24, separated by commas.",
        default_note="none",
    ),
    Setting(
        "KEYSTEAD_XKS_CREDENTIAL_SILENCE", "XKS endpoint", values.seconds(1, 604800), "3600",
        "Seconds for which AWS must not have used an XKS credential before a rotation retires it; "
        "also within which a credential that was used is not retired by hand unless forced.",
        "Give a number of seconds from 1 to 604800.",
    ),
    Setting(
        "KEYSTEAD_XKS_BUDGET_MS", "XKS endpoint", values.count(10, 240), "120",
        "Milliseconds that one XKS request may take from its first byte; AWS KMS gives up after 250, network included.",
        "Give a whole number from 10 to 240.",
    ),
    Setting(
        "KEYSTEAD_XKS_JOURNAL_DAYS", "XKS endpoint", values.count(1, 36500), "90",
        "Days for which closed journals of the uses of keys stay on a node, compressed. Hourly sums stay for good.",
        "Give a whole number from 1 to 36500.",
    ),
    Setting(
        "KEYSTEAD_XKS_REQUEST_DAYS", "XKS endpoint", values.count(1, 3650), "30",
        "Days for which single requests stay in the database, to be searched: about 0.9 GB for a million, indexes included. "
        "Hourly sums stay for good.",
        "Give a whole number from 1 to 3650.",
    ),
    Setting(
        "KEYSTEAD_XKS_JOURNAL_SYNC", "XKS endpoint", values.choice("write", "group"), None,
        "When a use of a key counts as recorded, so that its answer may leave. write: written to the system, which "
        "outlives a crash of Keystead. group: on the disk (fdatasync, many records at a time), which outlives a power cut.",
        "Write write or group.", default_note="write when embedded, group with a database server",
    ),
    Setting(
        "KEYSTEAD_XKS_DRAIN", "XKS endpoint", values.count(1, 600), "60",
        "Seconds for which XKS workers that are replaced (a new certificate, SIGHUP) finish what they have. Less than 60 "
        "closes idle connections sooner than they would be closed anyhow.",
        "Give a whole number from 1 to 600.",
    ),
    Setting(
        "KEYSTEAD_XKS_FRONTS", "XKS endpoint", values.networks, "",
        "Addresses or networks of fronts before the XKS endpoint (HAProxy, balancers that end TLS) whose X-Forwarded-For "
        "names the client, separated by commas. docs/haproxy.md.",
        "Write IP addresses or networks such as 10.0.0.0/24, separated by commas.",
        default_note="none",
    ),
    Setting(
        "KEYSTEAD_XKS_SOCKET", "XKS endpoint", values.path, None,
        "Unix socket between the XKS agent and its workers. Its path must be shorter than 104 characters.",
        "Give a short path in a folder that only the process's user may enter.",
        default_note="run/xks.sock in the data folder",
    ),
    Setting(
        "KEYSTEAD_NODE_NAME", "XKS endpoint", values.node_name, None,
        "Name of this node in the list of nodes; every host that runs an XKS agent needs one of its own.",
        "Give 1 to 253 letters, digits, dots, hyphens or underscores.",
        default_note="the host's name",
    ),
    Setting(
        "KEYSTEAD_METRICS_ADDRESS", "Metrics", values.address, "127.0.0.1",
        "IP address on which the XKS agent answers Prometheus, without authentication: loopback or a network of your own.",
        "Give an IP address, such as 127.0.0.1.",
    ),
    Setting(
        "KEYSTEAD_METRICS_PORT", "Metrics", values.count(0, 65535), "9464",
        "Port on which the XKS agent answers Prometheus (GET /metrics); 0 for no metrics. Where it is taken the agent"
        " says so, tries again, and serves keys all the same.",
        "Give a number from 0 to 65535.",
    ),
    Setting(
        "KEYSTEAD_SIEM_URL", "SIEM", values.siem_url, None,
        "Where each node's agent sends journal records and audit events, as JSON lines: syslog+tls://host:6514 (RFC 5424 over "
        "TLS, RFC 5425), or file:///path of a file that a collector reads.",
        "Write syslog+tls://host:port or file:///folder/file.", default_note="nowhere",
    ),
    Setting(
        "KEYSTEAD_SIEM_CA", "SIEM", values.path, None,
        "PEM file of the authorities that the syslog server's certificate must come from.",
        "Give the path of a PEM file.", default_note="those of the system", names_file=True,
    ),
    Setting(
        "KEYSTEAD_SIEM_CERT", "SIEM", values.path, None,
        "PEM file of the certificate chain that is shown to the syslog server.",
        "Give the path of a PEM file.", default_note="none", names_file=True,
    ),
    Setting(
        "KEYSTEAD_SIEM_KEY", "SIEM", values.path, None,
        "PEM file (PKCS#8, not encrypted) of that certificate's private key.",
        "Give the path of a PEM file.", default_note="none", names_file=True,
    ),
    Setting(
        "KEYSTEAD_SIMULATOR", "AWS simulator", values.switch, None,
        "Whether the bundled AWS simulator runs, on loopback, and accounts may use it.",
        "Write on or off.", default_note="on when embedded, off with a database server",
    ),
    Setting(
        "KEYSTEAD_SIMULATOR_PORT", "AWS simulator", values.port, "4566",
        "Port of the AWS simulator.",
        "Give a number from 1 to 65535.",
    ),
    Setting(
        "KEYSTEAD_SIMULATOR_XKS_TIMEOUT_MS", "AWS simulator", values.count(10, 60000), "250",
        "Milliseconds that the simulator's KMS waits for an XKS endpoint, connecting included; AWS waits 250.",
        "Give a whole number from 10 to 60000.",
    ),
    Setting(
        "KEYSTEAD_WORKER_CONCURRENCY", "Processes", values.count(1, 64), "2",
        "Number of tasks that one Celery worker runs at a time.",
        "Give a whole number from 1 to 64.",
    ),
    Setting(
        "KEYSTEAD_LOG_FORMAT", "Processes", values.choice("console", "json"), None,
        "console for people, json (one object a line) for collectors.",
        "Write console or json.", default_note="console when embedded, json with a database server",
    ),
    Setting(
        "KEYSTEAD_LOG_LEVEL", "Processes", values.choice("debug", "info", "warning", "error"), "info",
        "Least severe level that is logged.",
        "Write debug, info, warning or error.",
    ),
)  # fmt: skip

SETTINGS: dict[str, Setting] = {row.name: row for row in _ROWS}


# --- reading ----------------------------------------------------------------------------------------------------


def _read(row: Setting, environ: Mapping[str, str]) -> str | None:
    """Return the text of a setting, from its variable or its file; None when it is not set.

    An empty variable counts as not set, because compose files and shells cannot leave one out by condition.
    """
    value = environ.get(row.name, "").strip()
    file_name = environ.get(f"{row.name}_FILE", "").strip()
    if value and file_name:
        raise SettingError(
            row.name, f"it is given twice, also as {row.name}_FILE.", "Remove one of the two.", "file"
        )
    if not file_name:
        return value or None
    if row.names_file:
        return file_name
    try:
        with open(file_name, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        cause = f"the file {file_name} that {row.name}_FILE names cannot be read ({error.strerror})."
        raise SettingError(row.name, cause, "Create it or correct the path.", "file") from None
    if len(content) > MAX_FILE_BYTES:
        cause = f"the file {file_name} is over {MAX_FILE_BYTES} bytes."
        raise SettingError(row.name, cause, "Correct the path.", "file")
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        cause = f"the file {file_name} is not UTF-8 text."
        raise SettingError(row.name, cause, "Correct its content.", "file") from None
    if not text:
        raise SettingError(row.name, f"the file {file_name} is empty.", "Write the value into it.", "file")
    return text


def is_set(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether a setting is given, by itself or as NAME_FILE. Raises KeyError for an unknown name."""
    environ = os.environ if environ is None else environ
    row = SETTINGS[name]
    return bool(environ.get(row.name, "").strip() or environ.get(f"{row.name}_FILE", "").strip())


def is_embedded(environ: Mapping[str, str] | None = None) -> bool:
    """Embedded means: no database server, so SQLite and everything else in the data folder."""
    return not is_set("KEYSTEAD_DATABASE_URL", environ)


def get(name: str, environ: Mapping[str, str] | None = None) -> Any:
    """Return the parsed value of a setting, or its default.

    Raises SettingError when the value is wrong, KeyError when there is no such setting.
    """
    environ = os.environ if environ is None else environ
    row = SETTINGS[name]
    text = _read(row, environ)
    if text is None:
        return _default(row, environ)
    try:
        return row.parse(text)
    except ValueError as error:
        raise SettingError(name, str(error), row.cure) from None


def get_or_default(name: str, environ: Mapping[str, str] | None = None) -> Any:
    """Like `get`, but a wrong value gives the default.

    Only for loading the Django settings: a wrong value must reach the system checks, which report it in one
    clear line and end the start, instead of ending the import with a traceback.
    """
    environ = os.environ if environ is None else environ
    try:
        return get(name, environ)
    except SettingError:
        return _default(SETTINGS[name], environ)


def _default(row: Setting, environ: Mapping[str, str]) -> Any:
    """Return the value of a setting that was not given; some follow from others."""
    match row.name:
        case "KEYSTEAD_ROOT_KEY_FILE":
            return data_dir(environ) / "root.key"
        case "KEYSTEAD_NODE_NAME":
            return socket.gethostname() or "localhost"
        case "KEYSTEAD_XKS_SOCKET":
            return data_dir(environ) / "run" / "xks.sock"
        case "KEYSTEAD_SIMULATOR":
            return is_embedded(environ)
        case "KEYSTEAD_XKS_JOURNAL_SYNC":
            return "write" if is_embedded(environ) else "group"
        case "KEYSTEAD_LOG_FORMAT":
            return "console" if is_embedded(environ) else "json"
        case "KEYSTEAD_PUBLIC_URL":
            scheme = "https" if is_set("KEYSTEAD_WEB_TLS_CERT", environ) else "http"
            return f"{scheme}://localhost:{get_or_default('KEYSTEAD_WEB_PORT', environ)}"
        case "KEYSTEAD_ALLOWED_HOSTS":
            own = urlsplit(get_or_default("KEYSTEAD_PUBLIC_URL", environ)).hostname or ""
            own = f"[{own}]" if ":" in own else own
            return list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", own]))
    return None if row.default is None else row.parse(row.default)


def errors(environ: Mapping[str, str] | None = None) -> list[SettingError]:
    """Return every wrong setting: values that cannot be understood, and names that do not exist."""
    environ = os.environ if environ is None else environ
    found = []
    for row in SETTINGS.values():
        try:
            get(row.name, environ)
        except SettingError as error:
            found.append(error)
    for name in sorted(environ):
        if (
            name.startswith("KEYSTEAD_")
            and not name.startswith(PIN_PREFIX)
            and name not in SETTINGS
            and name.removesuffix("_FILE") not in SETTINGS
        ):
            cure = "Correct the name (docs/configuration.md lists all) or unset it."
            found.append(SettingError(name, "there is no such setting.", cure, "unknown"))
    return found


# --- the data folder ----------------------------------------------------------------------------------------------


def data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the data folder's absolute path; it may not exist yet."""
    path: Path = get_or_default("KEYSTEAD_DATA_DIR", environ)
    return path


def create_private_file(path: Path, content: bytes) -> bool:
    """Create a file of mode 0600 with all its content or not at all; False when it was there already.

    The content is on disk before the name appears, so that no other process ever reads half of it.
    Raises OSError.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return True
    finally:
        os.unlink(temporary)


def secret_key(environ: Mapping[str, str] | None = None) -> str:
    """Return the key that signs sessions: the setting's, or when embedded the one kept in the data folder.

    Where neither can be had, a key for this process alone is returned; vault.checks reports the reason and ends
    the start, so it never serves.
    """
    given = get_or_default("KEYSTEAD_SECRET_KEY", environ)
    if given is not None:
        return str(given)
    if is_embedded(environ):
        path = data_dir(environ) / "secret.key"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                create_private_file(path, secrets.token_urlsafe(50).encode())
            return values.secret_key(path.read_text("ascii").strip())
        except (OSError, ValueError):
            # Reported by the checks of the data folder and of secret.key (vault.checks).
            pass
    return secrets.token_urlsafe(50)
