"""Accounts of the installation, for the appliance admin: who can sign in; lost passwords; locking out and letting in again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import Count
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from vault.api.listing import Listing, choice, text
from vault.models import Membership, Vault
from vault.permissions import Permission
from vault.services import users
from vault.web import once
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import Can, appliance_page, done, page
from vault.web.lists import Column, FilterMenu, list_page, read_list
from vault.web.people import shown_once, with_factor

MANAGE = Permission.APPLIANCE_MANAGE_USERS
ACCOUNTS = Listing(
    orderings={"email": "email", "last_login": "last_login", "created_at": "date_joined"},
    default_ordering="email",
    filters=(
        text("search", ("email__icontains", "name__icontains"), "Part of the e-mail or the name."),
        choice("active", "is_active", ("True", "False"), "Only accounts that may, or may not, sign in."),
    ),
    in_vault=False,
)
COLUMNS = (
    Column("person", gettext_noop("Person"), ordering="email", always=True),
    Column("state", gettext_noop("State")),
    Column("vaults", gettext_noop("Vaults"), num=True),
    Column("last_sign_in", gettext_noop("Last sign-in")),
    Column("second_factor", gettext_noop("Second factor")),
    Column("since", gettext_noop("Made"), ordering="created_at", shown=False),
)
MENUS = (
    FilterMenu(
        "active",
        gettext_noop("State"),
        (("True", gettext_noop("May sign in")), ("False", gettext_noop("Disabled"))),
        many=False,
    ),
)
HELP = {
    "title": gettext_noop("Accounts and people"),
    "words": (
        gettext_noop(
            "An account is a person who can sign in. What they may do in a vault is their role there, which "
            "the vault's admins give."
        ),
        (
            gettext_noop(
                "Accounts come into being when somebody is added to a vault. Here you help with a lost password, and lock somebody out of "
                "everything at once."
            )
        ),
    ),
    "links": ((gettext_noop("Who may do what"), "permissions"),),
}


@appliance_page(MANAGE, methods=("GET", "HEAD"))
def account_list(request: Any) -> HttpResponse:
    """GET /appliance/accounts/"""
    rows = with_factor(users.accounts(request.actor), "pk").annotate(vaults=Count("memberships"))
    found = read_list(
        request,
        rows,
        ACCOUNTS,
        COLUMNS,
        id="accounts",
        row_template="vault/accounts/row.html",
        menus=MENUS,
        search_words=gettext("Search name or e-mail"),
        me=request.actor.user,
    )
    return list_page(request, "vault/accounts/list.html", found, {"help": HELP})


@appliance_page(MANAGE, methods=("GET", "HEAD"))
def account_detail(request: Any, user_id: UUID) -> HttpResponse:
    """GET /appliance/accounts/<id>/"""
    row = users.fetch_account(request.actor, user_id)
    own = row.pk == request.actor.user.pk
    context = {
        "row": row,
        "own": own,
        "factor": with_factor(users.accounts(request.actor).filter(pk=row.pk), "pk").get().second_factor,
        "memberships": Membership.objects.filter(user=row)
        .exclude(vault__state=Vault.State.DESTROYED)
        .select_related("vault")
        .order_by("vault__name")[:100],
        "can_disable": Can(False, gettext("This is your own account.")) if own else Can(True),
        "can_reset": Can(False, gettext("This is your own account: change your password instead."))
        if own
        else Can(True),
        "help": HELP,
    }
    return page(request, "vault/accounts/detail.html", context)


@appliance_page(MANAGE)
def account_reset(request: Any, user_id: UUID) -> HttpResponse:
    """GET, POST /appliance/accounts/<id>/one-time-password/"""
    row = users.fetch_account(request.actor, user_id)
    back = reverse("account-detail", args=[row.pk])
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        issued = submit(request, form, lambda values: users.issue_one_time_password(request.actor, row.email))
        if issued is not None:
            if users.mail_issued(issued):
                return done(
                    request,
                    back,
                    gettext("A one-time password was mailed to %(email)s.") % {"email": row.email},
                )
            once.remember(request, back)
            return shown_once(
                request,
                row,
                issued.password.reveal_text(),
                back,
                title=gettext("New one-time password"),
                crumbs=[(gettext("Accounts"), reverse("accounts"))],
            )
    return confirm(
        request,
        form,
        title=gettext("Give %(row)s a one-time password?") % {"row": row.get_full_name()},
        words=gettext("For %(email)s. Be sure that it is really they who ask.") % {"email": row.email},
        consequences=[
            ("log-out", gettext("Their present password no longer works, and every session of theirs ends.")),
            ("key-round", gettext("Their second factor and their API tokens stay as they are.")),
            (
                "clock",
                gettext(
                    "It must be replaced by a password of their own at the first sign-in, within seven days."
                ),
            ),
        ],
        button=gettext("Issue one-time password"),
        cancel=back,
        danger=True,
    )


@appliance_page(MANAGE)
def account_switch(request: Any, user_id: UUID, verb: str) -> HttpResponse:
    """GET, POST /appliance/accounts/<id>/disable/ and enable/"""
    row = users.fetch_account(request.actor, user_id)
    back = reverse("account-detail", args=[row.pk])
    off = verb == "disable"
    form = ConfirmForm(request.POST or None, reason="required" if off else "optional")
    if request.method == "POST":
        work = users.disable_account if off else users.enable_account
        if (
            submit(request, form, lambda values: work(request.actor, row.pk, reason=values["reason"]))
            is not None
        ):
            told = gettext("%(email)s is locked out.") if off else gettext("%(email)s may sign in again.")
            return done(request, back, told % {"email": row.email})
    if off:
        consequences = [
            ("log-out", gettext("Every session of theirs is over with its next request.")),
            ("ban", gettext("Their API tokens are refused: look for what runs with them.")),
            ("undo-2", gettext("Their roles and groups stay, and hold again when you enable the account.")),
        ]
    else:
        consequences = [
            ("key-round", gettext("Their roles, groups and API tokens that have not ended hold again."))
        ]
    return confirm(
        request,
        form,
        title=(
            gettext("Disable the account of %(name)s?") if off else gettext("Enable the account of %(name)s?")
        )
        % {"name": row.get_full_name()},
        words=(
            gettext("%(email)s can no longer sign in, to any vault.")
            if off
            else gettext("%(email)s can sign in again.")
        )
        % {"email": row.email},
        consequences=consequences,
        button=gettext("Disable account") if off else gettext("Enable account"),
        cancel=back,
        danger=off,
    )
