import io
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm.base import WrongWrappingKey
from hsm.software import SoftwareKeyWrapper
from vault.backup_format import CHUNK_BYTES, MAGIC, BackupDamaged, Header, read_content, read_header, write

ROOT = SoftwareKeyWrapper(b"r" * 32)
SEALED_CHUNK = CHUNK_BYTES + 16
HEADER = Header(
    id="",
    created_at="2026-01-02T03:04:05+00:00",
    software="0.1.0",
    engine="sqlite",
    engine_version="3.40",
    schema=["vault.0001_initial"],
    root_key_id="",
    root_key_ids=[ROOT.key_id],
    generation=7,
)


def written(*pieces: bytes) -> bytes:
    sink = io.BytesIO()
    write(sink, HEADER, ROOT, pieces)
    return sink.getvalue()


def read(data: bytes, root: SoftwareKeyWrapper = ROOT) -> bytes:
    source = io.BytesIO(data)
    header, preamble = read_header(source)
    return b"".join(read_content(source, header, preamble, root))


def start_of_chunks(data: bytes) -> int:
    return len(MAGIC) + 5 + struct.unpack(">I", data[len(MAGIC) + 1 : len(MAGIC) + 5])[0]


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5]
)
def test_gives_back_what_was_written(size):
    content = bytes(number % 251 for number in range(1000)) * (size // 1000 + 1)
    assert read(written(content[:size])) == content[:size]


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_the_pieces_sizes_do_not_matter(pieces):
    assert read(written(*pieces)) == b"".join(pieces)


def test_the_header_is_readable_without_a_key_and_names_the_root():
    header, _ = read_header(io.BytesIO(written(b"x")))
    assert header.root_key_id == ROOT.key_id
    assert header.schema == ["vault.0001_initial"]
    assert header.id


def test_content_and_keys_are_not_in_the_file():
    data = written(b"a known secret in the content")
    assert b"known secret" not in data
    assert b"r" * 32 not in data


def test_two_backups_of_the_same_share_nothing():
    one, two = written(b"same"), written(b"same")
    assert one[-20:] != two[-20:]


def test_every_byte_counts():
    data = written(b"content")
    for at in range(len(data)):
        altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        # A changed id of the root key is found out by looking for that root (vault.restore).
        with pytest.raises((BackupDamaged, WrongWrappingKey)):
            read(altered)


def test_any_cut_is_noticed():
    data = written(b"c" * (2 * CHUNK_BYTES + 10))
    start = start_of_chunks(data)
    cuts = {
        0,
        5,
        len(MAGIC),
        start - 1,
        start,
        start + 1,
        start + 15,
        start + SEALED_CHUNK,
        start + 2 * SEALED_CHUNK,
    }
    for size in cuts | {len(data) - 1, len(data) - 26}:
        with pytest.raises(BackupDamaged):
            read(data[:size])


@pytest.mark.parametrize("tail", [b"\0", b"x" * 100])
def test_anything_appended_is_noticed(tail):
    with pytest.raises(BackupDamaged):
        read(written(b"content") + tail)


def chunks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    start = start_of_chunks(data)
    return data[:start], [data[at : at + SEALED_CHUNK] for at in range(start, len(data), SEALED_CHUNK)]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2], [0, 0, 1, 2], [0, 1], [0, 1, 2, 2], [2]])
def test_chunks_cannot_be_moved_dropped_or_doubled(order):
    head, chunks = chunks_of(written(b"a" * CHUNK_BYTES, b"b" * CHUNK_BYTES, b"c" * CHUNK_BYTES))
    assert len(chunks) == 3
    with pytest.raises(BackupDamaged):
        read(head + b"".join(chunks[number] for number in order))


def test_a_chunk_of_another_backup_does_not_fit():
    one_head, one = chunks_of(written(b"a" * CHUNK_BYTES, b"b"))
    _, two = chunks_of(written(b"a" * CHUNK_BYTES, b"b"))
    with pytest.raises(BackupDamaged):
        read(one_head + one[0] + two[1])


def test_a_rewritten_header_opens_nothing():
    data = written(b"content")
    source = io.BytesIO(data)
    header, _ = read_header(source)
    for change in ({"generation": 8}, {"schema": []}, {"engine": "postgresql"}, {"root_key_ids": []}):
        encoded = msgspec.json.encode(msgspec.structs.replace(header, **change))
        forged = MAGIC + b"\x01" + struct.pack(">I", len(encoded)) + encoded + data[start_of_chunks(data) :]
        with pytest.raises(BackupDamaged, match="does not authenticate"):
            read(forged)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no Keystead backup"),
        (b"PGDMP" + b"\0" * 50, "no Keystead backup"),
        (MAGIC + b"\x01\0", "within its header"),
        (MAGIC + b"\x02" + b"\0" * 4, "file has format 2"),
        (MAGIC + b"\x01\xff\xff\xff\xff", "header was altered"),
        (MAGIC + b"\x01\0\0\0\x02{}", "header was altered"),
        (MAGIC + b"\x01\0\0\0\x02\xff\xff", "header was altered"),
        (MAGIC + b"\x01\0\0\0\x09{}", "within its header"),
    ],
)
def test_other_files_are_refused_with_the_reason(data, said):
    with pytest.raises(BackupDamaged, match=said):
        read(data)


@given(st.binary(max_size=300))
def test_garbage_behind_the_magic_is_refused(garbage):
    with pytest.raises(BackupDamaged):
        read(MAGIC + garbage)


def test_another_root_opens_nothing():
    with pytest.raises(BackupDamaged):
        read(written(b"content"), SoftwareKeyWrapper(b"q" * 32))


def test_writing_holds_back_one_chunk_at_most():
    total = 40 * CHUNK_BYTES
    peak = 0
    sink = io.BytesIO()

    def pieces():
        nonlocal peak
        for number in range(0, total, 4096):
            peak = max(peak, number - sink.tell())
            yield b"x" * 4096

    write(sink, HEADER, ROOT, pieces())
    assert peak <= CHUNK_BYTES + 4096
