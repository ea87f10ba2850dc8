"""Pages of the vault room. Tables of higher rooms are included before it (vault/urls.py)."""

from django.urls import path

from vault.web import accounts, home, people, saved_views, settings, styleguide, tokens, vaults

_P = "v/<uuid:vault_id>/people/"
_A = "appliance/accounts/<uuid:user_id>/"

urlpatterns = [
    path("", home.home, name="home"),
    path("accounts/profile/", settings.account, name="account"),
    path("accounts/tokens/", tokens.token_list, name="tokens"),
    path("accounts/tokens/new/", tokens.token_create, name="token-create"),
    path("accounts/tokens/<uuid:token_id>/revoke/", tokens.token_revoke, name="token-revoke"),
    path("docs/", home.docs, name="docs"),
    path("docs/<slug:name>/", home.docs, name="docs"),
    path("styleguide/", styleguide.styleguide, name="styleguide"),
    path("v/<uuid:vault_id>/home/", home.vault_home, name="vault-home"),
    path("v/<uuid:vault_id>/block/", vaults.vault_block, name="vault-block"),
    path("v/<uuid:vault_id>/unblock/", vaults.vault_unblock, name="vault-unblock"),
    path("v/<uuid:vault_id>/views/<slug:page_name>/new/", saved_views.view_new, name="saved-view-new"),
    path("v/<uuid:vault_id>/views/<uuid:view_id>/", saved_views.view_open, name="saved-view"),
    path("v/<uuid:vault_id>/views/<uuid:view_id>/edit/", saved_views.view_edit, name="saved-view-edit"),
    path("v/<uuid:vault_id>/views/<uuid:view_id>/delete/", saved_views.view_delete, name="saved-view-delete"),
    path(_P, people.member_list, name="people"),
    path(f"{_P}new/", people.member_create, name="person-create"),
    path(f"{_P}groups/", people.group_list, name="groups"),
    path(f"{_P}groups/new/", people.group_create, name="group-create"),
    path(f"{_P}groups/<uuid:group_id>/", people.group_detail, name="group"),
    path(f"{_P}groups/<uuid:group_id>/edit/", people.group_edit, name="group-edit"),
    path(f"{_P}groups/<uuid:group_id>/delete/", people.group_delete, name="group-delete"),
    path(f"{_P}tokens/", tokens.vault_token_list, name="vault-tokens"),
    path(f"{_P}tokens/<uuid:token_id>/revoke/", tokens.vault_token_revoke, name="vault-token-revoke"),
    path(f"{_P}<uuid:member_id>/", people.member_detail, name="person"),
    path(f"{_P}<uuid:member_id>/edit/", people.member_edit, name="person-edit"),
    path(f"{_P}<uuid:member_id>/remove/", people.member_remove, name="person-remove"),
    path("v/<uuid:vault_id>/settings/", settings.vault_settings, name="settings"),
    path("v/<uuid:vault_id>/settings/yours/", settings.your_settings, name="settings-yours"),
    path("appliance/accounts/", accounts.account_list, name="accounts"),
    path(_A, accounts.account_detail, name="account-detail"),
    path(f"{_A}one-time-password/", accounts.account_reset, name="account-reset"),
    path(f"{_A}disable/", accounts.account_switch, {"verb": "disable"}, name="account-disable"),
    path(f"{_A}enable/", accounts.account_switch, {"verb": "enable"}, name="account-enable"),
    path("appliance/vaults/", vaults.vault_list, name="vaults"),
    path("appliance/vaults/new/", vaults.vault_create, name="vault-create"),
    path("appliance/vaults/<uuid:vault_id>/", vaults.vault_detail, name="vault-detail"),
    path("appliance/vaults/<uuid:vault_id>/edit/", vaults.vault_edit, name="vault-edit"),
    path(
        "appliance/vaults/<uuid:vault_id>/disable/",
        vaults.vault_switch,
        {"verb": "disable"},
        name="vault-disable",
    ),
    path(
        "appliance/vaults/<uuid:vault_id>/enable/",
        vaults.vault_switch,
        {"verb": "enable"},
        name="vault-enable",
    ),
]
