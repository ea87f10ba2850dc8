"""Faults on request, so that tests can see what a caller does when AWS misbehaves.

A fault waits for requests of one service and operation (``*`` matches any) and is used up after ``count``
of them. It is set in the process (``sim.faults.add``) or through ``POST /_keystead/faults``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("latency", "throttle", "error", "drop", "lose_answer", "late_key", "old_credential")
_TAKEN_BY_NAME = ("late_key", "old_credential")


@dataclass(slots=True)
class Fault:
    """One fault.

    kind: ``latency`` (wait ``seconds``, then work as usual), ``throttle`` (ThrottlingException or the
    service's word for it), ``error`` (HTTP ``status`` 5xx, nothing done), ``drop`` (connection closed, nothing
    done), ``lose_answer`` (the work is done, then the connection is closed without an answer), ``late_key`` (IAM is
    eventually consistent: the next access key made is unknown to its first ``count`` requests), ``old_credential``
    (after the next change of an external key store's credential every other call to its proxy is signed with the one
    before, for ``seconds``: some of KMS's hosts have not heard of the change).
    """

    kind: str
    service: str = "*"
    operation: str = "*"
    count: int = 1
    seconds: float = 0.0
    status: int = 500
    id: int = field(default=0)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not isinstance(self.count, int) or self.count < 1:
            raise ValueError("count must be a whole number, 1 or more")
        if not 0 <= self.seconds <= 300:
            raise ValueError("seconds must be between 0 and 300")
        if not 500 <= self.status <= 599:
            raise ValueError("status must be between 500 and 599")

    def matches(self, service: str, operation: str) -> bool:
        return self.service in ("*", service) and self.operation in ("*", operation)


class Faults:
    """The faults that are waiting, in the order in which they were set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Let a fault wait for its requests; gives it its id."""
        with self._lock:
            fault.id = next(self._numbers)
            self._waiting.append(fault)
        return fault

    def add_document(self, document: Mapping[str, Any]) -> Fault:
        """As ``add``, from a JSON object. ValueError or TypeError when it is not a fault."""
        known = {"kind", "service", "operation", "count", "seconds", "status"}
        unknown = set(document) - known
        if unknown:
            raise ValueError(
                f"unknown member {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
            )
        return self.add(Fault(**document))

    def take(self, service: str, operation: str) -> list[Fault]:
        """The faults that this request meets: all waiting latencies, and at most one of the other kinds."""
        taken: list[Fault] = []
        with self._lock:
            decided = False
            for fault in [waiting for waiting in self._waiting if waiting.kind not in _TAKEN_BY_NAME]:
                if not fault.matches(service, operation) or (fault.kind != "latency" and decided):
                    continue
                decided = decided or fault.kind != "latency"
                fault.count -= 1
                if fault.count == 0:
                    self._waiting.remove(fault)
                taken.append(fault)
        return taken

    def take_late_key(self) -> int:
        """How many requests the access key that is made now stays unknown to; the fault is used up."""
        with self._lock:
            for fault in self._waiting:
                if fault.kind == "late_key":
                    self._waiting.remove(fault)
                    return fault.count
        return 0

    def take_old_credential(self) -> float:
        """For how many seconds the credential that is replaced now goes on being used; the fault is used up."""
        with self._lock:
            for fault in self._waiting:
                if fault.kind == "old_credential":
                    self._waiting.remove(fault)
                    return fault.seconds
        return 0.0

    def waiting(self) -> list[dict[str, Any]]:
        """The faults that are still to happen."""
        with self._lock:
            return [asdict(fault) for fault in self._waiting]

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._waiting.clear()
