"""Is an answer what botocore's model of the service promises? Used with boto3 clients, for every call they make."""

from __future__ import annotations

import datetime as dt
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

SCALARS: dict[str, type | tuple[type, ...]] = {
    "string": (str, dict),  # policy documents are parsed by boto3
    "integer": int,
    "long": int,
    "boolean": bool,
    "timestamp": dt.datetime,
    "blob": bytes,
    "double": float,
    "float": float,
}
# Headers of S3 that its model calls strings and boto3 hands on as the whole body stream.
STREAMS = ("Body",)


def problems(shape: Shape, value: Any, path: str) -> list[str]:
    """What in ``value`` is not as ``shape`` says: missing required members, unknown members, wrong types."""
    if isinstance(shape, StructureShape):
        found = [f"{path}.{name} is missing" for name in shape.required_members if name not in value]
        for name, inner in value.items():
            if name in ("ResponseMetadata", *STREAMS):
                continue
            if name not in shape.members:
                found.append(f"{path}.{name} is unknown")
                continue
            found += problems(shape.members[name], inner, f"{path}.{name}")
        return found
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [one for n, inner in enumerate(value) for one in problems(shape.member, inner, f"{path}[{n}]")]
    if isinstance(shape, MapShape):
        return [one for key, inner in value.items() for one in problems(shape.value, inner, f"{path}[{key}]")]
    if not isinstance(value, SCALARS[shape.type_name]):
        return [f"{path} is {type(value).__name__}, not {shape.type_name}"]
    choices = getattr(shape, "enum", None)
    if choices and value not in choices:
        return [f"{path} is {value!r}, not one of {choices}"]
    return []


class Watch:
    """Checks every successful answer of a client; ``operations`` are the names of those seen."""

    def __init__(self, client: Any) -> None:
        self.operations: set[str] = set()
        self.problems: list[str] = []
        client.meta.events.register("after-call", self._look)

    def _look(self, http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if http_response.status_code >= 300:
            return
        self.operations.add(model.name)
        if model.output_shape is not None:
            self.problems += problems(model.output_shape, parsed, model.name)
