"""People of a vault: members with their roles, and the groups that own things."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from allauth.mfa.models import Authenticator
from django import forms
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from vault.actors import Actor
from vault.api.groups import GROUPS
from vault.api.members import MEMBERS
from vault.errors import NotFound
from vault.models import ApiToken, Group, Membership, Role, Vault
from vault.permissions import Permission
from vault.services import groups, members
from vault.services.users import ONE_TIME_PASSWORD_LIFETIME
from vault.web import once
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import Can, can, done, page, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list

VIEW, MANAGE = Permission.MEMBERS_VIEW, Permission.MEMBERS_MANAGE
ROLE_WORDS = {
    Role.VAULT_ADMIN: gettext_noop("everything in this vault, its people and settings included"),
    Role.CLOUD_ADMIN: gettext_noop(
        "accounts, key sets, stores and keys; no people, and nothing that ends a block"
    ),
    Role.AUDITOR: gettext_noop("sees everything, changes nothing"),
}
ROLES = tuple((role.value, f"{role.label}: {words}") for role, words in ROLE_WORDS.items())
COLUMNS = (
    Column("person", gettext_noop("Person"), ordering="email", always=True),
    Column("role", gettext_noop("Role"), ordering="role"),
    Column("groups", gettext_noop("Groups")),
    Column("last_sign_in", gettext_noop("Last sign-in")),
    Column("second_factor", gettext_noop("Second factor")),
    Column("since", gettext_noop("Member since"), ordering="created_at", shown=False),
)
GROUP_COLUMNS = (
    Column("name", gettext_noop("Group"), ordering="name", always=True),
    Column("members", gettext_noop("Members"), num=True),
    Column("created", gettext_noop("Created"), ordering="created_at"),
)
HELP = {
    "title": gettext_noop("Who may do what"),
    "words": (
        gettext_noop(
            "A member has one role in this vault. What a person may do here ends the moment you remove "
            "them: every request asks anew."
        ),
        (
            gettext_noop(
                "An account belongs to the person and may be in several vaults. Disabling an account, or giving it a new one-time "
                "password, is for an appliance admin."
            )
        ),
    ),
    "links": ((gettext_noop("Who may do what"), "permissions"),),
}
GROUP_HELP = {
    "title": gettext_noop("What a group is for"),
    "words": (
        gettext_noop("Each CSP account and each key set has an admin group: the people who look after it."),
        gettext_noop("A group that still owns something cannot be deleted."),
    ),
    "links": ((gettext_noop("Who may do what"), "permissions"),),
}


def with_factor(rows: QuerySet[Any], user: str = "user") -> QuerySet[Any]:
    """Annotate `second_factor`: whether the person has one that is more than recovery codes."""
    factors = Authenticator.objects.filter(user=OuterRef(user)).exclude(
        type=Authenticator.Type.RECOVERY_CODES
    )
    return rows.annotate(second_factor=Exists(factors))


def people_tabs(actor: Actor, vault: Vault, here: str) -> list[tuple[str, str, bool]]:
    """The tabs of People; API tokens for those who look after members."""
    tabs = [(gettext("Members"), "people"), (gettext("Groups"), "groups")]
    if actor.may(MANAGE, vault):
        tabs.append((gettext("API tokens"), "vault-tokens"))
    return [(label, reverse(name, args=[vault.pk]), name == here) for label, name in tabs]


# --- members --------------------------------------------------------------------------------------------------------


class MemberForm(PageForm):
    """Role and groups of a member."""

    role = forms.ChoiceField(choices=ROLES, widget=forms.RadioSelect)
    group_ids = forms.MultipleChoiceField(
        label=gettext_lazy("Groups"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("Each CSP account and key set belongs to a group."),
    )

    def __init__(self, *args: Any, vault: Vault, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = [(str(pk), name) for pk, name in vault.groups.order_by("name").values_list("pk", "name")]
        if found:
            self.fields["group_ids"].choices = found  # type: ignore[attr-defined]
        else:
            del self.fields["group_ids"]

    def clean_group_ids(self) -> list[UUID]:
        """Ids of this vault's groups."""
        return [UUID(pk) for pk in self.cleaned_data["group_ids"]]


class NewMemberForm(MemberForm):
    """A person who is to belong to the vault."""

    email = forms.CharField(
        max_length=254, label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "off"})
    )
    name = forms.CharField(
        max_length=150,
        required=False,
        help_text=gettext_lazy("For a new account. Somebody who has one keeps their name."),
    )
    field_order = ("email", "name", "role", "group_ids")


@vault_page(VIEW, methods=("GET", "HEAD"))
def member_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/people/"""
    rows = (
        request.actor.visible(Membership)
        .filter(vault=vault)
        .select_related("user", "vault")
        .prefetch_related("groups")
    )
    menus = [FilterMenu("role", gettext("Role"), tuple((role.value, str(role.label)) for role in Role))]
    group_names = tuple((str(pk), name) for pk, name in vault.groups.values_list("pk", "name")[:50])
    if group_names:
        menus.append(FilterMenu("group", gettext("Group"), group_names, many=False, names=True))
    found = read_list(
        request,
        with_factor(rows),
        MEMBERS,
        COLUMNS,
        id="people",
        row_template="vault/people/row.html",
        menus=menus,
        search_words=gettext("Search name or e-mail"),
        demanded=vault.require_second_factor,
        me=request.actor.user,
    )
    context = {
        "help": HELP,
        "tabs": people_tabs(request.actor, vault, "people"),
        "can_add": _can_manage(request.actor, vault),
    }
    return list_page(request, "vault/people/list.html", found, context)


def _can_manage(actor: Actor, vault: Vault) -> Can:
    if vault.state == Vault.State.DESTROYED:
        return Can(False, gettext("This vault was destroyed."))
    return can(actor, MANAGE, vault)


@vault_page(MANAGE)
def member_create(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/people/new/"""
    form = NewMemberForm(request.POST or None, vault=vault, initial={"role": Role.CLOUD_ADMIN.value})
    if request.method == "POST":
        made = submit(request, form, lambda values: members.add_member(request.actor, vault.pk, **values))
        if made is not None:
            user = made.membership.user
            url = reverse("person", args=[vault.pk, made.membership.pk])
            if made.one_time_password is None:
                told = gettext(" and was told by mail") if made.mailed else ""
                return done(
                    request,
                    url,
                    gettext("%(email)s belongs to %(name)s%(told)s.")
                    % {"email": user.email, "name": vault.name, "told": told},
                )
            once.remember(request, url)
            return shown_once(
                request,
                user,
                made.one_time_password.reveal_text(),
                url,
                title=gettext("Person added"),
                crumbs=[(gettext("People"), reverse("people", args=[vault.pk]))],
            )
    return page(request, "vault/people/create.html", {"form": form, "help": HELP}, status=form.status)


def shown_once(
    request: Any, user: Any, secret: str, then: str, *, title: str, crumbs: list[tuple[str, str]]
) -> HttpResponse:
    """The answer that shows a one-time password, which is stored nowhere."""
    context = {
        "person": user,
        "title": title,
        "above": crumbs,
        "days": ONE_TIME_PASSWORD_LIFETIME.days,
        "plain": [(gettext("Sign-in name"), user.email)],
        "secrets": [(gettext("One-time password"), secret)],
        "download": {"email": user.email, "one_time_password": secret},
        "then": then,
    }
    return page(request, "vault/people/password.html", context)


def _member(request: Any, vault: Vault, member_id: UUID) -> Any:
    rows = request.actor.visible(Membership).filter(vault=vault, pk=member_id).select_related("user", "vault")
    row = with_factor(rows).first()
    if row is None:
        raise NotFound("There is no such person in this vault.")
    return row


def _is_last_admin(row: Membership) -> bool:
    others = Membership.objects.filter(vault_id=row.vault_id, role=Role.VAULT_ADMIN, user__is_active=True)
    return row.role == Role.VAULT_ADMIN and not others.exclude(pk=row.pk).exists()


@vault_page(VIEW, methods=("GET", "HEAD"))
def member_detail(request: Any, vault: Vault, member_id: UUID) -> HttpResponse:
    """GET /v/<id>/people/<member>/"""
    row = _member(request, vault, member_id)
    allowed = _can_manage(request.actor, vault)
    last = _is_last_admin(row)
    can_remove = allowed
    if allowed and last:
        can_remove = Can(
            False, gettext("This is the vault's last admin. Make somebody else vault admin first.")
        )
    context = {
        "row": row,
        "mine": row.user_id == request.actor.user.pk,
        "groups": list(row.groups.order_by("name")),
        "tokens": _living_tokens(row) if allowed else None,
        "words": ROLE_WORDS[Role(row.role)],
        "last_admin": last,
        "can_edit": allowed,
        "can_remove": can_remove,
        "can_account": request.actor.may(Permission.APPLIANCE_MANAGE_USERS),
        "help": HELP,
    }
    return page(request, "vault/people/detail.html", context)


def _living_tokens(row: Membership) -> int:
    living = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
    reach = Q(vault_id=row.vault_id) | Q(vault=None)
    return ApiToken.objects.filter(living, reach, user_id=row.user_id).count()


@vault_page(MANAGE)
def member_edit(request: Any, vault: Vault, member_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/people/<member>/edit/"""
    row = _member(request, vault, member_id)
    initial = {
        "role": row.role,
        "group_ids": [str(pk) for pk in row.groups.values_list("pk", flat=True)],
        "revision": row.revision,
    }
    form = MemberForm(request.POST or None, vault=vault, initial=initial)
    back = reverse("person", args=[vault.pk, row.pk])
    if request.method == "POST":
        changed = submit(
            request,
            form,
            lambda values: members.update_member(
                request.actor, row.pk, expected_revision=form.expected, **values
            ),
            target=row,
        )
        if changed is not None:
            return done(
                request,
                back,
                gettext("%(user)s is %(get_role_display)s now.")
                % {"user": row.user.get_full_name(), "get_role_display": changed.get_role_display()},
            )
    context = {"form": form, "row": row, "mine": row.user_id == request.actor.user.pk, "help": HELP}
    return page(request, "vault/people/edit.html", context, status=form.status)


@vault_page(MANAGE)
def member_remove(request: Any, vault: Vault, member_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/people/<member>/remove/"""
    row = _member(request, vault, member_id)
    form = ConfirmForm(request.POST or None, reason="", initial={"revision": row.revision})
    if request.method == "POST":

        def remove(values: dict[str, Any]) -> bool:
            members.remove_member(request.actor, row.pk, expected_revision=form.expected)
            return True

        if submit(request, form, remove) is not None:
            mine = row.user_id == request.actor.user.pk
            url = reverse("home") if mine else reverse("people", args=[vault.pk])
            return done(
                request,
                url,
                gettext("%(email)s no longer belongs to %(name)s.")
                % {"email": row.user.email, "name": vault.name},
            )
    tokens = _living_tokens(row)
    consequences = [
        (
            "log-out",
            gettext(
                "Their next request for anything in this vault is refused, in every session that is open."
            ),
        ),
        (
            "key-round",
            gettext(
                "Keys, key sets and accounts stay as they are; so does what they did, in the audit record."
            ),
        ),
        (
            "user",
            gettext(
                "Their account stays, and other vaults that they belong to. Adding them again makes a new membership."
            ),
        ),
    ]
    if tokens:
        many = (
            gettext("1 API token of theirs")
            if tokens == 1
            else gettext("%(tokens)s API tokens of theirs") % {"tokens": tokens}
        )
        consequences.insert(
            1,
            (
                "ban",
                gettext("%(many)s no longer reaches this vault: look for what runs with it first.")
                % {"many": many},
            ),
        )
    return confirm(
        request,
        form,
        title=gettext("Remove %(user)s from %(name)s?")
        % {"user": row.user.get_full_name(), "name": vault.name},
        words=f"{row.user.email}, {row.get_role_display()}.",
        consequences=consequences,
        button=gettext("Remove person"),
        cancel=reverse("person", args=[vault.pk, row.pk]),
        danger=True,
    )


# --- groups ---------------------------------------------------------------------------------------------------------


class GroupForm(PageForm):
    """A group and who is in it."""

    name = forms.CharField(max_length=100)
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    member_ids = forms.MultipleChoiceField(
        label=gettext_lazy("Members"), required=False, widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *args: Any, vault: Vault, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rows = vault.memberships.select_related("user").order_by("user__email")
        self.fields["member_ids"].choices = [  # type: ignore[attr-defined]
            (str(row.pk), f"{row.user.get_full_name()}, {row.get_role_display()}") for row in rows
        ]

    def clean_member_ids(self) -> list[UUID]:
        """Ids of this vault's memberships."""
        return [UUID(pk) for pk in self.cleaned_data["member_ids"]]


@vault_page(VIEW, methods=("GET", "HEAD"))
def group_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/people/groups/"""
    rows = request.actor.visible(Group).filter(vault=vault).annotate(count=Count("members"))
    allowed = _can_manage(request.actor, vault)
    found = read_list(
        request,
        rows,
        GROUPS,
        GROUP_COLUMNS,
        id="groups",
        row_template="vault/people/group_row.html",
        search_words=gettext("Search name or description"),
        empty_title=gettext("Make the first group"),
        empty_words=gettext("Each CSP account and key set belongs to a group of people who look after it."),
        empty_url=reverse("group-create", args=[vault.pk]) if allowed else "",
        empty_button=gettext("Create group"),
    )
    context = {"help": GROUP_HELP, "tabs": people_tabs(request.actor, vault, "groups"), "can_add": allowed}
    return list_page(request, "vault/people/groups.html", found, context)


@vault_page(MANAGE)
def group_create(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/people/groups/new/"""
    form = GroupForm(request.POST or None, vault=vault)
    if request.method == "POST":
        made = submit(request, form, lambda values: groups.create_group(request.actor, vault.pk, **values))
        if made is not None:
            return done(
                request,
                reverse("group", args=[vault.pk, made.pk]),
                gettext("Group %(name)s is made.") % {"name": made.name},
            )
    return page(
        request, "vault/people/group_form.html", {"form": form, "help": GROUP_HELP}, status=form.status
    )


def _group(request: Any, vault: Vault, group_id: UUID) -> Group:
    row: Group | None = request.actor.visible(Group).filter(vault=vault, pk=group_id).first()
    if row is None:
        raise NotFound("There is no such group in this vault.")
    return row


@vault_page(VIEW, methods=("GET", "HEAD"))
def group_detail(request: Any, vault: Vault, group_id: UUID) -> HttpResponse:
    """GET /v/<id>/people/groups/<group>/"""
    row = _group(request, vault, group_id)
    owned = groups.owned_by(request.actor, row.pk)
    can_delete = allowed = _can_manage(request.actor, vault)
    if allowed and owned:
        can_delete = Can(
            False, gettext("It still owns what is listed here. Give these to another group first.")
        )
    context = {
        "row": row,
        "people": row.members.select_related("user").order_by("user__email"),
        "owned": owned,
        "can_edit": allowed,
        "can_delete": can_delete,
        "help": GROUP_HELP,
    }
    return page(request, "vault/people/group.html", context)


@vault_page(MANAGE)
def group_edit(request: Any, vault: Vault, group_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/people/groups/<group>/edit/"""
    row = _group(request, vault, group_id)
    initial = {
        "name": row.name,
        "description": row.description,
        "member_ids": [str(pk) for pk in row.members.values_list("pk", flat=True)],
        "revision": row.revision,
    }
    form = GroupForm(request.POST or None, vault=vault, initial=initial)
    if request.method == "POST":
        changed = submit(
            request,
            form,
            lambda values: groups.update_group(
                request.actor, row.pk, expected_revision=form.expected, **values
            ),
            target=row,
        )
        if changed is not None:
            return done(request, reverse("group", args=[vault.pk, row.pk]), gettext("Saved."))
    context = {"form": form, "row": row, "help": GROUP_HELP}
    return page(request, "vault/people/group_form.html", context, status=form.status)


@vault_page(MANAGE)
def group_delete(request: Any, vault: Vault, group_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/people/groups/<group>/delete/"""
    row = _group(request, vault, group_id)
    form = ConfirmForm(request.POST or None, reason="", initial={"revision": row.revision})
    if request.method == "POST":

        def delete(values: dict[str, Any]) -> bool:
            groups.delete_group(request.actor, row.pk, expected_revision=form.expected)
            return True

        if submit(request, form, delete) is not None:
            return done(
                request,
                reverse("groups", args=[vault.pk]),
                gettext("Group %(name)s is deleted.") % {"name": row.name},
            )
    return confirm(
        request,
        form,
        title=gettext("Delete group %(name)s?") % {"name": row.name},
        words=gettext("Its members stay members of the vault, with their roles."),
        consequences=[
            ("layers", gettext("A group that still owns an account or a key set cannot be deleted."))
        ],
        button=gettext("Delete group"),
        cancel=reverse("group", args=[vault.pk, row.pk]),
        danger=True,
    )
