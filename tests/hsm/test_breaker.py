"""The breaker by itself: any order of attempts, ends of attempts and time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsm.breaker import ALONE_WAIT_S, FAILURES, FIRST_WAIT_S, LONGEST_WAIT_S, Breaker


class BreakerMachine(RuleBasedStateMachine):
    """Any order of attempts, ends of attempts and time; the model is what the breaker's docstring promises."""

    @initialize()
    def begin(self):
        self.breaker = Breaker()
        self.now = 1.0
        self.tickets: list[tuple[int, int]] = []  # (ticket, opening in which it was given)
        self.openings = 0
        self.last_opened = 0.0
        self.probe: int | None = None

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, FIRST_WAIT_S, 2.0, LONGEST_WAIT_S]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(alone=st.booleans())
    def ask(self, alone):
        was_closed = self.breaker.closed
        due = self.breaker.due(self.now, alone=alone)
        ticket = self.breaker.admit(self.now, alone=alone)
        assert (ticket is not None) == due
        if ticket is None:
            assert not was_closed
            assert self.probe is not None or self.now - self.last_opened < LONGEST_WAIT_S
            return
        if not was_closed:
            assert self.probe is None, "two probes at a time"
            assert self.now - self.last_opened >= (ALONE_WAIT_S if alone else FIRST_WAIT_S) - 1e-9
            self.probe = ticket
        self.tickets.append((ticket, self.openings))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), end=st.sampled_from(["well", "ill", "ill at once", "left"]))
    def end(self, data, end):
        ticket, opening = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        stale = opening != self.openings
        probe = self.probe == ticket and not stale
        before = self.breaker.state
        if end == "well":
            closed = self.breaker.succeeded(ticket)
            assert closed == probe
            assert not probe or self.breaker.closed
        elif end == "left":
            self.breaker.abandoned(ticket)
            assert self.breaker.closed == (before == "closed")
        else:
            opened = self.breaker.failed(ticket, self.now, at_once=end == "ill at once")
            if probe:
                assert not opened  # it was open
                assert self.breaker.state == "open"
            if opened:
                assert before == "closed"
            if end == "ill at once" and before == "closed" and not stale:
                assert opened
            if opened or probe:
                self.openings += 1
                self.last_opened = self.now
        if stale:
            assert self.breaker.state == before, "old news changed the breaker"
        if probe:
            self.probe = None

    @invariant()
    def it_always_comes_back(self):
        if getattr(self, "breaker", None) is None:
            return
        assert 0 <= self.breaker.failures < FAILURES
        assert self.breaker.retry_in(self.now) <= LONGEST_WAIT_S
        if not self.breaker.closed and self.probe is None:
            assert self.breaker.due(self.now + LONGEST_WAIT_S)


TestBreakerMachine = BreakerMachine.TestCase


@given(st.integers(1, 12))
def test_the_wait_doubles_to_ten_seconds(failed_probes):
    breaker = Breaker()
    now = 0.0
    ticket = breaker.admit(now)
    breaker.failed(ticket, now, at_once=True)
    for _ in range(failed_probes):
        now += breaker.retry_in(now)
        ticket = breaker.admit(now)
        assert ticket is not None
        breaker.failed(ticket, now)
    assert breaker.retry_in(now) == pytest.approx(min(FIRST_WAIT_S * 2**failed_probes, LONGEST_WAIT_S))
    assert breaker.retry_in(now, alone=True) == pytest.approx(ALONE_WAIT_S)
