"""How the installation does, part by part, each with what to do when it is not well. For the appliance admin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop, ngettext

from vault import env
from vault.permissions import Permission
from vault.services.system import FAIL, OK, UNKNOWN, WARN, send_test_mail, system_status
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import appliance_page, can, done, page
from xks.services.integrity import Integrity, integrity_of

VIEW = Permission.APPLIANCE_VIEW_NODES
NOT_SET_UP = gettext_noop("Not set up")
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
    "title": gettext_noop("What is looked at here"),
    "words": (
        gettext_noop(
            "Each part is asked at the moment you open the page, and again every ten seconds while you look."
        ),
        gettext_noop(
            "What may end with a loss of data or of service stands first on the overview, and is mailed to those who wish."
        ),
    ),
    "links": (
        (gettext_noop("Reliability"), "reliability"),
        (gettext_noop("Backup and restore"), "backup-and-restore"),
        (gettext_noop("Configuration"), "configuration"),
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
        "HOLDS": (gettext("The record is what was written."), ""),
        "OVERDUE": (
            gettext("The record held when it was last verified, longer ago than it should be."),
            gettext("See whether an agent runs: it verifies once an hour. Or run keystead audit verify."),
        ),
        "BROKEN": (
            ngettext(
                "%(count)s finding: something of the record is not what was written.",
                "%(count)s findings: something of the record is not what was written.",
                found.findings,
            )
            % {"count": found.findings},
            gettext(
                "Keep the database and the journals as they are, run keystead audit verify, and follow its runbook in "
                "docs/runbooks."
            ),
        ),
    }.get(
        found.state,
        (
            gettext("It was not verified yet."),
            gettext("An agent verifies it once an hour, from the first sealed hour on."),
        ),
    )
    if found.gaps and found.state != "BROKEN":
        state = WARN if state == OK else state
        told = ngettext(
            "%(count)s gap: journals that were lost with their nodes.",
            "%(count)s gaps: journals that were lost with their nodes.",
            found.gaps,
        )
        words = f"{words} {told % {'count': found.gaps}}"
        cure = cure or gettext("See the nodes: a disk that comes back brings its journal along.")
    more: list[tuple[str, Any]] = []
    if found.checked_at:
        more += [(gettext("Verified"), found.checked_at), (gettext("Held last"), found.held_at)]
        told = gettext("%(seals)s seals, %(stored)s records and %(events)s audit events in %(seconds)s s") % {
            "seals": f"{found.seals:,}",
            "stored": f"{found.stored:,}",
            "events": f"{found.events:,}",
            "seconds": f"{found.seconds:.1f}",
        }
        more.append((gettext("Looked at"), told))
    more += [(gettext("Finding"), text) for text in found.texts[:5]] + [
        (gettext("Gap"), text) for text in found.gap_texts[:5]
    ]
    return Row("record", gettext("Record integrity"), ICONS["record"], state, words, cure, tuple(more))


def _siem() -> Row:
    target = env.get("KEYSTEAD_SIEM_URL")
    if target is None:
        return Row(
            "siem",
            "SIEM",
            ICONS["siem"],
            UNKNOWN,
            gettext("Nothing is sent to a SIEM."),
            gettext("Set KEYSTEAD_SIEM_URL to send the journal and the audit events to one."),
            told=NOT_SET_UP,
        )
    where = str(target.path) if target.path is not None else f"{target.host}:{target.port}"
    return Row(
        "siem",
        "SIEM",
        ICONS["siem"],
        OK,
        gettext("Each node's agent sends its journal and the audit events to %(where)s.") % {"where": where},
        "",
        (
            (
                gettext("Whether it is taken"),
                gettext("each agent's log and its metrics tell; what is not taken waits on the node's disk"),
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
                told = gettext("The mail server took a mail for %(email)s. Look whether it arrives.") % {
                    "email": request.actor.user.email
                }
                return done(request, back, told)
            return done(
                request,
                back,
                gettext("The mail server did not take it; the log of the web process says why."),
                level=messages.ERROR,
            )
    return confirm(
        request,
        form,
        title=gettext("Send a test mail?"),
        words=gettext("It goes to yourself, %(email)s.") % {"email": request.actor.user.email},
        button=gettext("Send test mail"),
        cancel=back,
    )
