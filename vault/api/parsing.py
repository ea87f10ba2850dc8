"""Reading bodies strictly: what is not understood is refused, never ignored."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO, Any, NoReturn

from django.http.request import UnreadablePostError
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from vault.api.problems import ApiError

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 32


class StrictJsonParser(BaseParser):
    """JSON (RFC 8259) in UTF-8, at most `max_bytes` long.

    Refused with a problem that names the cause: duplicate names (RFC 8259 leaves their meaning open, so two readers of one
    body could disagree), NaN and Infinity, nesting deeper than 32, and text that PostgreSQL cannot hold (U+0000, lone
    surrogates). A view that takes larger bodies (imports) derives from this and sets `max_bytes`.
    """

    media_type = "application/json"
    max_bytes = MAX_BODY_BYTES

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """Return the parsed body. Raises ParseError (400) or ApiError body_too_large (413)."""
        try:
            raw = stream.read(self.max_bytes + 1)
        except (UnreadablePostError, OSError):
            raise ParseError("The body ended before its announced length.") from None
        if len(raw) > self.max_bytes:
            raise ApiError("body_too_large", f"The body is over {self.max_bytes} bytes.")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ParseError(f"The body is not UTF-8: byte {error.start} does not fit.") from None
        try:
            value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        except json.JSONDecodeError as error:
            raise ParseError(
                f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
            ) from None
        except RecursionError:
            raise ParseError(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
        except _Refused as error:
            raise ParseError(str(error)) from None
        except ValueError:
            # Python refuses integers of more than 4,300 digits.
            raise ParseError("The body holds a number with too many digits.") from None
        _check(value, depth=0)
        return value


class _Refused(Exception):
    """JSON that is well-formed but not taken."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"The body names {twice[:60]!r} twice in one object.")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"The body holds {name}, which is not JSON.")


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ParseError(f"The body is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_text(name)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise ParseError("The body holds a number that is too large.")


def check_text(text: str) -> None:
    """Raise ParseError for characters that no stored text may hold."""
    if "\x00" in text:
        raise ParseError("The body holds the character U+0000, which text may not hold.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ParseError("The body holds half of a surrogate pair, which is no character.") from None


class FirstRenderer(BaseContentNegotiation):
    """Answers in the one format that an address has, whatever Accept says (RFC 9110, 12.5.1 allows it)."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        """The parser whose media type is the request's, parameters apart; None leads to 415."""
        media_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == media_type), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """The view's first renderer."""
        first = next(iter(renderers))
        return first, first.media_type or "application/json"
