"""Every error is a problem that names cause and cure, and tells nothing that it must not."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import IntegrityError, OperationalError
from django.http import Http404
from rest_framework import serializers

import vault.errors
from tests.cast import Cast
from vault.api import problems
from vault.api.problems import PROBLEMS, ApiError, flatten_errors, handle_exception
from vault.errors import Conflict, DomainError, RateLimited, Unavailable, ValidationFailed

DOMAIN_ERRORS = [
    found for _, found in inspect.getmembers(vault.errors, inspect.isclass) if issubclass(found, DomainError)
]


@pytest.mark.parametrize("error", DOMAIN_ERRORS)
def test_every_domain_error_has_a_row(error: type[DomainError]) -> None:
    assert error.code in PROBLEMS


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_row_says_what_to_do(code: str) -> None:
    row = PROBLEMS[code]
    assert 400 <= row.status <= 599
    assert row.title
    assert row.cure.endswith((".", "blindly."))


def handled(error: Exception) -> Any:
    return handle_exception(error, {})


def test_field_cause_and_cure() -> None:
    answer = handled(ValidationFailed("The name is taken.", field="name", cure="Choose another."))
    assert answer.status_code == 400
    assert answer.data["field"] == "name"
    assert answer.data["detail"] == "The name is taken."
    assert answer.data["cure"] == "Choose another."
    assert answer.data["errors"] == [
        {"field": "name", "message": "The name is taken.", "cure": "Choose another."}
    ]


def test_context_that_would_replace_a_member_is_left_out() -> None:
    answer = handled(Conflict("No.", code="x", status=200, request_id="forged", owner="Ada"))
    assert answer.status_code == 409
    assert answer.data["code"] == "conflict"
    assert answer.data["request_id"] == ""
    assert answer.data["owner"] == "Ada"


def test_context_that_is_no_json_is_left_out() -> None:
    assert "thing" not in handled(Conflict("No.", thing=object())).data


def test_an_instances_own_code_does_not_choose_the_row() -> None:
    class FromACloud(DomainError):
        code = "provider_error"

    error = FromACloud("AWS has no such key.")
    error.code = "not_found"
    answer = handled(error)
    assert answer.status_code == 502
    assert answer.data["code"] == "provider_error"
    assert answer.data["reason_code"] == "not_found"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RateLimited("Slow down.", retry_after=12.2), 429, "12"),
        (Unavailable("The broker is away."), 503, "2"),
        (OperationalError("could not connect to server at 10.0.0.7"), 503, "2"),
    ],
)
def test_retry_after(error: Exception, status: int, retry_after: str) -> None:
    answer = handled(error)
    assert (answer.status_code, answer["Retry-After"]) == (status, retry_after)
    assert "10.0.0.7" not in str(answer.data)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404("x"), 404, "not_found"),
        (SuspiciousOperation("secret detail"), 400, "bad_request"),
        (RequestDataTooBig("secret detail"), 413, "body_too_large"),
        (IntegrityError("secret detail"), 409, "conflict"),
        (RuntimeError("secret detail"), 500, "internal_error"),
        (ApiError("precondition_required", "Say which.", field="If-Match"), 428, "precondition_required"),
    ],
)
def test_other_exceptions_tell_no_detail(error: Exception, status: int, code: str) -> None:
    answer = handled(error)
    assert (answer.status_code, answer.data["code"]) == (status, code)
    assert answer.content_type == "application/problem+json"
    assert "secret detail" not in str(answer.data)


def test_unauthorized_names_the_scheme(client: Any) -> None:
    answer = client.get("/api/v1/auth/me")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_nested_errors_become_paths() -> None:
    found = flatten_errors(
        {
            "tags": {2: {"key": [serializers.ErrorDetail("Too long.", code="max_length")]}},
            "users": [{}, {"arn": [serializers.ErrorDetail("No.", code="required")]}],
            "non_field_errors": [serializers.ErrorDetail("Odd.", code="odd")],
        }
    )
    assert [(error["field"], error["message"]) for error in found] == [
        ("tags[2].key", "Too long."),
        ("users[1].arn", "No."),
        ("", "Odd."),
    ]
    assert all(error["cure"] for error in found)


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/", "/api/v1/vaults/", "/api/v1/vaults/not-a-uuid"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_unknown_address(client: Any, path: str, method: str) -> None:
    answer = client.generic(method, path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert "Location" not in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_method_not_allowed(cast: Cast, method: str) -> None:
    answer = cast.api("owner").request(method, "/api/v1/vaults")
    assert answer.status_code == 405
    assert answer["Allow"] == "GET, HEAD, POST"
    assert answer.json()["code"] == "method_not_allowed"


def test_an_exception_nobody_foresaw(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(actor: Any) -> None:
        raise RuntimeError("hunter2 at 10.0.0.7")

    monkeypatch.setattr("vault.services.vaults.visible_vaults", fail)
    answer = cast.api("owner").get("/api/v1/vaults", headers={"X-Request-Id": "request-4711"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "request-4711"
    assert b"hunter2" not in answer.content


def test_django_errors_outside_views_are_problems_under_api(client: Any) -> None:
    answer = client.get("/api/v1/vaults", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert answer["Content-Type"] == problems.CONTENT_TYPE
