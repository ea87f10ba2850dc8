"""The end of a vault, which reaches the keys in it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse

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
            return done(request, back, f"Vault {vault.name} is destroyed. {told}")
    if vault.state == Vault.State.DESTROYED:
        raise Conflict("This vault was destroyed already.", cure="Nothing brings it back; make another.")
    lost = describe_destruction(request.actor, vault_id)
    consequences = [
        (
            "key-round",
            f"{_count(lost.cloud_keys, 'key')} with {_count(lost.key_versions, 'version')} erased, for good.",
        ),
        (
            "layers",
            ", ".join(
                (
                    _count(lost.key_sets, "key set"),
                    _count(lost.csp_accounts, "CSP account"),
                    _count(lost.credentials, "XKS credential") + " lost.",
                )
            ),
        ),
        ("users", f"Access ends for {_count(lost.members, 'member')}."),
    ]
    if lost.aws_key_stores:
        consequences.append(
            ("cloud", "Left behind in AWS, without keys: " + ", ".join(lost.aws_key_stores) + ".")
        )
    if lost.unfinished_operations:
        consequences.append(("list-checks", f"{_count(lost.unfinished_operations, 'operation')} cancelled."))
    return confirm(
        request,
        form,
        title=f"Destroy {vault.name}?",
        words="Data under its keys stays unreadable for ever: the key encryption key is erased. This cannot be undone.",
        consequences=consequences,
        button="Destroy vault",
        cancel=back,
        danger=True,
    )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
