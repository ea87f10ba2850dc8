"""Find a request: what AWS KMS asked, by its kmsRequestId or by filters, across all nodes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.utils.translation import gettext, gettext_noop

from cloudkeys.models import CloudKey, XksKeyStore
from vault.models import Vault
from vault.permissions import Permission
from vault.web.frame import vault_page
from vault.web.lists import Column, FilterMenu, ListPage, list_page, read_list
from xks.api.requests import OPERATIONS, OUTCOMES, REQUESTS
from xks.services.requests import requests_of
from xks.web.store_frame import find_store, store_context

SEE = Permission.AUDIT_VIEW
COLUMNS = (
    Column("at", gettext_noop("When"), ordering="at", always=True),
    Column("operation", gettext_noop("Asked for")),
    Column("outcome", gettext_noop("Outcome")),
    Column("key", gettext_noop("Key")),
    Column("principal", gettext_noop("Principal")),
    Column("service", gettext_noop("Through")),
    Column("took", gettext_noop("Took"), num=True),
    Column("node", gettext_noop("Node"), shown=False),
    Column("kms_request_id", "kmsRequestId"),
    Column("region", gettext_noop("Region"), shown=False),
    Column("credential", gettext_noop("Credential"), shown=False),
)
_WORDS = {"OK": gettext_noop("Answered"), "errors": gettext_noop("Everything but answered")}
MENUS = (
    FilterMenu(
        "outcome", gettext_noop("Outcome"), tuple((name, _WORDS.get(name, name)) for name in OUTCOMES)
    ),
    FilterMenu(
        "operation", gettext_noop("Asked for"), tuple((name, name.capitalize()) for name in OPERATIONS)
    ),
    FilterMenu(
        "withheld",
        gettext_noop("Withheld"),
        (("true", gettext_noop("Recorded, but the answer did not leave")),),
        many=False,
    ),
)
HELP = {
    "title": gettext_noop("What stands here"),
    "words": (
        (
            gettext_noop(
                "Every request to the endpoint with a valid signature, answered or refused, as the nodes' journals recorded it before the "
                "answer left. Nodes ship about every second."
            )
        ),
        (
            gettext_noop(
                "CloudTrail shows the requestId of each KMS event: look for it here to see what Keystead was asked and said. KMS may ask "
                "several times under one id."
            )
        ),
        gettext_noop(
            "What was not signed with a live credential is not here: see the counts of 401 in the metrics."
        ),
    ),
    "links": ((gettext_noop("The journal"), "journal"), (gettext_noop("The doctor"), "doctor")),
}


@vault_page(SEE, methods=("GET", "HEAD"))
def request_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/stores/requests/?kms_request_id="""
    found = _found(request, vault, requests_of(request.actor, vault))
    return list_page(request, "xks/stores/vault_requests.html", found, {"help": HELP})


@vault_page(SEE, methods=("GET", "HEAD"))
def store_requests(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET /v/<id>/stores/<store>/requests/"""
    store = find_store(request, vault, store_id)
    found = _found(request, vault, requests_of(request.actor, vault).filter(store_id=store.pk), store=store)
    context = {**store_context(request, store, "xks-store-requests"), "help": HELP}
    return list_page(request, "xks/stores/requests.html", found, context)


def _found(request: Any, vault: Vault, rows: Any, store: XksKeyStore | None = None) -> ListPage:
    wanted = request.GET.get("kms_request_id", "").strip()
    found = read_list(
        request,
        rows,
        REQUESTS,
        COLUMNS,
        id="xks-requests",
        row_template="xks/stores/request_row.html",
        menus=MENUS,
        total=False,
        filters_template="xks/stores/request_filters.html",
        empty_title=gettext("No request recorded yet"),
        empty_words=gettext(
            "AWS KMS calls when a service uses a key of this vault, and asks connected key stores for their health."
        ),
        kms_request_id=wanted,
        principal=request.GET.get("principal", "").strip(),
        full=bool(wanted),
    )
    keys = CloudKey.objects.filter(vault=vault).in_bulk({row.key_id for row in found.rows if row.key_id})
    names = {}
    if store is None:
        stores = XksKeyStore.objects.filter(vault=vault).select_related("key_set")
        names = stores.in_bulk({row.store_id for row in found.rows if row.store_id})
    for row in found.rows:
        row.key = keys.get(row.key_id)
        row.store = names.get(row.store_id)
        row.milliseconds = row.microseconds / 1000
        row.service = row.kms_via_service.removesuffix(".amazonaws.com")
        row.place = f"{row.chain_id.hex}:{row.segment}:{row.entry}"
    return found
