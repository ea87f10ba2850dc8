"""The fixed cast on every endpoint, and proof that none is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.urls import URLPattern, URLResolver, get_resolver

from tests.api_matrix import ROWS, Row
from tests.cast import WHO, Cast


def endpoints(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, route) of everything under api/ in the URL table, the 404 at its end apart."""
    for entry in patterns if patterns is not None else get_resolver().url_patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from endpoints(entry.url_patterns, route)
        elif isinstance(entry, URLPattern) and route.startswith("api/") and entry.name != "api-unknown":
            view = getattr(entry.callback, "view_class", None) or getattr(entry.callback, "cls", None)
            methods = (
                ["get"]
                if view is None
                else [m for m in ("get", "post", "put", "patch", "delete") if hasattr(view, m)]
            )
            for method in methods:
                yield method.upper(), route


def test_every_endpoint_has_exactly_one_row() -> None:
    real = list(endpoints())
    rows = [(row.method, row.route) for row in ROWS]
    assert sorted(set(real) - set(rows)) == [], "endpoints without a row in tests/api_matrix.py"
    assert sorted(set(rows) - set(real)) == [], "rows without an endpoint"
    assert len(rows) == len(set(rows))


def test_every_endpoint_is_in_the_openapi_document() -> None:
    from vault.api.schema import document

    described = {
        (method.upper(), re.sub(r"{(\w+)}", r"{}", path.lstrip("/")))
        for path, methods in document()["paths"].items()
        for method in methods
    }
    unlisted = {"api/v1/openapi.json", "api/v1/docs"}
    real = {
        (method, re.sub(r"<\w+:\w+>", "{}", route)) for method, route in endpoints() if route not in unlisted
    }
    assert described == real


@pytest.mark.slow  # as a whole; who may do what does not depend on the database, so that once is enough
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_cast(row: Row, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the cast asks in turn, in a world that is set back in between."""
    if row.patch is not None:
        row.patch(monkeypatch)
    seen: dict[str, int] = {}
    for who in WHO:
        with transaction.atomic():
            seen[who] = ask(row, cast, who)
            transaction.set_rollback(True)
        cast._clients.clear()
        for membership in cast.memberships.values():
            membership.refresh_from_db()
    assert seen == {who: getattr(row, who) for who in WHO}


def ask(row: Row, cast: Cast, who: str) -> int:
    """Send the row's request as `who`; problems must be problems."""
    parameters = row.at(cast) if row.at else {}
    path = "/" + re.sub(r"<\w+:(\w+)>", lambda found: str(parameters[found[1]]), row.route)
    body = row.body(cast) if row.body else None
    query = row.query(cast) if row.query else {}
    headers = {"If-Match": "*"} if row.if_match else {}
    if row.session and who != "anonymous":
        client = cast.session(who)
        me = client.get("/api/v1/auth/me")
        headers["X-CSRFToken"] = me.json()["csrf_token"]
        data = b"" if body is None else json.dumps(body).encode()
        response: Any = client.generic(
            row.method, path, data, "application/json", headers=headers, query_params=query or None
        )
    else:
        response = cast.api(who).request(row.method, path, body, headers=headers, **query)
    if response.status_code >= 400:
        problem = response.json()
        assert response.headers["Content-Type"] == "application/problem+json"
        assert problem["status"] == response.status_code
        assert problem["detail"]
        assert problem["cure"]
        assert problem["request_id"] == response.headers["X-Request-Id"]
    return int(response.status_code)
