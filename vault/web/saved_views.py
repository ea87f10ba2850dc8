"""Saved views of a list: a menu beside its filters, and the small pages that save, change and delete one.

A list page calls `views_of` and puts what it answers into read_list(tools=...) as `views`; templates/vault/saved_views/menu.html draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.http import HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext, gettext_lazy

from vault.errors import NotFound
from vault.models import SavedView, Vault
from vault.permissions import Permission
from vault.services import saved_views
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import Can, can, done, page, vault_page

MANAGE = Permission.SAVED_VIEWS_MANAGE
LIST_PAGES = {
    SavedView.Page.CLOUD_KEYS: "cloud-keys",
    SavedView.Page.OPERATIONS: "operations",
    SavedView.Page.AUDIT_EVENTS: "audit",
}
_NOT_KEPT = ("cursor", "at", "restore", "columns")


@dataclass(frozen=True)
class ViewLink:
    """A line of the menu."""

    view: SavedView
    url: str
    current: bool
    mine: bool
    edit_url: str
    delete_url: str


@dataclass(frozen=True)
class ViewMenu:
    """What the menu draws."""

    links: tuple[ViewLink, ...]
    save_url: str
    can_save: Can

    @property
    def current(self) -> SavedView | None:
        """The view that is on the screen."""
        return next((link.view for link in self.links if link.current), None)


def views_of(request: Any, vault: Vault, page_name: str, query: str, columns: frozenset[str]) -> ViewMenu:
    """One's own views of this list and those that others share. One query."""
    here = QueryDict(query)
    rows = saved_views.visible_views(request.actor).filter(vault=vault, page=page_name).select_related("user")
    links = []
    is_admin = request.actor.may(Permission.MEMBERS_MANAGE, vault)
    for view in rows.order_by("name")[:50]:
        mine = view.user_id == request.user.pk
        links.append(
            ViewLink(
                view,
                view_url(view),
                _same(here, QueryDict(view.query)),
                mine,
                reverse("saved-view-edit", args=[vault.pk, view.pk]) if mine else "",
                reverse("saved-view-delete", args=[vault.pk, view.pk]) if mine or is_admin else "",
            )
        )
    kept = here.copy()
    for name in _NOT_KEPT:
        kept.pop(name, None)
    save = f"{reverse('saved-view-new', args=[vault.pk, page_name])}?" + urlencode(
        [("query", kept.urlencode()), *(("columns", name) for name in sorted(columns))]
    )
    return ViewMenu(tuple(links), save, can(request.actor, MANAGE, vault))


def view_url(view: SavedView) -> str:
    """The list as the view shows it; empty while that list has no page."""
    try:
        address = reverse(LIST_PAGES[SavedView.Page(view.page)], args=[view.vault_id])
    except (KeyError, ValueError, NoReverseMatch):
        return ""
    given = QueryDict(view.query, mutable=True)
    given.setlist("columns", view.columns)
    return f"{address}?{given.urlencode()}"


def _same(one: QueryDict, other: QueryDict) -> bool:
    def pairs(query: QueryDict) -> list[tuple[str, str]]:
        return sorted(
            (name, value) for name, values in query.lists() if name not in _NOT_KEPT for value in values
        )

    return pairs(one) == pairs(other) and bool(pairs(other))


class ViewForm(PageForm):
    """Its name, and who sees it."""

    name = forms.CharField(max_length=100, help_text=gettext_lazy("Such as: Due this month."))
    shared = forms.BooleanField(
        required=False,
        label=gettext_lazy("Share with everybody in this vault"),
        help_text=gettext_lazy("They can open it; only you, or a vault admin, can delete it."),
    )


def _back(vault: Vault, page_name: str, query: str = "") -> str:
    if page_name not in SavedView.Page.values:
        raise NotFound("There is no such list.")
    return reverse(LIST_PAGES[SavedView.Page(page_name)], args=[vault.pk]) + (f"?{query}" if query else "")


def _ask(request: Any, form: PageForm, **values: Any) -> HttpResponse:
    """A small form: in the dialog when it was opened from there."""
    in_dialog = bool(getattr(request, "htmx", None)) and request.htmx.target == "dialog"
    template = "parts/confirm.html"
    context = {
        "form": form,
        "action": request.get_full_path(),
        "in_dialog": in_dialog,
        "template": template,
        **values,
    }
    response = page(
        request, "parts/confirm_page.html", context, part=("dialog", template), status=form.status
    )
    if form.status in (409, 412, 422):
        response["HX-Form"] = "1"
    return response


@vault_page(MANAGE)
def view_new(request: Any, vault: Vault, page_name: str) -> HttpResponse:
    """GET, POST /v/<id>/views/<page>/new/?query=&columns="""
    query = request.GET.get("query", "").replace("\x00", "")[:2000]
    columns = [name[:64] for name in request.GET.getlist("columns")][:50]
    back = _back(vault, page_name, query)
    form = ViewForm(request.POST or None)
    if request.method == "POST":

        def work(values: dict[str, Any]) -> SavedView:
            return saved_views.create_saved_view(
                request.actor, vault.pk, page=page_name, query=query, columns=columns, **values
            )

        made = submit(request, form, work)
        if made is not None:
            return done(request, view_url(made), gettext("View %(name)s is saved.") % {"name": made.name})
    words = gettext("Keeps search, filters, order and columns as they are on the screen now.")
    return _ask(
        request, form, title=gettext("Save this view"), words=words, button=gettext("Save view"), cancel=back
    )


def _fetch(request: Any, vault: Vault, view_id: UUID) -> SavedView:
    view = saved_views.fetch_view(request.actor, view_id)
    if view.vault_id != vault.pk:
        raise NotFound("There is no such saved view, or it is not yours.")
    return view


@vault_page(MANAGE)
def view_edit(request: Any, vault: Vault, view_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/views/<view_id>/edit/"""
    view = _fetch(request, vault, view_id)
    initial = {"name": view.name, "shared": view.shared, "revision": view.revision}
    form = ViewForm(request.POST or None, initial=initial)
    if request.method == "POST":

        def work(values: dict[str, Any]) -> SavedView:
            return saved_views.update_saved_view(
                request.actor, view.pk, expected_revision=form.expected, **values
            )

        changed = submit(request, form, work, target=view)
        if changed is not None:
            return done(request, view_url(changed), gettext("Saved."))
    words = gettext("To change what it shows, open it, set the filters, and save that as a new view.")
    return _ask(
        request,
        form,
        title=gettext("Change %(name)s") % {"name": view.name},
        words=words,
        button=gettext("Save"),
        cancel=view_url(view),
    )


@vault_page(MANAGE)
def view_delete(request: Any, vault: Vault, view_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/views/<view_id>/delete/"""
    view = _fetch(request, vault, view_id)
    form = ConfirmForm(request.POST or None, reason="", initial={"revision": view.revision})
    back = _back(vault, view.page)
    if request.method == "POST":

        def work(values: dict[str, Any]) -> bool:
            saved_views.delete_saved_view(request.actor, view.pk, expected_revision=form.expected)
            return True

        if submit(request, form, work, target=view):
            return done(request, back, gettext("View %(name)s is deleted.") % {"name": view.name})
    words = gettext("Only the view goes; what it shows stays as it is.")
    if view.shared:
        words += gettext(" Everybody in the vault loses it.")
    return confirm(
        request,
        form,
        title=gettext("Delete view %(name)s?") % {"name": view.name},
        words=words,
        button=gettext("Delete view"),
        cancel=back,
        danger=True,
    )


@vault_page(MANAGE, methods=("GET", "HEAD"))
def view_open(request: Any, vault: Vault, view_id: UUID) -> HttpResponse:
    """GET /v/<id>/views/<view_id>/: an address that stays when the view changes."""
    url = view_url(_fetch(request, vault, view_id))
    if not url:
        raise NotFound("The list of this view has no page.")
    return HttpResponseRedirect(url)
