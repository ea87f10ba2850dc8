"""Names and identifiers by the rules of those who restrict them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudkeys import naming
from vault.errors import ValidationFailed

ENDPOINT = "https://xks.keystead.test"


@given(st.text(max_size=300))
def test_alias_names_are_what_aws_takes(name: str) -> None:
    aws_takes = bool(re.fullmatch(r"[a-zA-Z0-9/_-]{1,250}", name)) and not name.startswith("aws/")
    if aws_takes:
        assert naming.check_alias_name(name) == name
    else:
        with pytest.raises(ValidationFailed) as caught:
            naming.check_alias_name(name)
        assert caught.value.field == "name"


@given(st.text(max_size=140))
def test_path_prefixes_stay_within_the_specification(prefix: str) -> None:
    try:
        naming.check_path_prefix(prefix)
    except ValidationFailed:
        return
    path = prefix + "/kms/xks/v1"
    assert len(path) <= 128
    # AWS's own pattern of XksProxyUriPath.
    assert re.fullmatch(r"(/[a-zA-Z0-9/_-]+/kms/xks/v\d{1,2})|(/kms/xks/v\d{1,2})", path)


@pytest.mark.parametrize("prefix", ["", "/a", "/a/b_c-D", "/" + "x" * 116])
def test_good_path_prefixes(prefix: str) -> None:
    assert naming.check_path_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix", ["a", "/", "/a/", "//a", "/a b", "/ä", "/a.b", "/" + "x" * 117, "/a/kms/xks/v1", "/a\n"]
)
def test_bad_path_prefixes(prefix: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        naming.check_path_prefix(prefix)
    assert caught.value.field == "path_prefix"


def test_a_chosen_key_id_keeps_the_whole_uri_within_256() -> None:
    prefix = "/" + "p" * 100
    room = 256 - len(ENDPOINT) - len(prefix) - len("/kms/xks/v1/keys//metadata")
    assert naming.check_external_key_id("k" * room, prefix, ENDPOINT)
    with pytest.raises(ValidationFailed, match="257 characters"):
        naming.check_external_key_id("k" * (room + 1), prefix, ENDPOINT)


@pytest.mark.parametrize("value", ["", "a b", "a/b", "ä", "k" * 129, "a\n"])
def test_bad_key_ids(value: str) -> None:
    with pytest.raises(ValidationFailed):
        naming.check_external_key_id(value, "", ENDPOINT)


@pytest.mark.parametrize(
    "value",
    [
        "http://a.example",
        "https://a.example:443",
        "https://a.example/x",
        "https://",
        "a.example",
        "https://a_b.example",
    ],
)
def test_endpoints_have_neither_port_nor_path(value: str) -> None:
    with pytest.raises(ValidationFailed):
        naming.check_endpoint(value)


def test_regions_belong_to_their_partition() -> None:
    assert naming.check_region("eu-west-1", "aws") == "eu-west-1"
    assert naming.check_region("eu-west-1", "simulator") == "eu-west-1"
    assert naming.check_region("us-gov-west-1", "aws-us-gov") == "us-gov-west-1"
    for region, partition in [("eu-west-1", "aws-cn"), ("mars-1", "aws"), ("", "aws"), ("EU-WEST-1", "aws")]:
        with pytest.raises(ValidationFailed):
            naming.check_region(region, partition)


def test_principals_are_of_the_account_and_come_once() -> None:
    ada = "arn:aws:iam::111122223333:user/path/ada"
    role = "arn:aws:iam::111122223333:role/app-prod"
    assert naming.check_principals([ada, role, ada], "aws", "111122223333", field="users") == [ada, role]
    for bad in [
        "*",
        "arn:aws:iam::111122223333:root",
        ada.replace("1111", "2222"),
        ada.replace("arn:aws:", "arn:aws-cn:"),
        ada + "\n",
    ]:
        with pytest.raises(ValidationFailed) as caught:
            naming.check_principals([ada, bad], "aws", "111122223333", field="users")
        assert caught.value.field == "users[1]"


def test_new_credentials_have_the_form_of_the_specification() -> None:
    ids = {naming.new_xks_access_key_id() for _ in range(50)}
    secrets = {naming.new_xks_secret().reveal_text() for _ in range(50)}
    assert len(ids) == len(secrets) == 50
    assert all(re.fullmatch(r"[A-Z2-7]{20,30}", each) for each in ids)
    assert all(re.fullmatch(r"[A-Za-z0-9/+=]{43,64}", each) for each in secrets)


def test_tags_of_aws_and_of_ours_are_reserved() -> None:
    assert naming.check_tags({"team": "payments"}) == {"team": "payments"}
    for bad in [{"aws:x": "1"}, {"Keystead:operation": "1"}, {"": "x"}, {"k" * 129: "x"}, {"k": "v" * 257}]:
        with pytest.raises(ValidationFailed):
            naming.check_tags(bad)
    with pytest.raises(ValidationFailed):
        naming.check_tags({str(number): "" for number in range(51)})
