"""SigV4 against AWS's examples, botocore's signer, and everything that must not pass."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from tests.xks import world
from xks import keyring, sigv4
from xks.errors import AuthenticationFailedException
from xks.keyring import MAX_SIGNING_KEYS, Credential

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "sigv4.json").read_text())
NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
HOST = "xks.keystead.test"
PATH = world.path("encrypt")
BODY = b'{"a": 1}'


class HeaderTable:
    """Headers as granian gives them."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self.pairs if name == key]


def credential() -> Credential:
    return Credential(world.CREDENTIAL, "store-1")


def verify(
    headers: dict[str, str] | list[tuple[str, str]],
    *,
    live: Credential | None = None,
    authority: str | None = None,
    host: str | None = HOST,
    now: datetime = NOW,
    method: str = "POST",
    path: str = PATH,
    body: bytes = BODY,
) -> sigv4.Verified:
    pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
    if host is not None:
        pairs.append(("host", host))
    live = live or credential()
    credentials = keyring.Credentials()
    credentials[live.access_key_id] = live
    return verify_with(credentials, pairs, authority=authority, now=now, method=method, path=path, body=body)


def verify_with(
    credentials: keyring.Credentials,
    pairs: list[tuple[str, str]],
    *,
    authority: str | None = None,
    now: datetime = NOW,
    method: str = "POST",
    path: str = PATH,
    body: bytes = BODY,
) -> sigv4.Verified:
    return sigv4.verify(
        credentials,
        method=method,
        path=path,
        headers=HeaderTable(pairs),
        authority=authority,
        body=body,
        now=now.timestamp(),
    )


def signed(**changes: object) -> dict[str, str]:
    return world.sign(PATH, BODY, **{"at": NOW, "host": HOST, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_published_signature(vector: dict[str, object]) -> None:
    headers = HeaderTable(
        [("x-amz-date", VECTORS["amz_date"]), *((name, value) for name, value in vector["headers"])]  # type: ignore[attr-defined]
    )
    names = sigv4.header_names(str(vector["signed_headers"]))
    canonical = sigv4.canonical_request(
        str(vector["method"]),
        str(vector["path"]),
        names,
        headers,
        VECTORS["host"],
        str(vector["body"]).encode(),
    )
    date = VECTORS["amz_date"][:8]
    scope = f"{date}/{VECTORS['region']}/{VECTORS['service']}/aws4_request"
    to_sign = sigv4.string_to_sign(VECTORS["amz_date"], scope, canonical)
    key = sigv4.derive_signing_key(VECTORS["secret"].encode(), date, VECTORS["region"], VECTORS["service"])
    assert sigv4.hmac.digest(key, to_sign, "sha256").hex() == vector["signature"]


def test_published_signing_key() -> None:
    given_key = VECTORS["signing_key"]
    key = sigv4.derive_signing_key(
        given_key["secret"].encode(), given_key["date"], given_key["region"], given_key["service"]
    )
    assert key.hex() == given_key["key"]


def test_what_botocore_signs_is_accepted() -> None:
    request = AWSRequest(
        method="POST", url=f"https://{HOST}{PATH}", data=BODY, headers={"Content-Type": "application/json"}
    )
    secret = world.SECRET.decode()
    SigV4Auth(Credentials(world.CREDENTIAL.access_key_id, secret), "kms-xks-proxy", "eu-west-1").add_auth(
        request
    )
    pairs = [(name.lower(), value) for name, value in request.headers.items()]
    assert verify(pairs, now=datetime.now(UTC)).region == "eu-west-1"


def test_what_kms_and_curl_sign_is_accepted() -> None:
    assert verify(signed()).credential.access_key_id == world.CREDENTIAL.access_key_id
    curl = signed(host="localhost:8443", signed={"content-type": "application/json"})
    assert verify(curl, host="localhost:8443").region == "us-east-1"


@pytest.mark.parametrize("comma", [",", ", ", " , ", ",   "])
def test_commas_with_and_without_spaces(comma: str) -> None:
    assert verify(signed(comma=comma)).region == "us-east-1"


def test_values_are_trimmed_and_folded_before_they_are_signed() -> None:
    headers = signed(signed={"x-note": "a b c"})
    assert verify({**headers, "x-note": "  a  b   c "}).region == "us-east-1"
    with pytest.raises(AuthenticationFailedException):
        verify({**headers, "x-note": "ab c"})


def test_repeated_headers_are_joined_in_order() -> None:
    headers = signed(signed={"x-note": "one,two"})
    del headers["x-note"]
    pairs = [*headers.items(), ("x-note", "one"), ("x-note", " two ")]
    assert verify(pairs).region == "us-east-1"
    with pytest.raises(AuthenticationFailedException):
        verify([*headers.items(), ("x-note", "two"), ("x-note", "one")])


def test_authority_stands_for_host_on_http2() -> None:
    assert verify(signed(), host=None, authority=HOST).region == "us-east-1"
    with pytest.raises(AuthenticationFailedException):
        verify(signed(), host=HOST, authority="other.test")


def test_authority_may_be_named_in_signed_headers() -> None:
    amz_date = NOW.strftime("%Y%m%dT%H%M%SZ")
    names = (":authority", "x-amz-date")
    table = HeaderTable([("x-amz-date", amz_date)])
    scope = f"{amz_date[:8]}/us-east-1/kms-xks-proxy/aws4_request"
    canonical = sigv4.canonical_request("POST", PATH, names, table, HOST, BODY)
    assert f"\n:authority:{HOST}\nx-amz-date:{amz_date}\n\n:authority;x-amz-date\n" in canonical
    key = sigv4.derive_signing_key(world.SECRET, amz_date[:8], "us-east-1")
    signature = sigv4.hmac.digest(key, sigv4.string_to_sign(amz_date, scope, canonical), "sha256").hex()
    headers = {
        "x-amz-date": amz_date,
        "authorization": f"AWS4-HMAC-SHA256 Credential={world.CREDENTIAL.access_key_id}/{scope}, "
        f"SignedHeaders=:authority;x-amz-date, Signature={signature}",
    }
    assert verify(headers, host=None, authority=HOST).region == "us-east-1"


def test_every_region_is_accepted() -> None:
    for region in ("us-gov-west-1", "a", "x" * 32):
        assert verify(signed(region=region)).region == region


@pytest.mark.parametrize("seconds", [-300, -1, 0, 1, 300])
def test_clock_skew_within_five_minutes(seconds: int) -> None:
    assert verify(signed(), now=NOW + timedelta(seconds=seconds)).region == "us-east-1"


@pytest.mark.parametrize("seconds", [-301, 301, -86400, 86400])
def test_clock_skew_beyond_five_minutes(seconds: int) -> None:
    with pytest.raises(AuthenticationFailedException, match="5 minutes"):
        verify(signed(), now=NOW + timedelta(seconds=seconds))


def _authorization(change: Callable[[str], str]) -> dict[str, str]:
    headers = signed()
    return {**headers, "authorization": change(headers["authorization"])}


def _replace(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


AKID = world.CREDENTIAL.access_key_id
MALFORMED: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "scheme only": lambda text: "AWS4-HMAC-SHA256",
    "another scheme": _replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
    "scheme in lower case": _replace("AWS4-HMAC-SHA256", "aws4-hmac-sha256"),
    "bearer": lambda text: "Bearer abc",
    "no space after the scheme": _replace("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256"),
    "comma after the scheme": _replace("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256, "),
    "space in front": lambda text: " x" + text,
    "no credential": _replace("Credential=", "Kredential="),
    "access key id empty": _replace(AKID, ""),
    "access key id short": _replace(AKID, AKID[:19]),
    "access key id long": _replace(AKID, AKID + "AAA"),
    "access key id in lower case": _replace(AKID, AKID.lower()),
    "access key id with other characters": _replace(AKID, "Invalid" + AKID[:20]),
    "access key id with digits not in base32": _replace(AKID, "0189" + AKID[4:]),
    "access key id unknown": _replace(AKID, AKID[::-1]),
    "date short": _replace("/20260304/", "/2026034/"),
    "date of another day": _replace("/20260304/", "/20260305/"),
    "date of Arabic digits": _replace("/20260304/", "/٢٠٢٦٠٣٠٤/"),
    "region empty": _replace("us-east-1", ""),
    "region too long": _replace("us-east-1", "r" * 33),
    "region in upper case": _replace("us-east-1", "US-EAST-1"),
    "region with a slash": _replace("us-east-1", "us/east"),
    "another region": _replace("us-east-1", "us-east-2"),
    "another service": _replace("kms-xks-proxy", "kms"),
    "another ending": _replace("aws4_request", "aws4_reply"),
    "scope with a part more": _replace("/aws4_request", "/aws4_request/x"),
    "no signed headers": _replace("SignedHeaders=host;x-amz-date", "SignedHeaders="),
    "host not signed": _replace("host;x-amz-date", "x-amz-date"),
    "x-amz-date not signed": _replace("host;x-amz-date", "host"),
    "signed headers unsorted": _replace("host;x-amz-date", "x-amz-date;host"),
    "signed header twice": _replace("host;x-amz-date", "host;host;x-amz-date"),
    "signed headers in upper case": _replace("host;x-amz-date", "Host;X-Amz-Date"),
    "signed header empty": _replace("host;x-amz-date", "host;;x-amz-date"),
    "signed header missing": _replace("host;x-amz-date", "host;x-absent;x-amz-date"),
    "too many signed headers": _replace(
        "host;x-amz-date", ";".join(sorted(["host", "x-amz-date", *(f"h{n:03}" for n in range(64))]))
    ),
    "no signature": lambda text: text.partition(", Signature")[0],
    "signature empty": lambda text: text.partition("Signature=")[0] + "Signature=",
    "signature short": lambda text: text[:-1],
    "signature long": lambda text: text + "0",
    "signature in upper case": lambda text: text[:-64] + text[-64:].upper(),
    "signature not hexadecimal": lambda text: text[:-1] + "g",
    "signature wrong": lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
    "signature of zeros": lambda text: text[:-64] + "0" * 64,
    "parts in another order": lambda text: (
        "AWS4-HMAC-SHA256 " + ", ".join(reversed(text.removeprefix("AWS4-HMAC-SHA256 ").split(", ")))
    ),
    "a part twice": lambda text: text + ", Signature=" + text[-64:],
    "semicolons for commas": lambda text: text.replace(", ", "; "),
    "line feed at the end": lambda text: text + "\n",
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_or_wrong_authorization(change: Callable[[str], str]) -> None:
    with pytest.raises(AuthenticationFailedException):
        verify(_authorization(change))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "20260304",
        "20260304T120000",
        "2026-03-04T12:00:00Z",
        "20260304t120000z",
        "20261304T120000Z",
        "20260230T120000Z",
        "20260304T250000Z",
        "20260304T120060Z",
        "00000304T120000Z",
        "20260304T120000Z\n0",
        "\u0662\u06600260304T120000Z",
    ],
)
def test_malformed_date(value: str) -> None:
    with pytest.raises(AuthenticationFailedException):
        verify({**signed(), "x-amz-date": value})


@pytest.mark.parametrize("name", ["authorization", "x-amz-date"])
def test_header_missing_or_repeated(name: str) -> None:
    headers = signed()
    with pytest.raises(AuthenticationFailedException, match="exactly one"):
        verify([(key, value) for key, value in headers.items() if key != name])
    with pytest.raises(AuthenticationFailedException, match="exactly one"):
        verify([*headers.items(), (name, headers[name])])


def test_host_missing_or_repeated() -> None:
    with pytest.raises(AuthenticationFailedException, match="exactly one host"):
        verify(signed(), host=None)
    with pytest.raises(AuthenticationFailedException, match="exactly one host"):
        verify([*signed().items(), ("host", "a")])


@pytest.mark.parametrize(
    "change",
    [
        {"body": BODY + b" "},
        {"body": b""},
        {"path": world.path("decrypt")},
        {"method": "PUT"},
        {"host": "a.test"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_signature_covers(change: dict[str, object]) -> None:
    with pytest.raises(AuthenticationFailedException):
        verify(signed(), **change)  # type: ignore[arg-type]


def test_a_signature_with_another_secret_fails() -> None:
    other = world.CREDENTIAL.__class__(world.CREDENTIAL.access_key_id, b"x" * 43)
    with pytest.raises(AuthenticationFailedException):
        verify(signed(credential=other))


def test_unknown_credential_and_wrong_signature_give_one_answer() -> None:
    messages = set()
    for change in (_replace(AKID, AKID[::-1]), lambda text: text[:-64] + "0" * 64):
        with pytest.raises(AuthenticationFailedException) as caught:
            verify(_authorization(change))
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_signing_key_is_kept_only_after_a_valid_signature() -> None:
    live = credential()
    with pytest.raises(AuthenticationFailedException):
        verify(_authorization(lambda text: text[:-64] + "0" * 64), live=live)
    assert live.signing_keys == {}
    verify(signed(), live=live)
    assert list(live.signing_keys) == [("20260304", "us-east-1")]


def test_kept_signing_key_is_used_and_still_verifies() -> None:
    live = credential()
    verify(signed(), live=live)
    kept = dict(live.signing_keys)
    verify(signed(), live=live)
    assert live.signing_keys == kept
    with pytest.raises(AuthenticationFailedException):
        verify(_authorization(lambda text: text[:-64] + "0" * 64), live=live)


def test_no_more_than_64_signing_keys_are_kept() -> None:
    live = credential()
    for number in range(MAX_SIGNING_KEYS + 3):
        verify(signed(region=f"region-{number}"), live=live)
    assert len(live.signing_keys) == MAX_SIGNING_KEYS
    assert ("20260304", "region-2") not in live.signing_keys
    assert ("20260304", f"region-{MAX_SIGNING_KEYS + 2}") in live.signing_keys


@given(st.text(max_size=300))
def test_any_text_as_authorization_is_refused_cleanly(text: str) -> None:
    with pytest.raises(AuthenticationFailedException):
        verify({**signed(), "authorization": text})


@given(st.text(max_size=40))
def test_any_text_as_date_is_refused_cleanly(text: str) -> None:
    with pytest.raises(AuthenticationFailedException):
        verify({**signed(), "x-amz-date": text})


@given(st.binary(max_size=2000), st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True))
def test_every_body_and_region_round_trips(body: bytes, region: str) -> None:
    headers = world.sign(PATH, body, at=NOW, host=HOST, region=region)
    assert verify(headers, body=body).region == region


# --- the short way for texts that have proved right


def pairs_of(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [*headers.items(), ("host", HOST)]


def table() -> keyring.Credentials:
    made = keyring.Credentials()
    live = credential()
    made[live.access_key_id] = live
    return made


def test_only_a_valid_signature_is_remembered() -> None:
    live = table()
    wrong = signed()
    wrong["authorization"] = wrong["authorization"][:-64] + "0" * 64
    with pytest.raises(AuthenticationFailedException):
        verify_with(live, pairs_of(wrong))
    assert not live.proven
    verify_with(live, pairs_of(signed()))
    assert len(live.proven) == 1


@pytest.mark.parametrize("harm", ["signature", "body", "path", "date", "short", "umlaut", "capitals", "host"])
def test_a_remembered_text_proves_nothing_by_itself(harm: str) -> None:
    live = table()
    headers = signed()
    verified = verify_with(live, pairs_of(headers))
    assert verify_with(live, pairs_of(headers)) == verified  # the short way, and the same answer
    body, path, now, pairs = BODY, PATH, NOW, pairs_of(headers)
    text = headers["authorization"]
    match harm:
        case "signature":
            pairs[1] = ("authorization", text[:-1] + ("0" if text[-1] != "0" else "1"))
        case "short":
            pairs[1] = ("authorization", text[:-1])
        case "umlaut":
            pairs[1] = ("authorization", text[:-1] + "\xe4")
        case "capitals":
            pairs[1] = ("authorization", text[:-64] + text[-64:].upper())
        case "body":
            body = BODY + b" "
        case "path":
            path = world.path("decrypt")
        case "date":
            now = NOW + timedelta(seconds=301)
        case "host":
            pairs[-1] = ("host", "elsewhere")
    assert pairs[1][0] == "authorization"
    assert live.proven
    with pytest.raises(AuthenticationFailedException):
        verify_with(live, pairs, body=body, path=path, now=now)


def test_remembered_texts_are_bounded_and_the_oldest_goes() -> None:
    live = table()
    for number in range(MAX_SIGNING_KEYS + 5):
        verify_with(live, pairs_of(signed(region=f"region-{number}")))
    assert len(live.proven) == MAX_SIGNING_KEYS
    assert "region-0/" not in "".join(live.proven)
    assert f"region-{MAX_SIGNING_KEYS + 4}/" in "".join(live.proven)


@given(st.binary(max_size=300), st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=32))
def test_both_ways_agree_with_the_other_implementation(body: bytes, region: str) -> None:
    live = table()
    pairs = pairs_of(world.sign(PATH, body, at=NOW, host=HOST, region=region))
    assert verify_with(live, pairs, body=body).region == region
    assert verify_with(live, pairs, body=body).region == region
