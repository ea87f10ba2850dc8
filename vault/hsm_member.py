"""One member of an HSM connection on this host: its helper process, started, watched, asked for its health, restarted.

With the database away a helper goes on, and one that ends is started again with what is known; only a PIN that this
keeper has not seen to be right is never tried then. vault/hsm_keeper.py has all of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from django.db import DatabaseError, close_old_connections, connections

from hsm import wire
from hsm.base import (
    HsmAuthenticationFailed,
    HsmError,
    HsmTimeout,
    HsmUnavailable,
    KeyNotFound,
    MechanismUnavailable,
)
from hsm.spawning import Running, spawn
from vault import hsm_pins, keys
from vault.errors import ValidationFailed
from vault.hsm_gate import Gate, Verdict, learn_if_possible, waiting_path
from vault.hsm_groups import client_of, socket_path
from vault.hsm_locked import first_line, unwritten, wait_briefly
from vault.hsm_modules import check_environment, check_module
from vault.hsm_pins import PinMissing
from vault.hsm_sight import State, tell
from vault.models import HsmConnection, HsmMember
from vault.secret import Secret

log = structlog.get_logger("keystead.hsm")

LOOK_S: Final = 1.0
HEALTH_S: Final = 15.0
"""Between two encryptions and decryptions under the health-check key; what is shown is never older than a minute."""
READY_S: Final = 60.0
FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 30.0
STEADY_S: Final = 60.0
MOST_MISSES: Final = 2
"""Health checks in a row without an answer after which a helper counts as hung."""
MIN_DEADLINE_S: Final = 30.0
ADMIT_S: Final = 0.5
EXIT_REFUSED: Final = 65
SLOW_MS: Final = 25.0
_AAD: Final = b"keystead:health"

Spawn = Callable[..., Running]


@dataclass(frozen=True)
class Plan:
    """What a member's helper is to be like; another plan means another helper."""

    member_id: UUID
    module: str
    environment: tuple[tuple[str, str], ...]
    token_serial: str
    token_label: str
    login: str
    timeout_ms: int

    @classmethod
    def of(cls, connection: HsmConnection, member: HsmMember) -> Plan:
        """From the rows."""
        return cls(
            member.pk,
            connection.module_path,
            tuple(sorted(connection.environment.items())),
            member.token_serial,
            member.token_label,
            connection.login,
            connection.timeout_ms,
        )

    def config(self, pin: Secret | None, socket: str, health_key: str) -> wire.HelperConfig:
        """What the helper is told."""
        return wire.HelperConfig(
            module=self.module,
            socket=socket,
            token_serial=self.token_serial,
            token_label="" if self.token_serial else self.token_label,
            login="pin" if self.login == HsmConnection.Login.PIN else "none",
            pin=pin.reveal() if pin is not None else b"",
            # Making keys takes seconds on some tokens; what answers requests has the connection's own time-out besides.
            deadline_s=max(MIN_DEADLINE_S, self.timeout_ms / 1000),
            health_key=health_key,
        )


@dataclass
class _Credential:
    """A PIN that this keeper has seen accepted, or that no PIN is needed."""

    pin: Secret | None
    mark: str


class NotNow(Exception):
    """A helper cannot be started at present, for a reason that people should read. `wait_s`: until the next try."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class MemberWatch(threading.Thread):
    """Keeps the helper of one member running."""

    def __init__(self, member_id: UUID, host: str, spawn_helper: Spawn = spawn) -> None:
        super().__init__(name=f"hsm-{str(member_id)[:8]}", daemon=True)
        self.member_id = member_id
        self.host = host
        self.running: Running | None = None
        self.gate = Gate(member_id)
        self.restarts = 0
        self._judged = 0.0
        self._spawn = spawn_helper
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._plan: Plan | None = None
        self._good: _Credential | None = None
        self._health_key = ""
        self._delay = FIRST_DELAY_S
        self._began = 0.0
        self._misses = 0
        self._checked = 0.0
        self._next_start = 0.0
        self._next_trial = 0.0
        self._told: tuple[str | None, str] = (None, "")
        self._tell_again = 0.0
        self._refusals: dict[str, str] = {}  # not written down yet, because the database was away or locked

    # --- from outside ---

    def stop(self) -> None:
        """End the helper and the thread."""
        self._stopping.set()
        self._wake.set()

    def check_now(self) -> None:
        """Look at the member's health at the next turn."""
        self._checked = 0.0
        self._wake.set()

    # --- the thread ---

    def run(self) -> None:
        """Until told to stop."""
        wait_briefly()
        try:
            while not self._stopping.is_set():
                try:
                    self._turn()
                except Exception:
                    # A fault of ours must not leave a member without its keeper.
                    log.exception("hsm: a member's keeper failed; it goes on", member=str(self.member_id))
                    self._stopping.wait(5)
                close_old_connections()
                self._wake.wait(LOOK_S)
                self._wake.clear()
        finally:
            self._end_helper()
            connections.close_all()

    def _turn(self) -> None:
        now = time.monotonic()
        rows = self._rows()
        if rows is not None:
            connection, member = rows
            self._health_key = connection.health_key
            plan = Plan.of(connection, member)
            if self._plan is not None and plan != self._plan:
                log.info("hsm: the connection changed, its helper is started afresh", member=str(member))
                self._end_helper()
                self._next_start = 0.0
                self._delay = FIRST_DELAY_S
            self._plan = plan
        if self._plan is None:
            return
        if self.running is not None and self.running.exit_code is not None:
            self._helper_ended(self.running.exit_code)
        if self.running is None:
            if now < self._next_start:
                return
            learn_if_possible(self.gate, rows)
            self._start(rows)
        elif rows is not None and self.gate.is_open and now >= self._next_trial:
            self._try_new_pin(*rows)
        if self.running is not None and not self.gate.is_open:
            self._judge_again()
        if self.running is not None and self.gate.is_open and time.monotonic() - self._checked >= HEALTH_S:
            learn_if_possible(self.gate, rows)
            self._check()

    def _rows(self) -> tuple[HsmConnection, HsmMember] | None:
        """The rows as they are now; None with the database away. A member that is gone stops this thread."""
        try:
            member = HsmMember.objects.select_related("connection").filter(pk=self.member_id).first()
        except DatabaseError:
            return None
        if member is None:
            self.stop()
            return None
        return member.connection, member

    # --- starting ---

    def _start(self, rows: tuple[HsmConnection, HsmMember] | None) -> None:
        assert self._plan is not None  # noqa: S101 - _turn has seen
        try:
            if rows is None:
                if self._good is None:
                    return  # nothing is known of it yet, and the database is away
                self.running = self._launch(self._plan, self._good.pin, waiting_path(self.member_id))
            else:
                self.running = self._start_claimed(*rows, waiting_path(self.member_id))
        except NotNow as error:
            self._later(error.wait_s)
            self._tell(State.UNAVAILABLE, str(error))
            return
        except HsmError as error:
            if isinstance(error, HsmAuthenticationFailed):
                self._good = None
            self._later(None)
            self._tell(State.UNAVAILABLE, str(error))
            return
        self._began = time.monotonic()
        self._misses = 0
        self._checked = 0.0
        told = self.running.ready or {}
        log.info("hsm: a helper is ready", member=self.name, pid=self.running.pid)
        self._tell(None, "", identity=told.get("identity"), profile=told.get("profile"))

    def _start_claimed(self, connection: HsmConnection, member: HsmMember, socket: str) -> Running:
        """Start a helper with the connection's PIN, having claimed the login. Raises NotNow, HsmError."""
        plan = Plan.of(connection, member)
        try:
            check_module(plan.module, must_exist=True)
            check_environment(dict(plan.environment))
        except ValidationFailed as error:
            raise NotNow(f"{error.message} {error.cure}", 10.0) from None
        if not connection.needs_pin:
            running = self._launch(plan, None, socket)
            self._good = _Credential(None, "")
            return running
        pin, mark = self._pin(connection)
        if mark in self._refusals:
            self._write_refusal(mark, self._refusals[mark])
        if mark in self._refusals or hsm_pins.is_refused(member, mark):
            raise NotNow(
                "The PIN was refused, and nobody tries it again. Change it on the HSM's page once the right one is known.",
                2.0,
            )
        try:
            claimed = hsm_pins.claim(member.pk, mark, self.host)
        except DatabaseError as error:
            # Another transaction holds the database (SQLite has one writer). As with the database away: what has been
            # seen to be right is not asked for leave.
            if self._good is None or self._good.mark != mark:
                raise NotNow("The database does not take the claim of a login at present.", 1.0) from error
            log.warning("hsm: a helper is started without a claim: the database is locked", member=self.name)
            claimed = True
        if not claimed:
            raise NotNow("Another process logs in just now.", 0.5)
        try:
            running = self._launch(plan, pin, socket)
        except HsmAuthenticationFailed as error:
            self._write_refusal(mark, str(error))
            log.error("hsm: the PIN was refused; nobody tries it again", member=str(member), error=str(error))
            raise
        except _Unsaid as error:
            with unwritten("that a login's end is unknown"):
                hsm_pins.unknown(member.pk, mark)
            raise HsmUnavailable(str(error)) from None
        except HsmError:
            with unwritten("that no login was tried"):
                hsm_pins.released(member.pk, mark)
            raise
        self._good = _Credential(pin, mark)
        with unwritten("that a login was accepted"):  # the claim ends by itself
            hsm_pins.accepted(member.pk, mark)
        return running

    def _write_refusal(self, mark: str, why: str) -> None:
        """Write that the token refused a PIN; until that is done this keeper knows it at least."""
        self._refusals[mark] = why
        with unwritten("that a PIN was refused"):
            hsm_pins.refused(self.member_id, mark, why)
            del self._refusals[mark]

    def _pin(self, connection: HsmConnection) -> tuple[Secret, str]:
        try:
            pin = hsm_pins.pin_of(connection)
        except PinMissing as error:
            raise NotNow(str(error), 5.0) from None
        except (keys.SecretUnreadable, keys.RootKeyError, HsmError) as error:
            raise NotNow(f"Its PIN cannot be read now: {error}", 3.0) from None
        return pin, hsm_pins.mark_of(connection, pin)

    def _launch(self, plan: Plan, pin: Secret | None, socket: str) -> Running:
        """Start a helper and wait until it is ready. Raises HsmError, and _Unsaid when it ended without a word."""
        config = plan.config(pin, socket, self._health_key)
        running = self._spawn(config, environment=dict(plan.environment))
        ends = time.monotonic() + READY_S
        try:
            while running.poll_ready() is None:
                if self._stopping.is_set() or time.monotonic() > ends:
                    running.kill()
                    raise _Unsaid(f"the helper was not ready within {READY_S:g} s and was ended")
                time.sleep(0.02)
        except HsmError as error:
            said = running.exit_code == EXIT_REFUSED or isinstance(error, HsmAuthenticationFailed)
            running.kill()
            if not said and not isinstance(error, _Unsaid):
                raise _Unsaid(str(error)) from None
            raise
        if socket == waiting_path(self.member_id):
            # At once, before anything is written down: the database may be slow to take it.
            self.gate.begin()
            self._judged = 0.0
            with contextlib.suppress(HsmTimeout):
                self._admit(self.gate.judge())
        return running

    def _try_new_pin(self, connection: HsmConnection, member: HsmMember) -> None:
        """A PIN that changed is tried beside the helper that runs, which stays logged in should it be wrong."""
        self._next_trial = time.monotonic() + 2.0
        if not connection.needs_pin or self._good is None:
            return
        try:
            _, mark = self._pin(connection)
        except NotNow:
            return
        if mark == self._good.mark or hsm_pins.is_refused(member, mark):
            return
        try:
            trial = self._start_claimed(connection, member, socket_path(f"{self.member_id}.try"))
        except (NotNow, HsmError) as error:
            log.warning(
                "hsm: a changed PIN was not taken; the helper stays as it is",
                member=str(member),
                error=str(error),
            )
            return
        trial.stop()
        log.info("hsm: the changed PIN was accepted", member=str(member))

    def _later(self, wait_s: float | None) -> None:
        if wait_s is None:
            wait_s, self._delay = self._delay, min(self._delay * 2, LAST_DELAY_S)
        self._next_start = time.monotonic() + wait_s

    def _judge_again(self) -> None:
        """Look whether a helper that waits may serve by now."""
        if time.monotonic() - self._judged < ADMIT_S:
            return
        try:
            verdict = self.gate.judge()
        except HsmTimeout as error:
            self._missed(str(error))
            return
        finally:
            self._judged = time.monotonic()
        self._admit(verdict)
        if not self.gate.is_open:
            self._tell(State.DEGRADED, verdict.message)

    def _admit(self, verdict: Verdict) -> None:
        """Let the helper serve if its member was compared with the others."""
        if verdict.admitted:
            self.gate.open(verdict)
        if verdict.message:
            level = log.error if verdict.differs else log.warning
            level(
                "hsm: a member was not compared",
                member=self.name,
                serves=verdict.admitted,
                why=verdict.message,
            )

    # --- watching ---

    def _helper_ended(self, code: int) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        log.error("hsm: a helper %s; it is started again", how, member=self.name)
        self._end_helper()
        self.restarts += 1
        if time.monotonic() - self._began > STEADY_S:
            self._delay = FIRST_DELAY_S
            self._next_start = 0.0  # at once: it has run well for long
        else:
            self._later(None)
        self._tell(State.UNAVAILABLE, f"Its helper process {how}; it is started again.")

    def _check(self) -> None:
        """Encrypt and decrypt for real, and write down what came of it."""
        assert self._plan is not None  # noqa: S101 - _turn has seen
        self._checked = time.monotonic()
        timeout_s = max(0.5, self._plan.timeout_ms / 1000)
        client = client_of(HsmMember(pk=self.member_id))
        try:
            told = client.call(wire.Status(0), timeout_s=timeout_s).info or {}
            if told.get("refused"):
                self._refused_meanwhile(str(told["refused"]))
                return
            latency = (
                round_trip(client, bytes.fromhex(self._health_key), timeout_s) if self._health_key else None
            )
        except HsmTimeout as error:
            self._missed(str(error))
            return
        except KeyNotFound:
            self._misses = 0
            self._tell(State.DEGRADED, "It does not hold the health-check key.")
            return
        except HsmError as error:
            self._tell(State.UNAVAILABLE, str(error))
            return
        finally:
            client.close()
        self._misses = 0
        about = {"identity": told.get("identity"), "profile": told.get("profile")}
        if latency is None:
            self._tell(State.DEGRADED, "It has no health-check key yet.", **about)
            self._checked -= HEALTH_S - 2  # looked at again soon: the key is being made
            return
        slow = (
            ""
            if latency <= SLOW_MS
            else f"It takes {latency:.0f} ms, more than {SLOW_MS:g}: AWS waits 250 ms in all."
        )
        uncompared = self.gate.uncompared()
        state = State.DEGRADED if uncompared else State.ACTIVE
        self._tell(state, f"{uncompared} {slow}".strip(), latency_ms=latency, **about)

    def _missed(self, why: str) -> None:
        self._misses += 1
        if self._misses < MOST_MISSES:
            self._tell(State.DEGRADED, why)
            self._checked -= HEALTH_S - 1
            return
        log.error("hsm: a helper hangs and is killed", member=self.name)
        if self.running is not None:
            self.running.kill()
        self._end_helper()
        self.restarts += 1
        self._later(None)
        self._tell(
            State.UNAVAILABLE, "Its helper process did not answer and was killed; it is started again."
        )

    def _refused_meanwhile(self, why: str) -> None:
        """The helper logged in again, after a session was lost, and the token did not take the PIN any more."""
        if self._good is not None and self._good.mark:
            self._write_refusal(self._good.mark, why)
        self._good = None
        self._end_helper()
        self._later(2.0)

    def _end_helper(self) -> None:
        running, self.running = self.running, None
        if running is None:
            return
        self.gate.close()
        with contextlib.suppress(Exception):
            running.stop(timeout_s=2.0)

    def _tell(self, state: str | None, message: str, **about: Any) -> None:
        now = time.monotonic()
        if not about and (state, message) == self._told and now < self._tell_again:
            return  # the same trouble, seen again
        self._told, self._tell_again = (state, message), now + 20.0
        try:
            tell(self.member_id, self.host, state, message, **about)
        except DatabaseError as error:
            self._told = (None, "")  # told again at the next occasion
            log.warning("hsm: the database takes nothing now; helpers go on", error=first_line(error))


class _Unsaid(HsmUnavailable):
    """A helper ended, or hung, without saying how its login went."""


def round_trip(client: Any, key: bytes, timeout_s: float) -> float:
    """Encrypt a random value and decrypt it; return the milliseconds of the slower half. Raises HsmError."""
    value = os.urandom(32)
    began = time.perf_counter()
    try:
        made = client.encrypt(key, value, _AAD, verify=False, timeout_s=timeout_s)
        middle = time.perf_counter()
        back = client.decrypt(key, made.nonce, made.ciphertext, _AAD, timeout_s=timeout_s)
    except MechanismUnavailable:
        began = time.perf_counter()
        sealed = client.call(wire.Seal(0, key, value), timeout_s=timeout_s).data
        middle = time.perf_counter()
        back = client.call(wire.Unseal(0, key, sealed), timeout_s=timeout_s).data
    if back != value:
        raise HsmError("what it decrypted is not what was encrypted")
    return round(max(middle - began, time.perf_counter() - middle) * 1000, 2)
