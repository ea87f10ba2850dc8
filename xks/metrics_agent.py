"""The metrics of one agent put together: workers' counts, the database's figures, and the port (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xks.agent_workers import Figures
from xks.metrics_database import DatabaseMetrics
from xks.metrics_node import NodeMetrics
from xks.metrics_server import MetricsServer


@dataclass(frozen=True)
class MetricsSettings:
    """Where an agent answers Prometheus, and what it cannot know by itself."""

    address: str
    port: int
    expected_workers: int
    certificate: Path | None = None


class AgentMetrics:
    """All of one agent's metrics."""

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        node_name: str,
        version: str,
        max_staleness_s: float,
        journal_folder: Path | None,
        figures: Callable[[], Figures],
        refused: Callable[[], bool],
    ) -> None:
        """``refused``: whether an older database is being refused at this moment."""
        self.node = NodeMetrics(
            version=version,
            expected_workers=settings.expected_workers,
            max_staleness_s=max_staleness_s,
            figures=figures,
            refused=refused,
        )
        self.database = DatabaseMetrics(
            node_name=node_name, journal_folder=journal_folder, certificate=settings.certificate
        )
        self.server = MetricsServer(settings.address, settings.port, [self.node, self.database])

    def start(self) -> None:
        """Begin to ask and to answer."""
        self.database.start()
        self.server.start()

    def stop(self) -> None:
        """End both."""
        self.database.stop()
        self.server.stop()
        self.database.join(timeout=2)
