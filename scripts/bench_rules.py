"""What one judgement by access rules costs, in microseconds: 0 to 100 rules, callers seen before and new ones.

Prints a Markdown table, or one JSON document with --json. Exits 1 when 20 rules cost more than LIMIT_US.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from xks.policy_rules import RuleSet
from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

LIMIT_US = 3.0
"""At 20 rules, for callers seen before."""
ROUNDS = 25
CALLS = 5_000
CALLERS = 100


def when(field: str, *values: str, negated: bool = False, tag: str = "") -> ConditionRecord:
    """Return a condition."""
    return ConditionRecord(field, values, negated, tag)


def rule_set(count: int) -> RuleSet:
    """Return rules that look at every field, none of which denies the benchmark's requests."""
    rules: list[RuleRecord] = []
    for number in range(count):
        conditions: tuple[ConditionRecord, ...]
        match number % 5:
            case 0:
                conditions = (
                    when("principal", f"arn:aws:iam::*:user/leaver-{number}*"),
                    when("source_vpce", f"vpce-{number}", negated=True),
                )
            case 1:
                conditions = (when("role", f"arn:aws:iam::111122223333:role/Old{number}*"),)
            case 2:
                conditions = (
                    when("kms_via_service", f"service{number}.*.amazonaws.com"),
                    when("account", "9" * 12),
                )
            case 3:
                conditions = (when("key_tag", "secret", tag=f"tag-{number}"), when("source_vpc", "vpc-1"))
            case _:
                conditions = (when("time", "daily 00:00-24:00 Europe/Berlin"), when("kms_operation", "Re*"))
        rules.append(RuleRecord(f"rule {number}", "DENY", conditions))
    if rules:
        rules[-1] = RuleRecord("ours", "ALLOW", (when("account", "111122223333"),))
    return RuleSet(RuleSetRecord("bench", 1, tuple(rules)))


def microseconds(judge: Callable[[str], int], callers: list[str]) -> float:
    """Return the best of some rounds, for one call: processor time, so that neighbours do not count."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        for caller in callers:
            judge(caller)
        best = min(best, time.thread_time() - began)
    return best / len(callers) * 1e6


def measure(count: int) -> dict[str, float]:
    """Return what rules of that number cost: callers seen before, and callers never seen."""
    rules = rule_set(count)
    tags = (("env", "prod"), ("team", "pay"))
    now = time.time()

    def judge(caller: str) -> int:
        return rules.judge(
            caller, "Decrypt", "vpc-1", "vpce-1", "s3.eu-west-1.amazonaws.com", tags, now, is_metadata=False
        )

    known = [f"arn:aws:sts::111122223333:assumed-role/App/i-{n % CALLERS:017x}" for n in range(CALLS)]
    new = [f"arn:aws:sts::111122223333:assumed-role/App/s-{n:017x}" for n in range(CALLS)]
    if judge(known[0]) != -1:
        raise SystemExit("the benchmark's request must be allowed, so that every rule is looked at")
    return {
        "rules": count,
        "seen_before_us": round(microseconds(judge, known), 3),
        "never_seen_us": round(microseconds(judge, new), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    rows = [measure(count) for count in (1, 5, 20, 100)]
    if wanted.json:
        print(json.dumps({"limit_us_at_20_rules": LIMIT_US, "rows": rows}))
    else:
        print("| rules | caller seen before, us | caller never seen, us |\n|---|---|---|")
        for row in rows:
            print(f"| {row['rules']} | {row['seen_before_us']:.2f} | {row['never_seen_us']:.2f} |")
    if rows[2]["seen_before_us"] > LIMIT_US:
        sys.exit(f"20 rules cost more than {LIMIT_US} us")


if __name__ == "__main__":
    main()
