"""Who may do what. One table; docs/permissions.md is made from it and a test compares the two."""

from __future__ import annotations

from enum import StrEnum

from vault.models.tenancy import Role


class Permission(StrEnum):
    """Named permissions. APPLIANCE_* belong to the appliance admin, all others to roles in a vault."""

    APPLIANCE_MANAGE_VAULTS = "appliance.manage_vaults"
    APPLIANCE_MANAGE_USERS = "appliance.manage_users"
    APPLIANCE_VIEW_NODES = "appliance.view_nodes"
    APPLIANCE_MANAGE_NODES = "appliance.manage_nodes"
    APPLIANCE_MANAGE_CERTIFICATES = "appliance.manage_certificates"
    APPLIANCE_VIEW_AUDIT = "appliance.view_audit"
    APPLIANCE_VIEW_HSMS = "appliance.view_hsms"
    APPLIANCE_MANAGE_HSMS = "appliance.manage_hsms"

    VAULT_VIEW = "vault.view"
    VAULT_UPDATE = "vault.update"
    VAULT_BLOCK = "vault.block"
    VAULT_UNBLOCK = "vault.unblock"
    MEMBERS_VIEW = "members.view"
    MEMBERS_MANAGE = "members.manage"
    AUDIT_VIEW = "audit.view"
    NODES_VIEW = "nodes.view"
    OPERATIONS_VIEW = "operations.view"
    OPERATIONS_MANAGE = "operations.manage"
    SAVED_VIEWS_MANAGE = "saved_views.manage"

    CSP_ACCOUNTS_VIEW = "csp_accounts.view"
    CSP_ACCOUNTS_MANAGE = "csp_accounts.manage"
    KEY_SETS_VIEW = "key_sets.view"
    KEY_SETS_MANAGE = "key_sets.manage"
    XKS_STORES_VIEW = "xks_stores.view"
    XKS_STORES_MANAGE = "xks_stores.manage"
    XKS_CREDENTIALS_MANAGE = "xks_credentials.manage"
    XKS_STORES_BLOCK = "xks_stores.block"
    XKS_STORES_UNBLOCK = "xks_stores.unblock"
    ACCESS_RULES_VIEW = "access_rules.view"
    ACCESS_RULES_MANAGE = "access_rules.manage"
    CLOUD_KEYS_VIEW = "cloud_keys.view"
    CLOUD_KEYS_CREATE = "cloud_keys.create"
    CLOUD_KEYS_UPDATE = "cloud_keys.update"
    CLOUD_KEYS_ROTATE = "cloud_keys.rotate"
    CLOUD_KEYS_DISABLE = "cloud_keys.disable"
    CLOUD_KEYS_ENABLE = "cloud_keys.enable"
    CLOUD_KEYS_BLOCK = "cloud_keys.block"
    CLOUD_KEYS_UNBLOCK = "cloud_keys.unblock"
    CLOUD_KEYS_DESTROY = "cloud_keys.destroy"


P = Permission

APPLIANCE_PERMISSIONS: frozenset[Permission] = frozenset(
    p for p in Permission if p.value.startswith("appliance.")
)

_VIEWS = frozenset(
    {
        P.VAULT_VIEW,
        P.MEMBERS_VIEW,
        P.AUDIT_VIEW,
        P.NODES_VIEW,
        P.OPERATIONS_VIEW,
        P.SAVED_VIEWS_MANAGE,
        P.CSP_ACCOUNTS_VIEW,
        P.KEY_SETS_VIEW,
        P.XKS_STORES_VIEW,
        P.ACCESS_RULES_VIEW,
        P.CLOUD_KEYS_VIEW,
    }
)

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VAULT_ADMIN: frozenset(p for p in Permission if p not in APPLIANCE_PERMISSIONS),
    Role.CLOUD_ADMIN: _VIEWS
    | {
        P.OPERATIONS_MANAGE,
        P.CSP_ACCOUNTS_MANAGE,
        P.KEY_SETS_MANAGE,
        P.XKS_STORES_MANAGE,
        P.XKS_CREDENTIALS_MANAGE,
        P.XKS_STORES_BLOCK,
        P.ACCESS_RULES_MANAGE,
        P.CLOUD_KEYS_CREATE,
        P.CLOUD_KEYS_UPDATE,
        P.CLOUD_KEYS_ROTATE,
        P.CLOUD_KEYS_DISABLE,
        P.CLOUD_KEYS_ENABLE,
        P.CLOUD_KEYS_BLOCK,
        P.CLOUD_KEYS_DESTROY,
    },
    Role.AUDITOR: _VIEWS,
}

ROLE_ORDER: tuple[Role, ...] = (Role.AUDITOR, Role.CLOUD_ADMIN, Role.VAULT_ADMIN)


def lower_role(first: Role, second: Role) -> Role:
    """The role with fewer rights; a token's ceiling is applied with it."""
    return min(first, second, key=ROLE_ORDER.index)
