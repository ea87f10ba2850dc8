"""Calls per second of one HSM helper over its socket, on a SoftHSM token of its own. One quick measurement.

    .venv/bin/python scripts/bench_hsm_helper.py [--connections 2] [--at-once 12] [--seconds 3]

An encrypt is what XKS needs: nonce, encryption, and decryption inside the HSM to compare. ``direct`` is the same in one
process without socket, the most that can be had of the module from Python.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hsm import softhsm, wire
from hsm.client import AsyncMember
from hsm.spawning import spawn

_AAD = b"a" * 120


async def _load(
    socket: str, key: bytes, connections: int, at_once: int, seconds: float, kind: str
) -> tuple[int, str]:
    members = [AsyncMember(f"bench {number}", socket) for number in range(connections)]
    made = await members[0].encrypt(key, b"p" * 32, _AAD, verify=True, timeout_s=5)
    ends = time.perf_counter() + seconds
    taken: list[float] = []

    async def ask(member: AsyncMember) -> None:
        while (began := time.perf_counter()) < ends:
            if kind == "decrypt":
                await member.decrypt(key, made.nonce, made.ciphertext, _AAD, timeout_s=5)
            else:
                await member.encrypt(key, b"p" * 32, _AAD, verify=kind == "encrypt, verified", timeout_s=5)
            taken.append(time.perf_counter() - began)

    await asyncio.gather(*(ask(member) for member in members for _ in range(at_once)))
    for member in members:
        await member.close()
    taken.sort()
    return len(taken), (
        f"{len(taken) / seconds:10,.0f}/s  p50 {taken[len(taken) // 2] * 1000:.2f} ms"
        f"  p99 {taken[int(len(taken) * 0.99)] * 1000:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keystead-bench-") as folder:
        tokens = softhsm.make_tokens(Path(folder) / "hsm", ["bench"], pin="1234")
        config = wire.HelperConfig(
            module=tokens.module,
            socket=f"{folder}/m.sock",
            token_label="bench",
            pin=b"1234",
            threads=chosen.threads,
        )
        helper = spawn(config, environment=tokens.environment)
        try:
            ready = helper.wait_ready()
            print(
                f"{ready['identity']['model']}, latency of one encryption {ready['profile']['latency_ms']} ms"
            )
            key = os.urandom(16)
            asyncio.run(_generate(config.socket, key))
            for kind in ("encrypt, verified", "encrypt", "decrypt"):
                before, ours = _processor_s(helper.pid), time.process_time()
                count, shown = uvloop.run(
                    _load(config.socket, key, chosen.connections, chosen.at_once, chosen.seconds, kind)
                )
                theirs, ours = _processor_s(helper.pid) - before, time.process_time() - ours
                each = f"{theirs / count * 1e6:.0f} us helper, {ours / count * 1e6:.0f} us client"
                print(f"{kind:18}{shown}  processor time a request: {each}")
        finally:
            helper.stop()


def _processor_s(pid: int) -> float:
    """Return the processor time that a process has used; it tells more than rates on a machine with other work."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _generate(socket: str, key: bytes) -> None:
    member = AsyncMember("bench", socket)
    await member.call(wire.Generate(0, key, "bench", "resident"))
    await member.close()


if __name__ == "__main__":
    main()
