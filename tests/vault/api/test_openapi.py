"""The OpenAPI document: valid, complete, and true to its own examples."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator

from vault.api.schema import document

METHODS = ("get", "post", "put", "patch", "delete")


@lru_cache(maxsize=1)
def operations() -> dict[str, dict[str, Any]]:
    return {
        found["operationId"]: {**found, "_method": method, "_path": path}
        for path, methods in document()["paths"].items()
        for method, found in methods.items()
        if method in METHODS
    }


def followed(response: dict[str, Any]) -> dict[str, Any]:
    """The response that a $ref leads to."""
    if "$ref" not in response:
        return response
    found: dict[str, Any] = document()["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    return found


def every_operation() -> list[str]:
    """Operation ids, for parametrize: read from the URL table without asking the database."""
    return sorted(operations())


def resolve(schema: Any) -> Any:
    """A schema with the document's components at hand."""
    return {**schema, "components": document()["components"]}


def test_it_is_a_valid_openapi_document() -> None:
    assert document()["openapi"].startswith("3.1")
    validate_schema(document())


def test_making_it_gives_neither_warning_nor_error() -> None:
    document.cache_clear()
    GENERATOR_STATS.reset()
    document()
    assert not GENERATOR_STATS._warn_cache
    assert not GENERATOR_STATS._error_cache


def test_operation_ids_are_unique() -> None:
    found = [
        operation["operationId"]
        for methods in document()["paths"].values()
        for method, operation in methods.items()
        if method in METHODS
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", every_operation())
def test_every_operation_is_described(name: str) -> None:
    operation = operations()[name]
    assert operation["summary"]
    assert not operation["summary"].endswith(".")
    assert len(operation["description"]) > 10
    assert operation["description"].rstrip().endswith((".", "```"))
    assert operation["tags"]


@pytest.mark.parametrize("name", every_operation())
def test_every_operation_tells_its_errors(name: str) -> None:
    operation = operations()[name]
    expected = {"400", "429", "500", "503"}
    if operation.get("security") != [{}] and operation.get("security"):
        expected |= {"401", "403"}
    if "{" in operation["_path"]:
        expected.add("404")
    if "requestBody" in operation:
        expected |= {"411", "413", "415"}
    names = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    if "If-Match" in names:
        expected.add("412")
    if "Idempotency-Key" in names:
        expected |= {"409", "422"}
    assert expected <= set(operation["responses"])
    for status, response in operation["responses"].items():
        if status.startswith(("4", "5")):
            content = followed(response)["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for example in content["examples"].values():
                check(content["schema"], example["value"])
                assert example["value"]["status"] == int(status)


def check(schema: Any, value: Any) -> None:
    validator = Draft202012Validator(resolve(schema), format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(value)]
    assert not errors


@pytest.mark.parametrize("name", every_operation())
def test_every_example_fits_its_schema(name: str) -> None:
    operation = operations()[name]
    seen = 0
    if body := operation.get("requestBody"):
        for media in body["content"].values():
            assert media.get("examples"), "a body without an example"
            for example in media["examples"].values():
                check(media["schema"], example["value"])
                seen += 1
    for status, response in operation["responses"].items():
        if not status.startswith("2"):
            continue
        assert status == "204" or response.get("content")
        for media in response.get("content", {}).values():
            assert media.get("examples"), "an answer without an example"
            for example in media["examples"].values():
                check(media["schema"], example["value"])
                seen += 1
    assert seen or "204" in operation["responses"] or "202" in operation["responses"]


@pytest.mark.parametrize("name", every_operation())
def test_what_creates_takes_an_idempotency_key_and_what_updates_if_match(name: str) -> None:
    operation = operations()[name]
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    if operation["_method"] == "post" and "201" in operation["responses"]:
        assert "Idempotency-Key" in names
    # What ends for good has no other version to be mistaken for.
    exempt = {"auth_update_me", "auth_sessions_revoke", "auth_tokens_revoke", "xks_credentials_delete"}
    if operation["_method"] in ("patch", "put", "delete") and name not in exempt:
        assert "If-Match" in names


@pytest.mark.parametrize("name", every_operation())
def test_request_bodies_are_closed(name: str) -> None:
    body = operations()[name].get("requestBody")
    if body is None:
        assert (
            operations()[name]["_method"] in ("get", "delete")
            or name == "auth_sign_out"
            or "{" in operations()[name]["_path"]
        )
        return
    for media in body["content"].values():
        reference = media["schema"]["$ref"].rsplit("/", 1)[1]
        assert document()["components"]["schemas"][reference]["additionalProperties"] is False


def test_it_is_served_to_anybody(client: Client) -> None:
    answer = client.get("/api/v1/openapi.json")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    assert json.loads(answer.content) == json.loads(json.dumps(document()))


def test_the_page_holds_nothing_inline_and_nothing_from_elsewhere(client: Client) -> None:
    answer = client.get("/api/v1/docs")
    html = answer.content.decode()
    assert answer.status_code == 200
    assert "script-src 'self'" in answer["Content-Security-Policy"]
    assert "unsafe-inline" not in answer["Content-Security-Policy"]
    assert "style=" not in html
    assert "<style" not in html
    for tag in html.split("<script")[1:]:
        assert tag.startswith(' src="/static/')
    assert "http" not in html.replace("http-equiv", "")
    for part in html.split('"'):
        if part.startswith("/static/"):
            assert finders.find(part.removeprefix("/static/")), part
