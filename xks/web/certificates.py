"""Certificates of the XKS endpoint, for the appliance admin: what is served and until when, install, request, clients' roots."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from vault.errors import Conflict
from vault.permissions import Permission
from vault.secret import Secret
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import appliance_page, can, done, page, toast
from xks import certificate_checks as checks
from xks.models import EndpointCertificate
from xks.services import certificates as service

SEE = Permission.APPLIANCE_VIEW_NODES
MANAGE = Permission.APPLIANCE_MANAGE_CERTIFICATES
MAX_PEM = checks.MAX_PEM_CHARACTERS
SOON_DAYS = 30
HELP = {
    "title": gettext_noop("What this certificate is for"),
    "words": (
        (
            gettext_noop(
                "AWS KMS calls the endpoint over TLS and trusts a published list of public "
                "authorities, and no other. The certificate must be "
                "for the endpoint's host name."
            )
        ),
        (
            gettext_noop(
                "One endpoint serves all vaults. Installed here, every node changes over within about a second and fails no request. With "
                "nothing installed each node serves a certificate of its own, which the simulator accepts and AWS does not."
            )
        ),
    ),
    "links": ((gettext_noop("Certificates"), "certificates"), (gettext_noop("HAProxy in front"), "haproxy")),
}


@dataclass(frozen=True)
class NodeRow:
    """What one node says that it serves."""

    node: str
    confirmed: bool
    source: str
    serial: str
    not_after: datetime | None
    trouble: str


_SOURCES = {
    "installed": gettext_noop("the installed one"),
    "default": gettext_noop("one of its own"),
    "file": gettext_noop("a file on that node"),
    "off": gettext_noop("none: TLS ends before it"),
}


def _node_rows() -> list[NodeRow]:
    return [
        NodeRow(
            each.node,
            each.confirmed,
            _SOURCES.get(each.served.get("source", ""), "nothing yet"),
            str(each.served.get("serial", "")),
            parse_datetime(str(each.served.get("not_after", ""))),
            str(each.served.get("trouble", "")),
        )
        for each in sorted(service.node_certificates(), key=lambda each: each.node)
    ]


def life_of(row: EndpointCertificate | None) -> str:
    """VALID, EXPIRING or EXPIRED."""
    if row is None or row.not_after is None:
        return ""
    days = (row.not_after - timezone.now()).total_seconds() / 86400
    return "EXPIRED" if days <= 0 else "EXPIRING" if days <= SOON_DAYS else "VALID"


@appliance_page(SEE, methods=("GET", "HEAD"))
def certificate_list(request: Any) -> HttpResponse:
    """GET /appliance/certificates/"""
    rows = list(service.certificates(request.actor).order_by("-created_at")[:100])
    active = next((row for row in rows if row.state == EndpointCertificate.State.ACTIVE), None)
    nodes = _node_rows()
    tls = service.fetch_endpoint_tls(request.actor)
    context = {
        "host": service.endpoint_host(),
        "active": active,
        "life": life_of(active),
        "pending": [row for row in rows if row.state == EndpointCertificate.State.PENDING],
        "kept": [(row, life_of(row)) for row in rows if row.state == EndpointCertificate.State.REPLACED],
        "nodes": nodes,
        "confirmed": sum(each.confirmed for each in nodes),
        "all_confirmed": all(each.confirmed for each in nodes),
        "problems": service.certificate_problems(),
        "roots": _roots(tls.client_roots),
        "can_manage": can(request.actor, MANAGE),
        "help": HELP,
    }
    return page(request, "xks/certificates/list.html", context, part=("nodes", "xks/certificates/nodes.html"))


def _roots(pem: str) -> list[tuple[str, datetime]]:
    found = checks.read_certificates(pem) if pem else []
    return [(each.subject.rfc4514_string(), each.not_valid_after_utc) for each in found]


# --- install ----------------------------------------------------------------------------------------------------------


class UnrepeatedTextarea(forms.Textarea):
    """Takes a secret and never sends it back: after a refusal it is empty again."""

    def format_value(self, value: object) -> str:
        """Nothing, whatever was typed."""
        return ""


class ChainForm(PageForm):
    """A signed chain, as text or as a file."""

    one_of = frozenset({"chain", "chain_file", "private_key", "private_key_file"})

    chain = forms.CharField(
        max_length=MAX_PEM,
        required=False,
        strip=False,
        label=gettext_lazy("Certificate and chain"),
        widget=forms.Textarea(attrs={"rows": "8", "spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy("PEM: the endpoint's own certificate first, then its issuers."),
    )
    chain_file = forms.FileField(required=False, label=gettext_lazy("Or as a file"), max_length=255)

    def clean(self) -> dict[str, Any]:
        """A file stands for the text."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        for name in ("chain", "private_key"):
            given = values.pop(f"{name}_file", None)
            if name not in self.fields:
                continue
            if given is not None:
                values[name] = _text_of(self, f"{name}_file", given)
            if not values.get(name) and name not in self.errors and f"{name}_file" not in self.errors:
                self.add_error(name, gettext("Paste it, or choose a file."))
        return values


def _text_of(form: PageForm, name: str, given: Any) -> str:
    if given.size > MAX_PEM:
        form.add_error(
            name,
            gettext("This file is longer than %(MAX_PEM)s bytes: it is no certificate in PEM.")
            % {"MAX_PEM": f"{MAX_PEM:,}"},
        )
        return ""
    try:
        text: str = given.read().decode("utf-8")
    except UnicodeDecodeError:
        form.add_error(
            name, gettext("This file is no text. Give PEM; openssl x509 -inform der -in FILE makes it.")
        )
        return ""
    return text


class InstallForm(ChainForm):
    """A chain with its key. The key is never shown again, not even in this form."""

    private_key = forms.CharField(
        max_length=MAX_PEM,
        required=False,
        strip=False,
        label=gettext_lazy("Private key"),
        widget=UnrepeatedTextarea(
            attrs={
                "rows": "5",
                "spellcheck": "false",
                "autocomplete": "off",
                "data-secret": "",
                "class": "mono",
            }
        ),
        help_text=gettext_lazy(
            "PEM, not encrypted. It is kept wrapped under the root key, and leaves only to the nodes. This page never "
            "shows it again: after a correction give it once more."
        ),
    )
    private_key_file = forms.FileField(required=False, label=gettext_lazy("Or as a file"), max_length=255)
    field_order = ("chain", "chain_file", "private_key", "private_key_file")


@dataclass(frozen=True)
class Check:
    """One line of what the checks say: level ok, warn or danger."""

    level: str
    words: str
    cure: str = ""


def checks_of(report: checks.Report, now: datetime | None = None) -> list[Check]:
    """A report in words: what is wrong, what AWS alone would refuse, and what is right."""
    now = now or datetime.now(UTC)
    found = [Check("danger", each.message, each.cure) for each in report.errors]
    found += [Check("warn", words) for words in report.warnings]
    if report.chain and not report.errors:
        leaf = report.leaf
        days = (leaf.not_valid_after_utc - now).days
        found += [
            Check(
                "ok",
                gettext("It is for %(alternative_names)s, the endpoint's host among them.")
                % {"alternative_names": ", ".join(checks.alternative_names(leaf))},
            ),
            Check(
                "ok",
                gettext("Good for %(days)s more days, until %(not_valid_after_utc)s UTC.")
                % {"days": days, "not_valid_after_utc": f"{leaf.not_valid_after_utc:%Y-%m-%d %H:%M}"},
            ),
            Check(
                "ok",
                gettext("The chain of %(chain)s is complete and in order.") % {"chain": len(report.chain)},
            ),
            Check(
                "ok",
                gettext("The private key belongs to it (%(describe_key)s).")
                % {"describe_key": checks.describe_key(report.usable_key)},
            ),
        ]
        if report.aws_trusted:
            found.append(Check("ok", gettext("It leads to an authority of AWS's list.")))
    return found


@appliance_page(MANAGE)
def certificate_install(request: Any) -> HttpResponse:
    """GET, POST /appliance/certificates/install/"""
    form = InstallForm(request.POST or None, request.FILES or None)
    found: list[Check] = []
    if request.method == "POST":
        checking = request.POST.get("do") == "check"
        if form.is_valid():
            values = form.values
            secret = Secret(values["private_key"])
            report = service.check_certificate(request.actor, values["chain"], secret)
            found = checks_of(report)
            if not checking:
                installed = submit(
                    request,
                    form,
                    lambda values: service.install_certificate(
                        request.actor, chain=values["chain"], private_key=secret
                    ),
                )
                if installed is not None:
                    return _installed(request)
            elif report.errors:
                form.status = 422
        else:
            form.status = 422
    context = {"form": form, "checks": found, "host": service.endpoint_host(), "help": HELP}
    return page(request, "xks/certificates/install.html", context, status=form.status)


def _installed(request: Any) -> HttpResponse:
    return done(
        request,
        reverse("certificates"),
        gettext("Installed. The nodes change over now, each as it confirms below."),
    )


# --- request ----------------------------------------------------------------------------------------------------------


class RequestForm(PageForm):
    """What an authority is to certify."""

    names = forms.CharField(
        max_length=8000,
        required=False,
        label=gettext_lazy("Host names"),
        widget=forms.Textarea(attrs={"rows": "3", "spellcheck": "false"}),
        help_text=gettext_lazy(
            "One a line; wildcards are allowed. The first becomes the common name, which AWS compares with "
            "the endpoint."
        ),
    )
    key_type = forms.ChoiceField(
        choices=[(name, name) for name in service.KEY_TYPES],
        widget=forms.RadioSelect,
        label=gettext_lazy("Key"),
    )


@appliance_page(MANAGE)
def certificate_request(request: Any) -> HttpResponse:
    """GET, POST /appliance/certificates/request/"""
    form = RequestForm(
        request.POST or None, initial={"names": service.endpoint_host(), "key_type": service.KEY_TYPES[0]}
    )
    if request.method == "POST":
        made = submit(
            request,
            form,
            lambda values: service.request_certificate(
                request.actor,
                names=[name for name in values["names"].replace(",", " ").split() if name],
                key_type=values["key_type"],
            ),
        )
        if made is not None:
            url = reverse("certificate", args=[made.pk])
            return done(
                request, url, gettext("The key is made and stays here. Give the request to your authority.")
            )
    context = {"form": form, "host": service.endpoint_host(), "help": HELP}
    return page(request, "xks/certificates/request.html", context, status=form.status)


@appliance_page(SEE)
def certificate_detail(request: Any, certificate_id: UUID) -> HttpResponse:
    """GET, POST /appliance/certificates/<id>/: a certificate; POST adds the signed chain to a request."""
    row = service.fetch_certificate(request.actor, certificate_id)
    form = ChainForm(request.POST or None, request.FILES or None, initial={"revision": row.revision})
    if request.method == "POST":
        request.actor.require(MANAGE)
        completed = submit(
            request,
            form,
            lambda values: service.complete_certificate(
                request.actor, row.pk, chain=values["chain"], expected_revision=form.expected
            ),
            target=row,
        )
        if completed is not None:
            return _installed(request)
    context = {
        "row": row,
        "form": form,
        "life": life_of(row),
        "checks": [Check("warn", words) for words in row.warnings],
        "can_manage": can(request.actor, MANAGE),
        "help": HELP,
    }
    return page(request, "xks/certificates/detail.html", context, status=form.status)


@appliance_page(MANAGE)
def certificate_activate(request: Any, certificate_id: UUID) -> HttpResponse:
    """GET, POST /appliance/certificates/<id>/activate/"""
    row = service.fetch_certificate(request.actor, certificate_id)
    if row.not_after is None:
        raise Conflict(
            "This request has no signed chain yet, so there is nothing to serve.",
            cure="Have a CA sign it and upload the chain.",
        )
    form = ConfirmForm(request.POST or None, reason="", initial={"revision": row.revision})
    if request.method == "POST":
        served = submit(
            request,
            form,
            lambda values: service.activate_certificate(
                request.actor, row.pk, expected_revision=form.expected
            ),
            target=row,
        )
        if served is not None:
            return _installed(request)
    return confirm(
        request,
        form,
        title=gettext("Serve this certificate again?"),
        words=gettext("For %(names)s, good until %(not_after)s. It is checked again first.")
        % {"names": ", ".join(row.names), "not_after": f"{row.not_after:%Y-%m-%d}"},
        consequences=(("history", gettext("The one that is served now is kept, and can be served again.")),),
        button=gettext("Serve certificate"),
        cancel=reverse("certificates"),
    )


@appliance_page(MANAGE)
def certificate_delete(request: Any, certificate_id: UUID) -> HttpResponse:
    """GET, POST /appliance/certificates/<id>/delete/"""
    row = service.fetch_certificate(request.actor, certificate_id)
    active = row.state == EndpointCertificate.State.ACTIVE
    name = row.names[0] if row.names else str(row.pk)
    form = ConfirmForm(
        request.POST or None, reason="", typed=name if active else "", initial={"revision": row.revision}
    )
    back = reverse("certificates")
    if request.method == "POST":

        def delete(values: dict[str, Any]) -> tuple[int]:
            return (service.delete_certificate(request.actor, row.pk, expected_revision=form.expected),)

        if submit(request, form, delete, target=row) is not None:
            return done(request, back, gettext("Deleted with its key."))
    consequences = [("trash-2", gettext("Its private key is erased with it. It cannot be served again."))]
    if active:
        consequences.insert(
            0,
            (
                "ban",
                gettext(
                    "Every node goes back to a certificate of its own, which AWS does not accept: no key in AWS can be used then."
                ),
            ),
        )
    return confirm(
        request,
        form,
        title=gettext("Delete the certificate for %(name)s?") % {"name": name},
        words=gettext("It is served now.") if active else gettext("It is not served."),
        consequences=consequences,
        button=gettext("Delete certificate"),
        cancel=back,
        danger=True,
    )


# --- clients' roots ---------------------------------------------------------------------------------------------------


class RootsForm(PageForm):
    """Authorities of clients."""

    client_roots = forms.CharField(
        max_length=MAX_PEM,
        required=False,
        strip=False,
        label=gettext_lazy("Clients' authorities"),
        widget=forms.Textarea(attrs={"rows": "10", "spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy("PEM. Empty: no client certificate is asked for."),
    )


@appliance_page(MANAGE)
def client_roots(request: Any) -> HttpResponse:
    """GET, POST /appliance/certificates/client-roots/"""
    row = service.fetch_endpoint_tls(request.actor)
    revision = row.revision if row.updated_at is not None else None
    form = RootsForm(request.POST or None, initial={"client_roots": row.client_roots, "revision": revision})
    if request.method == "POST":
        saved = submit(
            request,
            form,
            lambda values: service.update_client_roots(
                request.actor, values["client_roots"], expected_revision=form.expected
            ),
            target=row,
        )
        if saved is not None:
            toast(request, gettext("Saved. The nodes change over now, each as it confirms below."))
            return done(request, reverse("certificates"))
    return page(request, "xks/certificates/roots.html", {"form": form, "help": HELP}, status=form.status)
