"""Long work: the Operation row is the truth, a broker message only a wake-up.

Services start, retry and cancel operations through the names below. Workers run them with
`cloudkeys.operations.runner`, over the flows in `cloudkeys.flows`.
"""

from cloudkeys.operations.kinds import KINDS
from cloudkeys.operations.requests import (
    cancel_operation,
    cancel_superseded,
    require_manage,
    retry_operation,
    start_operation,
)

__all__ = [
    "KINDS",
    "cancel_operation",
    "cancel_superseded",
    "require_manage",
    "retry_operation",
    "start_operation",
]
