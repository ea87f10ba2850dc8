"""`keystead serve` and the single processes, for real: start, refusals, stop, death."""

import os
import re
import secrets
import signal
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.vault.serving import PROBE_EVERY, Place, Process, descendants, is_alive, place, wait_for
from vault import env

pytestmark = pytest.mark.slow


@pytest.fixture
def here() -> Iterator[Place]:
    """Yield a place to run Keystead in."""
    with place() as made:
        yield made


def is_ready(process: Process) -> bool:
    """Tell whether serve has said that everything runs, or has ended."""
    return "Keystead is ready" in process.text or process.popen.poll() is not None


def test_first_start_stop_and_second_start(here):
    first = here.start("serve")
    assert wait_for(lambda: is_ready(first))
    assert "Keystead is ready" in first.text, first.text
    # What the issue asks the end of a start to say.
    url = f"http://localhost:{here.environ['KEYSTEAD_WEB_PORT']}"
    for said in (url, here.environ["KEYSTEAD_XKS_PORT"], here.environ["KEYSTEAD_SIMULATOR_PORT"], "Next: "):
        assert said in first.text
    assert re.search(r"First administrator +admin@keystead\.test", first.text)
    assert re.search(r"One-time password +\S{12,}", first.text)
    assert f"Keep a copy of {here.data}/root.key elsewhere" in first.text
    assert [
        part for part in ("web", "xks", "simulator", "agent", "worker", "beat") if not here.probe(part)
    ] == []
    assert stat.S_IMODE(here.data.stat().st_mode) == 0o700
    assert stat.S_IMODE((here.data / "root.key").stat().st_mode) == 0o600

    # A second one on the same folder, and a third elsewhere on the same ports.
    code, text = here.run("serve")
    assert (code, text.count("\n")) == (1, 0)
    assert text.startswith(
        f"keystead: Another keystead serve (process {first.popen.pid}) uses the data folder"
    )
    with place() as other:
        ports = {name: here.environ[name] for name in here.environ if name.endswith("_PORT")}
        code, text = other.run("serve", **ports)
        assert code == 1
        assert len(re.findall(r"^keystead: Port \d+ of 127\.0\.0\.1 is in use\. ", text, re.M)) == 3

    below = descendants(first.popen.pid)
    first.popen.send_signal(signal.SIGINT)
    assert first.wait() == 0
    assert [pid for pid in below if is_alive(pid)] == []

    # The second start has no password to show; killed with -9, it takes all its parts along.
    second = here.start("serve")
    assert wait_for(lambda: is_ready(second))
    assert "Keystead is ready" in second.text, second.text
    assert "One-time password" not in second.text
    below = descendants(second.popen.pid)
    assert len(below) >= 6
    second.popen.kill()
    assert wait_for(lambda: not any(is_alive(pid) for pid in below), seconds=10), [
        p for p in below if is_alive(p)
    ]


def test_a_part_that_is_killed_comes_back(here):
    process = here.start("serve", KEYSTEAD_SIMULATOR="off")
    assert wait_for(lambda: is_ready(process))
    assert not here.probe("simulator")
    (agent,) = [
        pid
        for pid in descendants(process.popen.pid)
        if b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(agent, signal.SIGKILL)
    assert wait_for(lambda: "agent was killed by SIGKILL; it is started again in 0.5 s." in process.text)
    assert wait_for(lambda: here.probe("agent"), every=PROBE_EVERY)
    assert wait_for(lambda: here.probe("xks"), every=PROBE_EVERY)
    process.popen.terminate()
    assert process.wait() == 0


@pytest.fixture(scope="module")
def used() -> Iterator[Place]:
    """Yield a place with a database and a root key, made by single commands as in production."""
    with place() as made:
        assert made.run("migrate", "--no-input", "--verbosity", "0") == (0, "")
        code, text = made.run("first-admin")
        assert code == 0
        assert re.fullmatch(r"admin@keystead\.test\none-time password: \S+", text)
        assert "there is an administrator" in made.run("first-admin")[1]
        yield made


def one_line(used: Place, *words: str, **settings: str) -> str:
    """Run a command that must refuse with exactly one line, and return it."""
    code, text = used.run(*words, **settings)
    assert code == 1, text
    assert text.count("\n") == 0, text
    return text


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_missing_root_key(used, command):
    key = used.data / "root.key"
    content = key.read_bytes()
    key.unlink()
    try:
        assert one_line(used, command).startswith(f"keystead: The root key file {key} does not exist")
        assert not key.exists()
    finally:
        key.write_bytes(content)
        key.chmod(0o600)


def test_a_foreign_root_key(used):
    key = used.data / "root.key"
    content = key.read_bytes()
    key.write_bytes(secrets.token_bytes(32))
    try:
        assert "but this database needs root key" in one_line(used, "serve")
    finally:
        key.write_bytes(content)


def test_an_unsafe_root_key(used):
    key = used.data / "root.key"
    key.chmod(0o644)
    try:
        assert "has mode 0644" in one_line(used, "web")
    finally:
        key.chmod(0o600)


def test_a_newer_schema(used):
    row = ("vault", "9999_from_the_future")
    database = sqlite3.connect(used.data / "db.sqlite3")
    try:
        with database:
            database.execute(
                "INSERT INTO django_migrations (app, name, applied) VALUES (?, ?, '2030-01-01')", row
            )
        for command in ("serve", "web", "worker"):
            assert "belongs to a newer Keystead" in one_line(used, command)
    finally:
        with database:
            database.execute("DELETE FROM django_migrations WHERE app = ? AND name = ?", row)
        database.close()


def test_a_data_folder_that_cannot_be_made(used):
    text = one_line(used, "serve", KEYSTEAD_DATA_DIR="/proc/keystead")
    assert text.startswith("keystead: keystead.E010: The data folder /proc/keystead cannot be made")


def test_a_full_disk(used):
    # /dev/full refuses every write as a full disk does.
    folder = used.folder / "full"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "db.sqlite3").symlink_to("/dev/full")
    assert one_line(used, "serve", KEYSTEAD_DATA_DIR=str(folder)).startswith(
        "keystead: The database cannot be used: "
    )


def test_a_wrong_setting(used):
    text = one_line(used, "serve", KEYSTEAD_BIND="0.0.0.0")
    assert text.startswith("keystead: keystead.E020: KEYSTEAD_BIND is 0.0.0.0")


def test_a_database_server_that_does_not_answer(used):
    settings = {
        "KEYSTEAD_DATABASE_URL": "postgres://ada:not-shown@127.0.0.1:1/keys",
        "KEYSTEAD_REDIS_URL": "redis://127.0.0.1:1/0",
        "KEYSTEAD_SECRET_KEY": "abcdefghij" * 5,
    }
    text = one_line(used, "worker", **settings)
    assert text.startswith("keystead: The database cannot be used: ")
    assert "not-shown" not in text


@pytest.fixture
def production() -> Iterator[Place]:
    """Yield a place with PostgreSQL and Redis, as in docker-compose.yml, on a database of its own."""
    if not env.is_set("KEYSTEAD_DATABASE_URL"):
        pytest.skip("needs the PostgreSQL and the Redis that make test starts")
    url = env.get("KEYSTEAD_DATABASE_URL")
    name = f"serve_{secrets.token_hex(6)}"
    server = {"host": url.host, "port": url.port, "user": url.user, "password": url.password}
    with psycopg.connect(dbname=url.name, autocommit=True, **server) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            with place(
                KEYSTEAD_DATABASE_URL=f"postgres://{url.user}:{url.password}@{url.host}:{url.port}/{name}",
                KEYSTEAD_REDIS_URL=env.get("KEYSTEAD_REDIS_URL"),
                KEYSTEAD_SECRET_KEY=secrets.token_urlsafe(50),
            ) as made:
                root_key = made.folder / "root.key"
                root_key.write_bytes(secrets.token_bytes(32))
                root_key.chmod(0o600)
                made.environ["KEYSTEAD_ROOT_KEY_FILE"] = str(root_key)
                yield made
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_production_shape_process_by_process(production):
    assert (
        one_line(production, "web")
        == "keystead: The database's schema is not up to date. Run: keystead migrate"
    )
    assert production.run("migrate", "--no-input", "--verbosity", "0")[0] == 0
    assert production.run("first-admin")[0] == 0
    bare = {name: "" for name in env.SETTINGS if env.SETTINGS[name].secret} | {"KEYSTEAD_ROOT_KEY_FILE": ""}
    processes = {
        "web": production.start("web"),
        "agent": production.start("xks", "agent"),
        "xks": production.start("-m", "xks.server", **bare),
        "worker": production.start("worker"),
        "beat": production.start("beat"),
    }
    for name, process in processes.items():
        ready = wait_for(
            lambda name=name, process=process: production.probe(name) or process.popen.poll() is not None,
            every=PROBE_EVERY,
        )
        assert ready, (name, process.text)
        assert process.popen.poll() is None, (name, process.text)
    # No SQLite, no queue in files, no key made: all that lasts is on the servers.
    assert not (production.data / "db.sqlite3").exists()
    assert not (production.data / "broker").exists()
    assert not (production.data / "root.key").exists()
    assert not (production.data / "secret.key").exists()
    for process in processes.values():
        process.popen.terminate()
    for name, process in processes.items():
        assert process.wait() == 0, (name, process.text)
