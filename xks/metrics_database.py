"""What the database tells for the node's metrics: credentials, Operations, the audit record (docs/metrics.md).

Asked every few seconds on a thread of its own, so that a scrape never waits for the database.  While it does not
answer, ``keystead_database_up`` is 0 and the last figures are left out: an old figure would look like a good one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import psycopg
import structlog
from cryptography import x509
from django.db import Error
from django.db.models import Count, Max, Min
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily, Metric

from cloudkeys.models import AwsStoreLink, Operation, XksCredential
from vault.generations import counted_workers, current_generation
from vault.models import AuditEvent, HsmMember, Node
from xks.agent_database import close_own_connection, use_own_connection
from xks.journal_recovery import segments_of
from xks.metrics_counters import MAX_STORES
from xks.models import JournalChain, JournalShipment
from xks.services.certificates import expiries

log = structlog.get_logger("keystead.agent")

EVERY_S: Final = 10.0
MAX_CERTIFICATES: Final = 200
"""Shown, the first to end first."""


class DatabaseMetrics(threading.Thread):
    """Asks the database now and then; ``collect`` may be called from any thread."""

    def __init__(
        self,
        *,
        node_name: str,
        journal_folder: Path | None,
        certificate: Path | None,
        every_s: float = EVERY_S,
    ) -> None:
        """``certificate``: the PEM file that the endpoint serves with, where this agent can see it."""
        super().__init__(name="metrics", daemon=True)
        self._node_name = node_name
        self._journal_folder = journal_folder
        self._certificate = certificate
        self._every_s = every_s
        self._stopping = threading.Event()
        self._found: list[Metric] = []
        self._up = False
        self._asked_at = 0.0
        self._served_until: datetime | None = None

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            while not self._stopping.is_set():
                self.look()
                self._stopping.wait(self._every_s)
        finally:
            close_own_connection()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def look(self) -> None:
        """Ask the database once."""
        try:
            found = list(self._ask())
        except (Error, psycopg.Error) as error:
            if self._up:
                log.warning("the database does not answer the metrics", cause=type(error).__name__)
            self._found, self._up = [], False
            close_own_connection()
            return
        self._found, self._up, self._asked_at = found, True, time.time()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        found, up = self._found, self._up
        yield GaugeMetricFamily(
            "keystead_database_up",
            "1 when the database answered this agent's last look for metrics.",
            value=int(up),
        )
        yield self._certificate_end()
        yield from found

    def _certificate_end(self) -> Metric:
        metric = GaugeMetricFamily(
            "keystead_xks_certificate_expiry_timestamp_seconds",
            "When the certificate that this node's XKS endpoint serves ends; absent where the agent does not know it.",
        )
        end = self._served_until  # what was served does not change because the database is away
        if end is None and self._certificate is not None:
            try:
                end = x509.load_pem_x509_certificate(self._certificate.read_bytes()).not_valid_after_utc
            except (OSError, ValueError):
                return metric  # KeysteadCertificateUnknown notices that it is not there
        if end is not None:
            metric.add_metric([], end.timestamp())
        return metric

    def _certificates(self) -> Iterator[Metric]:
        told = Node.objects.filter(name=self._node_name).values_list("certificate", flat=True).first()
        served = told if isinstance(told, dict) else {}
        until = served.get("not_after")
        self._served_until = datetime.fromisoformat(until) if until else None
        yield _one(
            "keystead_xks_certificate_trouble",
            "1 when this node does not serve the newest certificate; the node's page says why.",
            int(bool(served.get("trouble"))),
        )
        ends = GaugeMetricFamily(
            "keystead_xks_certificates_expiry_timestamp_seconds",
            "When what is installed, served by any node, or trusted as a clients' root ends.",
            labels=["what"],
        )
        for each in expiries()[:MAX_CERTIFICATES]:
            ends.add_metric([each.what], each.not_after.timestamp())
        yield ends

    def _ask(self) -> Iterator[Metric]:
        now = timezone.now()
        yield _one(
            "keystead_database_generation", "Generation that the database is at.", current_generation()
        )
        yield _one(
            "keystead_xks_counted_workers",
            "Worker processes of all nodes that may be serving: the kill switch waits for these.",
            len(counted_workers()),
        )
        yield from self._certificates()
        yield from _credentials()
        yield _links()
        yield from _operations(now)
        yield _hsm_members()
        yield from self._journal(now)
        yield _one(
            "keystead_audit_events",
            "Number of the last event of the audit record.",
            AuditEvent.objects.aggregate(last=Max("sequence"))["last"] or 0,
        )

    def _journal(self, now: datetime) -> Iterator[Metric]:
        chains = GaugeMetricFamily(
            "keystead_journal_chains",
            "Journals of worker processes of all nodes, by how they ended; DAMAGED and LOST ones fail verification.",
            labels=["end"],
        )
        counts = dict(JournalChain.objects.values_list("end").annotate(number=Count("id")).order_by())
        for end in JournalChain.End.values:
            chains.add_metric([end or "OPEN"], counts.get(end, 0))
        yield chains
        own = JournalChain.objects.filter(node_name=self._node_name, ended_at=None)
        anchored = own.aggregate(oldest=Min("anchored_at"))["oldest"]
        yield _one(
            "keystead_xks_journal_anchor_timestamp_seconds",
            "When the least recently anchored journal of this node that is open was anchored; 0 for never.",
            anchored.timestamp() if anchored is not None else 0,
        )
        if self._journal_folder is None:
            return
        waiting = 0
        for chain in own:
            numbers = segments_of(self._journal_folder, chain.id.hex)
            done = set(
                JournalShipment.objects.filter(chain=chain, complete=True).values_list("segment", flat=True)
            )
            waiting += len([number for number in numbers[:-1] if number not in done])
        yield _one(
            "keystead_xks_journal_unshipped_segments",
            "Closed journal segments of this node that are not counted in the database yet.",
            waiting,
        )


def _credentials() -> Iterator[Metric]:
    oldest = GaugeMetricFamily(
        "keystead_xks_credential_created_timestamp_seconds",
        "When the oldest live credential of a store was made.",
        labels=["store"],
    )
    live = GaugeMetricFamily("keystead_xks_credentials", "Live credentials of a store.", labels=["store"])
    rows = (
        XksCredential.objects.filter(state=XksCredential.State.ACTIVE)
        .values("store_id")
        .annotate(oldest=Min("created_at"), number=Count("id"))
        .order_by("oldest")[:MAX_STORES]
    )
    for row in rows:
        oldest.add_metric([str(row["store_id"])], row["oldest"].timestamp())
        live.add_metric([str(row["store_id"])], row["number"])
    yield oldest
    yield live


def _links() -> Metric:
    links = GaugeMetricFamily(
        "keystead_aws_store_links",
        "AWS key stores, by the connection state that AWS told last.",
        labels=["state"],
    )
    counts = dict(AwsStoreLink.objects.values_list("state").annotate(number=Count("id")).order_by())
    for state in AwsStoreLink.State.values:
        links.add_metric([state], counts.get(state, 0))
    return links


def _hsm_members() -> Metric:
    members = GaugeMetricFamily(
        "keystead_hsm_members",
        "Members of HSM connections, by the state that keepers saw last.",
        labels=["state"],
    )
    counts = dict(HsmMember.objects.order_by().values_list("state").annotate(number=Count("id")))
    for state in HsmMember.State.values:
        members.add_metric([state], counts.get(state, 0))
    return members


def _operations(now: datetime) -> Iterator[Metric]:
    states = GaugeMetricFamily("keystead_operations", "Operations that are kept, by state.", labels=["state"])
    counts = dict(Operation.objects.values_list("state").annotate(number=Count("id")).order_by())
    for state in Operation.State.values:
        states.add_metric([state], counts.get(state, 0))
    yield states
    due = Operation.objects.filter(state__in=Operation.UNFINISHED, next_try_at__lte=now)
    oldest = due.aggregate(first=Min("next_try_at"))["first"]
    yield _one(
        "keystead_operations_due_seconds",
        "For how long the oldest due Operation has waited for a worker; 0 when none is due.",
        (now - oldest).total_seconds() if oldest is not None else 0,
    )


def _one(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)
