"""What is probably not meant: findings on access rules, for whoever writes them. Pure; no database, no clock.

Each finding is sound (what it says is so), but not everything that could be found is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xks.policy_match import AWS_INTERNAL, Interval, is_pattern, read_time, text_matcher
from xks.policy_rules import ALLOWED, PRINCIPAL_FIELDS, RuleSet
from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

KMS_OPERATIONS = frozenset(
    (
        "Encrypt", "Decrypt", "ReEncrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
        "CreateKey", "DescribeKey", "CreateGrant", "RetireGrant", "CreateAlias", "EnableKey", "DisableKey",
    )
)  # fmt: skip
"""Names that AWS's documentation lists for keys in external key stores; others are passed on all the same."""
CREATING = ("CreateKey", "DescribeKey")
"""What KMS says that it is doing when it asks for metadata."""
SERVICES = (
    "s3.amazonaws.com",
    "ec2.amazonaws.com",
    "rds.amazonaws.com",
    "dynamodb.amazonaws.com",
    "lambda.amazonaws.com",
    "secretsmanager.amazonaws.com",
    "logs.amazonaws.com",
    "sqs.amazonaws.com",
    "backup.amazonaws.com",
    "autoscaling.amazonaws.com",
)
OPTIONAL = frozenset(
    ("account", "role", "service", "source_vpc", "source_vpce", "kms_via_service", "key_tag")
)
"""Fields that a request may lack."""

DANGER, WARNING, NOTE = "DANGER", "WARNING", "NOTE"


@dataclass(frozen=True)
class Finding:
    """One thing to look at. ``rule`` is the name of the rule, "" for the rules as a whole."""

    code: str
    severity: str
    rule: str
    message: str
    cure: str


def lint(rules: Sequence[RuleRecord], *, now: float) -> list[Finding]:
    """Return findings on rules that compile, the gravest first. ``now`` is seconds since the epoch."""
    found: list[Finding] = []
    dead: set[str] = set()
    for rule in rules:
        why = _why_never(rule, now)
        if why:
            dead.add(rule.name)
            found.append(
                Finding(
                    "never-matches",
                    WARNING,
                    rule.name,
                    f"This rule can never match: {why}.",
                    "Correct or remove it.",
                )
            )
        found.extend(_look_at(rule))
    denies = [rule for rule in rules if rule.effect == "DENY" and rule.name not in dead]
    allows = [rule for rule in rules if rule.effect == "ALLOW"]
    useful = []
    for rule in allows:
        over = next((other for other in denies if _covers(other, rule)), None)
        if rule.name in dead:
            continue
        if over is not None:
            found.append(
                Finding(
                    "always-overridden",
                    WARNING,
                    rule.name,
                    f"Whatever this rule allows, the rule '{over.name}' denies.",
                    "A denial always wins: narrow it, or remove this rule.",
                )
            )
            continue
        useful.append(rule)
    found.extend(_lockouts(denies, allows, useful))
    if useful:
        found.extend(_omissions(useful))
    found.extend(_denied_services(denies))
    order = (DANGER, WARNING, NOTE)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def locks_everybody_out(findings: Iterable[Finding]) -> bool:
    """Say whether rules with these findings would refuse every use."""
    return any(finding.code == "locks-everybody-out" for finding in findings)


# --- the whole ------------------------------------------------------------------------------------------------


def _lockouts(
    denies: Sequence[RuleRecord], allows: Sequence[RuleRecord], useful: Sequence[RuleRecord]
) -> Iterator[Finding]:
    everything = next((rule for rule in denies if all(map(_always_holds, rule.conditions))), None)
    if everything is not None:
        yield Finding(
            "locks-everybody-out",
            DANGER,
            everything.name,
            "This rule denies every request: nobody could use the key any more, AWS's services included.",
            "Add a condition. To stop all use at once and for a while, block the key or the store.",
        )
    elif allows and not useful:
        yield Finding(
            "locks-everybody-out",
            DANGER,
            "",
            "There are allow rules, but none can ever let a request through: nobody could use the key any more.",
            "Correct the allow rules, or remove them all to trust AWS IAM.",
        )


def _omissions(allows: Sequence[RuleRecord]) -> Iterator[Finding]:
    if not any(_may_be(rule, AWS_INTERNAL) for rule in allows):
        yield Finding(
            "omits-aws-internal",
            WARNING,
            "",
            f'No allow rule lets "{AWS_INTERNAL}" through: AWS names its own calls so, such as those that attach an'
            " encrypted volume again or restore a backup, and they would fail.",
            f'Add an allow rule with the condition service is "{AWS_INTERNAL}", unless you want them to fail.',
        )
    if not any(_may_be(rule, service) for rule in allows for service in SERVICES):
        yield Finding(
            "omits-aws-services",
            WARNING,
            "",
            "No allow rule lets a service principal of AWS through: services that use the key in their own name"
            " (EC2, CloudWatch Logs, AWS Backup, ...) would fail.",
            "Add an allow rule with the condition service is *.amazonaws.com, or name the services.",
        )
    if not any(_may_do(rule, operation) for rule in allows for operation in CREATING):
        yield Finding(
            "omits-metadata",
            WARNING,
            "",
            "No allow rule lets CreateKey or DescribeKey through: KMS could not read the key's metadata, so no KMS key"
            " can be made for it.",
            "Add CreateKey and DescribeKey to a rule's kms_operation.",
        )


def _denied_services(denies: Sequence[RuleRecord]) -> Iterator[Finding]:
    for rule in denies:
        others = [item for item in rule.conditions if item.field not in PRINCIPAL_FIELDS]
        asks = any(item.field in PRINCIPAL_FIELDS for item in rule.conditions)
        if asks and not others and _may_be(rule, AWS_INTERNAL):
            yield Finding(
                "denies-aws-internal",
                WARNING,
                rule.name,
                f'This rule denies "{AWS_INTERNAL}" too, by which AWS names its own calls: encrypted volumes could'
                " not be attached again, for example.",
                "Add the condition principal is arn:*:*:*:*:*, so that it judges people and roles alone.",
            )


def _may_be(rule: RuleRecord, principal: str) -> bool:
    """Whether the rule's conditions on who calls hold for that principal."""
    conditions = tuple(item for item in rule.conditions if item.field in PRINCIPAL_FIELDS)
    return _holds(conditions, principal=principal)


def _may_do(rule: RuleRecord, operation: str) -> bool:
    conditions = tuple(item for item in rule.conditions if item.field == "kms_operation")
    return _holds(conditions, operation=operation)


def _holds(
    conditions: tuple[ConditionRecord, ...], *, principal: str = AWS_INTERNAL, operation: str = "Decrypt"
) -> bool:
    rules = RuleSet(RuleSetRecord("", 0, (RuleRecord("", "ALLOW", conditions),)))
    return rules.judge(principal, operation, None, None, None, (), 0.0, is_metadata=False) == ALLOWED


def _always_holds(item: ConditionRecord) -> bool:
    return item.field in ("principal", "kms_operation") and not item.negated and "*" in item.values


def _covers(deny: RuleRecord, allow: RuleRecord) -> bool:
    """Whether every request that the allow rule matches is one that the denial matches, as far as is plain."""
    return all(_always_holds(item) or item in allow.conditions for item in deny.conditions)


# --- one rule -------------------------------------------------------------------------------------------------


def _look_at(rule: RuleRecord) -> Iterator[Finding]:
    for item in rule.conditions:
        if rule.effect == "DENY" and item.negated and item.field in OPTIONAL:
            yield Finding(
                "absent-is-not-denied",
                WARNING,
                rule.name,
                f"A request without {item.field} is not denied by this rule: a condition on what is absent never"
                " holds, negated or not.",
                f"To let only certain values of {item.field} through, write an allow rule for them.",
            )
        if item.field == "kms_operation":
            unknown = [value for value in item.values if not any(map(text_matcher([value]), KMS_OPERATIONS))]
            if unknown:
                yield Finding(
                    "unknown-operation",
                    NOTE,
                    rule.name,
                    f"KMS is not known to send {', '.join(unknown[:5])}.",
                    "Capitals count: Decrypt, GenerateDataKey.",
                )


def _why_never(rule: RuleRecord, now: float) -> str:
    """Return why the rule can never match, "" when that is not plain."""
    wanted = {item.field for item in rule.conditions}
    if "service" in wanted and wanted & {"account", "role"}:
        return "a service has neither account nor role"
    by_field: dict[tuple[str, str], list[ConditionRecord]] = {}
    for item in rule.conditions:
        by_field.setdefault((item.field, item.tag), []).append(item)
    for (field, tag), items in by_field.items():
        if field == "time":
            if any(not item.negated and _is_over(item, now) for item in items):
                return "its time is over"
            continue
        if field == "key_tag" and tag.lower().startswith("aws:"):
            return f"keys here have no tag {tag}"
        if field in PRINCIPAL_FIELDS:
            continue
        values = _finite(items)
        if values is not None and not any(_all_hold(items, value) for value in values):
            return f"no {field} is both what one condition wants and what the other does"
        if any(item.negated and "*" in item.values for item in items):
            return f"no {field} is other than *"
    return _why_nobody(rule)


def _why_nobody(rule: RuleRecord) -> str:
    """Return why no principal fits, "" when that is not plain."""
    conditions = tuple(item for item in rule.conditions if item.field in PRINCIPAL_FIELDS)
    for item in conditions:
        if item.negated and "*" in item.values and item.field in ("principal", "service"):
            return f"no {item.field} is other than *"
        if item.negated or any(map(is_pattern, item.values)):
            continue
        # A role has sessions without number, so only these two name all that can fit.
        if item.field not in ("principal", "service"):
            continue
        if not any(_holds(conditions, principal=principal) for principal in item.values):
            return f"what it wants of {item.field} is what its other conditions exclude"
    about_accounts = [item for item in conditions if item.field == "account"]
    accounts = _finite(about_accounts)
    if accounts is not None:
        if not any(_all_hold(about_accounts, account) for account in accounts):
            return "no account is both what one condition wants and what the other does"
        for item in conditions:
            if item.negated or item.field not in ("principal", "role"):
                continue
            theirs = {value.split(":")[4] for value in item.values if value.count(":") >= 5}
            if theirs and "*" not in item.values and not any(text_matcher(theirs)(one) for one in accounts):
                return f"its {item.field} is of another account than its account"
    return ""


def _finite(items: Sequence[ConditionRecord]) -> list[str] | None:
    """Return all values that can hold, where one condition names them; else None."""
    for item in items:
        if not item.negated and not any(map(is_pattern, item.values)):
            return list(item.values)
    return None


def _all_hold(items: Sequence[ConditionRecord], value: str) -> bool:
    return all(text_matcher(item.values)(value) is not item.negated for item in items)


def _is_over(item: ConditionRecord, now: float) -> bool:
    spans = [read_time(value) for value in item.values]
    return all(isinstance(span, Interval) and span.end <= now for span in spans)
