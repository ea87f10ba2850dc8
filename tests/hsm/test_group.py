"""Failover, breakers and routing, on members that do as they are told and a clock that is moved by hand."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm import wire
from hsm.base import (
    DataInvalid,
    HelperGone,
    HsmAuthenticationFailed,
    HsmBusy,
    HsmError,
    HsmLate,
    HsmTimeout,
    HsmUnavailable,
    KeyAmbiguous,
    KeyNotFound,
    MechanismUnavailable,
    MemberUntrue,
    ResidentCiphertext,
)
from hsm.breaker import ALONE_WAIT_S, FAILURES, FIRST_WAIT_S
from hsm.group import LACKING_S, AsyncGroup, SyncGroup

KEY = bytes(range(16))
OTHER_KEY = bytes(range(16, 32))
BUDGET_S = 0.12


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A member: answers at once, or raises ``fault``; a timeout takes all the time it was given."""

    def __init__(self, member_id: str, clock: Clock) -> None:
        self.member_id = member_id
        self.clock = clock
        self.fault: HsmError | None = None
        self.takes = 0.0
        self.given: list[float] = []
        self.closed = False

    def answer(self, timeout_s: float) -> None:
        self.given.append(timeout_s)
        if isinstance(self.fault, HsmTimeout):
            self.clock.now += timeout_s
        elif self.takes > timeout_s:
            self.clock.now += timeout_s
            raise HsmTimeout("late")
        else:
            self.clock.now += self.takes
        if self.fault is not None:
            raise self.fault


class SyncFake(Fake):
    def encrypt(self, key, data, aad, *, verify, timeout_s):
        self.answer(timeout_s)
        return ResidentCiphertext(b"n" * 12, self.member_id.encode())

    def decrypt(self, key, nonce, data, aad, *, timeout_s):
        self.answer(timeout_s)
        return self.member_id.encode()

    def call(self, request, *, timeout_s):
        self.answer(timeout_s)
        return wire.Done(request.id, data=self.member_id.encode())

    def close(self):
        self.closed = True


class AsyncFake(Fake):
    async def encrypt(self, key, data, aad, *, verify, timeout_s):
        self.answer(timeout_s)
        return ResidentCiphertext(b"n" * 12, self.member_id.encode())

    async def decrypt(self, key, nonce, data, aad, *, timeout_s):
        self.answer(timeout_s)
        return self.member_id.encode()

    async def call(self, request, *, timeout_s):
        self.answer(timeout_s)
        return wire.Done(request.id, data=self.member_id.encode())

    async def close(self):
        self.closed = True


class World:
    """A group of either kind, used in the same words."""

    def __init__(self, kind: str, names: str = "ab", routing: str = "preferred") -> None:
        self.kind = kind
        self.clock = Clock()
        fake = SyncFake if kind == "sync" else AsyncFake
        self.members = {name: fake(name, self.clock) for name in names}
        group = SyncGroup if kind == "sync" else AsyncGroup
        self.group = group(list(self.members.values()), routing=routing, clock=self.clock)

    def __getitem__(self, name: str) -> Fake:
        return self.members[name]

    def _do(self, result):
        if self.kind == "sync":
            return result()
        return asyncio.run(result())

    def encrypt(self, key: bytes = KEY, group=None, budget_s: float = BUDGET_S) -> str:
        """Return the name of the member that answered."""
        deadline = self.clock.now + budget_s
        group = group or self.group
        return self._do(lambda: group.encrypt(key, b"x", b"", deadline=deadline)).ciphertext.decode()

    def decrypt(self, key: bytes = KEY) -> str:
        deadline = self.clock.now + BUDGET_S
        return self._do(lambda: self.group.decrypt(key, b"n" * 12, b"x", b"", deadline=deadline)).decode()

    def call(self) -> str:
        deadline = self.clock.now + BUDGET_S
        return self._do(lambda: self.group.call(wire.Random(0, 8), deadline=deadline)).data.decode()

    def close(self) -> None:
        self._do(lambda: self.group.close())

    def states(self) -> dict[str, str]:
        return {state.member_id: state.breaker for state in self.group.states()}

    def state(self, name: str):
        [state] = [state for state in self.group.states() if state.member_id == name]
        return state


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
def world(kind):
    return World(kind)


# --- preference and time ---------------------------------------------------------------------------------------


def test_the_preferred_member_answers(world):
    assert [world.encrypt(), world.decrypt(), world.call()] == ["a", "a", "a"]
    assert world["b"].given == []


def test_an_attempt_gets_a_third_and_the_last_one_what_is_left(world):
    world["a"].fault = HsmTimeout("hung")
    assert world.encrypt() == "b"
    assert world["a"].given == [pytest.approx(BUDGET_S / 3)]
    assert world["b"].given == [pytest.approx(BUDGET_S * 2 / 3)]


def test_two_hung_members_leave_time_for_a_third(kind):
    world = World(kind, "abc")
    world["a"].fault = world["b"].fault = HsmTimeout("hung")
    world["c"].takes = BUDGET_S / 4
    assert world.encrypt() == "c"


def test_a_member_alone_has_all_the_time(kind):
    world = World(kind, "a")
    world["a"].takes = BUDGET_S * 0.9
    assert world.encrypt() == "a"


def test_all_hung_ends_within_the_budget(kind):
    world = World(kind, "abc")
    for name in "abc":
        world[name].fault = HsmTimeout("hung")
    began = world.clock.now
    with pytest.raises(HsmTimeout):
        world.encrypt()
    assert world.clock.now - began <= BUDGET_S + 1e-9


def alive(message="slow"):
    """A time-out of a member that answered others meanwhile."""
    error = HsmTimeout(message)
    error.alive = True
    return error


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_process_that_was_held_up_blames_no_member(kind, names):
    world = World(kind, names)
    for each in names:
        world[each].fault = HsmLate("held up")
    for _ in range(FAILURES * 3):
        with pytest.raises(HsmTimeout):
            world.encrypt()
    assert {each.breaker for each in world.group.states()} == {"closed"}
    world["a"].fault = None
    assert world.encrypt() == "a"


def test_a_member_alone_that_answers_others_is_not_left_alone(kind):
    """Too many requests make some answers late; a breaker that opens then makes all of them fail."""
    world = World(kind, "a")
    world["a"].fault = alive()
    for _ in range(FAILURES * 3):
        with pytest.raises(HsmTimeout):
            world.encrypt()
    assert world.group.states()[0].breaker == "closed"
    world["a"].fault = None
    assert world.encrypt() == "a"


def test_a_member_that_is_too_slow_is_left_alone_where_another_is_well(world):
    world["a"].fault = alive()
    for _ in range(FAILURES):
        assert world.encrypt() == "b"
    assert [each.breaker for each in world.group.states()] == ["open", "closed"]
    world["b"].fault = alive()  # now it stands alone
    for _ in range(FAILURES):
        with pytest.raises(HsmTimeout):
            world.encrypt()
    assert world.group.states()[1].breaker == "closed"


def test_a_member_alone_that_answers_nobody_is_left_alone(kind):
    world = World(kind, "a")
    world["a"].fault = HsmTimeout("hung")
    for _ in range(FAILURES):
        with pytest.raises(HsmTimeout):
            world.encrypt()
    assert world.group.states()[0].breaker == "open"


def test_a_request_whose_time_is_over_asks_nobody(world):
    with pytest.raises(HsmTimeout):
        world.encrypt(budget_s=0)
    assert world["a"].given == world["b"].given == []


@pytest.mark.parametrize(
    "error", [HsmUnavailable("down"), HsmTimeout("hung"), HelperGone("ended"), MemberUntrue("wrong"),
              HsmBusy("full"), KeyNotFound("no key"), HsmAuthenticationFailed("PIN"), HsmError("0x5")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_of_one_member_are_nobodys_errors(world, error):
    world["a"].fault = error
    assert [world.encrypt(), world.decrypt(), world.call()] == ["b", "b", "b"]


@pytest.mark.parametrize(
    "error", [DataInvalid("altered"), KeyAmbiguous("two"), MechanismUnavailable("no GCM")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_answers_that_all_members_would_give_are_not_asked_for_twice(world, error):
    world["a"].fault = error
    for _ in range(FAILURES + 1):
        with pytest.raises(type(error)):
            world.decrypt()
    assert world["b"].given == []
    assert world.states()["a"] == "closed"


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (HsmUnavailable("x"), KeyNotFound("x"), HsmUnavailable),
        (KeyNotFound("x"), HsmTimeout("x"), HsmTimeout),
        (KeyNotFound("x"), KeyNotFound("x"), KeyNotFound),
        (HsmBusy("x"), HsmUnavailable("x"), HsmBusy),
        (HsmError("x"), KeyNotFound("x"), HsmError),
        (HsmAuthenticationFailed("x"), HsmUnavailable("x"), HsmUnavailable),
    ],
)
def test_of_several_errors_the_one_that_may_pass_is_told(world, a, b, told):
    world["a"].fault, world["b"].fault = a, b
    with pytest.raises(HsmError) as caught:
        world.encrypt()
    assert type(caught.value) is told


def test_a_key_missing_here_and_a_member_away_there_is_no_missing_key(world):
    world["b"].fault = HelperGone("ended")
    world["a"].fault = HelperGone("ended")
    with pytest.raises(HelperGone):
        world.encrypt()
    world["a"].fault = KeyNotFound("no key")
    world.clock.now += FIRST_WAIT_S
    world["b"].fault = None
    # a is probed first and lacks the key; b, due as well, is tried in the same request.
    assert world.encrypt() == "b"


def test_a_key_that_only_a_resting_member_can_have_is_unavailable_and_not_missing(world):
    world["b"].fault = HelperGone("ended")
    world["a"].fault = HelperGone("ended")
    with pytest.raises(HelperGone):
        world.encrypt()
    world["a"].fault = None
    world.clock.now += FIRST_WAIT_S
    assert [world.encrypt(), world.encrypt()] == ["a", "a"]  # the second one has probed b in vain
    world["a"].fault = KeyNotFound("no key")
    with pytest.raises(HsmUnavailable, match="next try is in"):
        world.encrypt(OTHER_KEY)


# --- breakers in the group ---------------------------------------------------------------------------------------


def open_a(world: World, error: HsmError | None = None) -> None:
    world["a"].fault = error or HsmTimeout("hung")
    while world.states()["a"] == "closed":
        assert world.encrypt() == "b"


def test_three_failures_in_a_row_and_the_member_is_left_alone(world):
    open_a(world)
    assert len(world["a"].given) == FAILURES
    world.encrypt()
    assert len(world["a"].given) == FAILURES
    assert (world.state("a").message, world.state("b").message) == ("hung", "")


def test_successes_between_failures_keep_it(world):
    for _ in range(3 * FAILURES):
        world["a"].fault = HsmTimeout("hung")
        world.encrypt()
        world["a"].fault = None
        assert world.encrypt() == "a"
    assert world.states()["a"] == "closed"


@pytest.mark.parametrize(
    "error", [HelperGone("refused"), MemberUntrue("wrong"), HsmAuthenticationFailed("PIN")]
)
def test_what_leaves_no_doubt_opens_at_once(world, error):
    open_a(world, error)
    assert len(world["a"].given) == 1


def test_a_busy_member_is_not_left_alone(world):
    world["a"].fault = HsmBusy("full")
    for _ in range(FAILURES * 2):
        assert world.encrypt() == "b"
    assert world.states()["a"] == "closed"


def test_requests_that_come_late_say_nothing_of_a_member(world):
    world["a"].takes = world["b"].takes = 0.015
    for _ in range(FAILURES * 2):
        with pytest.raises(HsmTimeout):
            world.encrypt(budget_s=0.012)
    assert set(world.states().values()) == {"closed"}
    assert world.encrypt() == "a"


def test_it_returns_by_itself(world):
    open_a(world)
    world["a"].fault = None
    assert world.encrypt() == "b"
    world.clock.now += FIRST_WAIT_S
    assert world.encrypt() == "a"
    assert world.states()["a"] == "closed"
    assert world.state("a").message == ""


def test_a_probe_that_fails_costs_its_request_nothing_but_time(world):
    open_a(world)
    world.clock.now += FIRST_WAIT_S
    assert world.encrypt() == "b"
    assert len(world["a"].given) == FAILURES + 1
    world.clock.now += FIRST_WAIT_S  # now the wait is twice as long
    assert world.encrypt() == "b"
    assert len(world["a"].given) == FAILURES + 1
    world.clock.now += FIRST_WAIT_S
    assert world.encrypt() == "b"
    assert len(world["a"].given) == FAILURES + 2


def test_alone_the_wait_does_not_grow(kind):
    world = World(kind, "a")
    world["a"].fault = HelperGone("refused")
    for tries in range(1, 9):
        with pytest.raises(HelperGone):
            world.encrypt()
        assert len(world["a"].given) == tries
        before = world.clock.now
        with pytest.raises(HsmUnavailable, match="next try"):
            world.encrypt()
        assert world.clock.now == before  # refused without waiting
        world.clock.now += ALONE_WAIT_S
    world["a"].fault = None
    assert world.encrypt() == "a"


def test_both_gone_then_both_back(world):
    for name in "ab":
        world[name].fault = HelperGone("refused")
    with pytest.raises(HelperGone):
        world.encrypt()
    with pytest.raises(HsmUnavailable, match=r"next try is in 0\.1 s"):
        world.encrypt()
    for name in "ab":
        world[name].fault = None
    world.clock.now += FIRST_WAIT_S
    assert world.encrypt() == "a"
    assert world.encrypt() == "b"  # its probe
    assert world.encrypt() == "a"
    assert set(world.states().values()) == {"closed"}


def test_a_request_probes_one_member_at_most_when_another_works(kind):
    world = World(kind, "abc")
    for name in "ab":
        world[name].fault = HelperGone("refused")
    assert world.encrypt() == "c"
    world.clock.now += FIRST_WAIT_S
    world["a"].fault = world["b"].fault = HsmTimeout("hung")
    began = world.clock.now
    assert world.encrypt() == "c"
    assert world.clock.now - began == pytest.approx(BUDGET_S / 3)


async def test_one_probe_at_a_time_and_a_caller_who_leaves_gives_it_back():
    clock = Clock()
    gate = asyncio.Event()

    class Slow(AsyncFake):
        async def encrypt(self, key, data, aad, *, verify, timeout_s):
            if self.fault is None:
                await gate.wait()
            return await super().encrypt(key, data, aad, verify=verify, timeout_s=timeout_s)

    a, b = Slow("a", clock), AsyncFake("b", clock)
    group = AsyncGroup([a, b], clock=clock)
    a.fault = HelperGone("ended")
    await group.encrypt(KEY, b"", b"", deadline=clock.now + 1)
    a.fault = None
    clock.now += FIRST_WAIT_S
    probe = asyncio.create_task(group.encrypt(KEY, b"", b"", deadline=clock.now + 1))
    await asyncio.sleep(0)
    assert [state.breaker for state in group.states()] == ["half-open", "closed"]
    assert group.states()[0].in_flight == 1
    for _ in range(3):  # all others go where there is no doubt
        assert (await group.encrypt(KEY, b"", b"", deadline=clock.now + 1)).ciphertext == b"b"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert group.states()[0].breaker == "open"
    assert group.states()[0].in_flight == 0
    gate.set()
    assert (await group.encrypt(KEY, b"", b"", deadline=clock.now + 1)).ciphertext == b"a"
    assert group.states()[0].breaker == "closed"


# --- which members hold a key -----------------------------------------------------------------------------------


def test_a_key_that_a_member_lacks_is_asked_for_elsewhere_first(world):
    world["a"].fault = KeyNotFound("no key")
    assert world.encrypt() == "b"
    assert world.encrypt() == "b"
    assert len(world["a"].given) == 1
    assert world.state("a").lacking == (KEY.hex(),)
    assert world.states()["a"] == "closed"
    world["a"].fault = None
    assert world.encrypt(OTHER_KEY) == "a"
    assert world.encrypt() == "b"
    world.clock.now += LACKING_S
    assert world.state("a").lacking == ()
    assert world.encrypt() == "a"


def test_a_group_restricted_to_the_holders_of_a_key_shares_the_breakers(world):
    only_b = world.group.hold(["b"])
    assert world.encrypt(group=only_b) == "b"
    world["b"].fault = HelperGone("ended")
    with pytest.raises(HelperGone):
        world.encrypt(group=only_b)
    assert world.states() == {"a": "closed", "b": "open"}
    with pytest.raises(HsmUnavailable, match="no member"):
        world.encrypt(group=world.group.hold(["c"]))


# --- active-active ----------------------------------------------------------------------------------------------


def test_active_active_takes_turns(kind):
    world = World(kind, "abc", routing="active-active")
    answered = [world.encrypt() for _ in range(30)]
    assert {name: answered.count(name) for name in "abc"} == {"a": 10, "b": 10, "c": 10}


async def test_active_active_spares_the_member_that_has_most_to_do():
    clock = Clock()
    gate = asyncio.Event()

    class Slow(AsyncFake):
        async def encrypt(self, key, data, aad, *, verify, timeout_s):
            self.given.append(timeout_s)
            await gate.wait()
            return ResidentCiphertext(b"n" * 12, b"slow")

    slow, fast = Slow("slow", clock), AsyncFake("fast", clock)
    group = AsyncGroup([slow, fast], routing="active-active", clock=clock)
    tasks = [asyncio.create_task(group.encrypt(KEY, b"", b"", deadline=clock.now + 1)) for _ in range(20)]
    await asyncio.sleep(0)
    assert len(slow.given) == 1
    gate.set()
    answers = [made.ciphertext for made in await asyncio.gather(*tasks)]
    assert answers.count(b"fast") == 19


def test_active_active_leaves_out_who_fails_and_takes_them_back(kind):
    world = World(kind, "ab", routing="active-active")
    world["a"].fault = HelperGone("ended")
    assert {world.encrypt() for _ in range(10)} == {"b"}
    assert len(world["a"].given) == 1
    world["a"].fault = None
    world.clock.now += FIRST_WAIT_S
    assert {world.encrypt() for _ in range(10)} == {"a", "b"}


# --- the rest ---------------------------------------------------------------------------------------------------


def test_a_group_without_members_refuses_and_names_are_told_apart(kind):
    with pytest.raises(HsmUnavailable, match="no member"):
        World(kind, "").encrypt()
    clock = Clock()
    with pytest.raises(ValueError, match="same id"):
        SyncGroup([SyncFake("a", clock), SyncFake("a", clock)])


def test_close_closes_all(world):
    world.close()
    assert all(member.closed for member in world.members.values())


def test_an_exception_that_is_no_hsm_error_is_not_counted(kind):
    world = World(kind, "a")
    world["a"].fault = RuntimeError("a fault of ours")  # type: ignore[assignment]
    for _ in range(FAILURES + 1):
        with pytest.raises(RuntimeError):
            world.encrypt()
    assert world.states() == {"a": "closed"}
    assert world.state("a").in_flight == 0


def test_threads_probe_one_at_a_time():
    clock = Clock()
    inside, go = threading.Semaphore(0), threading.Event()

    class Slow(SyncFake):
        def encrypt(self, key, data, aad, *, verify, timeout_s):
            if self.fault is None:
                self.given.append(timeout_s)
                inside.release()
                assert go.wait(5)
                return ResidentCiphertext(b"n" * 12, b"a")
            return super().encrypt(key, data, aad, verify=verify, timeout_s=timeout_s)

    a, b = Slow("a", clock), SyncFake("b", clock)
    group = SyncGroup([a, b], clock=clock)
    a.fault = HelperGone("ended")
    group.encrypt(KEY, b"", b"", deadline=clock.now + 1)
    a.fault = None
    clock.now += FIRST_WAIT_S
    answers = []
    probe = threading.Thread(
        target=lambda: answers.append(group.encrypt(KEY, b"", b"", deadline=clock.now + 1).ciphertext)
    )
    probe.start()
    assert inside.acquire(timeout=5)
    try:
        assert group.encrypt(KEY, b"", b"", deadline=clock.now + 1).ciphertext == b"b"
    finally:
        go.set()
        probe.join(5)
    assert answers == [b"a"]
    assert len(a.given) == 2  # the refused one and the probe


@given(
    st.lists(st.sampled_from(["ok", "timeout", "gone", "busy", "lost key", "invalid"]), max_size=40),
    st.data(),
)
def test_while_one_member_works_no_request_fails(plan, data):
    world = World("sync", "abc", routing=data.draw(st.sampled_from(["preferred", "active-active"])))
    faults = {"ok": None, "timeout": HsmTimeout("t"), "gone": HelperGone("g"), "busy": HsmBusy("b"),
              "lost key": KeyNotFound("k"), "invalid": HsmError("e")}  # fmt: skip
    for step in plan:
        world[data.draw(st.sampled_from("ab"))].fault = faults[step]
        world.clock.now += data.draw(st.sampled_from([0.0, 0.1, 1.0, 20.0]))
        began = world.clock.now
        assert world.encrypt() in "abc"
        assert world.clock.now - began <= BUDGET_S
