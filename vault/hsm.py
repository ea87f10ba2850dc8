"""HSMs as the rest of the product uses them; the parts are in vault/hsm_*.py, the services in vault/services/hsm.py."""

from __future__ import annotations

from vault.hsm_groups import (
    GroupRecord,
    MemberRecord,
    asking,
    connections_for,
    domain_error,
    forget_groups,
    group_records,
    run_folder,
    socket_path,
    sync_group,
)
from vault.hsm_keys import create_hsm_key, destroy_hsm_key

__all__ = [
    "GroupRecord",
    "MemberRecord",
    "asking",
    "connections_for",
    "create_hsm_key",
    "destroy_hsm_key",
    "domain_error",
    "forget_groups",
    "group_records",
    "run_folder",
    "socket_path",
    "sync_group",
]
