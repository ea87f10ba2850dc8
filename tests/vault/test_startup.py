"""vault.startup: each refusal is one clear line."""

import errno
import os
import socket
import stat
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.utils import OperationalError

from vault import health, startup


@pytest.fixture
def busy_port() -> Any:
    """Yield a port on which something listens, in the way that granian does."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_busy_ports_are_all_named(busy_port):
    with pytest.raises(startup.StartRefused) as caught:
        startup.check_ports(
            [("KEYSTEAD_WEB_PORT", "127.0.0.1", busy_port), ("KEYSTEAD_XKS_PORT", "127.0.0.1", busy_port)]
        )
    assert caught.value.lines == tuple(
        f"Port {busy_port} of 127.0.0.1 is in use. Stop what listens there, or give another with {name}."
        for name in ("KEYSTEAD_WEB_PORT", "KEYSTEAD_XKS_PORT")
    )


def test_a_free_port_is_fine_and_stays_free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        startup.check_ports([("KEYSTEAD_WEB_PORT", "127.0.0.1", port)])


def test_an_address_of_another_machine():
    with pytest.raises(
        startup.StartRefused, match=r"Cannot listen on port 8000 of 192\.0\.2\.1: .*KEYSTEAD_BIND"
    ):
        startup.check_ports([("KEYSTEAD_WEB_PORT", "192.0.2.1", 8000)])


def test_a_port_that_this_user_may_not_have(monkeypatch):
    def refuse(self: socket.socket, address: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(
        startup.StartRefused, match=r"This user may not listen on port 80. Give one above 1023"
    ):
        startup.check_ports([("KEYSTEAD_WEB_PORT", "127.0.0.1", 80)])


def test_one_serve_for_each_data_folder(data_dir):
    first = startup.lock_data_dir()
    with pytest.raises(startup.StartRefused) as caught:
        startup.lock_data_dir()
    assert caught.value.lines == (
        (
            f"Another keystead serve (process {os.getpid()}) uses the data folder {data_dir}. "
            "Stop it, or give another folder with KEYSTEAD_DATA_DIR."
        ),
    )
    first.close()
    startup.lock_data_dir().close()


def test_the_lock_cannot_be_made(data_dir):
    (data_dir / "run").write_text("a file where a folder should be")
    with pytest.raises(startup.StartRefused, match="cannot be made"):
        startup.lock_data_dir()


def test_folders_are_private(data_dir, set_environ):
    startup.make_folders()
    startup.make_folders()
    made = {path.relative_to(data_dir).as_posix(): path for path in data_dir.rglob("*")}
    assert set(made) == {"run", "log", "broker", "broker/queue", "broker/control"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.values()} == {0o700}


def test_with_redis_there_is_no_queue_folder(data_dir, set_environ):
    set_environ(REDIS_URL="redis://redis.test/0")
    startup.make_folders()
    assert not (data_dir / "broker").exists()


def test_folders_on_a_full_disk(data_dir, monkeypatch):
    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(startup.StartRefused, match=r"cannot be written \(No space left on device\)"):
        startup.make_folders()


@pytest.mark.django_db
def test_the_current_schema_is_fine():
    assert health.schema_problem() is None
    startup.check_database(may_migrate=False)


@pytest.mark.django_db
def test_a_newer_schema_is_refused():
    MigrationRecorder(connection).record_applied("vault", "9999_from_the_future")
    for may_migrate in (False, True):
        with pytest.raises(startup.StartRefused) as caught:
            startup.check_database(may_migrate=may_migrate)
        assert caught.value.lines == (
            (
                "The database belongs to a newer Keystead than this one. "
                "Run the newer version, or restore a backup made by this one."
            ),
        )


@pytest.mark.django_db
def test_an_older_schema_is_refused_where_it_may_not_migrate():
    recorder = MigrationRecorder(connection)
    name = max(name for app, name in recorder.applied_migrations() if app == "cloudkeys")
    recorder.record_unapplied("cloudkeys", name)
    with pytest.raises(startup.StartRefused) as caught:
        startup.check_database(may_migrate=False)
    assert caught.value.lines == ("The database's schema is not up to date. Run: keystead migrate",)


@pytest.mark.django_db
def test_an_app_that_is_gone_is_not_a_newer_schema():
    MigrationRecorder(connection).record_applied("an_app_of_yore", "0001_initial")
    assert health.schema_problem() is None


def test_a_database_that_does_not_answer(monkeypatch, set_environ):
    def fail() -> None:
        raise OperationalError("connection to server failed\nmore")

    monkeypatch.setattr(health, "schema_problem", fail)
    with pytest.raises(startup.StartRefused) as caught:
        startup.check_database(may_migrate=True)
    assert caught.value.lines == (
        "The database cannot be used: connection to server failed. Check the data folder and its disk.",
    )
    set_environ(DATABASE_URL="postgres://db.test/keys")
    with pytest.raises(startup.StartRefused, match=r"Check KEYSTEAD_DATABASE_URL and the server\.$"):
        startup.check_database(may_migrate=False)
