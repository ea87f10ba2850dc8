"""Every page of Keystead with an address that can be opened: made from the URL tables, so that a new page cannot be forgotten.

    page_addresses.py VAULT     prints [{name, url}] as JSON; asks the database of the environment's instance

Tests (tests/browser/test_pages.py), screenshots and benchmarks all go by this. What an address needs (a key, an operation) is looked
for among the vault's objects; `CHOICES` says which one where not any will do. An address for which there is no object yet has no URL.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROOMS = ("vault", "cloudkeys", "xks")
ALLAUTH = (
    "account_change_password",
    "account_reauthenticate",
    "mfa_index",
    "mfa_activate_totp",
    "mfa_list_webauthn",
    "mfa_add_webauthn",
    "usersessions_list",
)
"""Pages of django-allauth that one sees signed in."""
NOT_DRAWN = ("styleguide",)
"""Shows every part in every state, some of them twice under one id; only in debug."""


@dataclass(frozen=True)
class Address:
    """A page: its URL's name, what tells it from others of that name, and the path; "" when nothing there can be shown."""

    name: str
    variant: str
    url: str

    @property
    def slug(self) -> str:
        """A name for files."""
        return f"{self.name}-{self.variant}".rstrip("-")


Look = Callable[[Any], Any]


def _first(model: str, **which: Any) -> Look:
    def look(vault: Any) -> Any:
        from django.apps import apps

        found = apps.get_model(model).objects.filter(**{"vault": vault, **which})
        names = {field.name for field in found.model._meta.fields}
        return (
            found.order_by("created_at" if "created_at" in names else "pk")
            .values_list("pk", flat=True)
            .first()
        )

    return look


def _key(**which: Any) -> Look:
    def look(vault: Any) -> Any:
        from cloudkeys.models import CloudKey

        rows = CloudKey.objects.filter(vault=vault, kind="USER", **which)
        # The one with most to show.
        return rows.order_by("-current_version", "created_at").values_list("pk", flat=True).first()

    return look


def _link(**which: Any) -> Look:
    return _first("cloudkeys.awsstorelink", **which)


def _event(vault: Any) -> Any:
    from vault.models import AuditEvent

    rows = AuditEvent.objects.filter(vault=vault).order_by("-sequence")
    changed = rows.filter(before__isnull=False, after__isnull=False)
    return changed.values_list("id", flat=True).first() or rows.values_list("id", flat=True).first()


def _anywhere(model: str, field: str = "pk", **which: Any) -> Look:
    def look(vault: Any) -> Any:
        from django.apps import apps

        rows = apps.get_model(model).objects.filter(**which)
        return rows.order_by("pk").values_list(field, flat=True).first()

    return look


def _selection(vault: Any) -> Any:
    from cloudkeys.models import CloudKey
    from cloudkeys.web import key_selection

    ids = CloudKey.objects.filter(vault=vault, kind="USER").order_by("name").values_list("pk", flat=True)[:3]
    return key_selection.of_ids(list(ids)) if ids else None


def _linked_store(vault: Any) -> Any:
    from cloudkeys.models import AwsStoreLink, XksKeyStore

    linked = AwsStoreLink.objects.filter(vault=vault).exclude(custom_key_store_id="")
    stores = XksKeyStore.objects.filter(vault=vault)
    found = stores.filter(pk__in=linked.values("store")).order_by("created_at").first()
    return (found or stores.order_by("created_at").first() or _NONE).pk


class _NONE:
    pk = None


def _store_of(look: Look) -> Look:
    """The store of the object that another look finds."""

    def find(vault: Any) -> Any:
        from cloudkeys.models import AwsStoreLink, CloudKey

        found = look(vault)
        for model in (AwsStoreLink, CloudKey):
            store = (
                model.objects.filter(pk=found).values_list("store_id", flat=True).first() if found else None
            )
            if store:
                return store
        return None

    return find


def _credential(vault: Any) -> Any:
    from cloudkeys.models import XksCredential

    rows = XksCredential.objects.filter(vault=vault, store_id=_linked_store(vault))
    return rows.order_by("created_at").values_list("pk", flat=True).first()


def _person(vault: Any) -> Any:
    from vault.models import Membership

    members = Membership.objects.filter(vault=vault).order_by("role")
    return members.values_list("pk", flat=True).first()


def _used_set(vault: Any) -> Any:
    from cloudkeys.models import XksKeyStore

    return XksKeyStore.objects.filter(pk=_linked_store(vault)).values_list("key_set_id", flat=True).first()


def _plain_set(vault: Any) -> Any:
    from cloudkeys.models import KeySet, XksKeyStore

    faces = XksKeyStore.objects.filter(vault=vault).values("key_set")
    return KeySet.objects.filter(vault=vault).exclude(pk__in=faces).values_list("pk", flat=True).first()


def _bulk(vault: Any) -> Any:
    from cloudkeys.models import Operation

    rows = Operation.objects.filter(vault=vault, kind__contains="bulk").order_by("-created_at")
    return rows.values_list("pk", flat=True).first()


UNLINKED = {"pointer_state": "NOT_LINKED"}
VALUES: dict[str, Look] = {
    "vault_id": lambda vault: vault.pk,
    "key_id": _key(state="ENABLED", blocked=False),
    "key_set_id": _used_set,
    "account_id": _first("cloudkeys.cspaccount"),
    "store_id": _linked_store,
    "link_id": _link(),
    "credential_id": _credential,
    "operation_id": _first("cloudkeys.operation"),
    "event_id": _event,
    "node_id": _anywhere("vault.node"),
    "connection_id": _anywhere("vault.hsmconnection"),
    "certificate_id": _anywhere("xks.endpointcertificate"),
    "draft_id": _first("cloudkeys.keysetdraft"),
    "member_id": _person,
    "user_id": _anywhere("vault.user", is_appliance_admin=False),
    "group_id": _first("vault.group"),
    "token_id": _first("vault.apitoken", revoked_at=None),
    "view_id": _first("vault.savedview"),
    "token": _selection,
    "page_name": lambda vault: "cloud-keys",
}
DISABLED, BLOCKED = _key(state="DISABLED"), _key(blocked=True)
PENDING, LOOSE = _key(state="PENDING_DELETION"), _key(**UNLINKED)
BY_HAND = _link(linked=False)
CHOICES: dict[str, dict[str, Look]] = {
    "csp-account-progress": {"operation_id": _first("cloudkeys.operation", target_type="cspaccount")},
    "key-set-progress": {"operation_id": _first("cloudkeys.operation", target_type="awsstorelink")},
    "appliance-audit-event": {"event_id": _anywhere("vault.auditevent", "id", vault=None)},
    "cloud-key-enable": {"key_id": DISABLED},
    "cloud-key-unblock": {"key_id": BLOCKED},
    "cloud-key-proof": {"key_id": DISABLED},
    "cloud-key-cancel-deletion": {"key_id": PENDING},
    "cloud-key-destroy": {"key_id": LOOSE},
    "cloud-key-link": {"key_id": LOOSE},
    "xks-key-link": {"key_id": LOOSE, "store_id": _store_of(LOOSE)},
    "xks-link-edit": {"store_id": _store_of(_link())},
    "xks-link-delete": {"store_id": _store_of(_link())},
    "xks-link-link": {"link_id": BY_HAND, "store_id": _store_of(BY_HAND)},
    "xks-link-steps": {"link_id": BY_HAND, "store_id": _store_of(BY_HAND)},
    "key-set-use": {"key_set_id": _plain_set},
    "operation-retry": {"operation_id": _first("cloudkeys.operation", state="FAILED")},
    "operation-cancel": {"operation_id": _first("cloudkeys.operation", state__in=("WAITING", "RUNNING"))},
    "operation-retry-refused": {"operation_id": _bulk},
    "cloud-keys-work": {"operation_id": _bulk},
}
"""Where not any object will do: by the URL's name."""
SPREAD: dict[str, dict[str, tuple[str, ...]]] = {
    "csp-account-tab": {"tab": ("credential", "policy", "used-by")},
    "key-set-tab": {"tab": ("keys", "schedule", "protection", "aws", "dependents")},
    "hsm-tab": {"tab": ("capabilities", "keys", "audit")},
    "key-set-step": {"step": ("what", "account", "store", "protection", "schedule", "summary")},
    "key-set-draft-save": {"step": ("what",)},
    "cloud-keys-bulk": {"verb": ("disable",)},
    "cloud-keys-bulk-confirm": {"verb": ("enable", "disable", "rotate", "schedule", "tag")},
    "docs": {"name": ("quickstart",)},
}
"""Parts of addresses that are words: all that are to be drawn."""


QUERIES = {
    "xks-rules-diff": "from=1&to=2",
    "xks-rules-dry-run": "version=2",
    "xks-rules-enforce": "version=2",
    "xks-rules-shadow": "version=2",
}
"""What a page wants to be asked."""


def tables() -> list[tuple[str, str]]:
    """Every entry of the rooms' URL tables: its name and its route."""
    return [
        (str(entry.name), str(entry.pattern))
        for room in ROOMS
        for entry in import_module(f"{room}.web.urls").urlpatterns
        if entry.name not in NOT_DRAWN
    ]


def addresses(vault: Any) -> list[Address]:
    """Every page, with the objects of this vault. Raises LookupError for a part of an address that nothing here knows."""
    import re

    from django.urls import reverse

    cache: dict[Look, Any] = {}
    found: dict[tuple[str, str], Address] = {}
    for name, route in tables():
        wanted = re.findall(r"<(?:\w+:)?(\w+)>", route)
        spread = SPREAD.get(name, {})
        words = next((part for part in wanted if part in spread), "")
        for word in spread.get(words, ("",)):
            values: dict[str, Any] = {words: word} if words else {}
            for part in wanted:
                if part == words:
                    continue
                look = CHOICES.get(name, {}).get(part) or VALUES.get(part)
                if look is None:
                    raise LookupError(
                        f"scripts/page_addresses.py does not know what {part} of {route} ({name}) may be"
                    )
                if look not in cache:
                    cache[look] = look(vault)
                values[part] = cache[look]
            whole = all(value is not None for value in values.values())
            of_key = "key" if name.startswith("xks-") and "rules" in route and "key_id" in wanted else ""
            variant = word or of_key
            url = "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda part: str(values[part[1]]), route) if whole else ""  # noqa: B023
            found[name, variant] = Address(
                name, variant, f"{url}?{QUERIES[name]}" if url and name in QUERIES else url
            )
    for name in ALLAUTH:
        found[name, ""] = Address(name, "", reverse(name))
    return list(found.values())


def main() -> None:
    """Print them."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")
    import django

    django.setup()
    from vault.models import Vault

    print(json.dumps([asdict(address) for address in addresses(Vault.objects.get(pk=sys.argv[1]))]))


if __name__ == "__main__":
    main()
