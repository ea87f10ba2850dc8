"""Ids and JSON as text."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from xks import agent_columns
from xks.agent_columns import Ids, dashed, parsed_json


def test_ids_have_one_text_whatever_the_database_says() -> None:
    made = uuid4()
    assert dashed(made.hex) == dashed(str(made)) == str(made)


def test_ids_are_made_once() -> None:
    ids, made = Ids(), uuid4()
    assert ids[made.hex] == made
    assert ids[made.hex] is ids[made.hex]
    assert ids.text(made.hex) == str(made)
    assert ids.text(made.hex) is ids.text(made.hex)
    with pytest.raises(ValueError, match="badly formed"):
        ids["no id"]
    assert isinstance(ids[str(made)], UUID)


def test_json_is_parsed_once_and_what_is_none_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, object] = {}
    assert parsed_json('["ENCRYPT"]', known) is parsed_json('["ENCRYPT"]', known)
    assert parsed_json("{", known) is None
    assert parsed_json(None, known) is None
    monkeypatch.setattr(agent_columns, "MAX_PARSED", len(known))
    assert parsed_json('{"a": 1}', known) == {"a": 1}  # one too many to be kept
    assert '{"a": 1}' not in known
