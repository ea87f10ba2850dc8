"""The stream for a SIEM: what it says, that nothing is left out, and what certificates are refused."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from tests.xks import journals
from tests.xks.siem_server import SyslogServer, certificate_for
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.models import AuditLink
from xks import journal_format as form
from xks.journal_writer import FileJournal
from xks.models import StreamPosition
from xks.siem_lines import Line
from xks.siem_sinks import FileSink, NotDelivered, TlsSink
from xks.siem_stream import POSITIONS, Stream


class Kept:
    """A receiver in memory, which may refuse."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.refuses = 0

    def deliver(self, lines: Sequence[Line]) -> None:
        if self.refuses:
            self.refuses -= 1
            raise NotDelivered("refused")
        self.lines += lines

    def close(self) -> None:
        """Nothing is held."""


def drain(stream: Stream) -> None:
    while stream.send_records():
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FileJournal]:
    made = journals.make_journal(tmp_path, segment_bytes=3000)
    yield made
    made._close_file()


def requests(lines: Sequence[Line]) -> list[str]:
    return [line.values["kms_request_id"] for line in lines if line.kind == "xks_request"]


def test_every_record_is_sent_across_segments_and_restarts(tmp_path: Path, journal: FileJournal) -> None:
    sink = Kept()
    stream = Stream("node-1", tmp_path, sink)
    for number in range(100):
        journal.append(journals.record(kms_request_id=f"r{number}"))
        if number % 17 == 0:
            stream.send_records()
        if number % 31 == 0:
            stream = Stream("node-1", tmp_path, sink)  # the agent was killed and started anew
    drain(stream)
    assert journal._segment > 1
    assert requests(sink.lines) == [f"r{number}" for number in range(100)]
    assert len({line.id for line in sink.lines}) == len(sink.lines)


def test_what_was_not_taken_is_sent_again(tmp_path: Path, journal: FileJournal) -> None:
    sink = Kept()
    stream = Stream("node-1", tmp_path, sink)
    for number in range(5):
        journal.append(journals.record(kms_request_id=f"r{number}"))
    sink.refuses = 2
    for _ in range(2):
        with pytest.raises(NotDelivered):
            stream.send_records()
    drain(stream)
    assert requests(sink.lines) == [f"r{number}" for number in range(5)]


def test_lines_say_who_what_and_whether_it_worked(tmp_path: Path, journal: FileJournal) -> None:
    sink = Kept()
    journal.append(journals.record(outcome="AccessDeniedException"))
    journal._write(journal._chained(form.pack(form.WITHHELD, [1_800_000_000_000_000, 2, 2])))
    journal._write(
        journal._chained(
            form.pack(
                form.COUNTS, [1_800_000_000_000_000, [["AuthenticationFailedException", "192.0.2.1", 7]]]
            )
        )
    )
    drain(Stream("node-1", tmp_path, sink))
    refused, withheld, unsigned = sink.lines
    told = json.loads(refused.json())
    assert told["type"] == "xks_request"
    assert told["at"] == "2027-01-15T08:00:00.250000Z"
    assert told["outcome"] == "AccessDeniedException"
    assert told["principal_arn"] == journals.record().principal_arn
    assert (told["kms_operation"], told["source_vpce"], told["key_version"]) == (
        "GenerateDataKey",
        "vpce-0123456789abcdef0",
        3,
    )
    assert withheld.values["first"] == refused.id
    assert unsigned.values["counts"] == [
        {"outcome": "AuthenticationFailedException", "source_ip": "192.0.2.1", "count": 7}
    ]
    frame = refused.syslog("node-1")
    length, _, message = frame.partition(b" ")
    assert int(length) == len(message)
    assert message.startswith(b"<108>1 2027-01-15T08:00:00.250000Z node-1 keystead - xks_request - {")


def test_a_large_event_stays_within_what_receivers_take() -> None:
    line = Line(
        "audit:1", "2027-01-15T08:00:00.000000Z", 6, "audit_event", {"action": "x", "before": "y" * 9000}
    )
    message = line.syslog("node-1")
    assert len(message) < 500
    assert b'"omitted":["before"]' in message
    assert len(line.json()) > 9000  # a file takes all of it


def test_a_segment_that_went_before_it_was_sent_is_a_gap(tmp_path: Path, journal: FileJournal) -> None:
    sink = Kept()
    for number in range(60):
        journal.append(journals.record(kms_request_id=f"r{number}"))
    (tmp_path / POSITIONS).write_text(json.dumps({journals.CHAIN: [0, 0]}))
    journals.segment(tmp_path, 0).unlink()
    drain(Stream("node-1", tmp_path, sink))
    assert sink.lines[0].kind == "xks_gap"
    assert (sink.lines[0].values["from_segment"], sink.lines[0].values["to_segment"]) == (0, 1)
    assert requests(sink.lines)[-1] == "r59"


def test_old_journals_are_not_sent_when_the_stream_is_turned_on(tmp_path: Path, journal: FileJournal) -> None:
    journal.append(journals.record())
    os.utime(journals.segment(tmp_path), (1, 1))
    sink = Kept()
    drain(Stream("node-1", tmp_path, sink))
    assert sink.lines == []


def test_file_survives_rotation_and_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "siem.jsonl"
    path.write_bytes(b'{"half')
    sink = FileSink(path)
    line = Line("a", "2027-01-15T08:00:00.000000Z", 6, "xks_request", {"n": 1})
    sink.deliver([line])
    assert path.read_bytes() == b'{"half\n' + line.json().encode() + b"\n"
    path.rename(tmp_path / "siem.jsonl.1")
    sink.deliver([line, line])
    assert path.read_text().splitlines() == [line.json()] * 2
    assert path.stat().st_mode & 0o777 == 0o640
    path.unlink()
    path.mkdir()
    with pytest.raises(NotDelivered, match="directory"):
        sink.deliver([line])
    sink.close()


# --- syslog over TLS on loopback ----------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SyslogServer]:
    with SyslogServer(tmp_path) as made:
        yield made


def lines(count: int, first: int = 0) -> list[Line]:
    at = "2027-01-15T08:00:00.000000Z"
    return [Line(str(n), at, 6, "xks_request", {"n": n}) for n in range(first, first + count)]


def test_syslog_over_tls(server: SyslogServer) -> None:
    sink = TlsSink("localhost", server.port, sender="node-1", authorities=server.authorities)
    sink.deliver(lines(300))
    sink.deliver(lines(2, 300))
    sink.close()
    told = server.messages(302)
    assert [json.loads(text.split(" - ", 2)[2])["n"] for text in told] == list(range(302))


def test_a_server_that_closes_is_found_again_and_loses_nothing(server: SyslogServer) -> None:
    sink = TlsSink("localhost", server.port, sender="node-1", authorities=server.authorities)
    sink.deliver(lines(1))
    server.hang_up()
    for attempt in range(3):
        try:
            sink.deliver(lines(1, 1))
            break
        except NotDelivered:
            assert attempt < 2
    sink.close()
    numbers = [json.loads(text.split(" - ", 2)[2])["n"] for text in server.messages(2)]
    assert set(numbers) == {0, 1}


def deliver_often(sink: TlsSink, times: int, what: list[Line]) -> None:
    for _ in range(times):
        sink.deliver(what)


def test_a_server_that_reads_nothing_is_given_up(
    server: SyslogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xks.siem_sinks.SEND_S", 0.3)
    server.reads.clear()
    sink = TlsSink("localhost", server.port, sender="node-1", authorities=server.authorities)
    with pytest.raises(NotDelivered):
        deliver_often(sink, 200, lines(2000))
    server.reads.set()
    sink.close()


def test_certificates_are_checked(server: SyslogServer, tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match="certificate is refused"):
        TlsSink("localhost", server.port, sender="n").deliver(lines(1))  # not from an authority of the system
    with pytest.raises(NotDelivered, match="certificate is refused"):
        TlsSink("127.0.0.1", server.port, sender="n", authorities=server.authorities).deliver(lines(1))
    other, _ = certificate_for(tmp_path / "other", "localhost")
    with pytest.raises(NotDelivered, match="certificate is refused"):
        TlsSink("localhost", server.port, sender="n", authorities=other).deliver(lines(1))


def test_our_certificate_is_shown(tmp_path: Path) -> None:
    ours = certificate_for(tmp_path / "client", "node-1")
    with SyslogServer(tmp_path, client_authorities=ours[0]) as server:
        sink = TlsSink("localhost", server.port, sender="n", authorities=server.authorities, certificate=ours)
        sink.deliver(lines(1))
        sink.close()
        assert len(server.messages(1)) == 1
        bare = TlsSink("localhost", server.port, sender="n", authorities=server.authorities)
        with pytest.raises(NotDelivered):
            deliver_often(bare, 20, lines(1))  # TLS 1.3: the refusal may come after the first was sent


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NotDelivered, match="refused"):
            TlsSink("127.0.0.1", taken.getsockname()[1], sender="n").deliver(lines(1))


# --- audit events -------------------------------------------------------------------------------------------


def events(count: int) -> None:
    for _ in range(count):
        with change(Actor.system("cli")) as tx:
            tx.audit(Action.VAULT_UPDATE, None)


@pytest.mark.django_db
def test_audit_events_are_sent_once_by_one_agent(tmp_path: Path) -> None:
    sink, other = Kept(), Kept()
    first, second = Stream("node-1", tmp_path / "1", sink), Stream("node-2", tmp_path / "2", other)
    events(2)
    first.send_events()  # turned on: from now on
    events(3)
    first.send_events()
    events(1)
    second.send_events()
    assert [line.kind for line in sink.lines] == ["audit_event"] * 3
    assert other.lines == []  # node-1 holds it
    StreamPosition.objects.update(held_until=timezone.now() - timedelta(seconds=1))
    second.send_events()
    last = AuditLink.objects.order_by("-position").first()
    assert last is not None
    assert [line.id for line in other.lines] == [f"audit:{last.position}"]


@pytest.mark.django_db
def test_audit_events_that_were_not_taken_are_sent_again(tmp_path: Path) -> None:
    sink = Kept()
    stream = Stream("node-1", tmp_path, sink)
    events(1)
    stream.send_events()
    events(2)
    sink.refuses = 1
    with pytest.raises(NotDelivered):
        stream.send_events()
    stream.send_events()
    assert [json.loads(line.json())["action"] for line in sink.lines] == ["vault:vault:update"] * 2
