"""What the cluster run takes for a fault. The run itself is `make test-cluster`."""

from __future__ import annotations

import pytest

from tests.cluster import report
from tests.cluster.evidence import Journals, against_journals, row_of
from tests.cluster.load import Answer
from tests.cluster.scenarios import Canary, Observed


def answers(**changes: tuple[int, str]) -> list[Answer]:
    """Return a hundred good answers, one each 0.2 s, but for those named by number."""
    given = {int(name.removeprefix("n")): told for name, told in changes.items()}
    return [
        Answer(number, "k", "encrypt", number / 5, number / 5 + 0.002, *given.get(number, (200, "")))
        for number in range(100)
    ]


def observed(*, strict: bool = False, canary: Canary | None = None) -> Observed:
    """Return a scenario of 20 seconds whose fault lasts from 5 to 8."""
    times = {"began_at": 0.0, "fault_at": 5.0, "mended_at": 8.0, "recovered_at": 8.5, "ended_at": 20.0}
    return Observed("a row", strict, canary=canary, **times)


def test_a_good_row_has_no_fault():
    row = row_of(observed(strict=True), answers())
    assert (row.asked, row.faults, row.first_s) == (100, [], None)
    assert row.longest_ms == pytest.approx(2.0)
    assert row.recovered_s == pytest.approx(0.5)


def test_errors_are_counted_and_dated():
    row = row_of(observed(), answers(n30=(0, "gave up"), n35=(503, "DependencyTimeoutException")))
    assert row.errors == {"gave up": 1, "503 DependencyTimeoutException": 1}
    assert row.faults == []
    assert row.first_s == pytest.approx(1.0)
    assert row.last_s == pytest.approx(2.002)


@pytest.mark.parametrize(
    ("number", "strict", "fault"),
    [
        (30, True, "1 requests failed, none should"),
        (5, False, "before anything"),
        (98, False, "still failed at the end"),
    ],
)
def test_errors_that_should_not_be(number, strict, fault):
    row = row_of(observed(strict=strict), answers(**{f"n{number}": (500, "InternalException")}))
    assert any(fault in found for found in row.faults)


def test_use_of_a_disabled_key_is_a_fault_only_after_the_bound():
    early, late = Canary("k", "id", closed_at=19.9), Canary("k", "id", closed_at=10.0)
    assert row_of(observed(canary=early), answers()).faults == []
    assert "after it was closed" in row_of(observed(canary=late), answers()).faults[0]


def test_the_disabled_key_may_be_refused():
    refused = {f"n{number}": (400, "InvalidStateException") for number in range(50, 100)}
    row = row_of(observed(strict=True, canary=Canary("k", "id", closed_at=10.0)), answers(**refused))
    assert (row.faults, row.errors) == ([], {})


def test_answers_are_held_against_the_journals():
    recorded = Journals({f"run-{number}": ["OK"] for number in range(100)}, 100)
    assert against_journals(answers(), "run", recorded)[0] == []
    del recorded.outcomes["run-7"]
    assert (
        "1 answers left without a record, the first is run-7"
        in against_journals(answers(), "run", recorded)[0]
    )
    recorded.outcomes["run-7"] = ["InternalException"]
    assert against_journals(answers(), "run", recorded)[0]
    assert "another plaintext" in against_journals(answers(n7=(-1, "")), "run", recorded)[0][0]


def test_the_table_goes_between_the_marks(tmp_path, monkeypatch):
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    report.write(report.table([row_of(observed(), answers())], ["A sentence."]))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| a row | 100 | none |" in text
    assert "old" not in text
    assert "- A sentence." in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="marks"):
        report.write("x")
