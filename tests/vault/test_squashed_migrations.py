"""A first start makes the schema in three steps; they must make what the long way makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# In a process of its own, on a database file of its own.
PROGRAM = """
import json, sys
import django
django.setup()
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

executor = MigrationExecutor(connection)
if sys.argv[1] == "long":
    executor.loader = MigrationLoader(connection, replace_migrations=False)
    targets = [each for each in executor.loader.graph.leaf_nodes() if "_squashed_" not in each[1]]
else:
    targets = executor.loader.graph.leaf_nodes()
executor.migrate(targets)
found = {}
with connection.cursor() as cursor:
    for table in connection.introspection.table_names(cursor):
        if table == "django_migrations":
            continue
        columns = [
            [each.name, str(each.type_code), each.null_ok, each.default, each.display_size]
            for each in connection.introspection.get_table_description(cursor, table)
        ]
        rules = [
            [name if not name.startswith(("fk_", "__unnamed")) else "", each]
            for name, each in connection.introspection.get_constraints(cursor, table).items()
        ]
        found[table] = [sorted(json.dumps(each, sort_keys=True) for each in kind) for kind in (columns, rules)]
    cursor.execute("SELECT app, name FROM django_migrations ORDER BY app, name")
    applied = [f"{app}.{name}" for app, name in cursor.fetchall()]
print(json.dumps({"tables": found, "applied": applied}))
"""


def schema(way: str, folder: Path) -> dict[str, Any]:
    """Tables with columns, indexes and constraints, and what was noted as applied."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "DJANGO_SETTINGS_MODULE": "vault.settings",
            "KEYSTEAD_DATA_DIR": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.long
def test_the_short_way_makes_what_the_long_way_makes(tmp_path: Path) -> None:
    long, short = schema("long", tmp_path / "long"), schema("short", tmp_path / "short")
    assert len(short["tables"]) > 50
    assert short["tables"] == long["tables"]
    # An older Keystead knows the same names, and an upgrade from any of them finds its way.
    assert set(long["applied"]) <= set(short["applied"])
