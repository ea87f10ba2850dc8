"""S3 on the wire: which bucket, key and operation a request means, and its XML."""

from __future__ import annotations

import ipaddress
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.sax.saxutils import escape

from cloudkeys.simulators.aws.context import AwsError, RawResponse

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
XmlValue = str | int | bool | Mapping[str, "XmlValue"] | Sequence["XmlValue"] | None
UNKNOWN = "Unknown"

# Query parameters that choose another operation; those that no operation below has are refused by name.
SUBRESOURCES = frozenset(
    (
        "accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption",
        "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "location", "logging",
        "metadataTable", "metrics", "notification", "object-lock", "ownershipControls", "partNumber",
        "policy", "policyStatus", "publicAccessBlock", "renameObject", "replication", "requestPayment",
        "restore", "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads",
        "versioning", "versions", "website",
    )
)  # fmt: skip
# (level, method, subresource) -> operation.
ROUTES = {
    ("service", "GET", ""): "ListBuckets",
    ("bucket", "PUT", ""): "CreateBucket",
    ("bucket", "HEAD", ""): "HeadBucket",
    ("bucket", "DELETE", ""): "DeleteBucket",
    ("bucket", "GET", ""): "ListObjects",
    ("bucket", "GET", "list-type"): "ListObjectsV2",
    ("bucket", "GET", "location"): "GetBucketLocation",
    ("bucket", "PUT", "encryption"): "PutBucketEncryption",
    ("bucket", "GET", "encryption"): "GetBucketEncryption",
    ("bucket", "DELETE", "encryption"): "DeleteBucketEncryption",
    ("object", "PUT", ""): "PutObject",
    ("object", "GET", ""): "GetObject",
    ("object", "HEAD", ""): "HeadObject",
    ("object", "DELETE", ""): "DeleteObject",
}
_AWS_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-](?:dualstack\.)?[a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?")
_LOCAL_HOST = re.compile(r"(?:(?P<bucket>(?!s3\.localhost).+?)\.)?(?:s3\.)?localhost")


@dataclass(frozen=True, slots=True)
class Route:
    """What a request is about. ``query`` has the decoded parameters; ``subresources`` those that choose an
    operation."""

    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    subresources: tuple[str, ...]


def _bucket_of_host(host: str) -> str:
    """The bucket in a virtual-host style Host header, "" for path style."""
    name = host.strip().lower()
    name = name if name.endswith("]") else name.rpartition(":")[0] or name
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        found = _LOCAL_HOST.fullmatch(name) or _AWS_HOST.fullmatch(name)
        return (found.group("bucket") or "") if found else ""
    return ""


def route(method: str, path: str, query: str, host: str) -> Route:
    """Bucket, key and operation of a request; ``path`` and ``query`` as sent.

    Raises AwsError InvalidURI for a path that is not percent-encoded UTF-8.
    """
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise AwsError("InvalidURI", "Couldn't parse the specified URI.") from error
    bucket, rest = _bucket_of_host(host), decoded.removeprefix("/")
    if not bucket:
        bucket, _, rest = rest.partition("/")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    subresources = tuple(sorted(SUBRESOURCES & parameters.keys()))
    level = "service" if not bucket else "object" if rest else "bucket"
    chosen = subresources[0] if subresources else ""
    if level == "bucket" and method == "GET" and not chosen and parameters.get("list-type") == "2":
        chosen = "list-type"
    operation = ROUTES.get((level, method, chosen), UNKNOWN) if len(subresources) < 2 else UNKNOWN
    return Route(operation, bucket, rest, parameters, subresources)


def element(name: str, value: XmlValue) -> str:
    """``value`` as XML: a mapping holds elements, a sequence repeats the element, None is left away."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"<{name}>{''.join(element(inner, part) for inner, part in value.items())}</{name}>"
    if isinstance(value, bool):
        return f"<{name}>{'true' if value else 'false'}</{name}>"
    if isinstance(value, str | int):
        return f"<{name}>{escape(str(value))}</{name}>"
    return "".join(element(name, part) for part in value)


def xml_response(root: str, value: XmlValue, headers: Mapping[str, str] | None = None) -> RawResponse:
    """A 200 with an XML document in S3's namespace."""
    body = element(root, value).replace(f"<{root}>", f'<{root} xmlns="{NAMESPACE}">', 1)
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
    return RawResponse(200, {"Content-Type": "application/xml", **(headers or {})}, document.encode())


def parse_xml(body: bytes, root: str) -> ElementTree.Element:
    """The document's root, names without namespaces. Raises AwsError MalformedXML.

    A document type is refused, so no entity can be declared and none is expanded.
    """
    malformed = AwsError(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
    if b"<!" in body or b"\0" in body or not body.isascii():
        raise malformed
    try:
        document = ElementTree.fromstring(body)  # noqa: S314 - no document type, so no entities: checked above
    except ElementTree.ParseError as error:
        raise malformed from error
    for node in document.iter():
        node.tag = node.tag.rpartition("}")[2]
    if document.tag != root:
        raise malformed
    return document


def iso_date(seconds: float) -> str:
    """A time as S3's XML has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def http_date(seconds: float) -> str:
    """A time as HTTP headers have it (RFC 9110, 5.6.7)."""
    return formatdate(seconds, usegmt=True)
