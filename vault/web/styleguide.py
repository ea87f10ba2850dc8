"""Every part of a page, in every state, for whoever builds pages. Only with DEBUG or KEYSTEAD_STYLEGUIDE in the settings."""

from __future__ import annotations

from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

from django import forms
from django.conf import settings
from django.http import Http404, HttpResponse
from django.urls import reverse
from django.utils import timezone

from vault.errors import Conflict
from vault.web import charts
from vault.web.forms import Difference, PageForm
from vault.web.frame import Can, page, person_page
from vault.web.lists import Chip, Column, FilterMenu, Head, ListPage, Sort
from vault.web.states import KINDS, states_of


class SampleForm(PageForm):
    """One field of each kind."""

    units = {"days": "days"}  # noqa: RUF012
    name = forms.CharField(help_text="Seen by everybody in the vault.")
    password = forms.CharField(widget=forms.PasswordInput, required=False)
    days = forms.IntegerField(label="Rotate every", initial=90)
    cloud = forms.ChoiceField(choices=[("aws", "AWS"), ("azure", "Azure")])
    protection = forms.ChoiceField(
        choices=[("software", "Software"), ("hsm", "In the HSM")],
        widget=forms.RadioSelect,
        initial="software",
    )
    enabled = forms.BooleanField(label="Use as external key store", required=False, help_text="AWS calls in.")
    words = forms.CharField(label="Description", required=False, widget=forms.Textarea)


COLUMNS = (
    Column("name", "Name", ordering="name", always=True),
    Column("state", "State"),
    Column("arn", "KMS key"),
    Column("used", "Last used", ordering="used"),
    Column("version", "Version", num=True),
)


@person_page
def styleguide(request: Any) -> HttpResponse:
    """GET /styleguide/"""
    if not (settings.DEBUG or getattr(settings, "KEYSTEAD_STYLEGUIDE", False)):
        raise Http404
    now = timezone.now()
    days = [now.date() - timedelta(days=29 - i) for i in range(30)]
    wrong = SampleForm({"name": "", "days": "x", "cloud": "aws", "protection": "hsm"})
    wrong.is_valid()
    stale = SampleForm()
    stale.stale, stale.changed_by = (Difference("Name", "Payments EU", "Payments"),), "ada@example.com"
    refused = SampleForm()
    refused.problem = Conflict("The key set holds 12 keys.", cure="Move or destroy them first.")
    context = {
        "looks": [(kind, states_of(kind)) for kind in KINDS],
        "form": SampleForm(),
        "wrong": wrong,
        "stale": stale,
        "refused": refused,
        "denied": Can(False, "Your role in this vault (Auditor) does not allow cloud_keys.disable."),
        "list": _sample_list(now),
        "empty": _sample_list(now, rows=[], chips=[]),
        "secrets": [("Secret access key", "kqkL7JdUnY/8ZzX1m2r5tVw9"), ("Raw key", "c2VjcmV0")],
        "plain": [("Access key id", "BETAWZTE7OQH4OC3B4NA")],
        "download": {"accessKeyId": "BETAWZTE7OQH4OC3B4NA"},
        "steps": [
            ("Type and name", "#", "done"),
            ("Account", "#", "done"),
            ("Protection", "", "now"),
            ("Summary", "", "todo"),
        ],
        "progress": {
            "id": "op",
            "title": "Create key payments-prod",
            "state": "RUNNING",
            "live": False,
            "url": "#",
            "steps": [
                {"title": "Data plane has the key", "state": "DONE", "at": now - timedelta(seconds=4)},
                {
                    "title": "Make the KMS key in eu-west-1",
                    "state": "RUNNING",
                    "cause": "AWS said XksKeyNotFoundException.",
                    "next_try_at": now + timedelta(seconds=8),
                },
                {"title": "Make the alias", "state": "PENDING"},
            ],
        },
        "events": [
            {"icon": "plus", "title": "Key made", "at": now - timedelta(days=40), "by": "Ada"},
            {"icon": "rotate-cw", "title": "Rotated to v2", "at": now - timedelta(days=2), "by": "schedule"},
            {
                "icon": "circle-pause",
                "title": "Disabled",
                "at": now - timedelta(hours=3),
                "by": "Ada",
                "words": "Incident 4711",
            },
        ],
        "diff": [
            ("Name", "Payments", "Payments EU"),
            ("Description", "", "Keys"),
            ("State", "ENABLED", "ENABLED"),
        ],
        "bars": charts.bars(
            "Use by day",
            days,
            [
                charts.Series("S3", [(i * 37) % 90 + 20 for i in range(30)]),
                charts.Series("RDS", [(i * 17) % 40 for i in range(30)]),
                charts.Series("EBS", [(i * 7) % 20 for i in range(30)]),
            ],
            unit="requests",
        ),
        "lines": charts.lines(
            "Answer time",
            days,
            [
                charts.Series("p50", [2 + (i % 5) * 0.4 for i in range(30)]),
                charts.Series("p99", [9 + (i * 13) % 11 for i in range(30)]),
            ],
            unit="ms",
        ),
        "strip": charts.calendar(
            "Rotations and expiries",
            [now.date() + timedelta(days=i) for i in range(90)],
            [
                charts.Due(now.date() + timedelta(days=i), ("rotate payments",) * (i % 4))
                for i in range(3, 80, 5)
            ],
        ),
        "spark": charts.sparkline([3, 5, 4, 8, 9, 4, 6, 12, 8], "Last nine hours, at most 12"),
        "picker": {
            "name": "principals",
            "label": "Users of the key",
            "url": reverse("styleguide") + "?options=1",
            "many": True,
            "picked": [("a", "role/app-prod")],
            "help": "From the account's IAM.",
        },
        "now": now,
        "soon": now + timedelta(days=12),
        "today": date.today(),  # noqa: DTZ011 - a sample
        "copies": [("curl", "curl https://..."), ("keystead", "keystead cloud-key show x"), ("JSON", "{}")],
        "tabs": [("Overview", "#", True), ("Usage", "#", False), ("Access", "#", False)],
        "help": {
            "title": "What this page is",
            "words": ("Every part of the product's pages.",),
            "links": (("Architecture", "architecture"),),
        },
    }
    if "options" in request.GET:
        found = [(n, f"role/{n}", "123456789012") for n in ("app-prod", "app-test", "backup")]
        return page(request, "parts/options.html", {"options": found})
    return page(request, "vault/styleguide.html", context)


def _sample_list(now: Any, rows: list[Any] | None = None, chips: list[Chip] | None = None) -> ListPage:
    sample = [
        SimpleNamespace(
            name="payments-prod",
            under="alias/payments-prod",
            state="ENABLED",
            used=now - timedelta(minutes=2),
            version=4,
        ),
        SimpleNamespace(
            name="archive-2024",
            under="alias/archive-2024",
            state="DISABLED",
            used=now - timedelta(days=214),
            version=1,
        ),
        SimpleNamespace(name="old-hr", under="", state="PENDING_DELETION", used=None, version=12),
    ]
    return ListPage(
        id="sample",
        path="/styleguide/",
        rows=sample if rows is None else rows,
        total=12480,
        first=1,
        heads=[Head(c, "?" if c.ordering else "", "ascending" if c.name == "name" else "") for c in COLUMNS],
        columns=COLUMNS,
        sorts=[Sort("name", "Name, ascending", True), Sort("-name", "Name, descending", False)],
        shown=frozenset(c.name for c in COLUMNS),
        menus=[
            (FilterMenu("state", "State", (("ENABLED", "Enabled"), ("DISABLED", "Disabled"))), ["ENABLED"])
        ],
        chips=[Chip("State", "Enabled", "?")] if chips is None else chips,
        search="",
        kept=[],
        next_url="?",
        previous_url="",
        first_url="",
        query="",
        selectable=True,
        row_template="vault/styleguide_row.html",
        extra={"empty_words": "What to do next stands here.", "empty_url": "#", "empty_button": "Create key"},
    )
