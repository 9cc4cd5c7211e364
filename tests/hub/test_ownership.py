"""What a user adds to the metadata of a card stays, and what we said and no longer say goes."""

from __future__ import annotations

import hashlib
import json
import string

import pytest
import yaml
from hub.client import push
from hypothesis import example, given
from hypothesis import strategies as st

from optimum_flab.errors import ConfigurationError
from optimum_flab.hub.adapter import stage_adapter
from optimum_flab.hub.card import render_card, write_card
from optimum_flab.hub.metadata import metadata_of, written
from optimum_flab.hub.ownership import (
    BEGIN,
    END,
    MARKED,
    is_generated,
    merged_metadata,
    metadata_of_user,
    signed,
    statements,
    unsigned_mark,
)
from optimum_flab.hub.staging import stage
from optimum_flab.hub.terms import Answers, read_base_card

from ..conftest import thorough_but


NAME = "me/tiny-flab"
LICENSED = {"base_model": "someone/tiny"}
RESULT = {
    "task": {"type": "text-generation"},
    "dataset": {"name": "mine", "type": "me/mine"},
    "metrics": [{"type": "pass@1", "value": 0.5}],
}
ADDED = {
    "thumbnail": "https://example.org/x.png",
    "widget": [{"text": "def f("}],
    "extra_gated_fields": {"Company": "text"},
    "new_version": "me/better",
}


def edited(content: str, change) -> str:
    """A card whose metadata a user changed, as the editor on the Hub writes them."""
    data = metadata_of(content)
    change(data)
    head = yaml.safe_dump(data, sort_keys=True, allow_unicode=True)
    return f"---\n{head}---\n{content.split('---', 2)[2].lstrip(chr(10))}"


def edit(data):
    data |= ADDED
    data["language"] = ["de", *data["language"]]
    data["tags"] = [*data["tags"][:2], "mine", *data["tags"][2:]]
    data["datasets"] = ["me/extra"]


def change_report(folder, **changes):
    path = folder / "flab_report.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_metadata_that_were_added_on_the_hub_stay(pruned, hub, client):
    client(push, str(pruned), NAME, **LICENSED).result()
    there = hub.files(NAME)["README.md"].decode()
    hub.repositories[NAME].commit("main", {**hub_files(hub), "README.md": hub.blob(edited(there, edit).encode())})
    change_report(pruned, seed=5)
    found = client(push, str(pruned), NAME, **LICENSED).result()
    assert "README.md" in found.changes.send
    data = metadata_of(hub.files(NAME)["README.md"].decode())
    assert {name: data[name] for name in ADDED} == ADDED
    assert set(data["language"]) == {"en", "de"} and data["datasets"] == ["me/extra"]
    assert {"mine", "pruned", "optimum"} <= set(data["tags"])
    assert client(push, str(pruned), NAME, **LICENSED).result().changes.send == ()


def hub_files(hub):
    repository = hub.repositories[NAME]
    return repository.commits[repository.branches["main"]]


def test_metadata_that_were_added_in_the_folder_stay(pruned):
    path = pruned / "README.md"
    path.write_text(edited(path.read_text(encoding="utf-8"), edit), encoding="utf-8")
    write_card(pruned)
    data = metadata_of(path.read_text(encoding="utf-8"))
    assert {name: data[name] for name in ADDED} == ADDED and "me/extra" in data["datasets"] and "mine" in data["tags"]
    remote = edited(stage(pruned, NAME).card, lambda data: data.update(tags=["theirs"]))
    assert {"mine", "theirs", "pruned"} <= set(metadata_of(stage(pruned, NAME, remote_card=remote).card)["tags"])


def test_what_we_said_and_no_longer_say_goes(pruned):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    config["data"]["corpus"] = ["a/first"]
    (pruned / "flab_config.json").write_text(json.dumps(config), encoding="utf-8")
    change_report(pruned, datasets=["a/first"])
    remote = edited(stage(pruned, NAME).card, lambda data: data["datasets"].append("me/extra"))
    assert metadata_of(remote)["datasets"] == ["a/first", "me/extra"]
    change_report(pruned, datasets=[])
    (pruned / "README.md").unlink()
    assert metadata_of(stage(pruned, NAME, remote_card=remote).card)["datasets"] == ["me/extra"]


def test_a_field_that_we_state_keeps_what_we_know_and_the_user_is_told(pruned):
    remote = edited(stage(pruned, NAME).card, lambda data: data.update(license="mit", pipeline_tag="fill-mask"))
    staged = stage(pruned, NAME, remote_card=remote)
    data = metadata_of(staged.card)
    assert (data["license"], data["pipeline_tag"]) == ("apache-2.0", "text-generation")
    assert "license in the card's metadata says apache-2.0, as the model was made, and not mit" in staged.notes


def test_a_result_that_was_added_stays_with_its_weights(pruned):
    index = [{"name": "x", "results": [RESULT]}]
    remote = edited(stage(pruned, NAME).card, lambda data: data.update({"model-index": index}))
    assert "me/mine" in stage(pruned, NAME, remote_card=remote).card
    broken = edited(remote, lambda data: data["model-index"][0]["results"].append({"task": 3}))
    staged = stage(pruned, NAME, remote_card=broken)
    assert "me/mine" in staged.card and any("model-index" in note for note in staged.notes)
    change_report(pruned, weights_sha256="f" * 64)
    assert "me/mine" not in str(render_card(pruned, NAME, remote_card=remote).card)


@pytest.mark.parametrize("head", ["a: [1", "- a\n- b", "eval_results: 3"])
def test_metadata_that_cannot_be_read_are_refused_and_not_lost(pruned, head):
    card = stage(pruned, NAME).card
    broken = f"---\n{head}\n---\n{card.split('---', 2)[2].lstrip(chr(10))}"
    assert is_generated(broken)
    with pytest.raises(ConfigurationError, match="metadata at the top of a card"):
        stage(pruned, NAME, remote_card=broken)


def test_a_card_of_the_first_version_is_still_ours(pruned):
    """Its mark has no fingerprints, and its checksum is over the metadata too."""
    content = stage(pruned, NAME).card
    mark = "<!-- Written by optimum-flab, checksum {}. It is written anew by `optimum-cli flab card`. -->"
    unsigned = MARKED.sub(mark.format("0" * 64), content)
    before, _, after = unsigned.partition(BEGIN)
    body = f"{before}{BEGIN}{END}{after.rpartition(END)[2]}".strip()
    old = unsigned.replace("0" * 64, hashlib.sha256(body.encode()).hexdigest(), 1)
    assert is_generated(old) and metadata_of_user(old) == {}
    assert not is_generated(old.replace("- pruned", "- mine"))
    assert stage(pruned, NAME, remote_card=old).card == content


def test_a_card_of_the_users_own_does_not_take_away_what_was_added_on_the_hub(pruned):
    remote = stage(pruned, NAME).card
    (pruned / "README.md").write_text("---\nlicense: apache-2.0\n---\n# mine\n", encoding="utf-8")
    stage(pruned, NAME, remote_card=remote)
    for there, what in (
        (edited(remote, lambda data: data.update(thumbnail="x")), "thumbnail"),
        (remote.replace(BEGIN, f"{BEGIN}\nreviewed"), "the text between"),
    ):
        with pytest.raises(ConfigurationError, match=f"lacks .*{what}.*`overwrite_card`"):
            stage(pruned, NAME, remote_card=there)
        stage(pruned, NAME, remote_card=there, overwrite_card=True)
    mine = "---\nlicense: apache-2.0\nthumbnail: x\n---\n# mine\n\nreviewed\n"
    (pruned / "README.md").write_text(mine, encoding="utf-8")
    there = edited(remote, lambda data: data.update(thumbnail="x")).replace(BEGIN, f"{BEGIN}\nreviewed")
    assert stage(pruned, NAME, remote_card=there).card == mine


# --- the licence is asked for once


def forget_licence(folder):
    report = json.loads((folder / "flab_report.json").read_text(encoding="utf-8"))
    report["base_model"] = {**report["base_model"], "card": None}
    (folder / "flab_report.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "README.md").unlink()


def test_a_licence_that_the_repositorys_card_states_is_not_asked_for_again(pruned, hub, client):
    forget_licence(pruned)
    hub.add("someone/tiny", {"notes.md": b"no card"})
    assert "`license`" in str(client(push, str(pruned), NAME).error)
    answers = {"license": "other", "license_name": "mine", "license_link": "https://example.org/l"}
    client(push, str(pruned), NAME, base_model="someone/tiny", **answers).result()
    assert not (pruned / "README.md").exists()
    again = client(push, str(pruned), NAME).result()
    assert again.changes.send == () and again.notes == ()
    data = metadata_of(hub.files(NAME)["README.md"].decode())
    assert {name: data[name] for name in answers} == answers and data["base_model"] == "someone/tiny"


def test_the_licence_of_another_base_model_is_not_taken(pruned):
    forget_licence(pruned)
    remote = stage(pruned, NAME, answers=Answers("someone/tiny", "mit")).card
    assert "license: mit" in stage(pruned, NAME, remote_card=remote).card
    report = json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))
    change_report(pruned, base_model={**report["base_model"], "weights_sha256": "e" * 64})
    plan = json.loads((pruned / "flab_plan.json").read_text(encoding="utf-8"))
    (pruned / "flab_plan.json").write_text(json.dumps({**plan, "base_hash": "e" * 64}), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="`license`"):
        stage(pruned, NAME, remote_card=remote)


def test_an_adapters_card_too(recovered):
    (recovered / "README.md").unlink()
    report = json.loads((recovered / "flab_report.json").read_text(encoding="utf-8"))
    change_report(
        recovered,
        base_model={**report["base_model"], "card": None},
        recovery={**report["recovery"], "pruned_weights_sha256": "a" * 64},
    )
    first = stage_adapter(recovered, "me/lora", NAME, answers=Answers(license="mit")).card
    second = stage_adapter(recovered, "me/lora", NAME, remote_card=edited(first, lambda data: data.update(ADDED))).card
    data = metadata_of(second)
    assert {name: data[name] for name in ADDED} == ADDED and data["license"] == "mit" and data["base_model"] == NAME


# --- the law


WORDS = st.text(string.ascii_letters + " üß-", min_size=1, max_size=6).map(str.strip).filter(bool)
FIELDS = st.sampled_from(["tags", "datasets", "language", "thumbnail", "mine"])
VALUES = st.one_of(WORDS, st.integers(), st.booleans(), st.lists(WORDS, min_size=1, max_size=4, unique=True))
LISTED = ("tags", "datasets", "language")


@given(
    st.dictionaries(st.sampled_from(LISTED), st.lists(WORDS, min_size=1, max_size=4, unique=True)),
    st.dictionaries(st.sampled_from(LISTED), st.lists(WORDS, min_size=1, max_size=4, unique=True)),
    st.dictionaries(FIELDS, VALUES),
)
def test_additions_stay_through_any_change_of_ours(before, after, added):
    def card(ours, data):
        head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        return signed(f"---\n{head}---\n{unsigned_mark(ours)}\n\n# a card\n\n{BEGIN}\n\n{END}\n")

    first = card(before, before)
    there = edited(first, lambda data: data.update(added))
    assert is_generated(there)
    extra = metadata_of_user(there)
    assert set(extra) <= set(added)
    merged, notes = merged_metadata(after, extra)
    said = statements(merged)
    assert notes == [] and all(statement in said for statement in statements(after))
    for statement in statements(added):
        assert statement in said or statement in statements(before)
    gone = [statement for statement in statements(before) if statement not in statements(added) + statements(after)]
    assert not any(statement in said for statement in gone)
    again = card(after, merged)
    assert merged_metadata(after, metadata_of_user(again)) == (merged, [])


# --- metadata as a user writes them


def with_head(content: str, extra: str, begin: str = "---\n", end: str = "\n---\n") -> str:
    """A card with further lines in its metadata, as somebody types them."""
    head, body = content.removeprefix("---\n").split("\n---\n", 1)
    return f"{begin}{head}\n{extra}{end}{body}"


KEPT = (
    *("version: 1.10", "released: 2024-01-02", "mode: 0o17", "octal: 017", "ratio: 0.70", "count: 1_000"),
    *("time: 12:30:45", "big: 12345678901234567890123", "x: .nan", "y: -.inf", "exact: 0.5", "number: 7", "'1': 2"),
    *("flag: true", "'off': false", "plus: +3", "small: 1e-5", "text: '1.10'", "word: 'no'", "quoted: 'true'"),
    *(
        "'2024-01-02': x",
        "deep:\n  a:\n  - 1.20\n  b: 2",
        "lines: |\n  a\n    b\n\n  c",
        "summary: a text: '1'".replace(": a text", " a text"),
    ),
)


@pytest.mark.parametrize("line", thorough_but(5, list(KEPT)))
def test_what_a_user_writes_stays_as_it_is_written(pruned, line):
    content = stage(pruned, NAME).card
    there = with_head(content, line)
    first = stage(pruned, NAME, remote_card=there).card
    assert f"\n{line}\n" in first
    assert stage(pruned, NAME, remote_card=first).card == first
    assert render_card(pruned, NAME, remote_card=there).card.text in first


@pytest.mark.parametrize(
    ("line", "field", "value"), [("no: 1", "no", 1), ("yes: on", "yes", "on"), ("y: n", "y", "n")]
)
def test_only_true_and_false_are_booleans(pruned, line, field, value):
    first = stage(pruned, NAME, remote_card=with_head(stage(pruned, NAME).card, line)).card
    data = yaml.safe_load(first.split("---\n")[1])  # as readers of YAML 1.1 see it
    assert data[field] == value and True not in data and False not in data


@pytest.mark.parametrize("line", ["language: [no, en]", "language:\n- no", "language: no"])
def test_norwegian_is_a_language(pruned, hub, client, line):
    client(push, str(pruned), NAME, **LICENSED).result()
    there = with_head(hub.files(NAME)["README.md"].decode().replace("language:\n- en\n", ""), line)
    hub.repositories[NAME].commit("main", {**hub_files(hub), "README.md": hub.blob(there.encode())})
    change_report(pruned, seed=5)
    client(push, str(pruned), NAME, **LICENSED).result()
    data = yaml.safe_load(hub.files(NAME)["README.md"].decode().split("---\n")[1])
    assert set(data["language"]) == {"en", "no"}


def test_norwegian_is_the_language_of_a_base_model_too():
    assert read_base_card("---\nlanguage: [no, en]\nlicense: mit\n---\n# x\n")["language"] == ["no", "en"]


@pytest.mark.parametrize("head", ["tags:", "tags: []", "tags: [a, ~]", "thumbnail:"])
def test_an_emptied_field_says_nothing(pruned, head):
    content = stage(pruned, NAME).card
    card = stage(pruned, NAME, remote_card=with_head(content, head)).card
    data = metadata_of(card)
    assert None not in data["tags"] and set(data["tags"]) >= {"pruned", "code"} and "thumbnail" not in data


@pytest.mark.parametrize(
    "line",
    [
        *("x: !!omap [a: 1]", "x: !!binary aGVsbG8=", "x: !!set {a, b}", "x: !!python/name:os.system", "x: !mine 3"),
        *("a: &a [*a]", "a: &a {b: *a}", "x: " + "9" * 5000, "eval_results: x\nmodel_name: y", "? [a, b]\n: c"),
        *("ignore_metadata_errors: true", "x: " + "[" * 5000 + "]" * 5000, "x: *nowhere"),
        "a: &a [x, x]\n"
        + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)).replace("*a0", "*a"),
    ],
)
@pytest.mark.thorough
def test_metadata_that_cannot_be_kept_are_refused_in_words(pruned, line):
    there = with_head(stage(pruned, NAME).card, line)
    assert is_generated(there)
    with pytest.raises(
        ConfigurationError, match="the metadata at the top of a card .*(correct them|write it as|give it a name)"
    ) as error:
        stage(pruned, NAME, remote_card=there)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("\ufeff---\n", "\n---\n"),
        ("---   \n", "\n---\t\n"),
        ("\n\n---\n", "\n---\n"),
        ("\ufeff--- \r\n", "\r\n--- \r\n"),
    ],
)
def test_a_byte_order_mark_and_blanks_do_not_make_a_card_somebody_elses(pruned, begin, end):
    content = stage(pruned, NAME).card
    there = with_head(content, "thumbnail: x", begin, end)
    assert is_generated(there)
    card = stage(pruned, NAME, remote_card=there).card
    assert metadata_of(card)["thumbnail"] == "x" and card.startswith("---\nlanguage:")
    assert is_generated("\ufeff" + content.split("\n---\n", 1)[1])


# PyYAML writes what ends a line in Unicode as if it did not
TEXTS = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, JSON, max_size=4))
@example({"\xa00": None})
def test_metadata_are_read_as_they_were_written(data):
    assert metadata_of(f"---\n{written(data)}\n---\n") == data


@given(st.text(max_size=200))
def test_any_metadata_are_read_or_refused(head):
    try:
        data = metadata_of(f"---\n{head}\n---\n")
    except ConfigurationError:
        return
    assert metadata_of(f"---\n{written(data)}\n---\n") == data
