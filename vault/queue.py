"""The embedded queue: Celery's filesystem transport, with a shorter breath."""

from typing import Any

from kombu.transport import filesystem

# Celery waits in turns of 2 s and looks at a signal to stop only between two of them, so that an idle worker would
# take up to 4 s to end.
LONGEST_WAIT = 0.2


class FolderTransport(filesystem.Transport):
    """Messages are files in a folder (see CELERY_BROKER_TRANSPORT_OPTIONS in vault.settings)."""

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Wait for a message, at most LONGEST_WAIT seconds. Raises TimeoutError when none came."""
        return super().drain_events(connection, timeout=min(timeout or LONGEST_WAIT, LONGEST_WAIT), **kwargs)
