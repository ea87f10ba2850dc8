"""schemathesis over the whole OpenAPI document, as each of the cast: what fits the document and what does not.

Every answer must be one that the document describes (status, media type, headers, schema), never a 5xx, and what does not fit
the document must be refused. Each example runs in a transaction of its own, which is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import schemathesis
from django.conf import settings as django_settings
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.config._checks import NegativeDataRejectionConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api_matrix import ROWS
from tests.api_row import Row
from tests.cast import WHO, Cast
from vault.api.schema import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@cache
def load() -> Any:
    """The document, tied to the WSGI application; credentials are ours to send, not schemathesis's to invent.

    Once a process: schemathesis reads the application's source for constants to try, which takes longer than a test.
    """
    generation = GenerationConfig(with_security_parameters=False)
    # schemathesis's own list has no 413 (too large to be looked at) and no 412.
    refused = NegativeDataRejectionConfig(
        expected_statuses=[str(status) for status in (*range(400, 430), 503)]
    )
    project = ProjectConfig(generation=generation, checks=ChecksConfig(negative_data_rejection=refused))
    config = SchemathesisConfig(projects=ProjectsConfig(default=project))
    schema = schemathesis.openapi.from_dict(document(), config=config)
    schema.app = get_wsgi_application()
    return schema


def credentials(row: Row, cast: Cast, who: str) -> dict[str, Any]:
    """Arguments of Case.call that make it that person's request."""
    if who == "anonymous":
        return {}
    if not row.session:
        return {"headers": {"Authorization": cast.api(who).django.defaults["HTTP_AUTHORIZATION"]}}
    client = cast.session(who)
    token = client.get("/api/v1/auth/me").json()["csrf_token"]
    names = (django_settings.SESSION_COOKIE_NAME, django_settings.CSRF_COOKIE_NAME)
    return {
        "headers": {"X-CSRFToken": token},
        "cookies": {name: client.cookies[name].value for name in names},
    }


# What must exist for a request to get further than 404, or be typed for it to get further than 400.
REAL = (
    "vault",
    "key_set",
    "csp_account",
    "store",
    "ids",
    "confirm_name",
    "region",
    "default_region",
    "access_key_id",
)


def make_real(case: Any, row: Row, real: dict[str, Any]) -> None:
    """Put what exists into a generated request: nobody guesses ids, revisions and regions."""
    if isinstance(case.body, dict):
        case.body.update({name: real[name] for name in REAL if name in real and name in case.body})
    if row.if_match and case.headers is not None:
        case.headers["If-Match"] = "*"


def run(row: Row, cast: Cast, mode: GenerationMode, examples: int) -> None:
    """Send `examples` generated requests as everybody."""
    schema = load()
    path = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", row.route)
    operation = schema[path][row.method]
    parameters = {name: str(value) for name, value in row.at(cast).items()} if row.at else None
    real = row.body(cast) if row.body and mode is GenerationMode.POSITIVE else {}
    senders = {who: credentials(row, cast, who) for who in WHO}
    checks = [*CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS

    @given(case=operation.as_strategy(generation_mode=mode, path_parameters=parameters))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    def every_example(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            make_real(case, row, real)
        for who, sent in senders.items():
            with transaction.atomic():
                response = case.call(**sent)
                case.validate_response(response, checks=checks, headers=sent.get("headers"))
                transaction.set_rollback(True)
            assert (
                who == "anonymous" or response.status_code != 401 or "sign-in" in path or "password" in path
            )

    with one_connection():
        every_example()


@contextmanager
def one_connection() -> Iterator[None]:
    """Keep the database connection, and with it the test's transaction, through requests (as django.test.Client does)."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)


@pytest.fixture
def world(cast: Cast, settings: Any) -> Cast:
    """The cast, without rate limits in its way."""
    settings.KEYSTEAD_API_RATES = {"actor": 10**6, "anonymous": 10**6, "sign_in": 10**6}
    return cast


def cases() -> list[Any]:
    """Every endpoint, with what fits it and, where it takes anything beside its path, with what does not."""
    found = []
    for row in ROWS:
        path = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", row.route)
        if path not in document()["paths"]:
            continue  # the document and its page
        described = document()["paths"][path][row.method.lower()]
        found.append(pytest.param(row, GenerationMode.POSITIVE, id=f"{row} fits"))
        if "requestBody" in described or any(
            found["in"] != "path" for found in described.get("parameters", [])
        ):
            found.append(pytest.param(row, GenerationMode.NEGATIVE, id=f"{row} does not fit"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("row", "mode"), cases())
def test_schema(row: Row, mode: GenerationMode, world: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    if row.patch:
        row.patch(monkeypatch)
    run(row, world, mode, 3)


@pytest.mark.long
@pytest.mark.parametrize(("row", "mode"), cases())
def test_schema_at_length(
    row: Row, mode: GenerationMode, world: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.patch:
        row.patch(monkeypatch)
    run(row, world, mode, 100)
