"""How the installation does, part by part, each with what to do when it is not well. For the appliance admin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.urls import reverse

from vault import env
from vault.permissions import Permission
from vault.services.system import FAIL, OK, UNKNOWN, WARN, send_test_mail, system_status
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import appliance_page, can, done, page
from xks.services.integrity import Integrity, integrity_of

VIEW = Permission.APPLIANCE_VIEW_NODES
NOT_SET_UP = "Not set up"
ICONS = {
    "database": "database",
    "schema": "database",
    "broker": "route",
    "workers": "cog",
    "disk": "hard-drive",
    "backup": "archive",
    "mail": "mail",
    "record": "shield-check",
    "siem": "radio-tower",
}
HELP = {
    "title": "What is looked at here",
    "words": (
        "Each part is asked at the moment you open the page, and again every ten seconds while you look.",
        "What may end with a loss of data or of service stands first on the overview, and is mailed to those who wish.",
    ),
    "links": (
        ("Reliability", "reliability"),
        ("Backup and restore", "backup-and-restore"),
        ("Configuration", "configuration"),
    ),
}


@dataclass(frozen=True)
class Row:
    """One part as the page shows it."""

    name: str
    label: str
    icon: str
    state: str
    words: str
    cure: str
    more: tuple[tuple[str, Any], ...] = ()
    told: str = ""
    """Other words for the state."""


def _told(name: str, state: str) -> str:
    return NOT_SET_UP if name == "mail" and state == UNKNOWN else ""


def _record(found: Integrity) -> Row:
    state = {"HOLDS": OK, "OVERDUE": WARN, "BROKEN": FAIL}.get(found.state, UNKNOWN)
    words, cure = {
        "HOLDS": ("The record is what was written.", ""),
        "OVERDUE": (
            "The record held when it was last verified, longer ago than it should be.",
            "See whether an agent runs: it verifies once an hour. Or run keystead audit verify.",
        ),
        "BROKEN": (
            f"{found.findings} finding{'' if found.findings == 1 else 's'}: something of the record is not what was written.",
            "Keep the database and the journals as they are, run keystead audit verify, and follow its runbook in docs/runbooks.",
        ),
    }.get(
        found.state,
        ("It was not verified yet.", "An agent verifies it once an hour, from the first sealed hour on."),
    )
    if found.gaps and found.state != "BROKEN":
        state = WARN if state == OK else state
        words += (
            f" {found.gaps} gap{'' if found.gaps == 1 else 's'}: journals that were lost with their nodes."
        )
        cure = cure or "See the nodes: a disk that comes back brings its journal along."
    more: list[tuple[str, Any]] = []
    if found.checked_at:
        more += [("Verified", found.checked_at), ("Held last", found.held_at)]
        told = f"{found.seals:,} seals, {found.stored:,} records and {found.events:,} audit events in {found.seconds:.1f} s"
        more.append(("Looked at", told))
    more += [("Finding", text) for text in found.texts[:5]] + [("Gap", text) for text in found.gap_texts[:5]]
    return Row("record", "Record integrity", ICONS["record"], state, words, cure, tuple(more))


def _siem() -> Row:
    target = env.get("KEYSTEAD_SIEM_URL")
    if target is None:
        return Row(
            "siem",
            "SIEM",
            ICONS["siem"],
            UNKNOWN,
            "Nothing is sent to a SIEM.",
            "Set KEYSTEAD_SIEM_URL to send the journal and the audit events to one.",
            told=NOT_SET_UP,
        )
    where = str(target.path) if target.path is not None else f"{target.host}:{target.port}"
    return Row(
        "siem",
        "SIEM",
        ICONS["siem"],
        OK,
        f"Each node's agent sends its journal and the audit events to {where}.",
        "",
        (
            (
                "Whether it is taken",
                "each agent's log and its metrics tell; what is not taken waits on the node's disk",
            ),
        ),
    )


@appliance_page(VIEW, methods=("GET", "HEAD"))
def system(request: Any) -> HttpResponse:
    """GET /appliance/system/; the part `parts` refreshes itself."""
    status = system_status(request.actor)
    rows = [
        Row(
            part.name,
            part.label,
            ICONS.get(part.name, "circle-dot"),
            part.state,
            part.words,
            part.cure,
            told=_told(part.name, part.state),
        )
        for part in status.parts
    ]
    rows += [_record(integrity_of(request.actor)), _siem()]
    order = {FAIL: 0, WARN: 1}
    rows.sort(key=lambda row: order.get(row.state, 2))
    context = {
        "rows": rows,
        "versions": status.versions,
        "bad": sum(row.state == FAIL for row in rows),
        "doubtful": sum(row.state == WARN for row in rows),
        "can_mail": can(request.actor, Permission.APPLIANCE_MANAGE_USERS),
        "help": HELP,
    }
    return page(request, "xks/system/system.html", context, part=("parts", "xks/system/parts.html"))


@appliance_page(Permission.APPLIANCE_MANAGE_USERS)
def system_test_mail(request: Any) -> HttpResponse:
    """GET, POST /appliance/system/test-mail/"""
    back = reverse("system")
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        taken = submit(request, form, lambda values: (send_test_mail(request.actor),))
        if taken is not None:
            if taken[0]:
                told = f"The mail server took a mail for {request.actor.user.email}. Look whether it arrives."
                return done(request, back, told)
            return done(
                request,
                back,
                "The mail server did not take it; the log of the web process says why.",
                level=messages.ERROR,
            )
    return confirm(
        request,
        form,
        title="Send a test mail?",
        words=f"It goes to yourself, {request.actor.user.email}.",
        button="Send test mail",
        cancel=back,
    )
