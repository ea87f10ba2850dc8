import itertools

import pytest
from shamir_mnemonic import generate_mnemonics

from vault.rootshares import SharesInvalid, join_shares, normalise, split_root
from vault.secret import Secret

KEY = Secret(bytes(range(32)))


@pytest.fixture(scope="module")
def shares():
    return split_root(KEY, shares=3, threshold=2)


def test_any_two_of_three_rebuild_the_key(shares):
    assert len(shares) == 3
    for chosen in itertools.permutations(shares, 2):
        assert join_shares(chosen) == KEY


def test_shares_are_slip39_of_33_words(shares):
    for share in shares:
        assert len(share.reveal_text().split()) == 33


def test_more_shares_than_needed_or_one_twice_do_no_harm(shares):
    assert join_shares(shares) == KEY
    assert join_shares([shares[0], shares[0], shares[1]]) == KEY


@pytest.mark.parametrize("take", [[0], [0, 0]])
def test_too_few_say_how_many_are_needed(shares, take):
    with pytest.raises(SharesInvalid, match="2 shares are needed, 1"):
        join_shares([shares[number] for number in take])


def test_no_share():
    with pytest.raises(SharesInvalid, match="No share"):
        join_shares([])


def test_a_typing_mistake_names_the_share_and_no_word(shares):
    words = shares[1].reveal_text().split()
    for wrong in ("academic" if words[9] != "academic" else "acid", "xylophon"):
        typed = Secret(" ".join([*words[:9], wrong, *words[10:]]))
        with pytest.raises(SharesInvalid, match="Share 2 has") as caught:
            join_shares([shares[0], typed])
        assert words[0] not in str(caught.value)
        assert wrong not in str(caught.value)
        assert caught.value.__cause__ is None


def test_shares_of_different_exports_do_not_mix(shares):
    with pytest.raises(SharesInvalid, match="different exports"):
        join_shares([shares[0], split_root(KEY, shares=3, threshold=2)[1]])


def test_a_passphrase_belongs_to_it():
    made = split_root(KEY, shares=2, threshold=2, passphrase=Secret("open sesame"))
    assert join_shares(made, passphrase=Secret("open sesame")) == KEY
    # SLIP-39 cannot notice a wrong passphrase; the command compares key ids.
    assert join_shares(made) != KEY


def test_a_passphrase_is_printable_ascii():
    with pytest.raises(SharesInvalid, match="ASCII"):
        split_root(KEY, shares=2, threshold=2, passphrase=Secret("öffne"))


@pytest.mark.parametrize(("count", "threshold"), [(0, 0), (1, 2), (17, 2), (3, 0), (3, 1), (-1, -1)])
def test_impossible_numbers(count, threshold):
    with pytest.raises(SharesInvalid):
        split_root(KEY, shares=count, threshold=threshold)


def test_one_share_is_allowed_when_it_is_all():
    (only,) = split_root(KEY, shares=1, threshold=1)
    assert join_shares([only]) == KEY


def test_a_secret_of_another_length_is_no_root_key():
    ((one, two),) = generate_mnemonics(1, [(2, 2)], b"k" * 16)
    with pytest.raises(SharesInvalid, match="16 bytes"):
        join_shares([Secret(one), Secret(two)])


def test_shares_in_groups_are_told_apart():
    groups = generate_mnemonics(2, [(1, 1), (1, 1)], b"k" * 32)
    with pytest.raises(SharesInvalid, match="groups"):
        join_shares([Secret(groups[0][0]), Secret(groups[1][0])])


def test_typed_shares_may_have_remarks_capitals_and_line_breaks(shares):
    words = shares[0].reveal_text().split()
    typed = (
        "# root key 00: share 1 of 3\n  "
        + " ".join(words[:10]).upper()
        + "\n\t"
        + "  ".join(words[10:])
        + "\n\n"
    )
    assert normalise(Secret(typed)) == shares[0].reveal_text()
    assert join_shares([Secret(typed), shares[2]]) == KEY


def test_text_forms_of_shares_are_masked(shares):
    assert shares[0].reveal_text().split()[5] not in repr(shares)
