"""Certificates of the endpoint: request, install, change, look after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.core.management import call_command
from django.utils import timezone

from tests.xks.pki import Authority
from vault.actors import Actor
from vault.errors import Conflict, NotFound, StaleRevision, ValidationFailed
from vault.keys import unseal
from vault.models import AuditEvent, GenerationChange, Node
from vault.secret import Secret
from xks import endpoint_tls, wire
from xks.agent_endpoint import EndpointKeeper, read_endpoint_tls
from xks.models import EndpointCertificate, EndpointTls
from xks.services import certificates as service

pytestmark = pytest.mark.django_db

HOST = "xks.keystead.test"
AUTHORITY = Authority()
OPERATOR = Actor.system("test")


@pytest.fixture(autouse=True)
def _root_key(cast: Any) -> None:
    """An installation with a root key, and people."""


def install(**how: Any) -> EndpointCertificate:
    issued = AUTHORITY.issue(HOST, **how)
    return service.install_certificate(OPERATOR, chain=issued.chain, private_key=Secret(issued.key_pem))[0]


def serve(name: str, source: str = "installed", row: EndpointCertificate | None = None, **more: str) -> None:
    """Write what a node would say of itself."""
    told = wire.CertificateServed(
        source,
        fingerprint=row.fingerprint if row is not None else "ab" * 32,
        not_after=(
            row.not_after if row is not None and row.not_after else timezone.now() + timedelta(days=60)
        ).isoformat(),
        **more,
    )
    Node.objects.update_or_create(
        name=name,
        defaults={
            "certificate": msgspec.to_builtins(told),
            "started_at": timezone.now(),
            "last_seen_at": timezone.now(),
        },
    )


def test_an_installed_one_is_stored_wrapped_and_told_to_agents() -> None:
    row = install()
    assert row.state == "ACTIVE"
    assert b"PRIVATE KEY" not in bytes(row.private_key)
    found = read_endpoint_tls(None)
    assert found is not None
    revision, tls = found
    assert tls.certificate.decode() == row.chain
    assert tls.key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert read_endpoint_tls(revision) is None
    assert GenerationChange.objects.filter(kind="TLS").exists()
    event = AuditEvent.objects.get(action="xks:certificate:install")
    assert "PRIVATE" not in str(event.after)


def test_what_is_told_can_be_served() -> None:
    install()
    found = read_endpoint_tls(None)
    assert found is not None
    material = endpoint_tls.choose(found[1], None, None, Path("/nowhere"))
    files = endpoint_tls.open_files(material)
    files.close()
    assert endpoint_tls.describe(material).source == "installed"


def test_a_wrong_one_changes_nothing_and_all_that_is_wrong_is_told() -> None:
    issued, other = AUTHORITY.issue("other.test"), AUTHORITY.issue(HOST)
    with pytest.raises(ValidationFailed) as caught:
        service.install_certificate(OPERATOR, chain=issued.chain, private_key=Secret(other.key_pem))
    assert {error["field"] for error in caught.value.errors} == {"chain", "private_key"}
    assert not EndpointCertificate.objects.exists()


@pytest.mark.parametrize("key_type", service.KEY_TYPES)
def test_request_and_signed_chain(key_type: str) -> None:
    row = service.request_certificate(OPERATOR, key_type=key_type, names=[HOST, "*.keystead.test"])
    asked = x509.load_pem_x509_csr(row.request.encode())
    assert asked.is_signature_valid
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST, "*.keystead.test"]
    key = serialization.load_pem_private_key(unseal(row, "private_key").reveal(), None)
    assert key.public_key() == asked.public_key()
    signed = AUTHORITY.sign_request(row.request)
    with pytest.raises(ValidationFailed):
        service.complete_certificate(OPERATOR, row.pk, chain=AUTHORITY.issue(HOST).chain)
    with pytest.raises(StaleRevision):
        service.complete_certificate(OPERATOR, row.pk, chain=signed.chain, expected_revision=9)
    done, _ = service.complete_certificate(OPERATOR, row.pk, chain=signed.chain, expected_revision=1)
    assert (done.state, done.key_type) == ("ACTIVE", key_type)
    with pytest.raises(Conflict):
        service.complete_certificate(OPERATOR, row.pk, chain=signed.chain)


@pytest.mark.parametrize(
    "how",
    [{"names": ["elsewhere.test"]}, {"names": [HOST, "ä.test"]}, {"key_type": "DSA"}, {"names": [HOST] * 51}],
)
def test_requests_that_make_no_sense(how: Any) -> None:
    with pytest.raises(ValidationFailed):
        service.request_certificate(OPERATOR, **how)


def test_one_is_served_and_the_one_before_can_come_back() -> None:
    first, second = install(), install()
    first.refresh_from_db()
    assert (first.state, second.state) == ("REPLACED", "ACTIVE")
    service.activate_certificate(OPERATOR, first.pk)
    second.refresh_from_db()
    assert second.state == "REPLACED"
    assert read_endpoint_tls(None)[1].certificate.decode() == first.chain  # type: ignore[index]
    with pytest.raises(Conflict):
        service.activate_certificate(OPERATOR, first.pk)


def test_deleting_the_served_one_goes_back_to_the_nodes_own() -> None:
    row = install()
    revision = EndpointTls.objects.get().revision
    service.delete_certificate(OPERATOR, row.pk)
    found = read_endpoint_tls(revision)
    assert found is not None
    assert found[1].certificate == b""
    with pytest.raises(NotFound):
        service.fetch_certificate(OPERATOR, row.pk)


def test_client_roots() -> None:
    row, _ = service.update_client_roots(OPERATOR, AUTHORITY.pem + Authority("Second").pem)
    assert row.client_roots.count("BEGIN CERTIFICATE") == 2
    assert read_endpoint_tls(None)[1].client_roots.decode() == row.client_roots  # type: ignore[index]
    service.update_client_roots(OPERATOR, "")
    assert read_endpoint_tls(None)[1].client_roots == b""  # type: ignore[index]


@pytest.mark.parametrize("pem", ["nonsense", AUTHORITY.issue(HOST).chain, Authority("Old", days=-1).pem])
def test_what_are_no_roots(pem: str) -> None:
    with pytest.raises(ValidationFailed):
        service.update_client_roots(OPERATOR, pem)


def test_confirmation_by_node() -> None:
    serve("a", "default")
    assert [each.confirmed for each in service.node_certificates()] == [True]
    row = install()
    assert [each.confirmed for each in service.wait_for_nodes(0)] == [False]
    serve("a", row=row)
    serve("b", row=row, trouble="it did not come up")
    assert {each.node: each.confirmed for each in service.wait_for_nodes(0)} == {"a": True, "b": False}
    serve("b", row=row)
    service.update_client_roots(OPERATOR, AUTHORITY.pem)
    assert [each.confirmed for each in service.node_certificates()] == [False, False]
    roots = EndpointTls.objects.get().client_roots
    serve("b", row=row, client_roots=endpoint_tls.describe(_with_roots(roots)).client_roots)
    assert {each.node: each.confirmed for each in service.node_certificates()} == {"a": False, "b": True}


def _with_roots(roots: str) -> endpoint_tls.Material:
    issued = AUTHORITY.issue(HOST)
    return endpoint_tls.Material("installed", issued.chain.encode(), b"", roots.encode())


@pytest.mark.parametrize(
    ("days", "alarm"), [(31, None), (29.9, 30), (13.9, 14), (6.9, 7), (0.9, 1), (-0.1, 0)]
)
def test_the_end_is_told_in_time(days: float, alarm: int | None) -> None:
    row = install()
    assert row.not_after is not None
    now = row.not_after - timedelta(days=days)
    (expiry,) = service.expiries(now)
    assert expiry.alarm_days == alarm
    assert bool(service.certificate_problems(now)) is (alarm is not None)


def test_a_nodes_own_certificate_renews_itself_until_it_does_not() -> None:
    serve("a", "default")
    now = datetime.now(UTC)
    assert service.certificate_problems(now + timedelta(days=40)) == []
    assert "a (default)" in service.certificate_problems(now + timedelta(days=54))[0]


def test_keeper_writes_what_is_served_and_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    serve("a", "default")
    offered: list[wire.EndpointTls] = []
    keeper = EndpointKeeper("a", offer=offered.append, failed=lambda error: None)
    keeper._look()
    assert offered == [wire.EndpointTls()]
    keeper._look()
    assert len(offered) == 1
    row = install()
    keeper._look()
    assert offered[-1].certificate.decode() == row.chain
    keeper.served(wire.CertificateServed("installed", fingerprint=row.fingerprint))
    keeper._write()
    assert Node.objects.get(name="a").certificate["fingerprint"] == row.fingerprint
    keeper.served(None)
    keeper._write()
    assert Node.objects.get(name="a").certificate == {}


def test_export_for_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        service.export_certificate(OPERATOR)
    row = install()
    from vault import startup

    monkeypatch.setattr(startup, "check_root_key", lambda: None)
    target = tmp_path / "xks.pem"
    call_command("xks_certificate_export", str(target), skip_checks=True)
    text = target.read_text()
    assert text.startswith(row.chain)
    assert "PRIVATE KEY" in text
    assert target.stat().st_mode & 0o777 == 0o600
    assert AuditEvent.objects.filter(action="xks:certificate:export").exists()


def test_keystead_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from vault import startup

    monkeypatch.setattr(startup, "run_checks", list)
    monkeypatch.setattr(startup, "check_database", lambda **given: None)
    install()
    call_command("check")
    assert "days left" in capsys.readouterr().out
    install(ends=timedelta(days=6))
    with pytest.raises(SystemExit) as stop:
        call_command("check")
    assert stop.value.code == 1
    assert "ends in" in capsys.readouterr().out
