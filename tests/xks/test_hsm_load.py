"""Keys that an HSM wraps, in real processes on SoftHSM: one call for each key set, whatever the number of keys and requests."""

import sys

import pytest

from hsm.softhsm import find_module
from tests.xks.real_plane import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from bench_hsm_load import measure

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_module() is None, reason="SoftHSM is not installed"),
]

KEYS, KEY_SETS = 300, 5


def test_a_key_set_costs_one_call_and_a_request_none():
    found = measure(keys=KEYS, key_sets=KEY_SETS, rate=40, seconds=8)

    for name in ("first", "reload"):
        load = found[name]
        assert load["hsm_calls"] == KEY_SETS, found
        assert load["keys"] == KEYS + KEY_SETS, "each key set has a health-check key besides"
        assert load["key_sets_without_hsm"] == 0
    # What the helper itself counts: the keeper asks for one decryption every 15 s, and nobody for a request.
    assert found["requests"]["requests"] == 320
    assert found["requests"]["answered"] > 300, found
    assert found["requests"]["hsm_decrypts"] <= 2, found
    # An agent that starts afresh loads everything while its workers go on with what they hold.
    assert KEY_SETS <= found["during_reload"]["hsm_decrypts"] <= KEY_SETS + 3, found
    assert found["during_reload"]["answered"] > 300, found
    assert set(found["during_reload"]["statuses"]) <= {"200", "503"}, found
