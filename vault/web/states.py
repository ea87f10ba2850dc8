"""How each state of the product looks: level, icon, word. Colour never stands alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """A pill. `level` is ok, info, warn, danger or neutral; `moving` lets the icon turn."""

    level: str
    icon: str
    word: str
    moving: bool = False
    gone: bool = False


_COMMON: dict[str, Look] = {
    "ENABLED": Look("ok", "circle-check", "Enabled"),
    "DISABLED": Look("neutral", "circle-pause", "Disabled"),
    "BLOCKED": Look("danger", "ban", "Blocked"),
    "PENDING": Look("info", "loader-circle", "Being made", moving=True),
    "PENDING_DELETION": Look("warn", "hourglass", "Pending deletion"),
    "DESTROYED": Look("neutral", "trash-2", "Destroyed", gone=True),
    "FAILED": Look("danger", "circle-x", "Failed"),
    "ACTIVE": Look("ok", "circle-check", "Active"),
    "RETIRED": Look("neutral", "circle-minus", "Retired"),
    "GONE": Look("neutral", "circle-slash", "Gone"),
    "NOT_LINKED": Look("neutral", "unlink", "Not linked"),
    "LINKED": Look("ok", "link", "Linked"),
    "UNKNOWN": Look("neutral", "circle-dashed", "Not known yet"),
}
_BY_KIND: dict[str, dict[str, Look]] = {
    "pointer": {"GONE": Look("danger", "circle-slash", "Gone from AWS")},
    "link": {
        "CONNECTED": Look("ok", "plug", "Connected"),
        "CONNECTING": Look("info", "loader-circle", "Connecting", moving=True),
        "DISCONNECTED": Look("neutral", "unplug", "Disconnected"),
        "DISCONNECTING": Look("info", "loader-circle", "Disconnecting", moving=True),
        "GONE": Look("danger", "circle-slash", "Gone from AWS"),
    },
    "operation": {
        "WAITING": Look("neutral", "clock", "Waiting"),
        "RUNNING": Look("info", "loader-circle", "Running", moving=True),
        "SUCCEEDED": Look("ok", "circle-check", "Done"),
        "CANCELLED": Look("neutral", "circle-slash", "Cancelled"),
    },
    "step": {
        "PENDING": Look("neutral", "circle-dashed", "To do"),
        "RUNNING": Look("info", "loader-circle", "Running", moving=True),
        "WAITING": Look("neutral", "clock", "Waiting"),
        "DONE": Look("ok", "circle-check", "Done"),
        "UNDOING": Look("warn", "undo-2", "Being undone", moving=True),
        "UNDONE": Look("neutral", "undo-2", "Undone"),
    },
    "account": {
        "OK": Look("ok", "circle-check", "Works"),
        "HEALTHY": Look("ok", "circle-check", "Works"),
        "DEGRADED": Look("warn", "triangle-alert", "Lacks permissions"),
        "FAILING": Look("danger", "circle-x", "Does not work"),
    },
    "node": {
        "LIVE": Look("ok", "circle-check", "Live"),
        "BEHIND": Look("warn", "clock", "Behind"),
        "SERVING": Look("ok", "circle-check", "Serving"),
        "STARTING": Look("info", "loader-circle", "Starting", moving=True),
        "DRAINING": Look("info", "hourglass", "Draining"),
        "STOPPED": Look("danger", "circle-pause", "Stopped"),
        "LATE": Look("warn", "clock", "Late"),
        "STALE": Look("danger", "circle-alert", "Stale, refuses"),
        "GONE": Look("neutral", "circle-off", "Signed off"),
    },
    "hsm_member": {
        "ACTIVE": Look("ok", "circle-check", "Active"),
        "DEGRADED": Look("warn", "triangle-alert", "Degraded"),
        "UNAVAILABLE": Look("danger", "circle-x", "Unavailable"),
    },
    "certificate": {
        "VALID": Look("ok", "badge-check", "Valid"),
        "EXPIRING": Look("warn", "hourglass", "Ends soon"),
        "EXPIRED": Look("danger", "circle-x", "Ended"),
    },
    "outcome": {
        "SUCCESS": Look("ok", "check", "Done"),
        "FAILURE": Look("danger", "circle-x", "Failed"),
        "DENIED": Look("warn", "ban", "Refused"),
    },
    "approval": {
        "WAITING": Look("info", "users", "Waits for a second person"),
        "APPROVED": Look("ok", "check", "Approved"),
        "REFUSED": Look("danger", "ban", "Refused"),
        "ENDED": Look("neutral", "clock", "Ran out"),
    },
    "token": {
        "REVOKED": Look("neutral", "ban", "Revoked", gone=True),
        "ENDED": Look("neutral", "clock", "Ended"),
    },
    "part": {
        "OK": Look("ok", "circle-check", "Well"),
        "WARN": Look("warn", "triangle-alert", "Look at it"),
        "FAIL": Look("danger", "circle-x", "Not well"),
    },
    "record": {
        "HOLDS": Look("ok", "shield-check", "Holds"),
        "OVERDUE": Look("warn", "clock", "Not verified lately"),
        "BROKEN": Look("danger", "shield-alert", "Does not hold"),
    },
    "rotation": {
        "IDLE": Look("neutral", "circle-dot", "None under way"),
        "RUNNING": Look("info", "loader-circle", "Rotating", moving=True),
    },
}
KINDS: tuple[str, ...] = ("cloud_key", "vault", "store", "credential", *_BY_KIND)


def look(kind: str, state: str) -> Look:
    """The look of `state` for that kind; an unknown state is shown by its own name, so that none is ever hidden."""
    found = _BY_KIND.get(kind, {}).get(state) or _COMMON.get(state)
    return found or Look("neutral", "circle-dot", state.replace("_", " ").capitalize() or "None")


def states_of(kind: str) -> list[str]:
    """Those that have a look of their own for that kind, for the style guide."""
    common = {
        "cloud_key": ["ENABLED", "DISABLED", "BLOCKED", "PENDING_DELETION", "DESTROYED"],
        "vault": ["ENABLED", "BLOCKED", "DISABLED", "DESTROYED"],
        "store": ["ENABLED", "BLOCKED", "FAILED"],
        "credential": ["ACTIVE", "RETIRED"],
        "pointer": ["NOT_LINKED", "PENDING", "LINKED", "FAILED", "GONE"],
        "link": ["NOT_LINKED", "PENDING", "FAILED"],
        "account": ["UNKNOWN"],
        "hsm_member": ["UNKNOWN"],
        "operation": ["FAILED"],
        "step": ["FAILED"],
    }.get(kind, [])
    return list(dict.fromkeys([*common, *_BY_KIND.get(kind, {})]))
