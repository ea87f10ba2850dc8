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

from vault.actors import Actor
from vault.generations import current_generation
from vault.models import Node, WorkerProcess
from vault.services.nodes import tell_alarms
from xks.agent_loading import NOTHING_LOGGED, fingerprint_of
from xks.agent_rules import ShadowSums
from xks.agent_state import Refusal

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


def is_stopped(process: ProcessName) -> bool:
    """Whether a process that is visible from here is stopped, by SIGSTOP or a debugger (proc(5), state T or t)."""
    if not process.namespace or process.namespace != pid_namespace():
        return False
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text("ascii", "replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")


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
    accepted_mark: str = ""
    """What an operator has accepted last of what this node holds (vault.models.Node)."""


class Registry:
    """This node's rows. Every method raises django.db.Error when the database does not answer."""

    def __init__(self, name: str, software_version: str, *, max_staleness_s: float) -> None:
        self.name = name
        self._version = software_version
        self._max_staleness_s = max_staleness_s
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
                    "max_staleness_s": self._max_staleness_s,
                    "refused_mark": "",
                    "refused_from": None,
                    "refused_generation": None,
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
            # A lease of an agent before this one may hold for longer than ours.
            bound = max(self._max_staleness_s, row.max_staleness_s or 0.0)
            # What it had confirmed before holds at most as far as what it holds now; a new one has confirmed nothing.
            WorkerProcess.objects.filter(pk=row.pk).update(
                applied_generation=0 if created else Least(F("applied_generation"), serves_generation),
                max_staleness_s=bound,
                state=WorkerProcess.State.STARTING if created else row.state,
                last_seen_at=Now(),
                deregistered_at=None,
            )

    def confirm(self, processes: Iterable[ProcessName], generation: int, fingerprint: str) -> bool:
        """Note that these workers answer from ``generation`` and from nothing older any more: two queries, one commit.

        False, and nothing noted, when the database knows another history: a generation of that number which it has not
        is not to be confirmed to whoever waits for its own.
        """
        node = self._own()
        with transaction.atomic():
            # The log holds a generation once it is committed, so the counter need not be asked.
            if fingerprint_of(generation) != fingerprint:
                return False
            if fingerprint == NOTHING_LOGGED and current_generation() < generation:
                return False
            WorkerProcess.objects.filter(
                node=node, instance__in=[str(process) for process in processes]
            ).update(applied_generation=generation, last_seen_at=Now())
        return True

    def set_state(self, process: ProcessName, state: str) -> None:
        """Note what the worker is about: one of WorkerProcess.State."""
        WorkerProcess.objects.filter(node=self._own(), instance=str(process)).update(state=state)

    def tell(
        self,
        refusal: Refusal | None,
        alarms: list[dict[str, str]],
        past: list[dict[str, str]],
        *,
        forget_confirmed: bool,
    ) -> None:
        """Write what the node refuses, and what is wrong with it, into its row; what is new or over is an audit event.

        ``forget_confirmed``: what its workers have confirmed was of another history.
        """
        node = self._own()
        with transaction.atomic():
            Node.objects.filter(pk=node.pk).update(
                refused_mark=refusal.mark if refusal is not None else "",
                refused_from=refusal.held if refusal is not None else None,
                refused_generation=refusal.found if refusal is not None else None,
            )
            if forget_confirmed:
                WorkerProcess.objects.filter(node=node).update(applied_generation=0)
            actor = Actor.system("agent", f"agent of {self.name}")
            known = {alarm["code"] for alarm in alarms}
            missed = [alarm for alarm in past if alarm["code"] not in known]
            if missed:
                # Raised and over again while nothing could be written.
                tell_alarms(actor, node, [*alarms, *missed])
            tell_alarms(actor, node, alarms)

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
            accepted = Node.objects.filter(pk=node.pk).values_list("accepted_mark", flat=True).first() or ""
            fleet = Node.objects.filter(deregistered_at=None, last_seen_at__gt=Now() - self._horizon).count()
            counted = WorkerProcess.objects.filter(
                deregistered_at=None, last_seen_at__gt=Now() - self._horizon
            ).count()
        if not seen:
            # The row is not there any more: an older database was put back. Enter it, then count anew.
            self.enter()
            return Heartbeat(frozenset(), 1)
        return Heartbeat(known, max(1, fleet), max(1, counted), accepted)

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
