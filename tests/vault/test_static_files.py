"""Static files leave compressed where that is accepted; pages never do."""

from __future__ import annotations

import contextlib
import gzip

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db
CSS = "/static/vault/css/parts.css"


def body(answer) -> bytes:
    with contextlib.closing(answer):
        return b"".join(answer.streaming_content) if answer.streaming else answer.content


def test_text_is_compressed_for_whoever_accepts_it(client: Client) -> None:
    plain = client.get(CSS)
    packed = client.get(CSS, headers={"Accept-Encoding": "br, gzip;q=0.8"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.content) == body(plain)
    assert (
        int(packed.headers["Content-Length"])
        == len(packed.content)
        < int(plain.headers["Content-Length"]) / 2
    )
    for answer in (plain, packed):
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.headers["Content-Type"].startswith("text/css")
    assert packed.headers["Cache-Control"] == plain.headers["Cache-Control"]


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "identity, gzip; q=0.0", "x-gzip2"])
def test_plain_for_everybody_else(client: Client, accepted: str) -> None:
    answer = client.get(CSS, headers={"Accept-Encoding": accepted})
    assert body(answer).startswith(b"/*")
    assert "Content-Encoding" not in answer.headers


def test_nothing_is_sent_again_to_a_browser_that_has_it(client: Client) -> None:
    tag = client.get(CSS, headers={"Accept-Encoding": "gzip"}).headers["ETag"]
    again = client.get(CSS, headers={"Accept-Encoding": "gzip", "If-None-Match": tag})
    assert again.status_code == 304
    assert body(again) == b""


def test_parts_and_heads_are_as_they_were(client: Client) -> None:
    part = client.get(CSS, headers={"Accept-Encoding": "gzip", "Range": "bytes=0-3"})
    assert part.status_code == 206
    assert len(body(part)) == 4
    assert "Content-Encoding" not in part.headers
    assert "Content-Encoding" not in client.head(CSS, headers={"Accept-Encoding": "gzip"}).headers


def test_a_page_is_not_compressed(client: Client) -> None:
    answer = client.get("/accounts/login/", headers={"Accept-Encoding": "gzip"})
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer.headers
