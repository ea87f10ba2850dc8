"""What a node's workers have counted, as Prometheus metrics (docs/metrics.md).

Workers tell sums that only grow while they live.  When one has ended its last sums are kept, so that the node's
counters never go back; only the agent's own restart begins them anew, which Prometheus knows how to take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from xks import wire
from xks.agent_registry import ProcessName
from xks.agent_workers import Figures
from xks.metrics_counters import BOUNDS_US, BUCKETS, CELL, MAX_STORES, OTHERS, RECEIVED, SENT, SUM_US

MAX_RULE_SETS: Final = 200
"""Shadowed rules counted apart; the others together."""
QUIET_S: Final = 5.0
"""A worker that has not reported for so long is shown as silent."""

_BOUNDS: Final = [*(f"{bound / 1e6:g}" for bound in BOUNDS_US), "+Inf"]
_Names = tuple[str, str, str]


@dataclass
class _Worker:
    report: wire.MetricsReport
    at: float


class NodeMetrics:
    """See xks.agent_workers.Metrics; ``collect`` may be called from any thread."""

    def __init__(
        self,
        *,
        version: str,
        expected_workers: int,
        max_staleness_s: float,
        figures: Callable[[], Figures],
        refused: Callable[[], bool],
        clock: Callable[[], float] = wire.boot_clock,
    ) -> None:
        self._version = version
        self._expected = expected_workers
        self._max_staleness_s = max_staleness_s
        self._figures = figures
        self._refused = refused
        self._clock = clock
        self._lock = threading.Lock()
        self._workers: dict[ProcessName, _Worker] = {}
        self._ended = 0
        # Of workers that have ended.
        self._cells: dict[_Names, list[int]] = {}
        self._unsigned: dict[str, int] = {}
        self._unrecorded = 0
        self._shadow: dict[str, list[int]] = {}

    # --- the agent's side ---

    def reported(self, process: ProcessName, report: wire.MetricsReport) -> None:
        """See Metrics."""
        if any(len(cell) != CELL for *_, cell in report.cells):
            raise wire.FrameError("a worker's counters are of another release")
        with self._lock:
            self._workers[process] = _Worker(report, self._clock())

    def shadowed(self, counts: Iterable[wire.ShadowCount]) -> None:
        """See Metrics."""
        with self._lock:
            for count in counts:
                name = count.rule_set_id
                if name not in self._shadow and len(self._shadow) >= MAX_RULE_SETS:
                    name = OTHERS
                sums = self._shadow.setdefault(name, [0, 0])
                sums[0] += count.judged
                sums[1] += sum(count.denied.values())

    def gone(self, process: ProcessName) -> None:
        """See Metrics."""
        with self._lock:
            worker = self._workers.pop(process, None)
            self._ended += 1
            if worker is not None:
                _add_cells(self._cells, worker.report)
                _add_unsigned(self._unsigned, worker.report)
                self._unrecorded += worker.report.unrecorded

    # --- Prometheus' side ---

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        with self._lock:
            reports = [(worker.report, worker.at) for worker in self._workers.values()]
            cells = {names: list(cell) for names, cell in self._cells.items()}
            unsigned = dict(self._unsigned)
            unrecorded = self._unrecorded
            shadow = {name: tuple(sums) for name, sums in self._shadow.items()}
            ended = self._ended
        for report, _ in reports:
            _add_cells(cells, report)
            _add_unsigned(unsigned, report)
            unrecorded += report.unrecorded
        info = InfoMetricFamily("keystead_build", "Version of the running agent.")
        info.add_metric([], {"version": self._version})
        yield info
        yield from _requests(cells, unsigned, unrecorded)
        yield from self._state(reports, ended)
        judged = CounterMetricFamily(
            "keystead_xks_shadow_judged", "Requests judged by shadowed access rules.", labels=["rules"]
        )
        denied = CounterMetricFamily(
            "keystead_xks_shadow_denied",
            "Requests that shadowed access rules would have denied.",
            labels=["rules"],
        )
        for name, (all_of_them, refused) in sorted(shadow.items()):
            judged.add_metric([name], all_of_them)
            denied.add_metric([name], refused)
        yield judged
        yield denied

    def _state(self, reports: list[tuple[wire.MetricsReport, float]], ended: int) -> Iterator[Metric]:
        now = self._clock()
        figures = self._figures()
        heard = [report for report, at in reports if now - at < QUIET_S]
        yield _gauge("keystead_xks_workers", "Worker processes connected to the agent.", figures.connected)
        yield _gauge(
            "keystead_xks_workers_expected", "Worker processes that this node is set to run.", self._expected
        )
        yield _gauge(
            "keystead_xks_workers_silent",
            f"Workers that have not reported for {QUIET_S:g} seconds: stopped, or held up.",
            len(reports) - len(heard),
        )
        yield _counter("keystead_xks_workers_ended", "Worker processes that have ended.", ended)
        yield _gauge(
            "keystead_xks_requests_in_flight",
            "Requests begun and not yet answered.",
            sum(report.in_flight for report in heard),
        )
        # What nobody vouched for yet is as old as can be told: since the beginning of this boot.
        current = 0.0 if figures.current_at is None else figures.current_at
        vouched = [0.0 if r.lease_issued_at_s is None else r.lease_issued_at_s for r, _ in reports]
        yield _gauge(
            "keystead_xks_staleness_seconds",
            "Age of what the most outdated worker serves by (its lease); workers close at the bound.",
            now - min([current, *vouched]),
        )
        yield _gauge(
            "keystead_xks_max_staleness_seconds",
            "Bound at which workers answer 503 (a store may have its own).",
            self._max_staleness_s,
        )
        yield _gauge("keystead_xks_generation", "Generation that the agent holds.", figures.generation)
        yield _gauge(
            "keystead_xks_generation_lag",
            "Generations by which the last worker is behind the agent.",
            max([figures.generation - report.generation for report, _ in reports], default=0),
        )
        yield _gauge(
            "keystead_xks_generation_refused",
            "1 while an older database than the one applied is refused.",
            int(self._refused()),
        )
        yield _gauge("keystead_xks_stores", "External key stores that are served.", figures.stores)
        yield _gauge("keystead_xks_keys", "External keys that are served.", figures.keys)
        yield _gauge(
            "keystead_xks_journal_problem_workers",
            "Workers whose journal cannot be written, or whose device has stalled: they refuse.",
            sum(1 for report, _ in reports if report.problem),
        )
        yield _gauge(
            "keystead_xks_journal_open_segment_bytes",
            "Bytes of the journal segments that workers are writing.",
            sum(report.journal_bytes for report, _ in reports),
        )
        yield _counter(
            "keystead_xks_journal_segments",
            "Journal segments begun by the workers that run.",
            sum(report.journal_segment + 1 for report, _ in reports),
        )


def _requests(cells: dict[_Names, list[int]], unsigned: dict[str, int], unrecorded: int) -> Iterator[Metric]:
    latency = HistogramMetricFamily(
        "keystead_xks_request_duration_seconds",
        "From a signed request's arrival to its record in the journal.",
        labels=["store", "operation"],
    )
    outcomes = CounterMetricFamily(
        "keystead_xks_requests",
        "Signed requests; outcome is OK or the errorName of the answer.",
        labels=["store", "operation", "outcome"],
    )
    received = CounterMetricFamily(
        "keystead_xks_request_bytes", "Bytes of signed requests' bodies.", labels=["store"]
    )
    sent = CounterMetricFamily(
        "keystead_xks_response_bytes", "Bytes of the answers to signed requests.", labels=["store"]
    )
    merged: dict[tuple[str, str], list[int]] = {}
    volume: dict[str, list[int]] = {}
    for (store, operation, outcome), cell in sorted(cells.items()):
        outcomes.add_metric([store, operation, outcome], sum(cell[:BUCKETS]))
        sums = merged.setdefault((store, operation), [0] * CELL)
        for index, number in enumerate(cell):
            sums[index] += number
        bytes_of = volume.setdefault(store, [0, 0])
        bytes_of[0] += cell[RECEIVED]
        bytes_of[1] += cell[SENT]
    for names, sums in merged.items():
        running, buckets = 0, []
        for bound, number in zip(_BOUNDS, sums, strict=False):
            running += number
            buckets.append((bound, float(running)))
        latency.add_metric(list(names), buckets, sums[SUM_US] / 1e6)
    for store, (got, gave) in volume.items():
        received.add_metric([store], got)
        sent.add_metric([store], gave)
    refused = CounterMetricFamily(
        "keystead_xks_unsigned_requests",
        "Requests charged to no store: no valid signature (401, 404, 405), or refused unread (429, 501, 503).",
        labels=["outcome"],
    )
    for outcome, number in sorted(unsigned.items()):
        refused.add_metric([outcome], number)
    yield from (latency, outcomes, received, sent, refused)
    yield _counter(
        "keystead_xks_unrecorded_results",
        "Results that did not leave, because they could not be recorded in the journal.",
        unrecorded,
    )


def _add_cells(into: dict[_Names, list[int]], report: wire.MetricsReport) -> None:
    for store, operation, outcome, cell in report.cells:
        names = (store, operation, outcome)
        # Workers come and go, and so do stores: over the agent's life there could be any number.
        if names not in into and len({known for known, *_ in into} | {store}) > MAX_STORES:
            names = (OTHERS, operation, outcome)
        sums = into.setdefault(names, [0] * CELL)
        for index, number in enumerate(cell):
            sums[index] += number


def _add_unsigned(into: dict[str, int], report: wire.MetricsReport) -> None:
    for outcome, number in report.unsigned.items():
        into[outcome] = into.get(outcome, 0) + number


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=value)


def _counter(name: str, words: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, words, value=value)
