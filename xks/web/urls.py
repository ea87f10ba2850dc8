"""Pages of the xks room."""

from django.urls import path

from xks.web import audit, cloud_key, installation, nodes, overview, palette, store_urls, system

_K = "v/<uuid:vault_id>/cloud-keys/<uuid:key_id>/"

urlpatterns = [
    path(_K, cloud_key.key_overview, name="cloud-key"),
    path(f"{_K}usage/", cloud_key.key_usage, name="cloud-key-usage"),
    path(f"{_K}proof/", cloud_key.key_proof, name="cloud-key-proof"),
    *(
        path(f"{_K}{verb}/", cloud_key.closing_view(verb), name=f"cloud-key-{verb}")
        for verb in cloud_key.CLOSINGS
    ),
    path("palette/", palette.palette, name="palette"),
    *store_urls.urlpatterns,
    path("v/<uuid:vault_id>/", overview.overview, name="overview"),
    path("v/<uuid:vault_id>/attention/", overview.attention, name="vault-attention"),
    path("v/<uuid:vault_id>/audit/", audit.event_list, name="audit"),
    path("v/<uuid:vault_id>/audit/<uuid:event_id>/", audit.event_detail, name="audit-event"),
    path("appliance/overview/", installation.installation, name="installation"),
    path("appliance/attention/", installation.installation_attention, name="installation-attention"),
    path("appliance/nodes/", nodes.node_list, name="nodes"),
    path(
        "appliance/nodes/<uuid:node_id>/accept-rollback/",
        nodes.node_accept_rollback,
        name="node-accept-rollback",
    ),
    path("appliance/system/", system.system, name="system"),
    path("appliance/system/test-mail/", system.system_test_mail, name="system-test-mail"),
    path("appliance/audit/", audit.appliance_event_list, name="appliance-audit"),
    path("appliance/audit/<uuid:event_id>/", audit.appliance_event_detail, name="appliance-audit-event"),
]
