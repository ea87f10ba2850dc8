"""A part of a name, on the database of this run."""

from __future__ import annotations

import pytest

from tests.cast import Cast
from vault.models import Group


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("PAY", ["pay_1", "pay%2", "Prepay"]),
        ("y_", ["pay_1"]),
        ("y%", ["pay%2"]),
        ("\\", ["back\\slash"]),
        ("'", ["it's"]),
        ("", ["back\\slash", "it's", "pay%2", "pay_1", "Prepay"]),
        ("nothing", []),
    ],
)
def test_a_part_is_found_in_whatever_letters_and_signs_mean_themselves(
    cast: Cast, wanted: str, found: list[str]
) -> None:
    Group.objects.filter(vault=cast.vault).delete()
    for name in ("pay_1", "pay%2", "Prepay", "back\\slash", "it's"):
        Group.objects.create(vault=cast.vault, name=name)
    mine = Group.objects.filter(vault=cast.vault)
    assert set(mine.filter(name__holds=wanted).values_list("name", flat=True)) == set(found)
    assert set(mine.filter(name__icontains=wanted)) == set(mine.filter(name__holds=wanted))
