"""Pages of the xks room."""

from django.urls import path

from xks.web import palette

urlpatterns = [
    path("palette/", palette.palette, name="palette"),
]
