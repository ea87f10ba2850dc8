"""What happens to every request on the web port: health, proxies, request ids, security headers, the request log."""

from __future__ import annotations

import ipaddress
import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from vault import env, health

log = structlog.get_logger("keystead.web")

GetResponse = Callable[[HttpRequest], HttpResponseBase]

# Everything from our own origin, nothing inline. data: in images is for the QR code of a second factor.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "object-src 'none'",
    )
)
PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
# What a proxy may hand on as a request id; anything else could forge lines in a log.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{8,64}")


class HealthMiddleware:
    """Answers GET /healthz before anything looks at the Host header or the session.

    Load balancers ask by IP address, so ALLOWED_HOSTS must not apply.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer /healthz, hand on everything else."""
        if request.path_info != "/healthz":
            return self.get_response(request)
        if request.method not in ("GET", "HEAD"):
            return HttpResponse(status=405, headers={"Allow": "GET, HEAD"})
        return health.answer()


class ProxyMiddleware:
    """Believes X-Forwarded-For and X-Forwarded-Proto from KEYSTEAD_TRUSTED_PROXIES, and from nobody else."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.trusted = env.get("KEYSTEAD_TRUSTED_PROXIES")

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Put the caller's own address and scheme where Django looks for them."""
        forwarded = request.META.pop("HTTP_X_FORWARDED_FOR", "")
        scheme = request.META.pop("HTTP_X_FORWARDED_PROTO", "")
        if self._is_trusted(request.META.get("REMOTE_ADDR", "")):
            # From the right: each proxy appends the address that it saw; what stands further left is hearsay.
            for address in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
                try:
                    request.META["REMOTE_ADDR"] = str(ipaddress.ip_address(address))
                except ValueError:
                    break
                if not self._is_trusted(address):
                    break
            if scheme in ("http", "https"):
                request.META["wsgi.url_scheme"] = scheme
        return self.get_response(request)

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.trusted)


class RequestLogMiddleware:
    """Gives each request an id, binds it to every log line, returns it, and logs one line at the end.

    The query string is never logged: it may hold what people searched for or a one-time code.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Log the request."""
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.request_id = request_id  # type: ignore[attr-defined]
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self.get_response(request)
            user = getattr(request, "user", None)
            log.info(
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                ms=round((time.perf_counter() - started) * 1000, 1),
                source=request.META.get("REMOTE_ADDR", ""),
                user_id=str(user.pk) if user is not None and user.is_authenticated else None,
            )
        response.headers["X-Request-Id"] = request_id
        return response


class SecurityHeadersMiddleware:
    """Sets the headers that Django's own SecurityMiddleware leaves out."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Set the headers, keeping what a view has set for itself."""
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if not request.path.startswith("/static/"):
            # Pages and answers hold what only their reader may see.
            response.headers.setdefault("Cache-Control", "no-store")
        return response
