"""Write docs/permissions.md from vault.permissions; a test holds the page to it. A new permission needs words here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "permissions.md"

WORDS = {
    "appliance.manage_vaults": "Create, disable, enable and destroy vaults",
    "appliance.manage_users": "Issue a new one-time password to a person",
    "appliance.view_nodes": "See data-plane nodes",
    "appliance.manage_nodes": "Let nodes take over a database that went backwards",
    "appliance.manage_certificates": "Request, install, serve and delete certificates of the XKS endpoint, and clients' roots",
    "appliance.view_audit": "See the installation's audit events: sign-ins, users, vaults as a whole",
    "appliance.view_hsms": "See HSM connections, their members and keys",
    "appliance.manage_hsms": "Connect, change, test and remove HSMs; change PINs; move the root key",
    "vault.view": "See the vault",
    "vault.update": "Rename and describe the vault",
    "vault.block": "Block the vault: the data plane refuses every use of its keys",
    "vault.unblock": "Unblock the vault",
    "members.view": "See members and groups",
    "members.manage": "Add, change and remove members and groups",
    "audit.view": "See and export the vault's audit events",
    "nodes.view": "See data-plane nodes",
    "operations.view": "See Operations",
    "operations.manage": "Retry and cancel Operations",
    "saved_views.manage": "Keep saved views of one's own",
    "csp_accounts.view": "See CSP accounts, never their secrets",
    "csp_accounts.manage": "Add, change, test, rotate and delete CSP accounts",
    "key_sets.view": "See key sets",
    "key_sets.manage": "Create, change and delete key sets",
    "xks_stores.view": "See external key stores and their AWS stores",
    "xks_stores.manage": "Create, change, link, connect, disconnect and delete them",
    "xks_credentials.manage": "Make and retire XKS credentials (a new one is shown once)",
    "xks_stores.block": "Block an external key store",
    "xks_stores.unblock": "Unblock it",
    "access_rules.view": "See access rules and what they would refuse",
    "access_rules.manage": "Write access rules, try them out, enforce them",
    "cloud_keys.view": "See CloudKeys and their versions, never their material",
    "cloud_keys.create": "Create CloudKeys",
    "cloud_keys.update": "Change CloudKeys, link them, retire them to decrypt-only",
    "cloud_keys.rotate": "Rotate a CloudKey now",
    "cloud_keys.disable": "Disable a CloudKey",
    "cloud_keys.enable": "Enable it",
    "cloud_keys.block": "Block a CloudKey",
    "cloud_keys.unblock": "Unblock it",
    "cloud_keys.destroy": "Schedule and cancel a CloudKey's deletion, destroy it",
}

HEAD = """# Who may do what

The table is that of `vault/permissions.py`; a test compares the two. What a role does not hold is refused (403). Objects of
a vault that one is no member of look as if they did not exist (404).

* **yes**: allowed. **group**: allowed unless an admin group owns the object (a CSP account, a key set, and what belongs to
  them) and the person is not in that group. Vault admins need no group.
* The **appliance admin** looks after the installation: vaults as a whole, people, nodes. In a vault's keys, accounts and audit
  events an appliance admin sees nothing, unless made a member of that vault; name and description of a vault may be changed.
* An **API token** acts as its owner at the time of use. A role given to the token is a ceiling, a vault given to it the only one.
  A token with either never acts for the appliance. Passwords, sessions and tokens are managed by people, not by tokens.
* Enabling, unblocking and destroying will be able to demand a second person; the requester is then never the approver.

| permission | what it allows | appliance admin | vault admin | cloud admin | auditor |
|---|---|---|---|---|---|
"""


def table() -> str:
    """The table's rows, in the order of the code."""
    from vault.models import Role
    from vault.permissions import APPLIANCE_PERMISSIONS, ROLE_PERMISSIONS, Permission

    lines = []
    for permission in Permission:
        bound = not permission.value.endswith(".view") and permission is not Permission.SAVED_VIEWS_MANAGE
        cells = ["yes" if permission in APPLIANCE_PERMISSIONS else ""]
        for role in (Role.VAULT_ADMIN, Role.CLOUD_ADMIN, Role.AUDITOR):
            allowed = "group" if bound and role is Role.CLOUD_ADMIN else "yes"
            cells.append(allowed if permission in ROLE_PERMISSIONS[role] else "")
        lines.append(f"| `{permission.value}` | {WORDS[permission.value]} | {' | '.join(cells)} |\n")
    return "".join(lines)


def main() -> None:
    """Write the page."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")
    django.setup()
    PAGE.write_text(HEAD + table(), "utf-8")


if __name__ == "__main__":
    main()
