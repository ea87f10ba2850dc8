"""Taking over a key that exists in an HSM, for the appliance admin: what it is to become, what was checked, confirmation."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.urls import reverse
from django.utils.text import format_lazy
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.services import hsm_keys
from cloudkeys.services.invocations import MOST, ROTATE_AT
from vault.errors import Conflict, Unavailable, ValidationFailed
from vault.permissions import Permission
from vault.services import hsm as service
from vault.web.forms import PageForm, submit
from vault.web.frame import appliance_page, done, page

HELP = {
    "title": gettext_noop("What taking over means"),
    "words": (
        (
            gettext_noop(
                "AWS's reference proxy uses AES keys in an HSM, which AWS knows by their label. Taken over, such a key stays where it "
                "is and keeps its label as external key id: nothing changes in AWS, and no data is encrypted anew."
            )
        ),
        (
            gettext_noop(
                "What the proxy encrypted stays readable for as long as the key exists. Point the key store's proxy URI at Keystead "
                "once its keys are taken over."
            )
        ),
        (
            gettext_noop(
                "AES-GCM with random nonces is safe for 2^32 uses of one key. Nobody counted those of the proxy: say how many there "
                "were at most, or the key counts as used up, and a new one encrypts from the start."
            )
        ),
    ),
    "links": ((gettext_noop("Adopting keys of AWS's reference proxy"), "hsm"),),
}


class AdoptForm(PageForm):
    """Which key, where it goes, and how it was used."""

    key_set = forms.ChoiceField(help_text=gettext_lazy("External key stores whose keys live in this HSM."))
    key_label = forms.CharField(
        max_length=128,
        label=gettext_lazy("Label in the HSM"),
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false"}),
        help_text=gettext_lazy("CKA_LABEL. AWS knows the key by it; it becomes the external key id."),
    )
    cka_id = forms.CharField(
        max_length=128,
        required=False,
        label="CKA_ID",
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false"}),
        help_text=gettext_lazy("Hex. Only where several keys have this label."),
    )
    name = forms.CharField(max_length=250, help_text=gettext_lazy("What people call it here."))
    region = forms.CharField(
        max_length=32,
        widget=forms.TextInput(attrs={"placeholder": "eu-west-1", "spellcheck": "false"}),
        help_text=gettext_lazy("Of its KMS key."),
    )
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    fixed_metadata = forms.CharField(
        max_length=64,
        required=False,
        label=gettext_lazy("Fixed ciphertext metadata"),
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false"}),
        help_text=gettext_lazy(
            "ciphertext_metadata_b64 of the proxy's settings; empty where that is commented out."
        ),
    )
    prior_invocations = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=MOST,
        label=gettext_lazy("Encryptions so far, at most"),
        help_text=format_lazy(
            gettext_lazy(
                "Empty: not known. It then counts as used up, and so it does from {limit} on: a new key encrypts at once, "
                "and this one only decrypts."
            ),
            limit=f"{ROTATE_AT:,}",
        ),
    )

    def __init__(self, *args: Any, key_sets: list[Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        first = [("", gettext("Choose one"))] if len(key_sets) > 1 else []
        self.fields["key_set"].choices = [  # type: ignore[attr-defined]
            *first,
            *((str(each.pk), f"{each.vault.name}: {each.name}") for each in key_sets),
        ]


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    given = dict(values)
    return {"key_set_id": UUID(given.pop("key_set")), "label": given.pop("key_label"), **given}


def _check(request: Any, form: AdoptForm) -> hsm_keys.AdoptionCheck | None:
    """All checks that change nothing; what is wrong is put on the form."""
    if not form.is_valid():
        form.status = 422
        return None
    try:
        return hsm_keys.check_adoption(request.actor, **_arguments(form.values))
    except ValidationFailed as error:
        form.refuse(error)
        form.status = 422
    except (Conflict, Unavailable) as error:
        form.problem = error
        form.status = 409
    return None


@appliance_page(Permission.APPLIANCE_MANAGE_HSMS)
def hsm_adopt(request: Any, connection_id: UUID) -> HttpResponse:
    """GET, POST /appliance/hsms/<id>/adopt/: `act` check looks only, `act` adopt does it."""
    row = service.view_connection(request.actor, connection_id)
    key_sets = hsm_keys.adopting_key_sets(row)
    form = AdoptForm(request.POST or None, key_sets=key_sets)
    back = reverse("hsm-tab", args=[row.pk, "keys"])
    checked = None
    if request.method == "POST" and request.POST.get("act") == "adopt":
        made = submit(
            request, form, lambda values: hsm_keys.adopt_cloud_key(request.actor, **_arguments(values))
        )
        if made is not None:
            how = (
                gettext("A new key encrypts from now on; the old one decrypts.")
                if made.rotated
                else gettext("It goes on as it is.")
            )
            told = " ".join(
                [
                    gettext("%(name)s is taken over. %(how)s") % {"name": made.key.name, "how": how},
                    *made.warnings,
                ]
            )
            return done(request, back, told)
    elif request.method == "POST":
        checked = _check(request, form)
    context = {"row": row, "form": form, "key_sets": key_sets, "checked": checked, "back": back, "help": HELP}
    return page(request, "cloudkeys/hsm/adopt.html", context, status=form.status)
