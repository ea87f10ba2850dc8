"""Vaults, for the appliance admin: list, make, look at, describe, switch off and on. (Their end: cloudkeys/web/vault_end.py.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Count, Q
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from vault.api.vaults import VAULTS
from vault.errors import Conflict
from vault.generations import Confirmation, wait_for_generation
from vault.models import Membership, Role, Vault
from vault.permissions import Permission
from vault.services import vaults
from vault.web import once
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import Can, appliance_page, can, done, page, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list

MANAGE = Permission.APPLIANCE_MANAGE_VAULTS
COLUMNS = (
    Column("name", gettext_noop("Name"), ordering="name", always=True),
    Column("state", gettext_noop("State")),
    Column("admins", gettext_noop("Vault admins"), num=True),
    Column("members", gettext_noop("Members"), num=True),
    Column("created", gettext_noop("Created"), ordering="created_at"),
    Column("id", gettext_noop("Id"), shown=False),
)
MENUS = (
    FilterMenu(
        "state", gettext_noop("State"), tuple((str(v), str(label)) for v, label in Vault.State.choices)
    ),
    FilterMenu(
        "blocked",
        gettext_noop("Blocked"),
        (("true", gettext_noop("Blocked")), ("false", gettext_noop("Not blocked"))),
        many=False,
    ),
)
HELP = {
    "title": gettext_noop("What a vault is"),
    "words": (
        (
            gettext_noop(
                "A vault is a tenant: its own people, CSP accounts, key sets and keys, under a key encryption key of its own. "
                "What is in one vault cannot be seen from another."
            )
        ),
        gettext_noop(
            "As appliance admin you make vaults and switch them off and on. You see no keys in a vault "
            "unless you are a member of it."
        ),
    ),
    "links": (
        (gettext_noop("Who may do what"), "permissions"),
        (gettext_noop("Architecture"), "architecture"),
    ),
}


class VaultForm(PageForm):
    """Name and description."""

    name = forms.CharField(
        max_length=100, help_text=gettext_lazy("Such as a department or a customer. It can be changed later.")
    )
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))


class NewVaultForm(VaultForm):
    """A vault and the person who will look after it."""

    type = forms.ChoiceField(choices=Vault.Type.choices, initial=Vault.Type.CLOUD_KEY_MANAGEMENT)
    admin_name = forms.CharField(max_length=150, label=gettext_lazy("Admin's name"))
    admin_email = forms.CharField(
        max_length=254,
        label=gettext_lazy("Admin's e-mail"),
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
        help_text=gettext_lazy(
            "They get a one-time password by mail, or you see it once, here, when no mail is set up. "
            "Somebody who has an account keeps their password."
        ),
    )
    field_order = ("type", "name", "description", "admin_name", "admin_email")


@appliance_page(MANAGE, methods=("GET", "HEAD"))
def vault_list(request: Any) -> HttpResponse:
    """GET /appliance/vaults/"""
    rows = vaults.visible_vaults(request.actor).annotate(
        members=Count("memberships"),
        admins=Count("memberships", filter=Q(memberships__role=Role.VAULT_ADMIN)),
    )
    found = read_list(
        request,
        rows,
        VAULTS,
        COLUMNS,
        id="vaults",
        row_template="vault/vaults/row.html",
        menus=MENUS,
        search_words=gettext("Search name or description"),
        empty_title=gettext("Make the first vault"),
        empty_words=gettext(
            "A vault holds the keys of one department or customer. Its admin signs in and sets up the rest."
        ),
        empty_url=reverse("vault-create"),
        empty_button=gettext("Create vault"),
    )
    return list_page(request, "vault/vaults/list.html", found, {"help": HELP})


@appliance_page(MANAGE)
def vault_create(request: Any) -> HttpResponse:
    """GET, POST /appliance/vaults/new/"""
    form = NewVaultForm(request.POST or None)
    if request.method == "POST":
        made = submit(request, form, lambda values: vaults.create_vault(request.actor, **values))
        if made is not None:
            url = reverse("vault-detail", args=[made.vault.pk])
            if made.one_time_password is None:
                told = (
                    gettext(" %(email)s was told by mail.") % {"email": made.admin.email}
                    if made.mailed
                    else ""
                )
                return done(
                    request,
                    url,
                    gettext("Vault %(name)s is made.%(told)s") % {"name": made.vault.name, "told": told},
                )
            once.remember(request, url)
            # Shown by this answer alone: it is stored nowhere, and sending the form again leads to the vault.
            secret = made.one_time_password.reveal_text()
            context = {"made": made, "secrets": [(gettext("One-time password"), secret)], "then": url}
            context["download"] = {
                "vault": made.vault.name,
                "email": made.admin.email,
                "one_time_password": secret,
            }
            context["plain"] = [(gettext("Sign-in name"), made.admin.email)]
            return page(request, "vault/vaults/created.html", {**context, "help": HELP})
    return page(request, "vault/vaults/create.html", {"form": form, "help": HELP}, status=form.status)


@appliance_page(MANAGE, methods=("GET", "HEAD"))
def vault_detail(request: Any, vault_id: UUID) -> HttpResponse:
    """GET /appliance/vaults/<id>/"""
    row = vaults.fetch_vault(request.actor, vault_id)
    admins = (
        Membership.objects.filter(vault=row, role=Role.VAULT_ADMIN)
        .select_related("user")
        .order_by("user__email")[:50]
    )
    context = {"row": row, "admins": admins, "help": HELP, **_possible(request, row)}
    return page(request, "vault/vaults/detail.html", context)


def _possible(request: Any, row: Vault) -> dict[str, Can]:
    living = row.state != Vault.State.DESTROYED
    gone = Can(False, gettext("This vault was destroyed."))
    return {
        "can_edit": Can(True) if living else gone,
        "can_block": can(request.actor, Permission.VAULT_BLOCK, row) if living else gone,
        "can_destroy": gone
        if not living
        else Can(True)
        if row.state == Vault.State.DISABLED
        else Can(False, gettext("Disable the vault first, and see who misses it.")),
    }


@appliance_page(MANAGE)
def vault_edit(request: Any, vault_id: UUID) -> HttpResponse:
    """GET, POST /appliance/vaults/<id>/edit/"""
    row = vaults.fetch_vault(request.actor, vault_id, Permission.VAULT_UPDATE)
    initial = {"name": row.name, "description": row.description, "revision": row.revision}
    form = VaultForm(request.POST or None, initial=initial)
    if request.method == "POST":
        changed = submit(
            request,
            form,
            lambda values: vaults.update_vault(
                request.actor, vault_id, expected_revision=form.expected, **values
            ),
            target=row,
        )
        if changed is not None:
            return done(request, reverse("vault-detail", args=[vault_id]), gettext("Saved."))
    return page(
        request, "vault/vaults/edit.html", {"form": form, "row": row, "help": HELP}, status=form.status
    )


@dataclass(frozen=True)
class Switch:
    """What one of the four switches says and does."""

    run: Callable[..., vaults.VaultChanged]
    title: str
    words: str
    button: str
    done: str
    consequences: tuple[tuple[str, str], ...]
    danger: bool = False
    reason: str = "optional"


SWITCHES = {
    "disable": Switch(
        vaults.disable_vault,
        gettext_noop("Disable {name}?"),
        gettext_noop("From now on every use of every key of this vault is refused."),
        gettext_noop("Disable vault"),
        gettext_noop("{name} is disabled."),
        (
            (
                "ban",
                gettext_noop("Data under its keys cannot be read by any service until it is enabled again."),
            ),
            ("lock", gettext_noop("Its keys, stores and accounts cannot be changed meanwhile.")),
            (
                "undo-2",
                gettext_noop(
                    "Nothing is lost: enabling brings everything back, each key as its own state says."
                ),
            ),
        ),
        danger=True,
        reason="required",
    ),
    "enable": Switch(
        vaults.enable_vault,
        gettext_noop("Enable {name}?"),
        gettext_noop("Its keys serve again, each as its own state says."),
        gettext_noop("Enable vault"),
        gettext_noop("{name} is enabled."),
        (
            (
                "circle-check",
                gettext_noop(
                    "Data becomes readable as soon as the nodes have confirmed, in most cases within a second."
                ),
            ),
        ),
    ),
    "block": Switch(
        vaults.block_vault,
        gettext_noop("Block {name}?"),
        gettext_noop("From now on every use of every key of this vault is refused by the data plane."),
        gettext_noop("Block vault"),
        gettext_noop("{name} is blocked."),
        (
            (
                "ban",
                gettext_noop("Every service that asks for a key gets a refusal, at once, on every node."),
            ),
            ("cloud", gettext_noop("Nothing changes in AWS, and everything can still be configured here.")),
            ("users", gettext_noop("Unblocking may need another person's consent.")),
        ),
        danger=True,
        reason="required",
    ),
    "unblock": Switch(
        vaults.unblock_vault,
        gettext_noop("Unblock {name}?"),
        gettext_noop("Its keys serve again, each as its own state says."),
        gettext_noop("Unblock vault"),
        gettext_noop("{name} is unblocked."),
        (("circle-check", gettext_noop("Data becomes readable as soon as the nodes have confirmed.")),),
    ),
}


@appliance_page(MANAGE)
def vault_switch(request: Any, vault_id: UUID, verb: str) -> HttpResponse:
    """GET, POST /appliance/vaults/<id>/disable/ and enable/"""
    row = vaults.fetch_vault(request.actor, vault_id)
    return _switch(request, row, verb, reverse("vault-detail", args=[vault_id]))


@vault_page(Permission.VAULT_BLOCK)
def vault_block(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/block/"""
    return _switch(request, vault, "block", reverse("vault-home", args=[vault.pk]))


@vault_page(Permission.VAULT_UNBLOCK)
def vault_unblock(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/unblock/"""
    return _switch(request, vault, "unblock", reverse("vault-home", args=[vault.pk]))


def _switch(request: Any, row: Vault, verb: str, back: str) -> HttpResponse:
    if row.state == Vault.State.DESTROYED:
        raise Conflict("This vault was destroyed.", cure="Nothing brings it back; make another.")
    switch = SWITCHES[verb]
    form = ConfirmForm(request.POST or None, reason=switch.reason)
    if request.method == "POST":
        changed = submit(
            request, form, lambda values: switch.run(request.actor, row.pk, reason=values["reason"])
        )
        if changed is not None:
            told = confirmation_words(wait_for_generation(changed.generation))
            return done(request, back, f"{gettext(switch.done).format(name=row.name)} {told}")
    return confirm(
        request,
        form,
        title=gettext(switch.title).format(name=row.name),
        words=switch.words,
        consequences=switch.consequences,
        button=switch.button,
        cancel=back,
        danger=switch.danger,
    )


def confirmation_words(confirmation: Confirmation) -> str:
    """How far the data plane has followed, in one sentence."""
    if confirmation.counted == 0:
        return gettext("No worker is running; the first to start begins with this state.")
    if confirmation.complete:
        return gettext("Confirmed by %(confirmed)s of %(counted)s workers in %(milliseconds)s ms.") % {
            "confirmed": confirmation.confirmed,
            "counted": confirmation.counted,
            "milliseconds": confirmation.milliseconds,
        }
    return gettext(
        "%(confirmed)s of %(counted)s workers have confirmed; the others close by themselves within "
        "%(bound_s)s s."
    ) % {
        "confirmed": confirmation.confirmed,
        "counted": confirmation.counted,
        "bound_s": f"{confirmation.bound_s:.0f}",
    }
