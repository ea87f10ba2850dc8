"""The end of a vault, which reaches the keys in it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, ngettext

from cloudkeys.services.vault_destruction import describe_destruction, destroy_vault
from vault.errors import Conflict
from vault.generations import wait_for_generation
from vault.models import Vault
from vault.permissions import Permission
from vault.services.vaults import fetch_vault
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import appliance_page, done
from vault.web.vaults import confirmation_words


@appliance_page(Permission.APPLIANCE_MANAGE_VAULTS)
def vault_destroy(request: Any, vault_id: UUID) -> HttpResponse:
    """GET, POST /appliance/vaults/<id>/destroy/"""
    vault = fetch_vault(request.actor, vault_id)
    back = reverse("vault-detail", args=[vault_id])
    form = ConfirmForm(
        request.POST or None, reason="required", typed=vault.name, initial={"revision": vault.revision}
    )
    if request.method == "POST":

        def work(values: dict[str, Any]) -> tuple[Vault, int]:
            return destroy_vault(
                request.actor,
                vault_id,
                confirm_name=values["typed_name"],
                reason=values["reason"],
                expected_revision=form.expected,
            )

        ended = submit(request, form, work, target=vault)
        if ended is not None:
            told = confirmation_words(wait_for_generation(ended[1]))
            return done(
                request,
                back,
                gettext("Vault %(name)s is destroyed. %(told)s") % {"name": vault.name, "told": told},
            )
    if vault.state == Vault.State.DESTROYED:
        raise Conflict("This vault was destroyed already.", cure="Nothing brings it back; make another.")
    lost = describe_destruction(request.actor, vault_id)
    consequences = [
        (
            "key-round",
            gettext("%(keys)s with %(versions)s erased, for good.")
            % {
                "keys": _count(ngettext("%(count)s key", "%(count)s keys", lost.cloud_keys), lost.cloud_keys),
                "versions": _count(
                    ngettext("%(count)s version", "%(count)s versions", lost.key_versions), lost.key_versions
                ),
            },
        ),
        (
            "layers",
            gettext("%(key_sets)s, %(accounts)s, %(credentials)s lost.")
            % {
                "key_sets": _count(
                    ngettext("%(count)s key set", "%(count)s key sets", lost.key_sets), lost.key_sets
                ),
                "accounts": _count(
                    ngettext("%(count)s CSP account", "%(count)s CSP accounts", lost.csp_accounts),
                    lost.csp_accounts,
                ),
                "credentials": _count(
                    ngettext("%(count)s XKS credential", "%(count)s XKS credentials", lost.credentials),
                    lost.credentials,
                ),
            },
        ),
        (
            "users",
            _count(
                ngettext(
                    "Access ends for %(count)s member.", "Access ends for %(count)s members.", lost.members
                ),
                lost.members,
            ),
        ),
    ]
    if lost.aws_key_stores:
        consequences.append(
            (
                "cloud",
                gettext("Left behind in AWS, without keys: %(names)s.")
                % {"names": ", ".join(lost.aws_key_stores)},
            )
        )
    if lost.unfinished_operations:
        consequences.append(
            (
                "list-checks",
                _count(
                    ngettext(
                        "%(count)s operation cancelled.",
                        "%(count)s operations cancelled.",
                        lost.unfinished_operations,
                    ),
                    lost.unfinished_operations,
                ),
            )
        )
    return confirm(
        request,
        form,
        title=gettext("Destroy %(name)s?") % {"name": vault.name},
        words=gettext(
            "Data under its keys stays unreadable for ever: the key encryption key is erased. This cannot be undone."
        ),
        consequences=consequences,
        button=gettext("Destroy vault"),
        cancel=back,
        danger=True,
    )


def _count(words: str, number: int) -> str:
    return words % {"count": f"{number:,}"}
