"""AWS's wire protocols, driven by botocore's own service models: JSON 1.1 and query-XML.

``parse_*`` turn a request into Python values by the operation's input shape and check its constraints (required
members, lengths, patterns, enumerations) as AWS does; ``serialize_*`` write an answer by the output shape and
refuse a member that the shape does not have, so that a typing error cannot reach a client.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from cloudkeys.simulators.aws.context import AwsError

REQUEST_ID_NAMESPACE = "ResponseMetadata"


@cache
def service_model(service: str) -> ServiceModel:
    """botocore's model of a service, by its endpoint name (``kms``, ``iam``, ``sts``)."""
    return ServiceModel(Loader().load_service_model(service, "service-2"), service_name=service)


# --- JSON 1.1 -----------------------------------------------------------------------------------------------------


def parse_json(service: str, operation: str, body: bytes) -> dict[str, Any]:
    """The parameters of a JSON request: blobs as bytes, timestamps as seconds; members that the model lacks dropped.

    Raises AwsError SerializationException (not JSON, wrong type) or ValidationException (a constraint).
    """
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise AwsError("SerializationException", "The request body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise AwsError("SerializationException", "The request body must be a JSON object.")
    shape = service_model(service).operation_model(operation).input_shape
    if shape is None:
        return {}
    value: dict[str, Any] = _from_json(shape, document)
    check_constraints(shape, value)
    return value


def _wrong_type(shape: Shape) -> AwsError:
    return AwsError("SerializationException", f"A value cannot be converted to {shape.type_name}.")


def _from_json(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        if not isinstance(value, dict):
            raise _wrong_type(shape)
        members = shape.members
        return {
            name: _from_json(members[name], inner)
            for name, inner in value.items()
            if name in members and inner is not None
        }
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            raise _wrong_type(shape)
        return [_from_json(shape.member, inner) for inner in value]
    if isinstance(shape, MapShape):
        if not isinstance(value, dict):
            raise _wrong_type(shape)
        return {_from_json(shape.key, key): _from_json(shape.value, inner) for key, inner in value.items()}
    if shape.type_name == "blob":
        if not isinstance(value, str):
            raise _wrong_type(shape)
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise _wrong_type(shape) from None
    if shape.type_name == "boolean":
        if not isinstance(value, bool):
            raise _wrong_type(shape)
        return value
    if shape.type_name in ("integer", "long"):
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(shape)
        return value
    if shape.type_name in ("timestamp", "double", "float"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong_type(shape)
        return float(value)
    if not isinstance(value, str):
        raise _wrong_type(shape)
    return value


def serialize_json(service: str, operation: str, result: Mapping[str, Any]) -> bytes:
    """The body of a JSON answer; ``b""`` when the operation has no output."""
    shape = service_model(service).operation_model(operation).output_shape
    if shape is None:
        return b""
    return json.dumps(_to_json(shape, result), separators=(",", ":")).encode()


def _to_json(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        members = shape.members
        return {name: _to_json(members[name], inner) for name, inner in value.items() if inner is not None}
    if isinstance(shape, ListShape):
        return [_to_json(shape.member, inner) for inner in value]
    if isinstance(shape, MapShape):
        return {key: _to_json(shape.value, inner) for key, inner in value.items()}
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    if shape.type_name == "timestamp":
        return round(_seconds(value), 3)
    return value


# --- constraints --------------------------------------------------------------------------------------------------


def check_constraints(shape: Shape, params: Mapping[str, Any]) -> None:
    """Raise AwsError ValidationException naming every constraint of the model that ``params`` breaks."""
    broken: list[str] = []
    _collect(shape, params, "", broken)
    if broken:
        noun = "error" if len(broken) == 1 else "errors"
        raise AwsError(
            "ValidationException", f"{len(broken)} validation {noun} detected: {'; '.join(broken)}"
        )


def _collect(shape: Shape, value: Any, path: str, broken: list[str]) -> None:
    if isinstance(shape, StructureShape):
        broken.extend(
            f"Value null at '{_join(path, name)}' failed to satisfy constraint: Member must not be null"
            for name in shape.metadata.get("required", ())
            if name not in value
        )
        for name, inner in value.items():
            _collect(shape.members[name], inner, _join(path, name), broken)
        return
    shown = f"Value at '{path}'"
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and not shape.metadata.get("sensitive")):
        shown = f"Value '{value}' at '{path}'"
    prefix = f"{shown} failed to satisfy constraint: Member must "
    if isinstance(shape, ListShape):
        for number, inner in enumerate(value, start=1):
            _collect(shape.member, inner, f"{path}.{number}.member", broken)
    if isinstance(shape, MapShape):
        for inner in value.values():
            _collect(shape.value, inner, path, broken)
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if isinstance(value, (str, bytes, list, dict)):
        if low is not None and len(value) < low:
            broken.append(f"{prefix}have length greater than or equal to {low}")
        if high is not None and len(value) > high:
            broken.append(f"{prefix}have length less than or equal to {high}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if low is not None and value < low:
            broken.append(f"{prefix}have value greater than or equal to {low}")
        if high is not None and value > high:
            broken.append(f"{prefix}have value less than or equal to {high}")
    pattern = shape.metadata.get("pattern")
    if pattern and isinstance(value, str) and not _python_pattern(pattern).fullmatch(value):
        broken.append(f"{prefix}satisfy regular expression pattern: {pattern}")
    choices = getattr(shape, "enum", None)
    if choices and isinstance(value, str) and value not in choices:
        broken.append(f"{prefix}satisfy enum value set: [{', '.join(choices)}]")


@cache
def _python_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the model, whose Unicode classes Java knows and Python does not: put in words of Python.

    \\w holds the underscore besides letters and digits; the models allow it wherever they use these classes.
    """
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\d"), (r"\p{Z}", r"\s"), (r"\p{M}", "")):
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _join(path: str, name: str) -> str:
    member = name[0].lower() + name[1:]
    return f"{path}.{member}" if path else member


# --- query --------------------------------------------------------------------------------------------------------


def parse_query(service: str, operation: str, form: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a query request (``Name.member.1=...``) as nested Python values; unknown ones are dropped."""
    shape = service_model(service).operation_model(operation).input_shape
    if shape is None:
        return {}
    params: dict[str, Any] = _from_query(shape, form, "") or {}
    try:
        check_constraints(shape, params)
    except AwsError as error:
        # The same fault has another name in the query protocol.
        raise AwsError("ValidationError", error.message) from error
    return params


def _from_query(shape: Shape, form: Mapping[str, str], prefix: str) -> Any:
    """The value at ``prefix``, None when the form has nothing there."""
    if isinstance(shape, StructureShape):
        found: dict[str, Any] = {}
        for name, member in shape.members.items():
            wire = member.serialization.get("name", name)
            value = _from_query(member, form, f"{prefix}.{wire}" if prefix else wire)
            if value is not None:
                found[name] = value
        return found or None
    if isinstance(shape, ListShape):
        if form.get(prefix) == "":
            return []
        stem = prefix if shape.serialization.get("flattened") else f"{prefix}.{_member_name(shape)}"
        return [_from_query(shape.member, form, f"{stem}.{n}") for n in _numbers(form, stem)] or None
    if isinstance(shape, MapShape):
        stem = prefix if shape.serialization.get("flattened") else f"{prefix}.entry"
        return {
            form[f"{stem}.{n}.key"]: _from_query(shape.value, form, f"{stem}.{n}.value")
            for n in _numbers(form, stem)
        } or None
    text = form.get(prefix)
    if text is None:
        return None
    try:
        if shape.type_name == "boolean":
            return {"true": True, "false": False}[text.lower()]
        if shape.type_name in ("integer", "long"):
            return int(text)
        if shape.type_name == "blob":
            return base64.b64decode(text, validate=True)
        if shape.type_name == "timestamp":
            return datetime.fromisoformat(text).timestamp()
    except (KeyError, ValueError):
        raise AwsError("MalformedInput", f"{prefix} must be of type {shape.type_name}.") from None
    return text


def _member_name(shape: ListShape) -> str:
    return str(shape.member.serialization.get("name", "member"))


def _numbers(form: Mapping[str, str], stem: str) -> list[int]:
    start = f"{stem}."
    found = {name[len(start) :].split(".", 1)[0] for name in form if name.startswith(start)}
    return sorted(int(number) for number in found if number.isascii() and number.isdigit())


def serialize_query(service: str, operation: str, result: Mapping[str, Any], request_id: str) -> bytes:
    """The XML body of a query answer."""
    model = service_model(service)
    shape = model.operation_model(operation).output_shape
    parts = [f'<{operation}Response xmlns="{model.metadata["xmlNamespace"]}">']
    if shape is not None:
        wrapper = shape.serialization.get("resultWrapper", f"{operation}Result")
        parts.append(f"<{wrapper}>")
        for name, value in result.items():
            _to_xml(shape.members[name], name, value, parts)
        parts.append(f"</{wrapper}>")
    parts.append(
        f"<{REQUEST_ID_NAMESPACE}><RequestId>{request_id}</RequestId></{REQUEST_ID_NAMESPACE}></{operation}Response>"
    )
    return "".join(parts).encode()


def _to_xml(shape: Shape, name: str, value: Any, parts: list[str]) -> None:
    if value is None:
        return
    tag = shape.serialization.get("name", name)
    if isinstance(shape, ListShape):
        if shape.serialization.get("flattened"):
            for inner in value:
                _to_xml(shape.member, tag, inner, parts)
            return
        parts.append(f"<{tag}>")
        for inner in value:
            _to_xml(shape.member, _member_name(shape), inner, parts)
        parts.append(f"</{tag}>")
        return
    if isinstance(shape, MapShape):
        parts.append(f"<{tag}>")
        for key, inner in value.items():
            parts.append("<entry>")
            _to_xml(shape.key, "key", key, parts)
            _to_xml(shape.value, "value", inner, parts)
            parts.append("</entry>")
        parts.append(f"</{tag}>")
        return
    parts.append(f"<{tag}>")
    if isinstance(shape, StructureShape):
        for member, inner in value.items():
            _to_xml(shape.members[member], member, inner, parts)
    elif shape.type_name == "boolean":
        parts.append("true" if value else "false")
    elif shape.type_name == "timestamp":
        moment = datetime.fromtimestamp(_seconds(value), UTC)
        parts.append(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
    elif shape.type_name == "blob":
        parts.append(base64.b64encode(value).decode())
    else:
        parts.append(escape(str(value)))
    parts.append(f"</{tag}>")


def _seconds(value: Any) -> float:
    return value.timestamp() if isinstance(value, datetime) else float(value)
