"""Every KEYSTEAD_* setting in one table, readable without Django.

A setting comes from the environment variable of its name or, for secrets kept in files, from NAME_FILE, whose
content is the value. Settings that name a file themselves (certificates, the root key) take the path either way.
A value that cannot be understood never falls back silently: `get` raises, and `vault.checks` turns the same
error into a system check that ends the start.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_FILE_BYTES = 64 * 1024
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


# --- parsers: text in, value out, ValueError with a cause that never repeats the text of a secret -----------


def _text(value: str) -> str:
    return value


def _path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def _switch(value: str) -> bool:
    known = {
        "on": True,
        "true": True,
        "yes": True,
        "1": True,
        "off": False,
        "false": False,
        "no": False,
        "0": False,
    }
    try:
        return known[value.lower()]
    except KeyError:
        raise ValueError(f"{value!r} is neither on nor off.") from None


def _port(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 65535:
        raise ValueError(f"{value!r} is not a port number.")
    return int(value)


def _count(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"{value!r} is not a whole number from {low} to {high}.")
        return int(value)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number of seconds.") from None
        if not low <= number <= high:
            raise ValueError(f"{value!r} is not between {low:g} and {high:g} seconds.")
        return number

    return parse


def _choice(*options: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in options:
            raise ValueError(f"{value!r} is not one of {', '.join(options)}.")
        return value.lower()

    return parse


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address.") from None


_EMAIL = re.compile(r"[^@\s<>]+@[A-Za-z0-9.-]+")


def _email(value: str) -> str:
    if not _EMAIL.fullmatch(value):
        raise ValueError(f"{value!r} is not an e-mail address.")
    return value


def _hosts(value: str) -> list[str]:
    hosts = [host.strip() for host in value.split(",") if host.strip()]
    for host in hosts:
        if not re.fullmatch(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\]", host):
            raise ValueError(f"{host!r} is not a host name (no scheme, port or *).")
    return hosts


def _networks(value: str) -> list[Network]:
    networks = []
    for part in (part.strip() for part in value.split(",")):
        if part:
            try:
                networks.append(ipaddress.ip_network(part, strict=False))
            except ValueError:
                raise ValueError(f"{part!r} is neither an IP address nor a network.") from None
    return networks


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ValueError(f"{value!r} is not an http or https address.")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{value!r} has more than a scheme, a host and a port.")
    return f"{parts.scheme}://{parts.netloc}"


def _xks_endpoint(value: str) -> str:
    # AWS KMS API reference, CreateCustomKeyStore, XksProxyUriEndpoint: port 443 only and none written.
    if not re.fullmatch(r"https://[a-zA-Z0-9.-]+", value) or not 10 <= len(value) <= 128:
        raise ValueError(
            f"{value!r} is not https:// and a host name alone; AWS allows no port and no path in it."
        )
    return value.lower()


def _secret_key(value: str) -> str:
    if len(value) < 50 or len(set(value)) < 5:
        raise ValueError("it is shorter than 50 characters or has fewer than 5 different ones.")
    return value


def _admin_password(value: str) -> str:
    if len(value) < 12:
        raise ValueError("it is shorter than 12 characters.")
    return value


@dataclass(frozen=True)
class DatabaseUrl:
    """A parsed KEYSTEAD_DATABASE_URL."""

    host: str
    port: int | None
    name: str
    user: str
    password: str
    options: dict[str, str]

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.user}@{self.host}:{self.port}/{self.name})"


# The libpq options that make sense for a server process; a misspelt one must not be ignored.
_DATABASE_OPTIONS = {
    "sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs", "connect_timeout", "application_name",
    "channel_binding", "gssencmode", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout", "load_balance_hosts",
}  # fmt: skip


def _database_url(value: str) -> DatabaseUrl:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("its port is not a number.") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("it does not begin with postgres://.")
    name = unquote(parts.path.lstrip("/"))
    if not name or "/" in name:
        raise ValueError("it names no database.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    # A Unix socket's folder cannot stand where a host stands, so libpq has it as ?host=.
    host = options.pop("host", "") or unquote(parts.hostname or "")
    if not host:
        raise ValueError("it names no host.")
    unknown = sorted(set(options) - _DATABASE_OPTIONS)
    if unknown:
        raise ValueError(f"its option {unknown[0]!r} is not known.")
    return DatabaseUrl(
        host, port, name, unquote(parts.username or ""), unquote(parts.password or ""), options
    )


def _redis_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not port_is_fine:
        raise ValueError("it is not redis://host:port/number or rediss://.")
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ValueError("its path is not the number of a database.")
    return value


@dataclass(frozen=True)
class MailUrl:
    """A parsed KEYSTEAD_MAIL_URL."""

    scheme: str
    host: str
    port: int
    user: str
    password: str

    def __repr__(self) -> str:
        return f"MailUrl({self.scheme}://{self.host}:{self.port})"


_MAIL_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


def _mail_url(value: str) -> MailUrl:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("its port is not a number.") from None
    if parts.scheme not in _MAIL_PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError("it is not smtp://, smtp+starttls:// or smtps:// with user:password@host:port.")
    return MailUrl(
        parts.scheme,
        parts.hostname,
        port or _MAIL_PORTS[parts.scheme],
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


# --- the table ------------------------------------------------------------------------------------------------

_ROWS = (
    Setting(
        "KEYSTEAD_DATA_DIR", "Where things are", _path, "./var",
        "Folder of everything that Keystead keeps on disk: embedded database, root key, certificates, queue, logs.",
        "Give the path of a folder that the process may write to.",
    ),
    Setting(
        "KEYSTEAD_DATABASE_URL", "Where things are", _database_url, None,
        "PostgreSQL to use: postgres://user:password@host:port/name?sslmode=verify-full. "
        "Without it Keystead runs embedded, on SQLite in the data folder.",
        "Write postgres://user:password@host:port/name, with special characters percent-encoded.",
        default_note="SQLite in the data folder", secret=True,
    ),
    Setting(
        "KEYSTEAD_REDIS_URL", "Where things are", _redis_url, None,
        "Redis for the task queue and the cache: redis://user:password@host:6379/0, or rediss:// for TLS.",
        "Write redis://user:password@host:6379/0 (rediss:// for TLS).",
        default_note="a queue in the data folder and a cache in memory", secret=True,
    ),
    Setting(
        "KEYSTEAD_ROOT_KEY_FILE", "Keys and secrets", _path, None,
        "File of the 32-byte root key that wraps each vault's key. Mode 0600 or 0400, owned by the process's user.",
        "Give the path of the root key's file.",
        default_note="root.key in the data folder", names_file=True,
    ),
    Setting(
        "KEYSTEAD_SECRET_KEY", "Keys and secrets", _secret_key, None,
        "Key that signs sessions and one-time links; at least 50 random characters, the same on every node.",
        "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'.",
        default_note="embedded: made once in secret.key in the data folder", secret=True,
    ),
    Setting(
        "KEYSTEAD_BIND", "Web", _address, "127.0.0.1",
        "IP address on which web, XKS endpoint and simulator listen. The simulator listens on loopback only.",
        "Give an IP address, such as 127.0.0.1, or 0.0.0.0 for all.",
    ),
    Setting(
        "KEYSTEAD_WEB_PORT", "Web", _port, "8000",
        "Port of the web interface and the REST API.",
        "Give a number from 1 to 65535.",
    ),
    Setting(
        "KEYSTEAD_WEB_WORKERS", "Web", _count(1, 64), "1",
        "Number of web worker processes.",
        "Give a whole number from 1 to 64.",
    ),
    Setting(
        "KEYSTEAD_PUBLIC_URL", "Web", _web_url, None,
        "Address under which people reach the web interface; links in mails begin with it.",
        "Write https:// and the host name, with a port only where it is not 443.",
        default_note="http or https, localhost and the web port",
    ),
    Setting(
        "KEYSTEAD_ALLOWED_HOSTS", "Web", _hosts, None,
        "Host names that the web answers to, separated by commas; a leading dot admits subdomains.",
        "Write host names separated by commas, without scheme, port or *.",
        default_note="localhost and the public URL's host",
    ),
    Setting(
        "KEYSTEAD_TRUSTED_PROXIES", "Web", _networks, "",
        "Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, "
        "separated by commas.",
        "Write IP addresses or networks such as 10.0.0.0/24, separated by commas.",
        default_note="none",
    ),
    Setting(
        "KEYSTEAD_WEB_TLS_CERT", "Web", _path, None,
        "PEM file of the web's certificate chain. Plain HTTP is for loopback or behind a trusted proxy only.",
        "Give the path of a PEM file.", default_note="plain HTTP", names_file=True,
    ),
    Setting(
        "KEYSTEAD_WEB_TLS_KEY", "Web", _path, None,
        "PEM file (PKCS#8, not encrypted) of the web certificate's private key.",
        "Give the path of a PEM file.", default_note="plain HTTP", names_file=True,
    ),
    Setting(
        "KEYSTEAD_ADMIN_EMAIL", "First administrator", _email, "admin@keystead.test",
        "E-mail address (the sign-in name) of the appliance administrator who is made at the first start.",
        "Write name@domain.",
    ),
    Setting(
        "KEYSTEAD_ADMIN_PASSWORD", "First administrator", _admin_password, None,
        "Password of that first administrator, at least 12 characters; used only while there is no administrator.",
        "Give at least 12 characters, or leave it out and read the one-time password that the first start prints.",
        default_note="a one-time password, printed once", secret=True,
    ),
    Setting(
        "KEYSTEAD_MAIL_URL", "Mail", _mail_url, None,
        "Mail server: smtp://host:25, smtp+starttls://user:password@host:587 or smtps://user:password@host:465.",
        "Write smtp+starttls://user:password@host:587, with special characters percent-encoded.",
        default_note="no mail: one-time passwords are shown once instead", secret=True,
    ),
    Setting(
        "KEYSTEAD_MAIL_FROM", "Mail", _email, None,
        "Sender address of mails. Needed with a mail server.",
        "Write name@domain.", default_note="none",
    ),
    Setting(
        "KEYSTEAD_XKS_PORT", "XKS endpoint", _port, "8443",
        "Port of the XKS endpoint that AWS KMS calls (through a balancer on port 443).",
        "Give a number from 1 to 65535.",
    ),
    Setting(
        "KEYSTEAD_XKS_WORKERS", "XKS endpoint", _count(1, 64), "1",
        "Number of XKS worker processes on this node.",
        "Give a whole number from 1 to 64.",
    ),
    Setting(
        "KEYSTEAD_XKS_TLS", "XKS endpoint", _switch, "on",
        "on: HTTPS, with a certificate for localhost and xks.keystead.test from a private CA in the data folder "
        "unless one is given. off: plain HTTP behind a balancer that ends TLS.",
        "Write on or off.",
    ),
    Setting(
        "KEYSTEAD_XKS_TLS_CERT", "XKS endpoint", _path, None,
        "PEM file of the XKS endpoint's certificate chain.",
        "Give the path of a PEM file.", default_note="made in the data folder", names_file=True,
    ),
    Setting(
        "KEYSTEAD_XKS_TLS_KEY", "XKS endpoint", _path, None,
        "PEM file (PKCS#8, not encrypted) of the XKS certificate's private key.",
        "Give the path of a PEM file.", default_note="made in the data folder", names_file=True,
    ),
    Setting(
        "KEYSTEAD_XKS_PUBLIC_ENDPOINT", "XKS endpoint", _xks_endpoint, "https://xks.keystead.test",
        "Default of the endpoint that AWS KMS is told to call; https and a host name, no port. "
        "The simulator sends https://xks.keystead.test to this machine's XKS port.",
        "Write https:// and a host name alone.",
    ),
    Setting(
        "KEYSTEAD_XKS_MAX_STALENESS", "XKS endpoint", _seconds(1, 86400), "60",
        "Seconds for which an XKS worker goes on answering when it no longer hears from the database; then 503.",
        "Give a number of seconds from 1 to 86400.",
    ),
    Setting(
        "KEYSTEAD_XKS_SOCKET", "XKS endpoint", _path, None,
        "Unix socket between the XKS agent and its workers. Its path must be shorter than 104 characters.",
        "Give a short path in a folder that only the process's user may enter.",
        default_note="run/xks.sock in the data folder",
    ),
    Setting(
        "KEYSTEAD_SIMULATOR", "AWS simulator", _switch, None,
        "Whether the bundled AWS simulator runs, on loopback, and accounts may use it.",
        "Write on or off.", default_note="on when embedded, off with a database server",
    ),
    Setting(
        "KEYSTEAD_SIMULATOR_PORT", "AWS simulator", _port, "4566",
        "Port of the AWS simulator.",
        "Give a number from 1 to 65535.",
    ),
    Setting(
        "KEYSTEAD_WORKER_CONCURRENCY", "Processes", _count(1, 64), "2",
        "Number of tasks that one Celery worker runs at a time.",
        "Give a whole number from 1 to 64.",
    ),
    Setting(
        "KEYSTEAD_LOG_FORMAT", "Processes", _choice("console", "json"), None,
        "console for people, json (one object a line) for collectors.",
        "Write console or json.", default_note="console when embedded, json with a database server",
    ),
    Setting(
        "KEYSTEAD_LOG_LEVEL", "Processes", _choice("debug", "info", "warning", "error"), "info",
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
        raise SettingError(
            row.name, f"the file {file_name} is over {MAX_FILE_BYTES} bytes.", "Correct the path."
        )
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise SettingError(
            row.name, f"the file {file_name} is not UTF-8 text.", "Correct its content."
        ) from None
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
        case "KEYSTEAD_XKS_SOCKET":
            return data_dir(environ) / "run" / "xks.sock"
        case "KEYSTEAD_SIMULATOR":
            return is_embedded(environ)
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
            return _secret_key(path.read_text("ascii").strip())
        except (OSError, ValueError):
            # Reported by the checks of the data folder and of secret.key (vault.checks).
            pass
    return secrets.token_urlsafe(50)
