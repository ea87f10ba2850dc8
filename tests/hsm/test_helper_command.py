"""`keystead hsm-helper`: the helper by its name, without Django, and with the PIN by standard input alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hsm import wire
from hsm.helper import EXIT_REFUSED
from hsm.softhsm import make_tokens
from tests.hsm.soft import PIN, config_for

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from vault.cli import main; main()", "hsm-helper"]


def test_it_serves_as_the_module_does_and_shows_no_pin(tmp_path):
    tokens = make_tokens(tmp_path / "soft", ["one"], pin=PIN)
    config = config_for(tokens, tmp_path / "m.sock")
    started = subprocess.Popen(
        COMMAND, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, **tokens.environment},
    )  # fmt: skip
    with started:
        try:
            started.stdin.write(wire.config_frame(config))
            started.stdin.flush()
            told = json.loads(started.stdout.readline())
            assert told["ready"]["pid"] == started.pid
            assert PIN.encode() not in Path(f"/proc/{started.pid}/cmdline").read_bytes()
            started.stdin.close()
            assert started.wait(10) == 0
        finally:
            started.kill()


def test_it_loads_no_django():
    words = [COMMAND[0], "-X", "importtime", *COMMAND[1:]]
    done = subprocess.run(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_REFUSED
    assert "standard input ended before the configuration did" in done.stdout
    assert "hsm.helper" in done.stderr
    assert "django" not in done.stderr


def test_who_types_it_is_told_what_it_is_for():
    for words, code in ((["--help"], 0), (["--pin", "1234"], 2)):
        done = subprocess.run([*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "Started by `keystead hsm serve`" in done.stdout
