"""JSON and base64: what is taken, and what is refused whatever it costs to find out."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xks import world
from xks import bodies
from xks.bodies import DecryptBody, EncryptBody, HealthBody, MetadataBody, base64_field, decode_body
from xks.errors import ValidationException

ENCRYPT = world.encrypt_body()


def raw(**changes: Any) -> bytes:
    return world.dumped({**ENCRYPT, **changes})


def with_text(text: bytes) -> bytes:
    """Return an Encrypt body with one more member, given as text."""
    return world.dumped(ENCRYPT)[:-1] + b", " + text + b"}"


def test_all_fields_arrive() -> None:
    metadata = {**world.REQUEST_METADATA, "awsSourceVpc": "vpc-1", "awsSourceVpce": "vpce-1"}
    body = world.encrypt_body(
        aad=b"aad", ciphertextDataIntegrityValueAlgorithm="SHA_256", requestMetadata=metadata
    )
    decoded = decode_body(EncryptBody, world.dumped(body))
    assert decoded.plaintext == body["plaintext"]
    assert decoded.additional_authenticated_data == "YWFk"
    assert decoded.ciphertext_data_integrity_value_algorithm == "SHA_256"
    for name in metadata:
        snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
        assert getattr(decoded.request_metadata, snake) == metadata[name]


@pytest.mark.parametrize("kind", [HealthBody, MetadataBody, EncryptBody, DecryptBody])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{",
        b"}",
        b"not json",
        b'{"requestMetadata":{}}',
        b'{"requestMetadata":null}',
        b'{"requestMetadata":[]}',
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 60000,
        b'{"requestMetadata":' * 3000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_not_a_body(kind: Any, body: bytes) -> None:
    with pytest.raises(ValidationException):
        decode_body(kind, body)


@pytest.mark.parametrize("name", [*ENCRYPT, *(f"requestMetadata.{n}" for n in world.REQUEST_METADATA)])
@pytest.mark.parametrize("value", [None, 1, True, [], {}, "absent"])
def test_required_fields_and_their_type(name: str, value: Any) -> None:
    body = json.loads(world.dumped(ENCRYPT))
    outer, _, inner = name.rpartition(".")
    target = body[outer] if outer else body
    if value == "absent":
        del target[inner]
    else:
        target[inner] = value
    if inner == "kmsViaService" and value in (None, "absent"):
        assert decode_body(EncryptBody, world.dumped(body)).request_metadata.kms_via_service is None
        return
    with pytest.raises(ValidationException):
        decode_body(EncryptBody, world.dumped(body))


def test_each_operation_requires_its_own_metadata() -> None:
    health = world.health_body()
    assert decode_body(HealthBody, world.dumped(health)).request_metadata.kms_request_id == "x"
    with pytest.raises(ValidationException):
        decode_body(MetadataBody, world.dumped(health))
    described = {"requestMetadata": {**health["requestMetadata"], "awsPrincipalArn": "AWS Internal"}}
    assert decode_body(MetadataBody, world.dumped(described)).request_metadata.aws_principal_arn
    with pytest.raises(ValidationException):
        decode_body(EncryptBody, world.dumped({**ENCRYPT, **described}))


@pytest.mark.parametrize(
    "extra",
    [
        b'"new": 1',
        b'"new": {"a": [1, 2.5e3, true, null, "x"]}',
        b'"new": "\\u0022\\\\ \\""',
        b'"new": 1e999',
        b'"new": ' + b"9" * 20000,
        b'"new": ' + b"[" * 100 + b"]" * 100,
        '"né": "é"'.encode(),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_unknown_fields_are_accepted(extra: bytes) -> None:
    assert decode_body(EncryptBody, with_text(extra)).plaintext == ENCRYPT["plaintext"]


@pytest.mark.parametrize(
    "extra",
    [
        b'"new": NaN',
        b'"new": Infinity',
        b'"new": 01',
        b'"new": "\xff"',
        b'"new": "\\ud800"',
        b'"\xc3(": 1',
        b'"new": "\x01"',
        b'"new": ' + b"[" * 30000 + b"]" * 30000,
        b'"new": ' + b'{"a":' * 9000 + b"1" + b"}" * 9000,
        b'"new"',
        b'"new": 1,',
        b"new: 1",
        b"'new': 1",
        b'"new": 1 /* */',
        b"1: 1",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_malformed_unknown_fields_are_refused(extra: bytes) -> None:
    with pytest.raises(ValidationException):
        decode_body(EncryptBody, with_text(extra))


@pytest.mark.parametrize(
    "extra",
    [
        b'"plaintext": "QQ=="',
        b'"plainte\\u0078t": "QQ=="',
        b'"encryptionAlgorithm": "AES_GCM"',
        b'"requestMetadata": ' + json.dumps(world.REQUEST_METADATA).encode(),
        b'"x": 1, "x": 1',
        b'"x": {"y": 1, "y": 2}',
        b'"x": [{"y": 1, "\\u0079": 2}]',
    ],
    ids=lambda text: repr(text[:30]),
)
def test_a_name_given_twice_is_refused(extra: bytes) -> None:
    with pytest.raises(ValidationException, match="twice"):
        decode_body(EncryptBody, with_text(extra))


def test_a_name_given_twice_in_the_metadata_is_refused() -> None:
    body = world.dumped(ENCRYPT).replace(b'"kmsOperation"', b'"kmsOperation": "Decrypt", "kmsOperation"')
    with pytest.raises(ValidationException, match="twice"):
        decode_body(EncryptBody, body)


def test_text_after_the_body_is_refused() -> None:
    assert decode_body(EncryptBody, world.dumped(ENCRYPT) + b" \r\n\t").plaintext
    with pytest.raises(ValidationException):
        decode_body(EncryptBody, world.dumped(ENCRYPT) + b"{}")


@pytest.mark.parametrize(
    "value", ["", "x" * 2048, "AWS Internal", "ec2.amazonaws.com", "é ü \u2028", "\t\n", "*"]
)
@pytest.mark.parametrize("name", world.REQUEST_METADATA)
def test_ids_and_arns_may_have_any_shape(name: str, value: str) -> None:
    metadata = {**world.REQUEST_METADATA, name: value}
    assert decode_body(EncryptBody, raw(requestMetadata=metadata)).plaintext == ENCRYPT["plaintext"]


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_cleanly(body: bytes) -> None:
    with pytest.raises(ValidationException):
        decode_body(EncryptBody, body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.text(), JSON_VALUES, max_size=3),
    st.dictionaries(st.text(), JSON_VALUES, max_size=3),
)
def test_any_unknown_fields_are_accepted(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    body = {**outer, **ENCRYPT, "requestMetadata": {**inner, **world.REQUEST_METADATA}}
    optional = {"additionalAuthenticatedData", "ciphertextDataIntegrityValueAlgorithm"}
    if not optional & outer.keys() and not {"awsSourceVpc", "awsSourceVpce"} & inner.keys():
        assert decode_body(EncryptBody, world.dumped(body)).plaintext == ENCRYPT["plaintext"]


@given(JSON_VALUES, st.sampled_from(["plaintext", "encryptionAlgorithm", "requestMetadata"]))
def test_any_wrong_type_is_refused_cleanly(value: Any, name: str) -> None:
    if not isinstance(value, str):
        with pytest.raises(ValidationException):
            decode_body(EncryptBody, raw(**{name: value}))


def test_messages_quote_no_values() -> None:
    for body in (raw(encryptionAlgorithm=["s3cret"]), b'{"plaintext": s3cret}', raw(plaintext={"s3cret": 1})):
        with pytest.raises(ValidationException) as caught:
            decode_body(EncryptBody, body)
        assert "s3cret" not in caught.value.message


@given(st.binary(max_size=300))
def test_base64_round_trip(data: bytes) -> None:
    assert base64_field("x", b64encode(data).decode()) == data


def test_absent_and_empty_are_the_same_below() -> None:
    assert base64_field("x", None) == base64_field("x", "") == b""


@pytest.mark.parametrize(
    "text",
    [
        "Q",
        "QQ",
        "QQ=",
        "Q===",
        "=",
        "==",
        "====",
        "=QQ=",
        "Q=Q=",
        "QQ==Q",
        "QQ==QQ==",
        "QQ==\n",
        "QQ== ",
        " QQ==",
        "Q Q=",
        "QQ\n==",
        "-_==",
        "QUJD\x00",
        "é===",
        "QR==",
        "QUJ=",
        "Qf==",
        "QUK=",
        "QQ%3D%3D",
        "\u0660\u0660\u0660\u0660",
    ],
)
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(ValidationException, match="standard base64"):
        base64_field("plaintext", text)


@given(st.text(alphabet="QRg=+/-_ \n9", max_size=12))
def test_what_decodes_encodes_to_itself(text: str) -> None:
    try:
        data = base64_field("x", text)
    except ValidationException:
        return
    assert b64encode(data).decode() == text


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (HealthBody, world.health_body()),
        (MetadataBody, {"requestMetadata": {"kmsRequestId": "", "kmsOperation": "", "awsPrincipalArn": ""}}),
        (EncryptBody, ENCRYPT),
        (EncryptBody, world.encrypt_body(aad=b"a", ciphertextDataIntegrityValueAlgorithm="SHA_256")),
        (DecryptBody, world.decrypt_body(world.FOREIGN_ANSWER)),
        (DecryptBody, world.decrypt_body(world.FOREIGN_ANSWER, b"aad")),
        (
            EncryptBody,
            world.encrypt_body(
                requestMetadata={**world.REQUEST_METADATA, "awsSourceVpc": "v", "awsSourceVpce": "e"}
            ),
        ),
    ],
)
def test_what_kms_sends_takes_the_fast_way(
    kind: Any, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(raw: bytes) -> None:
        raise AssertionError("looked at twice")

    monkeypatch.setattr(bodies, "_refuse_duplicates", slow)
    assert decode_body(kind, world.dumped(body)).request_metadata is not None
