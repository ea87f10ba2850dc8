"""Examines an external key store as AWS KMS will meet it, and says what is wrong, why it matters and what to do.

API and command line run it where it is asked, bounded to some seconds: somebody waits for it, and what takes longer than that AWS KMS
would not have waited for either. The page asks for it, and a worker does it. Two at a time in a process; the network is used
outside of any transaction.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from django.db.models import Q
from django.utils import timezone

from cloudkeys import naming, preflight
from cloudkeys.models import AwsStoreLink, CloudKey, XksCredential, XksKeyStore
from cloudkeys.operations.errors import OperationError
from cloudkeys.providers.connection_errors import cause_and_cure
from cloudkeys.services.rows import require_live_vault
from cloudkeys.services.stores import find_health_check_key
from vault import env, errands
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, NotFound, ValidationFailed
from vault.keys import unseal
from vault.models import Errand, Node
from vault.permissions import Permission
from xks.doctor_calls import Called, Caller, call_endpoint
from xks.doctor_findings import Finding, Severity, finding, worst
from xks.doctor_tls import Place, TlsSeen, look_at_tls
from xks.models import DoctorReport
from xks.services.certificates import node_certificates

LIMIT_S: Final = 6.0
ERRAND: Final = "xks_store.examine"
TASK: Final = "xks.examine_stores"
DNS_S: Final = 2.0
MOST_SAMPLES: Final = 100
USUAL_SAMPLES: Final = 20
OLD_CREDENTIAL: Final = timedelta(days=365)

_slots = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class _Examined:
    """What is looked at: the store's own endpoint in one region, and nothing else."""

    store: XksKeyStore
    link: AwsStoreLink | None
    endpoint: str
    region: str
    simulated: bool

    @property
    def host(self) -> str:
        return self.endpoint.removeprefix("https://").lower()


def last_report(actor: Actor, store_id: UUID) -> DoctorReport:
    """What was found last. Raises NotFound when the store was never examined."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
    report = DoctorReport.objects.filter(store=store).first()
    if report is None:
        raise NotFound("The doctor has not examined this store yet.", cure="Run `keystead xks doctor STORE`.")
    return report


def examine_store(
    actor: Actor, store_id: UUID, *, region: str = "", samples: int = USUAL_SAMPLES
) -> DoctorReport:
    """Examine a store and keep the report. Raises NotFound, Conflict when two are under way in this process."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_MANAGE)
    require_live_vault(store.vault)
    what = _what(store, region)
    if not _slots.acquire(blocking=False):
        raise Conflict("The doctor is busy with other stores.", cure="Try again in a few seconds.")
    began = time.monotonic()
    try:
        called = _examine(what, max(1, min(samples, MOST_SAMPLES)))
    finally:
        _slots.release()
    findings = [*called.findings, *_look_inside(what)]
    with change(actor) as tx:
        store = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_MANAGE, lock=True)
        report, _ = DoctorReport.objects.update_or_create(
            store=store,
            defaults={
                "vault": store.vault,
                "endpoint": what.endpoint,
                "region": what.region,
                "severity": worst(findings).value,
                "findings": [each.as_dict() for each in findings],
                "latency": called.latency,
                "seconds": round(time.monotonic() - began, 2),
                "examined_at": timezone.now(),
                "examined_by": actor.display_name[:254],
            },
        )
        bad = [each.id for each in findings if each.severity is Severity.ERROR]
        tx.audit(
            Action.XKS_DOCTOR_RUN,
            store,
            target_name=store.key_set.name,
            detail={"endpoint": what.endpoint, "severity": report.severity, "errors": bad},
        )
    return report


def ask_for_examination(actor: Actor, store_id: UUID, *, region: str = "") -> Errand:
    """Let a worker examine a store; one that is under way is left as it is. Raises NotFound, ValidationFailed, PermissionDenied."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_MANAGE)
    require_live_vault(store.vault)
    _what(store, region)
    with change(actor):  # audited when it is done (XKS_DOCTOR_RUN)
        row, _ = errands.ask(actor, ERRAND, store.pk, TASK, vault=store.vault, input={"region": region})
    return row


def examination_of(actor: Actor, store_id: UUID) -> Errand | None:
    """What was asked for last, done or not. Raises NotFound."""
    store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
    return errands.last_errand(ERRAND, store.pk)


def examine_asked_stores() -> int:
    """Examine the stores for which somebody has asked it; for workers."""

    def work(row: Errand, actor: Actor, progress: errands.Progress) -> None:
        examine_store(actor, row.subject_id, region=str(row.input.get("region", "")))

    return errands.run_due(ERRAND, work)


def _what(store: XksKeyStore, region: str) -> _Examined:
    links = list(store.links.order_by("region"))
    link = next((each for each in links if not region or each.region == region), None)
    if region and link is None:
        raise ValidationFailed(
            f"The store has no AWS key store in {region}.",
            field="region",
            cure=f"It has them in {', '.join(each.region for each in links) or 'no region yet'}.",
        )
    account = store.key_set.csp_account
    endpoint = link.endpoint if link is not None else env.get("KEYSTEAD_XKS_PUBLIC_ENDPOINT")
    signing = link.region if link is not None else ""
    if not signing:
        signing = next(iter(store.allowed_regions), "") or (
            account.default_region if account else "us-east-1"
        )
    simulated = account.is_simulated if account is not None else bool(env.get("KEYSTEAD_SIMULATOR"))
    return _Examined(store, link, naming.check_endpoint(endpoint), signing, simulated)


# --- from the network's side ------------------------------------------------------------------------------------


def _examine(what: _Examined, samples: int) -> Called:
    deadline = time.monotonic() + LIMIT_S
    called = Called()
    if what.link is not None and what.link.connectivity == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE:
        called.findings.append(
            finding(
                "dns",
                Severity.INFO,
                f"{what.host} is the private DNS name of a VPC endpoint service: it is not reached from here.",
                "Ask from within that VPC: `curl -v https://HOST/ping` by the load balancer's own name.",
            )
        )
        return called
    found = _find(what, called)
    if found is None:
        return called
    place, authorities = found
    roots = None
    if authorities is not None:
        try:
            roots = x509.load_pem_x509_certificates(authorities.read_bytes())
        except (OSError, ValueError):
            roots = []
    seen = look_at_tls(place, roots)
    called.findings += seen.findings
    if seen.presented is None:
        return called
    balancer = _balancer(seen)
    if balancer is not None:
        called.findings.append(balancer)
    credential = (
        what.store.credentials.filter(state=XksCredential.State.ACTIVE).order_by("-created_at").first()
    )
    if credential is None:
        called.findings.append(
            finding(
                "credential",
                Severity.ERROR,
                "The store has no live credential.",
                "Make one and give it to AWS (`keystead xks store credentials`, UpdateCustomKeyStore).",
            )
        )
        return called
    if not seen.trusted:
        called.findings.append(
            finding(
                "credential",
                Severity.INFO,
                "Not tried: nothing is signed for an endpoint whose certificate is not right.",
                "Put the certificate right first, then run the doctor again.",
            )
        )
        return called
    if time.monotonic() > deadline:
        called.findings.append(
            finding(
                "time",
                Severity.WARN,
                f"After {LIMIT_S:g} s only the connection had been looked at.",
                "The endpoint is far slower than AWS KMS would wait: see the findings above, then run it again.",
            )
        )
        return called
    caller = Caller(
        what.store.path_prefix + naming.XKS_API_PATH,
        credential.access_key_id,
        unseal(credential, "secret_access_key"),
        what.region,
        _health_key(what.store),
    )
    more = call_endpoint(
        place,
        caller,
        seen.presented.leaf.fingerprint(hashes.SHA256()),
        samples=samples,
        deadline=deadline,
    )
    called.findings += more.findings
    called.latency = more.latency
    return called


def _health_key(store: XksKeyStore) -> str:
    key: CloudKey = find_health_check_key(store)
    return key.external_key_id


def _find(what: _Examined, called: Called) -> tuple[Place, Path | None] | None:
    # getaddrinfo waits for as long as the resolver's settings say, which may be half a minute.
    pool = ThreadPoolExecutor(1, thread_name_prefix="doctor-dns")
    try:
        address, port, authorities = pool.submit(
            preflight.find_place, what.host, simulated=what.simulated
        ).result(DNS_S)
    except NotInTime:
        called.findings.append(
            finding(
                "dns",
                Severity.ERROR,
                f"The DNS did not answer for {what.host} within {DNS_S:g} s.",
                "Look at this machine's resolvers (/etc/resolv.conf) and at the name's DNS servers.",
            )
        )
        return None
    except OperationError as error:
        called.findings.append(finding("dns", Severity.ERROR, error.cause, error.cure))
        return None
    finally:
        pool.shutdown(wait=False)
    mapped = " (as the simulator reaches it)" if authorities is not None else ""
    called.findings.append(finding("dns", Severity.OK, f"{what.host} is {address}{mapped}."))
    return Place(what.host, address, port), authorities


def _balancer(seen: TlsSeen) -> Finding | None:
    """Whether the certificate that the endpoint shows is the one that this installation's nodes have."""
    own = _own_certificates()
    if not own or seen.presented is None:
        return None
    if seen.presented.leaf.fingerprint(hashes.SHA256()).hex() in own:
        return finding(
            "balancer",
            Severity.OK,
            "TLS passes through to the nodes: the endpoint shows the certificate that they have.",
        )
    return finding(
        "balancer",
        Severity.INFO,
        f"Something before the nodes ends TLS: it shows certificate {seen.presented.leaf.serial_number:x}, the nodes have"
        f" {', '.join(sorted(own.values()))}.",
        "Right when a balancer is meant to end TLS: change the certificate there, and check client certificates there."
        " Otherwise traffic goes through something that you do not know.",
    )


def _own_certificates() -> dict[str, str]:
    """Fingerprint and serial number of what each living node serves; before any has said so, of this host's file."""
    told = {each.served["fingerprint"]: each.served.get("serial", "") for each in node_certificates()
            if each.served.get("fingerprint")}  # fmt: skip
    if told or not env.get("KEYSTEAD_XKS_TLS"):
        return told
    path = env.get("KEYSTEAD_XKS_TLS_CERT") or env.data_dir() / "tls" / "xks.pem"
    try:
        own = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return {own.fingerprint(hashes.SHA256()).hex(): f"{own.serial_number:x}"}


# --- from our own records ---------------------------------------------------------------------------------------


def _look_inside(what: _Examined) -> Iterator[Finding]:
    yield from _blocked(what.store)
    yield from _credentials(what.store)
    yield _nodes()
    for link in what.store.links.order_by("region"):
        yield _connection(link)


def _blocked(store: XksKeyStore) -> Iterator[Finding]:
    if store.blocked or store.vault.blocked:
        whose = "vault" if store.vault.blocked else "store"
        yield finding(
            "blocked",
            Severity.ERROR,
            f"The {whose} is blocked: each request gets InvalidStateException.",
            f"Unblock the {whose} when the reason for it is gone.",
        )
    else:
        yield finding("blocked", Severity.OK, "Neither the store nor its vault is blocked.")


def _credentials(store: XksKeyStore) -> Iterator[Finding]:
    live = list(store.credentials.filter(state=XksCredential.State.ACTIVE).order_by("created_at"))
    if not live:
        return  # the credential's own finding says so
    now = timezone.now()
    oldest = live[0]
    days = (now - oldest.created_at).days
    count = "one live credential" if len(live) == 1 else f"{len(live)} live credentials"
    what = f"The store has {count}; the oldest, {oldest.access_key_id}, is {days} days old."
    if now - oldest.created_at > OLD_CREDENTIAL:
        yield finding(
            "credential-age",
            Severity.WARN,
            what,
            "Rotate it: make a second credential, give it to AWS, and retire this one when it is silent.",
        )
    elif len(live) > 2:
        yield finding(
            "credential-age", Severity.INFO, what, "Retire those that AWS does not sign with any more."
        )
    else:
        yield finding("credential-age", Severity.OK, what)


def _nodes() -> Finding:
    now = timezone.now()
    bound = timedelta(seconds=env.get("KEYSTEAD_XKS_MAX_STALENESS"))
    # Those that have been gone for a day are history.
    nodes = Node.objects.filter(Q(deregistered_at=None), last_seen_at__gt=now - timedelta(days=1))
    ages = sorted((now - node.last_seen_at).total_seconds() for node in nodes)
    if not ages:
        return finding(
            "nodes", Severity.ERROR, "No node is registered.", "Start the XKS agent and workers on a node."
        )
    stale = [age for age in ages if age > bound.total_seconds() / 2]
    what = f"{len(ages)} nodes; the least recently heard of reported {ages[-1]:.0f} s ago (bound {bound.total_seconds():g} s)."
    if len(stale) == len(ages) or (stale and ages[-1] > bound.total_seconds()):
        return finding(
            "nodes",
            Severity.ERROR if len(stale) == len(ages) else Severity.WARN,
            what,
            "See `keystead xks node list`: restart the agent of a silent node, or look at its way to the database.",
        )
    return finding("nodes", Severity.WARN if stale else Severity.OK, what, "Watch it." if stale else "")


def _connection(link: AwsStoreLink) -> Finding:
    where = f"{link.name} in {link.region}"
    if not link.linked:
        return finding(
            "aws-connection",
            Severity.INFO,
            f"{where} is not linked: Keystead cannot ask AWS for its connection state.",
            "See it in the AWS console, or link the store.",
        )
    age = ""
    if link.cloud_state_at is not None:
        age = f", as AWS said {_ago(link.cloud_state_at)} ago"
    state = AwsStoreLink.State(link.state)
    said = f"{where} is {state.label}{age}."
    if state == AwsStoreLink.State.CONNECTED:
        return finding("aws-connection", Severity.OK, said)
    if state == AwsStoreLink.State.FAILED:
        reason = cause_and_cure(link.connection_error_code)
        return finding(
            "aws-connection",
            Severity.ERROR,
            f"{said} {link.connection_error_code or 'No code'}: {reason.cause} Check: {reason.check}",
            f"{reason.cure} (docs/runbooks/aws-connection-failed.md)",
        )
    if state == AwsStoreLink.State.GONE:
        return finding(
            "aws-connection",
            Severity.ERROR,
            said,
            "Somebody deleted it in AWS: make a new link; KMS keys of it are gone with it.",
        )
    return finding(
        "aws-connection",
        Severity.WARN,
        said,
        "Connect it (`keystead xks link connect`), or wait while it changes; refresh asks AWS anew.",
    )


def _ago(moment: Any) -> str:
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
