"""The URL table of the web port. /healthz is answered before it, by vault.middleware."""

from allauth.account import views as account
from django.urls import include, path, re_path

from vault import pages
from vault.web import sessions

urlpatterns = [
    # Of allauth's account pages only those that make sense where administrators make accounts: no sign-up, no e-mail
    # addresses of one's own; a reset by mail only where mail is set up.
    path("accounts/login/", account.login, name="account_login"),
    path("accounts/logout/", account.logout, name="account_logout"),
    path("accounts/password/change/", account.password_change, name="account_change_password"),
    path("accounts/password/reset/", pages.with_mail(account.password_reset), name="account_reset_password"),
    path(
        "accounts/password/reset/done/",
        pages.with_mail(account.password_reset_done),
        name="account_reset_password_done",
    ),
    re_path(
        r"^accounts/password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
        pages.with_mail(account.password_reset_from_key),
        name="account_reset_password_from_key",
    ),
    path(
        "accounts/password/reset/key/done/",
        pages.with_mail(account.password_reset_from_key_done),
        name="account_reset_password_from_key_done",
    ),
    path("accounts/reauthenticate/", account.reauthenticate, name="account_reauthenticate"),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("accounts/sessions/", sessions.session_list, name="usersessions_list"),
    path("accounts/sessions/<int:session_id>/end/", sessions.session_end, name="session-end"),
    # Pages of higher rooms come before those of lower ones.
    path("", include("xks.web.urls")),
    path("", include("cloudkeys.web.urls")),
    path("", include("vault.web.urls")),
    # Tables of higher rooms come before this one, whose last entry answers 404 for the rest of /api/.
    path("", include("xks.api.urls")),
    path("", include("cloudkeys.api.urls")),
    path("", include("vault.api.urls")),
]

handler400 = pages.bad_request
handler403 = pages.permission_denied
handler404 = pages.page_not_found
handler500 = pages.server_error
