"""The AWS key store of each region: add, link, connect, disconnect, change, delete, ask AWS; and an unlinked key's link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.http import HttpResponse
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.models import AwsStoreLink, CloudKey, XksKeyStore
from cloudkeys.services import cloud_keys, stores
from cloudkeys.services.wizard import console_steps_of
from vault.errors import NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import done, page, vault_page
from xks.web.store_frame import find_store, store_context, store_url
from xks.web.stores import HELP, VIEW

MANAGE = Permission.XKS_STORES_MANAGE


class LinkForm(PageForm):
    """What may be said of an AWS key store that is there."""

    name = forms.CharField(max_length=256, label=gettext_lazy("Name in AWS"), required=False)
    endpoint = forms.CharField(
        max_length=128,
        required=False,
        help_text="https:// and a host name, without a port: AWS calls port 443.",
    )
    connectivity = forms.ChoiceField(
        choices=AwsStoreLink.Connectivity.choices,
        widget=forms.RadioSelect,
        initial=AwsStoreLink.Connectivity.PUBLIC_ENDPOINT,
    )
    vpc_endpoint_service_name = forms.CharField(
        max_length=64,
        required=False,
        label=gettext_lazy("VPC endpoint service"),
        help_text="Only with connectivity through one: com.amazonaws.vpce.<region>.vpce-svc-...",
    )


class NewLinkForm(LinkForm):
    """One more region."""

    region = forms.CharField(
        max_length=32, help_text=gettext_lazy("Such as eu-central-1. Each region has one AWS key store.")
    )
    linked = forms.ChoiceField(
        choices=(
            ("yes", gettext_lazy("Keystead makes, connects and updates it in AWS")),
            ("no", gettext_lazy("I do that in the AWS console myself")),
        ),
        widget=forms.RadioSelect,
        initial="yes",
        label=gettext_lazy("Who looks after it"),
    )
    field_order = ("region", "linked", "name", "endpoint", "connectivity", "vpc_endpoint_service_name")


class UnlinkedForm(LinkForm):
    """An unlinked one may be told its id."""

    custom_key_store_id = forms.CharField(
        max_length=64,
        required=False,
        label=gettext_lazy("Custom key store id"),
        help_text=gettext_lazy(
            "cks-..., as the AWS console shows it. Commands on the pages of its keys are then complete."
        ),
    )


class AdoptForm(PageForm):
    """What to link."""

    custom_key_store_id = forms.CharField(
        max_length=64,
        required=False,
        label=gettext_lazy("Custom key store id"),
        help_text=gettext_lazy(
            "cks-..., to take over the one that is in AWS, once AWS confirms its endpoint and path. Empty: "
            "Keystead makes one."
        ),
    )


class LinkKeyForm(PageForm):
    """Which KMS key."""

    kms_key_id = forms.CharField(
        max_length=256,
        required=False,
        label=gettext_lazy("KMS key id or ARN"),
        help_text=gettext_lazy(
            "To take over the one that is in AWS, once AWS confirms that it points to this key. Empty: "
            "Keystead makes one."
        ),
    )


def _find(
    request: Any, vault: Vault, store_id: UUID, link_id: UUID, permission: Permission = MANAGE
) -> AwsStoreLink:
    store = find_store(request, vault, store_id, permission)
    link: AwsStoreLink = request.actor.fetch(AwsStoreLink, link_id, permission)
    if link.store_id != store.pk:
        raise NotFound("This store has no such AWS key store.")
    return link


@vault_page(MANAGE)
def link_create(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/regions/new/"""
    store = find_store(request, vault, store_id, MANAGE)
    account = store.key_set.csp_account
    initial = {"name": store.key_set.name, "endpoint": settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT}
    if account is None:
        initial["linked"] = "no"
    form = NewLinkForm(request.POST or None, initial=initial)
    if account is None:
        form.fields["linked"].help_text = gettext(
            "This key set has no CSP account, so Keystead cannot reach AWS."
        )
    if request.method == "POST":

        def add(values: dict[str, Any]) -> stores.LinkAdded:
            wanted = stores.LinkRequest(**{**values, "linked": values["linked"] == "yes"})
            return stores.create_store_link(request.actor, store.pk, wanted)

        added = submit(request, form, add)
        if added is not None:
            if added.operation is None:
                url = store_url("xks-link-steps", store, link_id=added.link.pk)
                return done(
                    request,
                    url,
                    gettext("%(region)s is noted. What is left to do in AWS stands here.")
                    % {"region": added.link.region},
                )
            return done(
                request,
                store_url("xks-store", store),
                gettext("Keystead makes it in %(region)s now.") % {"region": added.link.region},
            )
    context = {
        **store_context(request, store, ""),
        "form": form,
        "title": gettext("Add a region"),
        "help": HELP,
    }
    context |= {
        "button": gettext("Add region"),
        "lead": gettext("AWS KMS keeps keys by region; each has a key store of its own."),
    }
    return page(request, "xks/stores/form.html", context, status=form.status)


@vault_page(MANAGE)
def link_edit(request: Any, vault: Vault, store_id: UUID, link_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/regions/<link>/edit/"""
    link = _find(request, vault, store_id, link_id)
    store = find_store(request, vault, store_id)
    names = ["name", "endpoint", "connectivity", "vpc_endpoint_service_name"]
    kind = LinkForm if link.linked else UnlinkedForm
    if not link.linked:
        names.append("custom_key_store_id")
    initial = {name: getattr(link, name) for name in names}
    form = kind(request.POST or None, initial={**initial, "revision": link.revision})
    if request.method == "POST":

        def save(values: dict[str, Any]) -> stores.LinkAdded:
            return stores.update_store_link(request.actor, link.pk, values, expected_revision=form.expected)

        changed = submit(request, form, save, target=link)
        if changed is not None:
            told = (
                gettext("Saved; AWS is being told.") if changed.operation is not None else gettext("Saved.")
            )
            return done(request, store_url("xks-store", store), told)
    lead = (
        gettext("AWS takes a new endpoint or connectivity only while the key store is disconnected.")
        if link.linked
        else gettext("Noted here only: change it in the AWS console too.")
    )
    context = {
        **store_context(request, store, ""),
        "form": form,
        "title": gettext("Edit %(region)s") % {"region": link.region},
        "lead": lead,
    }
    return page(
        request,
        "xks/stores/form.html",
        {**context, "button": gettext("Save"), "help": HELP},
        status=form.status,
    )


class StoreIdForm(PageForm):
    """The id that the AWS console has given the key store."""

    custom_key_store_id = forms.CharField(
        max_length=64,
        label=gettext_lazy("Custom key store id"),
        help_text=gettext_lazy(
            "cks-..., as the AWS console shows it once the key store is made. The commands here, and on the pages of its keys, are "
            "then complete."
        ),
    )


@vault_page(VIEW)
def link_steps(request: Any, vault: Vault, store_id: UUID, link_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/regions/<link>/steps/: the steps, and where the id that they yield is brought back."""
    store = find_store(request, vault, store_id)
    link = _find(request, vault, store_id, link_id, VIEW)
    initial = {"custom_key_store_id": link.custom_key_store_id, "revision": link.revision}
    form = StoreIdForm(request.POST or None, initial=initial)
    if request.method == "POST":
        _find(request, vault, store_id, link_id)

        def save(values: dict[str, Any]) -> stores.LinkAdded:
            return stores.update_store_link(request.actor, link.pk, values, expected_revision=form.expected)

        if submit(request, form, save, target=link) is not None:
            return done(request, request.path, gettext("Saved: the commands below hold the id now."))
        link.refresh_from_db()
    context = {**store_context(request, store, ""), "link": link, "help": HELP}
    context["steps"] = console_steps_of(request.actor, link.pk)
    context["form"] = form if context["can_manage"] and not link.linked else None
    return page(request, "xks/stores/steps.html", context, status=form.status)


@dataclass(frozen=True)
class Verb:
    """One thing to have AWS do."""

    run: Callable[..., Any]
    title: str
    words: str
    button: str
    done: str
    consequences: tuple[tuple[str, str], ...] = ()
    danger: bool = False


VERBS = {
    "connect": Verb(
        stores.connect_store,
        gettext_noop("Connect the key store in {region}?"),
        gettext_noop("AWS checks endpoint and credential, which takes up to a few minutes."),
        gettext_noop("Connect key store"),
        gettext_noop("AWS has been asked to connect it."),
        (("key-round", gettext_noop("Its KMS keys can be used as soon as AWS says that it is connected.")),),
    ),
    "disconnect": Verb(
        stores.disconnect_store,
        gettext_noop("Disconnect the key store in {region}?"),
        gettext_noop("AWS stops calling it: every KMS key of this region becomes Unavailable."),
        gettext_noop("Disconnect key store"),
        gettext_noop("AWS has been asked to disconnect it."),
        (
            (
                "ban",
                gettext_noop("Data under its keys cannot be read in {region} until it is connected again."),
            ),
            (
                "zap",
                gettext_noop(
                    "To stop all use at once, block the store: that acts within a second and in all regions."
                ),
            ),
            ("undo-2", gettext_noop("Nothing is lost. Connecting again takes AWS up to a few minutes.")),
        ),
        danger=True,
    ),
    "refresh": Verb(
        stores.refresh_store,
        gettext_noop("Ask AWS about the key store in {region}?"),
        gettext_noop("Reads its connection state and settings from AWS. Nothing is changed."),
        gettext_noop("Ask AWS"),
        gettext_noop("AWS is being asked."),
    ),
}


@vault_page(MANAGE)
def link_verb(request: Any, vault: Vault, store_id: UUID, link_id: UUID, verb: str) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/regions/<link>/connect/, disconnect/ and refresh/"""
    link = _find(request, vault, store_id, link_id)
    store = find_store(request, vault, store_id)
    what = VERBS[verb]
    back = store_url("xks-store", store)
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        begun = submit(request, form, lambda values: what.run(request.actor, link.pk))
        if begun is not None:
            return done(request, back, what.done)
    return confirm(
        request,
        form,
        title=gettext(what.title).format(region=link.region),
        words=what.words,
        consequences=[(icon, gettext(words).format(region=link.region)) for icon, words in what.consequences],
        button=what.button,
        cancel=back,
        danger=what.danger,
    )


@vault_page(MANAGE)
def link_delete(request: Any, vault: Vault, store_id: UUID, link_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/regions/<link>/delete/"""
    link = _find(request, vault, store_id, link_id)
    store = find_store(request, vault, store_id)
    back = store_url("xks-store", store)
    form = ConfirmForm(
        request.POST or None, reason="", typed=link.region, initial={"revision": link.revision}
    )
    if request.method == "POST":

        def delete(values: dict[str, Any]) -> tuple[Any]:
            # In a tuple: an unlinked one is forgotten at once, without an Operation.
            return (stores.delete_store_link(request.actor, link.pk, expected_revision=form.expected),)

        gone = submit(request, form, delete, target=link)
        if gone is not None:
            told = (
                gettext("AWS is being asked to delete it.")
                if gone[0] is not None
                else gettext("It is forgotten here.")
            )
            return done(request, back, told)
    in_aws = link.linked and bool(link.custom_key_store_id)
    consequences = (
        [
            (
                "unplug",
                gettext("It is disconnected, then deleted in AWS (%(custom_key_store_id)s).")
                % {"custom_key_store_id": link.custom_key_store_id},
            ),
            (
                "key-round",
                gettext("AWS refuses while any KMS key is in it; deleted KMS keys count for 7 to 30 days."),
            ),
            ("database", gettext("Keystead keeps the keys themselves.")),
        ]
        if in_aws
        else [
            (
                "cloud",
                gettext("Nothing changes in AWS. Delete the key store there if it is not wanted any more."),
            )
        ]
    )
    return confirm(
        request,
        form,
        title=gettext("Delete the key store in %(region)s?") % {"region": link.region},
        words=gettext("The store then has no AWS key store in this region."),
        consequences=consequences,
        button=gettext("Delete key store") if in_aws else gettext("Forget key store"),
        cancel=back,
        danger=True,
    )


@vault_page(MANAGE)
def link_link(request: Any, vault: Vault, store_id: UUID, link_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/regions/<link>/link/"""
    link = _find(request, vault, store_id, link_id)
    store = find_store(request, vault, store_id)
    form = AdoptForm(request.POST or None, initial={"custom_key_store_id": link.custom_key_store_id})
    if request.method == "POST":
        added = submit(request, form, lambda values: stores.link_store(request.actor, link.pk, **values))
        if added is not None:
            return done(request, store_url("xks-store", store), gettext("Keystead is linking it."))
    context = {
        **store_context(request, store, ""),
        "form": form,
        "title": gettext("Link %(name)s in %(region)s") % {"name": link.name, "region": link.region},
        "lead": gettext(
            "Linked, Keystead sees its connection state, connects it, rotates its credential and makes KMS "
            "keys in it by itself."
        ),
        "button": gettext("Link key store"),
        "help": HELP,
    }
    return page(request, "xks/stores/form.html", context, status=form.status)


@vault_page(Permission.CLOUD_KEYS_UPDATE)
def key_link(request: Any, vault: Vault, store_id: UUID, key_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/keys/<key>/link/"""
    store: XksKeyStore = find_store(request, vault, store_id)
    key: CloudKey = request.actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE)
    if key.store_id != store.pk:
        raise NotFound("This store has no such key.")
    form = LinkKeyForm(request.POST or None)
    if request.method == "POST":
        made = submit(
            request, form, lambda values: cloud_keys.link_cloud_key(request.actor, key.pk, **values)
        )
        if made is not None:
            return done(
                request,
                store_url("xks-store", store),
                gettext("%(name)s is being linked.") % {"name": key.name},
            )
    context = {
        **store_context(request, store, ""),
        "form": form,
        "title": gettext("Link %(name)s") % {"name": key.name},
        "lead": gettext("Gives the key its KMS key in %(region)s, which AWS services then use.")
        % {"region": key.region},
        "button": gettext("Link key"),
        "help": HELP,
    }
    return page(request, "xks/stores/form.html", context, status=form.status)
