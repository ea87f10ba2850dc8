"""Pages of the xks room."""

from django.urls import path

from xks.web import palette, store_urls

urlpatterns = [
    path("palette/", palette.palette, name="palette"),
    *store_urls.urlpatterns,
]
