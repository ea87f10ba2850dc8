"""API tokens: one's own (in the account), and those that reach a vault (for its admins)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django import forms
from django.db.models import Q
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy, gettext_noop, ngettext

from vault.api.auth import TOKENS
from vault.errors import NotFound, ValidationFailed
from vault.models import ApiToken, Membership, Role, Vault
from vault.permissions import Permission
from vault.services import tokens
from vault.web import once
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import done, page, person_page, uuid_or_none, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list
from vault.web.people import people_tabs

LIVES = (
    ("30", gettext_lazy("30 days")),
    ("90", gettext_lazy("90 days")),
    ("365", gettext_lazy("One year")),
    ("until", gettext_lazy("Until a day that I choose")),
    ("never", gettext_lazy("It never ends")),
)
COLUMNS = (
    Column("name", gettext_noop("Token"), ordering="name", always=True),
    Column("state", gettext_noop("State")),
    Column("scope", gettext_noop("Reaches")),
    Column("last_used", gettext_noop("Last used"), ordering="last_used_at"),
    Column("ends", gettext_noop("Ends")),
    Column("created", gettext_noop("Made"), ordering="created_at", shown=False),
    Column("act", gettext_noop("Action"), num=True, always=True),
)
MENUS = (
    FilterMenu(
        "revoked",
        gettext_noop("Revoked"),
        (("false", gettext_noop("Not revoked")), ("true", gettext_noop("Revoked"))),
        many=False,
    ),
    FilterMenu("role", gettext_noop("Role at most"), tuple((role.value, str(role.label)) for role in Role)),
)
HELP = {
    "title": gettext_noop("What a token may do"),
    "words": (
        (
            gettext_noop(
                "A program signs in with a token as its owner. It never may do more than the owner may at that moment, and less where you "
                "say so: one vault only, or a lower role."
            )
        ),
        gettext_noop("Its text is shown once. Keystead keeps a hash of it and cannot show it again."),
    ),
    "links": ((gettext_noop("Who may do what"), "permissions"),),
}


class TokenForm(PageForm):
    """What a token is for, how far it goes, how long it lives."""

    name = forms.CharField(
        max_length=100, help_text=gettext_lazy("What will use it, such as the pipeline's name.")
    )
    vault = forms.ChoiceField(label=gettext_lazy("Reaches"), required=False)
    role = forms.ChoiceField(
        label=gettext_lazy("Role at most"),
        required=False,
        choices=(
            ("", gettext_lazy("My own role")),
            *((role.value, str(role.label)) for role in reversed(Role)),
        ),
        help_text=gettext_lazy(
            "Take the lowest that will do: an auditor's token reads everything and changes nothing."
        ),
    )
    lives = forms.ChoiceField(label=gettext_lazy("Lives for"), choices=LIVES, initial="90")
    until = forms.DateField(
        label=gettext_lazy("Last day"),
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text=gettext_lazy("Only for “until a day that I choose”."),
    )

    def __init__(self, *args: Any, memberships: list[Membership], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        vaults = [
            (str(row.vault_id), gettext("%(name)s only") % {"name": row.vault.name}) for row in memberships
        ]
        self.fields["vault"].choices = [*vaults, ("", gettext("Everything that I reach"))]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """A day is needed where one was promised."""
        values = super().clean() or {}
        if values.get("lives") == "until" and not values.get("until") and "until" not in self.errors:
            self.add_error("until", gettext("Say which day. Or choose another life."))
        return values


@person_page
def token_list(request: Any) -> HttpResponse:
    """GET /accounts/tokens/: one's own."""
    found = read_list(
        request,
        tokens.my_tokens(request.actor),
        TOKENS,
        COLUMNS,
        id="my-tokens",
        row_template="vault/tokens/row.html",
        menus=MENUS,
        now=timezone.now(),
        revoke_name="token-revoke",
        empty_title=gettext("No tokens yet"),
        empty_words=gettext("A token lets a program use the API as you, within bounds that you set."),
        empty_url=reverse("token-create"),
        empty_button=gettext("Create token"),
    )
    return list_page(request, "vault/tokens/list.html", found, {"help": HELP})


@person_page
def token_create(request: Any) -> HttpResponse:
    """GET, POST /accounts/tokens/new/?vault="""
    user = request.actor.user
    mine = list(
        Membership.objects.filter(user=user)
        .exclude(vault__state=Vault.State.DESTROYED)
        .select_related("vault")
        .order_by("vault__name")
    )
    wanted = request.GET.get("vault", "")
    chosen = (
        wanted if any(str(row.vault_id) == wanted for row in mine) else str(mine[0].vault_id) if mine else ""
    )
    form = TokenForm(request.POST or None, memberships=mine, initial={"vault": chosen})
    if request.method == "POST":
        made = submit(request, form, lambda values: _create(request, values))
        if made is not None:
            url = reverse("tokens")
            once.remember(request, url)
            text = made.secret.reveal_text()
            context = {
                "made": made.token,
                "secrets": [(gettext("Token"), text)],
                "plain": [(gettext("Header"), "Authorization: Bearer kst_...")],
                "download": {
                    "name": made.token.name,
                    "token": text,
                    "expires_at": made.token.expires_at and made.token.expires_at.isoformat(),
                },
                "then": url,
            }
            return page(request, "vault/tokens/created.html", {**context, "help": HELP})
    return page(request, "vault/tokens/create.html", {"form": form, "help": HELP}, status=form.status)


def _create(request: Any, values: dict[str, Any]) -> tokens.TokenCreated:
    lives = values["lives"]
    expires_at: datetime | None = None
    if lives == "until":
        day, zone = values["until"], ZoneInfo(request.actor.user.time_zone)
        expires_at = datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=zone)
    elif lives != "never":
        expires_at = timezone.now() + timedelta(days=int(lives))
    try:
        return tokens.create_token(
            request.actor,
            name=values["name"],
            vault_id=uuid_or_none(values["vault"]) if values["vault"] else None,
            role=values["role"],
            expires_at=expires_at,
            never_expires=lives == "never",
        )
    except ValidationFailed as error:
        if error.field == "expires_at":
            raise ValidationFailed(error.message, field="until", cure=error.cure) from None
        raise


@person_page
def token_revoke(request: Any, token_id: UUID) -> HttpResponse:
    """GET, POST /accounts/tokens/<id>/revoke/"""
    row = tokens.fetch_token(request.actor, token_id)
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST" and submit(
        request, form, lambda values: tokens.revoke_token(request.actor, row.pk)
    ):
        return done(request, reverse("tokens"), gettext("%(name)s is revoked.") % {"name": row.name})
    return _ask(request, form, row, reverse("tokens"))


def _ask(request: Any, form: ConfirmForm, row: ApiToken, back: str) -> HttpResponse:
    if row.last_used_at is None:
        use = gettext("It was never used.")
    else:
        days = (timezone.now() - row.last_used_at).days
        if days < 1:
            use = gettext("It was last used today%(where)s.")
        elif days == 1:
            use = gettext("It was last used yesterday%(where)s.")
        else:
            use = ngettext(
                "It was last used %(days)s day ago%(where)s.",
                "It was last used %(days)s days ago%(where)s.",
                days,
            )
        where = gettext(", from %(address)s") % {"address": row.last_used_ip} if row.last_used_ip else ""
        use %= {"days": days, "where": where}
    return confirm(
        request,
        form,
        title=gettext("Revoke %(name)s?") % {"name": row.name},
        words=gettext("The token that begins with %(prefix)s. %(use)s") % {"prefix": row.prefix, "use": use},
        consequences=[
            ("ban", gettext("Whatever uses it is refused from its next request on.")),
            ("rotate-ccw", gettext("It cannot be brought back: make a new one and hand that out.")),
        ],
        button=gettext("Revoke token"),
        cancel=back,
        danger=True,
    )


# --- those of a vault -----------------------------------------------------------------------------------------------


@vault_page(Permission.MEMBERS_MANAGE, methods=("GET", "HEAD"))
def vault_token_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/people/tokens/"""
    rows = tokens.vault_tokens(request.actor, vault.pk)
    wide = rows.filter(Q(vault=None), revoked_at=None).exclude(expires_at__lte=timezone.now()).count()
    found = read_list(
        request,
        rows,
        TOKENS,
        COLUMNS,
        id="vault-tokens",
        row_template="vault/tokens/row.html",
        menus=MENUS,
        now=timezone.now(),
        owners=True,
        in_vault=vault,
        empty_title=gettext("No token reaches this vault"),
        empty_words=gettext(
            "A token lets a program use the API as its owner, within bounds that the owner sets."
        ),
        empty_url=f"{reverse('token-create')}?vault={vault.pk}",
        empty_button=gettext("Create token"),
    )
    context = {"help": HELP, "tabs": people_tabs(request.actor, vault, "vault-tokens"), "wide": wide}
    return list_page(request, "vault/tokens/vault_list.html", found, context)


@vault_page(Permission.MEMBERS_MANAGE)
def vault_token_revoke(request: Any, vault: Vault, token_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/people/tokens/<token>/revoke/"""
    row = tokens.vault_tokens(request.actor, vault.pk).filter(pk=token_id).first()
    if row is None:
        raise NotFound("There is no such token in this vault.")
    back = reverse("vault-tokens", args=[vault.pk])
    form = ConfirmForm(request.POST or None)
    if request.method == "POST" and submit(
        request,
        form,
        lambda values: tokens.revoke_vault_token(request.actor, vault.pk, row.pk, reason=values["reason"]),
    ):
        return done(
            request,
            back,
            gettext("%(name)s of %(user)s is revoked.")
            % {"name": row.name, "user": row.user.get_full_name()},
        )
    return _ask(request, form, row, back)
