"""Pages of the cloudkeys room."""

from django.urls import path

from cloudkeys.web import (
    cloud_key,
    cloud_key_acts,
    cloud_key_new,
    cloud_keys,
    csp_accounts,
    hsm_adopting,
    key_bulk,
    key_set_wizard,
    key_sets,
    operations,
    vault_end,
)

_KEY = "v/<uuid:vault_id>/cloud-keys/<uuid:key_id>/"

_K = "v/<uuid:vault_id>/cloud-keys/"

urlpatterns = [
    path(_K, cloud_keys.key_list, name="cloud-keys"),
    path(f"{_K}new/", cloud_key_new.key_new, name="cloud-key-new"),
    path(f"{_K}new/<uuid:key_set_id>/", cloud_key_new.key_new_in, name="cloud-key-new-in"),
    path(f"{_K}new/<uuid:key_set_id>/policy/", cloud_key_new.key_policy, name="cloud-key-new-policy"),
    path(
        f"{_K}new/<uuid:key_set_id>/principals/",
        cloud_key_new.key_principals,
        name="cloud-key-new-principals",
    ),
    path(f"{_K}csv/", cloud_key_new.keys_csv, name="cloud-keys-csv"),
    path(f"{_K}csv/sample/", cloud_key_new.keys_csv_sample, name="cloud-keys-csv-sample"),
    path(f"{_K}bulk/<slug:verb>/", key_bulk.bulk_begin, name="cloud-keys-bulk"),
    path(f"{_K}bulk/<slug:verb>/<str:token>/", key_bulk.bulk_confirm, name="cloud-keys-bulk-confirm"),
    path(f"{_K}work/<uuid:operation_id>/", key_bulk.bulk_work, name="cloud-keys-work"),
    path(f"{_KEY}now/", cloud_key.key_now, name="cloud-key-now"),
    path(f"{_KEY}access/", cloud_key.key_access, name="cloud-key-access"),
    path(f"{_KEY}access/edit/", cloud_key_acts.key_access_edit, name="cloud-key-access-edit"),
    path(f"{_KEY}access/principals/", cloud_key_acts.key_principals, name="cloud-key-principals"),
    path(f"{_KEY}access/preview/", cloud_key_acts.key_policy_preview, name="cloud-key-policy-preview"),
    path(f"{_KEY}versions/", cloud_key.key_versions, name="cloud-key-versions"),
    path(f"{_KEY}schedule/", cloud_key.key_schedule, name="cloud-key-schedule"),
    path(f"{_KEY}schedule/edit/", cloud_key_acts.key_schedule_edit, name="cloud-key-schedule-edit"),
    path(f"{_KEY}activity/", cloud_key.key_activity, name="cloud-key-activity"),
    path(f"{_KEY}edit/", cloud_key_acts.key_edit, name="cloud-key-edit"),
    path(f"{_KEY}link/", cloud_key_acts.key_link, name="cloud-key-link"),
    *(
        path(f"{_KEY}{verb}/", cloud_key_acts.act_view(verb), name=f"cloud-key-{verb}")
        for verb in cloud_key_acts.ACTS
    ),
    path("appliance/vaults/<uuid:vault_id>/destroy/", vault_end.vault_destroy, name="vault-destroy"),
    path("v/<uuid:vault_id>/csp-accounts/", csp_accounts.account_list, name="csp-accounts"),
    path("v/<uuid:vault_id>/csp-accounts/new/", csp_accounts.account_new, name="csp-account-new"),
    path("v/<uuid:vault_id>/csp-accounts/try/", csp_accounts.account_try, name="csp-account-try"),
    *(
        path(f"v/<uuid:vault_id>/csp-accounts/<uuid:account_id>/{verb}/", view, name=f"csp-account-{verb}")
        for verb, view in (
            ("test", csp_accounts.account_test),
            ("rotate", csp_accounts.account_rotate),
            ("edit", csp_accounts.account_edit),
            ("delete", csp_accounts.account_delete),
        )
    ),
    path(
        "v/<uuid:vault_id>/csp-accounts/<uuid:account_id>/", csp_accounts.account_detail, name="csp-account"
    ),
    path(
        "v/<uuid:vault_id>/csp-accounts/<uuid:account_id>/progress/<uuid:operation_id>/",
        csp_accounts.account_progress,
        name="csp-account-progress",
    ),
    path(
        "v/<uuid:vault_id>/csp-accounts/<uuid:account_id>/<str:tab>/",
        csp_accounts.account_tab,
        name="csp-account-tab",
    ),
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
    path("appliance/hsms/<uuid:connection_id>/adopt/", hsm_adopting.hsm_adopt, name="hsm-adopt"),
    path("v/<uuid:vault_id>/key-sets/", key_sets.key_set_list, name="key-sets"),
    path("v/<uuid:vault_id>/key-sets/new/", key_set_wizard.new, name="key-set-new"),
    path(
        "v/<uuid:vault_id>/key-sets/new/<uuid:draft_id>/discard/",
        key_set_wizard.draft_discard,
        name="key-set-draft-discard",
    ),
    path(
        "v/<uuid:vault_id>/key-sets/new/<uuid:draft_id>/<str:step>/",
        key_set_wizard.step_page,
        name="key-set-step",
    ),
    path(
        "v/<uuid:vault_id>/key-sets/new/<uuid:draft_id>/<str:step>/save/",
        key_set_wizard.draft_save,
        name="key-set-draft-save",
    ),
    *(
        path(f"v/<uuid:vault_id>/key-sets/<uuid:key_set_id>/{verb}/", view, name=f"key-set-{name}")
        for verb, name, view in (
            ("effects", "effects", key_sets.key_set_effects),
            ("edit", "edit", key_sets.key_set_edit),
            ("use-as-external-key-store", "use", key_sets.key_set_use),
            ("delete", "delete", key_sets.key_set_delete),
        )
    ),
    path("v/<uuid:vault_id>/key-sets/<uuid:key_set_id>/", key_sets.key_set_detail, name="key-set"),
    path(
        "v/<uuid:vault_id>/key-sets/<uuid:key_set_id>/progress/<uuid:operation_id>/",
        key_sets.key_set_progress,
        name="key-set-progress",
    ),
    path("v/<uuid:vault_id>/key-sets/<uuid:key_set_id>/<str:tab>/", key_sets.key_set_tab, name="key-set-tab"),
]
