"""The private CA and its certificate: made once, made again when due, fit for a strict client."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from xks import tls

NOW = datetime(2026, 3, 4, tzinfo=UTC)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tls"


def test_first_call_makes_everything(folder: Path) -> None:
    assert tls.ensure_certificate(folder)
    files = tls.certificate_files(folder)
    assert mode(folder) == 0o700
    assert mode(files.key) == mode(files.ca_key) == 0o600
    made = certificate(files.certificate)
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "xks.keystead.test"
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["xks.keystead.test", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    for path in (files.key, files.ca_key):
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")  # PKCS#8, as granian wants it
        serialization.load_pem_private_key(path.read_bytes(), None)


@pytest.mark.parametrize("host", ["xks.keystead.test", "localhost"])
def test_a_strict_client_accepts_it(folder: Path, host: str) -> None:
    tls.ensure_certificate(folder, now=NOW)
    files = tls.certificate_files(folder)
    authority = certificate(files.ca)
    verifier = PolicyBuilder().store(Store([authority])).time(NOW).build_server_verifier(x509.DNSName(host))
    assert verifier.verify(certificate(files.certificate), [])[-1] == authority


def test_openssl_loads_it(folder: Path) -> None:
    tls.ensure_certificate(folder)
    files = tls.certificate_files(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=files.ca)
    assert client.cert_store_stats()["x509_ca"] == 1


def test_nothing_is_made_twice(folder: Path) -> None:
    assert tls.ensure_certificate(folder, now=NOW)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert not tls.ensure_certificate(
        folder, now=NOW + tls.CERTIFICATE_LIFE - tls.RENEW_BEFORE - timedelta(days=1)
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_certificate_near_its_end_is_renewed_by_the_same_ca(folder: Path) -> None:
    tls.ensure_certificate(folder, now=NOW)
    files = tls.certificate_files(folder)
    authority, first = files.ca.read_bytes(), certificate(files.certificate)
    assert tls.ensure_certificate(folder, now=NOW + tls.CERTIFICATE_LIFE - tls.RENEW_BEFORE)
    assert files.ca.read_bytes() == authority
    second = certificate(files.certificate)
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc > first.not_valid_after_utc


def test_ca_near_its_end_is_made_again(folder: Path) -> None:
    tls.ensure_certificate(folder, now=NOW)
    files = tls.certificate_files(folder)
    authority = files.ca.read_bytes()
    assert tls.ensure_certificate(folder, now=NOW + tls.CA_LIFE - tls.RENEW_BEFORE)
    assert files.ca.read_bytes() != authority
    certificate(files.certificate).verify_directly_issued_by(certificate(files.ca))


def test_other_hosts_need_another_certificate(folder: Path) -> None:
    tls.ensure_certificate(folder)
    assert tls.ensure_certificate(folder, ["xks.example.org", "192.0.2.1", "2001:db8::1"])
    assert not tls.ensure_certificate(folder, ["xks.example.org", "192.0.2.1", "2001:db8::1"])


@pytest.mark.parametrize("name", ["ca", "ca_key", "certificate", "key"])
@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"]
)
def test_damaged_files_are_made_again(folder: Path, name: str, content: bytes | None) -> None:
    tls.ensure_certificate(folder)
    files = tls.certificate_files(folder)
    damaged: Path = getattr(files, name)
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    assert tls.ensure_certificate(folder)
    certificate(files.certificate).verify_directly_issued_by(certificate(files.ca))
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    assert key.public_key() == certificate(files.certificate).public_key()
    assert not tls.ensure_certificate(folder)


def test_files_of_two_folders_mixed_up_are_made_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tls.ensure_certificate(tmp_path / name)
    one, two = tls.certificate_files(tmp_path / "one"), tls.certificate_files(tmp_path / "two")
    one.key.write_bytes(two.key.read_bytes())
    assert tls.ensure_certificate(tmp_path / "one")
    one.certificate.write_bytes(two.certificate.read_bytes())
    one.key.write_bytes(two.key.read_bytes())
    assert tls.ensure_certificate(tmp_path / "one")


def test_processes_at_the_same_time_make_one(folder: Path) -> None:
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(tls.ensure_certificate(folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(OSError, match="tls"):
        tls.ensure_certificate(tmp_path / "tls")
