"""What botocore raises becomes our words, without secrets."""

from __future__ import annotations

import botocore.exceptions as raised
import pytest
from botocore.loaders import create_loader

from cloudkeys.providers.aws_errors import provider_error, translated
from cloudkeys.providers.base import ErrorCode, ProviderError
from cloudkeys.providers.connection_errors import _REASONS, cause_and_cure


def client_error(
    code: str, message: str = "", status: int = 400, operation: str = "CreateKey"
) -> raised.ClientError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return raised.ClientError(response, operation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "word", "permanent"),
    [
        ("ThrottlingException", 400, ErrorCode.THROTTLED, False),
        ("Throttling", 400, ErrorCode.THROTTLED, False),
        ("SomethingNew", 429, ErrorCode.THROTTLED, False),
        ("InvalidClientTokenId", 403, ErrorCode.INVALID_CREDENTIAL, True),
        ("UnrecognizedClientException", 400, ErrorCode.INVALID_CREDENTIAL, True),
        ("ExpiredTokenException", 400, ErrorCode.INVALID_CREDENTIAL, False),
        ("AccessDenied", 403, ErrorCode.ACCESS_DENIED, True),
        ("NoSuchEntity", 404, ErrorCode.NOT_FOUND, True),
        ("LimitExceeded", 409, ErrorCode.LIMIT, True),
        ("XksKeyAlreadyInUseException", 400, ErrorCode.EXTERNAL_KEY_IN_USE, True),
        ("XksProxyUriUnreachableException", 400, ErrorCode.XKS_REFUSED, False),
        ("CustomKeyStoreInvalidStateException", 400, ErrorCode.WRONG_STATE, False),
        ("KMSInternalException", 500, ErrorCode.PROVIDER_FAULT, False),
        ("SomethingNew", 503, ErrorCode.PROVIDER_FAULT, False),
        ("SomethingNew", 400, ErrorCode.INVALID_REQUEST, True),
        ("com.amazonaws.kms#NotFoundException", 400, ErrorCode.NOT_FOUND, True),
    ],
)
def test_codes(code: str, status: int, word: ErrorCode, permanent: bool) -> None:
    error = provider_error(client_error(code, "why", status))
    assert (error.code, error.permanent) == (word, permanent)
    assert error.cause
    assert error.provider_code == code.rsplit("#", 1)[-1]


def test_every_error_of_the_calls_that_we_make_is_known() -> None:
    """From botocore's own model: an error that KMS declares for our calls is never just "invalid request"."""
    model = create_loader().load_service_model("kms", "service-2")
    ours = (
        "CreateCustomKeyStore", "DescribeCustomKeyStores", "UpdateCustomKeyStore", "ConnectCustomKeyStore",
        "DisconnectCustomKeyStore", "DeleteCustomKeyStore", "CreateKey", "DescribeKey", "ListKeys", "CreateAlias",
        "DeleteAlias", "ListAliases", "EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion",
    )  # fmt: skip
    declared = {error["shape"] for name in ours for error in model["operations"][name].get("errors", [])}
    plain = {
        name for name in declared if provider_error(client_error(name)).code == ErrorCode.INVALID_REQUEST
    }
    # What is truly a wrong request, and what concerns CloudHSM key stores, which Keystead does not make.
    assert {name for name in plain if not name.startswith("CloudHsm")} == {
        "IncorrectTrustAnchorException",
        "InvalidAliasNameException",
        "InvalidArnException",
        "InvalidMarkerException",
        "MalformedPolicyDocumentException",
        "TagException",
        "UnsupportedOperationException",
        "XksProxyVpcEndpointServiceInvalidConfigurationException",
        "XksProxyVpcEndpointServiceNotFoundException",
    }


@pytest.mark.parametrize(
    "error",
    [
        raised.EndpointConnectionError(
            endpoint_url="https://kms.eu-west-1.amazonaws.com/?X-Amz-Signature=abc"
        ),
        raised.ConnectTimeoutError(endpoint_url="https://kms/?X-Amz-Signature=abc"),
        raised.ReadTimeoutError(endpoint_url="https://kms/?X-Amz-Signature=abc"),
        raised.ConnectionClosedError(endpoint_url="https://kms/?X-Amz-Signature=abc"),
        raised.SSLError(endpoint_url="https://kms/?X-Amz-Signature=abc", error="no"),
    ],
)
def test_networks_are_transient_and_show_no_url(error: Exception) -> None:
    with pytest.raises(ProviderError) as caught, translated("AWS"):
        raise error
    assert (caught.value.code, caught.value.permanent) == (ErrorCode.UNREACHABLE, False)
    assert "abc" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_the_sdk_refuses_itself_is_permanent() -> None:
    with pytest.raises(ProviderError) as caught, translated("AWS"):
        raise raised.ParamValidationError(report="RawSecretAccessKey: hunter2 is too short")
    assert caught.value.permanent
    assert "hunter2" not in str(caught.value)


def test_text_about_a_wrong_secret_is_not_passed_on() -> None:
    error = provider_error(
        client_error(
            "ValidationException", "Value 'hunter2' at 'rawSecretAccessKey'", operation="CreateCustomKeyStore"
        )
    )
    assert "hunter2" not in error.cause
    signature = provider_error(
        client_error("SignatureDoesNotMatch", "The Canonical String was 'POST hunter2'")
    )
    assert "hunter2" not in signature.cause


def test_aws_text_is_quoted_short_and_printable() -> None:
    error = provider_error(
        client_error("AccessDeniedException", "User: ada\n\x1b[31m is not authorized " + "x" * 999)
    )
    assert "User: ada" in error.cause
    assert error.cause.isprintable()
    assert len(error.cause) < 500


def test_each_connection_error_code_that_botocore_knows_has_cause_check_and_cure() -> None:
    model = create_loader().load_service_model("kms", "service-2")
    codes = model["shapes"]["ConnectionErrorCodeType"]["enum"]
    assert set(_REASONS) == set(codes)
    for code in codes:
        reason = cause_and_cure(code)
        assert reason.cause
        assert reason.check
        assert reason.cure
    assert "XKS_NEW" in cause_and_cure("XKS_NEW").cause
