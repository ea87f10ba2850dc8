"""vault.middleware: proxies, request ids, security headers, the request log; vault.logs."""

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from vault import logs, middleware


def through_proxy_middleware(
    trusted: str, peer: str, set_environ: Callable[..., None], **headers: str
) -> HttpRequest:
    """Return the request as the views see it."""
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(request)
        return HttpResponse()

    set_environ(TRUSTED_PROXIES=trusted)
    request = RequestFactory().get("/", REMOTE_ADDR=peer, headers=headers)
    middleware.ProxyMiddleware(view)(request)
    return seen[0]


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ("", "10.0.0.1", "1.2.3.4", "10.0.0.1"),
        ("10.0.0.0/24", "10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/24", "10.0.1.1", "1.2.3.4", "10.0.1.1"),
        # What the caller wrote itself stands on the left and is not believed.
        ("10.0.0.0/24", "10.0.0.1", "9.9.9.9, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.0/24", "10.0.0.1", "9.9.9.9, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.0/24", "10.0.0.1", "1.2.3.4, unknown", "10.0.0.1"),
        ("10.0.0.0/24", "10.0.0.1", "", "10.0.0.1"),
        ("::1", "::1", "2001:db8::5", "2001:db8::5"),
        ("10.0.0.0/24", "", "1.2.3.4", ""),
    ],
)
def test_forwarded_for(trusted, peer, forwarded, address, set_environ):
    request = through_proxy_middleware(trusted, peer, set_environ, **{"X-Forwarded-For": forwarded})
    assert request.META["REMOTE_ADDR"] == address
    assert "HTTP_X_FORWARDED_FOR" not in request.META


@pytest.mark.parametrize(
    ("peer", "proto", "secure"),
    [
        ("10.0.0.1", "https", True),
        ("10.0.0.1", "http", False),
        ("10.0.0.1", "gopher", False),
        ("10.9.9.9", "https", False),
    ],
)
def test_forwarded_proto(peer, proto, secure, set_environ):
    request = through_proxy_middleware("10.0.0.1", peer, set_environ, **{"X-Forwarded-Proto": proto})
    assert request.is_secure() == secure


@pytest.mark.django_db
def test_security_headers(client):
    response = client.get("/nowhere")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for name, value in {
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }.items():
        assert response.headers[name] == value
    assert "Strict-Transport-Security" not in response.headers


@pytest.mark.django_db
def test_behind_tls_the_browser_is_told_to_stay_there(client, settings):
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 1000
    assert client.get("/nowhere").headers["Location"] == "https://testserver/nowhere"
    assert client.get("/nowhere", secure=True).headers["Strict-Transport-Security"] == "max-age=1000"


def test_a_view_may_set_its_own_headers():
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(
            headers={"Cache-Control": "max-age=5", "Content-Security-Policy": "default-src 'self'"}
        )

    response = middleware.SecurityHeadersMiddleware(view)(RequestFactory().get("/x"))
    assert response.headers["Cache-Control"] == "max-age=5"
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"


def test_static_files_may_be_cached():
    response = middleware.SecurityHeadersMiddleware(lambda request: HttpResponse())(
        RequestFactory().get("/static/a")
    )
    assert "Cache-Control" not in response.headers


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-123.XYZ_9", True), ("short", False), ("a b c d e f g", False), ("x" * 65, False), ("", False)],
)
def test_request_id(given, kept):
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append((request.request_id, structlog.contextvars.get_contextvars()["request_id"]))
        return HttpResponse()

    request = RequestFactory().get("/x", headers={"X-Request-Id": given})
    response = middleware.RequestLogMiddleware(view)(request)
    identifier = response.headers["X-Request-Id"]
    assert seen == [(identifier, identifier)]
    assert (identifier == given) == kept
    assert "request_id" not in structlog.contextvars.get_contextvars()


@pytest.fixture
def json_log() -> Any:
    """Yield a function that returns what was logged since the last call, through the JSON configuration."""
    stream = io.StringIO()
    config = logs.logging_config("json", "info")
    factory = config["formatters"]["keystead"].pop("()")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(factory(**config["formatters"]["keystead"]))
    logger = logging.getLogger("keystead")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    def read() -> list[dict[str, Any]]:
        lines = stream.getvalue().splitlines()
        stream.truncate(0)
        stream.seek(0)
        return [json.loads(line) for line in lines]

    yield read
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_request_log_has_no_query_string(json_log):
    request = RequestFactory().get("/vaults?token=not-for-logs", REMOTE_ADDR="10.0.0.9")
    middleware.RequestLogMiddleware(lambda request: HttpResponse(status=204))(request)
    (line,) = json_log()
    assert (line["method"], line["path"], line["status"], line["source"]) == (
        "GET",
        "/vaults",
        204,
        "10.0.0.9",
    )
    assert line["level"] == "info"
    assert len(line["request_id"]) == 32
    assert "not-for-logs" not in json.dumps(line)


def test_secret_fields_are_masked_and_ids_are_not(json_log):
    log = structlog.get_logger("keystead.test")
    log.info(
        "event", admin_password="p", Authorization="a", key_material=b"k", credential_id="c1", secret_count=2
    )
    (line,) = json_log()
    assert {name: line[name] for name in ("admin_password", "Authorization", "key_material")} == {
        "admin_password": "***",
        "Authorization": "***",
        "key_material": "***",
    }
    assert (line["credential_id"], line["secret_count"]) == ("c1", 2)


def test_foreign_loggers_take_the_same_form(json_log):
    logging.getLogger("keystead.foreign").warning("disk %s is full", "sda")
    (line,) = json_log()
    assert (line["event"], line["level"], line["logger"]) == (
        "disk sda is full",
        "warning",
        "keystead.foreign",
    )
    assert line["timestamp"].endswith("Z")


def test_tracebacks_hold_no_values(json_log):
    def work(secret: bytes) -> None:
        raise ValueError("bad input")

    try:
        work(b"known-secret-bytes")
    except ValueError:
        structlog.get_logger("keystead.test").exception("failed")
    (line,) = json_log()
    assert "bad input" in json.dumps(line)
    assert "known-secret-bytes" not in json.dumps(line)
