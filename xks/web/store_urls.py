"""Pages of external key stores and of the endpoint's certificates; xks/web/urls.py includes them."""

from django.urls import path

from xks.web import access_rules, certificates, doctor, requests, store_credentials, store_links, stores

_S = "v/<uuid:vault_id>/stores/<uuid:store_id>/"
_L = f"{_S}regions/<uuid:link_id>/"
_C = f"{_S}credentials/"
_T = "appliance/certificates/"

urlpatterns = [
    path("v/<uuid:vault_id>/stores/", stores.store_list, name="xks-stores"),
    path("v/<uuid:vault_id>/stores/traffic/", stores.vault_traffic, name="xks-traffic"),
    path("v/<uuid:vault_id>/stores/requests/", requests.request_list, name="xks-requests"),
    path(_S, stores.store_detail, name="xks-store"),
    path(f"{_S}confirmation/", stores.store_confirmation, name="xks-store-confirmation"),
    path(f"{_S}block/", stores.store_block, name="xks-store-block"),
    path(f"{_S}unblock/", stores.store_unblock, name="xks-store-unblock"),
    path(f"{_S}traffic/", stores.store_traffic, name="xks-store-traffic"),
    path(f"{_S}limits/", stores.store_limits, name="xks-store-limits"),
    path(f"{_S}regions/new/", store_links.link_create, name="xks-link-create"),
    path(f"{_L}edit/", store_links.link_edit, name="xks-link-edit"),
    path(f"{_L}steps/", store_links.link_steps, name="xks-link-steps"),
    path(f"{_L}link/", store_links.link_link, name="xks-link-link"),
    path(f"{_L}delete/", store_links.link_delete, name="xks-link-delete"),
    path(f"{_L}connect/", store_links.link_verb, {"verb": "connect"}, name="xks-link-connect"),
    path(f"{_L}disconnect/", store_links.link_verb, {"verb": "disconnect"}, name="xks-link-disconnect"),
    path(f"{_L}refresh/", store_links.link_verb, {"verb": "refresh"}, name="xks-link-refresh"),
    path(f"{_S}keys/<uuid:key_id>/link/", store_links.key_link, name="xks-key-link"),
    path(f"{_S}doctor/", doctor.store_doctor, name="xks-store-doctor"),
    path(f"{_S}requests/", requests.store_requests, name="xks-store-requests"),
    path(_C, store_credentials.credential_list, name="xks-store-credentials"),
    path(f"{_C}new/", store_credentials.credential_create, name="xks-credential-create"),
    path(f"{_C}rotate/", store_credentials.rotate, name="xks-credential-rotate"),
    path(f"{_C}schedule/", store_credentials.schedule, name="xks-credential-schedule"),
    path(f"{_C}rotation/file/", store_credentials.rotation_file, name="xks-rotation-file"),
    path(f"{_C}rotation/done/", store_credentials.rotation_done, name="xks-rotation-done"),
    path(f"{_C}rotation/cancel/", store_credentials.rotation_cancel, name="xks-rotation-cancel"),
    path(f"{_C}rotation/retry/", store_credentials.rotation_retry, name="xks-rotation-retry"),
    path(
        f"{_C}<uuid:credential_id>/retire/",
        store_credentials.credential_retire,
        name="xks-credential-retire",
    ),
    path(f"{_S}rules/check/", access_rules.rules_check, name="xks-rules-check"),
    # Of the store, and of one of its keys.
    *(
        path(f"{_S}rules/{of}{tail}", view, name=name)
        for of in ("", "keys/<uuid:key_id>/")
        for tail, view, name in (
            ("", access_rules.rules, "xks-store-rules"),
            ("edit/", access_rules.rules_edit, "xks-rules-edit"),
            ("diff/", access_rules.rules_diff, "xks-rules-diff"),
            ("dry-run/", access_rules.rules_dry_run, "xks-rules-dry-run"),
            ("enforce/", access_rules.rules_enforce, "xks-rules-enforce"),
            ("shadow/", access_rules.rules_shadow, "xks-rules-shadow"),
        )
    ),
    path(_T, certificates.certificate_list, name="certificates"),
    path(f"{_T}install/", certificates.certificate_install, name="certificate-install"),
    path(f"{_T}request/", certificates.certificate_request, name="certificate-request"),
    path(f"{_T}client-roots/", certificates.client_roots, name="client-roots"),
    path(f"{_T}<uuid:certificate_id>/", certificates.certificate_detail, name="certificate"),
    path(
        f"{_T}<uuid:certificate_id>/activate/",
        certificates.certificate_activate,
        name="certificate-activate",
    ),
    path(f"{_T}<uuid:certificate_id>/delete/", certificates.certificate_delete, name="certificate-delete"),
]
