"""Pages of the cloudkeys room."""

from django.urls import path

from cloudkeys.web import vault_end

urlpatterns = [
    path("appliance/vaults/<uuid:vault_id>/destroy/", vault_end.vault_destroy, name="vault-destroy"),
]
