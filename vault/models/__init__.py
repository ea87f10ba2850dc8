"""Tenancy, identity and the records that every other room leans on."""

from vault.models.access import ApiToken, IdempotencyRecord
from vault.models.attention import AttentionMailbox, AttentionSeen, UnusedKeys
from vault.models.audit import AuditChainHead, AuditEvent, AuditLink
from vault.models.errands import Errand
from vault.models.hsm import HsmConnection, HsmKey, HsmKeyPlacement, HsmMember
from vault.models.nodes import Generation, GenerationChange, Node, WorkerProcess
from vault.models.preferences import UserPreferences
from vault.models.pulses import Pulse
from vault.models.tenancy import Group, Installation, Membership, Role, Vault
from vault.models.users import User
from vault.models.views import SavedView

__all__ = [
    "ApiToken",
    "AttentionMailbox",
    "AttentionSeen",
    "AuditChainHead",
    "AuditEvent",
    "AuditLink",
    "Errand",
    "Generation",
    "GenerationChange",
    "Group",
    "HsmConnection",
    "HsmKey",
    "HsmKeyPlacement",
    "HsmMember",
    "IdempotencyRecord",
    "Installation",
    "Membership",
    "Node",
    "Pulse",
    "Role",
    "SavedView",
    "UnusedKeys",
    "User",
    "UserPreferences",
    "Vault",
    "WorkerProcess",
]
