"""The doctor's page: what was found last at a store, how old that is, and examining it again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from vault.errors import NotFound
from vault.models import Errand, Vault
from vault.permissions import Permission
from vault.web.forms import PageForm, submit
from vault.web.frame import done, page, vault_page
from xks.models import DoctorReport
from xks.services import doctor
from xks.web.store_frame import find_store, store_context, store_url
from xks.web.stores import VIEW

LATE = timedelta(seconds=10)
_ORDER = {"error": 0, "warn": 1, "info": 2, "ok": 3}
_LEVELS = {"error": "danger", "warn": "warn", "info": "info", "ok": "ok"}
_WORDS = {
    "error": gettext_noop("AWS KMS cannot use the store so, or soon will not be able to"),
    "warn": gettext_noop("Works, with warnings"),
    "info": gettext_noop("All well"),
    "ok": gettext_noop("All well"),
}
HELP = {
    "title": gettext_noop("What the doctor does"),
    "words": (
        (
            gettext_noop(
                "It calls the store's own endpoint as AWS KMS does: name, TLS, certificate, "
                "signature, health, metadata, encrypt and decrypt. "
                "Then it looks at credentials, nodes and what AWS said last."
            )
        ),
        gettext_noop(
            "It calls from this machine: what AWS sees from its region may differ. It changes nothing."
        ),
    ),
    "links": ((gettext_noop("Every finding explained"), "doctor"),),
}


class ExamineForm(PageForm):
    """Of which region."""

    region = forms.ChoiceField(required=False)

    def __init__(self, *args: Any, regions: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [("", gettext("the first region")), *((name, name) for name in regions)]
        self.fields["region"] = forms.ChoiceField(required=False, choices=choices)


@vault_page(VIEW)
def store_doctor(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/doctor/; the part `report` refreshes itself while a worker examines the store."""
    store = find_store(request, vault, store_id)
    links = list(store.links.order_by("region"))
    form = ExamineForm(request.POST or None, regions=[each.region for each in links])
    if request.method == "POST":
        request.actor.require(Permission.XKS_STORES_MANAGE, store)
        asked = submit(
            request,
            form,
            lambda values: doctor.ask_for_examination(request.actor, store.pk, region=values["region"]),
        )
        if asked is not None:
            return done(request, store_url("xks-store-doctor", store), "")
    found: DoctorReport | None
    try:
        found = doctor.last_report(request.actor, store.pk)
    except NotFound:
        found = None
    findings = sorted(found.findings if found else [], key=lambda each: _ORDER.get(each["severity"], 0))
    for each in findings:
        each["level"] = _LEVELS.get(each["severity"], "warn")
    errand = doctor.examination_of(request.actor, store.pk)
    waits = errand is not None and errand.state == Errand.State.WAITING
    context = {
        "errand": errand,
        "report_url": store_url("xks-store-doctor", store),
        "report_is_newer": bool(
            found and errand and errand.finished_at and found.examined_at > errand.finished_at
        ),
        "late": waits and errand is not None and errand.asked_at < timezone.now() - LATE,
        **store_context(request, store, "xks-store-doctor", links),
        "form": form,
        "report": found,
        "verdict": _WORDS.get(found.severity, found.severity) if found else "",
        "level": _LEVELS.get(found.severity, "warn") if found else "",
        "bad": [each for each in findings if each["severity"] in ("error", "warn")],
        "notes": [each for each in findings if each["severity"] == "info"],
        "good": [each for each in findings if each["severity"] == "ok"],
        "help": HELP,
    }
    part = ("report", "xks/stores/doctor_report.html")
    return page(request, "xks/stores/doctor.html", context, part=part, status=form.status)
