"""From one HTTP request to one answer: which service, who calls, which operation, which faults, which handler."""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from cloudkeys.simulators.aws import auth, bucket_keys, errors, iam, kms, kms_keys, protocols, s3, sts
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, RawResponse, Simulator
from cloudkeys.simulators.aws.faults import Fault

log = logging.getLogger(__name__)

Handler = Callable[[Simulator, ApiRequest], Mapping[str, Any] | RawResponse]
SERVICES: dict[str, Handler] = {"kms": kms.handle, "iam": iam.handle, "sts": sts.handle, "s3": s3.handle}
CONTROL_PREFIX = "/_keystead/"


class ConnectionDropped(Exception):
    """A fault says that this request gets no answer: the server closes the connection."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request as read from the socket: ``target`` as sent, header names in lower case, body complete."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


def answer(sim: Simulator, request: HttpRequest, stopping: threading.Event) -> RawResponse:
    """The answer to any request. Raises ConnectionDropped when a fault took the answer.

    ``stopping`` ends a latency that a fault asked for when the server stops.
    """
    path, _, query = request.target.partition("?")
    if path.startswith(CONTROL_PREFIX):
        return _control(sim, request, path)
    request_id = str(uuid.uuid4())
    service = _service_of(request, query)
    try:
        response = _serve(sim, request, path, query, service, request_id, stopping)
    except AwsError as error:
        response = errors.render(service, error, request_id, head=request.method == "HEAD")
    except ConnectionDropped:
        raise
    except Exception:
        # The simulator must not die of one request; what happened is in its log, under the request's id.
        log.exception("request %s to %s failed", request_id, service)
        response = errors.render(
            service, errors.common("internal", service), request_id, head=request.method == "HEAD"
        )
    id_header = "x-amz-request-id" if service == "s3" else "x-amzn-RequestId"
    return replace(response, headers={id_header: request_id, **response.headers})


def _service_of(request: HttpRequest, query: str) -> str:
    """The service of the credential scope; without one, what the request looks like."""
    text = request.headers.get("authorization", "") + "&" + query.replace("%2F", "/").replace("%2f", "/")
    for service in SERVICES:
        if f"/{service}/aws4_request" in text:
            return service
    if "x-amz-target" in request.headers:
        return "kms"
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return "iam" if b"Version=2010-05-08" in request.body else "sts"
    return "s3"


def _serve(
    sim: Simulator,
    request: HttpRequest,
    path: str,
    query: str,
    service: str,
    request_id: str,
    stopping: threading.Event,
) -> RawResponse:
    signed = auth.SignedRequest(request.method, path, query, request.headers, request.body)
    caller, region, body = auth.authenticate(sim, signed, service)
    iam.record_use(sim, caller, service, region)
    operation, params = _operation_of(service, request, path, query, body)
    lose_answer = _apply_faults(sim.faults.take(service, operation), service, stopping)
    api_request = ApiRequest(
        service=service,
        operation=operation,
        region=region,
        params=params() if params else {},
        headers=request.headers,
        body=body,
        caller=caller,
        request_id=request_id,
        method=request.method,
        path=path,
        query=query,
    )
    try:
        result = SERVICES[service](sim, api_request)
    finally:
        if lose_answer:
            raise ConnectionDropped from None
    if isinstance(result, RawResponse):
        return result
    if errors.PROTOCOLS[service] == "json":
        return RawResponse(
            200,
            {"Content-Type": "application/x-amz-json-1.1"},
            protocols.serialize_json(service, operation, result),
        )
    xml = protocols.serialize_query(service, operation, result, request_id)
    return RawResponse(200, {"Content-Type": "text/xml"}, xml)


def _operation_of(
    service: str, request: HttpRequest, path: str, query: str, body: bytes
) -> tuple[str, Callable[[], dict[str, Any]] | None]:
    """The operation's name and a function that parses its parameters (None: the service does it)."""
    if service == "s3":
        return s3.operation_name(request.method, path, query, request.headers.get("host", "")), None
    known = protocols.service_model(service).operation_names
    if service == "kms":
        target_prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
        if target_prefix != "TrentService" or operation not in known:
            raise AwsError("UnknownOperationException", "The requested operation is not known to AWS KMS.")
        return operation, lambda: protocols.parse_json(service, operation, body)
    form = dict(parse_qsl(body.decode("utf-8", "replace") if body else query, keep_blank_values=True))
    operation = form.get("Action", "")
    if operation not in known:
        raise AwsError(
            "InvalidAction", f"Could not find operation {operation} for version {form.get('Version')}"
        )
    return operation, lambda: protocols.parse_query(service, operation, form)


def _apply_faults(faults: list[Fault], service: str, stopping: threading.Event) -> bool:
    """Do what the faults say before the work; returns whether the answer is to be lost after it."""
    for fault in faults:
        if fault.kind == "latency":
            stopping.wait(fault.seconds)
    for fault in faults:
        if fault.kind == "throttle":
            raise errors.common("throttle", service)
        if fault.kind == "error":
            raise errors.common("internal", service, "A fault was asked for.", fault.status)
        if fault.kind == "drop":
            raise ConnectionDropped
    return any(fault.kind == "lose_answer" for fault in faults)


# --- control ------------------------------------------------------------------------------------------------------


def _control(sim: Simulator, request: HttpRequest, path: str) -> RawResponse:
    """The simulator's own switches, for tests and demonstrations; not part of any AWS API.

    A web page that a browser on this machine shows must not reach them: only a loopback Host is served, and what
    changes something needs a JSON content type, which a page cannot send to another origin unasked.
    """
    if not _is_loopback(request.headers.get("host", "")):
        return _json(403, {"error": "the control endpoint answers to a loopback Host only"})
    if request.method != "GET" and request.headers.get("content-type", "") != "application/json":
        return _json(415, {"error": "send Content-Type: application/json"})
    try:
        document = json.loads(request.body or b"{}")
        if not isinstance(document, dict):
            raise TypeError("the body must be a JSON object")
        return _json(200, _control_action(sim, request.method, path.removeprefix(CONTROL_PREFIX), document))
    except LookupError:
        return _json(404, {"error": f"no control {request.method} {path}"})
    except (ValueError, TypeError) as error:
        return _json(400, {"error": str(error)})


def _control_action(sim: Simulator, method: str, name: str, document: dict[str, Any]) -> dict[str, Any]:
    match method, name:
        case "GET", "health":
            sim.state.row("SELECT 1")
            return {"status": "ok"}
        case "GET", "faults":
            return {"faults": sim.faults.waiting()}
        case "POST", "faults":
            return {"id": sim.faults.add_document(document).id}
        case "DELETE", "faults":
            sim.faults.clear()
            return {"faults": []}
        case "DELETE", "bucket-keys":
            bucket = document.get("bucket")
            if bucket is not None and not isinstance(bucket, str):
                raise ValueError(
                    "bucket must be the name of a bucket; without it the keys of all buckets end"
                )
            return {"ended": bucket_keys.end(sim, bucket)}
        case "GET", "clock":
            return {"now": sim.now(), "offset_s": sim.state.clock_offset_s()}
        case "POST", "clock":
            seconds = document.get("advance_s")
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise TypeError("advance_s must be a number of seconds")
            offset_s = sim.state.advance_clock(float(seconds))
            kms_keys.destroy_due_keys(sim)
            return {"now": sim.now(), "offset_s": offset_s}
        case "DELETE", "bucket-keys":
            bucket = document.get("bucket")
            if bucket is not None and not isinstance(bucket, str):
                raise TypeError("bucket must be the name of one, or be left out to mean all")
            return {"ended": bucket_keys.end(sim, bucket)}
        case _:
            raise LookupError(name)


def _json(status: int, document: Mapping[str, Any]) -> RawResponse:
    return RawResponse(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
