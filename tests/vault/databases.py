"""What the tests of backup and restore share: a database of their own to destroy, in fixtures of conftest.py."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from django.db import connection, connections, transaction

from cloudkeys.models import CspAccount
from tests.vault.rootkeys import make_vault
from vault.keys import ensure_root_key, seal, unseal
from vault.models import Generation, Installation

MATERIAL = b"\x05known key bytes of this test\x05\x05\x05"
SQLITE = connection.vendor == "sqlite"
sqlite_only = pytest.mark.skipif(not SQLITE, reason="about SQLite's files")
postgresql_only = pytest.mark.skipif(SQLITE, reason="about PostgreSQL's programs")


@pytest.fixture
def own_database(transactional_db, tmp_path):
    """A copy of the suite's database under another name, in whose place the test may put anything."""
    Installation.objects.all().delete()
    real = connection.settings_dict["NAME"]
    connections.close_all()
    if SQLITE:
        mine = tmp_path / "database" / "db.sqlite3"
        mine.parent.mkdir(mode=0o700)
        with closing(sqlite3.connect(real)) as source, closing(sqlite3.connect(mine)) as copy:
            source.backup(copy)
    else:
        mine = f"{real}_restore"
        administer(f'DROP DATABASE IF EXISTS "{mine}"', f'CREATE DATABASE "{mine}" TEMPLATE "{real}"')
    connection.settings_dict["NAME"] = str(mine)
    yield mine
    connections.close_all()
    connection.settings_dict["NAME"] = real
    if not SQLITE:
        administer(f'DROP DATABASE "{mine}" WITH (FORCE)')


def administer(*statements):
    parameters = {**connection.get_connection_params(), "dbname": "postgres"}
    wanted = {
        name: parameters[name]
        for name in ("dbname", "user", "password", "host", "port")
        if parameters.get(name)
    }
    with closing(psycopg.connect(**wanted, autocommit=True)) as admin:
        for statement in statements:
            admin.execute(statement)


def destroy_database(mine):
    """What a lost disk leaves: nothing."""
    connections.close_all()
    if SQLITE:
        shutil.rmtree(Path(mine).parent)
    else:
        administer(f'DROP DATABASE "{mine}" WITH (FORCE)', f'CREATE DATABASE "{mine}"')


@pytest.fixture
def installed(own_database, root_file):
    """An installation with one vault, one sealed secret and generation 41."""
    ensure_root_key(create_allowed=True)
    with transaction.atomic():
        vault = make_vault("Payments")
        account = CspAccount(vault=vault, name="prod", access_key_id="AKIA", default_region="eu-west-1")
        seal(account, "secret_access_key", MATERIAL)
        account.save()
        Generation.objects.update_or_create(pk=1, defaults={"value": 41})
    return account


@pytest.fixture
def target(tmp_path):
    return tmp_path / "keystead.backup"


def opens(name="prod"):
    return unseal(CspAccount.objects.select_related("vault").get(name=name), "secret_access_key").reveal()


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
