"""The list of cloud keys, good for a hundred thousand of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.http import HttpResponse, QueryDict
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from cloudkeys.api.key_shapes import DUE, KEYS
from cloudkeys.models import CloudKey, CspAccount, KeySet, XksKeyStore
from cloudkeys.services import uses
from cloudkeys.services.regions import regions_of
from cloudkeys.services.trial import simulator_offered
from cloudkeys.web.cloud_key import deletes_in
from vault.models import SavedView, Vault
from vault.permissions import Permission
from vault.web.frame import Can, can, vault_page
from vault.web.lists import Column, FilterMenu, ListPage, filled, list_page, read_list
from vault.web.palette import maybe_url
from vault.web.saved_views import views_of

VIEW = Permission.CLOUD_KEYS_VIEW
MOST_OPTIONS = 100
COLUMNS = (
    Column("name", gettext_noop("Name"), ordering="name", always=True),
    Column("state", gettext_noop("State"), ordering="state"),
    Column("pointer", gettext_noop("KMS key"), shown=False),
    Column("key_set", gettext_noop("Key set")),
    Column("account", gettext_noop("CSP account"), shown=False),
    Column("region", gettext_noop("Region")),
    Column("last_used", gettext_noop("Last used")),
    Column("rotation", gettext_noop("Next rotation"), ordering="next_rotation_at"),
    Column("expires", gettext_noop("Expires"), ordering="expires_at", shown=False),
    Column("version", gettext_noop("Version"), num=True),
    Column("tags", gettext_noop("Tags"), shown=False),
    Column("created", gettext_noop("Created"), ordering="created_at", shown=False),
    Column("external_id", gettext_noop("External key id"), shown=False),
    Column("arn", gettext_noop("KMS key ARN"), shown=False),
)
HELP = {
    "title": gettext_noop("What a cloud key is"),
    "words": (
        (
            gettext_noop(
                "A key with its versions. It stays in Keystead; AWS KMS holds a KMS key that points to it, with an alias of the same "
                "name, and calls Keystead for every use."
            )
        ),
        (
            gettext_noop(
                "Disabling refuses every new use at once, on every node. Services that already hold a data key in memory go on until "
                "they next ask."
            )
        ),
        (
            gettext_noop(
                "Search takes a part of the name, or a whole external key id, KMS key id or ARN. Every filter stands in the address, "
                "so that it can be sent to a colleague or saved as a view."
            )
        ),
    ),
    "links": (
        (gettext_noop("Kill switch with proof"), "kill-switch"),
        (gettext_noop("Who may do what"), "permissions"),
        (gettext_noop("API and command line"), "api"),
    ),
}


_ROW = (
    "kind", "name", "description", "state", "blocked", "retired_at", "delete_after", "pointer_state", "region", "tags",
    "current_version", "rotation_schedule", "next_rotation_at", "expires_at", "created_at", "external_key_id", "kms_key_arn",
    "key_set__name", "csp_account__name", "csp_account__partition",
)  # fmt: skip
ROWS = replace(KEYS, fetch=lambda: CloudKey.objects.select_related("key_set", "csp_account").only(*_ROW))
"""Keys as rows of a page: found as the API finds them, and read only as far as a row shows them, which is half of the work."""


@dataclass(frozen=True)
class BulkAct:
    """A button of the bar under a selection."""

    name: str
    label: str
    icon: str
    permission: Permission
    style: str = ""
    more: bool = False


ACTS = (
    BulkAct("enable", gettext_noop("Enable"), "play", Permission.CLOUD_KEYS_ENABLE),
    BulkAct("disable", gettext_noop("Disable"), "circle-pause", Permission.CLOUD_KEYS_DISABLE, "danger"),
    BulkAct("rotate", gettext_noop("Rotate"), "rotate-cw", Permission.CLOUD_KEYS_ROTATE),
    BulkAct("schedule", gettext_noop("Schedule"), "calendar-clock", Permission.CLOUD_KEYS_UPDATE),
    BulkAct("tag", gettext_noop("Tag"), "tag", Permission.CLOUD_KEYS_UPDATE),
    BulkAct("block", gettext_noop("Block"), "ban", Permission.CLOUD_KEYS_BLOCK, "danger", more=True),
    BulkAct("unblock", gettext_noop("Unblock"), "play", Permission.CLOUD_KEYS_UNBLOCK, more=True),
)


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/cloud-keys/"""
    rows = request.actor.visible(CloudKey).filter(vault=vault)
    given = filled(request.GET)
    if "kind" not in given:
        rows = rows.filter(kind=CloudKey.Kind.USER)
    acts = [
        {
            "act": act,
            "url": reverse("cloud-keys-bulk", args=[vault.pk, act.name]),
            "can": can(request.actor, act.permission, vault),
        }
        for act in ACTS
    ]
    found = read_list(
        request,
        rows,
        ROWS,
        COLUMNS,
        id="cloud-keys",
        row_template="cloudkeys/cloud_keys/row.html",
        menus=_menus(vault, given),
        search_words=gettext("Search name, id or ARN"),
        selectable=any(act["can"] for act in acts),
        acts=acts,
        bulk_template="cloudkeys/cloud_keys/bulk_bar.html",
        tools_template="cloudkeys/cloud_keys/tools.html",
        filters_template="cloudkeys/cloud_keys/more_filters.html",
        empty_template="cloudkeys/cloud_keys/empty.html",
    )
    _dress(found)
    found.extra |= {
        "views": views_of(request, vault, SavedView.Page.CLOUD_KEYS, found.query, found.shown),
        "exports": _exports(vault, given),
        "tags": given.getlist("tag"),
        "more": [menu for menu in _more_menus() if menu is not None],
        "more_chosen": {name: given.getlist(name) for name in ("pointer_state", "blocked", "retired")},
    }
    if not found.rows and not found.is_filtered:
        found.extra["start"] = _start(request, vault)
    if any(row.pointer_state == CloudKey.PointerState.PENDING for row in found.rows):
        # The colleague's keys that are just being made become linked while one looks.
        found.extra["live_url"] = request.get_full_path()
    creating = can(request.actor, Permission.CLOUD_KEYS_CREATE, vault)
    return list_page(request, "cloudkeys/cloud_keys/list.html", found, {"help": HELP, "can_create": creating})


_POINTER_WORDS = {"PENDING": gettext_noop("KMS key being made"), "FAILED": gettext_noop("KMS key failed")}


def _dress(found: ListPage) -> None:
    """What a row shows beyond its columns: words of its state, when it was used, what is late."""
    now = timezone.now()
    used = uses.reader().last_used([row.pk for row in found.rows]) if "last_used" in found.shown else {}
    for row in found.rows:
        row.last_used_at = used.get(row.pk)
        row.shown_state = "BLOCKED" if row.blocked and row.state == CloudKey.State.ENABLED else row.state
        row.state_words = deletes_in(row)
        row.is_late = (
            row.state == CloudKey.State.ENABLED
            and row.next_rotation_at is not None
            and row.next_rotation_at <= now
        )
        row.pointer_words = _POINTER_WORDS.get(row.pointer_state, "")
        row.pointer_shown = (
            row.pointer_state in ("PENDING", "FAILED", "GONE") and "pointer" not in found.shown
        )


def _menus(vault: Vault, given: QueryDict) -> Iterable[FilterMenu]:
    yield FilterMenu(
        "state", gettext("State"), tuple((str(v), str(label)) for v, label in CloudKey.State.choices)
    )
    for name, label, model in (
        ("key_set", gettext("Key set"), KeySet),
        ("csp_account", gettext("Account"), CspAccount),
    ):
        mine = model._default_manager.filter(vault=vault).order_by("name")
        options = [(str(pk), text) for pk, text in mine.values_list("pk", "name")[:MOST_OPTIONS]]
        if len(options) > 1 or name in given:
            yield FilterMenu(name, label, tuple(options), names=True)
    found = regions_of(vault, MOST_OPTIONS)
    if len(found) > 1 or "region" in given:
        yield FilterMenu(
            "region", gettext("Region"), tuple((region, region) for region in found), many=False, names=True
        )
    yield FilterMenu("due", gettext("Due"), tuple((value, str(label)) for value, label in DUE.items()))
    yield FilterMenu(
        "unused_for",
        gettext("Unused"),
        (
            ("30", gettext("No use for 30 days")),
            ("90", gettext("No use for 90 days")),
            ("365", gettext("No use for a year")),
        ),
        many=False,
    )


def _more_menus() -> tuple[FilterMenu, ...]:
    return (
        FilterMenu(
            "pointer_state",
            gettext("KMS key in AWS"),
            tuple((str(v), str(label)) for v, label in CloudKey.PointerState.choices),
        ),
        FilterMenu(
            "blocked",
            gettext("Blocked"),
            (("true", gettext("Blocked")), ("false", gettext("Not blocked"))),
            many=False,
        ),
        FilterMenu(
            "retired", gettext("Retired to decrypt-only"), (("true", "Yes"), ("false", "No")), many=False
        ),
    )


def _exports(vault: Vault, given: QueryDict) -> list[tuple[str, str]]:
    """What is filtered, through the API's own address: a session may read it too."""
    names = {spec.name for spec in KEYS.filters}
    pairs = [(name, value) for name, values in given.lists() if name in names for value in values]
    return [
        (label, "/api/v1/cloud-keys/export?" + urlencode([("vault", str(vault.pk)), ("as", form), *pairs]))
        for label, form in ((gettext("CSV, for spreadsheets"), "csv"), (gettext("JSON lines"), "jsonl"))
    ]


def _start(request: Any, vault: Vault) -> dict[str, Any]:
    """What is to be done before there can be keys, and the way there."""
    actor = request.actor
    if not CspAccount.objects.filter(vault=vault).exists():
        step = "account"
    elif not XksKeyStore.objects.filter(vault=vault).exists():
        step = "key_set"
    else:
        step = "key"
    allowed: dict[str, Can] = {
        "account": can(actor, Permission.CSP_ACCOUNTS_MANAGE, vault),
        "key_set": can(actor, Permission.KEY_SETS_MANAGE, vault),
        "key": can(actor, Permission.CLOUD_KEYS_CREATE, vault),
    }
    return {
        "step": step,
        "can": allowed[step],
        "simulator": simulator_offered(),
        "try_url": maybe_url("csp-account-try", vault_id=vault.pk),
        "account_url": maybe_url("csp-account-new", vault_id=vault.pk)
        or maybe_url("csp-accounts", vault_id=vault.pk),
        "key_set_url": maybe_url("key-set-new", vault_id=vault.pk)
        or maybe_url("key-sets", vault_id=vault.pk),
    }
