"""What the command palette finds in this room: any object of the present vault, and what can be done to it."""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext, gettext_noop

from cloudkeys.services.palette import Found, find_objects
from cloudkeys.web.links import object_url
from vault.actors import Actor
from vault.models import Vault
from vault.permissions import Permission
from vault.web.palette import MOST, Hit, holds, maybe_url
from vault.web.states import look

GROUPS: dict[str, tuple[str, str, str]] = {
    "cloud_key": (gettext_noop("Cloud keys"), "key-round", "cloud_key"),
    "key_set": (gettext_noop("Key sets"), "layers", ""),
    "csp_account": (gettext_noop("CSP accounts"), "cloud", "account"),
    "xks_store": (gettext_noop("External key stores"), "plug", "store"),
    "aws_store_link": (gettext_noop("External key stores"), "plug", "link"),
    "operation": (gettext_noop("Operations"), "list-checks", "operation"),
    "member": (gettext_noop("People"), "user", ""),
}
# A verb before a key's name: the pages that do it, in the order of preference, and what it needs.
KEY_ACTS: tuple[tuple[str, str, tuple[str, ...], Permission, tuple[str, ...]], ...] = (
    (
        gettext_noop("Disable key"),
        "circle-pause",
        ("cloud-key-disable",),
        Permission.CLOUD_KEYS_DISABLE,
        ("ENABLED",),
    ),
    (gettext_noop("Enable key"), "play", ("cloud-key-enable",), Permission.CLOUD_KEYS_ENABLE, ("DISABLED",)),
    (
        gettext_noop("Rotate key"),
        "rotate-cw",
        ("cloud-key-rotate",),
        Permission.CLOUD_KEYS_ROTATE,
        ("ENABLED",),
    ),
    (
        gettext_noop("Block key"),
        "ban",
        ("cloud-key-block",),
        Permission.CLOUD_KEYS_BLOCK,
        ("ENABLED", "DISABLED"),
    ),
)
MAKING: tuple[tuple[str, str, tuple[str, ...], Permission], ...] = (
    (gettext_noop("Create key"), "plus", ("cloud-key-create", "cloud-key-new"), Permission.CLOUD_KEYS_CREATE),
    (gettext_noop("Create key set"), "plus", ("key-set-create", "key-set-new"), Permission.KEY_SETS_MANAGE),
    (gettext_noop("Add CSP account"), "plus", ("csp-account-new",), Permission.CSP_ACCOUNTS_MANAGE),
    (gettext_noop("Show failed operations"), "list-checks", ("operations",), Permission.OPERATIONS_VIEW),
)


def object_hits(actor: Actor, vault: Vault, text: str) -> Iterator[Hit]:
    """Objects by name, id, alias, ARN, access key id; and acts on keys, as in "disable payments"."""
    for found in find_objects(actor, vault, text, MOST * 2):
        hit = _hit(vault, found)
        if hit is not None:
            yield hit
    yield from _key_acts(actor, vault, text)


def making_hits(actor: Actor, vault: Vault, text: str) -> Iterator[Hit]:
    """What can be made or opened in the vault, for this person."""
    for words, icon, names, permission in MAKING:
        label = gettext(words)
        if not holds(label, text) or not actor.may(permission, vault):
            continue
        url = next((url for name in names if (url := maybe_url(name, vault_id=vault.pk))), "")
        if url:
            yield Hit(
                gettext_noop("Do"), label, f"{url}?state=FAILED" if names == ("operations",) else url, icon
            )


def _hit(vault: Vault, found: Found) -> Hit | None:
    group, icon, kind = GROUPS[found.type]
    if found.type == "member":
        url = maybe_url("people", vault_id=vault.pk)
        return Hit(group, found.name or found.detail, url, icon, found.detail) if url else None
    url = object_url(vault, found.type, found.id)
    if not url:
        return None
    state = look(kind, found.state).word if kind and found.state else ""
    return Hit(group, found.name, url, icon, " · ".join(part for part in (found.detail, state) if part))


def _key_acts(actor: Actor, vault: Vault, text: str) -> Iterator[Hit]:
    """As in "disable pay": the first word is the beginning of a verb, the rest names keys. One search, whatever the verbs."""
    verb, _, name = text.partition(" ")
    name = name.removeprefix("key ").strip()
    acts = [act for act in KEY_ACTS if len(verb) >= 3 and act[0].lower().startswith(verb.lower())]
    acts = [act for act in acts if actor.may(act[3], vault)]
    if not acts or len(name) < 2:
        return
    for found in find_objects(actor, vault, name, MOST):
        if found.type != "cloud_key":
            continue
        for label, icon, names, _, states in acts:
            url = next((u for n in names if (u := maybe_url(n, vault_id=vault.pk, key_id=found.id))), "")
            if url and found.state in states:
                # The page asks, and says why not where the key's admin group is another.
                yield Hit(
                    gettext_noop("Do"), f"{gettext(label)} {found.name}", url, icon, found.detail, dialog=True
                )
