"""Settings of a vault, and one's own preferences."""

from __future__ import annotations

from functools import cache
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.forms.utils import flatatt
from django.http import HttpResponse, HttpResponseNotAllowed
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from vault.models import Membership, UserPreferences, Vault
from vault.permissions import Permission
from vault.services import second_factor, users, vaults
from vault.services.preferences import preferences_of, update_preferences
from vault.web.forms import PageForm, submit
from vault.web.frame import Can, can, done, page, person_page, vault_page
from vault.web.people import with_factor

HELP = {
    "title": gettext_noop("What is set here"),
    "words": (
        gettext_noop("Name and description of the vault, and whether its members need a second factor."),
        (
            gettext_noop(
                "Rotation schedules and expirations stand where they are used: each key set has defaults for its keys, each CSP account a "
                "schedule for its credential."
            )
        ),
    ),
    "links": (
        (gettext_noop("Who may do what"), "permissions"),
        (gettext_noop("Configuration of the installation"), "configuration"),
    ),
}
THEME_COOKIE, DENSITY_COOKIE = "keystead-theme", "keystead-density"


@cache
def zones() -> frozenset[str]:
    """Time zones that somebody may live in; read from the disk once."""
    return frozenset(
        name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/"))
    ) | {"UTC"}


class ManyChoices(forms.Select):
    """A select of hundreds of plain options, put together without a template for each."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """See Select."""
        given = self.build_attrs(self.attrs, {"name": name, **(attrs or {})})
        chosen = str(value or "")
        plain, selected = '<option value="{}">{}</option>', '<option value="{}" selected>{}</option>'
        options = format_html_join(
            "",
            "{}",
            (
                (format_html(selected if option == chosen else plain, option, label),)
                for option, label in self.choices
            ),
        )
        return format_html("<select{}>{}</select>", flatatt(given), options)


class VaultSettingsForm(PageForm):
    """What a vault's admin says of it."""

    name = forms.CharField(max_length=100)
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    require_second_factor = forms.BooleanField(
        required=False,
        label=gettext_lazy("Demand a second factor of every member"),
        help_text=gettext_lazy(
            "At sign-in, a code from an authenticator app or a passkey. Members without one reach only the page that sets it "
            "up, in every vault of theirs, from their next click on. API tokens are not asked."
        ),
    )


class PreferencesForm(PageForm):
    """How one wishes to see and hear things."""

    name = forms.CharField(max_length=150, label=gettext_lazy("Your name"))
    time_zone = forms.ChoiceField(help_text=gettext_lazy("Exact times are shown in it."), widget=ManyChoices)
    theme = forms.ChoiceField(choices=UserPreferences.Theme.choices, required=False)
    density = forms.ChoiceField(
        choices=UserPreferences.Density.choices, required=False, label=gettext_lazy("Rows of tables")
    )
    attention_mail = forms.ChoiceField(
        choices=UserPreferences.AttentionMail.choices,
        required=False,
        label=gettext_lazy("Mail about what needs attention"),
        help_text=gettext_lazy("What the overview lists, of the vaults that you belong to."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["time_zone"].choices = [(name, name.replace("_", " ")) for name in sorted(zones())]  # type: ignore[attr-defined]


def _tabs(vault: Vault, here: str) -> list[tuple[str, str, bool]]:
    tabs = [(gettext("This vault"), "settings"), (gettext("Your preferences"), "settings-yours")]
    return [(label, reverse(name, args=[vault.pk]), name == here) for label, name in tabs]


@vault_page(Permission.VAULT_VIEW)
def vault_settings(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/settings/"""
    living = vault.state != Vault.State.DESTROYED
    allowed = can(request.actor, Permission.VAULT_UPDATE, vault)
    if not living:
        allowed = Can(False, gettext("This vault was destroyed."))
    initial = {
        "name": vault.name,
        "description": vault.description,
        "require_second_factor": vault.require_second_factor,
        "revision": vault.revision,
    }
    form = VaultSettingsForm(request.POST or None, initial=initial)
    if request.method == "POST":
        request.actor.require(Permission.VAULT_UPDATE, vault)
        changed = submit(
            request,
            form,
            lambda values: vaults.update_vault(
                request.actor, vault.pk, expected_revision=form.expected, **values
            ),
            target=vault,
        )
        if changed is not None:
            return done(request, reverse("settings", args=[vault.pk]), gettext("Saved."))
    members = Membership.objects.filter(vault=vault)
    missing = with_factor(members).filter(second_factor=False).count()
    context = {
        "form": form,
        "can_edit": allowed,
        "can_block": can(request.actor, Permission.VAULT_BLOCK, vault) if living else allowed,
        "can_unblock": can(request.actor, Permission.VAULT_UNBLOCK, vault) if living else allowed,
        "members": members.count(),
        "missing": missing,
        "own_factor": second_factor.has_second_factor(request.actor.user),
        "is_appliance_admin": request.actor.is_appliance_admin,
        "tabs": _tabs(vault, "settings"),
        "help": HELP,
    }
    return page(request, "vault/settings/vault.html", context, status=form.status)


@vault_page(Permission.VAULT_VIEW)
def your_settings(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/settings/yours/"""
    return preferences_page(
        request,
        reverse("settings-yours", args=[vault.pk]),
        "vault/settings/yours.html",
        {"tabs": _tabs(vault, "settings-yours")},
    )


@person_page
def account(request: Any) -> HttpResponse:
    """GET, POST /accounts/profile/"""
    return preferences_page(request, reverse("account"), "vault/account.html", {})


def preferences_page(request: Any, url: str, template: str, context: dict[str, Any]) -> HttpResponse:
    """The form of one's own preferences, wherever it stands."""
    user = request.actor.user
    wishes = preferences_of(user)
    names = ("theme", "density", "attention_mail")
    initial = {
        "name": user.name,
        "time_zone": user.time_zone,
        **{name: getattr(wishes, name) for name in names},
    }
    form = PreferencesForm(request.POST or None, initial=initial)
    if request.method == "POST":

        def save(values: dict[str, Any]) -> UserPreferences:
            users.update_profile(request.actor, name=values["name"], time_zone=values["time_zone"])
            return update_preferences(request.actor, **{name: values[name] or None for name in names})

        saved = submit(request, form, save)
        if saved is not None:
            response = done(request, url, gettext("Saved."))
            remember_looks(request, response, saved)
            return response
    return page(request, template, {**context, "form": form}, status=form.status)


@person_page
def looks(request: Any) -> HttpResponse:
    """POST /accounts/looks/: theme and density, as the menu of one's account sends them (vault/static/vault/js/theme.js)."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    theme = request.POST.get("theme", "") or UserPreferences.Theme.SYSTEM
    density = request.POST.get("density", "") or UserPreferences.Density.COMFORTABLE
    wishes = update_preferences(request.actor, theme=theme, density=density)
    response = HttpResponse(status=204)
    remember_looks(request, response, wishes)
    return response


def remember_looks(request: Any, response: HttpResponse, wishes: UserPreferences) -> None:
    """Put theme and density into the cookies by which the pages before sign-in are drawn.

    vault/static/vault/js/theme.js writes the same two cookies.
    """
    for name, value, usual in (
        (THEME_COOKIE, wishes.theme, UserPreferences.Theme.SYSTEM),
        (DENSITY_COOKIE, wishes.density, UserPreferences.Density.COMFORTABLE),
    ):
        if value == usual:
            response.delete_cookie(name, samesite="Lax")
        else:
            # The script of the page reads and writes it too, so it is not HttpOnly; it says nothing about anybody.
            response.set_cookie(name, value, max_age=31536000, samesite="Lax", secure=request.is_secure())
