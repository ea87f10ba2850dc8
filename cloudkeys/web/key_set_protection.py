"""How a key set's keys are protected: what new versions get, which keys still have versions under another protection, changing it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.models import KeySet
from cloudkeys.services import key_sets
from cloudkeys.services.hsm_choice import HsmChoice, hsm_choices, why_not
from cloudkeys.services.hsm_replication import DEVICE_BOUND, LEFT_TO_US, REPLICATED, WORDS, replications_of
from cloudkeys.services.protection import Protections, keys_with_old_versions, protections_of
from cloudkeys.services.wizard import PROTECTION_FACTS, PROTECTIONS
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import PageForm, submit
from vault.web.frame import done, page

MANAGE = Permission.KEY_SETS_MANAGE
MOST_KEYS = 50
HELP = {
    "title": gettext_noop("What changing the protection does"),
    "words": (
        (
            gettext_noop(
                "New versions of the set's keys are made under the new protection, from now on. Versions that exist keep theirs: AWS "
                "holds ciphertext under them and may send it back at any time."
            )
        ),
        (
            gettext_noop(
                "A key goes on encrypting with its present version until it is rotated. Rotating moves what is encrypted from then "
                "on; what was encrypted before stays readable under the old version."
            )
        ),
        (
            gettext_noop(
                "How keys reach all members of the HSM holds for keys made from now on, too: those that exist stay as they were made. "
                "Where an HSM wraps the set's keys, their wrapping moves to a key of the new kind at once."
            )
        ),
    ),
    "links": ((gettext_noop("How keys are protected"), "hsm"),),
}


def replication_field() -> forms.ChoiceField:
    """How keys reach all members of the HSM."""
    return forms.ChoiceField(
        choices=[(name, words[0]) for name, words in WORDS.items()],
        widget=forms.RadioSelect,
        required=False,
        initial=LEFT_TO_US,
        label=gettext("How a key gets to all members of the HSM"),
    )


class ProtectionFields(PageForm):
    """Protection and HSM; what no HSM of the vault can do is shown and cannot be chosen."""

    protection = forms.ChoiceField(choices=KeySet.Protection.choices, widget=forms.RadioSelect)
    hsm_connection = forms.ChoiceField(
        required=False,
        label="HSM",
        help_text=gettext_lazy("Those that the appliance admin allows this vault to use."),
    )
    hsm_replication = replication_field()

    def __init__(self, *args: Any, vault: Vault, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.choices = hsm_choices(vault)
        self.fields["hsm_connection"].choices = hsm_options(self.choices)  # type: ignore[attr-defined]


def hsm_options(choices: list[HsmChoice]) -> list[tuple[str, str]]:
    """The picker's options: those that can do anything; nothing is chosen beforehand where there are several."""
    able = [each for each in choices if each.possible]
    first = [("", gettext("Choose one"))] if len(able) != 1 else []
    return [*first, *((str(each.id), each.words) for each in able)]


def protection_options(form: Any, choices: list[HsmChoice]) -> list[dict[str, Any]]:
    """The protections as the template draws them."""
    found = []
    for option in form["protection"]:
        value = option.data["value"]
        reason = why_not(value, choices)
        found.append(
            {
                "option": option,
                "words": PROTECTIONS[value],
                "facts": PROTECTION_FACTS[value],
                "why_not": reason,
                "offered": not reason,
            }
        )
    return found


def replication_options(form: Any) -> list[dict[str, Any]]:
    """The ways for keys to reach all members, as the template draws them."""
    return [{"option": option, "words": WORDS[option.data["value"]][1]} for option in form["hsm_replication"]]


def _how_they_got_there(row: KeySet, standing: Protections) -> list[tuple[int, str]]:
    found = replications_of(row, resident=KeySet.Protection.HSM_RESIDENT in standing.versions)
    told = (
        (REPLICATED, gettext("copied by Keystead: extractable for a moment, before first use")),
        (DEVICE_BOUND, gettext("device-bound: never extractable")),
    )
    return [(found[name], words) for name, words in told if found.get(name)]


def protection_tab(request: Any, vault: Vault, row: KeySet, context: dict[str, Any]) -> HttpResponse:
    """GET, POST /v/<id>/key-sets/<id>/protection/"""
    initial = {
        "protection": row.protection,
        "hsm_connection": str(row.hsm_connection_id or ""),
        "hsm_replication": row.hsm_replication,
        "revision": row.revision,
    }
    form = ProtectionFields(request.POST or None, vault=vault, initial=initial)
    if request.method == "POST":
        request.actor.require(MANAGE, row)

        def work(values: dict[str, Any]) -> KeySet:
            software = values["protection"] == KeySet.Protection.SOFTWARE
            chosen = "" if software else values["hsm_connection"]
            changes = {
                "protection": values["protection"],
                "hsm_connection": UUID(chosen) if chosen else None,
                "hsm_replication": None if software else values["hsm_replication"] or None,
            }
            return key_sets.update_key_set(request.actor, row.pk, changes, expected_revision=form.expected)

        if submit(request, form, work, target=row) is not None:
            told = gettext("Saved. New versions take it from now on; rotate keys to move what they encrypt.")
            return done(request, request.path, told)
    standing = protections_of(row)
    old = list(keys_with_old_versions(row).order_by("name")[: MOST_KEYS + 1])
    context.update(
        form=form,
        protections=protection_options(form, form.choices),
        replications=replication_options(form),
        replication=WORDS[row.hsm_replication][0],
        got_there=_how_they_got_there(row, standing),
        connections=[each for each in form.choices if each.possible],
        standing=standing,
        names=dict(KeySet.Protection.choices),
        old_keys=old[:MOST_KEYS],
        more_keys=len(old) > MOST_KEYS,
        help=HELP,
    )
    context["counts"] = [
        (context["names"].get(name, name), number, name == row.protection)
        for name, number in sorted(standing.versions.items())
    ]
    return page(request, "cloudkeys/key_sets/protection.html", context, status=form.status)
