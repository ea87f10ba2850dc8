"""URL table of the vault side of the API. Tables of higher rooms are included before it: its last entry takes the rest."""

from django.urls import path, re_path

from vault.api import (
    audit_events,
    auth,
    groups,
    hsms,
    members,
    nodes,
    one_time_passwords,
    saved_views,
    schema,
    system,
    vaults,
)
from vault.api.endpoints import UnknownAddress

V1 = "api/v1"

urlpatterns = [
    path(f"{V1}/auth/sign-in", auth.SignIn.as_view()),
    path(f"{V1}/auth/sign-out", auth.SignOut.as_view()),
    path(f"{V1}/auth/password", auth.Password.as_view()),
    path(f"{V1}/auth/me", auth.Me.as_view()),
    path(f"{V1}/auth/sessions", auth.SessionList.as_view()),
    path(f"{V1}/auth/sessions/<int:session_id>", auth.SessionDetail.as_view()),
    path(f"{V1}/auth/tokens", auth.TokenList.as_view()),
    path(f"{V1}/auth/tokens/<uuid:token_id>", auth.TokenDetail.as_view()),
    path(f"{V1}/one-time-passwords", one_time_passwords.OneTimePasswords.as_view()),
    path(f"{V1}/vaults", vaults.VaultList.as_view()),
    path(f"{V1}/vaults/<uuid:vault_id>", vaults.VaultDetail.as_view()),
    path(f"{V1}/vaults/<uuid:vault_id>/disable", vaults.VaultDisable.as_view()),
    path(f"{V1}/vaults/<uuid:vault_id>/enable", vaults.VaultEnable.as_view()),
    path(f"{V1}/vaults/<uuid:vault_id>/block", vaults.VaultBlock.as_view()),
    path(f"{V1}/vaults/<uuid:vault_id>/unblock", vaults.VaultUnblock.as_view()),
    path(f"{V1}/members", members.MemberList.as_view()),
    path(f"{V1}/members/<uuid:member_id>", members.MemberDetail.as_view()),
    path(f"{V1}/groups", groups.GroupList.as_view()),
    path(f"{V1}/groups/<uuid:group_id>", groups.GroupDetail.as_view()),
    path(f"{V1}/audit-events", audit_events.AuditEventList.as_view()),
    path(f"{V1}/audit-events/export", audit_events.AuditEventExport.as_view()),
    path(f"{V1}/audit-events/<uuid:event_id>", audit_events.AuditEventDetail.as_view()),
    path(f"{V1}/nodes", nodes.NodeList.as_view()),
    path(f"{V1}/nodes/accept-rollback", nodes.RollbackAccept.as_view()),
    path(f"{V1}/nodes/<uuid:node_id>", nodes.NodeDetail.as_view()),
    path(f"{V1}/hsms", hsms.HsmList.as_view()),
    path(f"{V1}/hsms/<uuid:hsm_id>", hsms.HsmDetail.as_view()),
    path(f"{V1}/hsms/<uuid:hsm_id>/pin", hsms.HsmPin.as_view()),
    path(f"{V1}/hsms/<uuid:hsm_id>/test", hsms.HsmTest.as_view()),
    path(f"{V1}/hsms/<uuid:hsm_id>/keys", hsms.HsmKeyList.as_view()),
    path(f"{V1}/root-key", hsms.RootKey.as_view()),
    path(f"{V1}/root-key/move", hsms.RootKeyMove.as_view()),
    path(f"{V1}/system", system.SystemStatus.as_view()),
    path(f"{V1}/system/test-mail", system.TestMail.as_view()),
    path(f"{V1}/saved-views", saved_views.SavedViewList.as_view()),
    path(f"{V1}/saved-views/<uuid:view_id>", saved_views.SavedViewDetail.as_view()),
    path(f"{V1}/openapi.json", schema.openapi_json, name="openapi"),
    path(f"{V1}/docs", schema.docs, name="api-docs"),
    re_path(r"^api/", UnknownAddress.as_view(), name="api-unknown"),
]
