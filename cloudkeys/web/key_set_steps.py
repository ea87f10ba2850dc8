"""The steps of the key set wizard as forms, and what was typed in them as the values of a service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys import naming
from cloudkeys.models import AwsStoreLink, CspAccount, KeySet
from cloudkeys.services.hsm_choice import hsm_choices
from cloudkeys.services.stores import LinkRequest
from cloudkeys.services.wizard import STEPS, check_key_set
from cloudkeys.web.csp_accounts import group_choices
from cloudkeys.web.key_set_protection import (
    hsm_options,
    protection_options,
    replication_field,
    replication_options,
)
from cloudkeys.web.schedules import ExpirationFields, RotationFields
from vault.actors import Actor
from vault.errors import ValidationFailed
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import PageForm

LABELS = {
    "what": gettext_noop("Name"),
    "account": gettext_noop("Account"),
    "store": gettext_noop("External key store"),
    "protection": gettext_noop("Protection"),
    "schedule": gettext_noop("Schedule"),
    "summary": gettext_noop("Summary"),
}
MOST_REGIONS = 40
_LINK_FIELD = re.compile(r"links\[(\d+)\]\.(\w+)")
_LINK_NAMES = {
    "region": "region",
    "linked": "by",
    "connectivity": "way",
    "vpc_endpoint_service_name": "service",
    "endpoint": "endpoint",
}


class StepForm(PageForm):
    """A step. `vault`, `actor` and the draft's `account` are what a step may need to know."""

    def __init__(
        self, *args: Any, vault: Vault, actor: Actor, account: CspAccount | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.vault, self.actor, self.account = vault, actor, account

    @property
    def typed(self) -> dict[str, str]:
        """The fields as text, right or wrong, as a draft keeps them."""
        return {
            name: str(self.data.get(name, ""))
            for name in self.fields
            if name not in ("once", "revision") and name in self.data
        }

    def service_values(self) -> dict[str, Any]:
        """What this step says to `create_key_set`, links still as mappings."""
        raise NotImplementedError


class WhatForm(StepForm):
    """Type, name, description, admin group."""

    type = forms.ChoiceField(choices=KeySet.Type.choices, widget=forms.RadioSelect, initial=KeySet.Type.AWS)
    name = forms.CharField(
        max_length=100, help_text=gettext_lazy("Such as payments-hyok. AWS key stores take it as their name.")
    )
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    group = forms.ChoiceField(
        required=False,
        label=gettext_lazy("Admin group"),
        help_text=gettext_lazy("Cloud admins outside this group can look, but change nothing."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["group"].choices = group_choices(self.vault)  # type: ignore[attr-defined]

    def service_values(self) -> dict[str, Any]:
        """Type, name, description, group."""
        given = self.cleaned_data
        group = UUID(given["group"]) if given["group"] else None
        return {
            "type": given["type"],
            "name": given["name"],
            "description": given["description"],
            "group": group,
        }


class AccountForm(StepForm):
    """The CSP account that Keystead works through, or none."""

    csp_account = forms.ChoiceField(
        required=False, widget=forms.RadioSelect, label=gettext_lazy("CSP account"), initial=""
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rows = (
            self.actor.visible(CspAccount).filter(vault=self.vault).select_related("group").order_by("name")
        )
        self.accounts = {str(row.pk): row for row in rows[:200]}
        self.fields["csp_account"].choices = [  # type: ignore[attr-defined]
            *((pk, row.name) for pk, row in self.accounts.items()),
            ("", "None"),
        ]
        if len(self.accounts) == 1:
            self.initial.setdefault("csp_account", next(iter(self.accounts)))

    def options(self) -> list[dict[str, Any]]:
        """The accounts as the template draws them; those of other groups cannot be chosen, and say why."""
        bound = {str(option.data["value"]): option for option in self["csp_account"]}
        return [
            {
                "option": bound[pk],
                "row": row,
                "may": self.actor.may(Permission.KEY_SETS_MANAGE, row),
            }
            for pk, row in self.accounts.items()
        ] + [{"option": bound[""], "row": None, "may": True}]

    def service_values(self) -> dict[str, Any]:
        """The account's id."""
        given = self.cleaned_data["csp_account"]
        return {"csp_account": UUID(given) if given else None}


class StoreForm(StepForm):
    """External key store or not; path; the AWS key store of each region."""

    external = forms.ChoiceField(
        choices=(("yes", "Yes"), ("no", "No")),
        widget=forms.RadioSelect,
        initial="yes",
        label=gettext_lazy("Use as external key store"),
    )
    path = forms.ChoiceField(
        choices=(
            ("own", gettext_lazy("Made for it")),
            ("given", gettext_lazy("One of your choice")),
            ("none", "None"),
        ),
        widget=forms.RadioSelect,
        initial="own",
        label=gettext_lazy("Path prefix"),
    )
    path_prefix = forms.CharField(
        required=False,
        max_length=117,
        label=gettext_lazy("Prefix"),
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false"}),
        help_text=gettext_lazy("Such as /payments."),
    )
    rows = forms.IntegerField(
        required=False, min_value=1, max_value=MOST_REGIONS, initial=1, widget=forms.HiddenInput
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = str(self.data.get("rows", "") if self.is_bound else self.initial.get("rows", ""))
        self.count = min(max(int(given), 1), MOST_REGIONS) if given.isascii() and given.isdigit() else 1
        by = [("keystead", "Keystead"), ("person", gettext("I, in its console"))]
        self.linkable = self.account is not None
        for index in range(self.count):
            region = self.account.default_region if self.account is not None and index == 0 else ""
            self.fields[f"region_{index}"] = forms.CharField(
                required=False,
                max_length=32,
                label=gettext("Region"),
                initial=region,
                widget=forms.TextInput(
                    attrs={"list": "region-names", "placeholder": "eu-west-1", "spellcheck": "false"}
                ),
            )
            self.fields[f"by_{index}"] = forms.ChoiceField(
                choices=by if self.linkable else by[1:],
                required=False,
                label=gettext("Who makes it in AWS"),
                initial="keystead" if self.linkable else "person",
            )
            self.fields[f"way_{index}"] = forms.ChoiceField(
                choices=AwsStoreLink.Connectivity.choices,
                required=False,
                label=gettext("How AWS reaches Keystead"),
                initial=AwsStoreLink.Connectivity.PUBLIC_ENDPOINT,
            )
            self.fields[f"service_{index}"] = forms.CharField(
                required=False,
                max_length=64,
                label=gettext("VPC endpoint service name"),
                widget=forms.TextInput(
                    attrs={
                        "class": "mono",
                        "spellcheck": "false",
                        "placeholder": "com.amazonaws.vpce.eu-west-1.vpce-svc-…",
                    }
                ),
                help_text=gettext("From the VPC console, Endpoint services."),
            )
            self.fields[f"endpoint_{index}"] = forms.CharField(
                required=False,
                max_length=128,
                label=gettext("Endpoint"),
                widget=forms.TextInput(
                    attrs={
                        "class": "mono",
                        "spellcheck": "false",
                        "placeholder": settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT,
                    }
                ),
                help_text=gettext(
                    "Empty: this installation's. For a VPC endpoint service its private DNS name, with https://."
                ),
            )

    @property
    def region_rows(self) -> list[dict[str, Any]]:
        """The bound fields region by region, for the template."""
        names = ("region", "by", "way", "service", "endpoint")
        return [{name: self[f"{name}_{index}"] for name in names} for index in range(self.count)]

    def clean(self) -> dict[str, Any]:
        """A store without any region would be a store that no AWS service can use."""
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("external") == "yes":
            if not any(cleaned.get(f"region_{index}") for index in range(self.count)):
                self.add_error(
                    "region_0", gettext("Name at least one region in which AWS is to use these keys.")
                )
            if cleaned.get("path") == "given" and not cleaned.get("path_prefix"):
                self.add_error(
                    "path_prefix",
                    gettext("The prefix is missing. Give one such as /payments, or choose another way."),
                )
        return cleaned

    def service_values(self) -> dict[str, Any]:
        """Whether, path, links. Rows without a region count for nothing."""
        given = self.cleaned_data
        if given["external"] != "yes":
            return {"use_as_external_key_store": False}
        prefix = {"own": None, "none": ""}.get(given["path"], given["path_prefix"].strip())
        links = []
        for index in self.filled:
            vpc = given[f"way_{index}"] == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE
            link = {
                "region": given[f"region_{index}"].strip(),
                "linked": given[f"by_{index}"] == "keystead",
                "connectivity": given[f"way_{index}"] or AwsStoreLink.Connectivity.PUBLIC_ENDPOINT,
                "vpc_endpoint_service_name": given[f"service_{index}"].strip() if vpc else "",
                "endpoint": given[f"endpoint_{index}"].strip(),
            }
            links.append(link)
        return {"use_as_external_key_store": True, "path_prefix": prefix, "links": links}

    @property
    def filled(self) -> list[int]:
        """The rows that name a region."""
        return [index for index in range(self.count) if self.cleaned_data.get(f"region_{index}")]

    def refuse(self, error: ValidationFailed) -> None:
        """As PageForm; a refusal of links[i] lands on the row that it came from."""
        told = error.errors or [{"field": error.field, "message": error.message, "cure": error.cure}]
        super().refuse(
            ValidationFailed(
                error.message, errors=[{**row, "field": self._own(row["field"])} for row in told]
            )
        )

    def _own(self, name: str) -> str:
        found = _LINK_FIELD.fullmatch(name)
        if found is None or found[2] not in _LINK_NAMES:
            return name
        return f"{_LINK_NAMES[found[2]]}_{self.filled[int(found[1])]}"


class ProtectionForm(StepForm):
    """How the keys are protected, and by which HSM; what no HSM of the vault can do is shown and cannot be chosen."""

    protection = forms.ChoiceField(
        choices=KeySet.Protection.choices, widget=forms.RadioSelect, initial=KeySet.Protection.SOFTWARE
    )
    hsm_connection = forms.ChoiceField(
        required=False,
        label="HSM",
        help_text=gettext_lazy("Those that the appliance admin allows this vault to use."),
    )
    hsm_replication = replication_field()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.choices = hsm_choices(self.vault)
        self.fields["hsm_connection"].choices = hsm_options(self.choices)  # type: ignore[attr-defined]

    def options(self) -> list[dict[str, Any]]:
        """The protections as the template draws them."""
        return protection_options(self, self.choices)

    def ways(self) -> list[dict[str, Any]]:
        """The ways for keys to reach all members of the HSM, likewise."""
        return replication_options(self)

    def service_values(self) -> dict[str, Any]:
        """The protection; the HSM where one is needed, and how keys reach its members."""
        given = self.cleaned_data
        software = given["protection"] == KeySet.Protection.SOFTWARE
        chosen = "" if software else given["hsm_connection"]
        return {
            "protection": given["protection"],
            "hsm_connection": UUID(chosen) if chosen else None,
            "hsm_replication": None if software else given["hsm_replication"] or None,
        }


class ScheduleForm(StepForm, RotationFields, ExpirationFields):
    """When keys without a schedule of their own rotate and end."""

    def service_values(self) -> dict[str, Any]:
        """Both, as JSON."""
        return {"rotation_schedule": self.rotation_schedule(), "expiration": self.expiration()}


FORMS: dict[str, type[StepForm]] = {
    "what": WhatForm,
    "account": AccountForm,
    "store": StoreForm,
    "protection": ProtectionForm,
    "schedule": ScheduleForm,
}


class Walk:
    """All steps of a draft as they stand: what each says, which are right, and where the first wrong one is."""

    def __init__(self, actor: Actor, vault: Vault, steps: Mapping[str, Any]) -> None:
        self.actor, self.vault, self.steps = actor, vault, steps
        self.values: dict[str, Any] = {}
        self.right: dict[str, bool] = {}
        for step in STEPS:
            kept = steps.get(step)
            if kept is None:
                self.right[step] = False
                continue
            form = self.form(step, kept["fields"])
            self.right[step] = self.check(step, form)
            if self.right[step]:
                self.values.update(form.service_values())

    def form(self, step: str, data: Mapping[str, Any] | None = None, **more: Any) -> StepForm:
        """The form of a step, bound when there is data."""
        account = None
        if step == "store" and self.values.get("csp_account") is not None:
            account = CspAccount.objects.filter(vault=self.vault, pk=self.values["csp_account"]).first()
        return FORMS[step](data, vault=self.vault, actor=self.actor, account=account, **more)

    def check(self, step: str, form: StepForm) -> bool:
        """Whether the form is right in itself and for the service; refusals are put on it."""
        if not form.is_valid():
            return False
        found = check_key_set(self.actor, self.vault, {**self.values, **form.service_values()}, (step,))
        for problem in found.problems:
            form.refuse(ValidationFailed(problem.message, field=problem.field, cure=problem.cure))
        return found.ok

    @property
    def first_wrong(self) -> str | None:
        """The first step that is to be done yet."""
        return next((step for step in STEPS if not self.right[step]), None)

    def create_values(self) -> dict[str, Any]:
        """The arguments of `create_key_set`; only when nothing is wrong."""
        links = [LinkRequest(**link) for link in self.values.get("links", ())]
        given = {name: value for name, value in self.values.items() if name != "hsm_connection" or value}
        return {**given, "links": links}


def regions(account: CspAccount | None) -> list[str]:
    """Regions to propose."""
    return sorted(naming.regions_of(account.partition if account is not None else "aws"))
