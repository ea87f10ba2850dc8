"""vault.checks: every id, from a setting that brings it about."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.checks import run_checks

from vault import checks

SERVER = {
    "DATABASE_URL": "postgres://a@db.test/keys",
    "REDIS_URL": "redis://redis.test/0",
    "SECRET_KEY": "abcdefghij" * 5,
}


@pytest.fixture(autouse=True)
def _own_settings(set_environ: Any, data_dir: Path) -> None:
    return


def ids() -> list[str]:
    """Return the ids of Keystead's own checks that speak up, after seeing that each has cause and cure."""
    found = run_checks(tags=["keystead"])
    for message in found:
        assert message.msg, message
        assert message.hint, message
        assert message.id in checks.IDS
    return [str(message.id) for message in found]


def make_certificate(
    folder: Path,
    name: str = "keys.test",
    days: float = 90,
    key_format: Any = serialization.PrivateFormat.PKCS8,
) -> tuple[str, str]:
    """Write a self-signed certificate and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}-key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, key_format, serialization.NoEncryption())
    )
    return str(cert_path), str(key_path)


def test_nothing_set_is_fine():
    assert ids() == []


def test_production_is_fine(set_environ, tmp_path):
    cert, key = make_certificate(tmp_path)
    set_environ(**SERVER, BIND="0.0.0.0", PUBLIC_URL="https://keys.test", WEB_TLS_CERT=cert, WEB_TLS_KEY=key)
    assert ids() == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"WEB_PORT": "x"}, ["keystead.E001"]),
        ({"WEB_PROT": "1"}, ["keystead.E002"]),
        ({"ADMIN_PASSWORD_FILE": "/absent"}, ["keystead.E003"]),
        ({"ADMIN_EMAIL": "a@b", "ADMIN_EMAIL_FILE": "/etc/hostname"}, ["keystead.E003"]),
        ({**SERVER, "SECRET_KEY": None}, ["keystead.E012"]),
        ({**SERVER, "REDIS_URL": None}, ["keystead.W001"]),
        ({"BIND": "0.0.0.0"}, ["keystead.E020"]),
        ({"BIND": "::"}, ["keystead.E020"]),
        ({"BIND": "127.0.0.2"}, []),
        ({"BIND": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.1"}, []),
        ({"PUBLIC_URL": "http://keys.test"}, ["keystead.E020"]),
        ({"PUBLIC_URL": "http://keys.localhost"}, []),
        ({"PUBLIC_URL": "http://[::1]:8000"}, []),
        ({"WEB_TLS_CERT": "/c.pem"}, ["keystead.E021"]),
        ({"XKS_TLS_KEY": "/k.pem"}, ["keystead.E021"]),
        ({"WEB_TLS_CERT": "/absent/c.pem", "WEB_TLS_KEY": "/absent/k.pem"}, ["keystead.E022"]),
        ({"PUBLIC_URL": "https://keys.test"}, ["keystead.E023"]),
        ({"PUBLIC_URL": "https://keys.test", "TRUSTED_PROXIES": "127.0.0.1"}, []),
        ({"ALLOWED_HOSTS": "other.test"}, ["keystead.E025"]),
        ({"ALLOWED_HOSTS": ".keys.test", "PUBLIC_URL": "https://a.keys.test", "TRUSTED_PROXIES": "::1"}, []),
        ({"XKS_PORT": "8000"}, ["keystead.E026"]),
        ({"SIMULATOR_PORT": "8443"}, ["keystead.E026"]),
        ({"SIMULATOR_PORT": "8443", "SIMULATOR": "off"}, []),
        ({"MAIL_URL": "smtps://mail.test"}, ["keystead.E030"]),
        ({"MAIL_FROM": "a@b.test"}, ["keystead.E030"]),
        ({"MAIL_URL": "smtp://u:p@mail.test", "MAIL_FROM": "a@b.test"}, ["keystead.E031"]),
        ({"MAIL_URL": "smtp://u:p@localhost", "MAIL_FROM": "a@b.test"}, []),
        ({"XKS_TLS": "off"}, []),
        ({"XKS_TLS": "off", "BIND": "10.1.1.1", "WEB_TLS_CERT": "", "TRUSTED_PROXIES": "10.1.1.2"}, []),
        ({"XKS_SOCKET": "/" + "a" * 103}, ["keystead.E042"]),
        ({"SIEM_CA": "/ca.pem"}, ["keystead.E050"]),
        ({"SIEM_URL": "file:///tmp/siem.jsonl", "SIEM_CERT": "/c.pem"}, ["keystead.E050"]),
        ({"SIEM_URL": "file:///tmp/siem.jsonl"}, []),
        ({"SIEM_URL": "file:///absent/folder/siem.jsonl"}, ["keystead.E052"]),
        ({"SIEM_URL": "syslog+tls://siem.test"}, []),
        ({"SIEM_URL": "syslog+tls://siem.test", "SIEM_CA": "/absent/ca.pem"}, ["keystead.E051"]),
        ({"SIEM_URL": "syslog+tls://siem.test", "SIEM_KEY": "/k.pem"}, ["keystead.E021"]),
        ({"XKS_SOCKET": "/" + "a" * 102}, []),
    ],
)  # fmt: skip
def test_settings(set_environ, values, expected):
    set_environ(**values)
    assert ids() == expected


def test_a_process_that_does_not_listen_needs_no_certificate(set_environ, monkeypatch):
    set_environ(**SERVER, PUBLIC_URL="https://keys.test")
    assert ids() == ["keystead.E023"]
    monkeypatch.setattr(checks, "command", "worker")
    assert ids() == []
    set_environ(BIND="0.0.0.0")
    assert ids() == []
    monkeypatch.setattr(checks, "command", "web")
    assert ids() == ["keystead.E020", "keystead.E023"]


def test_https_certificate_with_http_url(set_environ, tmp_path):
    cert, key = make_certificate(tmp_path)
    set_environ(WEB_TLS_CERT=cert, WEB_TLS_KEY=key, PUBLIC_URL="http://localhost")
    assert ids() == ["keystead.E024"]


def test_certificates_that_cannot_be_used(set_environ, tmp_path):
    cert, key = make_certificate(tmp_path)
    other_cert, _ = make_certificate(tmp_path, "other.test")
    _, old_key = make_certificate(
        tmp_path, "old.test", key_format=serialization.PrivateFormat.TraditionalOpenSSL
    )
    expired, expired_key = make_certificate(tmp_path, "expired.test", days=-1)
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("no certificate")
    for pair in (
        (other_cert, key),
        (str(not_pem), key),
        (cert, str(not_pem)),
        (cert, old_key),
        (expired, expired_key),
    ):
        set_environ(WEB_TLS_CERT=pair[0], WEB_TLS_KEY=pair[1])
        assert ids() == ["keystead.E022"], pair


def test_certificates_that_deserve_a_warning(set_environ, tmp_path):
    cert, key = make_certificate(tmp_path, days=5)
    set_environ(XKS_TLS_CERT=cert, XKS_TLS_KEY=key)
    assert ids() == ["keystead.W003", "keystead.W002"]
    cert, key = make_certificate(tmp_path, "*.bank.test")
    set_environ(XKS_TLS_CERT=cert, XKS_TLS_KEY=key, XKS_PUBLIC_ENDPOINT="https://xks.bank.test")
    assert ids() == []
    set_environ(XKS_PUBLIC_ENDPOINT="https://a.xks.bank.test")
    assert ids() == ["keystead.W002"]


def test_xks_tls_off_contradicts(set_environ, tmp_path):
    cert, key = make_certificate(tmp_path, "xks.keystead.test")
    set_environ(XKS_TLS="off", XKS_TLS_CERT=cert, XKS_TLS_KEY=key)
    assert ids() == ["keystead.E040"]
    web_cert, web_key = make_certificate(tmp_path)
    set_environ(
        XKS_TLS_CERT=None, XKS_TLS_KEY=None, BIND="10.1.1.1", WEB_TLS_CERT=web_cert, WEB_TLS_KEY=web_key
    )
    assert ids() == ["keystead.E041"]


def test_data_folder_cannot_be_made(set_environ, tmp_path):
    (tmp_path / "file").write_text("")
    set_environ(DATA_DIR=str(tmp_path / "file" / "data"))
    assert ids() == ["keystead.E010"]


def test_data_folder_cannot_be_written(set_environ, monkeypatch, data_dir):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert ids() == ["keystead.E010"]
    assert os.listdir(data_dir) == []


def test_data_folder_is_made_private(set_environ, tmp_path):
    set_environ(DATA_DIR=str(tmp_path / "a" / "b"))
    assert ids() == []
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_data_folder_open_to_others(data_dir):
    data_dir.chmod(0o777)
    assert ids() == ["keystead.E011"]
    data_dir.chmod(0o755)
    assert ids() == []


@pytest.mark.parametrize(
    ("content", "mode"), [(b"short", 0o600), (b"\xff" * 60, 0o600), (b"a1b2c3" * 10, 0o644)]
)
def test_secret_key_file(data_dir, content, mode):
    file = data_dir / "secret.key"
    file.write_bytes(content)
    file.chmod(mode)
    assert ids() == ["keystead.E013"]


def test_every_id_is_tested_and_documented():
    tests = Path(__file__).read_text()
    documentation = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert [name for name in checks.IDS if name not in tests] == []
    assert [name for name in checks.IDS if f"`{name}`" not in documentation] == []
