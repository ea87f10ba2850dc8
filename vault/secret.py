"""A value that must not be shown: key material, credentials, one-time passwords."""

from __future__ import annotations

import hmac
from typing import NoReturn

MASK = "********"


class Secret:
    """Immutable bytes whose every text form is a mask, and which neither pickle nor JSON accepts.

    Text is kept as UTF-8. Comparison takes constant time for equal lengths, and only with another Secret: comparing
    with bare bytes is always False, so that no accidental ``==`` leaks by time. Not hashable, so that it is no dict
    key. ``reveal()`` is the one way out, and easy to search for.
    """

    __slots__ = ("_value",)
    _value: bytes
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes | bytearray | memoryview | str | Secret) -> None:
        """Raises TypeError for anything but bytes, text or another Secret."""
        if isinstance(value, Secret):
            raw = value._value
        elif isinstance(value, str):
            raw = value.encode()
        elif isinstance(value, bytes | bytearray | memoryview):
            raw = bytes(value)
        else:
            raise TypeError(f"a Secret holds bytes or text, not {type(value).__name__}")
        object.__setattr__(self, "_value", raw)

    def reveal(self) -> bytes:
        """Return the bytes."""
        return self._value

    def reveal_text(self) -> str:
        """Return the value as text. Raises ValueError, without the value, when it is no UTF-8."""
        try:
            return self._value.decode()
        except UnicodeDecodeError:
            # The decoder's own error carries the whole input.
            raise ValueError("this secret is not text") from None

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, format_spec: str) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not serialised; call reveal() where it must leave this process")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised; call reveal() where it must leave this process")
