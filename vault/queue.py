"""The embedded queue: Celery's filesystem transport, with whole messages and a shorter breath."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

from vault.env import create_private_file

log = logging.getLogger(__name__)

# Celery waits in turns of 2 s and looks at a signal to stop only between two of them, so that an idle worker would
# take up to 4 s to end.
LONGEST_WAIT = 0.2


class FolderChannel(filesystem.Channel):  # type: ignore[misc]
    """Messages are files that appear whole and are taken by one.

    kombu's own channel writes into the file that a worker may already be reading, and a worker that reads half of a
    message ends with an error; it also moves messages through the machine's temporary folder.
    """

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # The name as kombu makes it: messages are taken in the order of their names.
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        folder = Path(self.data_folder_out)
        hidden = folder / f".{name}.part"
        try:
            hidden.write_bytes(dumps(payload).encode())
            os.rename(hidden, folder / name)
        except OSError as error:
            raise ChannelError(f"the queue in {folder} takes no message ({error.strerror})") from error

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = Path(self.data_folder_in)
        for name in sorted(os.listdir(folder)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            mine = folder / f".{name}.{uuid.uuid4()}.taken"
            try:
                os.rename(folder / name, mine)
            except FileNotFoundError:
                # Another worker was faster.
                continue
            text = mine.read_bytes()
            os.unlink(mine)
            try:
                return loads(text.decode())
            except (UnicodeDecodeError, json.JSONDecodeError):
                log.warning("a message of %s bytes in the queue is damaged and is left out", len(text))
        raise Empty

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        # Made whole first: kombu makes it empty, and who reads it just then gets an error.
        create_private_file(self._exchange_file(exchange), b"[]")
        super()._queue_bind(exchange, routing_key, pattern, queue)


class FolderTransport(filesystem.Transport):  # type: ignore[misc]
    """Messages are files in a folder (see CELERY_BROKER_TRANSPORT_OPTIONS in vault.settings)."""

    Channel = FolderChannel

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Wait for a message, at most LONGEST_WAIT seconds. Raises TimeoutError when none came."""
        return super().drain_events(connection, timeout=min(timeout or LONGEST_WAIT, LONGEST_WAIT), **kwargs)
