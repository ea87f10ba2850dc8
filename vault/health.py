"""GET /healthz: 200 when the web part can do its work, 503 with the reasons when not.

Redis away is a warning: without it everything can still be done, and a balancer that took the web out for it would
keep people from disabling a key.
"""

from __future__ import annotations

import json

import structlog
from django.core.cache import caches
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpResponse

from vault import keys
from vault.cache import SharedCache

log = structlog.get_logger("keystead.health")

SCHEMA_NEW = "the database belongs to a newer Keystead"
SCHEMA_OLD = "the database's schema is not up to date (run: keystead migrate)"

# The schema cannot go back while the process lives, so it is asked for until it was right once.
_schema_was_current = False


def schema_problem() -> str | None:
    """Return SCHEMA_NEW, SCHEMA_OLD or None. Raises django.db.DatabaseError when the database cannot be asked."""
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    known = set(executor.loader.disk_migrations)
    own = {app for app, _ in known}
    if any(app in own and (app, name) not in known for app, name in executor.loader.applied_migrations):
        return SCHEMA_NEW
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return SCHEMA_OLD
    return None


def problems() -> list[str]:
    """Return why this process cannot do its work, in words that may be shown to anybody; empty when it can."""
    global _schema_was_current
    found: list[str] = []
    try:
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _schema_was_current:
            problem = schema_problem()
            if problem is None:
                _schema_was_current = True
            else:
                found.append(problem)
    except Exception:
        log.warning("health: database", exc_info=True)
        found.append("the database does not answer")
    if not found:
        try:
            keys.root_wrapper()
        except Exception:
            log.warning("health: root key", exc_info=True)
            found.append("the root key cannot be used")
    return found


def warnings() -> list[str]:
    """Return what is missing without which work goes on, in words that may be shown to anybody."""
    found = []
    shared = caches["default"]
    if isinstance(shared, SharedCache):
        try:
            shared.ping()
        except Exception:
            log.warning("health: Redis", exc_info=True)
            found.append(
                "Redis does not answer: limits are counted by each process, and operations begin later"
            )
    return found


def root_key_warnings() -> list[str]:
    """Say so when the HSM that holds the root key is away: no reason to take the web out, a key can be disabled without it."""
    try:
        if keys.root_problem():
            return ["the HSM that holds the root key does not answer: what needs a key waits for it"]
    except Exception:
        log.warning("health: root key", exc_info=True)
    return []


def answer() -> HttpResponse:
    """Return the answer to GET /healthz."""
    found = problems()
    missing = warnings() + ([] if found else root_key_warnings())
    status = "unavailable" if found else "degraded" if missing else "ok"
    body = {"status": status, "problems": found, "warnings": missing}
    return HttpResponse(
        json.dumps(body),
        status=503 if found else 200,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
