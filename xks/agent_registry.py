"""The rows by which others know of this node: itself, and each worker process that may be serving.

What the kill switch counts is written here, so the rule is: a worker is in the table, and was seen,
**before** it is given leave to serve (``xks.agent``), and it leaves the table only when it said
goodbye or when its process is provably gone.  Everything here runs in the agent's registrar thread.

Times are the database's own, so that clocks of several hosts need not agree.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Least, Now

from vault.models import Node, WorkerProcess
from xks.agent_rules import ShadowSums

KEEP = timedelta(days=7)
"""How long rows of worker processes that have ended stay, for whoever looks back."""


@dataclass(frozen=True)
class ProcessName:
    """Names a process for good: pids are used again, and mean nothing in another namespace or boot."""

    boot: str
    """First 16 hex digits of the kernel's id of this boot; "" where there is none."""
    namespace: int
    """Inode of the pid namespace in which ``pid`` means something; 0 when the process is not visible here."""
    pid: int
    started: int
    """Clock ticks since boot (proc(5), stat field 22), or milliseconds when not visible."""

    def __str__(self) -> str:
        return f"{self.boot}.{self.namespace:x}.{self.pid}.{self.started}"

    @classmethod
    def parse(cls, text: str) -> ProcessName | None:
        """Reverse of str(); None for what has another form."""
        parts = text.split(".")
        try:
            boot, namespace, pid, started = parts
            return cls(boot, int(namespace, 16), int(pid), int(started))
        except ValueError:
            return None

    @classmethod
    def of(cls, peer_pid: int, claimed_pid: int, started_at_s: float) -> ProcessName:
        """Name the process behind a socket: by what the kernel says where it is visible, else as it claims."""
        started = start_ticks(peer_pid) if peer_pid > 0 else None
        if started is None:
            return cls(boot_id(), 0, claimed_pid, round(started_at_s * 1000))
        return cls(boot_id(), pid_namespace(), peer_pid, started)

    def is_gone(self) -> bool:
        """Whether the process has provably ended. False also when nothing can be said from here."""
        if not self.namespace or not self.boot:
            return False
        if self.boot != boot_id() or self.namespace != pid_namespace():
            return False
        return start_ticks(self.pid) != self.started


def boot_id() -> str:
    """First 16 hex digits of the kernel's id of this boot; "" elsewhere than on Linux."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").replace("-", "")[:16].strip()
    except OSError:
        return ""


def pid_namespace() -> int:
    """Inode number of this process's pid namespace; 0 elsewhere than on Linux."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def start_ticks(pid: int) -> int | None:
    """When the process with this pid started (clock ticks since boot); None when there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True)
class Heartbeat:
    """What one heartbeat found."""

    known_workers: frozenset[str]
    """Instances of this node's workers that are in the table and were marked as seen."""
    fleet_size: int
    """Nodes that serve, this one included."""
    counted_workers: int = 1
    """Worker processes of all nodes that may be serving: rates for the fleet are shared among them."""


class Registry:
    """This node's rows. Every method raises django.db.Error when the database does not answer."""

    def __init__(self, name: str, software_version: str, *, max_staleness_s: float) -> None:
        self.name = name
        self._version = software_version
        self._horizon = timedelta(seconds=max_staleness_s)
        self._node: Node | None = None

    def enter(self) -> Node:
        """Put the node into the table, or take its row over, and drop workers of before that are gone."""
        with transaction.atomic():
            node, _ = Node.objects.update_or_create(
                name=self.name,
                defaults={
                    "software_version": self._version,
                    "started_at": Now(),
                    "last_seen_at": Now(),
                    "deregistered_at": None,
                },
            )
            for row in WorkerProcess.objects.filter(node=node, deregistered_at=None):
                process = ProcessName.parse(row.instance)
                if process is not None and process.is_gone():
                    WorkerProcess.objects.filter(pk=row.pk).update(deregistered_at=Now())
            WorkerProcess.objects.filter(node=node, last_seen_at__lt=Now() - KEEP).delete()
        self._node = node
        return node

    def add_worker(self, process: ProcessName, serves_generation: int) -> None:
        """Count a worker from now on. ``serves_generation``: what it says it still answers from."""
        with transaction.atomic():
            row, created = WorkerProcess.objects.get_or_create(
                node=self._own(),
                instance=str(process),
                defaults={"pid": process.pid, "last_seen_at": Now()},
            )
            # What it had confirmed before holds at most as far as what it holds now; a new one has confirmed nothing.
            WorkerProcess.objects.filter(pk=row.pk).update(
                applied_generation=0 if created else Least(F("applied_generation"), serves_generation),
                last_seen_at=Now(),
                deregistered_at=None,
            )

    def confirm(self, process: ProcessName, generation: int) -> None:
        """Note that the worker answers from ``generation`` and from nothing older any more."""
        WorkerProcess.objects.filter(node=self._own(), instance=str(process)).update(
            applied_generation=generation, last_seen_at=Now()
        )

    def remove_worker(self, process: ProcessName) -> None:
        """Count the worker no more: it said goodbye, or its process is gone."""
        WorkerProcess.objects.filter(node=self._own(), instance=str(process)).update(deregistered_at=Now())

    def beat(self, workers: Iterable[ProcessName], applied_generation: int) -> Heartbeat:
        """Show that the node lives and which workers are connected: two UPDATEs, one commit."""
        instances = [str(process) for process in workers]
        with transaction.atomic():
            node = self._own()
            seen = Node.objects.filter(pk=node.pk).update(
                last_seen_at=Now(), deregistered_at=None, applied_generation=applied_generation
            )
            rows = WorkerProcess.objects.filter(node=node, instance__in=instances, deregistered_at=None)
            rows.update(last_seen_at=Now())
            known = frozenset(rows.values_list("instance", flat=True)) if instances else frozenset()
            fleet = Node.objects.filter(deregistered_at=None, last_seen_at__gt=Now() - self._horizon).count()
            counted = WorkerProcess.objects.filter(
                deregistered_at=None, last_seen_at__gt=Now() - self._horizon
            ).count()
        if not seen:
            # The row is not there any more: an older database was put back. Enter it, then count anew.
            self.enter()
            return Heartbeat(frozenset(), 1)
        return Heartbeat(known, max(1, fleet), max(1, counted))

    def add_shadow(self, sums: ShadowSums) -> None:
        """Add what shadowed access rules would have denied on this node."""
        sums.write(self.name)

    def leave(self) -> None:
        """Take the node out of the table, unless a worker of it may still be serving."""
        with transaction.atomic():
            node = self._own()
            if not WorkerProcess.objects.filter(node=node, deregistered_at=None).exists():
                Node.objects.filter(pk=node.pk).update(deregistered_at=Now())

    def _own(self) -> Node:
        if self._node is None:
            self._node = self.enter()
        return self._node
