"""The whole cluster: two XKS nodes and two web pairs on one PostgreSQL and one Redis, HAProxy before both."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.nodes import ELSEWHERE, Program, WebPair, XksNode, wait_until
from tests.cluster.servers import Balancer, Broker, Database, mount_small_disk, unmount
from tests.vault.serving import ROOT, free_ports
from vault import probe
from xks.tls import certificate_files, ensure_certificate

sys.path.insert(0, str(ROOT / "scripts"))
import services
from demo_api import Api, Deviation

__all__ = ["Api", "Cluster", "Deviation", "start"]
STALENESS_S = 10.0
"""The bound of these runs; 60 s is the default, and would only make the runs longer."""
HOST = "xks.keystead.test"
ADMIN = "admin@keystead.test"
RATE = 1000.0
KEYS = 20
SMALL_DISK_MIB = 256
REGION = "eu-west-1"


@dataclass
class Cluster:
    """Everything that runs, and what a client needs to use it."""

    folder: Path
    database: Database
    broker: Broker
    nodes: list[XksNode]
    pairs: list[WebPair]
    simulator: Program
    balancer: Balancer
    xks_port: int
    web_port: int
    ca: Path
    admin_password: str = field(repr=False)
    api: Api | None = None
    store: dict[str, Any] = field(default_factory=dict)
    keys: list[dict[str, Any]] = field(default_factory=list)
    aws: dict[str, str] = field(default_factory=dict, repr=False)
    small_disk: bool = False
    """Whether the second node's journal lies on a small disk of its own."""

    def serving(self) -> int:
        """Return how many nodes answer /ping with 200."""
        return sum(probe.http_answers("127.0.0.1", node.port, "/ping", tls=True) for node in self.nodes)

    def wait_serving(self, seconds: float = 60.0) -> float:
        """Return the seconds until both nodes serve."""
        took = wait_until(lambda: self.serving() == len(self.nodes), "both nodes serve", seconds)
        for node in self.nodes:
            node.settle()
        return took

    def web_answers(self) -> bool:
        """Tell whether the web answers through the balancer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=2)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def admin(self) -> Api:
        """The vault admin's session, through the balancer."""
        if self.api is None:
            raise AssertionError("nobody has signed in")
        return self.api

    def make_key(self, name: str) -> dict[str, Any]:
        """Make a CloudKey in the store and wait until it is linked; return it as the API shows it."""
        made = self.admin.post("cloud-keys", key_set=self.store["id"], region=REGION, name=name)
        self.admin.wait(made["operation"])
        return dict(made["cloud_key"])

    def end(self) -> None:
        """End everything, whatever state it is in."""
        self.balancer.stop()
        for group in (*self.nodes, *self.pairs):
            group.thaw()
            group.kill()
        self.simulator.kill()
        self.broker.stop()
        self.database.stop()
        if self.small_disk:
            unmount(self.nodes[1].data / "journal")
            self.small_disk = False


def start() -> Cluster:
    """Start it all and return it once it serves. Its folder has a short path: Unix sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="kc"))
    folder.chmod(0o711)
    below = folder / "servers"
    below.mkdir()
    user = services.other_user()
    if user is not None:
        shutil.chown(below, user)
    database, broker = Database(below), Broker(below)
    database.start()
    broker.start()
    node_ports, pair_ports, (xks_port, web_port, simulator_port) = free_ports(2), free_ports(2), free_ports(3)
    tls = folder / "tls"
    ensure_certificate(tls)
    files = certificate_files(tls)
    password = secrets.token_urlsafe(18)
    root_key = folder / "root.key"
    root_key.touch(mode=0o600)
    root_key.write_bytes(secrets.token_bytes(32))
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "KEYSTEAD_DATABASE_URL": database.url,
        "KEYSTEAD_REDIS_URL": broker.url,
        "KEYSTEAD_ROOT_KEY_FILE": str(root_key),
        "KEYSTEAD_SECRET_KEY": secrets.token_hex(40),
        "KEYSTEAD_PUBLIC_URL": f"http://localhost:{web_port}",
        "KEYSTEAD_ALLOWED_HOSTS": "localhost,127.0.0.1",
        "KEYSTEAD_API_RATE": "100000",
        "KEYSTEAD_XKS_MAX_STALENESS": f"{STALENESS_S:.0f}",
        "KEYSTEAD_SIMULATOR": "on",
        "KEYSTEAD_SIMULATOR_PORT": str(simulator_port),
        "KEYSTEAD_ADMIN_EMAIL": ADMIN,
        "KEYSTEAD_ADMIN_PASSWORD": password,
        "KEYSTEAD_LOG_FORMAT": "console",
        "KEYSTEAD_METRICS_PORT": "0",
        "KEYSTEAD_XKS_FRONTS": "127.0.0.1",
    }
    own = {"KEYSTEAD_XKS_TLS_CERT": str(files.certificate), "KEYSTEAD_XKS_TLS_KEY": str(files.key)}
    at_node = {**settings, **own}
    nodes = [
        XksNode(f"node-{name}", folder, port, at_node) for name, port in zip("ab", node_ports, strict=True)
    ]
    # To everybody but the nodes the endpoint is the balancer: the simulated AWS calls it, and preflight tries it.
    outside = {**settings, "KEYSTEAD_XKS_PORT": str(xks_port)}
    pairs = [
        WebPair(f"web-{name}", folder, port, outside) for name, port in zip("ab", pair_ports, strict=True)
    ]
    aws = folder / "aws"
    aws.mkdir(mode=0o700)
    outside["KEYSTEAD_DATA_DIR"] = str(aws)
    simulator = Program("simulator", ["-m", "vault.cli", "simulator", "aws"], outside, folder)
    for data in (aws, *(pair.folder / "data" for pair in pairs)):
        shutil.copytree(tls, data / "tls")
    cluster = Cluster(
        folder, database, broker, nodes, pairs, simulator,
        Balancer(below, _configuration(web_port, nodes, pairs), _front(folder, xks_port, nodes, files)),
        xks_port, web_port, files.ca, password,
    )  # fmt: skip
    try:
        cluster.small_disk = mount_small_disk(nodes[1].data / "journal", SMALL_DISK_MIB)
        _bring_up(cluster)
    except BaseException:
        cluster.end()
        for log in sorted(folder.glob("*/*.log")):
            print(
                f"--- {log}",
                "\n".join(log.read_text(errors="replace").splitlines()[-15:]),
                sep="\n",
                file=sys.stderr,
            )
        raise
    return cluster


def _bring_up(cluster: Cluster) -> None:
    for words in (("migrate", "--no-input"), ("first-admin",)):
        done = cluster.pairs[0].run(*words)
        if done.returncode:
            raise AssertionError(f"keystead {' '.join(words)}: {done.stdout[-800:]} {done.stderr[-800:]}")
    cluster.simulator.start()
    for group in (*cluster.nodes, *cluster.pairs):
        group.start()
    cluster.balancer.start(cluster.xks_port)
    cluster.wait_serving()
    wait_until(cluster.web_answers, "the web answers")
    for started in (cluster.simulator, *cluster.pairs):
        started.settle(ELSEWHERE)
    _populate(cluster)


def _populate(cluster: Cluster) -> None:
    """Make a vault with a store and its keys, linked to the simulated AWS."""
    url = f"http://127.0.0.1:{cluster.web_port}"
    appliance = Api(url)
    appliance.sign_in(ADMIN, cluster.admin_password)
    vault = appliance.post("vaults", name="Cluster", admin_name="Ada", admin_email="ada@acme.test")
    appliance.close()
    api = cluster.api = Api(url)
    api.sign_in("ada@acme.test", vault["one_time_password"])
    me = api.set_password(vault["one_time_password"], secrets.token_urlsafe(15))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "vault.cli", "simulator", "credentials", "--json"],
        env=cluster.simulator.environ,
        cwd=cluster.folder,
        check=True,
        capture_output=True,
    )
    aws = cluster.aws = json.loads(done.stdout)
    group = me["memberships"][0]["groups"][0]["id"]
    account = api.post(
        "csp-accounts", name="aws", group=group, partition="simulator", access_key_id=aws["access_key_id"],
        secret_access_key=aws["secret_access_key"], default_region=REGION,
    )  # fmt: skip
    made = api.post(
        "key-sets", name="cluster", group=group, csp_account=account["id"], use_as_external_key_store=True,
        path_prefix="/cluster", links=[{"region": REGION}],
    )  # fmt: skip
    api.wait(made["operations"][0])
    cluster.store = made
    made_keys = [
        api.post("cloud-keys", key_set=made["id"], region=REGION, name=f"load-{n}") for n in range(KEYS)
    ]
    for one in made_keys:
        api.wait(one["operation"])
        cluster.keys.append(one["cloud_key"])


def _front(folder: Path, xks_port: int, nodes: list[XksNode], files: Any) -> dict[str, str]:
    """Lay out what deploy/haproxy/haproxy.cfg wants beside it, and return its environment."""
    place = folder / "front"
    place.mkdir(mode=0o700)
    pem = place / "xks.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    for name in ("client-roots.pem", "keystead-ca.pem"):
        shutil.copy(files.ca, place / name)
    (place / "balancers.lst").touch()
    return {
        "PATH": os.environ["PATH"],
        "KEYSTEAD_FRONT_BIND": f"127.0.0.1:{xks_port}",
        "KEYSTEAD_FRONT_DIR": str(place),
        "KEYSTEAD_FRONT_RUN": str(place),
        "KEYSTEAD_FRONT_VERIFY": "none",
        "KEYSTEAD_NODE": f"127.0.0.1:{nodes[0].port}",
    }


def _configuration(web_port: int, nodes: list[XksNode], pairs: list[WebPair]) -> str:
    """Return HAProxy's configuration: the one that is supplied, one node more, and the web beside it."""
    supplied = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
    line = '    server node-1 "${KEYSTEAD_NODE}"'
    if supplied.count(line) != 1:
        raise AssertionError("deploy/haproxy/haproxy.cfg has another server line than this run knows")
    second = f"    server {nodes[1].name} 127.0.0.1:{nodes[1].port}"
    xks = supplied.replace(line, f"{line.replace('node-1', nodes[0].name)}\n{second}")
    webs = "\n".join(
        f"    server {pair.name} 127.0.0.1:{pair.port} check inter 500ms fall 2 rise 1" for pair in pairs
    )
    return f"""{xks}
frontend web
    bind 127.0.0.1:{web_port}
    default_backend webs
backend webs
    timeout server 30s
    retries 2
    retry-on conn-failure
    option redispatch 1
    option httpchk
    http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host localhost
{webs}
"""
