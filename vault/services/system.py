"""How the installation itself does: database, broker, workers, beat, disk, backups, versions. For the appliance admin."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, connection
from django.utils import timezone

from vault import __version__, env, health, mail
from vault.actions import Action
from vault.actors import Actor
from vault.errors import Conflict
from vault.models import AuditEvent, Node, Pulse
from vault.permissions import Permission

CHAIN = "chain"
CHAIN_LATE = timedelta(minutes=3)
BACKUP_LATE = timedelta(days=2)
DISK_LOW_SHARE, DISK_LOW_BYTES = 0.10, 2 * 1024**3
DISK_OUT_SHARE, DISK_OUT_BYTES = 0.03, 512 * 1024**2
SLOW_DATABASE_MS = 50.0
OK, WARN, FAIL, UNKNOWN = "OK", "WARN", "FAIL", "UNKNOWN"


@dataclass(frozen=True)
class Part:
    """One part of the installation. state: OK, WARN, FAIL or UNKNOWN. words: how it does; cure: what to do when not well."""

    name: str
    label: str
    state: str
    words: str
    cure: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """All parts, and the versions in use."""

    parts: list[Part]
    versions: dict[str, str]

    @property
    def state(self) -> str:
        """The worst of the parts."""
        order = (OK, UNKNOWN, WARN, FAIL)
        return max((part.state for part in self.parts), key=order.index, default=OK)


def note_chain() -> None:
    """Show that beat, broker and a worker together work; run by a worker because beat said so."""
    Pulse.objects.update_or_create(name=CHAIN, defaults={"at": timezone.now(), "detail": {}})


def system_status(actor: Actor) -> System:
    """How every part does, now. None of them keeps the others from being told. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_NODES)
    parts = [
        _told("database", "Database", _database),
        _told("schema", "Database schema", _schema),
        _told("broker", "Broker and cache", _broker),
        _told("workers", "Workers and beat", _workers),
        _told("disk", "Disk", _disk),
        _told("backup", "Last backup", _backup),
        _told("mail", "Mail", _mail),
    ]
    return System(parts, versions())


def versions() -> dict[str, str]:
    """Versions of Keystead and of what it leans on most; of the nodes too, where they differ."""
    found = {
        "Keystead": __version__,
        "Python": sys.version.partition(" ")[0],
        "Django": django.get_version(),
    }
    for package in ("cryptography", "boto3", "celery", "granian"):
        found[package] = _version(package)
    names = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
    try:
        raw = connection.get_database_version()
        found[names.get(connection.vendor, connection.vendor)] = ".".join(str(part) for part in raw)
        nodes = (
            Node.objects.filter(deregistered_at=None).order_by("name").values_list("name", "software_version")
        )
        found |= {f"Node {name}": version for name, version in nodes[:20] if version}
    except DatabaseError:
        pass  # the part "database" says so
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _told(name: str, label: str, look: Callable[[], tuple[str, str, str, dict[str, Any]]]) -> Part:
    try:
        return Part(name, label, *look())
    except Exception as error:
        # Whatever is wrong with one part is this page's news, not its end.
        return Part(name, label, FAIL, f"It could not be asked ({type(error).__name__}).", "See the log.")


def _database() -> tuple[str, str, str, dict[str, Any]]:
    began = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    took = (time.perf_counter() - began) * 1000
    detail: dict[str, Any] = {
        "kind": connection.vendor,
        "answer_ms": round(took, 1),
        "bytes": _database_bytes(),
    }
    if took > SLOW_DATABASE_MS:
        cure = "Look at its load and at the network between."
        return WARN, f"It answers after {took:.0f} ms.", cure, detail
    return OK, f"It answers within {took:.1f} ms.", "", detail


def _database_bytes() -> int | None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            return int(cursor.fetchone()[0])
    path = Path(str(connection.settings_dict["NAME"]))
    files = (path, path.with_name(path.name + "-wal"))
    return sum(each.stat().st_size for each in files if each.is_file())


def _schema() -> tuple[str, str, str, dict[str, Any]]:
    problem = health.schema_problem()
    if problem is None:
        return OK, "It fits this version.", "", {}
    return (
        FAIL,
        f"{problem[:1].upper()}{problem[1:]}.",
        "Run keystead migrate, or start the version that it belongs to.",
        {},
    )


def _broker() -> tuple[str, str, str, dict[str, Any]]:
    redis = settings.CACHES["default"]["BACKEND"].endswith("RedisCache")
    if not redis:
        queue = Path(str(settings.CELERY_BROKER_TRANSPORT_OPTIONS["data_folder_in"]))
        waiting = sum(1 for _ in queue.glob("*.msg")) if queue.is_dir() else 0
        state = OK if waiting < 1000 else WARN
        cure = "" if state == OK else "See whether the worker runs."
        return (
            state,
            f"A folder on this machine; {waiting} messages wait.",
            cure,
            {"kind": "folder", "waiting": waiting},
        )
    began = time.perf_counter()
    cache.get("keystead-system")
    took = (time.perf_counter() - began) * 1000
    return OK, f"Redis answers within {took:.1f} ms.", "", {"kind": "redis", "answer_ms": round(took, 1)}


def _workers() -> tuple[str, str, str, dict[str, Any]]:
    pulse = Pulse.objects.filter(name=CHAIN).first()
    if pulse is None:
        return (
            UNKNOWN,
            "No task was run on schedule yet.",
            "Start a worker and beat (keystead serve does).",
            {},
        )
    age = timezone.now() - pulse.at
    detail = {"last_at": pulse.at.isoformat()}
    if age > CHAIN_LATE:
        words = f"No task was run on schedule for {age.total_seconds() / 60:.0f} minutes."
        return FAIL, words, "See whether worker and beat run and reach the broker.", detail
    return OK, f"A task of the schedule was run {max(age.total_seconds(), 0):.0f} s ago.", "", detail


def _disk() -> tuple[str, str, str, dict[str, Any]]:
    usage = shutil.disk_usage(env.data_dir())
    share = usage.free / usage.total
    detail = {"folder": str(env.data_dir()), "free_bytes": usage.free, "total_bytes": usage.total}
    words = f"{usage.free / 1024**3:.1f} GiB are free of {usage.total / 1024**3:.1f} GiB ({share:.0%})."
    cure = "Make room: a full disk stops the journal, and with it every use of every key."
    if share < DISK_OUT_SHARE or usage.free < DISK_OUT_BYTES:
        return FAIL, words, cure, detail
    if share < DISK_LOW_SHARE or usage.free < DISK_LOW_BYTES:
        return WARN, words, cure, detail
    return OK, words, "", detail


def _backup() -> tuple[str, str, str, dict[str, Any]]:
    last = (
        AuditEvent.objects.filter(
            vault=None, action=Action.BACKUP_CREATE.value, outcome=AuditEvent.Outcome.SUCCESS
        )
        .order_by("-sequence")
        .first()
    )
    cure = "Run keystead backup, by a timer; docs/backup-and-restore.md tells how."
    if last is None:
        return WARN, "No backup is on record.", cure, {}
    age = timezone.now() - last.at
    detail = {"at": last.at.isoformat(), "by": last.actor_name}
    words = (
        f"Made {age.days} days ago."
        if age >= timedelta(days=2)
        else f"Made {age.total_seconds() / 3600:.0f} hours ago."
    )
    return (WARN, words, cure, detail) if age > BACKUP_LATE else (OK, words, "", detail)


def _mail() -> tuple[str, str, str, dict[str, Any]]:
    if not settings.MAIL_CONFIGURED:
        return (
            UNKNOWN,
            "No mail server is set up: one-time passwords are shown once, and nobody gets notices.",
            "Set KEYSTEAD_MAIL_URL and KEYSTEAD_MAIL_FROM.",
            {},
        )
    detail = {"host": settings.EMAIL_HOST, "port": settings.EMAIL_PORT, "from": settings.DEFAULT_FROM_EMAIL}
    return (
        OK,
        f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT} takes the mails. Send a test mail to be sure.",
        "",
        detail,
    )


def send_test_mail(actor: Actor) -> bool:
    """Send a mail to oneself; whether the server took it. Raises Conflict where none is set up, PermissionDenied."""
    actor.require(Permission.APPLIANCE_MANAGE_USERS)
    if actor.user is None or not settings.MAIL_CONFIGURED:
        raise Conflict(
            "No mail server is set up." if actor.user is not None else "There is nobody to send it to.",
            cure="Set KEYSTEAD_MAIL_URL and KEYSTEAD_MAIL_FROM.",
        )
    return mail.mail_test(actor.user)
