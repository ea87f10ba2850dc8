"""What agent and workers say to each other over the node's Unix socket.

Frames are a 4-byte big-endian length followed by one msgpack message (a struct with its type in
the field ``type``).  The conversation:

* a worker connects and says :class:`Hello`;
* the agent gives it the key of its journal's chain (:class:`JournalKey`), unless it says that it has
  one;
* the agent answers with a full load, one or more :class:`Delta` slices with ``full`` set, and from
  then on sends incremental deltas and, about every second while the database answers, a
  :class:`Lease`;
* the worker says :class:`Applied` once it serves from a generation and no request begun under an
  older one is unanswered, and :class:`Goodbye` when it stops in good order.

Messages are handled strictly in the order in which they were sent, so a lease that follows a delta
vouches for it.  A connection that ends is made again by the worker, which says Hello with the
generation that it holds; the agent may then send only what changed since, or everything.

Key material and secrets pass through here in clear: the socket is 0600 in a 0700 folder.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

PROTOCOL_VERSION = 1
"""Raised when a worker of one release could misread an agent of another."""

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""A longer frame is refused unread: the peer is broken or not ours."""

MAX_SLICE_RECORDS = 128
"""Most records in one delta, so that decoding a frame takes a worker well under a millisecond."""

KeyState = Literal["ENABLED", "DISABLED", "PENDING_DELETION", "DESTROYED"]
KeyUse = Literal["ENCRYPT", "DECRYPT"]


class FrameError(Exception):
    """The peer sent something that is not a frame of this protocol; the connection must end."""


class ConditionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One condition of an access rule: it holds when any of ``values`` matches, or none with ``negated``.

    ``field`` is one of those of ``xks.policy_rules.FIELDS``; ``tag`` names the tag for key_tag.  They are
    plain text here, so that a worker can refuse a rule it does not know instead of the whole message.
    """

    field: str
    values: tuple[str, ...]
    negated: bool = False
    tag: str = ""


class RuleRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One access rule: it matches when all of its conditions hold.  ``effect`` is ALLOW or DENY."""

    name: str
    effect: str
    conditions: tuple[ConditionRecord, ...] = ()


class RuleSetRecord(msgspec.Struct, frozen=True):
    """One version of the access rules of a store or a key, in the order in which they are looked at."""

    id: str
    version: int
    rules: tuple[RuleRecord, ...]


class CredentialRecord(msgspec.Struct, frozen=True):
    """One live XKS proxy credential.

    ``access_key_id`` is 20 to 30 of A-Z2-7; ``secret`` is the raw secret access key, its ASCII
    characters as bytes.
    """

    access_key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"CredentialRecord(access_key_id={self.access_key_id!r}, secret=***)"


class StoreRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One external key store as the data plane sees it.

    ``path_prefix`` is "" or "/a/b" (leading slash, none trailing).  Several stores may share the
    prefix "": the access key id then tells them apart, so it is unique among all live credentials.
    ``blocked`` is true when the store or its vault is blocked.  ``health_key_id`` is the external
    key id of the store's health-check key.  ``allowed_regions`` empty means any.
    ``max_staleness_s`` (seconds), when not None, replaces the lease's own ``valid_for_s``.
    ``rules`` None means that AWS IAM is trusted; ``shadow_rules`` are judged by and counted, and refuse
    nobody.  The two rates are requests a second for the whole fleet, None for no limit;
    ``credential_rate_per_s`` holds for each of the store's credentials by itself.
    """

    id: str
    path_prefix: str
    blocked: bool
    credentials: list[CredentialRecord]
    health_key_id: str | None = None
    allowed_regions: list[str] = msgspec.field(default_factory=list)
    max_staleness_s: float | None = None
    rules: RuleSetRecord | None = None
    shadow_rules: RuleSetRecord | None = None
    rate_per_s: float | None = None
    credential_rate_per_s: float | None = None
    hsm_groups: tuple[str, ...] = ()
    """HSM connections that its keys depend on: their members are told of in the health answer."""
    hsm_required: str = ""
    """The one of them without which no new version can be used: its key set's keys live there."""


class ResidentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a version is that lives in an HSM: the connection, and the CKA_ID by which each member finds it.

    ``adopted`` None: the key was made for us.  Otherwise it was used through AWS's reference proxy before, with
    this as its fixed ciphertextMetadata (b"" for none), and what that wrote is still read (format 0).
    """

    group: str
    key: bytes
    adopted: bytes | None = None


class VersionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a key: ``number`` from 1 to 2**32 - 1, ``material`` 32 bytes of AES-256 key.

    Without material the key lives in the HSM that ``resident`` names; without either it is known, and cannot be
    opened at this moment (the HSM that wraps it does not answer).
    """

    number: int
    material: bytes = b""
    resident: ResidentRecord | None = None

    def __repr__(self) -> str:
        return f"VersionRecord(number={self.number}, material=***, resident={self.resident!r})"


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One external key, every version of it that may still be needed to decrypt.

    Versions of disabled and blocked keys are sent too (the state decides); a DESTROYED key has
    none, and stays known so that its id is answered with 404 and never used again.  ``rules`` and
    ``shadow_rules`` are the key's own, beside those of its store; ``tags`` are what they may look at.
    """

    id: str
    store_id: str
    external_key_id: str
    state: KeyState
    blocked: bool
    uses: list[KeyUse]
    current_version: int
    versions: list[VersionRecord]
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    rules: RuleSetRecord | None = None
    shadow_rules: RuleSetRecord | None = None


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A worker presents itself.

    ``pid`` with ``started_at_s`` (boot-time clock, seconds) names the process for good, pids being
    used again.  ``boot_id`` is the kernel's id of this boot ("" where there is none).
    ``generation`` is what the worker still serves from: 0 for nothing, or when it wants everything.
    ``journal`` is the chain that it writes its journal to, "" when it has none yet.
    """

    pid: int
    started_at_s: float
    boot_id: str
    generation: int
    software_version: str
    protocol: int = PROTOCOL_VERSION
    journal: str = ""


class JournalKey(msgspec.Struct, frozen=True, tag="journal"):
    """What a worker begins its journal with: the chain's id (32 hex digits) and first state (32 bytes).

    Sent once to a worker process, before any lease: what cannot be recorded is not answered.
    """

    chain: str
    state: bytes

    def __repr__(self) -> str:
        return f"JournalKey(chain={self.chain!r}, state=***)"


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """A change to the keyring, or one slice of it.

    Slices of one change carry the same ``generation`` and ``full``; what they say takes effect
    together when the slice with ``final`` has been read.  With ``full`` set the change replaces
    everything; without, records replace those of the same ``id``, and ``removed_stores`` and
    ``removed_keys`` name ids to forget (a removed store takes its keys with it).  A key's store
    must come in the same or an earlier slice, or be held already.

    A generation lower than the one served (an older database was restored, or took over) is refused
    by the worker, unless ``rollback_accepted`` says that an operator wants it so.  After a refusal
    the worker ends the connection and says Hello with generation 0: only a full load will do.
    """

    generation: int
    full: bool
    final: bool
    stores: list[StoreRecord] = msgspec.field(default_factory=list)
    keys: list[KeyRecord] = msgspec.field(default_factory=list)
    removed_stores: list[str] = msgspec.field(default_factory=list)
    removed_keys: list[str] = msgspec.field(default_factory=list)
    rollback_accepted: bool = False


class Lease(msgspec.Struct, frozen=True, tag="lease"):
    """The agent vouches that ``generation`` was current when it asked the database.

    ``issued_at_s`` is :func:`boot_clock` **before** that question was sent, in seconds: a lease
    that waited in the socket of a stopped worker must not come alive late.  The worker may serve
    until ``issued_at_s + valid_for_s`` (or a store's own ``max_staleness_s``), and takes no notice
    of a lease for a generation higher than its own.  ``fleet_size`` is the number of nodes that serve
    this endpoint, as told to KMS by the health answer; ``counted_workers`` is the number of worker
    processes of all of them, among which rates for the fleet are shared.
    """

    generation: int
    valid_for_s: float
    issued_at_s: float
    fleet_size: int = 1
    counted_workers: int = 1


class HsmMemberRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token of an HSM connection, and the socket of the helper process that speaks with it.

    Without ``socket`` it may not be used: it has not been shown to hold the same keys as the others.  ``state`` is
    what the node's keeper of HSMs last found: ACTIVE, DEGRADED, UNAVAILABLE or UNKNOWN.
    """

    id: str
    name: str
    model: str
    socket: str
    state: str = "UNKNOWN"


class HsmGroupRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One HSM connection: members that hold the same keys.  ``health_key`` is the CKA_ID of its health-check key."""

    id: str
    name: str
    routing: str
    members: tuple[HsmMemberRecord, ...]
    health_key: bytes = b""


class HsmGroups(msgspec.Struct, frozen=True, tag="hsm"):
    """All HSM connections of this node, in the place of those told before.

    Sent before the keys that refer to them, and whenever something of it changes.  It is no part of a generation:
    it says how keys are reached, never which may be used.
    """

    groups: tuple[HsmGroupRecord, ...]
    root_problem: str = ""
    """Why the agent opens no keys at present, in words for anybody who asks /ping; empty when it does."""


class Invocations(msgspec.Struct, frozen=True, tag="invocations"):
    """The worker may encrypt so many times more with a version that lives in an HSM; 0: it has been used enough.

    They are reserved in the database before they are given, so that no crash and no restore counts too few
    (NIST SP 800-38D, 8.3: 2**32 with one key at most).
    """

    key_id: str
    number: int
    count: int


class InvocationsWanted(msgspec.Struct, frozen=True, tag="invoke"):
    """A worker asks for :class:`Invocations` of a version."""

    pid: int
    key_id: str
    number: int


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """The worker answers from ``generation``, and no request begun before it is unanswered."""

    pid: int
    generation: int


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The worker has stopped serving in good order and need not be counted any more."""

    pid: int


class Draining(msgspec.Struct, frozen=True, tag="draining"):
    """The worker has been told to end: it takes no new connection and finishes what it has."""

    pid: int


class ShadowCount(msgspec.Struct, frozen=True):
    """What one version of shadowed rules would have done since the last report.

    ``denied`` counts by the name of the denying rule, "" for no rule having allowed; ``principals``
    counts the denied by awsPrincipalArn, as many as are kept, the others under "".
    """

    rule_set_id: str
    version: int
    judged: int
    denied: dict[str, int]
    principals: dict[str, int]


class ShadowReport(msgspec.Struct, frozen=True, tag="shadow"):
    """A worker tells what shadowed rules would have done; sent only where there are any."""

    pid: int
    counts: list[ShadowCount]


class MetricsReport(msgspec.Struct, frozen=True, tag="metrics"):
    """What a worker has counted since it began, sent about every second (xks.metrics_counters).

    ``problem`` is why nothing can be recorded at this moment, "" when all is well.  ``unsigned`` counts by
    errorName; a cell is store, operation, outcome and the numbers of ``xks.metrics_counters.CELL``.
    """

    pid: int
    generation: int
    lease_issued_at_s: float | None
    in_flight: int
    problem: str
    journal_segment: int
    journal_bytes: int
    unrecorded: int
    unsigned: dict[str, int]
    cells: list[tuple[str, str, str, list[int]]]


class CredentialUse(msgspec.Struct, frozen=True):
    """When a credential was last seen in a region (the one named in the signature; "" for others).

    Seconds since the epoch. ``last_at``: any request with a valid signature; ``succeeded_at``: one answered
    with 200, None for none since the last report.
    """

    access_key_id: str
    region: str
    last_at: float
    succeeded_at: float | None = None


class UseReport(msgspec.Struct, frozen=True, tag="uses"):
    """A worker tells which credentials it has seen in use since its last report."""

    pid: int
    uses: list[CredentialUse]


class ServerHello(msgspec.Struct, frozen=True, tag="server"):
    """The server process of a node presents itself: it starts workers, and serves no request itself."""

    pid: int
    software_version: str
    protocol: int = PROTOCOL_VERSION


class EndpointTls(msgspec.Struct, frozen=True, tag="tls"):
    """What the endpoint is to serve with, told to the server process; all PEM.

    ``certificate`` is the chain, leaf first, b"" when none is installed; ``key`` PKCS#8 without a password.
    ``client_roots`` are the CAs under which clients must show a certificate, b"" when none is asked for.
    """

    certificate: bytes = b""
    key: bytes = b""
    client_roots: bytes = b""

    def __repr__(self) -> str:
        return f"EndpointTls({len(self.certificate)} bytes of certificate, key=***)"


class CertificateServed(msgspec.Struct, frozen=True, tag="certificate"):
    """The server process tells what new connections meet; see xks.endpoint_tls.describe.

    ``source`` is installed, default (self-made), file (KEYSTEAD_XKS_TLS_CERT) or off (plain HTTP).
    ``trouble`` says why the newest certificate is not served, "" when it is.
    """

    source: str
    serial: str = ""
    fingerprint: str = ""
    subject: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()
    not_before: str = ""
    not_after: str = ""
    client_roots: str = ""
    trouble: str = ""


AgentMessage = Delta | Lease | JournalKey | EndpointTls | HsmGroups | Invocations
WorkerMessage = (
    Hello
    | ServerHello
    | CertificateServed
    | Applied
    | Draining
    | Goodbye
    | ShadowReport
    | MetricsReport
    | UseReport
    | InvocationsWanted
)

_encoder = msgspec.msgpack.Encoder()
_agent_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_worker_decoder: msgspec.msgpack.Decoder[WorkerMessage] = msgspec.msgpack.Decoder(WorkerMessage)


def boot_clock() -> float:
    """Return seconds since boot, suspension included, where the system has such a clock.

    Unlike the wall clock it never jumps, and unlike CLOCK_MONOTONIC it runs on while the machine
    sleeps, so that whoever was suspended wakes up with its lease over.  All processes of one
    machine share it.
    """
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def encode_frame(message: AgentMessage | WorkerMessage) -> bytes:
    """Return ``message`` as one frame, length first.

    Raises:
        FrameError: the message is longer than MAX_FRAME_BYTES; send it in slices.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + body


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    return await reader.readexactly(length)


async def read_agent_message(reader: asyncio.StreamReader) -> AgentMessage:
    """Read the next message from the agent (the worker's side).

    Raises:
        FrameError: not a message of this protocol (never quotes it: it may hold keys).
        asyncio.IncompleteReadError: the connection ended.
    """
    return decode_agent_message(await _read_frame(reader))


def decode_agent_message(frame: bytes) -> AgentMessage:
    """Return the message in a frame, its length taken off.

    Raises:
        FrameError: as read_agent_message.
    """
    try:
        return _agent_decoder.decode(frame)
    except msgspec.DecodeError:
        raise FrameError("not a message from an agent of this protocol") from None


async def read_worker_message(reader: asyncio.StreamReader) -> WorkerMessage:
    """Read the next message from a worker (the agent's side).

    Raises:
        FrameError: not a message of this protocol.
        asyncio.IncompleteReadError: the connection ended.
    """
    frame = await _read_frame(reader)
    try:
        return _worker_decoder.decode(frame)
    except msgspec.DecodeError:
        raise FrameError("not a message from a worker of this protocol") from None


def slice_delta(
    generation: int,
    *,
    full: bool,
    stores: Sequence[StoreRecord] = (),
    keys: Sequence[KeyRecord] = (),
    removed_stores: Sequence[str] = (),
    removed_keys: Sequence[str] = (),
    rollback_accepted: bool = False,
    records: int = MAX_SLICE_RECORDS,
) -> Iterator[Delta]:
    """Yield one change as slices of at most ``records`` records each, the last one final.

    Access rules make a record count for more, so that no frame grows too long by them.
    Stores come before keys, removals first, so that a slice never names a store not yet known.
    A change without any record still yields one final slice: it carries the generation.
    """
    todo: list[tuple[str, StoreRecord | KeyRecord | str]] = [
        *(("removed_stores", item) for item in removed_stores),
        *(("removed_keys", item) for item in removed_keys),
        *(("stores", store) for store in stores),
        *(("keys", key) for key in keys),
    ]
    start = 0
    while True:
        parts: dict[str, list[StoreRecord | KeyRecord | str]] = {}
        weight = 0
        while start < len(todo):
            field, item = todo[start]
            more = 1 if isinstance(item, str) else 1 + _rules_weight(item)
            if weight and weight + more > records:
                break
            weight += more
            start += 1
            parts.setdefault(field, []).append(item)
        final = start >= len(todo)
        yield Delta(
            generation=generation,
            full=full,
            final=final,
            rollback_accepted=rollback_accepted,
            **parts,  # type: ignore[arg-type]
        )
        if final:
            return


RULES_CHARACTERS = 512
"""So many characters of access rules count for one more record in a slice."""


def _rules_weight(record: StoreRecord | KeyRecord) -> int:
    return (
        sum(
            len(value)
            for rules in (record.rules, record.shadow_rules)
            if rules is not None
            for rule in rules.rules
            for condition in rule.conditions
            for value in condition.values
        )
        // RULES_CHARACTERS
    )
