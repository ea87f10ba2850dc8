"""The pages of certificates, for the appliance admin."""

from __future__ import annotations

import pytest
from cryptography import x509
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from tests.xks.pki import Authority
from tests.xks.services.test_certificates import serve
from vault.models import AuditEvent
from xks.models import EndpointCertificate, EndpointTls
from xks.services.certificates import endpoint_host

LIST = "/appliance/certificates/"
AUTHORITY = Authority()


@pytest.mark.parametrize("who", WHO)
def test_the_appliance_admin_alone(cast: Cast, who: str) -> None:
    browser = Browser(cast, who)
    expected = 200 if who == "appliance" else 302 if who == "anonymous" else 404
    for name in ("certificates", "certificate-install", "certificate-request", "client-roots"):
        assert browser.get(reverse(name)).status_code == expected, name


def test_checked_then_installed_and_confirmed_node_by_node(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = reverse("certificate-install")
    assert "No certificate is installed." in text_of(admin.get(LIST))
    issued, other = AUTHORITY.issue(endpoint_host()), AUTHORITY.issue("other.test")
    wrong = admin.send(url, chain=other.chain, private_key=issued.key_pem, do="check")
    assert wrong.status_code == 422
    assert "not for the endpoint's host" in text_of(wrong)
    assert "does not belong to the certificate" in text_of(wrong)
    secret_line = issued.key_pem.splitlines()[1].encode()
    assert secret_line not in wrong.content
    good = admin.send(url, chain=issued.chain, private_key=issued.key_pem, do="check")
    assert good.status_code == 200
    assert secret_line not in good.content
    text = text_of(good)
    assert "Right: The private key belongs to it" in text
    assert "Warning:" in text
    assert not EndpointCertificate.objects.exists()
    assert admin.send(url, chain="", private_key="", do="install").status_code == 422
    answer = admin.send(url, chain=issued.chain, private_key=issued.key_pem, do="install")
    assert (answer.status_code, answer["Location"]) == (303, LIST)
    row = EndpointCertificate.objects.get()
    assert row.state == "ACTIVE"
    assert AuditEvent.objects.filter(action="xks:certificate:install", via="web").exists()
    serve("xks-a", row=row)
    serve("xks-b", source="default")
    part = admin.get(LIST, target="nodes")
    assert b'hx-trigger="every 1s"' in part.content
    assert "1 of 2 have confirmed" in text_of(part)
    serve("xks-b", row=row)
    assert "Every node serves what it should." in text_of(admin.get(LIST, target="nodes"))


def test_files_stand_for_text_and_keys_never_come_back(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = reverse("certificate-install")
    issued = AUTHORITY.issue(endpoint_host())
    binary = SimpleUploadedFile("chain.der", b"\xff\xfe")
    refused = admin.send(url, chain="", chain_file=binary, private_key="", do="install")
    assert "This file is no text" in text_of(refused)
    answer = admin.send(
        url, chain="", chain_file=SimpleUploadedFile("chain.pem", issued.chain.encode()),
        private_key="", private_key_file=SimpleUploadedFile("key.pem", issued.key_pem.encode()), do="install",
    )  # fmt: skip
    assert answer.status_code == 303, text_of(answer)
    row = EndpointCertificate.objects.get()
    for page in (LIST, reverse("certificate", args=[row.pk])):
        assert b"PRIVATE KEY" not in admin.get(page).content


def test_a_request_is_made_signed_and_served(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = reverse("certificate-request")
    refused = admin.send(url, names="elsewhere.test", key_type="ECDSA P-256")
    assert refused.status_code == 422
    assert "None of these names is the endpoint's host" in text_of(refused)
    made = admin.send(url, names=endpoint_host(), key_type="ECDSA P-256")
    row = EndpointCertificate.objects.get()
    assert made["Location"] == reverse("certificate", args=[row.pk])
    page = admin.get(made["Location"])
    assert b"BEGIN CERTIFICATE REQUEST" in page.content
    assert x509.load_pem_x509_csr(row.request.encode()).is_signature_valid
    foreign = admin.send(made["Location"], chain=AUTHORITY.issue(endpoint_host()).chain)
    assert foreign.status_code == 422
    assert "does not belong to the certificate" in text_of(foreign)
    assert "Waiting for a signed chain" in text_of(admin.get(LIST))


def test_an_older_one_is_served_again_and_the_served_one_deleted_by_name(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    for _ in range(2):
        issued = AUTHORITY.issue(endpoint_host())
        admin.send(
            reverse("certificate-install"), chain=issued.chain, private_key=issued.key_pem, do="install"
        )
    older = EndpointCertificate.objects.get(state="REPLACED")
    assert admin.send(reverse("certificate-activate", args=[older.pk])).status_code == 303
    older.refresh_from_db()
    assert older.state == "ACTIVE"
    url = reverse("certificate-delete", args=[older.pk])
    assert "which AWS does not accept" in text_of(admin.get(url))
    assert admin.send(url, typed_name="x").status_code == 422
    assert admin.send(url, typed_name=endpoint_host()).status_code == 303
    assert not EndpointCertificate.objects.filter(pk=older.pk).exists()


def test_clients_roots(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = reverse("client-roots")
    wrong = admin.send(url, client_roots="nonsense")
    assert wrong.status_code == 422
    assert b">\nnonsense</textarea>" in wrong.content
    assert admin.send(url, client_roots=AUTHORITY.pem).status_code == 303
    assert "CN=Test Root" in EndpointTls.objects.get().client_roots or EndpointTls.objects.get().client_roots
    assert "CN=Test Root" in text_of(admin.get(LIST))
    assert admin.send(url, client_roots="").status_code == 303
    assert EndpointTls.objects.get().client_roots == ""
