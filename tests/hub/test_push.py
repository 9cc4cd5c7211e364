"""Pushes of a real tiny checkpoint with the real library to a Hub on loopback."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import flab, thorough_but
from hub.conftest import change_json, evaluation_of, write_json
from hub.faults import FILES, OLD, REPOSITORY, RIGHT, SCENARIOS, trials
from hub.loopback import FAULTS
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from optimum_flab import FlabOptimizer, PruningPlan
from optimum_flab.commands.following import push_of
from optimum_flab.hub import client
from optimum_flab.hub.client import hub_card, redact, translate_errors
from optimum_flab.hub.frame import BEGIN, END, metadata_of, text_of_user
from optimum_flab.hub.push import push_to_hub
from optimum_flab.records import checkpoint
from optimum_flab.records.json_files import read_json
from optimum_flab.utils.errors import ConfigurationError, FlabError


NAME = "me/tiny-flab"
LICENSED = {"base_model": "someone/tiny"}
LASTING = ("reset!", "503!")


def push(folder, name=NAME, **options):
    return push_to_hub(folder, name, **{**LICENSED, **options})


def refusal(folder, name=NAME, kind=FlabError, **options):
    """Why a push is refused, in words."""
    with pytest.raises(kind) as refused:
        push(folder, name, **options)
    return str(refused.value)


def files_there(hub, name=NAME, revision="main"):
    return set(hub.files(name, revision)) - {".gitattributes"}


def edited(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


# --- what a push does


def test_a_push_comes_back_bit_for_bit_and_the_printed_code_runs(pruned, hub, tmp_path):
    pushed = push(pruned, private=True, commit_message="The first\n\nand what it is")
    repository = hub.repositories[NAME]
    assert pushed.url == f"{hub.url}/{NAME}/commit/{repository.branches['main']}" and repository.private
    assert repository.titles[repository.branches["main"]] == ("The first", "and what it is")
    assert files_there(hub) == {path.name for path in pruned.iterdir()}
    commits = [path for _, path in hub.requests if "/commit/" in path]
    assert commits == [f"/api/models/{NAME}/commit/main"] == [hub.requests[-1][1]]
    assert any(path.startswith("/lfs/") for _, path in hub.requests)
    assert hub.files(NAME)["model.safetensors"] == (pruned / "model.safetensors").read_bytes()
    (code,) = re.findall(r"```python\n(.*?)```", hub.files(NAME)["README.md"].decode(), re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": RIGHT}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and "def fibonacci(n):" in ran.stdout, ran.stderr


def test_a_second_push_of_the_same_changes_nothing(pruned, hub):
    first = push(pruned)
    before = hub.state(NAME)
    second = push(pruned)
    assert second.url == first.url and hub.state(NAME) == before and "nothing was sent" in second.to_text()
    assert "nothing was sent" not in first.to_text()
    assert len(hub.repositories[NAME].commits) == 2


def test_an_update_removes_the_old_checkpoint_and_keeps_what_the_user_put_there(pruned, hub):
    outdated = {
        *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.json", "flab_evaluation-2.json"),
    }
    kept = {
        *("flab_training_curve.png", "flab_notes/mine.json", "model-a/b-of-c.safetensors", "notes.md"),
        *("model-old-of-mine.safetensors", "onnx/model.safetensors", ".gitattributes", "LICENSE-old"),
    }
    hub.add(NAME, dict.fromkeys((*outdated, *kept), b"mine"))
    pushed = push(pruned)
    new = {path.name for path in pruned.iterdir()}
    assert set(hub.files(NAME)) == new | kept and hub.files(NAME)["notes.md"] == b"mine"
    assert set(pushed.keep) == kept and set(pushed.delete) == outdated
    text = pushed.to_text()
    assert "  - vocab.json" in text and "  = notes.md (kept)" in text and "  + config.json" in text


def test_a_dry_run_checks_everything_and_sends_nothing(pruned, hub, monkeypatch):
    found = push(pruned, dry_run=True)
    assert found.url is None and "nothing was sent" in found.to_text() and "README.md" in found.files
    assert hub.state(NAME) is None
    assert {method for method, path in hub.requests if path != "/api/validate-yaml"} == {"GET"}
    monkeypatch.delenv("HF_TOKEN")
    hub.add(NAME, {"notes.md": b"mine"})
    found = push(pruned, dry_run=True)
    assert found.keep == ("notes.md",)
    assert f"note: there is no token for the Hub, so whether you may push to {NAME} was not checked" in found.to_text()
    hub.fault, hub.lasting = (len(hub.requests), "reset"), True
    assert f"the files in {pruned} belong together, but {NAME} could not be looked at" in refusal(pruned, dry_run=True)
    (pruned / "model.safetensors").write_bytes(b"damaged")
    assert "model.safetensors" in refusal(pruned, dry_run=True)  # the local verdict comes first


def test_a_branch_starts_from_main_and_main_stays(pruned, hub):
    hub.add(NAME, {"notes.md": b"mine"})
    for _ in range(2):
        push(pruned, revision="v1/x")
    assert files_there(hub) == {"notes.md"} and len(hub.repositories[NAME].commits) == 2
    assert files_there(hub, revision="v1/x") == {path.name for path in pruned.iterdir()} | {"notes.md"}


def test_a_pull_request_an_organisation_and_a_name_without_an_owner(pruned, hub):
    hub.add("other/model", {"notes.md": b"theirs"})
    assert push(pruned, "other/model", create_pr=True).url == f"{hub.url}/other/model/discussions/1"
    assert files_there(hub, "other/model") == {"notes.md"}
    push(pruned, "team/model")
    push(pruned, "model")
    assert set(hub.repositories) == {"other/model", "team/model", "me/model"}


def test_the_licence_is_read_from_the_base_models_card(pruned, hub, report):
    base = {**report["base_model"], "name": "someone/tiny", "revision": None, "card": None}
    change_json(pruned / "flab_report.json", base_model=base)
    (pruned / "README.md").unlink()
    hub.add("someone/tiny", {"README.md": b"---\nlicense: mit\nlanguage: en\n---\n# tiny\n"})
    push(pruned)
    data = metadata_of(hub.files(NAME)["README.md"].decode())
    assert (data["license"], data["language"], data["base_model"]) == ("mit", ["en"], "someone/tiny")
    hub.add("someone/gated", {"README.md": b"x"}).gated = True
    assert "it is gated" in refusal(pruned, "me/other", ConfigurationError, base_model="someone/gated")
    hub.add("someone/bare", {"config.json": b"{}"})
    assert "it has none" in refusal(pruned, "me/other", ConfigurationError, base_model="someone/bare")
    assert "me/other" not in hub.repositories


def test_each_record_is_read_once(pruned, hub, report, monkeypatch):
    write_json(pruned / "flab_evaluation.json", evaluation_of(report))
    reads = Counter()

    def counted(path, *advice):
        reads[path.name] += 1
        return read_json(path, *advice)

    monkeypatch.setattr(checkpoint, "read_json", counted)
    push(pruned, dry_run=True)
    assert {"flab_report.json", "flab_plan.json", "flab_config.json", "flab_evaluation.json"} <= reads.keys()
    assert set(reads.values()) == {1}


# --- what is sent


def test_only_files_of_the_model_and_what_is_named(pruned, hub):
    for name in ("notes/a.md", "notes/deep/b.md", "training.log", "pytorch_model.bin", "model-1-of-2.safetensors"):
        (pruned / name).parent.mkdir(parents=True, exist_ok=True)
        (pruned / name).write_bytes(b"x")
    (pruned / "adapter").mkdir()
    (pruned / "adapter" / "adapter_config.json").write_text("{}")
    (pruned / "additional_chat_templates").mkdir()
    (pruned / "additional_chat_templates" / "tool_use.jinja").write_text("{{ x }}")
    pushed = push(pruned, dry_run=True)
    assert set(pushed.left) == {
        *("notes/a.md", "notes/deep/b.md", "training.log", "pytorch_model.bin", "model-1-of-2.safetensors"),
        "adapter/adapter_config.json",
    }
    assert "additional_chat_templates/tool_use.jinja" in pushed.files and "flab_plan.safetensors" in pushed.files
    assert "not sent: adapter/adapter_config.json, model-1-of-2" in pushed.to_text()
    assert "notes/deep/b.md" in push(pruned, include=["notes"], dry_run=True).files
    some = push(pruned, include="notes/*.md", dry_run=True).files
    assert "notes/a.md" in some and "training.log" not in some
    (pruned / "notes" / ".draft.md").write_text("x")
    assert "notes/.draft.md" not in push(pruned, include=["notes", "*"], dry_run=True).files
    assert "notes/.draft.md" in push(pruned, include=["notes/.draft.md"], dry_run=True).files


@pytest.mark.parametrize("name", [".env", "token", "hf_token.txt", "id_rsa", "server.pem", "secrets.yaml", ".netrc"])
def test_what_looks_like_a_secret_is_refused(pruned, hub, name):
    (pruned / "more").mkdir()
    (pruned / "more" / name).write_text("x")
    for pattern in (f"more/{name}", "more" if name[0] != "." else "more/.*"):
        assert "looks like a secret" in refusal(pruned, kind=ConfigurationError, include=[pattern])
    assert hub.requests == []


def test_what_is_named_must_be_in_the_folder(pruned, hub, tmp_path):
    (tmp_path / "outside.md").write_text("x")
    for pattern in ("none/*.md", "../outside.md", "/", ".", "", "**x"):
        assert repr(pattern) in refusal(pruned, kind=ConfigurationError, include=[pattern])
    (pruned / "LICENSE").unlink(missing_ok=True)
    (pruned / "LICENSE").symlink_to(tmp_path / "outside.md")
    assert (
        "LICENSE" in (message := refusal(pruned, kind=ConfigurationError)) and "a link to a file elsewhere" in message
    )


def test_records_name_no_paths_of_this_machine(pruned, hub, report):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    corpus = config["data"]["corpus"][0]
    assert Path(corpus).is_absolute() and str(Path(corpus).parent) in report["base_model"]["name"]
    write_json(pruned / "flab_evaluation.json", evaluation_of(report))
    push(pruned)
    there = hub.files(NAME)
    for name, content in there.items():
        assert str(Path(corpus).parent).encode() not in content and b"/data/somebody" not in content, name
    assert json.loads(there["flab_config.json"])["data"]["corpus"] == ["corpus.jsonl"]
    assert json.loads(there["flab_report.json"])["base_model"]["name"] == "tiny-qwen2"
    # what has no path is as it was, line for line
    here = (pruned / "flab_plan.json").read_text(encoding="utf-8").splitlines()
    sent = there["flab_plan.json"].decode().splitlines()
    assert len(here) == len(sent) and sum(one != other for one, other in zip(here, sent, strict=True)) == 2


# --- whose card it is


def test_what_others_add_to_the_card_on_the_hub_stays(pruned, hub):
    push(pruned)
    card = hub.files(NAME)["README.md"].decode()
    changed = card.replace(f"{BEGIN}\n", f"{BEGIN}\nby hand\n").replace("tags:\n", "widget: 3\ntags:\n- theirs\n")
    HfApi().create_commit(NAME, [CommitOperationAdd("README.md", changed.encode())], commit_message="by hand")
    change_json(pruned / "flab_report.json", seed=5)
    push(pruned)
    card = hub.files(NAME)["README.md"].decode()
    assert text_of_user(card) == "by hand" and "| seed | 5 |" in card
    assert metadata_of(card)["widget"] == 3 and "theirs" in metadata_of(card)["tags"]
    edited(pruned / "README.md", f"{BEGIN}\n", f"{BEGIN}\nhere\n")
    assert "between the marked lines the card on the Hub differs" in refusal(pruned, kind=ConfigurationError)
    push(pruned, overwrite_card=True)
    assert text_of_user(hub.files(NAME)["README.md"].decode()) == "here"


def test_a_card_written_by_hand_does_not_remove_what_others_added(pruned, hub):
    push(pruned)
    card = hub.files(NAME)["README.md"].decode().replace(f"{BEGIN}\n", f"{BEGIN}\nby hand\n")
    HfApi().create_commit(NAME, [CommitOperationAdd("README.md", card.encode())], commit_message="by hand")
    (pruned / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    assert "that this push would remove" in refusal(pruned, kind=ConfigurationError)
    (pruned / "README.md").write_text(f"---\nlicense: mit\n---\n# mine\n{text_of_user(card)}\n")
    assert push(pruned).url


def test_a_card_that_somebody_else_wrote_stays(pruned, hub):
    hub.add(NAME, {"README.md": b"# theirs\n"})
    assert "`overwrite_card`" in refusal(pruned, kind=ConfigurationError)
    assert hub.files(NAME) == {"README.md": b"# theirs\n"}
    push(pruned, overwrite_card=True)
    assert b"optimum-flab" in hub.files(NAME)["README.md"]


def test_a_card_that_the_user_wrote_is_sent_as_it_is(pruned, hub):
    path = pruned / "README.md"
    path.write_text("# mine\n", encoding="utf-8")
    assert "states no license" in refusal(pruned, kind=ConfigurationError)
    path.write_text("---\nlicense: mit\n---\n# mine\n", encoding="utf-8")
    assert "sent unchanged" in push(pruned).to_text()
    assert hub.files(NAME)["README.md"] == path.read_bytes()
    path.write_text("---\nlicense: my-own\n---\n# mine\n", encoding="utf-8")
    for options in ({}, {"dry_run": True}):
        assert "known identifiers" in refusal(pruned, "me/other", **options)
    assert "me/other" not in hub.repositories


# --- the files belong together


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_another_value(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "flab_plan.json").unlink(), "lacks flab_plan.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: edited(folder / "config.json", '"intermediate_size": 48', '"intermediate_size": 40'), "lack"),
        (lambda folder: change_json(folder / "flab_plan.json", vocab_size=9_396), "the plan 9"),
        (without_a_tensor, "model.norm.weight"),
        (with_another_value, "they were changed after they were measured"),
        (lambda folder: change_json(folder / "flab_report.json", weights_sha256="0" * 64), "is of 000000000000…"),
        (lambda folder: change_json(folder / "flab_plan.json", base_hash="0" * 64), "different base models"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "which names other files"),
        (lambda folder: change_json(folder / "generation_config.json", eos_token_id=100_000), "names token 100,000"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_before_anything_is_sent(pruned, hub, change, message):
    change(pruned)
    assert message in refusal(pruned)
    assert hub.requests == []


# --- refused


@pytest.mark.parametrize("name", ["", "a/b/c", "me/über model", "me/--", "../x"])
def test_a_repository_name_that_is_none(pruned, hub, name):
    assert repr(name) in refusal(pruned, name, ConfigurationError) and hub.requests == []


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "there is no token"), ("hf_reader000", "token is read-only"), ("hf_unknown00", "check the token")],
)
def test_a_token_that_may_not_write(pruned, hub, monkeypatch, token, message):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    said = refusal(pruned)
    assert message in said and hub.state(NAME) is None and str(token) not in said
    assert token is not None or "names no owner" in refusal(pruned, "tiny", ConfigurationError, dry_run=True)


@pytest.mark.parametrize("name", ["somebody/model", "watched/model"])
def test_a_namespace_where_one_may_not_write(pruned, hub, name):
    assert f"{name} is not one of me, team" in refusal(pruned, name) and name not in hub.repositories


def test_what_a_repository_does_not_allow(pruned, hub):
    hub.add(NAME, {"notes.md": b"x"})
    assert "exists and is public" in refusal(pruned, private=True)
    assert "me/new does not exist" in refusal(pruned, "me/new", create_pr=True)
    for number, file in enumerate(("adapter_config.json", ".gitignore")):
        hub.add(f"me/other{number}", {file: b"{}"})
        assert f"holds {file}" in refusal(pruned, f"me/other{number}")
    assert not any(method == "PUT" or "/commit/" in path for method, path in hub.requests)


REASONS = {
    "deleted meanwhile": (404, {"X-Error-Code": "RepoNotFound"}, "", "no such repository any more"),
    "gated": (403, {"X-Error-Code": "GatedRepo"}, "", "it is gated"),
    "full": (403, {}, "Private repository storage limit reached", "the Hub answered 403: Private repository storage"),
    "too large": (413, {}, "Payload Too Large", "the Hub answered 413: Payload Too Large"),
    "no answer in its form": (200, {}, "[]", "its answer was not understood"),
    "down": (503, {}, "", "the Hub answered 503: "),
    "not JSON": (200, {}, "<html>", "check the connection"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_failure_is_told_by_its_real_cause(pruned, hub, reason):
    status, headers, said, message = REASONS[reason]
    repository = hub.add(NAME, {"notes.md": b"x"})
    body = said.encode() if status == 200 else json.dumps({"error": said}).encode()
    hub.instead = {"POST .*/preupload/": (status, body, headers)}
    told = refusal(pruned)
    assert message in told and "again" in told and len(repository.commits) == 1
    hub.instead = {}
    push(pruned)
    assert len(repository.commits) == 2


def test_a_concurrent_change_is_not_overwritten(pruned, hub):
    hub.add(NAME, {"notes.md": b"x"})

    def somebody(repository):
        hub.before_commit = None
        repository.commit("main", {"notes.md": hub.blob(b"changed")})

    hub.before_commit = somebody
    said = refusal(pruned)
    assert f"{NAME} is unchanged" in said and "somebody else changed it meanwhile" in said
    assert hub.files(NAME) == {"notes.md": b"changed"}
    push(pruned)
    assert hub.files(NAME)["notes.md"] == b"changed" and "config.json" in hub.files(NAME)


def test_a_repository_that_somebody_else_makes_meanwhile_is_theirs(pruned, hub):
    hub.instead = {f"GET /api/models/{NAME}$": (404, b"{}", {"X-Error-Code": "RepoNotFound"})}
    hub.add(NAME, {"README.md": b"# theirs"})
    assert f"the Hub says that {NAME} is there, and does not find it" in refusal(pruned)
    assert hub.files(NAME) == {"README.md": b"# theirs"}


def test_what_somebody_puts_into_a_repository_just_created_stays(pruned, hub, monkeypatch):
    create_repo = HfApi.create_repo

    def create(api, *arguments, **options):
        url = create_repo(api, *arguments, **options)
        api.create_commit(NAME, [CommitOperationAdd("notes.md", b"theirs")], commit_message="first")
        return url

    monkeypatch.setattr(HfApi, "create_repo", create)
    assert "somebody else filled" in refusal(pruned)
    assert files_there(hub) == {"notes.md"}


def test_an_answer_that_the_library_does_not_take_leaves_it_open_whether_the_push_arrived(pruned, hub):
    hub.instead = {"POST .*/commit/": (200, json.dumps({"commitUrl": "x", "commitOid": "0" * 40}).encode(), {})}
    assert "it is not known whether the push arrived" in refusal(pruned)


@pytest.mark.parametrize(
    ("request_", "status", "said", "told"),
    [
        ("PUT /lfs/", 403, "Request has expired", "403"),
        ("PUT /lfs/", 500, "out of order", "500"),
        ("POST .*/objects/batch", 507, "storage quota exceeded", "storage quota exceeded"),
        ("POST .*/preupload/", 500, "down", "down"),
    ],
)
def test_before_the_commit_nothing_is_left_open(pruned, hub, request_, status, said, told):
    repository = hub.add(NAME, {"notes.md": b"x"})
    hub.instead = {request_: (status, json.dumps({"error": said}).encode(), {"X-Error-Message": said})}
    refused = refusal(pruned)
    assert f"{NAME} is unchanged, since its files could not be uploaded (" in refused and told in refused
    assert len(repository.commits) == 1
    hub.instead = {}
    push(pruned)
    assert len(repository.commits) == 2


def test_a_card_on_the_hub_that_cannot_be_read_is_not_replaced(pruned, hub):
    hub.add(NAME, {"README.md": "# ihr Modell für Código".encode("latin-1")})
    assert f"the card of {NAME} is not UTF-8 text" in refusal(pruned) and len(hub.repositories[NAME].commits) == 1
    push(pruned, overwrite_card=True)
    hub.add(NAME, {"README.md": b"# theirs"})
    hub.instead = {"(GET|HEAD) .*/resolve/": (500, b"{}", {})}
    assert f"the card of {NAME} could not be read: the Hub answered 500" in refusal(pruned)


def test_a_card_that_could_not_be_checked_is_not_said_to_be_wrong(pruned, hub):
    hub.instead = {"/api/validate-yaml": (500, b"{}", {})}
    assert "nothing was sent, since the Hub could not check the card's metadata: the Hub answered 500" in refusal(
        pruned
    )
    assert hub.state(NAME) is None


def test_a_token_pasted_with_quotes_is_told_before_anything_is_asked(pruned, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f'"{RIGHT}"')
    said = refusal(pruned, dry_run=True)
    assert "has quotes, spaces or other characters" in said and RIGHT not in said and hub.requests == []


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Retry-After": "3600"}, "wait 1 h 0 min, and run the same command again"),
        ({"Retry-After": "Fri, 04 Dec 2026 08:00:00 GMT"}, "wait until Fri, 04 Dec 2026 08:00:00 GMT, and"),
        ({"RateLimit": '"api";r=0;t=55'}, "wait 55 s, and"),
        ({}, "wait some minutes, and"),
    ],
)
def test_how_long_the_hub_asks_to_wait(pruned, hub, headers, told):
    hub.instead = {"/api/whoami-v2": (429, b"{}", headers)}
    said = refusal(pruned)
    assert "the Hub answered 429: Too Many Requests" in said and told in said


@pytest.mark.parametrize("fault", ["reset-after", "500-after", "truncated-after"])
def test_a_creation_whose_answer_was_lost(fault, hub):
    scenario = SCENARIOS["a new repository"]
    scenario.prepare(hub)
    hub.fault = (1, fault)
    with pytest.raises(FlabError, match=f"it is not known whether {REPOSITORY} was created; it holds nothing yet"):
        scenario.push()
    assert hub.requests[1] == ("POST", "/api/repos/create") and hub.repositories[REPOSITORY].private
    hub.fault = None
    scenario.push()
    assert hub.state(REPOSITORY) == scenario.states()[1]


@pytest.mark.parametrize("status", [403, 404])
def test_what_xet_was_answered(hub, monkeypatch, status):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    access = {"casUrl": hub.url, "exp": 4_000_000_000, "accessToken": "planted"}
    hub.add(REPOSITORY, OLD)
    hub.instead = {
        "/xet-write-token/": (200, json.dumps(access).encode(), {}) if status == 404 else (status, b"{}", {}),
        "/v1/": (status, b"{}", {}),
    }
    with pytest.raises(FlabError) as refused:
        replace(SCENARIOS["an update"], options={}).push()
    said = str(refused.value)
    assert f"{REPOSITORY} is unchanged" in said and f"Xet, the Hub's storage, answered {status} " in said
    assert "with HF_HUB_DISABLE_XET=1 files are sent without Xet" in said and "planted" not in said
    assert "check the connection" not in said


def test_what_else_may_help_is_not_said_of_an_answer(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.add(REPOSITORY, OLD)
    hub.instead = {"/preupload/": (403, b"{}", {"X-Error-Message": "You need write access"})}
    with pytest.raises(FlabError, match="You need write access") as refused:
        SCENARIOS["an update"].push()
    assert "XET" not in str(refused.value)


def test_a_hub_that_is_silent_is_told(hub, monkeypatch, capsys):
    monkeypatch.setattr(client, "SILENCE", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with translate_errors("", hint=client.without_xet()):
        threading.Event().wait(0.35)
    told = capsys.readouterr().err.splitlines()
    assert len(told) >= 2 and all("check the connection" in line and "HF_HUB_DISABLE_XET=1" in line for line in told)
    with translate_errors(""), tqdm(total=30, file=io.StringIO()) as bar:
        for _ in range(30):
            bar.update()
            threading.Event().wait(0.01)
    assert capsys.readouterr().err == ""
    with translate_errors(""), tqdm(total=30, file=io.StringIO()):
        threading.Event().wait(0.15)
    assert "no progress for" in capsys.readouterr().err


def test_without_a_connection(pruned, hub, monkeypatch):
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.url, nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert "check the connection" in refusal(pruned)
    assert hub_card("someone/unseen")[1].startswith("the Hub cannot be reached")


# --- faults and secrets


def one_each(number, path):
    return [LASTING[0] if "/commit/" in path else FAULTS[5 * number % len(FAULTS)]]


def all_of_the_commit(number, path):
    return (*FAULTS, *LASTING) if "/commit/" in path else one_each(number, path)


@pytest.mark.parametrize(
    ("name", "faults"),
    thorough_but(
        2,
        [
            ("an update", all_of_the_commit),
            ("a pull request", all_of_the_commit),
            ("a new repository", all_of_the_commit),
            ("a new branch", all_of_the_commit),
        ],
    ),
)
def test_a_fault_leaves_no_mixture(name, faults, hub):
    """`benchmarks/push_faults.py` has every fault at every request."""
    found = list(trials(hub, name, faults))
    assert len(found) > 5
    assert [trial for trial in found if trial.wrong] == []


@pytest.mark.parametrize("fault", ["500!", "reset!", "429"])
def test_neither_tokens_nor_signed_addresses_show_in_any_output(hub, capfd, caplog, fault):
    hub.storage = f"{hub.url}/signed"
    signed = {"actions": {"upload": {"href": f"{hub.url}/lfs/{'0' * 64}?X-Amz-Signature=planted", "header": {}}}}
    sha = hub.blob(FILES["model-00001-of-00002.safetensors"]).sha256
    batch = {"transfer": "basic", "objects": [{"oid": sha, "size": 24_000, **signed}]}
    hub.add(REPOSITORY, OLD)
    hub.instead = {"POST .*/objects/batch": (200, json.dumps(batch).encode(), {}), "PUT /lfs/": (500, b"{}", {})}
    if fault == "429":
        hub.instead["PUT /lfs/"] = (429, b"{}", {})
    scenario = replace(SCENARIOS["an update"], options={})
    with pytest.raises(FlabError) as refused:
        scenario.push()
    shown = capfd.readouterr()
    output = shown.out + shown.err + caplog.text + str(refused.value)
    assert "planted" not in output and RIGHT not in output
    assert f"{hub.url}/lfs/" in caplog.text  # what the library tells of its attempts is told all the same
    text = "PUT https://user:pw@s3.example/x?X-Amz-Signature=abc failed with hf_abcDefgh"
    assert redact(text) == "PUT https://***@s3.example/x failed with ***"
    assert redact("hf_hub_download of hf_oauth_ab.cd-ef_g by hf_transfer") == "hf_hub_download of *** by hf_transfer"


def test_a_named_token_is_hidden_in_the_threads_of_the_library():
    found = []
    with client.with_token("of-a-company"):
        thread = threading.Thread(target=lambda: found.append(redact("sent with of-a-company")))
        thread.start()
        thread.join()
    assert found == ["sent with ***"] and redact("of-a-company") == "of-a-company"


# --- the command line and the front door


def test_the_command_line_writes_a_card_and_pushes(pruned, hub):
    hub.add("someone/tiny", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    wrote = flab("card", pruned, "--base-model", "someone/tiny", "--repo-id", NAME)
    following = f"next: optimum-cli flab push {pruned} {NAME}"
    assert wrote.code == 0 and wrote.out.splitlines() == [str(pruned / "README.md")]
    assert wrote.err.splitlines()[-1] == following
    assert "base_model: someone/tiny" in (pruned / "README.md").read_text(encoding="utf-8")
    pushed = flab("push", pruned, NAME, "--private")
    assert pushed.code == 0
    assert pushed.out.splitlines()[-1] == f"{hub.url}/{NAME}/commit/{hub.repositories[NAME].branches['main']}"
    wrong = flab("push", pruned, NAME, "--commit-message", "")
    assert wrong.code == 2 and "should have at least 1 character" in wrong.err
    (pruned / "model.safetensors").write_bytes(b"damaged")
    damaged = flab("push", pruned, NAME)
    assert damaged.code == 1 and "model.safetensors" in damaged.err and "Traceback" not in damaged.err


def test_the_front_door_pushes_what_it_loaded_and_what_it_pruned(pruned, hub, report):
    optimizer = FlabOptimizer.from_pretrained(pruned)
    assert optimizer.push_to_hub(NAME, **LICENSED).url
    assert files_there(hub) == {path.name for path in pruned.iterdir()}
    with torch.no_grad():
        next(optimizer.dense.model.parameters()).add_(1)
    with pytest.raises(FlabError, match="save them to a folder of their own"):
        optimizer.push_to_hub(NAME, **LICENSED)
    FlabOptimizer.from_pretrained(NAME).push_to_hub("me/copy")
    first, second = hub.files(NAME), hub.files("me/copy")
    assert first.keys() == second.keys()
    assert all(second[name] == content for name, content in first.items() if name not in ("README.md",))
    applied = FlabOptimizer.from_pretrained(report["base_model"]["name"])
    applied.apply(PruningPlan.load(pruned))
    applied.push_to_hub("me/applied", **LICENSED)
    assert hub.files("me/applied")["model.safetensors"] == (pruned / "model.safetensors").read_bytes()
    assert metadata_of(hub.files("me/applied")["README.md"].decode())["license"] == "apache-2.0"
    assert END in hub.files("me/applied")["README.md"].decode()


def test_a_call_in_a_thread_of_its_own_can_be_interrupted():
    """As Xet's client, which waits without noticing signals, cannot."""
    ended, own = threading.Event(), threading.current_thread()
    with client.with_token("hf_named"):
        assert client.interruptible(client.hub_token) == "hf_named"
    assert client.interruptible(threading.current_thread) is not own
    with pytest.raises(OSError, match="lost"):
        client.interruptible(lambda: (_ for _ in ()).throw(OSError("lost")))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            client.interruptible(ended.wait)
    finally:
        signal.signal(signal.SIGINT, before)
        ended.set()


@pytest.mark.parametrize(
    "folder, name",
    [("my out", "my-out"), ("-out", "out"), (".out", "out"), ("a..b", "a-b"), ("a--.-b", "a-.-b"), ("日本", "model")],
)
def test_the_command_after_a_pruning_names_a_repository_that_may_be(tmp_path, folder, name):
    *_, repo_id = push_of(tmp_path / folder)
    assert repo_id == f"me/{name}"
    validate_repo_id(repo_id)
