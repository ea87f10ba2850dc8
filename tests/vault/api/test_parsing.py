"""Bodies that are not exactly what they should be get a clear 4xx, and change nothing."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ParseError

from tests.cast import Cast
from vault.api.parsing import MAX_BODY_BYTES, MAX_DEPTH, StrictJsonParser
from vault.api.problems import ApiError
from vault.models import Group

PATH = "/api/v1/groups"


def parse(body: bytes) -> Any:
    return StrictJsonParser().parse(io.BytesIO(body))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _plain(value: Any) -> bool:
    return "\\u0000" not in json.dumps(value)


@given(_json.filter(_plain))
def test_json_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_either_parse_or_are_refused(body: bytes) -> None:
    try:
        value = parse(body)
    except ParseError as error:
        value = str(error.detail)
    assert json.dumps(value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "line 1, column 2"),
        (b'{"name": "a", "name": "b"}', "'name' twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": "\\u0000"}', "U+0000"),
        (b'{"\\u0000": 1}', "U+0000"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b"[" * 40 + b"]" * 40, "nested"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_refused_with_the_cause(body: bytes, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(body)
    assert words in str(caught.value.detail)


def test_depth_that_is_allowed() -> None:
    body = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert json.dumps(parse(body)).encode() == body


def test_size() -> None:
    assert parse(b'"' + b"a" * (MAX_BODY_BYTES - 2) + b'"')
    with pytest.raises(ApiError) as caught:
        parse(b'"' + b"a" * (MAX_BODY_BYTES - 1) + b'"')
    assert caught.value.code == "body_too_large"


def groups() -> int:
    return Group.objects.exclude(name=Group.CLOUD_ADMIN_GROUP).count()


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"[]", 400, ""),
        (b"null", 400, ""),
        (b'"x"', 400, ""),
        (b"{}", 400, "name"),
        (b'{"name": null}', 400, "name"),
        (b'{"name": 7}', 400, "name"),
        (b'{"name": true}', 400, "name"),
        (b'{"name": ["x"]}', 400, "name"),
        (b'{"name": ""}', 400, "name"),
        (b'{"name": "   "}', 400, "name"),
        (b'{"name": "a\\nb"}', 400, "name"),
        (json.dumps({"name": "x" * 101}).encode(), 400, "name"),
        (b'{"name": "x", "nmae": "y"}', 400, "nmae"),
        (b'{"name": "x", "id": "y"}', 400, "id"),
        (b'{"name": "x", "members": "y"}', 400, "members"),
        (b'{"name": "x", "members": ["y"]}', 400, "members[0]"),
        (b'{"name": "x", "vault": "y"}', 400, "vault"),
        (b'{"name": "x", "description": {}}', 400, "description"),
        (b'{"name": "x", "description": "\\u0000"}', 400, ""),
        (b'"' + b"a" * MAX_BODY_BYTES + b'"', 413, ""),
    ],
)
def test_bad_bodies_change_nothing(cast: Cast, body: bytes, status: int, field: str) -> None:
    answer = cast.api("owner").request("POST", PATH, body)
    assert answer.status_code == status
    assert answer.json().get("field", "") == field
    assert groups() == 0


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/xml",
    ],
)
def test_other_media_types(cast: Cast, content_type: str) -> None:
    answer = cast.api("owner").django.generic("POST", PATH, b'{"name": "x"}', content_type)
    assert answer.status_code == 415
    assert groups() == 0


def test_chunks_are_not_taken_for_an_empty_body(cast: Cast) -> None:
    client = cast.api("owner").django
    answer = client.generic("POST", PATH, b"", "application/json", headers={"Transfer-Encoding": "chunked"})
    assert answer.status_code == 411
    assert answer.json()["code"] == "length_required"


def test_a_charset_beside_the_media_type_is_fine(cast: Cast) -> None:
    client = cast.api("owner").django
    answer = client.generic("POST", PATH, '{"name": "Ängström"}'.encode(), "application/json; charset=utf-8")
    assert answer.status_code == 201
    assert answer.json()["name"] == "Ängström"


def test_accept_does_not_matter(cast: Cast) -> None:
    answer = cast.api("owner").get("/api/v1/vaults", headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
