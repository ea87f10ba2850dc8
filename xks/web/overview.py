"""Overview: what needs attention, keys, what falls due, the traffic of a day, and the first steps. In this room, as it shows all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_noop, ngettext

from cloudkeys.models import CloudKey
from cloudkeys.services.trial import simulator_offered
from cloudkeys.web.links import object_url
from vault.attention import Item, Severity
from vault.models import Vault
from vault.permissions import Permission
from vault.services.preferences import preferences_of
from vault.web import charts
from vault.web.frame import Can, can, page, partial, vault_page
from vault.web.palette import maybe_url
from xks.services.attention import attention_of_vault
from xks.services.overview import DayTraffic, DueDay, FirstRun, KeyCount, overview_of

VIEW = Permission.CLOUD_KEYS_VIEW
SHOWN_AT_ONCE = 8
LIST_OF = {"cloud_key": "cloud-keys", "csp_account": "csp-accounts", "operation": "operations"}
LOOKS = {
    Severity.CRITICAL: ("danger", "octagon-alert", gettext_noop("Critical")),
    Severity.WARNING: ("warn", "triangle-alert", gettext_noop("Warning")),
    Severity.NOTICE: ("info", "info", gettext_noop("Notice")),
}
# What an item's button opens: the page that does it, with the name of its argument, and whether in the dialog. Where that page
# does not exist the object's own page is opened.
FIXES: dict[str, tuple[str, str, bool]] = {
    "retry_operation": ("operation-retry", "operation_id", True),
    "rotate_credential": ("csp-account-rotate", "account_id", False),
    "replace_credential": ("csp-account-edit", "account_id", False),
    "test_account": ("csp-account-test", "account_id", False),
    "unblock_store": ("xks-store-unblock", "store_id", True),
}
# The page, and what it needs, of each step of the first run.
STEPS: dict[str, tuple[tuple[str, ...], Permission, str, str]] = {
    "add_account": (
        ("csp-account-new",),
        Permission.CSP_ACCOUNTS_MANAGE,
        gettext_noop("Add CSP account"),
        gettext_noop("The credential with which Keystead works at your cloud provider."),
    ),
    "create_key_set": (
        ("key-set-create", "key-set-new"),
        Permission.KEY_SETS_MANAGE,
        gettext_noop("Create key set"),
        gettext_noop(
            "Keys of one kind, with one protection and one schedule; used as external key store, AWS calls in."
        ),
    ),
    "connect_store": (
        ("xks-stores",),
        Permission.XKS_STORES_MANAGE,
        gettext_noop("Open key stores"),
        gettext_noop(
            "AWS reaches Keystead through it. Keystead can do it for you, or shows each value for the AWS console."
        ),
    ),
    "create_key": (
        ("cloud-key-create", "cloud-key-new"),
        Permission.CLOUD_KEYS_CREATE,
        gettext_noop("Create key"),
        gettext_noop("Made here; a KMS key that refers to it appears in AWS."),
    ),
    "use_it": (
        ("cloud-keys",),
        Permission.CLOUD_KEYS_VIEW,
        gettext_noop("Show keys"),
        gettext_noop(
            "Choose the KMS key for an S3 bucket, a database or a volume. The first request ticks this."
        ),
    ),
}
HELP = {
    "title": gettext_noop("What this page shows"),
    "words": (
        gettext_noop(
            "What somebody should look at in this vault, the worst first, each with the button that leads to its cure."
        ),
        (
            gettext_noop(
                "Requests are those that carried a valid signature: every time AWS asked for a key "
                "of this vault, and what it was answered. "
                "p99 is the time within which 99 of 100 were answered, measured in Keystead, without the network."
            )
        ),
    ),
    "links": ((gettext_noop("Use and blast radius"), "usage"), (gettext_noop("Operation"), "operation")),
}


@dataclass(frozen=True)
class Shown:
    """An item with its looks and its way out."""

    item: Item
    level: str
    icon: str
    word: str
    url: str
    dialog: bool
    links: tuple[tuple[str, str], ...]


@vault_page(VIEW, methods=("GET", "HEAD"))
def overview(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/"""
    found = overview_of(request.actor, vault)
    zone = ZoneInfo(request.actor.user.time_zone or "UTC")
    create_url = maybe_url_of(STEPS["create_key"][0], vault)
    steps = _steps(request, vault, found.first_run)
    context = {
        **_attention(request, vault),
        "found": found,
        "keys": _key_table(vault, found.keys),
        "strip": _strip(found.due),
        "due": _due_words(found.due),
        "traffic": _traffic(found.traffic, zone),
        "steps": steps,
        "steps_done": sum(1 for step in steps if step["done"]),
        "try_url": maybe_url("csp-account-try", vault_id=vault.pk)
        if simulator_offered() and not found.first_run.steps[1].done
        else "",
        "can_try": can(request.actor, Permission.CSP_ACCOUNTS_MANAGE, vault),
        "create_url": create_url,
        "can_create": can(request.actor, Permission.CLOUD_KEYS_CREATE, vault),
        "can_block": request.actor.may(Permission.VAULT_BLOCK, vault),
        "mail": preferences_of(request.actor.user).get_attention_mail_display(),
        "mail_url": maybe_url("preferences") or reverse("account"),
        "keys_url": maybe_url("cloud-keys", vault_id=vault.pk),
        "help": HELP,
    }
    return page(request, "xks/overview/overview.html", context)


@vault_page(VIEW, methods=("GET", "HEAD"))
def attention(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/attention/: the list alone, asked for every half minute."""
    return partial(request, "xks/overview/attention.html", _attention(request, vault))


def maybe_url_of(names: tuple[str, ...], vault: Vault) -> str:
    """The first of these pages that exists."""
    return next((url for name in names if (url := maybe_url(name, vault_id=vault.pk))), "")


# --- attention ------------------------------------------------------------------------------------------------------


def _attention(request: Any, vault: Vault) -> dict[str, Any]:
    items = attention_of_vault(request.actor, vault)
    shown = [_shown(request, vault, item) for item in items]
    worst = LOOKS[items[0].severity] if items else ("ok", "circle-check", "")
    return {
        "items": shown[:SHOWN_AT_ONCE],
        "more_items": shown[SHOWN_AT_ONCE:],
        "worst": worst,
        "attention_url": reverse("vault-attention", args=[vault.pk]),
    }


def _shown(request: Any, vault: Vault, item: Item) -> Shown:
    level, icon, word = LOOKS[item.severity]
    url, dialog = fix_of(request, vault, item)
    links = tuple(
        (ref.name, object_url(vault, item.target_type, ref.id)) for ref in item.examples if item.count > 1
    )
    return Shown(item, level, icon, word, url, dialog, links)


def fix_of(request: Any, vault: Vault, item: Item) -> tuple[str, bool]:
    """Where the button of an item leads, and whether into the dialog; empty when no page of this person shows it."""
    if item.action == "unblock_vault":
        may = request.actor.may(Permission.VAULT_UNBLOCK, vault)
        return (reverse("vault-unblock", args=[vault.pk]), True) if may else ("", False)
    if item.action == "open_vault":
        return "", False
    if item.target_type == "node":
        return (
            (maybe_url("nodes"), False) if request.actor.may(Permission.APPLIANCE_VIEW_NODES) else ("", False)
        )
    if item.target_type == "hsm_connection":
        # The installation's: others than the appliance admin read here what is wrong, and whom to tell.
        if not request.actor.may(Permission.APPLIANCE_VIEW_HSMS):
            return "", False
        return (
            reverse("hsm", args=[item.target_id]) if item.action == "open_hsm" else reverse("hsms")
        ), False
    if item.action in FIXES and item.target_id:
        name, argument, dialog = FIXES[item.action]
        url = maybe_url(name, vault_id=vault.pk, **{argument: item.target_id})
        if url:
            return url, dialog
    if item.target_id and item.count == 1:
        return object_url(vault, item.target_type, item.target_id), False
    url = maybe_url(LIST_OF.get(item.target_type, "xks-stores"), vault_id=vault.pk)
    query = item.list_query or ("state=FAILED" if item.target_type == "operation" else "")
    return (f"{url}?{query}" if url and query else url), False


# --- numbers --------------------------------------------------------------------------------------------------------


def _key_table(vault: Vault, counts: list[KeyCount]) -> list[dict[str, Any]]:
    """One row for each cloud; destroyed keys are left out."""
    url = maybe_url("cloud-keys", vault_id=vault.pk)
    states = [state for state in CloudKey.State.values if state != CloudKey.State.DESTROYED]
    rows: dict[str, dict[str, Any]] = {}
    for each in counts:
        row = rows.setdefault(
            each.cloud,
            {
                "label": each.cloud_label,
                "simulated": each.simulated,
                "by_state": {},
                "blocked": 0,
                "total": 0,
            },
        )
        if each.state in states:
            row["by_state"][each.state] = each.count
            row["blocked"] += each.blocked
            row["total"] += each.count
    for row in rows.values():
        row["states"] = [
            (state, row["by_state"][state], f"{url}?state={state}" if url else "")
            for state in states
            if row["by_state"].get(state)
        ]
    return list(rows.values())


def _due_text(rotations: int, expiries: int) -> tuple[str, ...]:
    words = []
    if rotations:
        words.append(
            ngettext("%(count)s rotation", "%(count)s rotations", rotations) % {"count": f"{rotations:,}"}
        )
    if expiries:
        words.append(
            ngettext("%(count)s expiry", "%(count)s expiries", expiries) % {"count": f"{expiries:,}"}
        )
    return tuple(words)


def _strip(due: list[DueDay]) -> SafeString:
    days = [each.day for each in due]
    marks = [
        charts.Due(each.day, _due_text(each.rotations, each.expiries), each.rotations + each.expiries)
        for each in due
        if each.rotations or each.expiries
    ]
    return charts.calendar(gettext("Rotations and expiries"), days, marks)


def _due_words(due: list[DueDay]) -> dict[str, Any]:
    """The sums, and the next days on which something falls due."""
    return {
        "rotations": sum(each.rotations for each in due),
        "expiries": sum(each.expiries for each in due),
        "next": [
            (each.day, number, ", ".join(_due_text(each.rotations, each.expiries)))
            for number, each in enumerate(due)
            if each.rotations or each.expiries
        ][:4],
    }


def _traffic(day: DayTraffic, zone: ZoneInfo) -> dict[str, Any]:
    hours = [hour.at.astimezone(zone) for hour in day.hours]
    answered = [hour.requests - hour.refused for hour in day.hours]
    found: dict[str, Any] = {
        "requests": day.requests,
        "refused": day.refused,
        "p50": _ms(day.p50_us),
        "p99": _ms(day.p99_us),
    }
    if day.requests:
        found["bars"] = charts.bars(
            gettext("Requests by hour"),
            hours,
            [
                charts.Series("answered", answered),
                charts.Series("refused", [hour.refused for hour in day.hours]),
            ],
            unit="requests",
        )
        found["lines"] = charts.lines(
            gettext("Answer time by hour"),
            hours,
            [
                charts.Series("p50", [_ms(hour.p50_us) for hour in day.hours]),
                charts.Series("p99", [_ms(hour.p99_us) for hour in day.hours]),
            ],
            unit="ms",
        )
    return found


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1000, 1)


# --- first run ------------------------------------------------------------------------------------------------------


def _steps(request: Any, vault: Vault, run: FirstRun) -> list[dict[str, Any]]:
    """The checklist; empty when all is done."""
    if run.done:
        return []
    found = []
    for step in run.steps:
        names, permission, button, words = STEPS.get(
            step.name, ((), Permission.VAULT_VIEW, "", "It has a key encryption key of its own.")
        )
        found.append(
            {
                "name": step.name,
                "label": step.label,
                "done": step.done,
                "now": step is run.next,
                "words": words,
                "button": button,
                "url": maybe_url_of(names, vault),
                "can": can(request.actor, permission, vault) if button else Can(True),
            }
        )
    return found
