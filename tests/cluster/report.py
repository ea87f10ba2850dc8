"""docs/reliability.md: the table between its two marks is written by the run."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

from tests.cluster.evidence import Row
from tests.cluster.whole import KEYS, RATE, STALENESS_S
from tests.vault.serving import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- written by make test-cluster: begin -->"
END = "<!-- written by make test-cluster: end -->"


def table(rows: list[Row], sentences: list[str]) -> str:
    """Return the Markdown of a run."""
    when = datetime.now(UTC)
    lines = [
        (
            f"Run of {when:%Y-%m-%d}: {os.cpu_count()} cores for everything, {platform.system()} {platform.machine()}, "
            f"{RATE:.0f} requests/s to {KEYS} keys, staleness bound {STALENESS_S:.0f} s."
            " The scheduler prefers client and balancer to the nodes, the nodes to the control plane, and all of them to what is"
            " still starting: on machines of their own they would not take processors from each other."
        ),
        "",
        (
            "| what happened | requests | errors seen by the client | errors from .. to, s after it began | slowest answer, ms"
            " | serving on both nodes after it was mended, s | the key disabled meanwhile | besides |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors = ", ".join(f"{count} x {error}" for error, count in row.errors.most_common()) or "none"
        span = "" if row.first_s is None or row.last_s is None else f"{row.first_s:.2f} .. {row.last_s:.2f}"
        lines.append(
            f"| {row.title} | {row.asked} | {errors} | {span} | {row.longest_ms:.0f} | {row.recovered_s:.1f} |"
            f" {row.canary} | {row.notes} |"
        )
    lines += ["", *(f"- {sentence}" for sentence in sentences)]
    return "\n".join(lines)


def write(text: str) -> None:
    """Put the table into the page. Raises ValueError when its marks are gone."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has lost its marks")
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
