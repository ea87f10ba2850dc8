"""/api/v1/certificates and /api/v1/xks-endpoint/tls: what the XKS endpoint serves TLS with."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice
from vault.api.serializers import SecretField, StrictSerializer
from xks import certificate_checks as checks
from xks.models import EndpointCertificate, EndpointTls
from xks.services import certificates as service

TAG = "Certificates"
MAX_PEM = checks.MAX_PEM_CHARACTERS


class CertificateSerializer(serializers.ModelSerializer[EndpointCertificate]):
    """A certificate, or a request for one. Its private key is never shown."""

    days_left = serializers.SerializerMethodField(help_text="Until its end; null without a chain.")

    def get_days_left(self, row: EndpointCertificate) -> float | None:
        """Days, with a fraction; negative once it has ended."""
        if row.not_after is None:
            return None
        left: float = (row.not_after - timezone.now()).total_seconds() / 86400
        return round(left, 2)

    class Meta:
        model = EndpointCertificate
        fields = (
            "id", "state", "names", "key_type", "subject", "issuer", "serial", "fingerprint", "not_before",
            "not_after", "days_left", "aws_trusted", "warnings", "request", "chain", "revision",
            "created_at", "updated_at", "activated_at",
        )  # fmt: skip


class CertificateRequest(StrictSerializer):
    """What a CA is to certify."""

    names = serializers.ListField(
        child=serializers.CharField(max_length=253),
        required=False,
        max_length=service.MAX_NAMES,
        help_text="Host names, wildcards allowed; the first becomes the CN. Default: the endpoint's host.",
    )
    key_type = serializers.ChoiceField(
        choices=service.KEY_TYPES, required=False, help_text="Default: ECDSA P-256."
    )


class ChainRequest(StrictSerializer):
    """A signed chain."""

    chain = serializers.CharField(
        max_length=MAX_PEM, help_text="PEM, leaf first; on the command line a file."
    )


class InstallRequest(ChainRequest):
    """A chain and its key."""

    private_key = SecretField(max_length=MAX_PEM, help_text="PEM, not encrypted.")


class TlsChanges(StrictSerializer):
    """Who may connect."""

    client_roots = serializers.CharField(
        max_length=MAX_PEM,
        allow_blank=True,
        required=False,
        help_text="PEM of the CAs under which clients must show a certificate; empty: none is asked for.",
    )


class NodeCertificateSerializer(serializers.Serializer[service.NodeCertificate]):
    """What a node says that it serves."""

    node = serializers.CharField()
    confirmed = serializers.BooleanField(help_text="It serves what is installed.")
    served = serializers.DictField()


class ServedSerializer(serializers.Serializer[Any]):
    """A certificate, and which nodes serve it already."""

    certificate = CertificateSerializer()
    nodes = NodeCertificateSerializer(many=True)


class NodesSerializer(serializers.Serializer[Any]):
    """Which nodes serve what is installed."""

    nodes = NodeCertificateSerializer(many=True)


class CertificateFindingSerializer(serializers.Serializer[checks.Problem]):
    """Something that keeps the certificate from being served."""

    field = serializers.CharField()
    message = serializers.CharField()
    cure = serializers.CharField(allow_blank=True)


class CheckSerializer(serializers.Serializer[checks.Report]):
    """What the checks say."""

    errors = CertificateFindingSerializer(many=True)  # type: ignore[assignment] # the word of the API
    warnings = serializers.ListField(child=serializers.CharField())
    aws_trusted = serializers.BooleanField(help_text="The chain leads to a CA of AWS's list.")


class TlsSerializer(serializers.Serializer[Any]):
    """How the endpoint serves TLS."""

    host = serializers.CharField(help_text="The host of KEYSTEAD_XKS_PUBLIC_ENDPOINT.")
    certificate = CertificateSerializer(allow_null=True, help_text="Null: every node serves its own.")
    client_roots = serializers.CharField(allow_blank=True)
    nodes = NodeCertificateSerializer(many=True)
    problems = serializers.ListField(child=serializers.CharField())
    revision = serializers.IntegerField()


_ID = "6f708192-a3b4-45c6-97f8-091a2b3c4d5e"
_FINGERPRINT = "9a6ec012e1a7da9dbe34194d478ad7c0db1822fb071df12981496ed104384113"
_PEM = "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n"
CERTIFICATE: dict[str, Any] = {
    "id": _ID,
    "state": "ACTIVE",
    "names": ["xks.example.com"],
    "key_type": "ECDSA P-256",
    "subject": "CN=xks.example.com",
    "issuer": "CN=Example Public CA,O=Example,C=US",
    "serial": "3b9aca07",
    "fingerprint": _FINGERPRINT,
    "not_before": "2026-11-22T00:00:00Z",
    "not_after": "2027-02-20T00:00:00Z",
    "days_left": 89.4,
    "aws_trusted": True,
    "warnings": [],
    "request": "",
    "chain": _PEM,
    "revision": 2,
    "created_at": "2026-11-22T14:00:00Z",
    "updated_at": "2026-11-22T14:00:00Z",
    "activated_at": "2026-11-22T14:00:00Z",
}
PENDING = {
    **CERTIFICATE,
    "state": "PENDING",
    "issuer": "",
    "serial": "",
    "fingerprint": "",
    "not_before": None,
    "not_after": None,
    "days_left": None,
    "aws_trusted": False,
    "request": "-----BEGIN CERTIFICATE REQUEST-----\nMIIB...\n-----END CERTIFICATE REQUEST-----\n",
    "chain": "",
    "revision": 1,
    "activated_at": None,
}
NODES = [
    {
        "node": "xks-a",
        "confirmed": True,
        "served": {"source": "installed", "serial": "3b9aca07", "fingerprint": _FINGERPRINT},
    }
]
SERVED = {"certificate": CERTIFICATE, "nodes": NODES}
_KEY = "-----BEGIN PRIVATE KEY-----\nMIGH...\n-----END PRIVATE KEY-----\n"
CERTIFICATES = Listing(
    orderings={"created_at": "created_at"},
    default_ordering="-created_at",
    filters=(choice("state", "state", EndpointCertificate.State.values, "Served, kept, or waiting."),),
    in_vault=False,
)


def _served(row: EndpointCertificate) -> dict[str, Any]:
    return dict(ServedSerializer({"certificate": row, "nodes": service.wait_for_nodes()}).data)


def _replayed(request: Any, made: Made) -> dict[str, Any]:
    return dict(
        CertificateSerializer(service.fetch_certificate(request.actor, UUID(str(made.target_id)))).data
    )


class CertificateList(ApiView):
    """certificates"""

    @operation(
        "certificates_list",
        summary="List certificates of the XKS endpoint",
        description="The one that is served, those before it, and requests that wait for their signed chain.",
        tag=TAG,
        response=CertificateSerializer,
        example=CERTIFICATE,
        listing=CERTIFICATES,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        return page(request, service.certificates(request.actor), CERTIFICATES, CertificateSerializer)

    @operation(
        "certificates_install",
        summary="Install a certificate with its key and serve it",
        description="Checked first: chain, order, host name, key, dates, usage, algorithms; `warnings` tell what AWS would"
        " refuse. Nodes change over without failing a request; the answer waits up to 10 seconds for them and says"
        " which have.",
        tag=TAG,
        request=InstallRequest,
        request_example={"chain": _PEM, "private_key": _KEY},
        response=ServedSerializer,
        example=SERVED,
    )
    def post(self, request: Any) -> Response:
        """POST"""
        row, _ = service.install_certificate(request.actor, **request.data_in)
        return detail(row, _served(row))


class CertificateRequests(ApiView):
    """certificates/requests"""

    @operation(
        "certificates_request",
        summary="Make a key and a request for a certificate",
        description="The key stays in Keystead. Give `request` to a public CA that AWS trusts, and upload the chain that"
        " it signs.",
        tag=TAG,
        status=201,
        request=CertificateRequest,
        request_example={"names": ["xks.example.com"], "key_type": "ECDSA P-256"},
        response=CertificateSerializer,
        example=PENDING,
        replay=Replay(EndpointCertificate, _replayed),
    )
    def post(self, request: Any) -> Response:
        """POST"""
        row = service.request_certificate(request.actor, **request.data_in)
        return created(row, CertificateSerializer(row).data, location=f"/api/v1/certificates/{row.pk}")


class CertificateCheck(ApiView):
    """certificates/check"""

    @operation(
        "certificates_check",
        summary="Check a certificate without installing it",
        description="Everything that installing it would check; nothing is stored.",
        tag=TAG,
        request=InstallRequest,
        request_example={"chain": _PEM, "private_key": _KEY},
        response=CheckSerializer,
        example={"errors": [], "warnings": [], "aws_trusted": True},
    )
    def post(self, request: Any) -> Response:
        """POST"""
        return Response(CheckSerializer(service.check_certificate(request.actor, **request.data_in)).data)


class CertificateDetail(ApiView):
    """certificates/{id}"""

    @operation(
        "certificates_show",
        summary="Show a certificate",
        description="With its chain and, while it waits, its request; never its key.",
        tag=TAG,
        response=CertificateSerializer,
        example=CERTIFICATE,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, certificate_id: UUID) -> Response:
        """GET"""
        row = service.fetch_certificate(request.actor, certificate_id)
        return detail(row, CertificateSerializer(row).data)

    @operation(
        "certificates_delete",
        summary="Delete a certificate with its key",
        description="When it is served, each node goes back to the certificate that it makes for itself, which AWS does not"
        " accept.",
        tag=TAG,
        response=NodesSerializer,
        example={"nodes": NODES},
        errors=(404,),
        if_match="optional",
    )
    def delete(self, request: Any, certificate_id: UUID) -> Response:
        """DELETE"""
        service.delete_certificate(request.actor, certificate_id, expected_revision=request.expected)
        return Response(NodesSerializer({"nodes": service.wait_for_nodes()}).data)


class CertificateChain(ApiView):
    """certificates/{id}/chain"""

    @operation(
        "certificates_complete",
        summary="Upload the signed chain of a request and serve it",
        description="Checked as an installed one is.",
        tag=TAG,
        request=ChainRequest,
        request_example={"chain": _PEM},
        response=ServedSerializer,
        example=SERVED,
        errors=(404,),
        if_match="optional",
        etag=True,
    )
    def post(self, request: Any, certificate_id: UUID) -> Response:
        """POST"""
        row, _ = service.complete_certificate(
            request.actor, certificate_id, **request.data_in, expected_revision=request.expected
        )
        return detail(row, _served(row))


class CertificateActivate(ApiView):
    """certificates/{id}/activate"""

    @operation(
        "certificates_activate",
        summary="Serve a certificate that was replaced again",
        description="The way back when a new one does not work. It is checked again first.",
        tag=TAG,
        response=ServedSerializer,
        example=SERVED,
        errors=(404,),
        if_match="optional",
        etag=True,
    )
    def post(self, request: Any, certificate_id: UUID) -> Response:
        """POST"""
        row, _ = service.activate_certificate(
            request.actor, certificate_id, expected_revision=request.expected
        )
        return detail(row, _served(row))


def _tls(row: EndpointTls, *, wait: bool = False) -> dict[str, Any]:
    active = EndpointCertificate.objects.filter(state=EndpointCertificate.State.ACTIVE).first()
    data = {
        "host": service.endpoint_host(),
        "certificate": active,
        "client_roots": row.client_roots,
        "nodes": service.wait_for_nodes() if wait else service.node_certificates(),
        "problems": service.certificate_problems(),
        "revision": row.revision,
    }
    return dict(TlsSerializer(data).data)


_TLS = {
    "host": "xks.example.com",
    "certificate": CERTIFICATE,
    "client_roots": "",
    "nodes": NODES,
    "problems": [],
    "revision": 3,
}


class EndpointTlsDetail(ApiView):
    """xks-endpoint/tls"""

    @operation(
        "xks_endpoint_tls_show",
        summary="Show how the XKS endpoint serves TLS",
        description="The certificate, the clients' roots, what each node serves, and what needs an operator.",
        tag=TAG,
        response=TlsSerializer,
        example=_TLS,
        etag=True,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        row = service.fetch_endpoint_tls(request.actor)
        return detail(row, _tls(row))

    @operation(
        "xks_endpoint_tls_update",
        summary="Set the CAs under which clients must show a certificate",
        description="A client without a certificate of these CAs, or with one that has ended, fails at the handshake."
        " Only the chain is looked at here; AWS's common name (cks.kms.<region>.amazonaws.com) is checked by the HAProxy"
        " front that comes with Keystead (docs/haproxy.md). Effective on every node without a restart.",
        tag=TAG,
        request=TlsChanges,
        request_example={"client_roots": _PEM},
        response=TlsSerializer,
        example=_TLS,
        if_match="optional",
        etag=True,
    )
    def patch(self, request: Any) -> Response:
        """PATCH"""
        if "client_roots" in request.data_in:
            row, _ = service.update_client_roots(
                request.actor, request.data_in["client_roots"], expected_revision=request.expected
            )
        else:
            row = service.fetch_endpoint_tls(request.actor)
        return detail(row, _tls(row, wait=True))
