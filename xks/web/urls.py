"""Pages of the xks room."""

from django.urls import path

from xks.web import audit, overview, palette, store_urls

urlpatterns = [
    path("palette/", palette.palette, name="palette"),
    *store_urls.urlpatterns,
    path("v/<uuid:vault_id>/", overview.overview, name="overview"),
    path("v/<uuid:vault_id>/attention/", overview.attention, name="vault-attention"),
    path("v/<uuid:vault_id>/audit/", audit.event_list, name="audit"),
    path("v/<uuid:vault_id>/audit/<uuid:event_id>/", audit.event_detail, name="audit-event"),
    path("appliance/audit/", audit.appliance_event_list, name="appliance-audit"),
    path("appliance/audit/<uuid:event_id>/", audit.appliance_event_detail, name="appliance-audit-event"),
]
