"""How each state of the product looks: level, icon, word. Colour never stands alone."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext_noop


@dataclass(frozen=True)
class Look:
    """A pill. `level` is ok, info, warn, danger or neutral; `moving` lets the icon turn."""

    level: str
    icon: str
    word: str
    moving: bool = False
    gone: bool = False


_COMMON: dict[str, Look] = {
    "ENABLED": Look("ok", "circle-check", gettext_noop("Enabled")),
    "DISABLED": Look("neutral", "circle-pause", gettext_noop("Disabled")),
    "BLOCKED": Look("danger", "ban", gettext_noop("Blocked")),
    "PENDING": Look("info", "loader-circle", gettext_noop("Being made"), moving=True),
    "PENDING_DELETION": Look("warn", "hourglass", gettext_noop("Pending deletion")),
    "DESTROYED": Look("neutral", "trash-2", gettext_noop("Destroyed"), gone=True),
    "FAILED": Look("danger", "circle-x", gettext_noop("Failed")),
    "ACTIVE": Look("ok", "circle-check", gettext_noop("Active")),
    "RETIRED": Look("neutral", "circle-minus", gettext_noop("Retired")),
    "GONE": Look("neutral", "circle-slash", gettext_noop("Gone")),
    "NOT_LINKED": Look("neutral", "unlink", gettext_noop("Not linked")),
    "LINKED": Look("ok", "link", gettext_noop("Linked")),
    "UNKNOWN": Look("neutral", "circle-dashed", gettext_noop("Not known yet")),
}
_BY_KIND: dict[str, dict[str, Look]] = {
    "pointer": {"GONE": Look("danger", "circle-slash", gettext_noop("Gone from AWS"))},
    "link": {
        "CONNECTED": Look("ok", "plug", gettext_noop("Connected")),
        "CONNECTING": Look("info", "loader-circle", gettext_noop("Connecting"), moving=True),
        "DISCONNECTED": Look("neutral", "unplug", gettext_noop("Disconnected")),
        "DISCONNECTING": Look("info", "loader-circle", gettext_noop("Disconnecting"), moving=True),
        "GONE": Look("danger", "circle-slash", gettext_noop("Gone from AWS")),
    },
    "operation": {
        "WAITING": Look("neutral", "clock", gettext_noop("Waiting")),
        "RUNNING": Look("info", "loader-circle", gettext_noop("Running"), moving=True),
        "SUCCEEDED": Look("ok", "circle-check", gettext_noop("Done")),
        "CANCELLED": Look("neutral", "circle-slash", gettext_noop("Cancelled")),
    },
    "step": {
        "PENDING": Look("neutral", "circle-dashed", gettext_noop("To do")),
        "RUNNING": Look("info", "loader-circle", gettext_noop("Running"), moving=True),
        "WAITING": Look("neutral", "clock", gettext_noop("Waiting")),
        "DONE": Look("ok", "circle-check", gettext_noop("Done")),
        "UNDOING": Look("warn", "undo-2", gettext_noop("Being undone"), moving=True),
        "UNDONE": Look("neutral", "undo-2", gettext_noop("Undone")),
    },
    "account": {
        "OK": Look("ok", "circle-check", gettext_noop("Works")),
        "HEALTHY": Look("ok", "circle-check", gettext_noop("Works")),
        "DEGRADED": Look("warn", "triangle-alert", gettext_noop("Lacks permissions")),
        "FAILING": Look("danger", "circle-x", gettext_noop("Does not work")),
    },
    "node": {
        "LIVE": Look("ok", "circle-check", gettext_noop("Live")),
        "BEHIND": Look("warn", "clock", gettext_noop("Behind")),
        "SERVING": Look("ok", "circle-check", gettext_noop("Serving")),
        "STARTING": Look("info", "loader-circle", gettext_noop("Starting"), moving=True),
        "DRAINING": Look("info", "hourglass", gettext_noop("Draining")),
        "STOPPED": Look("danger", "circle-pause", gettext_noop("Stopped")),
        "LATE": Look("warn", "clock", gettext_noop("Late")),
        "STALE": Look("danger", "circle-alert", gettext_noop("Stale, refuses")),
        "GONE": Look("neutral", "circle-off", gettext_noop("Signed off")),
    },
    "hsm_member": {
        "ACTIVE": Look("ok", "circle-check", gettext_noop("Active")),
        "DEGRADED": Look("warn", "triangle-alert", gettext_noop("Degraded")),
        "UNAVAILABLE": Look("danger", "circle-x", gettext_noop("Unavailable")),
    },
    "certificate": {
        "VALID": Look("ok", "badge-check", gettext_noop("Valid")),
        "EXPIRING": Look("warn", "hourglass", gettext_noop("Ends soon")),
        "EXPIRED": Look("danger", "circle-x", gettext_noop("Ended")),
    },
    "outcome": {
        "SUCCESS": Look("ok", "check", gettext_noop("Done")),
        "FAILURE": Look("danger", "circle-x", gettext_noop("Failed")),
        "DENIED": Look("warn", "ban", gettext_noop("Refused")),
    },
    "approval": {
        "WAITING": Look("info", "users", gettext_noop("Waits for a second person")),
        "APPROVED": Look("ok", "check", gettext_noop("Approved")),
        "REFUSED": Look("danger", "ban", gettext_noop("Refused")),
        "ENDED": Look("neutral", "clock", gettext_noop("Ran out")),
    },
    "token": {
        "REVOKED": Look("neutral", "ban", gettext_noop("Revoked"), gone=True),
        "ENDED": Look("neutral", "clock", gettext_noop("Ended")),
    },
    "part": {
        "OK": Look("ok", "circle-check", gettext_noop("Well")),
        "WARN": Look("warn", "triangle-alert", gettext_noop("Look at it")),
        "FAIL": Look("danger", "circle-x", gettext_noop("Not well")),
    },
    "record": {
        "HOLDS": Look("ok", "shield-check", gettext_noop("Holds")),
        "OVERDUE": Look("warn", "clock", gettext_noop("Not verified lately")),
        "BROKEN": Look("danger", "shield-alert", gettext_noop("Does not hold")),
    },
    "rotation": {
        "IDLE": Look("neutral", "circle-dot", gettext_noop("None under way")),
        "RUNNING": Look("info", "loader-circle", gettext_noop("Rotating"), moving=True),
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
