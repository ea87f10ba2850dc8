"""The file format of a backup: a readable header, then the database encrypted in ordered, end-marked chunks.

    "keystead-backup\\n"  version (1 byte)  header length (4 bytes, big-endian)  header (JSON)  chunks

Each backup has a random 32 byte file key, wrapped by the root key (so that a root key in an HSM serves too) and kept in
the header. The stream key is HKDF-SHA256 (RFC 5869) of the file key with the hash of everything before the chunks as
salt: one changed header byte and nothing decrypts. Chunks follow the STREAM construction (Hoang, Reyhanitabar, Rogaway
and Vizar, CRYPTO 2015): AES-256-GCM, nonce = 11 byte chunk number and 1 byte that is 1 in the last chunk, so that no
chunk can be dropped, doubled, moved or cut off unseen. A counter is safe as nonce because no two files share a key.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import uuid
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsm.base import DataInvalid, KeyWrapper
from hsm.blob import TAG_BYTES
from hsm.software import new_key

MAGIC: Final = b"keystead-backup\n"
VERSION: Final = 1
CHUNK_BYTES: Final = 256 * 1024
MAX_HEADER_BYTES: Final = 1024 * 1024
_STREAM_LABEL: Final = b"keystead:v1:backup-stream"


class BackupDamaged(Exception):
    """The file is no backup, or was cut short or altered. Says what is wrong."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be known about a backup without any key. Authenticated together with the content.

    ``schema`` lists the applied migrations as "app.name". ``root_key_ids`` are all roots that the content needs: two
    when it was made in the midst of a re-wrap; ``root_key_id`` is the one that opens the file itself.
    """

    id: str
    created_at: str
    software: str
    engine: str
    engine_version: str
    schema: list[str]
    root_key_id: str
    root_key_ids: list[str]
    generation: int
    wrapped_key: str = ""


def _key_place(backup_id: str) -> bytes:
    return f"keystead:v1:backup:{backup_id}".encode()


def _stream_cipher(file_key: bytes, preamble: bytes) -> AESGCM:
    salt = hashlib.sha256(preamble).digest()
    return AESGCM(HKDF(SHA256(), 32, salt=salt, info=_STREAM_LABEL).derive(file_key))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def write(sink: BinaryIO, header: Header, root: KeyWrapper, content: Iterable[bytes]) -> None:
    """Write a whole backup. ``header.id``, ``root_key_id`` and ``wrapped_key`` are filled in here. Raises OSError."""
    file_key = new_key()
    backup_id = str(uuid.uuid4())
    wrapped = base64.b64encode(root.encrypt(file_key, _key_place(backup_id))).decode("ascii")
    full = msgspec.structs.replace(header, id=backup_id, root_key_id=root.key_id, wrapped_key=wrapped)
    encoded = msgspec.json.encode(full)
    preamble = MAGIC + bytes([VERSION]) + struct.pack(">I", len(encoded)) + encoded
    cipher = _stream_cipher(file_key, preamble)
    sink.write(preamble)
    pending = bytearray()
    number = 0
    for piece in content:
        pending += piece
        # One chunk is always held back: only at the end is it known which one is the last.
        while len(pending) > CHUNK_BYTES:
            sink.write(cipher.encrypt(_nonce(number, last=False), bytes(pending[:CHUNK_BYTES]), None))
            del pending[:CHUNK_BYTES]
            number += 1
    sink.write(cipher.encrypt(_nonce(number, last=True), bytes(pending), None))


def read_header(source: BinaryIO) -> tuple[Header, bytes]:
    """Return the header, not yet authenticated, and the bytes up to the first chunk. Raises BackupDamaged."""
    start = source.read(len(MAGIC) + 5)
    if start[: len(MAGIC)] != MAGIC:
        raise BackupDamaged("this is no Keystead backup")
    if len(start) < len(MAGIC) + 5:
        raise BackupDamaged("the file ends within its header")
    version = start[len(MAGIC)]
    if version != VERSION:
        raise BackupDamaged(
            f"this version of Keystead reads backup format {VERSION}, the file has format {version}"
        )
    (size,) = struct.unpack(">I", start[len(MAGIC) + 1 :])
    if size > MAX_HEADER_BYTES:
        raise BackupDamaged("its header was altered")
    encoded = source.read(size)
    if len(encoded) < size:
        raise BackupDamaged("the file ends within its header")
    try:
        return msgspec.json.decode(encoded, type=Header), start + encoded
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BackupDamaged("its header was altered") from error


def read_content(source: BinaryIO, header: Header, preamble: bytes, root: KeyWrapper) -> Iterator[bytes]:
    """Yield the content, each piece authenticated; only a loop that ends without error has seen the whole.

    Raises BackupDamaged.
    """
    try:
        wrapped = base64.b64decode(header.wrapped_key, validate=True)
        file_key = root.decrypt(wrapped, _key_place(header.id))
    except (ValueError, DataInvalid) as error:
        raise BackupDamaged("its header was altered") from error
    cipher = _stream_cipher(file_key, preamble)
    number = 0
    chunk = source.read(CHUNK_BYTES + TAG_BYTES)
    while True:
        following = source.read(CHUNK_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(number, last=not following), chunk, None)
        except (InvalidTag, ValueError):
            raise BackupDamaged(
                f"part {number + 1} does not authenticate: the file was altered or cut short"
            ) from None
        if not following:
            return
        chunk, number = following, number + 1
