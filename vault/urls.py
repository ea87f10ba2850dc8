"""The URL table of the web port. /healthz is answered before it, by vault.middleware."""

from allauth.account import views as account
from django.urls import include, path

from vault import pages

urlpatterns = [
    path("", pages.home, name="home"),
    # Of allauth's account pages only those that make sense where administrators make accounts: no sign-up, no e-mail
    # addresses of one's own, no reset by mail.
    path("accounts/login/", account.login, name="account_login"),
    path("accounts/logout/", account.logout, name="account_logout"),
    path("accounts/password/change/", account.password_change, name="account_change_password"),
    path("accounts/reauthenticate/", account.reauthenticate, name="account_reauthenticate"),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("accounts/sessions/", include("allauth.usersessions.urls")),
    # Tables of higher rooms come before this one, whose last entry answers 404 for the rest of /api/.
    path("", include("xks.api.urls")),
    path("", include("cloudkeys.api.urls")),
    path("", include("vault.api.urls")),
]

handler400 = pages.bad_request
handler403 = pages.permission_denied
handler404 = pages.page_not_found
handler500 = pages.server_error
