"""URL table of the vault side of the API. cloudkeys' and xks' tables are included before this one: its last entry is for the rest."""

from django.urls import path, re_path

from vault.api import schema
from vault.api.endpoints import UnknownAddress

urlpatterns = [
    path("api/v1/openapi.json", schema.openapi_json, name="openapi"),
    path("api/v1/docs", schema.docs, name="api-docs"),
    re_path(r"^api/", UnknownAddress.as_view(), name="api-unknown"),
]
