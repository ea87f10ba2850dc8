"""Metrics: what workers count, what the agent makes of it, what promtool says, and that everything named exists."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.vault.serving import Place, place, wait_for
from tests.xks import world
from tests.xks.shell import Shell
from xks import metrics_counters, wire
from xks.agent_registry import ProcessName
from xks.agent_workers import Figures
from xks.metrics_counters import BUCKETS, CELL, OTHERS, Counters
from xks.metrics_node import NodeMetrics
from xks.metrics_server import MetricsServer

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
PROMTOOL = shutil.which("promtool")
ONE = ProcessName("boot", 1, 10, 100)
TWO = ProcessName("boot", 1, 11, 101)


def report(counters: Counters, **changes: Any) -> wire.MetricsReport:
    given: dict[str, Any] = {
        "generation": 5, "lease_issued_at_s": 99.0, "in_flight": 0, "problem": None, "journal_segment": 0,
        "journal_bytes": 10,
    }  # fmt: skip
    return counters.report(1, **{**given, **changes})


@pytest.fixture
def node() -> NodeMetrics:
    """Metrics of a node at second 100 whose agent holds generation 5."""
    return NodeMetrics(
        version="1.2.3",
        expected_workers=2,
        max_staleness_s=60.0,
        figures=lambda: Figures(5, 98.0, 1, 3, 4),
        refused=lambda: False,
        clock=lambda: 100.0,
    )


def values(node: NodeMetrics) -> dict[str, float]:
    """Samples by name and labels' values."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in node.collect()
        for sample in family.samples
    }


def test_requests_are_counted_in_buckets_by_store_operation_and_outcome() -> None:
    counters = Counters()
    counters.note("a", "encrypt", "OK", 100, 10, 20)
    counters.note("a", "encrypt", "OK", 101, 10, 20)
    counters.note("a", "encrypt", "OK", 10**7, 10, 20)
    ((store, operation, outcome, cell),) = report(counters).cells
    assert (store, operation, outcome, len(cell)) == ("a", "encrypt", "OK", CELL)
    assert (cell[0], cell[1], cell[BUCKETS - 1], sum(cell[:BUCKETS])) == (1, 1, 1, 3)
    assert cell[BUCKETS:] == [10**7 + 201, 30, 60]


def test_stores_beyond_the_cap_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_counters, "MAX_STORES", 2)
    counters = Counters()
    for store in ("a", "b", "c", "d", "c", "a"):
        counters.note(store, "encrypt", "OK", 1, 1, 1)
    assert {cell[0]: sum(cell[3][:BUCKETS]) for cell in report(counters).cells} == {"a": 2, "b": 1, OTHERS: 3}


def test_what_a_worker_counted_outlives_it(node: NodeMetrics) -> None:
    first, second = Counters(), Counters()
    for counters in (first, second):
        counters.note("a", "encrypt", "OK", 300, 5, 7)
        counters.note_unsigned("AuthenticationFailedException")
        counters.note_unrecorded()
    node.reported(ONE, report(first))
    node.reported(ONE, report(first))  # sums, not increments
    node.reported(TWO, report(second))
    node.gone(ONE)
    said = values(node)
    assert said["keystead_xks_requests_total a encrypt OK"] == 2
    assert said["keystead_xks_request_bytes_total a"] == 10
    assert said["keystead_xks_response_bytes_total a"] == 14
    assert said["keystead_xks_unsigned_requests_total AuthenticationFailedException"] == 2
    assert said["keystead_xks_unrecorded_results_total"] == 2
    assert said["keystead_xks_workers_ended_total"] == 1
    assert said["keystead_xks_request_duration_seconds_count a encrypt"] == 2
    assert said["keystead_xks_request_duration_seconds_bucket a encrypt 0.00025"] == 0
    assert said["keystead_xks_request_duration_seconds_bucket a encrypt 0.0005"] == 2
    assert said["keystead_xks_request_duration_seconds_sum a encrypt"] == pytest.approx(0.0006)


def test_state_of_the_node(node: NodeMetrics) -> None:
    node.reported(
        ONE, report(Counters(), generation=3, lease_issued_at_s=70.0, in_flight=4, problem="no space")
    )
    node.shadowed(
        [wire.ShadowCount("rules-1", 1, 10, {"no Ada": 2}, {}), wire.ShadowCount("rules-1", 2, 1, {}, {})]
    )
    said = values(node)
    assert said["keystead_xks_staleness_seconds"] == 30
    assert said["keystead_xks_generation_lag"] == 2
    assert said["keystead_xks_requests_in_flight"] == 4
    assert said["keystead_xks_journal_problem_workers"] == 1
    assert said["keystead_xks_shadow_judged_total rules-1"] == 11
    assert said["keystead_xks_shadow_denied_total rules-1"] == 2
    assert (said["keystead_xks_workers"], said["keystead_xks_workers_expected"]) == (1, 2)


def test_a_worker_of_another_release_is_refused(node: NodeMetrics) -> None:
    odd = wire.MetricsReport(1, 1, None, 0, "", 0, 0, 0, {}, [("a", "encrypt", "OK", [1, 2])])
    with pytest.raises(wire.FrameError):
        node.reported(ONE, odd)


def test_the_application_counts(shell: Shell) -> None:
    async def ask() -> None:
        await shell.call("encrypt", world.encrypt_body())
        await shell.call("encrypt", world.encrypt_body(), key="disabled_key")
        await shell.send("GET", "/nowhere")
        await shell.post(
            world.path("health"),
            world.health_body(),
            credential=world.CREDENTIAL.__class__("X" * 20, b"x" * 43),
        )

    asyncio.run(ask())
    told = report(shell.app.counters)
    assert {(cell[0], cell[1], cell[2]) for cell in told.cells} == {
        ("store-1", "encrypt", "OK"),
        ("store-1", "encrypt", "InvalidStateException"),
    }
    assert told.unsigned == {"InvalidUriPathException": 1, "AuthenticationFailedException": 1}


@pytest.fixture
def served(node: NodeMetrics) -> Iterator[str]:
    """Address of a metrics port."""
    server = MetricsServer("127.0.0.1", 0, [node])
    server.start()
    assert server.ready.wait(5)
    yield f"http://127.0.0.1:{server.port}"
    server.stop()
    assert not server.is_alive()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own loopback port
        text: str = answer.read().decode()
        return text


def test_only_metrics_are_served(served: str) -> None:
    assert 'keystead_build_info{version="1.2.3"} 1.0' in get(f"{served}/metrics")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{served}/")


def test_a_port_that_is_taken_is_told_and_ends_nothing(node: NodeMetrics, served: str) -> None:
    second = MetricsServer("127.0.0.1", int(served.rpartition(":")[2]), [node])
    second.start()
    assert not second.ready.wait(0.3)
    second.stop()
    assert not second.is_alive()


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Debian's prometheus")
def test_alerts_are_right_and_fire_when_they_should() -> None:
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [str(PROMTOOL), *words], cwd=ALERTS.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_leads_to_a_page() -> None:
    text = ALERTS.read_text()
    names = re.findall(r"- alert: (\w+)", text)
    assert len(names) == len(set(names)) > 15
    assert re.findall(r"runbook_url: (\S+)", text) == [f"docs/runbooks/{name}.md" for name in names]
    for name in names:
        page = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
        for part in ("Symptom", "What it means for customers' data", "First look", "Cure", "After"):
            assert f"**{part}.**" in page, name


def test_every_connection_error_code_has_a_part_in_the_runbook() -> None:
    from cloudkeys.providers.connection_errors import _REASONS

    page = (ROOT / "docs" / "runbooks" / "aws-connection-failed.md").read_text()
    assert set(re.findall(r"^## ([A-Z_]+)$", page, re.MULTILINE)) == set(_REASONS)


@pytest.mark.slow
@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Debian's prometheus")
def test_a_real_instance() -> None:
    with place() as here:
        _examine(here)


def _examine(here: Place) -> None:
    process = here.start("serve")
    assert wait_for(lambda: "Keystead is ready" in process.text or process.popen.poll() is not None)
    url = f"http://127.0.0.1:{here.environ['KEYSTEAD_METRICS_PORT']}/metrics"
    code, made = here.run("xks", "conformance-store", "--json")
    assert code == 0, made
    assert wait_for(lambda: "keystead_xks_credentials{" in get(url), 30)
    assert wait_for(
        lambda: re.search(r"^keystead_xks_staleness_seconds [0-4]\.", get(url), re.MULTILINE) is not None, 30
    )
    text = get(url)
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    families = list(text_string_to_metric_families(text))
    known = {sample.name for family in families for sample in family.samples} | {
        # Families without a sample yet.
        name
        for family in families
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    dashboard = json.loads((DEPLOY / "grafana" / "keystead.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    named = set(re.findall(r"\bkeystead_\w+", asked + ALERTS.read_text()))
    assert len(named) > 30
    assert named - known == set()
    assert re.search(r"^keystead_xks_workers 1\.0$", text, re.MULTILINE)
    assert re.search(r"^keystead_database_up 1\.0$", text, re.MULTILINE)
    assert wait_for(lambda: "keystead_xks_certificate_trouble 0.0" in get(url), 30)
    # What names a customer is an id and nothing more.
    assert "conformance" not in text.lower()
