"""Form fields of rotation schedules and expirations, and back: what cloudkeys.schedules keeps as JSON, as people fill it in.

Draw them with templates/cloudkeys/rotation_fields.html and expiration_fields.html, which take `form`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.utils.translation import gettext_lazy

from cloudkeys.schedules import (
    MAX_WINDOW_DAYS,
    MIN_WINDOW_DAYS,
    UNITS,
    Expiration,
    Schedule,
    parse_expiration,
    parse_schedule,
)
from vault.errors import ValidationFailed
from vault.web.forms import PageForm

_ROTATION_FIELDS = {
    "rotation_schedule.kind": "rotation",
    "rotation_schedule.every": "every",
    "rotation_schedule.unit": "unit",
    "rotation_schedule.hour": "hour",
    "rotation_schedule.time_zone": "time_zone",
    "expiration.kind": "ending",
    "expiration.days": "days",
    "expiration.at": "at",
    "expiration.then": "then",
    "expiration.window_days": "window_days",
}


class _Mapped(PageForm):
    """Refusals of a schedule's parts land on the fields that people see."""

    def refuse(self, error: ValidationFailed) -> None:
        """As PageForm, with the names of schedules' parts translated."""
        told = error.errors or [{"field": error.field, "message": error.message, "cure": error.cure}]
        renamed = [
            {**row, "field": _ROTATION_FIELDS.get(row.get("field", ""), row.get("field", ""))} for row in told
        ]
        super().refuse(ValidationFailed(error.message, errors=renamed))


class RotationFields(_Mapped):
    """Never, or every so many days, weeks or months."""

    rotation = forms.ChoiceField(
        choices=(("none", gettext_lazy("Never by itself")), ("every", gettext_lazy("On a schedule"))),
        widget=forms.RadioSelect,
        initial="none",
    )
    every = forms.IntegerField(
        required=False, min_value=1, max_value=3650, initial=90, label=gettext_lazy("Every")
    )
    unit = forms.ChoiceField(
        required=False, choices=[(unit, unit) for unit in UNITS], initial="days", label=gettext_lazy("Unit")
    )
    hour = forms.TypedChoiceField(
        required=False,
        coerce=int,
        choices=[(hour, f"{hour:02}:00") for hour in range(24)],
        initial=3,
        label=gettext_lazy("At"),
    )
    time_zone = forms.CharField(
        required=False,
        max_length=64,
        initial="UTC",
        label=gettext_lazy("Time zone"),
        help_text=gettext_lazy("Such as Europe/Berlin."),
    )

    def clean(self) -> dict[str, Any]:
        """The schedule as a whole."""
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors.keys() & {"rotation", "every", "unit", "hour", "time_zone"}:
            try:
                parse_schedule(self.rotation_schedule())
            except ValidationFailed as error:
                self.refuse(error)
        return cleaned

    def rotation_schedule(self) -> dict[str, Any]:
        """As services take it."""
        given = self.cleaned_data
        if given.get("rotation") != "every":
            return {"kind": "none"}
        hour = given.get("hour")
        return {
            "kind": "every",
            "every": given.get("every"),
            "unit": given.get("unit") or "days",
            "hour": hour if isinstance(hour, int) else 3,
            "time_zone": given.get("time_zone") or "UTC",
        }


class ExpirationFields(_Mapped):
    """Never, some days after a key was made, or on a day."""

    ending = forms.ChoiceField(
        choices=(
            ("never", gettext_lazy("Never")),
            ("after", gettext_lazy("Some days after it was made")),
            ("on", gettext_lazy("On a day")),
        ),
        widget=forms.RadioSelect,
        initial="never",
        label=gettext_lazy("Expiry"),
    )
    days = forms.IntegerField(
        required=False, min_value=1, max_value=36500, initial=365, label=gettext_lazy("Days after")
    )
    at = forms.DateField(
        required=False, widget=forms.DateInput(attrs={"type": "date"}), label=gettext_lazy("Day")
    )
    then = forms.ChoiceField(
        required=False,
        choices=(
            ("disable", gettext_lazy("Disable the key")),
            ("delete", gettext_lazy("Schedule its deletion")),
        ),
        initial="disable",
        label=gettext_lazy("Then"),
        help_text=gettext_lazy(
            "A disabled key can be enabled again. Data under a deleted key is lost for good."
        ),
    )
    window_days = forms.IntegerField(
        required=False,
        min_value=MIN_WINDOW_DAYS,
        max_value=MAX_WINDOW_DAYS,
        initial=MAX_WINDOW_DAYS,
        label=gettext_lazy("Waiting time before a deletion"),
    )

    def clean(self) -> dict[str, Any]:
        """The expiration as a whole."""
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors.keys() & {"ending", "days", "at", "then", "window_days"}:
            try:
                if cleaned.get("ending") == "on" and not cleaned.get("at"):
                    raise ValidationFailed("A day is missing.", field="at", cure="Choose the day.")
                parse_expiration(self.expiration())
            except ValidationFailed as error:
                self.refuse(error)
        return cleaned

    def expiration(self) -> dict[str, Any]:
        """As services take it. A day begins in the zone of the schedule beside it, where there is one."""
        given = self.cleaned_data
        kind = given.get("ending")
        if kind not in ("after", "on"):
            return {"kind": "never"}
        then = given.get("then") or "disable"
        found: dict[str, Any] = {"kind": kind, "then": then}
        if then == "delete":
            found["window_days"] = given.get("window_days") or MAX_WINDOW_DAYS
        if kind == "after":
            found["days"] = given.get("days")
        elif given.get("at"):
            found["at"] = datetime.combine(given["at"], time(), tzinfo=UTC).isoformat()
        return found


def rotation_initial(stored: Mapping[str, Any], zone: str = "UTC") -> dict[str, Any]:
    """What RotationFields show for a stored schedule; `zone` is proposed where there is none."""
    schedule: Schedule | None = parse_schedule(stored)
    if schedule is None:
        return {"rotation": "none", "time_zone": zone}
    return {
        "rotation": "every",
        "every": schedule.every,
        "unit": schedule.unit,
        "hour": schedule.hour,
        "time_zone": schedule.time_zone,
    }


def expiration_initial(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What ExpirationFields show for a stored expiration."""
    expiration: Expiration | None = parse_expiration(stored)
    if expiration is None:
        return {"ending": "never"}
    shown: dict[str, Any] = {"then": expiration.then, "window_days": expiration.window_days}
    if expiration.at is not None:
        return {**shown, "ending": "on", "at": expiration.at.astimezone(ZoneInfo("UTC")).date()}
    return {**shown, "ending": "after", "days": expiration.days}
