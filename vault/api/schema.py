"""The OpenAPI document and the page that makes it readable."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema


class ApiSchema(AutoSchema):  # type: ignore[misc]
    """drf-spectacular's view inspector; everything it needs was attached by vault.api.describing."""

    def get_filter_parameters(self) -> list[Any]:
        """None are guessed: every parameter is declared."""
        return []


class ApiSchemaGenerator(SchemaGenerator):  # type: ignore[misc]
    """Reads the whole URL table below /api/v1/."""


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document; the same for everybody, for it says nothing about this installation."""
    made: dict[str, Any] = ApiSchemaGenerator().get_schema(request=None, public=True)
    _share_errors(made)
    return made


def _share_errors(made: dict[str, Any]) -> None:
    """Describe each error once, under components/responses: repeated at every operation they were two thirds of the document."""
    shared: dict[str, Any] = {}
    for operations in made["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and shared.setdefault(f"Problem{status}", response) == response:
                    operation["responses"][status] = {"$ref": f"#/components/responses/Problem{status}"}
    if shared:
        made["components"]["responses"] = shared


@lru_cache(maxsize=1)
def _document_bytes() -> bytes:
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


@require_safe
def openapi_json(request: HttpRequest) -> HttpResponse:
    """GET /api/v1/openapi.json, for anybody."""
    return HttpResponse(_document_bytes(), content_type="application/json")


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """GET /api/v1/docs: Swagger UI from our own static files, started by a script file of ours."""
    return render(request, "vault/api_docs.html")
