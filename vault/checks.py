"""System checks of the settings. Each has an id, a cause and a cure, and stops the start of every process.

Django's management commands run them before anything else; vault.cli prints one line for each.
The ids are listed in docs/configuration.md; a test holds the two together.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.core import checks
from django.core.checks import CheckMessage, Error, register

from vault import env

# The command that this process runs, said by vault.cli; None when not known. What a listening socket needs is asked
# only of those that listen: a worker behind the same public URL has no use for the web's certificate.
command: str | None = None
_SERVE_WEB = (None, "serve", "web")
_RUN_AGENT = (None, "serve", "xks_agent")

# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
MAX_SOCKET_PATH = 103
_PORTS = ("KEYSTEAD_WEB_PORT", "KEYSTEAD_XKS_PORT", "KEYSTEAD_SIMULATOR_PORT", "KEYSTEAD_METRICS_PORT")

# What each id means, for docs/configuration.md.
IDS = {
    "keystead.E001": "the value of a setting cannot be understood",
    "keystead.E002": "a KEYSTEAD_ variable names no setting",
    "keystead.E003": "the file of a NAME_FILE setting cannot be read, or a setting is given twice",
    "keystead.E010": "the data folder cannot be made or written",
    "keystead.E011": "others than the owner may write in the data folder",
    "keystead.E012": "with a database server, KEYSTEAD_SECRET_KEY is missing",
    "keystead.E013": "secret.key in the data folder is damaged or unreadable",
    "keystead.E020": "plain HTTP would be open to the network",
    "keystead.E021": "a certificate without its key, or a key without its certificate",
    "keystead.E022": "a certificate or its key cannot be used",
    "keystead.E023": "the public URL says https, and nothing ends TLS",
    "keystead.E024": "the public URL says http, and a certificate is given",
    "keystead.E025": "the public URL's host is not among the allowed hosts",
    "keystead.E026": "two parts are given the same port",
    "keystead.E030": "a mail server without a sender, or a sender without a mail server",
    "keystead.E031": "a mail password would cross the network in clear",
    "keystead.E040": "an XKS certificate is given while KEYSTEAD_XKS_TLS is off",
    "keystead.E041": "the XKS endpoint's plain HTTP would be open to the network",
    "keystead.E042": "the path of the XKS socket is too long",
    "keystead.E050": "certificates for a SIEM are given, and it is no syslog server",
    "keystead.E051": "the authorities of the syslog server cannot be read",
    "keystead.E052": "the folder of the file for the SIEM cannot be written",
    "keystead.W001": "a database server without Redis",
    "keystead.W002": "the XKS certificate does not cover the public XKS endpoint's host",
    "keystead.W003": "a certificate ends within 14 days",
}


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


@register("keystead")
def check_values(**kwargs: Any) -> list[CheckMessage]:
    """E001 to E003: every setting can be read and understood, and every KEYSTEAD_ variable is a setting."""
    ids = {"value": "keystead.E001", "unknown": "keystead.E002", "file": "keystead.E003"}
    return [
        Error(f"{error.name}: {error.cause}", hint=error.cure, id=ids[error.kind]) for error in env.errors()
    ]


@register("keystead")
def check_data_dir(**kwargs: Any) -> list[CheckMessage]:
    """E010, E011, E013: the data folder can be written by this process and by nobody else."""
    folder = env.data_dir()
    hint = "Make the folder writable for this user, or give another with KEYSTEAD_DATA_DIR."
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        return [
            Error(
                f"The data folder {folder} cannot be made ({error.strerror}).", hint=hint, id="keystead.E010"
            )
        ]
    problem = write_problem(folder)
    if problem is not None:
        return [
            Error(f"The data folder {folder} cannot be written ({problem}).", hint=hint, id="keystead.E010")
        ]
    found: list[CheckMessage] = []
    if stat.S_IMODE(mode) & 0o022:
        found.append(
            Error(
                f"Others may write in the data folder {folder}.",
                hint=f"Run: chmod 700 {folder}",
                id="keystead.E011",
            )
        )
    if env.is_embedded() and not env.is_set("KEYSTEAD_SECRET_KEY"):
        found += _check_secret_key_file(folder / "secret.key")
    return found


def write_problem(folder: Path) -> str | None:
    """Try to write a block to disk in `folder`; return why it cannot be done, or None.

    os.access would not do: root may write to read-only folders, and a full disk shows only on writing.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        with open(probe, "wb") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk there is nothing to remove
            probe.unlink(missing_ok=True)
    return None


def _check_secret_key_file(path: Path) -> list[CheckMessage]:
    hint = f"Remove {path} (everybody is then signed out) or correct its permissions."
    try:
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Error(f"{path} cannot be read ({error.strerror}).", hint=hint, id="keystead.E013")]
    if len(content.strip()) < 50 or not content.isascii():
        return [Error(f"{path} is damaged.", hint=hint, id="keystead.E013")]
    if mode & 0o077:
        return [Error(f"{path} can be read by others.", hint=f"Run: chmod 600 {path}", id="keystead.E013")]
    return []


@register("keystead")
def check_servers(**kwargs: Any) -> list[CheckMessage]:
    """E012, W001: what a database server needs beside it."""
    if env.is_embedded():
        return []
    found: list[CheckMessage] = []
    if not env.is_set("KEYSTEAD_SECRET_KEY"):
        found.append(
            Error(
                "KEYSTEAD_DATABASE_URL is set but KEYSTEAD_SECRET_KEY is not: "
                "nodes would not accept each other's sessions.",
                hint=env.SETTINGS["KEYSTEAD_SECRET_KEY"].cure,
                id="keystead.E012",
            )
        )
    if not env.is_set("KEYSTEAD_REDIS_URL"):
        found.append(
            checks.Warning(
                "KEYSTEAD_DATABASE_URL is set but KEYSTEAD_REDIS_URL is not: "
                "tasks and rate limits stay on this node.",
                hint="Give KEYSTEAD_REDIS_URL when there is more than one node.",
                id="keystead.W001",
            )
        )
    return found


@register("keystead")
def check_web(**kwargs: Any) -> list[CheckMessage]:
    """E020 to E025: TLS, public URL and hosts of the web agree with each other."""
    found = list(_check_certificate("KEYSTEAD_WEB_TLS_CERT", "KEYSTEAD_WEB_TLS_KEY", None))
    bind = env.get_or_default("KEYSTEAD_BIND")
    has_certificate = env.is_set("KEYSTEAD_WEB_TLS_CERT")
    proxies = env.get_or_default("KEYSTEAD_TRUSTED_PROXIES")
    url = urlsplit(env.get_or_default("KEYSTEAD_PUBLIC_URL"))
    listens = command in _SERVE_WEB
    if listens and not _is_loopback(bind) and not has_certificate and not proxies:
        found.append(
            Error(
                f"KEYSTEAD_BIND is {bind}, and the web would speak plain HTTP there.",
                hint="Give KEYSTEAD_WEB_TLS_CERT and KEYSTEAD_WEB_TLS_KEY, or name the proxy that ends TLS in "
                "KEYSTEAD_TRUSTED_PROXIES, or bind to 127.0.0.1.",
                id="keystead.E020",
            )
        )
    if listens and url.scheme == "https" and not has_certificate and not proxies:
        found.append(
            Error(
                "KEYSTEAD_PUBLIC_URL is https, but there is neither a web certificate nor a trusted proxy.",
                hint="Give KEYSTEAD_WEB_TLS_CERT and KEYSTEAD_WEB_TLS_KEY, or KEYSTEAD_TRUSTED_PROXIES.",
                id="keystead.E023",
            )
        )
    if url.scheme == "http" and has_certificate:
        found.append(
            Error(
                "KEYSTEAD_PUBLIC_URL is http, but KEYSTEAD_WEB_TLS_CERT is given.",
                hint="Write https in KEYSTEAD_PUBLIC_URL.",
                id="keystead.E024",
            )
        )
    if url.scheme == "http" and not _is_local_name(url.hostname or ""):
        found.append(
            Error(
                "KEYSTEAD_PUBLIC_URL is http on a host that is not this machine: "
                "passwords would cross the network in clear.",
                hint="Write https in KEYSTEAD_PUBLIC_URL and let this process or a trusted proxy end TLS.",
                id="keystead.E020",
            )
        )
    if not _host_is_allowed(url.hostname or "", env.get_or_default("KEYSTEAD_ALLOWED_HOSTS")):
        found.append(
            Error(
                f"KEYSTEAD_ALLOWED_HOSTS does not hold {url.hostname}, the host of KEYSTEAD_PUBLIC_URL.",
                hint="Add it.",
                id="keystead.E025",
            )
        )
    return found


def _is_local_name(host: str) -> bool:
    try:
        return _is_loopback(host)
    except ValueError:
        # RFC 6761, section 6.3: localhost and what ends in it is this machine.
        return host == "localhost" or host.endswith(".localhost")


def _host_is_allowed(host: str, allowed: list[str]) -> bool:
    host = f"[{host}]" if ":" in host else host
    return any(
        host == name or (name.startswith(".") and (host.endswith(name) or host == name[1:]))
        for name in allowed
    )


@register("keystead")
def check_ports(**kwargs: Any) -> list[CheckMessage]:
    """E026: no two parts listen on one port."""
    names = [
        name
        for name in _PORTS
        if name != "KEYSTEAD_SIMULATOR_PORT" or env.get_or_default("KEYSTEAD_SIMULATOR")
    ]
    found: list[CheckMessage] = []
    for position, name in enumerate(names):
        for other in names[position + 1 :]:
            if env.get_or_default(name) == env.get_or_default(other):
                message = f"{name} and {other} are both {env.get_or_default(name)}."
                found.append(Error(message, hint="Give one of them another port.", id="keystead.E026"))
    return found


@register("keystead")
def check_mail(**kwargs: Any) -> list[CheckMessage]:
    """E030, E031: mail has a sender and does not show its password."""
    found: list[CheckMessage] = []
    if env.is_set("KEYSTEAD_MAIL_URL") != env.is_set("KEYSTEAD_MAIL_FROM"):
        given, missing = ("URL", "FROM") if env.is_set("KEYSTEAD_MAIL_URL") else ("FROM", "URL")
        found.append(
            Error(
                f"KEYSTEAD_MAIL_{given} is set but KEYSTEAD_MAIL_{missing} is not.",
                hint=f"Give KEYSTEAD_MAIL_{missing}, or remove KEYSTEAD_MAIL_{given}.",
                id="keystead.E030",
            )
        )
    mail = env.get_or_default("KEYSTEAD_MAIL_URL")
    if mail is not None and mail.scheme == "smtp" and mail.password and not _is_local_name(mail.host):
        found.append(
            Error(
                "KEYSTEAD_MAIL_URL would send its password in clear over the network.",
                hint="Write smtps:// or smtp+starttls://.",
                id="keystead.E031",
            )
        )
    return found


@register("keystead")
def check_xks(**kwargs: Any) -> list[CheckMessage]:
    """E040 to E042, W002: the XKS endpoint's TLS and socket."""
    tls = env.get_or_default("KEYSTEAD_XKS_TLS")
    bind = env.get_or_default("KEYSTEAD_BIND")
    endpoint = urlsplit(env.get_or_default("KEYSTEAD_XKS_PUBLIC_ENDPOINT")).hostname
    found = list(_check_certificate("KEYSTEAD_XKS_TLS_CERT", "KEYSTEAD_XKS_TLS_KEY", endpoint))
    if not tls and (env.is_set("KEYSTEAD_XKS_TLS_CERT") or env.is_set("KEYSTEAD_XKS_TLS_KEY")):
        found.append(
            Error(
                "KEYSTEAD_XKS_TLS is off, but an XKS certificate or key is given.",
                hint="Set KEYSTEAD_XKS_TLS to on, or remove KEYSTEAD_XKS_TLS_CERT and KEYSTEAD_XKS_TLS_KEY.",
                id="keystead.E040",
            )
        )
    if not tls and not _is_loopback(bind) and not env.get_or_default("KEYSTEAD_TRUSTED_PROXIES"):
        found.append(
            Error(
                f"KEYSTEAD_XKS_TLS is off, and the XKS endpoint would speak plain HTTP on {bind}.",
                hint="Set KEYSTEAD_XKS_TLS to on, or name the balancer that ends TLS in KEYSTEAD_TRUSTED_PROXIES.",
                id="keystead.E041",
            )
        )
    socket = str(env.get_or_default("KEYSTEAD_XKS_SOCKET"))
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        found.append(
            Error(
                f"The path of the XKS socket has more than {MAX_SOCKET_PATH} bytes: {socket}",
                hint="Give a shorter KEYSTEAD_XKS_SOCKET, for example /run/keystead/xks.sock.",
                id="keystead.E042",
            )
        )
    return found


@register("keystead")
def check_siem(**kwargs: Any) -> list[CheckMessage]:
    """E021, E022, E050 to E052: the stream for a SIEM."""
    url = env.get_or_default("KEYSTEAD_SIEM_URL")
    given = [
        name for name in ("KEYSTEAD_SIEM_CA", "KEYSTEAD_SIEM_CERT", "KEYSTEAD_SIEM_KEY") if env.is_set(name)
    ]
    if given and (url is None or url.path is not None):
        return [
            Error(
                f"{' and '.join(given)} given, but KEYSTEAD_SIEM_URL names no syslog server.",
                hint="Write syslog+tls://host:port in KEYSTEAD_SIEM_URL, or remove the certificates.",
                id="keystead.E050",
            )
        ]
    if url is None:
        return []
    if url.path is not None:
        if command in _RUN_AGENT and not os.access(url.path.parent, os.W_OK | os.X_OK):
            return [
                Error(
                    f"KEYSTEAD_SIEM_URL: the folder {url.path.parent} is not there, or cannot be written.",
                    hint="Make the folder, writable for the agent's user.",
                    id="keystead.E052",
                )
            ]
        return []
    found = list(_check_certificate("KEYSTEAD_SIEM_CERT", "KEYSTEAD_SIEM_KEY", None))
    authorities = env.get_or_default("KEYSTEAD_SIEM_CA")
    if authorities is not None:
        try:
            x509.load_pem_x509_certificates(authorities.read_bytes())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no PEM certificates"
            found.append(
                Error(
                    f"KEYSTEAD_SIEM_CA: {authorities} cannot be used ({reason}).",
                    hint="Give a PEM file of the authorities that the server's certificate comes from.",
                    id="keystead.E051",
                )
            )
    return found


def _check_certificate(cert_name: str, key_name: str, host: str | None) -> Iterator[CheckMessage]:
    """Check one pair of certificate and key; `host` is the name that the certificate should cover."""
    if env.is_set(cert_name) != env.is_set(key_name):
        given, missing = (cert_name, key_name) if env.is_set(cert_name) else (key_name, cert_name)
        yield Error(f"{given} is set but {missing} is not.", hint=f"Give {missing} too.", id="keystead.E021")
        return
    if not env.is_set(cert_name):
        return
    hint = "Give a PEM certificate chain, leaf first, and its unencrypted PKCS#8 key."
    cert_path, key_path = env.get_or_default(cert_name), env.get_or_default(key_name)
    if cert_path is None or key_path is None:
        return  # its reading failed, which check_values reports
    try:
        certificate = x509.load_pem_x509_certificates(cert_path.read_bytes())[0]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a PEM certificate"
        yield Error(f"{cert_name}: {cert_path} cannot be used ({reason}).", hint=hint, id="keystead.E022")
        return
    try:
        pem = key_path.read_bytes()
        # granian takes PKCS#8 alone, whose label is "PRIVATE KEY" (RFC 5958, section 5).
        if b"-----BEGIN PRIVATE KEY-----" not in pem:
            raise ValueError
        key = serialization.load_pem_private_key(pem, password=None)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not an unencrypted PKCS#8 PEM key"
        yield Error(f"{key_name}: {key_path} cannot be used ({reason}).", hint=hint, id="keystead.E022")
        return
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        yield Error(f"{key_name} is not the key of {cert_name}.", hint=hint, id="keystead.E022")
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left.total_seconds() <= 0:
        yield Error(f"{cert_name}: {cert_path} has expired.", hint="Give a valid one.", id="keystead.E022")
    elif left.days < 14:
        yield checks.Warning(
            f"{cert_name}: {cert_path} ends in {left.days} days.", hint="Renew it.", id="keystead.W003"
        )
    if host is not None and not _covers(certificate, host):
        yield checks.Warning(
            f"{cert_name} does not cover {host}, the host of KEYSTEAD_XKS_PUBLIC_ENDPOINT.",
            hint="AWS refuses such an endpoint unless a balancer in front has the right certificate.",
            id="keystead.W002",
        )


def _covers(certificate: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate names `host`, itself or by a wildcard for its first label (RFC 6125, 6.4.3)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    wildcard = "*." + host.partition(".")[2]
    return any(name.lower() in (host, wildcard) for name in names.get_values_for_type(x509.DNSName))
