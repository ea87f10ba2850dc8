"""A cluster with the client at work on it, and what scenarios ask of both."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config

from tests.cluster.load import Answer
from tests.cluster.nodes import OUTSIDE, yield_to
from tests.cluster.whole import HOST, RATE, REGION, Cluster
from tests.vault.serving import ROOT

REPEAT_S = 60.0


@dataclass
class Running:
    """The cluster under load."""

    cluster: Cluster
    name: str
    answers_file: Path
    process: subprocess.Popen[bytes]
    number: int = 0
    """Of the scenario that runs."""

    def tell(self, line: str) -> None:
        """Tell the client something."""
        if self.process.stdin is None:
            raise AssertionError("the client has no input")
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end_load(self) -> list[Answer]:
        """End the client and return all that it was told."""
        self.tell("end")
        if self.process.wait(30):
            raise AssertionError("the client ended with a fault")
        found = []
        for line in self.answers_file.read_text().splitlines():
            number, key, operation, due, done, status, error = line.split("\t")
            found.append(Answer(int(number), key, operation, float(due), float(done), int(status), error))
        return found

    def post_safely(self, path: str, body: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
        """POST with an Idempotency-Key, again and again until there is an answer. Raises AssertionError."""
        limit = time.monotonic() + REPEAT_S
        url = f"http://127.0.0.1:{self.cluster.web_port}/api/v1/{path}"
        session = self.cluster.admin.session_headers()
        last = ""
        while time.monotonic() < limit:
            try:
                headers = {**session, "Idempotency-Key": idempotency_key}
                answer = httpx.post(url, json=body, headers=headers, timeout=10, trust_env=False)
            except httpx.HTTPError as error:
                last = type(error).__name__
                continue
            if answer.status_code < 300:
                return dict(answer.json())
            last = f"{answer.status_code} {answer.text[:300]}"
            # 409: the first try is still being worked on; 5xx: its machine is going down.
            if answer.status_code != 409 and answer.status_code < 500:
                break
        raise AssertionError(f"POST {path} was not answered: {last}")

    def pointers_of(self, keys: list[dict[str, Any]]) -> tuple[int, int]:
        """Return how many of these CloudKeys have more than one KMS key at the simulated AWS, and how many none."""
        aws = self.aws
        kms = boto3.client(
            "kms",
            endpoint_url=aws["endpoint"],
            region_name=REGION,
            aws_access_key_id=aws["access_key_id"],
            aws_secret_access_key=aws["secret_access_key"],
            config=Config(retries={"total_max_attempts": 2}),
        )
        refers: Counter[str] = Counter()
        for page in kms.get_paginator("list_keys").paginate():
            for entry in page["Keys"]:
                shown = kms.describe_key(KeyId=entry["KeyId"])["KeyMetadata"]
                refers[shown.get("XksKeyConfiguration", {}).get("Id", "")] += 1
        counts = [refers[key["external_key_id"]] for key in keys]
        return sum(count > 1 for count in counts), sum(count == 0 for count in counts)

    @property
    def aws(self) -> dict[str, str]:
        """The simulated AWS account's credentials."""
        return self.cluster.aws


def begin(cluster: Cluster, name: str) -> Running:
    """Start the client."""
    file = cluster.folder / "answers.tsv"
    process = subprocess.Popen([sys.executable, "-m", "tests.cluster.load"], cwd=ROOT, stdin=subprocess.PIPE)
    yield_to(process.pid, OUTSIDE)
    credential = cluster.store["credential"]
    running = Running(cluster, name, file, process)
    running.tell(
        json.dumps(
            {
                "port": cluster.xks_port,
                "host": HOST,
                "ca": str(cluster.ca),
                "prefix": "/cluster",
                "access_key_id": credential["access_key_id"],
                "secret": credential["secret_access_key"],
                "keys": [key["external_key_id"] for key in cluster.keys],
                "rate": RATE,
                "run": name,
                "file": str(file),
            }
        )
    )
    return running
