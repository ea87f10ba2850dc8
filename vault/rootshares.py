"""The root key on paper: SLIP-39 shares (SatoshiLabs, slip-0039), of which any ``threshold`` rebuild it.

One group, so the plain "t of n" of the specification. 32 bytes make shares of 33 words, each with a checksum that
finds up to three wrong words. A SLIP-39 passphrase is optional; a wrong one is not noticed by SLIP-39 itself but
gives another key, so the rebuilt key is always compared by its id.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from shamir_mnemonic import MnemonicError, combine_mnemonics, generate_mnemonics
from shamir_mnemonic.share import Share

from hsm.software import KEY_BYTES
from vault.secret import Secret

MAX_SHARES = 16  # SLIP-39: member index and count are 4 bit numbers


class SharesInvalid(Exception):
    """The numbers asked for are impossible, or the shares given do not make a root key. Never quotes a word."""


def split_root(key: Secret, *, shares: int, threshold: int, passphrase: Secret | None = None) -> list[Secret]:
    """Return ``shares`` mnemonics of which any ``threshold`` rebuild ``key``; tried out before they are returned.

    Raises SharesInvalid.
    """
    if not 1 <= threshold <= shares <= MAX_SHARES:
        raise SharesInvalid(f"Choose 1 <= threshold <= shares <= {MAX_SHARES}.")
    if threshold == 1 and shares > 1:
        raise SharesInvalid("With threshold 1 every share is the whole key: make one share and copy it.")
    words = _passphrase(passphrase)
    try:
        (mnemonics,) = generate_mnemonics(1, [(threshold, shares)], key.reveal(), words, iteration_exponent=1)
    except (MnemonicError, ValueError) as error:
        raise SharesInvalid("The shares could not be made.") from error
    result = [Secret(mnemonic) for mnemonic in mnemonics]
    # Each neighbouring group of `threshold`, around the circle: every share is proven at least once.
    for start in range(shares if shares > threshold else 1):
        chosen = list(itertools.islice(itertools.cycle(result), start, start + threshold))
        if join_shares(chosen, passphrase=passphrase) != key:
            raise SharesInvalid("The shares that were made do not rebuild the key; none is given out.")
    return result


def join_shares(shares: Sequence[Secret], *, passphrase: Secret | None = None) -> Secret:
    """Return the root key that the shares make; shares beyond the threshold, or given twice, do no harm.

    Raises SharesInvalid: a typing mistake (which share), shares of different exports, or too few.
    """
    texts = list(dict.fromkeys(normalise(share) for share in shares))
    parsed = []
    for number, text in enumerate(texts, 1):
        try:
            parsed.append(Share.from_mnemonic(text))
        except (MnemonicError, ValueError):
            # The library's message quotes words of the share.
            raise SharesInvalid(f"Share {number} has a wrong, missing or mistyped word.") from None
    if not parsed:
        raise SharesInvalid("No share was given.")
    first = parsed[0]
    if any(share.common_parameters() != first.common_parameters() for share in parsed):
        raise SharesInvalid("The shares do not belong together: they come from different exports.")
    if first.group_count != 1:
        raise SharesInvalid(
            "These shares were made in groups, by another program; Keystead's have one group."
        )
    if len(parsed) < first.member_threshold:
        raise SharesInvalid(
            f"{first.member_threshold} shares are needed, {len(parsed)} different ones were given."
        )
    try:
        key = combine_mnemonics(texts[: first.member_threshold], _passphrase(passphrase))
    except MnemonicError:
        raise SharesInvalid("These shares do not make a key: one of them is not from this export.") from None
    if len(key) != KEY_BYTES:
        raise SharesInvalid(f"These shares hold a secret of {len(key)} bytes; a root key has {KEY_BYTES}.")
    return Secret(key)


def normalise(share: Secret) -> str:
    """Return the words of a share, as typed or as a file from export-root, whose lines with # are remarks."""
    lines = share.reveal_text().splitlines()
    return " ".join(" ".join(line for line in lines if not line.lstrip().startswith("#")).lower().split())


def _passphrase(passphrase: Secret | None) -> bytes:
    raw = b"" if passphrase is None else passphrase.reveal()
    # SLIP-39, "Passphrase": printable ASCII only, so that it can be typed anywhere.
    if any(not 32 <= byte <= 126 for byte in raw):
        raise SharesInvalid("A passphrase of shares is printable ASCII.")
    return raw
