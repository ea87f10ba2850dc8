"""What is said over the Unix socket between a member's helper process and those who use its keys.

A frame is a length (4 bytes, big-endian) and MessagePack: a list of requests one way, a list of answers the other.
What gathers in one turn of an event loop travels in one frame, so that a frame costs one system call however many
requests it holds. Answers come in any order; ``id`` tells whose they are.

The helper's configuration comes in one frame on its standard input; PINs are never arguments or environment.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from hsm import base

MAX_FRAME_BYTES: Final = 1 << 20
"""A longer frame is a stranger's, or a fault; the connection ends."""
LENGTH_BYTES: Final = 4

KeyKind: TypeAlias = Literal["wrapping", "resident", "replicable", "health", "transfer"]
"""What a key is made for, and with it its template: see ``hsm.token.TEMPLATES``."""


class ProtocolError(Exception):
    """The other side does not speak this protocol, or not this version of it."""


def boot_clock() -> float:
    """Return the clock in which ``deadline`` is told: that of all processes of this host, suspension included."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class HelperConfig(msgspec.Struct, omit_defaults=True):
    """What a helper is told at its start. Exactly one token; by serial number when given, else by label."""

    module: str
    """Absolute path of the PKCS#11 module. Whoever starts the helper has checked that it may be loaded."""
    socket: str
    """Where the helper listens (mode 0600); at most 100 bytes."""
    token_serial: str = ""
    token_label: str = ""
    login: Literal["pin", "none"] = "pin"
    """``none``: the keys are protected by the module or by a session that somebody has preloaded."""
    pin: bytes = b""
    read_write: bool = True
    threads: int = 0
    """Calls at a time; 0: one, on the event loop, if the token answers within a millisecond, else 32."""
    deadline_s: float = 5.0
    """A PKCS#11 call that takes longer hangs: the helper ends itself, to be started afresh."""
    health_key: str = ""
    """CKA_ID (hex) of the health-check key; the probe uses it if it is there, else a session key of its own."""
    mechanisms: dict[str, int] = msgspec.field(default_factory=dict)
    """Mechanism numbers that differ from the standard's, by name ("AES_KEY_WRAP_PAD": 0x...)."""
    vendor: str = ""
    """Name of an entry of ``hsm.documented`` to go by; empty: found by the token's manufacturer."""

    def __repr__(self) -> str:
        token = self.token_serial or self.token_label
        return f"HelperConfig(module={self.module!r}, token={token!r}, login={self.login!r}, pin=<masked>)"


class Encrypt(msgspec.Struct, tag="e", array_like=True):
    """AES-256-GCM under the key. ``verify``: decrypt and compare inside the HSM before answering."""

    id: int
    key: bytes
    data: bytes
    aad: bytes
    verify: bool = True
    deadline: float = 0.0
    """By :func:`boot_clock`; nobody waits for the answer after it, so that the helper does not begin. 0: none."""


class Decrypt(msgspec.Struct, tag="d", array_like=True):
    """Reverse of Encrypt; ``data`` is the ciphertext and its tag (16 bytes)."""

    id: int
    key: bytes
    nonce: bytes
    data: bytes
    aad: bytes
    deadline: float = 0.0


class Random(msgspec.Struct, tag="r", array_like=True):
    """``count`` bytes (65,536 at most) of the HSM's random generator."""

    id: int
    count: int


class Generate(msgspec.Struct, tag="g", array_like=True):
    """Make a key with this CKA_ID; its attributes are read back and compared.

    AES-256, but for ``transfer``: an RSA-3072 pair (UNWRAP, WRAP; gone with the helper's session), whose public key
    is ``Done.data``. ``Done.info`` holds the attributes.
    """

    id: int
    key: bytes
    label: str
    kind: KeyKind


class Describe(msgspec.Struct, tag="a", array_like=True):
    """Ask for the attributes of a key (never CKA_VALUE or CKA_CHECK_VALUE), in ``Done.info``."""

    id: int
    key: bytes


class FindByLabel(msgspec.Struct, tag="l", array_like=True):
    """Ask for the secret keys with this label: ``Done.info["keys"]``, a list of CKA_IDs (hex)."""

    id: int
    label: str


class Identify(msgspec.Struct, tag="n", array_like=True):
    """Give the one secret key with this label a CKA_ID, if it has none; nothing else of it changes."""

    id: int
    label: str
    key: bytes


class Destroy(msgspec.Struct, tag="x", array_like=True):
    """Destroy a key. What it encrypted is unreadable from then on."""

    id: int
    key: bytes


class Export(msgspec.Struct, tag="o", array_like=True):
    """Wrap an extractable key (RSA-OAEP) for the member whose transfer key this is: ``Done.data``.

    ``under`` is what Generate(kind="transfer") answered there in ``Done.data``: an RSA public key (SPKI, DER).
    """

    id: int
    key: bytes
    under: bytes


class Import(msgspec.Struct, tag="i", array_like=True):
    """Unwrap what Export gave as a key with this CKA_ID; ``under`` is the CKA_ID of our own transfer key."""

    id: int
    key: bytes
    label: str
    under: bytes
    blob: bytes
    kind: KeyKind = "replicable"


class Harden(msgspec.Struct, tag="h", array_like=True):
    """Set CKA_EXTRACTABLE of a replicable key to false, for ever; read back and compared."""

    id: int
    key: bytes


class Seal(msgspec.Struct, tag="w", array_like=True):
    """Encrypt a data key by AES key wrap with padding (SP 800-38F, KWP), where the HSM has no AES-GCM."""

    id: int
    key: bytes
    data: bytes


class Unseal(msgspec.Struct, tag="u", array_like=True):
    """Reverse of Seal."""

    id: int
    key: bytes
    data: bytes


class Probe(msgspec.Struct, tag="q", array_like=True):
    """Measure also what takes long (RSA-OAEP), and answer as Status does. May take a few seconds."""

    id: int


class Status(msgspec.Struct, tag="s", array_like=True):
    """Ask who the token is, what it can do, and what the helper has counted: ``Done.info``."""

    id: int


class Done(msgspec.Struct, tag="D", array_like=True):
    """The answer to a request that was carried out."""

    id: int
    nonce: bytes = b""
    data: bytes = b""
    info: dict[str, Any] | None = None


class Failed(msgspec.Struct, tag="F", array_like=True):
    """The answer to one that was not: ``error`` is a class of ``hsm.base``, ``code`` the CKR value if there is one."""

    id: int
    error: str
    message: str
    code: int = 0


Request: TypeAlias = (
    Encrypt
    | Decrypt
    | Random
    | Generate
    | Describe
    | FindByLabel
    | Identify
    | Destroy
    | Export
    | Import
    | Harden
    | Seal
    | Unseal
    | Probe
    | Status
)
Answer: TypeAlias = Done | Failed

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(list[Request])
_answers = msgspec.msgpack.Decoder(list[Answer])
_config = msgspec.msgpack.Decoder(HelperConfig)


def frame(messages: Sequence[Request] | Sequence[Answer]) -> bytes:
    """Return the frame that carries these messages. Raises ProtocolError when it would be too long."""
    buffer = bytearray(LENGTH_BYTES)
    _encoder.encode_into(messages, buffer, LENGTH_BYTES)
    return _finish(buffer)


def config_frame(config: HelperConfig) -> bytes:
    """Return the frame that a helper reads from its standard input first."""
    buffer = bytearray(LENGTH_BYTES)
    _encoder.encode_into(config, buffer, LENGTH_BYTES)
    return _finish(buffer)


def _finish(buffer: bytearray) -> bytes:
    size = len(buffer) - LENGTH_BYTES
    if size > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size} bytes; {MAX_FRAME_BYTES} are allowed")
    buffer[:LENGTH_BYTES] = size.to_bytes(LENGTH_BYTES, "big")
    return bytes(buffer)


def read_requests(payload: bytes | bytearray | memoryview) -> list[Request]:
    """Return the requests of a frame's payload. Raises ProtocolError."""
    try:
        return _requests.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not a list of requests: {_without_values(error)}") from None


def read_answers(payload: bytes | bytearray | memoryview) -> list[Answer]:
    """Return the answers of a frame's payload. Raises ProtocolError."""
    try:
        return _answers.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not a list of answers: {_without_values(error)}") from None


def read_config(payload: bytes) -> HelperConfig:
    """Return the configuration in a frame's payload. Raises ProtocolError, which quotes nothing of it."""
    try:
        return _config.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not a helper's configuration: {_without_values(error)}") from None


def _without_values(error: Exception) -> str:
    # msgspec quotes the value of an unknown tag or choice; of that only its place is told.
    text = str(error)
    return "a value that is not known" + text.rpartition("'")[2] if "value '" in text else text


class Frames:
    """Cuts a byte stream into the payloads of its frames."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was read, and yield each payload that is now whole. Raises ProtocolError."""
        if not self._held and len(data) >= LENGTH_BYTES:
            # By far the most frequent case: one frame, whole.
            size = int.from_bytes(data[:LENGTH_BYTES], "big")
            if size == len(data) - LENGTH_BYTES and size <= MAX_FRAME_BYTES:
                return iter((data[LENGTH_BYTES:],))
        self._held += data
        return self._cut()

    def _cut(self) -> Iterator[bytes]:
        held = self._held
        at = 0
        payloads = []
        while len(held) - at >= LENGTH_BYTES:
            size = int.from_bytes(held[at : at + LENGTH_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes; {MAX_FRAME_BYTES} are allowed")
            end = at + LENGTH_BYTES + size
            if len(held) < end:
                break
            payloads.append(bytes(held[at + LENGTH_BYTES : end]))
            at = end
        del held[:at]
        return iter(payloads)


def _error_classes(root: type[base.HsmError]) -> Iterable[type[base.HsmError]]:
    yield root
    for each in root.__subclasses__():
        yield from _error_classes(each)


_ERRORS: Final = {
    each.__name__: each for each in _error_classes(base.HsmError) if each is not base.WrongWrappingKey
}


def failed(id: int, error: base.HsmError) -> Failed:
    """Return the answer that tells of ``error``."""
    return Failed(id, type(error).__name__, str(error), getattr(error, "code", 0))


def error_of(answer: Failed) -> base.HsmError:
    """Return the error that the other side raised, as one of ours."""
    error = _ERRORS.get(answer.error, base.HsmError)(answer.message)
    error.code = answer.code
    if isinstance(error, base.HsmTimeout):
        error.alive = True  # it says so itself
    return error
