"""The doctor: against the real data plane, and against a world that is broken in each way it knows."""

from __future__ import annotations

import datetime as dt
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from django.conf import settings as django_settings
from django.core.management import call_command
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, XksCredential, XksKeyStore
from tests.cast import Cast
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.cloudkeys.world import new_account, new_key_set, store_of
from vault import startup
from vault.errors import Conflict, NotFound, ValidationFailed
from vault.keys import unseal
from vault.models import AuditEvent, Node
from xks import aws_authorities, doctor_calls, doctor_findings, doctor_tls
from xks.doctor_findings import Finding, Severity
from xks.doctor_tls import Place, judge_certificate, look_at_tls
from xks.models import DoctorReport
from xks.services import doctor

HOST = "xks.keystead.test"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)


class Authority:
    """A throwaway authority that issues whatever a test wants to be wrong."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Throwaway CA")])
        self.certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.key.public_key())
            .serial_number(1).not_valid_before(NOW - 900 * DAY).not_valid_after(NOW + 900 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip

    def issue(
        self,
        common: str = HOST,
        further: tuple[str, ...] | None = None,
        begin: dt.timedelta = -10 * DAY,
        end: dt.timedelta = 90 * DAY,
        key: Any = None,
    ) -> tuple[x509.Certificate, Any]:
        """A certificate and its key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        names = (common,) if further is None else further
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
            .issuer_name(self.certificate.subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(NOW + begin).not_valid_after(NOW + end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )  # fmt: skip
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
            )
        return builder.sign(self.key, hashes.SHA256()), key


@pytest.fixture(scope="module")
def authority() -> Authority:
    """One for all tests here."""
    return Authority()


def found(findings: list[Finding], id: str) -> Finding:
    """The one finding of that id, which says what it must."""
    (only,) = [each for each in findings if each.id == id]
    assert only.what
    assert only.why
    if only.severity in (Severity.WARN, Severity.ERROR):
        assert only.do
    return only


# --- the certificate --------------------------------------------------------------------------------------------


def judged(authority: Authority, host: str = HOST, roots: Any = "own", **issued: Any) -> list[Finding]:
    leaf, _ = authority.issue(**issued)
    trusted = [authority.certificate] if roots == "own" else roots
    return list(judge_certificate([leaf, authority.certificate], host, trusted, NOW))


@pytest.mark.parametrize(
    ("issued", "id", "severity", "words"),
    [
        ({}, "name", Severity.OK, "covers"),
        ({"common": "*.keystead.test"}, "name", Severity.OK, "covers"),
        ({"common": "*.other.test"}, "name", Severity.ERROR, f"not for {HOST}"),
        ({"common": "*.a.keystead.test"}, "name", Severity.ERROR, "not for"),
        ({"common": "x", "further": (HOST,)}, "name", Severity.WARN, "common name"),
        ({"further": ("other.test",)}, "name", Severity.WARN, "alternative"),
        ({"further": ()}, "name", Severity.WARN, "alternative"),
        ({}, "expiry", Severity.OK, "90 more days"),
        ({"end": 20 * DAY, "begin": -345 * DAY}, "expiry", Severity.WARN, "20 more days"),
        ({"end": 5 * DAY, "begin": -360 * DAY}, "expiry", Severity.ERROR, "5 more days"),
        ({"end": -1 * DAY}, "expiry", Severity.ERROR, "ended"),
        ({"begin": 1 * DAY}, "expiry", Severity.ERROR, "good only from"),
        ({}, "chain", Severity.INFO, "private"),
        ({"end": -1 * DAY}, "chain", Severity.INFO, "private"),
        ({"roots": None}, "chain", Severity.ERROR, "2022-11-10"),
    ],
)  # fmt: skip
def test_certificates(
    authority: Authority, issued: dict[str, Any], id: str, severity: Severity, words: str
) -> None:
    finding = found(judged(authority, **issued), id)
    assert (finding.severity, words in finding.what) == (severity, True), finding


def test_a_chain_of_another_authority(authority: Authority) -> None:
    finding = found(judged(authority, roots=[Authority().certificate]), "chain")
    assert finding.severity is Severity.ERROR


def test_a_leaf_without_its_intermediates_is_told_so(authority: Authority) -> None:
    leaf, _ = authority.issue()
    chain = found(list(judge_certificate([leaf], HOST, None, NOW)), "chain")
    assert chain.severity is Severity.ERROR
    assert "intermediate" in chain.do


def test_a_public_chain_leads_to_an_authority_on_awss_list(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = authority.certificate
    monkeypatch.setattr(aws_authorities, "trusted_roots", lambda: (root,))
    monkeypatch.setitem(aws_authorities.NAMES, aws_authorities.fingerprint(root), "Throwaway CA")
    finding = found(judged(authority, roots=None), "chain")
    assert finding.severity is Severity.OK, finding
    assert "Throwaway CA" in finding.what


def test_awss_list_is_at_hand() -> None:
    roots = aws_authorities.trusted_roots()
    assert len(roots) > 50
    assert {aws_authorities.fingerprint(root) for root in roots} <= set(aws_authorities.NAMES)
    assert "Amazon Root CA 1" in aws_authorities.NAMES.values()


# --- the connection ---------------------------------------------------------------------------------------------


class TlsServer:
    """Shakes hands and hangs up."""

    def __init__(
        self, folder: Path, issued: tuple[x509.Certificate, Any], configure: Callable[..., None]
    ) -> None:
        leaf, key = issued
        files = folder / "leaf.pem", folder / "key.pem"
        files[0].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*files)
        configure(self.context)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.place = Place(HOST, "127.0.0.1", self.listening.getsockname()[1])
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listening.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as secured:
                    secured.settimeout(2)
                    secured.recv(1)
            except OSError:
                plain.close()

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join(5)


@pytest.fixture
def serve_tls(tmp_path: Path, authority: Authority) -> Iterator[Callable[..., Place]]:
    """Serve TLS in a way of the test's own."""
    servers: list[TlsServer] = []

    def serve(configure: Callable[[ssl.SSLContext], None] = lambda context: None, **issued: Any) -> Place:
        servers.append(TlsServer(tmp_path, authority.issue(**issued), configure))
        return servers[-1].place

    yield serve
    for server in servers:
        server.close()


def look(place: Place, authority: Authority) -> doctor_tls.TlsSeen:
    return look_at_tls(place, [authority.certificate], NOW)


def test_a_right_endpoint(serve_tls: Callable[..., Place], authority: Authority) -> None:
    seen = look(serve_tls(), authority)
    assert seen.trusted
    assert {each.severity for each in seen.findings} == {Severity.OK, Severity.INFO}
    assert "TLS_AES_256_GCM_SHA384" in found(seen.findings, "tls-ciphers").what
    assert "ECDHE_ECDSA" in found(seen.findings, "tls-ciphers").what
    assert found(seen.findings, "tls-weak").severity is Severity.OK


def test_an_rsa_certificate_takes_the_rsa_suite(
    serve_tls: Callable[..., Place], authority: Authority
) -> None:
    place = serve_tls(key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    said = found(look(place, authority).findings, "tls-ciphers").what
    assert "ECDHE_RSA_WITH_AES_256" in said
    assert "ECDSA" not in said


def test_old_tls_beside_new(serve_tls: Callable[..., Place], authority: Authority) -> None:
    def old_too(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1

    with pytest.warns(DeprecationWarning, match="TLSv1"):
        place = serve_tls(old_too)
    weak = found(look(place, authority).findings, "tls-weak")
    assert (weak.severity, "TLS 1.1" in weak.what) == (Severity.WARN, True)


def test_only_old_tls(serve_tls: Callable[..., Place], authority: Authority) -> None:
    def old_alone(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.warns(DeprecationWarning, match="TLSv1"):
        place = serve_tls(old_alone)
    seen = look(place, authority)
    assert found(seen.findings, "tls-version").severity is Severity.ERROR
    assert not seen.trusted


def test_none_of_awss_suites(serve_tls: Callable[..., Place], authority: Authority) -> None:
    def others(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")

    suites = found(look(serve_tls(others), authority).findings, "tls-ciphers")
    assert suites.severity is Severity.ERROR
    assert "AES128" in suites.what


def test_a_closed_port(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    seen = look(Place(HOST, "127.0.0.1", port), authority)
    assert found(seen.findings, "port").severity is Severity.ERROR
    assert "closed" in found(seen.findings, "port").what


def test_a_port_that_says_nothing(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_tls, "HANDSHAKE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        seen = look(Place(HOST, "127.0.0.1", silent.getsockname()[1]), authority)
    assert "within 0.2 s" in found(seen.findings, "port").what


def test_a_port_that_speaks_no_tls(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        seen = look(Place(HOST, "127.0.0.1", server.getsockname()[1]), authority)
        thread.join()
    assert found(seen.findings, "tls-version").severity is Severity.ERROR


# --- the calls --------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(tmp_path: Path, authority: Authority) -> Iterator[fake_proxy.FakeProxy]:
    """A proxy with one key, ``key-1``."""
    leaf, key = authority.issue()
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with fake_proxy.serving(tmp_path / "leaf.pem", tmp_path / "key.pem") as serving:
        serving.keys["key-1"] = fake_proxy.ExternalKey()
        serving.print = leaf.fingerprint(hashes.SHA256())  # type: ignore[attr-defined]
        yield serving


def ask(proxy: fake_proxy.FakeProxy, *, samples: int = 3, **changes: Any) -> doctor_calls.Called:
    from vault.secret import Secret

    given: dict[str, Any] = {
        "uri_path": fake_proxy.PATH,
        "access_key_id": fake_proxy.ACCESS_KEY_ID,
        "secret": Secret(fake_proxy.SECRET),
        "region": "eu-west-1",
        "health_key": "key-1",
    }
    fingerprint = changes.pop("fingerprint", proxy.print)  # type: ignore[attr-defined]
    caller = doctor_calls.Caller(**{**given, **changes})
    place = Place(HOST, "127.0.0.1", proxy.port)
    return doctor_calls.call_endpoint(
        place, caller, fingerprint, samples=samples, deadline=time.monotonic() + 20
    )


def test_all_is_well(proxy: fake_proxy.FakeProxy) -> None:
    called = ask(proxy)
    # A busy test machine may be slow; that has a test of its own.
    assert {each.id for each in called.findings} == {
        "clock", "path", "credential", "health", "metadata", "crypto", "latency",
    }  # fmt: skip
    assert {each.severity for each in called.findings if each.id != "latency"} == {Severity.OK}
    assert called.latency["encrypt"]["samples"] == called.latency["decrypt"]["samples"] == 3
    assert called.latency["encrypt"]["p50_ms"] > 0


@pytest.mark.parametrize(
    ("answer", "id", "words"),
    [
        ((401, {"errorName": "AuthenticationFailedException"}), "credential", "401"),
        ((404, {"errorName": "InvalidUriPathException"}), "path", "404"),
        ((400, {"errorName": "InvalidStateException"}), "health", "InvalidStateException"),
        ((403, {}), "health", "before the endpoint"),
        ((429, {}), "health", "too much"),
        ((503, {"errorName": "DependencyTimeoutException"}), "health", "cannot answer now"),
        ((500, {"errorName": "InternalException"}), "health", "500 InternalException"),
        ((302, {}), "health", "302"),
        ((200, b"<html>"), "health", "no XKS proxy"),
        ((200, {"xksProxyFleetSize": 1}), "health", "no XKS proxy"),
        ((200, {**fake_proxy.HEALTH, "ekmFleetDetails": []}), "health", "no key manager"),
        (b"", "health", "hung up"),
        (b"SSH-2.0-OpenSSH\r\n", "health", "hung up"),
    ],
)  # fmt: skip
def test_what_health_may_answer(proxy: fake_proxy.FakeProxy, answer: Any, id: str, words: str) -> None:
    proxy.override = lambda seen: answer
    finding = found(ask(proxy).findings, id)
    assert (finding.severity, words in finding.what) == (Severity.ERROR, True), finding


def test_a_wrong_secret(proxy: fake_proxy.FakeProxy) -> None:
    from vault.secret import Secret

    assert found(ask(proxy, secret=Secret("A" * 44)).findings, "credential").severity is Severity.ERROR


@pytest.mark.parametrize(
    ("states", "severity"),
    [(["ACTIVE", "DEGRADED"], Severity.WARN), (["UNAVAILABLE"], Severity.ERROR)],
)
def test_key_managers_that_are_not_active(
    proxy: fake_proxy.FakeProxy, states: list[str], severity: Severity
) -> None:
    proxy.health["ekmFleetDetails"] = [{"id": "a", "model": "m", "healthStatus": state} for state in states]
    assert found(ask(proxy).findings, "health").severity is severity


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (fake_proxy.ExternalKey(status="DISABLED"), "DISABLED"),
        (fake_proxy.ExternalKey(usage=("ENCRYPT",)), "ENCRYPT"),
        (fake_proxy.ExternalKey(spec="RSA_2048"), "RSA_2048"),
    ],
)
def test_a_health_key_that_does_not_fit(
    proxy: fake_proxy.FakeProxy, key: fake_proxy.ExternalKey, words: str
) -> None:
    proxy.keys["key-1"] = key
    finding = found(ask(proxy).findings, "metadata")
    assert (finding.severity, words in finding.what) == (Severity.ERROR, True)


def test_a_health_key_that_is_not_there(proxy: fake_proxy.FakeProxy) -> None:
    assert "404 KeyNotFoundException" in found(ask(proxy, health_key="none").findings, "metadata").what


@pytest.mark.parametrize(
    ("operation", "answer", "words"),
    [
        ("encrypt", (403, {"errorName": "AccessDeniedException"}), "Encrypt"),
        ("decrypt", (500, {"errorName": "InternalException"}), "Decrypt"),
        ("decrypt", (200, {"plaintext": "AAAA"}), "did not decrypt to the same"),
        ("decrypt", b"", "stopped answering"),
    ],
)
def test_cryptography_that_fails(
    proxy: fake_proxy.FakeProxy, operation: str, answer: Any, words: str
) -> None:
    proxy.override = lambda seen: answer if seen.path.endswith(operation) else None
    finding = found(ask(proxy).findings, "crypto")
    assert (finding.severity, words in finding.what) == (Severity.ERROR, True)


@pytest.mark.parametrize(
    ("p50", "p99", "severity"),
    [(3.0, 9.0, Severity.OK), (36.0, 90.0, Severity.WARN), (3.0, 251.0, Severity.ERROR)],
)
def test_latency(p50: float, p99: float, severity: Severity) -> None:
    measured = {"samples": 20, "min_ms": 1.0, "p50_ms": p50, "p99_ms": p99, "max_ms": p99}
    finding = doctor_calls._judge_latency({"encrypt": measured, "decrypt": measured})
    assert (finding.severity, f"{p50:g} ms" in finding.what) == (severity, True)


def test_a_slow_endpoint_is_measured(proxy: fake_proxy.FakeProxy) -> None:
    def slowly(seen: fake_proxy.Seen) -> None:
        if seen.path.endswith("encrypt"):
            time.sleep(0.04)

    proxy.override = slowly
    called = ask(proxy)
    assert called.latency["encrypt"]["p50_ms"] >= 40
    assert found(called.findings, "latency").severity in (Severity.WARN, Severity.ERROR)


@pytest.mark.parametrize(
    ("seconds", "severity", "word"),
    [(0, Severity.OK, "agree"), (60, Severity.WARN, "ahead"), (-60, Severity.WARN, "behind"),
     (400, Severity.ERROR, "ahead"), (-400, Severity.ERROR, "behind")],
)  # fmt: skip
def test_clocks(seconds: int, severity: Severity, word: str) -> None:
    from email.utils import formatdate

    finding = doctor_calls._judge_clock(formatdate(time.time() + seconds, usegmt=True))
    assert (finding.severity, word in finding.what) == (severity, True)


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_clock_that_is_not_told(date: str) -> None:
    assert doctor_calls._judge_clock(date).severity is Severity.INFO


def test_another_certificate_than_the_one_judged_gets_no_signature(proxy: fake_proxy.FakeProxy) -> None:
    called = ask(proxy, fingerprint=bytes(32))
    assert found(called.findings, "health").severity is Severity.ERROR
    assert proxy.seen == []


def test_every_finding_has_a_reason() -> None:
    assert all(doctor_findings.WHY.values())
    assert doctor_findings.worst([]) is Severity.OK


# --- a store ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(
    cast: Cast,
    proxy: fake_proxy.FakeProxy,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> XksKeyStore:
    """A store of the cast's vault whose endpoint is the fake proxy."""
    # Off by default where there is a database server.
    monkeypatch.setenv("KEYSTEAD_SIMULATOR", "on")
    monkeypatch.setattr(django_settings, "KEYSTEAD_SIMULATOR", True)
    key_set = new_key_set(
        cast.actor("owner"),
        cast.vault,
        new_account(cast.actor("owner"), cast.vault, partition="simulator"),
    ).key_set
    store = store_of(key_set)
    (credential,) = store.credentials.all()
    proxy.prefix = store.path_prefix
    proxy.secrets = {credential.access_key_id: unseal(credential, "secret_access_key").reveal_text()}
    health = CloudKey.objects.get(store=store, kind=CloudKey.Kind.HEALTH_CHECK)
    proxy.keys[health.external_key_id] = fake_proxy.ExternalKey()
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("KEYSTEAD_XKS_PORT", str(proxy.port))
    monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(tmp_path / "ca.pem"))
    Node.objects.create(name="node-a", started_at=timezone.now(), last_seen_at=timezone.now())
    return store


def examine(cast: Cast, store: XksKeyStore, **how: Any) -> dict[str, Any]:
    """Findings by id."""
    report = doctor.examine_store(cast.actor("owner"), store.pk, samples=2, **how)
    return {each["id"]: each for each in report.findings}


@pytest.mark.django_db
class TestStore:
    """The whole of it."""

    def test_a_healthy_store(self, cast: Cast, store: XksKeyStore) -> None:
        report = doctor.examine_store(cast.actor("owner"), store.pk, samples=2)
        said = {each["id"]: each["severity"] for each in report.findings if each["id"] != "latency"}
        assert "error" not in said.values(), report.findings
        assert "warn" not in said.values(), report.findings
        assert {
            "dns",
            "port",
            "chain",
            "credential",
            "health",
            "crypto",
            "nodes",
            "blocked",
            "balancer",
        } <= set(said)
        assert report.latency["decrypt"]["samples"] == 2
        assert doctor.last_report(cast.actor("auditor"), store.pk).pk == report.pk
        event = AuditEvent.objects.filter(action="xks:doctor:run").get()
        assert event.detail["endpoint"] == "https://xks.keystead.test"
        # The next one takes the place of this one.
        doctor.examine_store(cast.actor("owner"), store.pk, samples=1)
        assert DoctorReport.objects.count() == 1

    def test_no_secret_is_in_the_report(
        self, cast: Cast, store: XksKeyStore, proxy: fake_proxy.FakeProxy
    ) -> None:
        report = doctor.examine_store(cast.actor("owner"), store.pk, samples=1)
        (secret,) = proxy.secrets.values()
        assert secret not in json.dumps([report.findings, report.latency])

    def test_never_examined(self, cast: Cast, store: XksKeyStore) -> None:
        with pytest.raises(NotFound, match="not examined"):
            doctor.last_report(cast.actor("owner"), store.pk)

    def test_a_region_that_the_store_is_not_in(self, cast: Cast, store: XksKeyStore) -> None:
        with pytest.raises(ValidationFailed):
            examine(cast, store, region="eu-north-1")

    def test_two_are_enough_at_a_time(
        self, cast: Cast, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor, "_slots", threading.BoundedSemaphore(1))
        with doctor._slots, pytest.raises(Conflict, match="busy"):
            examine(cast, store)

    def test_a_blocked_store_and_no_node(self, cast: Cast, store: XksKeyStore) -> None:
        XksKeyStore.objects.filter(pk=store.pk).update(blocked=True)
        Node.objects.all().delete()
        said = examine(cast, store)
        assert said["blocked"]["severity"] == "error"
        assert said["nodes"]["severity"] == "error"

    def test_nodes_that_are_silent(self, cast: Cast, store: XksKeyStore) -> None:
        Node.objects.update(last_seen_at=timezone.now() - dt.timedelta(seconds=45))
        assert examine(cast, store)["nodes"]["severity"] == "error"
        Node.objects.create(name="node-b", started_at=timezone.now(), last_seen_at=timezone.now())
        assert examine(cast, store)["nodes"]["severity"] == "warn"

    def test_credentials(self, cast: Cast, store: XksKeyStore) -> None:
        XksCredential.objects.update(created_at=timezone.now() - dt.timedelta(days=400))
        assert examine(cast, store)["credential-age"]["severity"] == "warn"
        XksCredential.objects.update(state="RETIRED")
        assert "no live credential" in examine(cast, store)["credential"]["what"]

    def test_nothing_is_signed_for_an_endpoint_that_is_not_trusted(
        self,
        cast: Cast,
        store: XksKeyStore,
        proxy: fake_proxy.FakeProxy,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        other = tmp_path / "other.pem"
        other.write_bytes(Authority().certificate.public_bytes(serialization.Encoding.PEM))
        monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(other))
        said = examine(cast, store)
        assert said["chain"]["severity"] == "error"
        assert "Not tried" in said["credential"]["what"]
        assert proxy.seen == []

    def test_a_balancer_that_ends_tls(
        self, cast: Cast, store: XksKeyStore, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "ends TLS" in examine(cast, store)["balancer"]["what"]

    def test_a_name_that_does_not_resolve_and_one_of_this_machine(
        self, cast: Cast, store: XksKeyStore, proxy: fake_proxy.FakeProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = AwsStoreLink.objects.create(
            vault=store.vault,
            store=store,
            region="eu-west-1",
            name="x",
            endpoint="https://inside.example.com",
        )

        def resolve(*args: Any, **kwargs: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert examine(cast, store)["dns"]["severity"] == "error"

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        said = examine(cast, store)["dns"]
        assert "does not resolve" in said["what"]
        assert proxy.seen == []
        link.connectivity = "VPC_ENDPOINT_SERVICE"
        link.save()
        assert "private DNS name" in examine(cast, store)["dns"]["what"]

    def test_a_dns_that_does_not_answer(
        self, cast: Cast, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor, "DNS_S", 0.05)
        release = threading.Event()
        monkeypatch.setattr(doctor.preflight, "find_place", lambda *_, **__: release.wait(10))
        try:
            assert "did not answer" in examine(cast, store)["dns"]["what"]
        finally:
            release.set()

    @pytest.mark.parametrize(
        ("state", "code", "severity", "words"),
        [
            ("CONNECTED", "", "ok", "Connected"),
            ("FAILED", "XKS_PROXY_TIMED_OUT", "error", "250 ms"),
            ("FAILED", "XKS_TOMORROW", "error", "XKS_TOMORROW"),
            ("GONE", "", "error", "Gone"),
            ("DISCONNECTED", "", "warn", "Disconnected"),
        ],
    )
    def test_what_aws_says(
        self, cast: Cast, store: XksKeyStore, state: str, code: str, severity: str, words: str
    ) -> None:
        AwsStoreLink.objects.create(
            vault=store.vault, store=store, region="eu-west-1", name="x", endpoint="https://xks.keystead.test",
            linked=True, state=state, connection_error_code=code, cloud_state_at=timezone.now(),
        )  # fmt: skip
        said = examine(cast, store)["aws-connection"]
        assert (said["severity"], words in said["what"]) == (severity, True), said

    def test_a_store_that_is_not_linked(self, cast: Cast, store: XksKeyStore) -> None:
        AwsStoreLink.objects.create(
            vault=store.vault, store=store, region="eu-west-1", name="x", endpoint="https://xks.keystead.test"
        )
        assert examine(cast, store)["aws-connection"]["severity"] == "info"

    def test_the_command(self, cast: Cast, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(startup, "check_root_key", lambda: None)
        words = ("xks_doctor", str(store.pk))
        out = io.StringIO()
        call_command(*words, "--samples", "1", stdout=out, skip_checks=True)
        text = out.getvalue()
        assert "https://xks.keystead.test" in text
        assert "crypto: 1 encrypts" in text
        XksKeyStore.objects.filter(pk=store.pk).update(blocked=True)
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command(*words, "--samples", "1", "--json", stdout=out, skip_checks=True)
        assert ended.value.code == 1
        assert json.loads(out.getvalue())["severity"] == "error"
        out = io.StringIO()
        with pytest.raises(SystemExit):
            call_command(*words, "--last", stdout=out, skip_checks=True)
        assert "ERROR blocked" in out.getvalue()
        assert "Do: " in out.getvalue()
