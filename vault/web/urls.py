"""Pages of the vault room. Tables of higher rooms are included before it (vault/urls.py)."""

from django.urls import path

from vault.web import home, saved_views, styleguide, vaults

urlpatterns = [
    path("", home.home, name="home"),
    path("accounts/profile/", home.account, name="account"),
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
