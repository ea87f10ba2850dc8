"""The appliance admin's first look: what needs attention in the installation, worst first, and the parts that are not well."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from vault.attention import Item
from vault.permissions import Permission
from vault.services.preferences import preferences_of
from vault.services.system import FAIL, WARN, system_status
from vault.web.frame import appliance_page, page, partial
from vault.web.palette import maybe_url
from xks.services.attention import attention_of_installation
from xks.web.overview import LOOKS, SHOWN_AT_ONCE, Shown

VIEW = Permission.APPLIANCE_VIEW_NODES
PAGES = {"node": "nodes", "certificate": "certificates", "hsm_connection": "hsms", "record": "system"}
HELP = {
    "title": gettext_noop("What stands here"),
    "words": (
        gettext_noop(
            "What may end with a loss of keys or of service in the whole installation, worst first, each "
            "with the page that mends it."
        ),
        gettext_noop("Nothing of what is in a vault: its own members see that on the vault's overview."),
    ),
    "links": (
        (gettext_noop("What needs attention"), "attention"),
        (gettext_noop("Reliability"), "reliability"),
    ),
}


@appliance_page(VIEW, methods=("GET", "HEAD"))
def installation(request: Any) -> HttpResponse:
    """GET /appliance/overview/"""
    parts = system_status(request.actor).parts
    context = {
        **_attention(request),
        "parts": [
            ("danger" if part.state == FAIL else "warn", part)
            for part in sorted(parts, key=lambda part: part.state != FAIL)
            if part.state in (FAIL, WARN)
        ],
        "mail": preferences_of(request.actor.user).get_attention_mail_display(),
        "mail_url": maybe_url("preferences") or reverse("account"),
        "help": HELP,
    }
    return page(request, "xks/overview/installation.html", context)


@appliance_page(VIEW, methods=("GET", "HEAD"))
def installation_attention(request: Any) -> HttpResponse:
    """GET /appliance/attention/: the list alone, asked for every half minute."""
    return partial(request, "xks/overview/attention.html", _attention(request))


def _attention(request: Any) -> dict[str, Any]:
    shown = [_shown(request, item) for item in attention_of_installation(request.actor)]
    return {
        "items": shown[:SHOWN_AT_ONCE],
        "more_items": shown[SHOWN_AT_ONCE:],
        "attention_url": reverse("installation-attention"),
        "looked_at": gettext("Nodes, certificates, HSMs and the audit record"),
    }


def _shown(request: Any, item: Item) -> Shown:
    level, icon, word = LOOKS[item.severity]
    return Shown(item, level, icon, word, fix_of(item), False, tuple((ref.name, "") for ref in item.examples))


def fix_of(item: Item) -> str:
    """The page that mends it."""
    if item.action == "open_hsm":
        return reverse("hsm", args=[item.target_id])
    url = maybe_url(PAGES.get(item.target_type, "system"))
    return f"{url}#record" if item.target_type == "record" else url
