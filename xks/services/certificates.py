"""Certificates of the XKS endpoint: asked for, installed, served, and watched for their end.

They belong to the appliance: one endpoint serves all vaults.  Private keys are wrapped under the
installation's key and leave the database only through the agents.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone

from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change, snapshot
from vault.errors import Conflict, NotFound, ValidationFailed, check_revision
from vault.keys import seal, unseal
from vault.models import GenerationChange, Node
from vault.permissions import Permission
from vault.secret import Secret
from xks import certificate_checks as checks
from xks.models import EndpointCertificate, EndpointTls

State = EndpointCertificate.State
KEY_TYPES = ("ECDSA P-256", "RSA 3072")
MAX_NAMES = 50
WARN_DAYS = (30, 14, 7, 1)
"""Days before the end at which it is said again."""
WAIT_S = 10.0
_SHOWN = ("state", "names", "key_type", "subject", "issuer", "serial", "fingerprint", "not_after")
_TLS_ID = UUID(int=1)  # the one row of EndpointTls, in the log of changes


def endpoint_host() -> str:
    """The host name that AWS is told to call."""
    return urlsplit(settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT).hostname or ""


def certificates(actor: Actor) -> QuerySet[EndpointCertificate]:
    """All of them, newest first. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_NODES)
    return EndpointCertificate.objects.all()


def fetch_certificate(actor: Actor, certificate_id: UUID) -> EndpointCertificate:
    """One of them. Raises NotFound, PermissionDenied."""
    return _fetch(certificates(actor), certificate_id)


def fetch_endpoint_tls(actor: Actor) -> EndpointTls:
    """How the endpoint serves TLS; unsaved when nobody ever said. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_NODES)
    return EndpointTls.objects.filter(pk=1).first() or EndpointTls()


def check_certificate(actor: Actor, chain: str, private_key: Secret) -> checks.Report:
    """Look at a chain and key without installing them. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
    return checks.examine(chain, private_key.reveal(), endpoint_host())


def request_certificate(
    actor: Actor, *, names: Sequence[str] = (), key_type: str = KEY_TYPES[0]
) -> EndpointCertificate:
    """Make a key, which never leaves, and the request (CSR) for a CA to sign. Without names: for the endpoint's host.

    Raises ValidationFailed, PermissionDenied.
    """
    names = [name.strip().lower() for name in names] or [endpoint_host()]
    if key_type not in KEY_TYPES:
        raise ValidationFailed(f"A key is one of {', '.join(KEY_TYPES)}.", field="key_type")
    if len(names) > MAX_NAMES:
        raise ValidationFailed(f"At most {MAX_NAMES} names.", field="names")
    if not any(checks.fits(name, endpoint_host()) for name in names):
        raise ValidationFailed(
            f"None of these names is the endpoint's host {endpoint_host()}.",
            field="names",
            cure="Add it, or a wildcard of its domain; or change KEYSTEAD_XKS_PUBLIC_ENDPOINT.",
        )
    key: checks.PrivateKey
    if key_type == "RSA 3072":
        key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    try:
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    except ValueError:
        raise ValidationFailed(
            "A name is a host name of at most 64 characters for the first one, internationalised ones in their xn-- form.",
            field="names",
        ) from None
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    with change(actor) as tx:
        actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
        row = EndpointCertificate(
            state=State.PENDING,
            names=list(names),
            key_type=key_type,
            subject=subject.rfc4514_string(),
            request=signed.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        )
        seal(row, "private_key", _pkcs8(key))
        row.save(force_insert=True)
        tx.audit(Action.CERTIFICATE_REQUEST, row, after=snapshot(row, *_SHOWN))
    return row


def install_certificate(actor: Actor, *, chain: str, private_key: Secret) -> tuple[EndpointCertificate, int]:
    """Install a chain with its key and serve it; returns the generation to wait for.

    Raises ValidationFailed with everything that is wrong, PermissionDenied.
    """
    actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
    report = _examined(chain, private_key)
    with change(actor) as tx:
        row = EndpointCertificate(state=State.REPLACED)
        seal(row, "private_key", _pkcs8(report.usable_key))
        _describe(row, report)
        row.save(force_insert=True)
        tx.audit(Action.CERTIFICATE_INSTALL, row, after=snapshot(row, *_SHOWN))
        _serve(tx, row)
    return row, tx.generation or 0


def complete_certificate(
    actor: Actor, certificate_id: UUID, *, chain: str, expected_revision: int | None = None
) -> tuple[EndpointCertificate, int]:
    """Add the signed chain to a key that was made here, and serve it; returns the generation to wait for.

    Raises NotFound, Conflict, StaleRevision, ValidationFailed, PermissionDenied.
    """
    with change(actor) as tx:
        actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
        row = _fetch(EndpointCertificate.objects.select_for_update(), certificate_id)
        check_revision(row, expected_revision)
        if row.state != State.PENDING:
            raise Conflict("It has its chain already.", cure="Request or install another one.")
        before = snapshot(row, *_SHOWN)
        _describe(row, _examined(chain, unseal(row, "private_key")))
        row.state = State.REPLACED
        row.revision += 1
        row.save()
        tx.audit(Action.CERTIFICATE_INSTALL, row, before=before, after=snapshot(row, *_SHOWN))
        _serve(tx, row)
    return row, tx.generation or 0


def activate_certificate(
    actor: Actor, certificate_id: UUID, *, expected_revision: int | None = None
) -> tuple[EndpointCertificate, int]:
    """Serve one that was replaced again, after looking at it again; returns the generation to wait for.

    Raises NotFound, Conflict, StaleRevision, ValidationFailed, PermissionDenied.
    """
    with change(actor) as tx:
        actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
        row = _fetch(EndpointCertificate.objects.select_for_update(), certificate_id)
        check_revision(row, expected_revision)
        if row.state != State.REPLACED:
            raise Conflict(
                "It is served already." if row.state == State.ACTIVE else "It has no chain yet.",
                cure="" if row.state == State.ACTIVE else "Upload the chain that the CA has signed.",
            )
        _examined(row.chain, unseal(row, "private_key"))
        _serve(tx, row)
        tx.audit(Action.CERTIFICATE_ACTIVATE, row, after=snapshot(row, *_SHOWN))
    return row, tx.generation or 0


def delete_certificate(actor: Actor, certificate_id: UUID, *, expected_revision: int | None = None) -> int:
    """Delete a certificate with its key; when it is served, nodes go back to their own. Returns the generation.

    Raises NotFound, StaleRevision, PermissionDenied.
    """
    with change(actor) as tx:
        actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
        row = _fetch(EndpointCertificate.objects.select_for_update(), certificate_id)
        check_revision(row, expected_revision)
        if row.state == State.ACTIVE:
            _tell_agents(tx)
        tx.audit(Action.CERTIFICATE_DELETE, row, before=snapshot(row, *_SHOWN))
        row.delete()
    return tx.generation or 0


def update_client_roots(
    actor: Actor, pem: str, *, expected_revision: int | None = None
) -> tuple[EndpointTls, int]:
    """Ask clients for a certificate of these CAs (PEM), or ("") ask for none; returns the generation to wait for.

    Raises ValidationFailed, StaleRevision, PermissionDenied.
    """
    roots: list[x509.Certificate] = []
    if pem.strip():
        try:
            roots = checks.read_certificates(pem)
        except ValueError:
            raise ValidationFailed(
                "These are no certificates in PEM.",
                field="client_roots",
                cure="Give the CAs' certificates as -----BEGIN CERTIFICATE----- blocks; empty text asks for none.",
            ) from None
        now = datetime.now(UTC)
        for each in roots:
            name = each.subject.rfc4514_string()
            if not checks.is_authority(each):
                raise ValidationFailed(f"{name} is no CA.", field="client_roots")
            if each.not_valid_after_utc <= now:
                raise ValidationFailed(f"{name} has ended.", field="client_roots")
    with change(actor) as tx:
        actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
        row, _ = EndpointTls.objects.select_for_update().get_or_create(pk=1)
        check_revision(row, expected_revision)
        before = _root_names(row.client_roots)
        row.client_roots = checks.pem_of(roots)
        row.save(update_fields=["client_roots", "updated_at"])
        _tell_agents(tx)
        tx.audit(
            Action.CLIENT_ROOTS_UPDATE,
            row,
            before={"client_roots": before},
            after={"client_roots": _root_names(row.client_roots)},
        )
    row.refresh_from_db()
    return row, tx.generation or 0


def export_certificate(actor: Actor) -> tuple[str, Secret]:
    """Return chain and private key of the certificate that is served, for a front that ends TLS itself.

    Raises NotFound, PermissionDenied.
    """
    with change(actor) as tx:
        actor.require(Permission.APPLIANCE_MANAGE_CERTIFICATES)
        row = EndpointCertificate.objects.filter(state=State.ACTIVE).first()
        if row is None:
            raise NotFound("No certificate is installed.", cure="keystead xks certificate install")
        tx.audit(Action.CERTIFICATE_EXPORT, row)
        return row.chain, unseal(row, "private_key")


# --- what nodes serve, and until when --------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeCertificate:
    """What one living node serves, as it says itself (xks.wire.CertificateServed)."""

    node: str
    served: dict[str, Any]
    confirmed: bool
    """Whether it serves what is installed (or, with nothing installed, its own), asking for the clients' roots."""


def node_certificates(*, max_age_s: float | None = None) -> list[NodeCertificate]:
    """What each node that is alive serves."""
    bound = settings.KEYSTEAD_XKS_MAX_STALENESS if max_age_s is None else max_age_s
    active = (
        EndpointCertificate.objects.filter(state=State.ACTIVE).values_list("fingerprint", flat=True).first()
    )
    roots = EndpointTls.objects.filter(pk=1).values_list("client_roots", flat=True).first() or ""
    wanted_roots = roots_fingerprint(roots)
    found = []
    for node in Node.objects.filter(
        deregistered_at=None, last_seen_at__gte=timezone.now() - timedelta(seconds=bound)
    ):
        served = node.certificate if isinstance(node.certificate, dict) else {}
        right = served.get("fingerprint") == active if active else served.get("source") == "default"
        found.append(
            NodeCertificate(
                node.name,
                served,
                bool(right and not served.get("trouble") and served.get("client_roots", "") == wanted_roots),
            )
        )
    return found


def wait_for_nodes(timeout_s: float = WAIT_S) -> list[NodeCertificate]:
    """Wait until every living node serves what is installed, so long at most. Call outside any transaction."""
    until = time.monotonic() + timeout_s
    while True:
        found = node_certificates()
        if all(each.confirmed for each in found) or time.monotonic() >= until:
            return found
        time.sleep(0.05)


@dataclass(frozen=True)
class Expiry:
    """A certificate that is in use, or meant to be, and its end."""

    what: str
    fingerprint: str
    not_after: datetime
    days_left: float
    alarm_days: int | None
    """The least of WARN_DAYS that has been reached, 0 once it has ended; None while there is time."""
    renews_itself: bool = False
    of_clients: bool = False
    """Not served, but what clients' certificates must stand under."""


def expiries(now: datetime | None = None) -> list[Expiry]:
    """The installed certificate, what each living node serves, and the clients' roots: for metrics and alarms."""
    now = now or datetime.now(UTC)
    found: dict[str, Expiry] = {}
    row = EndpointCertificate.objects.filter(state=State.ACTIVE).first()
    if row is not None and row.not_after is not None:
        found[row.fingerprint] = _expiry("the installed certificate", row.fingerprint, row.not_after, now)
    for each in node_certificates():
        fingerprint, end = each.served.get("fingerprint", ""), each.served.get("not_after", "")
        if fingerprint and end and fingerprint not in found:
            own = each.served.get("source") == "default"
            what = f"the certificate of node {each.node} ({each.served.get('source')})"
            found[fingerprint] = _expiry(what, fingerprint, datetime.fromisoformat(end), now, own=own)
    roots = EndpointTls.objects.filter(pk=1).values_list("client_roots", flat=True).first() or ""
    for root in checks.read_certificates(roots) if roots else []:
        name = f"the clients' root {checks.common_name(root)}"
        mark = root.fingerprint(hashes.SHA256()).hex()
        found[mark] = _expiry(name, mark, root.not_valid_after_utc, now, of_clients=True)
    return sorted(found.values(), key=lambda each: each.not_after)


def certificate_problems(now: datetime | None = None) -> list[str]:
    """Return what an operator must act upon, in words; nothing when all is well."""
    problems = []
    for each in expiries(now):
        if each.alarm_days is None or (each.renews_itself and each.days_left > 7):
            continue
        if each.days_left <= 0:
            problems.append(
                f"{each.what} ended at {each.not_after:%Y-%m-%d %H:%M} UTC. Install another one now."
            )
        else:
            problems.append(
                f"{each.what} ends in {each.days_left:.1f} days, at {each.not_after:%Y-%m-%d %H:%M} UTC. "
                "Renew it: keystead xks certificate request, or install."
            )
    for node in node_certificates():
        trouble = node.served.get("trouble")
        if trouble:
            problems.append(f"node {node.node} does not serve the newest certificate: {trouble}")
    return problems


# --- parts ----------------------------------------------------------------------------------------------------


def roots_fingerprint(pem: str) -> str:
    """What a node says of the clients' roots that it asks for."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(pem.encode())
    return digest.finalize().hex() if pem else ""


def _expiry(
    what: str,
    fingerprint: str,
    end: datetime,
    now: datetime,
    *,
    own: bool = False,
    of_clients: bool = False,
) -> Expiry:
    left = (end - now).total_seconds() / 86400
    reached = [days for days in WARN_DAYS if left <= days]
    alarm = None if not reached else (0 if left <= 0 else min(reached))
    return Expiry(what, fingerprint, end, left, alarm, own, of_clients)


def _fetch(rows: QuerySet[EndpointCertificate], certificate_id: UUID) -> EndpointCertificate:
    row = rows.filter(pk=certificate_id).first()
    if row is None:
        raise NotFound("There is no such certificate.")
    return row


def _examined(chain: str, private_key: Secret) -> checks.Report:
    report = checks.examine(chain, private_key.reveal(), endpoint_host())
    if report.errors:
        raise ValidationFailed(
            " ".join(problem.message for problem in report.errors),
            errors=[
                {"field": each.field, "message": each.message, "cure": each.cure} for each in report.errors
            ],
        )
    return report


def _describe(row: EndpointCertificate, report: checks.Report) -> None:
    leaf = report.leaf
    row.chain = checks.pem_of(report.chain)
    row.names = checks.alternative_names(leaf)
    row.key_type = checks.describe_key(report.usable_key)
    row.subject, row.issuer = leaf.subject.rfc4514_string(), leaf.issuer.rfc4514_string()
    row.serial = f"{leaf.serial_number:x}"
    row.fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
    row.not_before, row.not_after = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    row.aws_trusted, row.warnings = report.aws_trusted, report.warnings


def _serve(tx: Change, row: EndpointCertificate) -> None:
    EndpointCertificate.objects.filter(state=State.ACTIVE).exclude(pk=row.pk).update(
        state=State.REPLACED, revision=F("revision") + 1
    )
    row.state, row.activated_at = State.ACTIVE, timezone.now()
    row.revision += 1
    row.save()
    _tell_agents(tx)


def _tell_agents(tx: Change) -> None:
    EndpointTls.objects.get_or_create(pk=1)
    EndpointTls.objects.filter(pk=1).update(revision=F("revision") + 1)
    tx.touch(GenerationChange.Kind.TLS, _TLS_ID)


def _root_names(pem: str) -> list[str]:
    return [each.subject.rfc4514_string() for each in checks.read_certificates(pem)] if pem else []


def _pkcs8(key: checks.PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
