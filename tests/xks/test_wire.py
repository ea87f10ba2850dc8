"""Frames between agent and workers."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xks import world
from xks import wire

WORKER_MESSAGES = [
    wire.Hello(12, 3.5, "boot", 7, "0.1.0"),
    wire.Applied(12, 7),
    wire.Goodbye(12),
]
AGENT_MESSAGES = [*world.full_load(), world.lease(), wire.Delta(3, False, True, removed_keys=["a"])]


def reader(data: bytes) -> asyncio.StreamReader:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    return stream


@pytest.mark.parametrize("message", AGENT_MESSAGES, ids=lambda m: type(m).__name__)
async def test_agent_message_round_trip(message: wire.AgentMessage) -> None:
    assert await wire.read_agent_message(reader(wire.encode_frame(message))) == message


@pytest.mark.parametrize("message", WORKER_MESSAGES, ids=lambda m: type(m).__name__)
async def test_worker_message_round_trip(message: wire.WorkerMessage) -> None:
    assert await wire.read_worker_message(reader(wire.encode_frame(message))) == message


async def test_frames_follow_each_other() -> None:
    stream = reader(b"".join(map(wire.encode_frame, AGENT_MESSAGES)))
    assert [await wire.read_agent_message(stream) for _ in AGENT_MESSAGES] == AGENT_MESSAGES
    with pytest.raises(asyncio.IncompleteReadError):
        await wire.read_agent_message(stream)


async def test_a_frame_too_long_is_refused_unread() -> None:
    with pytest.raises(wire.FrameError, match="over the limit"):
        await wire.read_agent_message(reader(b"\xff\xff\xff\xff"))
    with pytest.raises(wire.FrameError, match="over the limit"):
        wire.encode_frame(wire.Hello(1, 1.0, "x" * wire.MAX_FRAME_BYTES, 0, ""))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgspec.msgpack.encode({"type": "nonsense"}),
        msgspec.msgpack.encode({"type": "applied"}),
        msgspec.msgpack.encode({"type": "delta", "generation": "s3cret"}),
        wire.encode_frame(WORKER_MESSAGES[0])[4:],
    ],
)
async def test_what_is_no_message_of_an_agent_is_refused(body: bytes) -> None:
    with pytest.raises(wire.FrameError) as caught:
        await wire.read_agent_message(reader(len(body).to_bytes(4, "big") + body))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_worker_cannot_send_what_only_agents_send() -> None:
    with pytest.raises(wire.FrameError):
        await wire.read_worker_message(reader(wire.encode_frame(world.lease())))


@given(st.binary(max_size=200))
async def test_any_bytes_are_refused_cleanly(body: bytes) -> None:
    with pytest.raises((wire.FrameError, asyncio.IncompleteReadError)):
        await wire.read_agent_message(reader(body))


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 300])
def test_slices(count: int) -> None:
    keys = [world.key_record(f"key-{number}") for number in range(count)]
    slices = list(wire.slice_delta(4, full=True, stores=world.STORES[:1], keys=keys, removed_keys=["x"]))
    assert [item.final for item in slices] == [False] * (len(slices) - 1) + [True]
    assert all(item.generation == 4 and item.full for item in slices)
    assert [key for item in slices for key in item.keys] == keys
    assert [key for item in slices for key in item.removed_keys] == ["x"]
    assert slices[0].stores == world.STORES[:1]
    assert all(
        len(item.keys) + len(item.stores) + len(item.removed_keys) <= wire.MAX_SLICE_RECORDS
        for item in slices
    )


def test_full_slice_is_small_enough_for_a_frame() -> None:
    versions = [wire.VersionRecord(number, bytes(32)) for number in range(1, 400)]
    keys = [
        world.key_record("k" * 128, id=str(number), versions=versions)
        for number in range(wire.MAX_SLICE_RECORDS)
    ]
    (item,) = wire.slice_delta(1, full=True, keys=keys)
    assert len(wire.encode_frame(item)) < wire.MAX_FRAME_BYTES


def test_reprs_show_no_secret() -> None:
    text = repr(world.full_load()) + repr(world.key_record("foo"))
    assert world.SECRET.decode() not in text
    assert repr(world.key_record("foo").versions[0].material)[2:-1] not in text


def test_boot_clock_runs_on() -> None:
    first = wire.boot_clock()
    assert wire.boot_clock() >= first > 0


def test_long_rules_do_not_make_frames_too_long() -> None:
    values = tuple(f"arn:aws:iam::111122223333:user/{'x' * 300}{number}" for number in range(90))
    rules = wire.RuleSetRecord(
        "r", 1, (wire.RuleRecord("r", "DENY", (wire.ConditionRecord("principal", values),)),)
    )
    keys = [world.key_record(f"key-{number}", rules=rules, shadow_rules=rules) for number in range(300)]
    slices = list(wire.slice_delta(1, full=False, keys=keys))
    assert [key.id for delta in slices for key in delta.keys] == [key.id for key in keys]
    assert [delta.final for delta in slices] == [False] * (len(slices) - 1) + [True]
    assert max(len(wire.encode_frame(delta)) for delta in slices) < wire.MAX_FRAME_BYTES // 8
