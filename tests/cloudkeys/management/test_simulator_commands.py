"""`keystead simulator aws` and `keystead simulator credentials`."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from django.core.management import CommandError, call_command

from cloudkeys.simulators.aws import product

ROOT = Path(__file__).parents[3]


@pytest.fixture
def port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int) -> None:
    """A data folder and a port of the test's own."""
    monkeypatch.setenv("KEYSTEAD_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("KEYSTEAD_SIMULATOR_PORT", str(port))


def credentials() -> dict[str, str]:
    """What the command prints."""
    out = io.StringIO()
    call_command("simulator_credentials", "--json", stdout=out)
    return dict(json.loads(out.getvalue()))


def test_credentials_without_a_running_simulator(port: int) -> None:
    found = credentials()
    assert set(found) == {"endpoint", "region", "account", "access_key_id", "secret_access_key"}
    assert found["endpoint"] == f"http://127.0.0.1:{port}"
    assert (found["region"], found["account"]) == ("eu-west-1", "111122223333")
    assert credentials() == found
    out = io.StringIO()
    call_command("simulator_credentials", stdout=out)
    assert f"export AWS_ACCESS_KEY_ID={found['access_key_id']}\n" in out.getvalue()


def test_a_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KEYSTEAD_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("simulator_credentials")


def test_settings_of_the_product(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYSTEAD_XKS_PORT", "9443")
    monkeypatch.setenv("KEYSTEAD_XKS_PUBLIC_ENDPOINT", "https://kms.bank.test")
    monkeypatch.setenv("KEYSTEAD_SIMULATOR_XKS_TIMEOUT_MS", "400")
    settings = product.simulator_settings()
    assert settings.connect_to == {
        "xks.keystead.test": ("127.0.0.1", 9443),
        "kms.bank.test": ("127.0.0.1", 9443),
    }
    assert settings.xks_timeout_s == 0.4
    assert settings.xks_ca_file == tmp_path / "var" / "tls" / "ca.pem"
    assert settings.data_dir == tmp_path / "var" / "simulator"


@pytest.mark.slow
def test_serving(port: int) -> None:
    command = [sys.executable, "-m", "vault.cli", "simulator", "aws"]
    # The suite's own settings module forgets every KEYSTEAD_ variable, and its servers are none of the simulator's.
    left_out = {"DJANGO_SETTINGS_MODULE", "KEYSTEAD_DATABASE_URL", "KEYSTEAD_REDIS_URL"}
    environ = {name: value for name, value in os.environ.items() if name not in left_out}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ)
    with process:
        assert process.stdout is not None
        started = process.stdout.readline()
        if f"http://127.0.0.1:{port}" not in started:
            process.kill()
            pytest.fail(f"the simulator did not start: {started!r}")
        found = credentials()
        kms = boto3.client(
            "kms",
            endpoint_url=found["endpoint"],
            region_name=found["region"],
            aws_access_key_id=found["access_key_id"],
            aws_secret_access_key=found["secret_access_key"],
        )
        assert kms.create_key()["KeyMetadata"]["AWSAccountId"] == found["account"]
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, check=False)
        assert second.returncode == 1
        assert "Address already in use" in second.stderr
        assert "Traceback" not in second.stderr
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
