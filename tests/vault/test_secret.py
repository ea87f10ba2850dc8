import copy
import json
import logging
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.secret import MASK, Secret

VALUE = "correct-horse-battery"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_takes_bytes_of_every_kind(kind):
    assert Secret(kind(b"abc")).reveal() == b"abc"


def test_takes_text_and_itself():
    assert Secret("schlüssel").reveal_text() == "schlüssel"
    assert Secret(Secret(b"abc")).reveal() == b"abc"


@pytest.mark.parametrize("value", [None, 7, ["a"], object()])
def test_takes_nothing_else(value):
    with pytest.raises(TypeError, match="bytes or text"):
        Secret(value)


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        "{:>40}".format,
        lambda s: f"{s}",
        "%s".__mod__,
        "%r".__mod__,
        lambda s: repr([s]),
    ],
)
def test_every_text_form_is_masked(show):
    shown = show(Secret(VALUE))
    assert VALUE not in shown
    assert MASK in shown


def test_logs_and_exceptions_are_masked(caplog):
    secret = Secret(VALUE)
    try:
        raise ValueError("failed with", secret)
    except ValueError:
        logging.getLogger("test").exception("bad %s", secret)
    assert VALUE not in caplog.text
    assert MASK in caplog.text


@pytest.mark.parametrize(
    "way",
    [
        pickle.dumps,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        bytes,
        list,
        vars,
        hash,
        *[lambda s, p=protocol: pickle.dumps(s, p) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)],
    ],
)
def test_leaves_by_reveal_only(way):
    with pytest.raises(TypeError):
        way(Secret(VALUE))


def test_copies_stay_secret():
    secret = Secret(VALUE)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": secret})["a"] is secret


@pytest.mark.parametrize("change", [lambda s: setattr(s, "_value", b""), lambda s: delattr(s, "_value")])
def test_does_not_change(change):
    with pytest.raises(AttributeError, match="does not change"):
        change(Secret(VALUE))


def test_equality_is_between_secrets_only():
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != b"a"
    assert Secret("a") != "a"


def test_an_empty_secret_is_false():
    assert not Secret("")
    assert Secret("x")


def test_bytes_that_are_no_text_stay_out_of_the_error():
    with pytest.raises(ValueError, match="not text") as caught:
        Secret(b"key\xff\xfe").reveal_text()
    assert caught.value.__cause__ is None
    assert "key" not in str(caught.value)


@given(st.binary())
def test_gives_back_what_it_got(value):
    assert Secret(value).reveal() == value
