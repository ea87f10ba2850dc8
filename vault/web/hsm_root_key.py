"""The root key: where it is, how far a move is, and moving it into an HSM. For the appliance admin."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from vault.errors import NotFound
from vault.services.root_key_move import ask_for_move, root_key_standing
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import Can, appliance_page, can, done, page
from vault.web.hsm import MANAGE, SEE, is_for_trying

HELP = {
    "title": gettext_noop("What the root key is"),
    "words": (
        (
            gettext_noop(
                "Each vault's key is wrapped by the root key, and so is this installation's own. Whoever has the root key and the "
                "database can read every key that no HSM protects otherwise; without the root key nobody can read anything."
            )
        ),
        (
            gettext_noop(
                "In an HSM it cannot be copied: then the database alone is worth nothing. Without that HSM, and without a backup of it, "
                "everything is lost. Running processes go on while it is away; those that start wait for it."
            )
        ),
    ),
    "links": (
        (gettext_noop("Root key in the HSM"), "hsm"),
        (gettext_noop("Backup and restore"), "backup-and-restore"),
    ),
}


@appliance_page(SEE, methods=("GET", "HEAD"))
def root_key(request: Any) -> HttpResponse:
    """GET /appliance/hsms/root-key/; the part `standing` refreshes itself while a move is unfinished."""
    standing = root_key_standing(request.actor)
    allowed = can(request.actor, MANAGE)
    context = {
        "standing": standing,
        "targets": [
            (each.connection, (Can(False, each.why_not) if each.why_not else allowed), each.why_not)
            for each in standing.targets
        ],
        "can_manage": allowed,
        "help": HELP,
    }
    return page(request, "vault/hsm/root_key.html", context, part=("standing", "vault/hsm/standing.html"))


@appliance_page(MANAGE)
def root_key_move(request: Any, connection_id: UUID) -> HttpResponse:
    """GET, POST /appliance/hsms/<id>/root-key/"""
    standing = root_key_standing(request.actor)
    target = next((each for each in standing.targets if each.connection.pk == connection_id), None)
    if target is None:
        raise NotFound("There is no such HSM connection.")
    row = target.connection
    back = reverse("hsm-root-key")
    if target.why_not:
        return done(request, back, target.why_not)
    form = ConfirmForm(request.POST or None, reason="", typed=row.name)
    if request.method == "POST":
        asked = submit(request, form, lambda values: ask_for_move(request.actor, row.pk))
        if asked is not None:
            return done(
                request,
                back,
                gettext("The move has begun. This page shows how far it is, and may be closed."),
            )
    trying = is_for_trying(list(row.members.all()), row.module_path)  # type: ignore[attr-defined]
    warned = (
        [
            (
                "flask-conical",
                gettext("This is SoftHSM, a program: its keys lie in files. For trying out only."),
            )
        ]
        if trying
        else []
    )
    return confirm(
        request,
        form,
        title=(
            gettext("Go on moving the root key into %(name)s?")
            if standing.unfinished
            else gettext("Move the root key into %(name)s?")
        )
        % {"name": row.name},
        words=gettext(
            "%(total)s keys are wrapped anew, one by one, each opened from the HSM before the old goes. All "
            "serve meanwhile."
        )
        % {"total": standing.total},
        consequences=[
            *warned,
            (
                "hard-drive",
                gettext(
                    "From then on the HSM is needed whenever a process starts. Back it up, and try that backup."
                ),
            ),
            ("triangle-alert", gettext("HSM lost without a backup: every vault is lost, for ever.")),
            (
                "archive",
                gettext("Older backups of Keystead need the old root key: keep it as long as you keep them."),
            ),
            (
                "undo-2",
                (
                    gettext(
                        "A worker does it: this page may be closed. It may be interrupted: what was moved stays moved, and moving again "
                        "goes on. The way back: keystead keys rewrap."
                    )
                ),
            ),
        ],
        button=gettext("Move root key"),
        cancel=back,
        danger=True,
    )
