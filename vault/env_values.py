"""What the value of a setting may be: text in, value out. A ValueError's cause never repeats the text of a secret."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def text(value: str) -> str:
    """Any text."""
    return value


def path(value: str) -> Path:
    """A path, absolute from here on."""
    if "\0" in value:
        raise ValueError("a path holds no zero byte.")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:  # ~name of somebody who is not known here
        raise ValueError(f"{value!r} begins with the home folder of an unknown user.") from None


def paths(value: str) -> list[Path]:
    """Absolute paths, separated by colons."""
    found = [Path(part) for part in value.split(":") if part]
    for each in found:
        if not each.is_absolute():
            raise ValueError(f"{str(each)!r} is no absolute path.")
    return found


def names(value: str) -> list[str]:
    """Names of environment variables, separated by commas."""
    found = [part.strip() for part in value.split(",") if part.strip()]
    for each in found:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", each):
            raise ValueError(f"{each!r} is no name of a variable.")
    return found


def switch(value: str) -> bool:
    """on or off, in the usual spellings."""
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


def port(value: str) -> int:
    """A TCP port."""
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 65535:
        raise ValueError(f"{value!r} is not a port number.")
    return int(value)


def count(low: int, high: int) -> Callable[[str], int]:
    """A whole number within bounds."""

    def parse(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"{value!r} is not a whole number from {low} to {high}.")
        return int(value)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A number of seconds within bounds."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number of seconds.") from None
        if not low <= number <= high:
            raise ValueError(f"{value!r} is not between {low:g} and {high:g} seconds.")
        return number

    return parse


def choice(*options: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(value: str) -> str:
        if value.lower() not in options:
            raise ValueError(f"{value!r} is not one of {', '.join(options)}.")
        return value.lower()

    return parse


def address(value: str) -> str:
    """An IP address."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address.") from None


_NODE_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")


def node_name(value: str) -> str:
    """The name of a node."""
    if not _NODE_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no node name.")
    return value


_EMAIL = re.compile(r"[^@\s<>]+@[A-Za-z0-9.-]+")


def email(value: str) -> str:
    """An e-mail address."""
    if not _EMAIL.fullmatch(value):
        raise ValueError(f"{value!r} is not an e-mail address.")
    return value


def hosts(value: str) -> list[str]:
    """Host names, separated by commas."""
    hosts = [host.strip() for host in value.split(",") if host.strip()]
    for host in hosts:
        if not re.fullmatch(r"\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\]", host):
            raise ValueError(f"{host!r} is not a host name (no scheme, port or *).")
    return hosts


def networks(value: str) -> list[Network]:
    """IP addresses or networks, separated by commas."""
    networks = []
    for part in (part.strip() for part in value.split(",")):
        if part:
            try:
                networks.append(ipaddress.ip_network(part, strict=False))
            except ValueError:
                raise ValueError(f"{part!r} is neither an IP address nor a network.") from None
    return networks


def web_url(value: str) -> str:
    """An http or https address without a path; returned without a closing slash."""
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


def xks_endpoint(value: str) -> str:
    """The endpoint that AWS is told."""
    # AWS KMS API reference, CreateCustomKeyStore, XksProxyUriEndpoint: port 443 only and none written.
    if not re.fullmatch(r"https://[a-zA-Z0-9.-]+", value) or not 10 <= len(value) <= 128:
        raise ValueError(
            f"{value!r} is not https:// and a host name alone; AWS allows no port and no path in it."
        )
    return value.lower()


@dataclass(frozen=True)
class SiemUrl:
    """Where the stream for a SIEM goes: a syslog server, or a file when `path` is given."""

    host: str = ""
    port: int = 6514
    path: Path | None = None


def siem_url(value: str) -> SiemUrl:
    """syslog+tls://host:port, or file:///path."""
    parts = urlsplit(value)
    wrong = parts.query or parts.fragment or parts.username
    if parts.scheme == "file" and not wrong and not parts.netloc and len(parts.path) > 1:
        if parts.path.endswith("/"):
            raise ValueError(f"{value!r} names a folder.")
        return SiemUrl(path=Path(parts.path))
    try:
        port = 6514 if parts.port is None else parts.port
    except ValueError:
        port = 0
    if parts.scheme != "syslog+tls" or not parts.hostname or not port or wrong or parts.path not in ("", "/"):
        raise ValueError(f"{value[:100]!r} is neither syslog+tls://host:port nor file:///path.")
    return SiemUrl(parts.hostname, port)


def secret_key(value: str) -> str:
    """A long random key."""
    if len(value) < 50 or len(set(value)) < 5:
        raise ValueError("it is shorter than 50 characters or has fewer than 5 different ones.")
    return value


def admin_password(value: str) -> str:
    """A password of at least 12 characters."""
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


def database_url(value: str) -> DatabaseUrl:
    """A PostgreSQL address."""
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


def redis_url(value: str) -> str:
    """A Redis address."""
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


def mail_url(value: str) -> MailUrl:
    """A mail server's address."""
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
