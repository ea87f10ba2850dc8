"""What is said of a certificate before it is served."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.xks.pki import CLIENT, Authority, pem_of
from xks import aws_authorities
from xks.certificate_checks import Report, examine, fits

HOST = "xks.bank.test"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("Issuing CA", Authority("Middle CA", Authority("Root")))


def look(authority: Authority, *names: str, **how: Any) -> Report:
    issued = authority.issue(*(names or (HOST,)), **how)
    return examine(issued.chain, issued.key_pem.encode(), HOST)


def said(report: Report) -> str:
    return " ".join(problem.message for problem in report.errors)


def test_a_sound_one_of_a_private_ca_is_served_with_a_warning(authority: Authority) -> None:
    report = look(authority)
    assert report.errors == []
    assert not report.aws_trusted
    assert ["AWS will refuse" in warning for warning in report.warnings] == [True]


@pytest.mark.parametrize(
    ("name", "host", "expected"),
    [
        (HOST, HOST, True), ("XKS.Bank.Test", HOST, True), ("*.bank.test", HOST, True), ("*.test", HOST, False),
        ("bank.test", HOST, False), ("*.bank.test", "bank.test", False), ("*.xks.bank.test", HOST, False),
        ("x*.bank.test", HOST, False),
    ],
)  # fmt: skip
def test_names(name: str, host: str, expected: bool) -> None:
    assert fits(name, host) is expected


def test_a_wildcard_will_do(authority: Authority) -> None:
    report = look(authority, "*.bank.test")
    assert report.errors == []
    assert not any("CN" in warning for warning in report.warnings)


def test_another_cn_is_a_warning(authority: Authority) -> None:
    report = look(authority, cn="Bank")
    assert report.errors == []
    assert any("CN is Bank" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("names", "how", "told"),
    [
        (("other.test",), {}, "not for the endpoint's host"),
        ((HOST,), {"ends": timedelta(hours=-1)}, "ended at"),
        ((HOST,), {"begins": timedelta(hours=1)}, "begins only"),
        ((HOST,), {"use": CLIENT}, "serverAuth"),
        ((HOST,), {"key_encipherment": True}, "digitalSignature"),
        ((HOST,), {"key": ec.generate_private_key(ec.SECP521R1())}, "P-256"),
        ((HOST,), {"key": ec.generate_private_key(ec.SECP256K1())}, "P-256"),
        ((HOST,), {"key": rsa.generate_private_key(65537, 1024)}, "2,048"),  # noqa: S505 - on purpose
        ((HOST,), {"digest": hashes.SHA3_256()}, "SHA3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_served(authority: Authority, names: tuple[str, ...], how: Any, told: str) -> None:
    assert told in said(look(authority, *names, **how))


def test_near_its_end_is_a_warning(authority: Authority) -> None:
    report = look(authority, ends=timedelta(days=20))
    assert report.errors == []
    assert any("ends already" in warning for warning in report.warnings)


def test_a_key_of_another(authority: Authority) -> None:
    issued, other = authority.issue(HOST), authority.issue(HOST)
    report = examine(issued.chain, other.key_pem.encode(), HOST)
    assert [problem.field for problem in report.errors] == ["private_key"]


@pytest.mark.parametrize("pkcs8", [True, False])
def test_keys_in_either_form(authority: Authority, pkcs8: bool) -> None:
    issued = authority.issue(HOST, key=rsa.generate_private_key(65537, 2048))
    assert examine(issued.chain, pem_of(issued.key, pkcs8=pkcs8).encode(), HOST).errors == []


def test_order(authority: Authority) -> None:
    issued = authority.issue(HOST)
    blocks = issued.chain.split("-----END CERTIFICATE-----\n")[:-1]
    assert len(blocks) == 3
    turned = "".join(block + "-----END CERTIFICATE-----\n" for block in reversed(blocks))
    assert "first certificate is a CA's" in said(examine(turned, issued.key_pem.encode(), HOST))
    gap = "".join(block + "-----END CERTIFICATE-----\n" for block in (blocks[0], blocks[2]))
    assert "was not issued by" in said(examine(gap, issued.key_pem.encode(), HOST))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate(text: str) -> None:
    report = examine(text, b"", HOST)
    assert {problem.field for problem in report.errors} == {"chain", "private_key"}


def test_an_encrypted_key_is_told_apart(authority: Authority) -> None:
    report = examine(authority.issue(HOST).chain, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", HOST)
    assert "encrypted" in said(report)


def test_a_ca_of_awss_list(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Authority("A public CA")
    monkeypatch.setattr(aws_authorities, "trusted_roots", lambda: (root.certificate,))
    report = look(Authority("Issuing", root))
    assert report.aws_trusted
    assert report.warnings == []
    assert not look(authority).aws_trusted


def test_the_moment_can_be_chosen(authority: Authority) -> None:
    issued = authority.issue(HOST)
    later = datetime.now(UTC) + timedelta(days=91)
    assert "ended at" in said(examine(issued.chain, issued.key_pem.encode(), HOST, now=later))
