"""KEKs that an HSM wraps are opened beside everything else: once each, again when the HSM is back, nobody waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from hsm.base import DataInvalid, HsmUnavailable, KeyNotFound
from hsm.software import wrapping_key_id
from xks import agent_keks
from xks.agent_keks import Keks, WrappedKek

HSM_A, HSM_B = uuid4(), uuid4()


class Opener:
    """Opens a blob by its first byte; HSMs can be made to hang or to be gone."""

    def __init__(self) -> None:
        self.calls: list[UUID] = []
        self.gone: set[UUID] = set()
        self.hung: dict[UUID, threading.Event] = {}
        self.errors: dict[UUID, Exception] = {}

    def __call__(self, kek: WrappedKek) -> bytes:
        self.calls.append(kek.key_set_id)
        if kek.connection_id in self.hung:
            self.hung[kek.connection_id].wait(10)
        if kek.connection_id in self.gone:
            raise HsmUnavailable("gone")
        if kek.key_set_id in self.errors:
            raise self.errors[kek.key_set_id]
        return kek.blob[:1] * 32


def kek(number: int, connection: UUID = HSM_A, key_set: UUID | None = None) -> WrappedKek:
    return WrappedKek(key_set or uuid4(), connection, b"key", bytes([number]), b"place")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@pytest.fixture
def opener() -> Opener:
    return Opener()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_keks, "RETRY_S", (0.02, 0.05))


def test_one_call_for_each_key_set_and_none_when_asked_again(opener: Opener) -> None:
    keks = Keks(opener)
    wanted = [kek(number) for number in range(20)]
    for _ in range(3):
        found = keks.get(wanted)
        for number, asked in enumerate(wanted):
            wrapper = found[asked.key_set_id].wrapper
            assert wrapper is not None
            assert wrapper.key_id == wrapping_key_id(bytes([number]) * 32)
    assert len(opener.calls) == keks.calls == 20
    assert keks.missing == 0
    assert keks.take_late() == set()
    keks.stop()


def test_another_blob_is_opened_anew(opener: Opener) -> None:
    keks = Keks(opener)
    first = kek(1)
    keks.get([first])
    again = keks.get([kek(2, key_set=first.key_set_id)])
    wrapper = again[first.key_set_id].wrapper
    assert wrapper is not None
    assert wrapper.key_id == wrapping_key_id(b"\x02" * 32)
    keks.stop()


def test_an_hsm_that_hangs_holds_up_no_other(opener: Opener) -> None:
    opener.hung[HSM_A] = threading.Event()
    woken = threading.Event()
    keks = Keks(opener, wake=woken.set)
    hung, well = kek(1, HSM_A), kek(2, HSM_B)
    found = keks.get([hung, well], wait_s=0.2)
    assert found[hung.key_set_id].wrapper is None
    assert not found[hung.key_set_id].broken
    assert found[well.key_set_id].wrapper is not None
    # Who asks again is not held up at all: it has been waited for once.
    keks.get([hung, well], wait_s=3600)
    opener.hung[HSM_A].set()
    assert woken.wait(5)
    assert keks.take_late() == {hung.key_set_id}
    assert keks.take_late() == set()
    assert keks.get([hung])[hung.key_set_id].wrapper is not None
    keks.stop()


def test_an_hsm_that_is_gone_is_tried_again_by_itself(opener: Opener) -> None:
    opener.gone.add(HSM_A)
    keks = Keks(opener)
    wanted = [kek(1), kek(2), kek(3)]
    found = keks.get(wanted)
    assert all(each.wrapper is None and not each.broken for each in found.values())
    assert keks.missing == 3
    opener.gone.clear()
    until(lambda: keks.missing == 0)
    assert keks.take_late() == {each.key_set_id for each in wanted}
    keks.stop()


def test_one_that_cannot_be_opened_does_not_hold_up_its_neighbours(opener: Opener) -> None:
    lost, altered, well = kek(1), kek(2), kek(3)
    opener.errors[lost.key_set_id] = KeyNotFound("no such key")
    opener.errors[altered.key_set_id] = DataInvalid("altered")
    keks = Keks(opener)
    keks.get([lost, altered, well])
    until(lambda: keks.get([well])[well.key_set_id].wrapper is not None)
    until(lambda: bool(keks.get([altered])[altered.key_set_id].broken))
    assert not keks.get([lost])[lost.key_set_id].broken, "it may come back"
    until(lambda: opener.calls.count(lost.key_set_id) > 2)
    assert opener.calls.count(altered.key_set_id) == 1, "what is altered stays so"
    keks.stop()


def test_a_key_of_the_wrong_length_is_no_key(opener: Opener) -> None:
    short = WrappedKek(uuid4(), HSM_A, b"key", b"", b"place")
    keks = Keks(opener)
    assert keks.get([short])[short.key_set_id].broken
    keks.stop()


def test_some_are_opened_at_once_and_each_of_them_once() -> None:
    together = threading.Barrier(agent_keks.AT_ONCE)
    calls: list[UUID] = []

    def opener(kek: WrappedKek) -> bytes:
        calls.append(kek.key_set_id)
        together.wait(5)  # passes only when so many are asked for at the same time
        return kek.blob[:1] * 32

    keks = Keks(opener)
    wanted = [kek(number % 250) for number in range(5 * agent_keks.AT_ONCE)]
    found = keks.get(wanted, wait_s=10)
    assert all(found[each.key_set_id].wrapper is not None for each in wanted)
    assert sorted(calls) == sorted(each.key_set_id for each in wanted)
    keks.stop()


def test_while_an_hsm_does_not_answer_one_thread_asks_it(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_keks, "RETRY_S", (0.02,))
    under_way = most = 0
    lock = threading.Lock()
    gone = threading.Event()
    tried = threading.Event()

    def asked(kek: WrappedKek) -> bytes:
        nonlocal under_way, most
        with lock:
            under_way += 1
            if gone.is_set():
                most = max(most, under_way)
        try:
            return opener(kek)
        except HsmUnavailable:
            if len(opener.calls) > 30:
                tried.set()
            raise
        finally:
            with lock:
                under_way -= 1

    opener.gone.add(HSM_A)
    keks = Keks(asked)
    wanted = [kek(number) for number in range(20)]
    keks.get(wanted)
    until(lambda: len(opener.calls) > agent_keks.AT_ONCE)  # those that were asked for at first have ended
    gone.set()
    assert tried.wait(10)
    assert most == 1, "calls at once at an HSM that is known to be away"
    opener.gone.clear()
    until(lambda: keks.missing == 0)
    keks.stop()


def test_calls_that_fail_together_count_once(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else eight of them would make the next try wait as long as after eight tries."""
    monkeypatch.setattr(agent_keks, "RETRY_S", (0.02, 60.0))
    opener.gone.add(HSM_A)
    opener.hung[HSM_A] = threading.Event()
    keks = Keks(opener)
    wanted = [kek(number) for number in range(agent_keks.AT_ONCE)]
    keks.get(wanted, wait_s=0)
    until(lambda: len(opener.calls) == agent_keks.AT_ONCE)
    opener.gone.clear()
    opener.errors = {each.key_set_id: HsmUnavailable("gone") for each in wanted}
    opener.hung.pop(HSM_A).set()
    until(lambda: len(opener.calls) == agent_keks.AT_ONCE + 1)
    keks.stop()
