"""What is JSON in this room's API, written in short on the command line."""

from __future__ import annotations

import json
import sys
from typing import Any


def json_file(text: str) -> Any:
    """A file with the JSON, - for standard input, or the JSON itself."""
    if text[:1] in ("[", "{"):
        return _parsed(text, "this")
    if text == "-":
        return _parsed(sys.stdin.read(), "standard input")
    try:
        with open(text, encoding="utf-8") as file:
            return _parsed(file.read(), text)
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror}.") from None


def text_file(text: str) -> str:
    """A file with the text, - for standard input; "" for none."""
    if not text:
        return ""
    if text == "-":
        return sys.stdin.read()
    try:
        with open(text, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{text} is no text: PEM is wanted.") from None


def version(text: str) -> int | None:
    """A version's number, or none."""
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is neither a version's number nor none.")
    return int(text)


def rate(text: str) -> int | None:
    """Requests a second, or none for no limit."""
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is neither a number of requests a second nor none.")
    return int(text)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}.") from None
