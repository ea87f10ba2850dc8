"""Forms on top of services: a service's errors land on the fields, what was typed stays, nothing is overwritten unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from django import forms
from django.http import HttpResponse
from django.utils.translation import gettext, gettext_lazy

from vault.errors import Conflict, NeedsApproval, StaleRevision, Unavailable, ValidationFailed
from vault.models import AuditEvent
from vault.web import once
from vault.web.frame import page

T = TypeVar("T")
REASON_LENGTH = 1000


@dataclass(frozen=True)
class Difference:
    """A field that somebody else has changed since the form was opened."""

    label: str
    theirs: str
    yours: str


class PageForm(forms.Form):
    """Base of every form. Hidden: `once`, which makes the form do its work once, and `revision`, what the person has read.

    `units` names what stands behind a field ({"days": "days"}); fields that may stay empty are marked so in their labels, except those of
    `one_of`, one of which is to be filled.
    """

    units: dict[str, str] = {}  # noqa: RUF012 - declared by each form
    one_of: frozenset[str] = frozenset()
    required_css_class = ""
    once = forms.CharField(required=False, widget=forms.HiddenInput, max_length=64)
    revision = forms.IntegerField(required=False, widget=forms.HiddenInput, min_value=0)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
        self.initial.setdefault("once", once.new_token())
        self.status = 200
        self.problem: Any = None
        self.stale: tuple[Difference, ...] | None = None
        self.changed_by = ""
        for field in self.fields.values():
            # Ten rows are Django's own default.
            if isinstance(field.widget, forms.Textarea) and field.widget.attrs.get("rows") == "10":
                field.widget.attrs["rows"] = "3"

    @property
    def values(self) -> dict[str, Any]:
        """What was typed, checked, without the hidden two."""
        return {name: value for name, value in self.cleaned_data.items() if name not in ("once", "revision")}

    @property
    def expected(self) -> int | None:
        """The revision that the person has read."""
        found: int | None = self.cleaned_data.get("revision")
        return found

    def refuse(self, error: ValidationFailed) -> None:
        """Put a service's refusals on the fields that they name."""
        told = error.errors or [{"field": "", "message": error.message, "cure": error.cure}]
        for row in told:
            name = row.get("field", "")
            words = f"{row['message']} {row.get('cure', '')}".strip()
            visible = name in self.fields and not self.fields[name].widget.is_hidden
            self.add_error(name if visible else None, words)


def submit(
    request: Any,
    form: PageForm,
    work: Callable[[dict[str, Any]], T],
    *,
    target: Any = None,
) -> T | None:
    """Check the form and do `work(values)`; None when something is wrong: render the form again with `form.status`.

    ValidationFailed goes to its fields, Conflict, NeedsApproval and Unavailable above the form, StaleRevision shows what somebody else made
    of `target` meanwhile and lets the person decide. Raises AlreadyDone (the frame leads on), and every other error.
    """
    if not form.is_valid():
        form.status = 422
        return None
    try:
        return once.run(request, form.cleaned_data.get("once") or "", lambda: work(form.values))
    except ValidationFailed as error:
        form.refuse(error)
        form.status = 422
    except StaleRevision as error:
        form.status = 412
        form.problem = error
        _explain(request, form, error, target)
    except (NeedsApproval, Conflict, Unavailable) as error:
        if isinstance(error, once.AlreadyDone):
            raise
        form.status = 409
        form.problem = error
    return None


def _explain(request: Any, form: PageForm, error: StaleRevision, target: Any) -> None:
    """Say what is there now, and take the newer revision, so that sending again is a decision."""
    form.stale = ()
    if target is None:
        return
    fresh = type(target)._default_manager.filter(pk=target.pk).first()
    if fresh is None:
        return
    found = []
    for name, typed in form.values.items():
        if not hasattr(fresh, name):
            continue
        theirs = getattr(fresh, name)
        if theirs != typed:
            found.append(Difference(str(form.fields[name].label or name), str(theirs), str(typed)))
    form.stale = tuple(found)
    last = (
        request.actor.visible(AuditEvent)
        .filter(target_id=str(target.pk), outcome=AuditEvent.Outcome.SUCCESS)
        .order_by("-sequence")
        .first()
    )
    form.changed_by = last.actor_name if last is not None else ""
    data = form.data.copy()  # type: ignore[attr-defined]
    data["revision"] = str(error.context.get("current", fresh.revision))
    form.data = data


class ConfirmForm(PageForm):
    """Asks before something that matters. `reason`: "", "optional" or "required"; `typed`: the name to be typed."""

    reason = forms.CharField(
        required=False,
        max_length=REASON_LENGTH,
        widget=forms.Textarea(attrs={"rows": "2"}),
        help_text=gettext_lazy("It stands in the audit record."),
    )
    typed_name = forms.CharField(
        required=False,
        max_length=300,
        widget=forms.TextInput(attrs={"autocomplete": "off", "data-typed-field": ""}),
    )

    def __init__(self, *args: Any, reason: str = "optional", typed: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.typed = typed
        if not reason:
            del self.fields["reason"]
        else:
            self.fields["reason"].required = reason == "required"
        if typed:
            self.fields["typed_name"].label = gettext("Type %(typed)s to confirm") % {"typed": typed}
            self.fields["typed_name"].required = True
        else:
            del self.fields["typed_name"]

    def clean_typed_name(self) -> str:
        """The name, letter for letter."""
        given = str(self.cleaned_data["typed_name"]).strip()
        if given != self.typed:
            raise forms.ValidationError(f"This is not the name. Type {self.typed}.")
        return given


def confirm(
    request: Any,
    form: ConfirmForm,
    *,
    title: str,
    words: str,
    button: str,
    cancel: str,
    consequences: Iterable[tuple[str, str]] = (),
    danger: bool = False,
    template: str = "parts/confirm.html",
    **context: Any,
) -> HttpResponse:
    """Ask: in the dialog when it was opened by a link with data-dialog, else as a page. `consequences` are (icon, sentence)."""
    values = {
        "form": form,
        "title": title,
        "words": words,
        "button": button,
        "cancel": cancel,
        "consequences": tuple(consequences),
        "danger": danger,
        "action": request.get_full_path(),
        **context,
    }
    in_dialog = bool(getattr(request, "htmx", None)) and request.htmx.target == "dialog"
    values["in_dialog"] = in_dialog
    response = page(
        request,
        "parts/confirm_page.html",
        {**values, "template": template},
        part=("dialog", template),
        status=form.status,
    )
    if form.status in (409, 412, 422):
        response["HX-Form"] = "1"
    return response
