"""The URL table of the web port. /healthz is answered before it, by vault.middleware."""

from django.urls import include, path

urlpatterns = [
    path("accounts/", include("allauth.urls")),
]
