"""The column type of secrets at rest."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models

from hsm.base import BlobMalformed
from hsm.blob import parse


class PlaintextRefused(TypeError):
    """A value that is no wrapped blob was about to reach a WrappedSecretField; nothing was written."""


class WrappedBlob(bytes):
    """Bytes of a wrapped secret. The text form names length and wrapping key only, so that no log fills up."""

    @property
    def key_id(self) -> str:
        """Id of the key that wrapped it (32 hex digits). Raises hsm.base.BlobMalformed."""
        return parse(self).key_id

    def __repr__(self) -> str:
        return f"<wrapped secret, {len(self)} bytes>"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def decode(self, *args: Any, **kwargs: Any) -> NoReturn:
        """A blob is no text. DRF's JSON encoder tries this, so a serializer that names the column fails loudly."""
        raise TypeError("a wrapped secret is never serialised")


class WrappedSecretField(models.BinaryField):
    """Holds a blob of ``hsm.blob`` and nothing else; read and written by ``vault.keys.seal`` and ``unseal``.

    Never editable, so in no form; not serialised, so in no Django fixture and in no DRF serializer of all fields (one
    that names the column fails when it is rendered). Assigning plaintext fails when the row is saved.
    """

    description = "Wrapped secret"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["editable"] = False
        kwargs["serialize"] = False
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, Any]:
        """See Field: what the class always sets is left out of migrations."""
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("editable", None)
        kwargs.pop("serialize", None)
        return name, path, args, kwargs

    def from_db_value(self, value: Any, expression: object, connection: object) -> WrappedBlob | None:
        """PostgreSQL gives a memoryview, SQLite bytes."""
        return None if value is None else WrappedBlob(value)

    def to_python(self, value: Any) -> WrappedBlob | None:
        """Unlike BinaryField, takes no base64 text: a blob never arrives as text."""
        if value is None:
            return None
        if not isinstance(value, bytes | bytearray | memoryview):
            raise PlaintextRefused(f"{self._where()} takes a wrapped blob, not {type(value).__name__}")
        return WrappedBlob(value)

    def get_prep_value(self, value: Any) -> WrappedBlob | None:
        """Refuse whatever has not the form of a blob. Raises PlaintextRefused, without the value."""
        blob = self.to_python(value)
        if blob is not None:
            try:
                parse(blob)
            except BlobMalformed as error:
                raise PlaintextRefused(f"{self._where()} takes a wrapped blob: {error}") from None
        return blob

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """See Field."""
        return super().get_db_prep_value(value if prepared else self.get_prep_value(value), connection, True)

    def value_to_string(self, obj: models.Model) -> NoReturn:
        """Whoever serialises a model field by field comes here; a wrapped secret does not go out this way."""
        raise TypeError(f"{self._where()} is a wrapped secret and is never serialised")

    def _where(self) -> str:
        model = getattr(self, "model", None)
        return f"{model._meta.label}.{self.name}" if model is not None else "a WrappedSecretField"
