"""Pages of the cloudkeys room."""

from django.urls import path

from cloudkeys.web import cloud_key_new, cloud_keys, key_bulk, operations, vault_end

_K = "v/<uuid:vault_id>/cloud-keys/"

urlpatterns = [
    path(_K, cloud_keys.key_list, name="cloud-keys"),
    path(f"{_K}new/", cloud_key_new.key_new, name="cloud-key-new"),
    path(f"{_K}new/<uuid:key_set_id>/", cloud_key_new.key_new_in, name="cloud-key-new-in"),
    path(f"{_K}new/<uuid:key_set_id>/policy/", cloud_key_new.key_policy, name="cloud-key-new-policy"),
    path(f"{_K}new/<uuid:key_set_id>/principals/", cloud_key_new.key_principals, name="cloud-key-new-principals"),
    path(f"{_K}csv/", cloud_key_new.keys_csv, name="cloud-keys-csv"),
    path(f"{_K}csv/sample/", cloud_key_new.keys_csv_sample, name="cloud-keys-csv-sample"),
    path(f"{_K}bulk/<slug:verb>/", key_bulk.bulk_begin, name="cloud-keys-bulk"),
    path(f"{_K}bulk/<slug:verb>/<str:token>/", key_bulk.bulk_confirm, name="cloud-keys-bulk-confirm"),
    path(f"{_K}work/<uuid:operation_id>/", key_bulk.bulk_work, name="cloud-keys-work"),
    path("appliance/vaults/<uuid:vault_id>/destroy/", vault_end.vault_destroy, name="vault-destroy"),
    path("v/<uuid:vault_id>/operations/", operations.operation_list, name="operations"),
    path("v/<uuid:vault_id>/operations/<uuid:operation_id>/", operations.operation_detail, name="operation"),
    *(
        path(f"v/<uuid:vault_id>/operations/<uuid:operation_id>/{verb}/", view, name=f"operation-{verb}")
        for verb, view in (
            ("progress", operations.operation_progress),
            ("retry", operations.operation_retry),
            ("cancel", operations.operation_cancel),
            ("retry-refused", operations.operation_retry_refused),
        )
    ),
]
