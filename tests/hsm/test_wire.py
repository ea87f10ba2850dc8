import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm import base, wire

binary = st.binary(max_size=200)
numbers = st.integers(min_value=0, max_value=2**63)
kinds = st.sampled_from(["wrapping", "resident", "replicable", "health", "transfer"])
requests = st.one_of(
    st.builds(wire.Encrypt, numbers, binary, binary, binary, st.booleans(), st.floats(0, 1e9)),
    st.builds(wire.Decrypt, numbers, binary, binary, binary, binary, st.floats(0, 1e9)),
    st.builds(wire.Random, numbers, numbers),
    st.builds(wire.Generate, numbers, binary, st.text(max_size=40), kinds),
    st.builds(wire.Describe, numbers, binary),
    st.builds(wire.FindByLabel, numbers, st.text(max_size=40)),
    st.builds(wire.Identify, numbers, st.text(max_size=40), binary),
    st.builds(wire.Destroy, numbers, binary),
    st.builds(wire.Export, numbers, binary, binary),
    st.builds(wire.Import, numbers, binary, st.text(max_size=40), binary, binary, kinds),
    st.builds(wire.Harden, numbers, binary),
    st.builds(wire.Seal, numbers, binary, binary),
    st.builds(wire.Unseal, numbers, binary, binary),
    st.builds(wire.Probe, numbers),
    st.builds(wire.Status, numbers),
)
answers = st.one_of(
    st.builds(wire.Done, numbers, binary, binary, st.none() | st.dictionaries(st.text(), st.integers(0, 9))),
    st.builds(wire.Failed, numbers, st.text(max_size=20), st.text(max_size=50), numbers),
)


@given(st.lists(requests, max_size=8))
def test_requests_arrive_as_they_were_sent(messages):
    [payload] = wire.Frames().feed(wire.frame(messages))
    assert wire.read_requests(payload) == messages


@given(st.lists(answers, max_size=8))
def test_answers_arrive_as_they_were_sent(messages):
    [payload] = wire.Frames().feed(wire.frame(messages))
    assert wire.read_answers(payload) == messages


@given(st.lists(st.lists(requests, max_size=3), max_size=5), st.data())
def test_frames_are_found_wherever_the_stream_is_cut(batches, data):
    stream = b"".join(wire.frame(batch) for batch in batches)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames = wire.Frames()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += [wire.read_requests(payload) for payload in frames.feed(stream[start:end])]
    assert found == batches


@given(st.binary(max_size=300))
def test_strange_bytes_are_refused_and_nothing_else_happens(data):
    for read in (wire.read_requests, wire.read_answers, wire.read_config):
        with contextlib.suppress(wire.ProtocolError):
            assert read(data) is not None


def test_too_long_a_frame_ends_the_conversation():
    with pytest.raises(wire.ProtocolError, match="allowed"):
        list(wire.Frames().feed((wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big")))
    with pytest.raises(wire.ProtocolError, match="allowed"):
        wire.frame([wire.Encrypt(1, b"k", b"x" * wire.MAX_FRAME_BYTES, b"")])


def test_the_configuration_hides_its_pin():
    config = wire.HelperConfig(module="/lib/p.so", socket="/run/x.sock", token_label="t", pin=b"secret-pin")
    for shown in (repr(config), str(config), f"{config}", repr([config])):
        assert "secret-pin" not in shown
    [payload] = wire.Frames().feed(wire.config_frame(config))
    read = wire.read_config(payload)
    assert (read.pin, read.module, read.deadline_s) == (b"secret-pin", "/lib/p.so", config.deadline_s)


def test_a_broken_configuration_is_refused_without_quoting_the_pin():
    payload = msgspec.msgpack.encode(
        {"module": "/lib/p.so", "socket": "/s", "login": "secret-pin", "pin": b"secret-pin"}
    )
    with pytest.raises(wire.ProtocolError) as caught:
        wire.read_config(payload)
    assert "secret-pin" not in f"{caught.value} {caught.value!r}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        base.HsmUnavailable("gone"),
        base.HsmTimeout("late"),
        base.HsmLate("held up"),
        base.HsmBusy("full"),
        base.HsmAuthenticationFailed("refused"),
        base.KeyNotFound("no key"),
        base.KeyAmbiguous("two keys"),
        base.MechanismUnavailable("no GCM"),
        base.DataInvalid("altered"),
        base.HsmError("other"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_the_wire_as_themselves(error):
    error.code = 0x30
    [answer] = wire.read_answers(wire.frame([wire.failed(7, error)])[4:])
    back = wire.error_of(answer)
    assert type(back) is type(error)
    assert (str(back), back.permanent, back.code, answer.id) == (str(error), error.permanent, 0x30, 7)


def test_an_error_class_of_a_later_version_is_still_an_error():
    assert type(wire.error_of(wire.Failed(1, "HsmOnFire", "hot"))) is base.HsmError
