"""vault.queue and vault.celery: messages through the data folder, and the pulse of worker and beat."""

import signal
import threading
import time
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from vault import celery as celery_module
from vault import probe, queue


@pytest.fixture
def connection(tmp_path: Path) -> Any:
    """Yield a connection to a queue in a folder of its own."""
    for name in ("queue", "control"):
        (tmp_path / name).mkdir()
    options = {
        "data_folder_in": str(tmp_path / "queue"),
        "data_folder_out": str(tmp_path / "queue"),
        "control_folder": str(tmp_path / "control"),
        "polling_interval": 0.01,
    }
    with Connection(
        "localhost", transport="vault.queue:FolderTransport", transport_options=options
    ) as opened:
        yield opened


# kombu remembers for the whole process which queues it has bound, whatever the folder; hence a name for each test.


def test_a_message_goes_through_a_file(connection, tmp_path):
    with connection.SimpleQueue("through-a-file") as work:
        work.put({"operation": "o1"})
        assert len(list((tmp_path / "queue").iterdir())) == 1
        message = work.get(timeout=5)
        assert message.payload == {"operation": "o1"}
        message.ack()
    assert list((tmp_path / "queue").iterdir()) == []


def test_half_a_message_is_never_seen_and_a_damaged_one_ends_nobody(connection, tmp_path):
    folder = tmp_path / "queue"
    with connection.SimpleQueue("whole-only") as work:
        (folder / ".1_x.whole-only.msg.part").write_bytes(b'{"bo')
        (folder / "0_x.whole-only.msg").write_bytes(b"")
        work.put({"operation": "o1"})
        message = work.get(timeout=5)
        assert message.payload == {"operation": "o1"}
        message.ack()
    assert [path.name for path in folder.iterdir()] == [".1_x.whole-only.msg.part"]


def test_each_message_is_taken_by_one(connection, tmp_path):
    with connection.SimpleQueue("by-one") as work:
        for number in range(20):
            work.put({"number": number})
        got = [[], []]

        def take(mine):
            with connection.clone() as own, own.SimpleQueue("by-one") as queue_of_own:
                while True:
                    try:
                        message = queue_of_own.get(block=False)
                    except Empty:
                        return
                    mine.append(message.payload["number"])
                    message.ack()

        threads = [threading.Thread(target=take, args=(mine,)) for mine in got]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got[0] + got[1]) == list(range(20))


def test_an_idle_worker_looks_up_often_enough_to_stop_in_time(connection):
    with connection.SimpleQueue("idle"):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=2.0)
        assert time.monotonic() - began < queue.LONGEST_WAIT * 4


def test_the_app_uses_it_when_there_is_no_redis(settings):
    app = celery_module.app
    if settings.CELERY_BROKER_URL.startswith("redis"):
        assert app.connection().as_uri().startswith("redis://")
    else:
        assert isinstance(app.connection().transport, queue.FolderTransport)
    assert app.conf.task_acks_late
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_ignore_result


class Timer:
    """Records what is to be called repeatedly."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def call_repeatedly(self, seconds: float, function: Any, args: tuple[Any, ...]) -> None:
        """Record."""
        self.calls.append((seconds, function, args))


def test_the_worker_shows_its_pulse_and_nothing_else(data_dir):
    (data_dir / "run").mkdir()
    sender = type("Consumer", (), {"timer": Timer()})()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        celery_module.start_pulse(sender)
        # Celery would print every thread's local variables.
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert probe.has_pulse("worker")
    assert sender.timer.calls == [(probe.PULSE_SECONDS, probe.beat_pulse, ("worker",))]


def test_beat_shows_its_pulse_at_each_tick_and_keeps_no_file(data_dir):
    (data_dir / "run").mkdir()
    app = Celery("test", broker="memory://")
    scheduler = celery_module.BeatScheduler(app)
    scheduler.setup_schedule()
    wait = scheduler.tick()
    assert 0 <= wait <= probe.PULSE_SECONDS
    assert probe.has_pulse("beat")
    assert [path.name for path in (data_dir / "run").iterdir()] == ["beat.pulse"]
    app.close()
