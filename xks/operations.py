"""The four operations of the XKS protocol, from a whole request to the answer's body.

The order of checks is fixed (first wrong thing wins): path 404, method 405, body too big 501 (these
three before the body is read, in app.py), signature 401, rate 429, too little known to act on 503,
JSON and fields 400, blocked store 400, key 404, rules 403, state 400, usage 400, sizes and algorithms 501,
then cryptography.

Everything here is synchronous on purpose: a request takes the keyring once and is done before the
event loop can swap it, so a worker that has swapped has no request left under the older one.  The
exception are keys that live in an HSM: for these the answer is a Pending, counted at the desk
(xks/resident.py), which tells when none is left.
"""

from __future__ import annotations

import binascii
import hmac
import logging
import os
import re
from typing import Literal, NamedTuple, NoReturn

import msgspec

from xks import __version__, aead, limits, sigv4
from xks.bodies import (
    CallerMetadata,
    DecryptBody,
    EncryptBody,
    HealthBody,
    MetadataBody,
    RequestMetadata,
    base64_field,
    decode_body,
)
from xks.errors import (
    AuthenticationFailedException,
    DependencyTimeoutException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    InvalidStateException,
    InvalidUriPathException,
    KeyNotFoundException,
    UnsupportedOperationException,
)
from xks.keyring import Key, Keyring, Resident, Serving, Store
from xks.policy import Judge, RulesJudge
from xks.resident import Desk, Health, Pending, reference_data, worst
from xks.wire import HsmGroupRecord, boot_clock

log = logging.getLogger("keystead.xks")

MAX_PLAINTEXT_BYTES = 8192
"""Of plaintext and of ciphertext; the specification asks for 4,300 at least."""
MAX_AAD_BYTES = 16384
"""The specification asks for 8,192 at least."""
MAX_FLEET = 10
"""Members that a health answer may name."""
MAX_PATH_CHARACTERS = 256
"""The specification's limit for the whole URI; its server part is not known here."""

Operation = Literal["metadata", "encrypt", "decrypt", "health"]

_VERSION_PATH = "/kms/xks/v1/"
_KEY_PATH = re.compile(r"keys/([A-Za-z0-9._-]{1,128})/(metadata|encrypt|decrypt)")


class Route(NamedTuple):
    """What a path asks for."""

    prefix: str
    operation: Operation
    external_key_id: str


def parse_path(path: str, query: str) -> Route:
    """Take a request's path apart; whether its prefix is served is another question.

    Raises:
        InvalidUriPathException: not a path of the protocol.
    """
    prefix, found, tail = path.rpartition(_VERSION_PATH)
    if found and not query and len(path) <= MAX_PATH_CHARACTERS:
        match = _KEY_PATH.fullmatch(tail)
        if match is not None:
            external_key_id, operation = match.groups()
            if external_key_id not in (".", ".."):
                return Route(prefix, operation, external_key_id)  # type: ignore[arg-type]
        elif tail == "health":
            return Route(prefix, "health", "")
    raise InvalidUriPathException("the URI path is not one of the external key store protocol")


class Context:
    """What is learnt about one request on the way, for its journal record."""

    __slots__ = ("access_key_id", "generation", "key", "metadata", "region", "store", "version")

    def __init__(self) -> None:
        self.generation = 0
        self.store: Store | None = None
        """Set as soon as the signature has proved right; None means nothing may be believed."""
        self.access_key_id = ""
        self.region = ""
        self.key: Key | None = None
        self.version = 0
        self.metadata: RequestMetadata | None = None


class Request(NamedTuple):
    """One whole request, its path taken apart and its body read.

    ``authority`` is HTTP/2's :authority, None on HTTP/1.  ``deadline`` is on the boot-time clock,
    seconds: nobody waits for the answer any longer then.
    """

    route: Route
    method: str
    path: str
    headers: sigv4.Headers
    authority: str | None
    body: bytes
    deadline: float


class Engine:
    """Answers requests from what a worker serves."""

    def __init__(
        self, serving: Serving, *, node_name: str, judge: Judge | None = None, desk: Desk | None = None
    ) -> None:
        """``node_name`` names this node in the health answer; ``judge`` replaces the owners' rules.

        ``desk`` takes requests to HSMs; without it keys that live there cannot be used.
        """
        self.serving = serving
        self.desk = desk or Desk(_no_hsm)
        self.node_name = node_name
        self._judge = RulesJudge() if judge is None else judge

    def check_prefix(self, route: Route, boot_now: float) -> None:
        """Refuse a path whose prefix is not served, before anything of the body is read.

        Raises:
            InvalidUriPathException: no store has that prefix.
            DependencyTimeoutException: what is known is too old to say so.
        """
        if route.prefix not in self.serving.keyring.prefixes:
            self._doubt(boot_now)
            raise InvalidUriPathException("no key store is served under this URI path")

    def answer(self, request: Request, context: Context, *, now: float, boot_now: float) -> bytes | Pending:
        """Return the JSON body of a 200 answer, noting in ``context`` what is learnt on the way.

        For a key that lives in an HSM the body is what the Pending's ``work`` returns, or raises.

        ``now`` is seconds since the epoch, ``boot_now`` the boot-time clock.

        Raises:
            XksError: the refusal to answer with.
        """
        keyring = self.serving.keyring
        context.generation = keyring.generation
        store = self._authenticate(keyring, request, context, now, boot_now)
        if self.serving.expired(boot_now, store):
            raise DependencyTimeoutException("this node has been out of touch with its database for too long")
        if boot_now > request.deadline:
            raise DependencyTimeoutException("the time budget of the request was over before work began")
        operation = request.route.operation
        if operation == "health":
            health_body = decode_body(HealthBody, request.body)
            context.metadata = health_body.request_metadata
            _check_store(store)
            return self._health(store)
        if operation == "metadata":
            metadata_body = decode_body(MetadataBody, request.body)
            key = self._permitted_key(store, request.route, metadata_body.request_metadata, context, now)
            return key.metadata_answer
        if operation == "encrypt":
            encrypt_body = decode_body(EncryptBody, request.body)
            plaintext = base64_field("plaintext", encrypt_body.plaintext)
            aad = base64_field("additionalAuthenticatedData", encrypt_body.additional_authenticated_data)
            key = self._permitted_key(store, request.route, encrypt_body.request_metadata, context, now)
            if key.current is None:
                return self._encrypt_elsewhere(key, encrypt_body, plaintext, aad, context, request, store)
            return _encrypt(key, encrypt_body, plaintext, aad, context)
        decrypt_body = decode_body(DecryptBody, request.body)
        sealed = aead.Sealed(
            base64_field("ciphertext", decrypt_body.ciphertext),
            base64_field("ciphertextMetadata", decrypt_body.ciphertext_metadata),
            base64_field("initializationVector", decrypt_body.initialization_vector),
            base64_field("authenticationTag", decrypt_body.authentication_tag),
        )
        aad = base64_field("additionalAuthenticatedData", decrypt_body.additional_authenticated_data)
        key = self._permitted_key(store, request.route, decrypt_body.request_metadata, context, now)
        if key.elsewhere is not None:
            return self._decrypt_elsewhere(key, decrypt_body, sealed, aad, context, request, store)
        return _decrypt(key, decrypt_body.encryption_algorithm, sealed, aad, context)

    def _encrypt_elsewhere(
        self, key: Key, body: EncryptBody, plaintext: bytes, aad: bytes, context: Context, request: Request, store: Store
    ) -> Pending:  # fmt: skip
        _check_encrypt(key, body, plaintext, aad)
        context.version = key.current_version
        resident = key.elsewhere.resident.get(key.current_version) if key.elsewhere is not None else None
        if resident is None:
            raise _closed()
        verify = body.ciphertext_data_integrity_value_algorithm is not None

        async def work() -> bytes:
            sealed = await self.desk.seal(resident, plaintext, aad, verify=verify, deadline=request.deadline)
            self._check_time(store, request)
            return _encrypted(sealed, aead.integrity_value(aad, sealed) if verify else None)

        return self.desk.begin(work())

    def _decrypt_elsewhere(
        self, key: Key, body: DecryptBody, sealed: aead.Sealed, aad: bytes, context: Context, request: Request, store: Store
    ) -> bytes | Pending:  # fmt: skip
        metadata = sealed.metadata
        if key.elsewhere is None:
            raise RuntimeError("a key without versions elsewhere")
        resident: Resident | None = None
        authenticated = b""
        if metadata[:1] == b"\x02" and len(metadata) == aead.RESIDENT_METADATA_BYTES:
            resident = key.elsewhere.resident.get(int.from_bytes(metadata[1:], "big"))
            authenticated = aead.associated_data(aad, metadata)
        elif key.elsewhere.adopted is not None and metadata == key.elsewhere.adopted.adopted:
            resident = key.elsewhere.adopted
            absent = body.additional_authenticated_data is None
            authenticated = reference_data(aad, absent=absent, metadata=metadata)
        elif metadata[:1] == b"\x01" and int.from_bytes(metadata[1:5], "big") in key.elsewhere.closed:
            _check_decrypt(key, body.encryption_algorithm, sealed, aad)
            context.version = int.from_bytes(metadata[1:5], "big")
            raise _closed()
        if resident is None:
            return _decrypt(key, body.encryption_algorithm, sealed, aad, context)
        _check_decrypt(key, body.encryption_algorithm, sealed, aad)
        if len(sealed.iv) != aead.IV_BYTES or len(sealed.tag) != aead.TAG_BYTES:
            raise _does_not_open()
        context.version = resident.number

        async def work() -> bytes:
            try:
                plaintext = await self.desk.unseal(resident, sealed, authenticated, deadline=request.deadline)
            except aead.CiphertextInvalid:
                raise _does_not_open() from None
            self._check_time(store, request)
            return b'{"plaintext":"%b"}' % _b64(plaintext)

        return self.desk.begin(work())

    def _check_time(self, store: Store, request: Request) -> None:
        """See, after a wait, that the answer may still leave: this process may have been stopped meanwhile."""
        now = boot_clock()
        if now > request.deadline or self.serving.expired(now, store):
            raise DependencyTimeoutException("the HSM's answer came too late")

    def _doubt(self, boot_now: float) -> None:
        # "There is no such thing" is only worth saying while we know what there is.
        if self.serving.expired(boot_now):
            raise DependencyTimeoutException("this node has been out of touch with its database for too long")

    def _authenticate(
        self, keyring: Keyring, request: Request, context: Context, now: float, boot_now: float
    ) -> Store:
        credentials = keyring.prefixes.get(request.route.prefix)
        if credentials is None:
            self._doubt(boot_now)
            raise InvalidUriPathException("no key store is served under this URI path")
        try:
            credential, region = sigv4.verify(
                credentials,
                method=request.method,
                path=request.path,
                headers=request.headers,
                authority=request.authority,
                body=request.body,
                now=now,
            )
            store = keyring.stores[credential.store_id]
            if store.allowed_regions and region not in store.allowed_regions:
                raise AuthenticationFailedException(
                    "the signature or its credential is not valid for this key store"
                )
        except AuthenticationFailedException:
            self._doubt(boot_now)
            raise
        # Before anything of it goes into the journal: what is refused here is only counted.
        if (
            store.rate_per_s is not None or store.credential_rate_per_s is not None
        ) and request.route.operation != "health":
            limits.admit(store, credential, self.serving.counted_workers, boot_now)
        context.store = store
        context.access_key_id = credential.access_key_id
        context.region = region
        return store

    def _permitted_key(
        self, store: Store, route: Route, metadata: CallerMetadata, context: Context, now: float
    ) -> Key:
        """Return the key, after the checks that all operations on a key share."""
        context.metadata = metadata
        _check_store(store)
        key = store.keys.get(route.external_key_id)
        if key is None:
            raise KeyNotFoundException("there is no such external key in this key store")
        context.key = key
        self._judge(store, key, route.operation, metadata, now)
        return key

    def _health(self, store: Store) -> bytes:
        states: list[Health] = ["ACTIVE" if self._self_test(store) else "UNAVAILABLE"]
        members = self.desk.fleet(store) if store.hsm_groups else []
        if store.hsm_required and not self.desk.serves(store.hsm_required):
            states.append("UNAVAILABLE")
        member = {
            "id": self.node_name,
            "model": f"Keystead {__version__} software keys",
            "healthStatus": worst(states),
        }
        return msgspec.json.encode(
            {
                "xksProxyFleetSize": self.serving.fleet_size,
                "xksProxyVendor": "Keystead",
                "xksProxyModel": f"Keystead {__version__}",
                "ekmVendor": "Keystead",
                # The specification allows ten.
                "ekmFleetDetails": [member, *members][:MAX_FLEET],
            }
        )

    def _self_test(self, store: Store) -> bool:
        """Encrypt and decrypt with the store's health-check key, as a customer's request would be."""
        key = store.keys.get(store.health_key_id) if store.health_key_id is not None else None
        if key is None or key.refusal is not None or key.current is None:
            log.warning("store %s has no usable health-check key: answering UNAVAILABLE", store.id)
            return False
        probe = os.urandom(32)
        try:
            sealed = aead.seal(key.current, key.current_version, probe, b"health")
            return hmac.compare_digest(aead.unseal(key.versions, sealed, b"health"), probe)
        except Exception as error:  # whatever it is, the honest answer is UNAVAILABLE
            log.error("health check of store %s failed: %s", store.id, type(error).__name__)
            return False


def _check_store(store: Store) -> None:
    if store.blocked:
        raise InvalidStateException("the external key store is blocked")


def _check_sizes(algorithm: str, data: bytes, aad: bytes) -> None:
    if algorithm != "AES_GCM":
        raise UnsupportedOperationException("the only encryptionAlgorithm is AES_GCM")
    if len(data) > MAX_PLAINTEXT_BYTES:
        raise UnsupportedOperationException(f"more than {MAX_PLAINTEXT_BYTES} bytes of data")
    if len(aad) > MAX_AAD_BYTES:
        raise UnsupportedOperationException(f"more than {MAX_AAD_BYTES} bytes of additionalAuthenticatedData")


# Base64 needs no escaping in JSON, so the answer is put together as it is.
_ENCRYPT_ANSWER = (
    b'{"ciphertext":"%b","ciphertextMetadata":"%b","initializationVector":"%b","authenticationTag":"%b%b"}'
)


def _b64(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False)


def _closed() -> DependencyTimeoutException:
    return DependencyTimeoutException("the HSM that protects the external key does not answer")


def _no_hsm(record: HsmGroupRecord) -> NoReturn:
    raise RuntimeError(f"nothing here can reach HSM {record.name}")


def _does_not_open() -> InvalidCiphertextException:
    return InvalidCiphertextException(
        "the ciphertext, its metadata, initialization vector, authentication tag or additional"
        " authenticated data is not what was encrypted with this key"
    )


def _check_encrypt(key: Key, body: EncryptBody, plaintext: bytes, aad: bytes) -> None:
    cdiv_algorithm = body.ciphertext_data_integrity_value_algorithm
    if key.refusal is not None:
        raise InvalidStateException(key.refusal)
    if not key.can_encrypt:
        raise InvalidKeyUsageException("the external key is not permitted to encrypt")
    if cdiv_algorithm is not None and not key.can_decrypt:
        # The value promises that a decrypt will succeed, which this key would refuse.
        raise InvalidKeyUsageException(
            "a ciphertextDataIntegrityValue needs a key that is permitted to decrypt"
        )
    _check_sizes(body.encryption_algorithm, plaintext, aad)
    if cdiv_algorithm is not None and cdiv_algorithm != "SHA_256":
        raise UnsupportedOperationException("the only ciphertextDataIntegrityValueAlgorithm is SHA_256")


def _encrypt(key: Key, body: EncryptBody, plaintext: bytes, aad: bytes, context: Context) -> bytes:
    _check_encrypt(key, body, plaintext, aad)
    current = key.current
    if current is None:
        raise RuntimeError("the current version is not in this process")
    context.version = key.current_version
    sealed = aead.seal(current, key.current_version, plaintext, aad)
    value = None
    if body.ciphertext_data_integrity_value_algorithm is not None:
        value = aead.integrity_value(aad, sealed)
        if not hmac.compare_digest(aead.unseal(key.versions, sealed, aad), plaintext):
            raise RuntimeError("what was just encrypted did not decrypt to the plaintext")
    return _encrypted(sealed, value)


def _encrypted(sealed: aead.Sealed, integrity_value: bytes | None) -> bytes:
    cdiv = b""
    if integrity_value is not None:
        cdiv = b'","ciphertextDataIntegrityValue":"' + _b64(integrity_value)
    return _ENCRYPT_ANSWER % (
        _b64(sealed.ciphertext),
        _b64(sealed.metadata),
        _b64(sealed.iv),
        _b64(sealed.tag),
        cdiv,
    )


def _check_decrypt(key: Key, algorithm: str, sealed: aead.Sealed, aad: bytes) -> None:
    if key.refusal is not None:
        raise InvalidStateException(key.refusal)
    if not key.can_decrypt:
        raise InvalidKeyUsageException("the external key is not permitted to decrypt")
    _check_sizes(algorithm, sealed.ciphertext, aad)


def _decrypt(key: Key, algorithm: str, sealed: aead.Sealed, aad: bytes, context: Context) -> bytes:
    _check_decrypt(key, algorithm, sealed, aad)
    try:
        plaintext = aead.unseal(key.versions, sealed, aad)
    except aead.CiphertextInvalid:
        raise _does_not_open() from None
    context.version = int.from_bytes(sealed.metadata[1:5], "big")
    return b'{"plaintext":"%b"}' % _b64(plaintext)
