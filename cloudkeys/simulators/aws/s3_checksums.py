"""The checksums of S3 (API reference, "Checking object integrity"): Content-MD5, x-amz-checksum-* and
trailers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from functools import cache

from cloudkeys.simulators.aws.context import AwsError

HEADER_PREFIX = "x-amz-checksum-"


@cache
def _reflected_table(polynomial: int) -> tuple[int, ...]:
    """The table of a reflected CRC; ``polynomial`` is bit-reversed."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _crc(polynomial: int, bits: int) -> Callable[[bytes], bytes]:
    def digest(data: bytes) -> bytes:
        table, everything = _reflected_table(polynomial), (1 << bits) - 1
        value = everything
        for byte in data:
            value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
        return (value ^ everything).to_bytes(bits // 8, "big")

    return digest


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# CRC-32C (Castagnoli) and CRC-64/NVME by their reflected polynomials; both start and end inverted.
ALGORITHMS: Mapping[str, Callable[[bytes], bytes]] = {
    "crc32": _crc32,
    "crc32c": _crc(0x82F63B78, 32),
    "crc64nvme": _crc(0x9A6C9329AC4BC9B5, 64),
    "sha1": _sha1,
    "sha256": _sha256,
}


def checksum(algorithm: str, data: bytes) -> str:
    """The checksum in base64. ``algorithm`` is a name of ``ALGORITHMS``; AwsError when the simulator lacks
    it."""
    if algorithm not in ALGORITHMS:
        raise AwsError("NotImplemented", f"The AWS simulator has no checksum {algorithm.upper()}.", 501)
    return base64.b64encode(ALGORITHMS[algorithm](data)).decode()


def _check(algorithm: str, stated: str, data: bytes) -> None:
    if not hmac.compare_digest(checksum(algorithm, data).encode(), stated.strip().encode()):
        raise AwsError(
            "BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum."
        )


def check_headers(headers: Mapping[str, str], data: bytes) -> dict[str, str]:
    """Compare ``data`` with every checksum that the headers state; returns what to keep with the object, by
    algorithm.

    A checksum announced for the trailer was compared when the chunks were read; here it is computed again.
    Raises AwsError BadDigest, InvalidDigest or InvalidRequest.
    """
    md5 = headers.get("content-md5")
    if md5 is not None:
        try:
            stated_md5 = base64.b64decode(md5, validate=True)
        except binascii.Error as error:
            raise AwsError("InvalidDigest", "The Content-MD5 you specified was invalid.") from error
        if not hmac.compare_digest(stated_md5, hashlib.md5(data, usedforsecurity=False).digest()):
            raise AwsError("BadDigest", "The Content-MD5 you specified did not match what we received.")
    stated = {
        name.removeprefix(HEADER_PREFIX): value
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX) and name not in ("x-amz-checksum-mode", "x-amz-checksum-type")
    }
    trailer = headers.get("x-amz-trailer", "").strip().lower()
    if trailer.startswith(HEADER_PREFIX):
        algorithm = trailer.removeprefix(HEADER_PREFIX)
        stated.setdefault(algorithm, checksum(algorithm, data))
    if len(stated) > 1:
        raise AwsError(
            "InvalidRequest",
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        )
    for algorithm, value in stated.items():
        _check(algorithm, value, data)
    return {algorithm: value.strip() for algorithm, value in stated.items()}


def check_trailer(trailer: bytes, announced: str, data: bytes) -> None:
    """Compare ``data`` with the checksum in the trailer of an aws-chunked body.

    ``trailer`` is what follows the last chunk, ``announced`` the header x-amz-trailer (empty: none was
    announced). Raises AwsError MalformedTrailerError or BadDigest.
    """
    lines = [line for line in trailer.decode("latin-1").replace("\r\n", "\n").split("\n") if line]
    found = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    found.pop("x-amz-trailer-signature", None)
    expected = {name.strip().lower() for name in announced.split(",") if name.strip()}
    if set(found) != expected:
        raise AwsError(
            "MalformedTrailerError", "The request contained trailing data that was not well-formed."
        )
    for name, value in found.items():
        if not name.startswith(HEADER_PREFIX):
            raise AwsError(
                "InvalidRequest", "The value specified in the x-amz-trailer header is not supported"
            )
        _check(name.removeprefix(HEADER_PREFIX), value, data)
