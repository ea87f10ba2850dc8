"""Changes of HSM connections by the appliance admin: connect, edit, PIN, test, delete. The services are vault/services/hsm.py."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext

from vault.hsm_modules import allowed_variables, module_folders
from vault.models import HsmConnection, Vault
from vault.secret import Secret
from vault.services import hsm as service
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import appliance_page, done, page
from vault.web.hsm import HELP, MANAGE, dependents_in_words
from vault.web.hsm_forms import (
    VENDORS,
    ConnectionForm,
    ExternalPinForm,
    NewConnectionForm,
    PinForm,
    modules_in,
    write_members,
)

MOST_VAULTS = 500


def _form_arguments() -> dict[str, Any]:
    return {
        "folders": module_folders(),
        "variables": allowed_variables(),
        "vaults": Vault.objects.exclude(state=Vault.State.DESTROYED).order_by("name")[:MOST_VAULTS],
    }


def _values(values: dict[str, Any]) -> dict[str, Any]:
    """As the service takes them: the PIN where it is kept here alone, and as a Secret from here on."""
    given = dict(values)
    if "pin" in given:
        pin = given.pop("pin")
        given["pin"] = Secret(pin) if pin else None
    given["pin_source"] = given.get("pin_source") or HsmConnection.PinSource.STORED
    return given


@appliance_page(MANAGE)
def hsm_create(request: Any) -> HttpResponse:
    """GET, POST /appliance/hsms/new/?vendor=luna"""
    chosen = request.GET.get("vendor", "")
    vendor = VENDORS.get(chosen)
    initial = {}
    if vendor is not None:
        initial = {"module_path": vendor.module, "environment": vendor.environment}
    form = NewConnectionForm(request.POST or None, initial=initial, **_form_arguments())
    if request.method == "POST":
        made = submit(
            request, form, lambda values: service.create_connection(request.actor, **_values(values))
        )
        if made is not None:
            told = gettext("%(name)s is connected. Test it before anything depends on it.") % {
                "name": made.name
            }
            return done(request, reverse("hsm", args=[made.pk]), told)
    context = {
        "form": form,
        "vendor": vendor,
        "vendors": [
            *((name, each.label, name == chosen) for name, each in VENDORS.items()),
            ("", gettext("Another"), vendor is None),
        ],
        "logins": form.login_options,
        "variables": form.allowed,
        "modules": modules_in(module_folders()),
        "back": reverse("hsms"),
        "help": HELP,
    }
    return page(request, "vault/hsm/form.html", context, status=form.status)


@appliance_page(MANAGE)
def hsm_edit(request: Any, connection_id: UUID) -> HttpResponse:
    """GET, POST /appliance/hsms/<id>/edit/"""
    row = service.view_connection(request.actor, connection_id)
    initial = {
        "name": row.name,
        "module_path": row.module_path,
        "environment": "\n".join(f"{name}={value}" for name, value in row.environment.items()),
        "login": row.login,
        "pin_source": row.pin_source,
        "members": write_members(row.members.all()),  # type: ignore[attr-defined]
        "routing": row.routing,
        "timeout_ms": row.timeout_ms,
        "vaults": [str(each.pk) for each in row.vaults.all()],
        "revision": row.revision,
    }
    form = ConnectionForm(request.POST or None, initial=initial, **_form_arguments())
    back = reverse("hsm", args=[row.pk])
    if request.method == "POST":
        saved = submit(
            request,
            form,
            lambda values: service.update_connection(
                request.actor, row.pk, expected_revision=form.expected, **_values(values)
            ),
            target=row,
        )
        if saved is not None:
            return done(request, back, gettext("Saved. The helpers follow within seconds."))
    context = {
        "form": form,
        "row": row,
        "logins": form.login_options,
        "variables": form.allowed,
        "modules": modules_in(module_folders()),
        "back": back,
        "help": HELP,
    }
    return page(request, "vault/hsm/form.html", context, status=form.status)


@appliance_page(MANAGE)
def hsm_pin(request: Any, connection_id: UUID) -> HttpResponse:
    """GET, POST /appliance/hsms/<id>/pin/: a new PIN, or, for one that hosts read themselves, that they have a new one."""
    row = service.view_connection(request.actor, connection_id)
    stored = row.pin_source == HsmConnection.PinSource.STORED
    form: PageForm = (PinForm if stored else ExternalPinForm)(
        request.POST or None, initial={"revision": row.revision}
    )
    back = reverse("hsm", args=[row.pk])
    if request.method == "POST":
        saved = submit(
            request,
            form,
            lambda values: service.change_pin(
                request.actor,
                row.pk,
                Secret(values["pin"]) if stored else None,
                expected_revision=form.expected,
            ),
            target=row,
        )
        if saved is not None:
            return done(request, back, gettext("The new PIN is tried once, within seconds."))
    context = {"form": form, "row": row, "stored": stored, "back": back, "help": HELP}
    return page(request, "vault/hsm/pin.html", context, status=form.status)


@appliance_page(MANAGE, methods=("POST",))
def hsm_test(request: Any, connection_id: UUID) -> HttpResponse:
    """POST /appliance/hsms/<id>/test/: asks the keeper; the page shows its answer as soon as it is there."""
    form = PageForm(request.POST)
    wanted = submit(request, form, lambda values: service.request_test(request.actor, connection_id))
    back = reverse("hsm", args=[connection_id])
    return done(request, back, gettext("The test has begun.") if wanted is not None else "")


@appliance_page(MANAGE)
def hsm_delete(request: Any, connection_id: UUID) -> HttpResponse:
    """GET, POST /appliance/hsms/<id>/delete/"""
    row = service.view_connection(request.actor, connection_id)
    form = ConfirmForm(
        request.POST or None, reason="required", typed=row.name, initial={"revision": row.revision}
    )
    if request.method == "POST":

        def delete(values: dict[str, Any]) -> bool:
            service.delete_connection(
                request.actor, row.pk, reason=values["reason"], expected_revision=form.expected
            )
            return True

        if submit(request, form, delete, target=row) is not None:
            return done(
                request,
                reverse("hsms"),
                gettext("%(name)s is disconnected. The keys in the HSM itself were left there.")
                % {"name": row.name},
            )
    depending = dependents_in_words(row)
    consequences = [(icon, words) for icon, words, _ in depending] or [
        ("circle-check", gettext("Nothing depends on it."))
    ]
    consequences.append(("cpu", gettext("Nothing is deleted in the HSM: keys that are there stay there.")))
    return confirm(
        request,
        form,
        title=gettext("Delete the connection %(name)s?") % {"name": row.name},
        words=gettext("It is refused as long as this depends on it. Move that elsewhere first.")
        if depending
        else gettext("Its PIN is erased here and its helper processes end."),
        consequences=consequences,
        button=gettext("Delete connection"),
        cancel=reverse("hsm", args=[row.pk]),
        danger=True,
    )
