"""scripts/services.py: PostgreSQL and Redis of one's own, gone afterwards whatever happens."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vault.serving import is_alive, listens

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import services  # noqa: E402

PROGRAM = """
import os, sys
import psycopg, redis
from vault import env
url = env.get("KEYSTEAD_DATABASE_URL")
with psycopg.connect(host=url.host, port=url.port, dbname=url.name, user=url.user, password=url.password) as connection:
    port = connection.execute("SHOW port").fetchone()[0]

client = redis.Redis.from_url(env.get("KEYSTEAD_REDIS_URL"))
print(port, client.info("server")["process_id"], client.config_get("bind")["bind"], flush=True)
client.close()
sys.stdin.read()
sys.exit(7)
"""


def run_program() -> subprocess.Popen[str]:
    """Start the program beside services of its own."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts/services.py"), sys.executable, "-c", PROGRAM]
    return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that the other user can reach, which those of tmp_path are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["its command ends", "SIGTERM", "SIGKILL"])
def test_nothing_outlives_it(ending, folder, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(folder))
    with run_program() as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port, redis_pid, bind = process.stdout.readline().split()
        assert listens(int(port))
        assert is_alive(int(redis_pid))
        assert bind == "127.0.0.1"
        if ending.startswith("SIG"):
            os.kill(process.pid, signal.Signals[ending])
        process.stdin.close()
        code = process.wait(timeout=20)
    assert code == {"its command ends": 7, "SIGTERM": 143, "SIGKILL": -9}[ending]
    deadline = time.monotonic() + 10
    while (listens(int(port)) or is_alive(int(redis_pid))) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not listens(int(port))
    assert not is_alive(int(redis_pid))
    if ending != "SIGKILL":
        assert list(folder.iterdir()) == []


def test_a_missing_program_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(services.shutil, "which", lambda name: None)
    monkeypatch.setattr(services.Path, "glob", lambda self, pattern: iter(()))
    with (
        pytest.raises(services.ServiceFailed, match=r"^initdb is missing: install PostgreSQL"),
        services.postgres(tmp_path),
    ):
        pytest.fail("it started")
    with pytest.raises(services.ServiceFailed, match=r"^redis-server is missing"), services.redis(tmp_path):
        pytest.fail("it started")
