"""The URL table of the web port. /healthz is answered before it, by vault.middleware."""

from django.urls import include, path

urlpatterns = [
    path("accounts/", include("allauth.urls")),
    # Tables of higher rooms come before this one, whose last entry answers 404 for the rest of /api/.
    path("", include("vault.api.urls")),
]
