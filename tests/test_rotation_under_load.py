"""A whole rotation of an XKS credential on a real instance under load: no request of AWS's fails from begin to end.

Everything is real: web, worker, agent, two XKS workers over TLS, and the simulated AWS, some of whose hosts go on with the
old credential for seconds after UpdateCustomKeyStore.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError

pytestmark = pytest.mark.long
REGION = "eu-west-1"
OLD_USED_FOR_S = 4


@contextmanager
def load(clients: list[Any], key_id: str) -> Iterator[tuple[list[int], list[str]]]:
    """Encrypt and decrypt all the while; yields the number of good calls and what failed, both as they grow."""
    good, failed, stop = [0], [], threading.Event()
    lock = threading.Lock()

    def call(kms: Any) -> None:
        while not stop.is_set():
            try:
                sealed = kms.encrypt(KeyId=key_id, Plaintext=b"a customer's data key")["CiphertextBlob"]
                assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"a customer's data key"
            except (ClientError, BotoCoreError, AssertionError) as error:
                with lock:
                    failed.append(f"{time.time():.1f} {error}")
            else:
                with lock:
                    good[0] += 2

    threads = [threading.Thread(target=call, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield good, failed
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_no_request_fails_during_a_whole_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import demo
    from demo_instance import Instance

    instance = Instance()
    instance.environ["KEYSTEAD_XKS_CREDENTIAL_SILENCE"] = "2"
    walk = demo.Walk(instance, demo.Teller())
    try:
        instance.start()
        for step in (
            demo.create_vault, demo.sign_in_as_vault_admin, demo.add_account, demo.create_key_set,
            demo.create_cloud_key,
        ):  # fmt: skip
            step(walk)
        _rotate(walk)
    except Exception as error:
        raise AssertionError(f"{error}\n{instance.log_end()}") from error
    finally:
        if walk.admin is not None:
            walk.admin.close()
        instance.stop()
        instance.remove()


def _rotate(walk: Any) -> None:
    api = walk.api
    store = f"xks-key-stores/{walk.key_set['xks_key_store']}"
    key = walk.key_now()
    (before,) = api.get(f"{store}/credentials")["items"]
    fault = {"kind": "old_credential", "seconds": OLD_USED_FOR_S}
    httpx.post(f"{walk.aws['endpoint']}/_keystead/faults", json=fault, trust_env=False).raise_for_status()
    kms = walk.client("kms")
    with load([walk.client("kms") for _ in range(3)], key["kms_key_id"]) as (good, failed):
        _until(lambda: good[0] > 20)
        # Somebody in a hurry is told that AWS uses it.
        _until(lambda: api.get(f"{store}/credentials")["items"][0]["last_used_at"])
        refusal = api.refusal(f"xks-credentials/{before['id']}/retire", even_the_last=True)
        assert refusal["status"] == 409, refusal
        operation = api.post(f"{store}/rotate-credentials")["operation"]
        seen = []
        deadline = time.monotonic() + 120
        while (now := api.get(f"operations/{operation['id']}"))["state"] not in ("SUCCEEDED", "FAILED"):
            assert time.monotonic() < deadline, (now, failed[:3])
            seen.append({row["access_key_id"] for row in _live(api, store)})
            time.sleep(0.5)
        assert now["state"] == "SUCCEEDED", now
        rotated = good[0]
        _until(lambda: good[0] > rotated + 50)
        rows = {row["access_key_id"]: row for row in api.get(f"{store}/credentials")["items"]}
    assert failed == []
    assert good[0] > 200
    assert max(len(live) for live in seen) == 2
    old, (new,) = rows.pop(before["access_key_id"]), rows.values()
    assert (old["state"], new["state"]) == ("RETIRED", "ACTIVE")
    assert now["result"]["retired"] == [old["access_key_id"]]
    assert now["result"]["confirmed_by"].startswith("2 of 2 XKS workers")
    region = new["regions"][0]
    assert (region["region"], region["given"]) == (REGION, "KEYSTEAD")
    # KMS's slow hosts did sign with the old one after the update, and it was waited for.
    assert old["last_used_at"] > region["given_at"]
    assert old["retired_at"] > old["last_used_at"]
    (described,) = kms.describe_custom_key_stores()["CustomKeyStores"]
    assert described["XksProxyConfiguration"]["AccessKeyId"] == new["access_key_id"]


def _live(api: Any, store: str) -> list[dict[str, Any]]:
    return [row for row in api.get(f"{store}/credentials")["items"] if row["state"] == "ACTIVE"]


def _until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
