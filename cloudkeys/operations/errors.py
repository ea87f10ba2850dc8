"""What can go wrong in long work, beside what a provider says."""

from __future__ import annotations

from vault.errors import DomainError


class OperationError(DomainError):
    """A step cannot go on. `permanent` tells whether trying again by itself can help."""

    def __init__(self, code: str, cause: str, cure: str = "", *, permanent: bool) -> None:
        super().__init__(cause, cure=cure)
        self.code = code
        self.cause = cause
        self.permanent = permanent


class LeaseLost(Exception):
    """Another worker has taken this operation over; whatever this one still wants to write is void."""


class Superseded(Exception):
    """Somebody asked to cancel while the step was about to commit what must not be committed after that."""
