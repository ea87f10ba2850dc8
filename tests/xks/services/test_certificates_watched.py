"""Certificates of the endpoint as metrics, the list of what needs attention and the doctor tell of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from django.utils import timezone

from tests.xks.services.test_certificates import AUTHORITY, HOST, OPERATOR, install, serve
from vault.attention import Severity
from vault.models import Node
from xks import tls
from xks.metrics_database import DatabaseMetrics
from xks.services import certificates as service
from xks.services import doctor
from xks.services.attention import certificate_items

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _root_key(cast: Any) -> None:
    """An installation with a root key, and people."""


def samples(metrics: DatabaseMetrics) -> dict[str, float]:
    metrics._found = list(metrics._ask())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


END = "keystead_xks_certificate_expiry_timestamp_seconds"
ENDS = "keystead_xks_certificates_expiry_timestamp_seconds"


def test_metrics_tell_of_what_this_node_serves_and_of_all_that_ends(tmp_path: Path) -> None:
    tls.ensure_certificate(tmp_path)
    own = tls.certificate_files(tmp_path).certificate
    metrics = DatabaseMetrics(node_name="node-a", journal_folder=None, certificate=own)
    before = x509.load_pem_x509_certificate(own.read_bytes()).not_valid_after_utc
    assert samples(metrics)[END] == before.timestamp()
    row = install()
    assert row.not_after is not None
    serve("node-a", row=row)
    serve("node-b", "default", trouble="no such key")
    service.update_client_roots(OPERATOR, AUTHORITY.pem)
    found = samples(metrics)
    assert found[END] == row.not_after.timestamp()
    assert found["keystead_xks_certificate_trouble"] == 0
    assert found[f"{ENDS} the installed certificate"] == row.not_after.timestamp()
    assert f"{ENDS} the certificate of node node-b (default)" in found
    assert any(name.startswith(f"{ENDS} the clients' root") for name in found)
    serve("node-a", row=row, trouble="no such key")
    assert samples(metrics)["keystead_xks_certificate_trouble"] == 1


def items(now: datetime) -> list[tuple[str, Severity, str]]:
    return [(item.kind, item.severity, item.target_name) for item in certificate_items(OPERATOR, now)]


def test_what_ends_needs_attention() -> None:
    now = timezone.now()
    row = install()
    assert row.not_after is not None
    serve("node-a", row=row)
    installed = "the installed certificate"
    for days, told in (
        (31, []),
        (29, [("certificate.ends", Severity.WARNING, installed)]),
        (6, [("certificate.ends", Severity.CRITICAL, installed)]),
        (-1, [("certificate.ended", Severity.CRITICAL, installed)]),
    ):
        assert items(row.not_after - timedelta(days=days)) == told
    Node.objects.all().delete()
    serve("node-b", row=row, trouble="no such key")
    assert items(now)[-1] == ("certificate.not_served", Severity.CRITICAL, "node-b")


def test_a_root_of_clients_takes_no_key_away() -> None:
    service.update_client_roots(OPERATOR, AUTHORITY.pem)
    (each,) = service.expiries()
    (item,) = certificate_items(OPERATOR, each.not_after - timedelta(days=3))
    assert "handshake" in item.why
    assert "every key" not in item.why


def test_the_doctor_compares_with_what_nodes_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls.ensure_certificate(tmp_path)
    own = tls.certificate_files(tmp_path).certificate
    monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(own))
    monkeypatch.setenv("KEYSTEAD_XKS_TLS", "1")
    serial = x509.load_pem_x509_certificate(own.read_bytes()).serial_number
    assert list(doctor._own_certificates().values()) == [f"{serial:x}"]
    row = install()
    serve("node-a", row=row, serial="2a")
    assert doctor._own_certificates() == {row.fingerprint: "2a"}
    assert HOST in row.names
