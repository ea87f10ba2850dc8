"""The list of cloud keys, what is done with many of them, and how they are made, tried by each of the cast."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, Operation
from cloudkeys.web import key_selection
from tests.cast import WHO, Cast
from tests.cloudkeys.world import ADA, APP, new_account, new_key, new_key_set
from tests.web import Browser, text_of
from vault.models import SavedView, Vault


@pytest.fixture
def key_set(cast: Cast) -> KeySet:
    """A key set of the Cloud Admin Group."""
    owner = cast.actor("owner")
    account = new_account(owner, cast.vault, group=cast.group.pk)
    return new_key_set(owner, cast.vault, account, group=cast.group.pk).key_set


@pytest.fixture
def keys(cast: Cast, key_set: KeySet) -> list[CloudKey]:
    """apple, pear and plum."""
    return [new_key(cast.actor("owner"), key_set, name) for name in ("apple", "pear", "plum")]


def at(name: str, cast: Cast, *more: Any) -> str:
    return reverse(name, args=[cast.vault.pk, *more])


READ = {"owner": 200, "colleague": 200, "auditor": 200, "outsider": 404, "appliance": 404, "anonymous": 302}
CHANGE = {**READ, "auditor": 403}


@pytest.mark.parametrize("who", WHO)
def test_who_may_look(cast: Cast, keys: list[CloudKey], who: str) -> None:
    assert Browser(cast, who).get(at("cloud-keys", cast)).status_code == READ[who]


@pytest.mark.parametrize("who", WHO)
def test_who_may_make_and_change(cast: Cast, keys: list[CloudKey], key_set: KeySet, who: str) -> None:
    browser = Browser(cast, who)
    token = key_selection.of_ids([keys[0].pk])
    for url in (
        at("cloud-key-new-in", cast, key_set.pk),
        at("cloud-keys-csv", cast),
        at("cloud-keys-csv-sample", cast),
        at("cloud-keys-bulk-confirm", cast, "disable", token),
        at("cloud-key-new-principals", cast, key_set.pk) + "?q=arn:aws:iam::1:user/x",
    ):
        assert browser.get(url).status_code == CHANGE[who], url


@pytest.mark.parametrize("who", ["auditor", "outsider", "appliance"])
def test_the_server_refuses_whatever_is_shown(
    cast: Cast, keys: list[CloudKey], key_set: KeySet, who: str
) -> None:
    browser = Browser(cast, who)
    token = browser.hidden("/accounts/profile/")
    chosen = key_selection.of_ids([keys[0].pk])
    for url, fields in (
        (at("cloud-key-new-in", cast, key_set.pk), {"name": "x", "region": "eu-west-1"}),
        (
            at("cloud-keys-csv", cast),
            {"key_set": str(key_set.pk), "csv": "name,region\nx,eu-west-1\n", "make": "1"},
        ),
        (at("cloud-keys-bulk-confirm", cast, "disable", chosen), {"reason": "no"}),
        (at("cloud-keys-bulk", cast, "disable"), {"pick": str(keys[0].pk)}),
        (at("cloud-key-new-policy", cast, key_set.pk), {}),
    ):
        assert browser.send(url, token, **fields).status_code == (403 if who == "auditor" else 404), url
    assert CloudKey.objects.filter(kind="USER").count() == 3
    assert not Operation.objects.filter(kind__startswith="cloud_keys.").exists()


def test_the_auditor_has_no_check_boxes(cast: Cast, keys: list[CloudKey]) -> None:
    page = Browser(cast, "auditor").get(at("cloud-keys", cast)).content.decode()
    assert 'name="pick"' not in page
    assert "aria-disabled" in page.split("Create key")[0][-900:]
    assert f'"{at("cloud-key-new", cast)}' not in page


def test_the_list_searches_filters_and_shows(cast: Cast, keys: list[CloudKey]) -> None:
    owner = Browser(cast, "owner")
    apple, pear, plum = keys
    now = timezone.now()
    CloudKey.objects.filter(pk=apple.pk).update(
        state="PENDING_DELETION", delete_after=now + timedelta(days=12, hours=1), tags={"team": "fruit"}
    )
    CloudKey.objects.filter(pk=pear.pk).update(next_rotation_at=now - timedelta(days=3), blocked=True)
    CloudKey.objects.filter(pk=plum.pk).update(pointer_state="FAILED")
    text = text_of(owner.get(at("cloud-keys", cast)))
    assert "Deletes in 12 days" in text
    assert "due 3 days ago" in text
    assert "1\N{EN DASH}3 of 3" in text
    assert "Blocked" in text
    for query, wanted in (
        ({"search": "ppl"}, "apple"),
        ({"state": "PENDING_DELETION"}, "apple"),
        ({"tag": "team=fruit"}, "apple"),
        ({"due": "overdue"}, "pear"),
        ({"pointer_state": "FAILED"}, "plum"),
    ):
        part = text_of(owner.get(at("cloud-keys", cast), target="list", **query))
        assert wanted in part, query
        assert part.count("v1") == 1, query
    wrong = owner.get(at("cloud-keys", cast), unused_for="soon")
    assert wrong.status_code == 400
    assert "whole number of days" in text_of(wrong)
    columns = text_of(owner.get(at("cloud-keys", cast), columns=["name", "tags", "arn"]))
    assert "team=fruit" in columns
    assert "KMS key ARN" in columns
    exported = f"/api/v1/cloud-keys/export?vault={cast.vault.pk}&amp;as=csv&amp;state=ENABLED"
    assert exported in owner.get(at("cloud-keys", cast), state="ENABLED", ordering="-name").content.decode()
    assert owner.get(exported.replace("&amp;", "&")).status_code == 200


def test_as_many_queries_however_long_it_is(
    cast: Cast, keys: list[CloudKey], key_set: KeySet, django_assert_max_num_queries: Any
) -> None:
    owner = Browser(cast, "owner")
    owner.get(at("cloud-keys", cast))
    with django_assert_max_num_queries(21) as few:
        owner.get(at("cloud-keys", cast))
    for number in range(30):
        new_key(cast.actor("owner"), key_set, f"more-{number}")
    with django_assert_max_num_queries(len(few.captured_queries)):
        assert "1\N{EN DASH}33 of 33" in text_of(owner.get(at("cloud-keys", cast)))


def test_an_empty_list_leads_on(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    url = at("cloud-keys", cast)
    assert "First, a CSP account" in text_of(owner.get(url))
    account = new_account(cast.actor("owner"), cast.vault)
    assert "Next, a key set" in text_of(owner.get(url))
    new_key_set(cast.actor("owner"), cast.vault, account)
    text = text_of(owner.get(url))
    assert "No keys yet" in text
    assert "Many from a CSV file" in text
    assert "Your role in this vault" in text_of(Browser(cast, "auditor").get(url))
    assert "Nothing matches" in text_of(owner.get(url, search="zzz"))


def begin(browser: Browser, cast: Cast, verb: str, **fields: Any) -> str:
    hidden = browser.hidden(at("cloud-keys", cast))
    answer = browser.client.post(at("cloud-keys-bulk", cast, verb), {**hidden, **fields})
    assert answer.status_code == 303
    return str(answer["Location"])


def operation_of(answer: Any) -> Operation:
    assert answer.status_code == 303, text_of(answer)
    return Operation.objects.get(pk=answer["Location"].rstrip("/").rpartition("/")[2])


def test_disabling_a_selection_asks_why_and_shows_who_notices(cast: Cast, keys: list[CloudKey]) -> None:
    owner = Browser(cast, "owner")
    url = begin(owner, cast, "disable", pick=[str(keys[0].pk), str(keys[2].pk)])
    text = text_of(owner.get(url))
    assert "Disable 2 keys?" in text
    assert "apple , plum" in text
    assert "pear" not in text
    assert "No use of these keys was recorded in the last 7 days" in text
    refused = owner.send(url)
    assert refused.status_code == 422
    assert not Operation.objects.filter(kind="cloud_keys.bulk").exists()
    hidden = owner.hidden(url)
    first = owner.send(url, hidden, reason="Incident 7")
    work = operation_of(first)
    assert work.input["params"] == {"reason": "Incident 7"}
    assert set(work.input["ids"]) == {str(keys[0].pk), str(keys[2].pk)}
    again = owner.send(url, hidden, reason="Incident 7")
    assert (again.status_code, again["Location"]) == (303, first["Location"])
    assert Operation.objects.filter(kind="cloud_keys.bulk").count() == 1


def test_all_found_is_what_was_seen(cast: Cast, keys: list[CloudKey], key_set: KeySet) -> None:
    owner = Browser(cast, "owner")
    url = begin(
        owner, cast, "rotate", all_found="1", query="search=p&ordering=-name&columns=name", pick=str(uuid4())
    )
    hidden = owner.hidden(url)
    assert "Rotate 3 keys?" in text_of(owner.get(url))
    new_key(cast.actor("owner"), key_set, "peach")
    answer = owner.send(url, hidden)
    assert answer.status_code == 409
    assert "it is 4 keys now" in text_of(answer)
    assert not Operation.objects.filter(kind="cloud_keys.bulk").exists()
    assert len(operation_of(owner.send(url)).input["ids"]) == 4


@pytest.mark.parametrize(
    ("verb", "fields", "params"),
    [
        ("enable", {}, {}),
        ("block", {"reason": "x"}, {"reason": "x"}),
        ("tag", {"add": "team=pay\n env = prod ", "remove": "old"}, {"tags": {"add": {"team": "pay", "env": "prod"}, "remove": ["old"]}}),
        ("schedule", {"rotation": "inherited"}, {"rotation_schedule": {"kind": "inherited"}}),
        ("schedule", {"rotation": "none"}, {"rotation_schedule": {"kind": "none"}}),
        (
            "schedule",
            {"rotation": "every", "every": "30", "unit": "days", "hour": "4", "time_zone": "Europe/Berlin"},
            {"rotation_schedule": {"kind": "every", "every": 30, "unit": "days", "hour": 4, "time_zone": "Europe/Berlin"}},
        ),
    ],
)  # fmt: skip
def test_each_act_sends_what_was_filled_in(
    cast: Cast, keys: list[CloudKey], verb: str, fields: dict[str, str], params: dict[str, Any]
) -> None:
    colleague = Browser(cast, "colleague")
    url = begin(colleague, cast, verb, pick=str(keys[0].pk))
    assert operation_of(colleague.send(url, **fields)).input["params"] == params


@pytest.mark.parametrize(
    ("verb", "fields", "words"),
    [
        ("tag", {}, "Tags are added or removed"),
        ("tag", {"add": "=x"}, "Line 1 has no name"),
        ("tag", {"add": "aws:x=1"}, "reserved"),
        ("schedule", {"rotation": "every", "every": "30", "unit": "days", "hour": "4", "time_zone": "Moon"}, "no time zone"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    cast: Cast, keys: list[CloudKey], verb: str, fields: dict[str, str], words: str
) -> None:
    owner = Browser(cast, "owner")
    url = begin(owner, cast, verb, pick=str(keys[0].pk))
    answer = owner.send(url, **fields)
    assert answer.status_code == 422
    assert words in text_of(answer)
    assert not Operation.objects.filter(kind="cloud_keys.bulk").exists()


def test_selections_that_are_none(cast: Cast, keys: list[CloudKey], settings: Any) -> None:
    owner = Browser(cast, "owner")
    hidden = owner.hidden(at("cloud-keys", cast))
    back = owner.client.post(at("cloud-keys-bulk", cast, "disable"), hidden)
    assert back["Location"].startswith(at("cloud-keys", cast))
    for token in ("k.", "k.AA", "k.!", "q.____", "o.5", "z.x", key_selection.of_query("due=soon")):
        assert owner.get(at("cloud-keys-bulk-confirm", cast, "disable", token)).status_code in (404, 409), (
            token
        )
    foreign = new_key_set(cast.actor("outsider"), cast.other_vault, None, name="theirs").key_set
    stranger = new_key(cast.actor("outsider"), foreign, "stranger")
    token = key_selection.of_ids([stranger.pk])
    assert owner.get(at("cloud-keys-bulk-confirm", cast, "disable", token)).status_code == 409
    assert owner.get(at("cloud-keys-bulk-confirm", cast, "melt", token)).status_code == 404
    assert owner.get(at("cloud-keys-bulk", cast, "disable")).status_code == 302


def test_progress_and_a_result_for_each_key(cast: Cast, keys: list[CloudKey]) -> None:
    owner = Browser(cast, "owner")
    url = begin(owner, cast, "disable", pick=[str(key.pk) for key in keys])
    work = operation_of(owner.send(url, reason="Incident 7"))
    page = at("cloud-keys-work", cast, work.pk)
    waiting = owner.get(page)
    assert "data-live" in waiting.content.decode()
    assert "0 of 3 answered" in text_of(waiting)
    assert "“Incident 7”" in text_of(waiting)
    work.result = {
        "done": [{"row": 0, "id": str(keys[0].pk)}],
        "failed": [
            {
                "row": 1,
                "id": str(keys[1].pk),
                "code": "conflict",
                "message": "It is retired.",
                "cure": "Leave it.",
            }
        ],
    }
    work.save()
    assert "2 of 3 answered" in text_of(owner.get(page, target="work"))
    Operation.objects.filter(pk=work.pk).update(state="SUCCEEDED")
    part = owner.get(page, target="work")
    assert b"<html" not in part.content
    assert "data-live" not in part.content.decode()
    text = text_of(part)
    assert "1 disabled, 1 refused" in text
    assert "pear It is retired. Leave it." in text
    again = at("cloud-keys-bulk-confirm", cast, "disable", key_selection.of_refused(work))
    assert again in part.content.decode()
    assert "Disable 1 key?" in text_of(owner.get(again))
    other = Operation.objects.create(
        vault=cast.vault, kind="cloud_key.refresh", target_type="cloudkey", target_id=keys[0].pk
    )
    assert owner.get(at("cloud-keys-work", cast, other.pk)).status_code == 404
    assert Browser(cast, "outsider").get(page).status_code == 404
    assert Browser(cast, "auditor").get(page).status_code == 200


def test_one_key_with_everything(cast: Cast, key_set: KeySet) -> None:
    owner = Browser(cast, "owner")
    assert owner.get(at("cloud-key-new", cast))["Location"] == at("cloud-key-new-in", cast, key_set.pk)
    url = at("cloud-key-new-in", cast, key_set.pk)
    fields = {
        "name": "payments/prod",
        "region": "eu-west-1",
        "description": "Card data",
        "administrators": [ADA],
        "users": [APP],
        "rotation": "every", "every": "6", "unit": "months", "hour": "2", "time_zone": "UTC",
        "ending": "after", "days": "365", "then": "disable",
        "tags": "team=pay",
    }  # fmt: skip
    hidden = owner.hidden(url)
    made = owner.send(url, hidden, **fields)
    assert made.status_code == 303, text_of(made)
    key = CloudKey.objects.get(name="payments/prod")
    assert (key.administrators, key.users, key.tags) == ([ADA], [APP], {"team": "pay"})
    assert key.rotation_schedule == {
        "kind": "every",
        "every": 6,
        "unit": "months",
        "hour": 2,
        "time_zone": "UTC",
    }
    assert key.expiration == {"kind": "after", "days": 365, "then": "disable"}
    again = owner.send(url, hidden, **fields)
    assert again["Location"] == made["Location"]
    assert CloudKey.objects.filter(kind="USER").count() == 1


def test_a_key_inherits_unless_told(cast: Cast, key_set: KeySet) -> None:
    colleague = Browser(cast, "colleague")
    url = at("cloud-key-new-in", cast, key_set.pk)
    made = colleague.send(url, name="plain", region="eu-west-1", rotation="inherited", ending="inherited")
    assert made.status_code == 303, text_of(made)
    key = CloudKey.objects.get(name="plain")
    assert (key.rotation_schedule, key.expiration) == (None, None)
    own = colleague.send(url, name="never", region="eu-west-1", rotation="none", ending="never")
    assert own.status_code == 303
    assert CloudKey.objects.get(name="never").rotation_schedule == {"kind": "none"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "with space"}, "with space"),
        ({"name": ""}, "required"),
        ({"region": "moon-1"}, "moon-1"),
        ({"users": "arn:aws:iam::999999999999:role/x"}, "A principal is not right"),
        ({"tags": "=x"}, "Line 1 has no name"),
        ({"tags": "keystead:x=1"}, "reserved"),
        ({"ending": "on"}, "A day is missing"),
        ({"external_key_id": "no good!"}, "no good!"),
    ],
)
def test_errors_stand_by_their_fields_and_nothing_typed_is_lost(
    cast: Cast, key_set: KeySet, fields: dict[str, str], words: str
) -> None:
    owner = Browser(cast, "owner")
    url = at("cloud-key-new-in", cast, key_set.pk)
    given = {
        "name": "fine", "region": "eu-west-1", "description": "Kept words", "administrators": ADA,
        "rotation": "inherited", "ending": "inherited", **fields,
    }  # fmt: skip
    answer = owner.send(url, **given)
    page = answer.content.decode()
    assert answer.status_code == 422
    assert words in page
    assert "Kept words" in page
    assert f'value="{ADA}"' in page
    assert not CloudKey.objects.filter(kind="USER").exists()


def test_the_policy_grows_with_what_is_picked(cast: Cast, key_set: KeySet) -> None:
    owner = Browser(cast, "owner")
    url = at("cloud-key-new-policy", cast, key_set.pk)
    token = owner.hidden(at("cloud-key-new-in", cast, key_set.pk))
    part = owner.send(url, token, users=[APP])
    assert part.status_code == 200
    assert APP in part.content.decode()
    json.loads(
        part.content.decode().split("<pre")[1].split(">", 1)[1].split("</pre>")[0].replace("&quot;", '"')
    )
    wrong = text_of(owner.send(url, token, users=["arn:aws:iam::999999999999:role/x"]))
    assert "999999999999" in wrong or "account" in wrong


def test_principals_are_offered_and_a_whole_arn_is_taken_as_typed(
    cast: Cast, key_set: KeySet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudkeys import providers
    from cloudkeys.providers.base import Principal, ProviderError

    owner = Browser(cast, "owner")
    url = at("cloud-key-new-principals", cast, key_set.pk)
    monkeypatch.setattr(
        providers,
        "list_principals",
        lambda account: [Principal("user", "ada", ADA), Principal("role", "app-prod", APP)],
    )
    text = owner.get(url, target="options-users", q="ada").content.decode()
    assert f'data-value="{ADA}"' in text
    assert APP not in text

    def refuse(account: Any) -> list[Principal]:
        raise ProviderError("access_denied", "AWS refused iam:ListUsers.", permanent=True)

    KeySet.objects.get(pk=key_set.pk).csp_account.save()
    from django.core.cache import cache

    cache.clear()
    monkeypatch.setattr(providers, "list_principals", refuse)
    told = owner.get(url, target="options-users", q=APP).content.decode()
    assert "AWS refused iam:ListUsers" in told
    assert f'data-value="{APP}"' in told


def test_several_key_sets_are_a_choice(cast: Cast, key_set: KeySet) -> None:
    own = new_key_set(cast.actor("owner"), cast.vault, None, name="of nobody").key_set
    text = text_of(Browser(cast, "colleague").get(at("cloud-key-new", cast)))
    assert "pay-hyok" in text
    assert "of nobody" in text
    chosen = Browser(cast, "owner").get(at("cloud-key-new", cast), key_set=str(own.pk))
    assert chosen["Location"] == at("cloud-key-new-in", cast, own.pk)
    assert "has no CSP account" in text_of(Browser(cast, "owner").get(chosen["Location"]))


def test_a_file_is_checked_before_anything_is_made(cast: Cast, keys: list[CloudKey], key_set: KeySet) -> None:
    owner = Browser(cast, "owner")
    url = at("cloud-keys-csv", cast)
    wrong = SimpleUploadedFile(
        "k.csv", b"\xef\xbb\xbfname,region\nnew-a,eu-west-1\napple,eu-west-1\nbad name,moon\n"
    )
    checked = owner.send(url, key_set=str(key_set.pk), file=wrong)
    text = text_of(checked)
    assert "2 of 3 rows cannot be made" in text
    assert "new-a eu-west-1 will be made" in text
    assert "bad name,moon" in checked.content.decode()  # the text, to be corrected
    assert (
        owner.send(url, key_set=str(key_set.pk), csv="name,region\napple,eu-west-1\n", make="1").status_code
        == 422
    )
    odd = 'name,region,tags,rotation_schedule\nnew-c,eu-west-1,team=pay,90d\nnew-d,eu-west-1,no,"{""kind"": ""every""}"\n'
    text = text_of(owner.send(url, key_set=str(key_set.pk), csv=odd))
    assert "team=pay · 90d" in text
    assert "tags: 'no' is no NAME=VALUE." in text
    good = "name,region\nnew-a,eu-west-1\nnew-b,eu-west-1\n"
    assert "All 2 rows can be made" in text_of(owner.send(url, key_set=str(key_set.pk), csv=good))
    assert not Operation.objects.filter(kind="cloud_keys.csv_create").exists()
    hidden = owner.hidden(url)
    work = operation_of(owner.send(url, hidden, key_set=str(key_set.pk), csv=good, make="1"))
    assert [row["name"] for row in work.input["rows"]] == ["new-a", "new-b"]
    owner.send(url, hidden, key_set=str(key_set.pk), csv=good, make="1")
    assert Operation.objects.filter(kind="cloud_keys.csv_create").count() == 1
    assert "Create 2 keys" in text_of(owner.get(at("cloud-keys-work", cast, work.pk)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"csv": ""}, "Choose a file, or paste its text"),
        ({"csv": "colour\nred\n"}, "The header line must name"),
        ({"csv": 'name,region\n"a'}, "no CSV"),
        ({"csv": "name,region\n"}, "1 to 500 rows"),
    ],
)
def test_a_file_that_is_none(cast: Cast, key_set: KeySet, fields: dict[str, str], words: str) -> None:
    answer = Browser(cast, "owner").send(at("cloud-keys-csv", cast), key_set=str(key_set.pk), **fields)
    assert answer.status_code == 422
    assert words in text_of(answer)


def test_a_file_that_is_not_text(cast: Cast, key_set: KeySet) -> None:
    given = SimpleUploadedFile("k.csv", b"\xff\xfe\x00")
    answer = Browser(cast, "owner").send(at("cloud-keys-csv", cast), key_set=str(key_set.pk), file=given)
    assert "not UTF-8" in text_of(answer)


def test_the_example_file_passes_its_own_check(cast: Cast, key_set: KeySet) -> None:
    owner = Browser(cast, "owner")
    text = owner.get(at("cloud-keys-csv-sample", cast)).content.decode()
    checked = owner.send(at("cloud-keys-csv", cast), key_set=str(key_set.pk), csv=text)
    assert "All 2 rows can be made" in text_of(checked)


def view_new(cast: Cast, query: str) -> str:
    from urllib.parse import urlencode

    return at("saved-view-new", cast, "cloud-keys") + "?" + urlencode({"query": query, "columns": "name"})


def test_views_are_saved_opened_shared_and_deleted(cast: Cast, keys: list[CloudKey]) -> None:
    owner, colleague = Browser(cast, "owner"), Browser(cast, "colleague")
    made = owner.send(view_new(cast, "state=ENABLED&ordering=-name"), name="Mine", shared="")
    assert made.status_code == 303, text_of(made)
    view = SavedView.objects.get()
    assert (view.query, view.columns, view.shared) == ("state=ENABLED&ordering=-name", ["name"], False)
    page = owner.get(made["Location"])
    assert page.status_code == 200
    assert 'aria-current="true"' in page.content.decode()
    assert "Mine" not in text_of(colleague.get(at("cloud-keys", cast)))
    assert colleague.get(at("saved-view", cast, view.pk)).status_code == 404
    owner.send(at("saved-view-edit", cast, view.pk), name="Ours", shared="on")
    assert "Ours by Owner" in text_of(colleague.get(at("cloud-keys", cast)))
    assert colleague.get(at("saved-view", cast, view.pk)).status_code == 302
    token = colleague.hidden("/accounts/profile/")
    assert colleague.send(at("saved-view-edit", cast, view.pk), token, name="Theirs").status_code == 403
    assert colleague.send(at("saved-view-delete", cast, view.pk), token).status_code == 403
    twice = owner.send(view_new(cast, "x"), name="Ours")
    assert twice.status_code == 422
    assert "view of this name" in text_of(twice)
    assert owner.send(at("saved-view-delete", cast, view.pk)).status_code == 303
    assert not SavedView.objects.exists()


@pytest.mark.parametrize("who", ["outsider", "appliance", "anonymous"])
def test_views_of_strangers(cast: Cast, who: str) -> None:
    expected = 302 if who == "anonymous" else 404
    assert Browser(cast, who).get(view_new(cast, "")).status_code == expected


def test_a_view_of_another_vault(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    owner.send(view_new(cast, "state=ENABLED"), name="Mine")
    view = SavedView.objects.get()
    assert Vault.objects.count() == 2
    url = reverse("saved-view-edit", args=[cast.other_vault.pk, view.pk])
    assert owner.get(url).status_code == 404
    assert Browser(cast, "outsider").get(url).status_code == 404
