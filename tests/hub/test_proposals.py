"""A pull request is opened once and then brought up to date; commits say what they bring."""

from __future__ import annotations

import json

import pytest
from hub.client import push
from hub.test_push import LICENSED, NAME, files_there

from optimum_flab.errors import ConfigurationError
from optimum_flab.hub.changes import SIGNATURE, Changes, commit_text
from optimum_flab.hub.ownership import BEGIN, text_of_user


def propose(client, folder, name=NAME, **options):
    return client(push, str(folder), name, create_pr=True, **LICENSED, **options).result()


def change(folder, seed):
    path = folder / "flab_report.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "seed": seed}), encoding="utf-8")


@pytest.fixture
def repository(hub):
    return hub.add(NAME, {"notes.md": b"mine", "merges.txt": b"old"})


def test_another_push_brings_the_open_pull_request_up_to_date(pruned, hub, client, repository):
    first = propose(client, pruned)
    change(pruned, 5)
    tried = propose(client, pruned, dry_run=True)
    assert tried.url is None and "pull request 1: 2 files" in tried.to_text() and len(repository.commits) == 2
    second = propose(client, pruned)
    assert second.url == first.url and len(repository.requests) == 1 and len(repository.commits) == 3
    assert second.changes.send == ("README.md", "flab_report.json") and "pull request 1: 2 files" in second.to_text()
    assert json.loads(hub.files(NAME, "refs/pr/1")["flab_report.json"])["seed"] == 5
    assert files_there(hub) == {"notes.md", "merges.txt"} and "merges.txt" not in hub.files(NAME, "refs/pr/1")
    third = propose(client, pruned)
    assert third.changes.send == () and "already open" in third.to_text() and len(repository.commits) == 3


def test_what_was_written_into_the_proposed_card_stays(pruned, hub, client, repository):
    propose(client, pruned)
    request, card = repository.requests[0], hub.files(NAME, "refs/pr/1")["README.md"].decode()
    files = dict(repository.commits[request["sha"]])
    files["README.md"] = hub.blob(card.replace(BEGIN, f"{BEGIN}\nreviewed").encode())
    request["sha"] = repository.record(files, request["sha"], "Review", "by somebody else")
    change(pruned, 5)
    propose(client, pruned)
    assert text_of_user(hub.files(NAME, "refs/pr/1")["README.md"].decode()) == "reviewed"
    assert len(repository.requests) == 1


def test_other_pull_requests_are_left_alone(pruned, hub, client, repository):
    head = repository.branches["main"]
    files = dict(repository.commits[head])
    repository.propose({**files, "notes.md": hub.blob(b"better")}, head, "A typo", "by hand")
    theirs = client(push, str(pruned), NAME, create_pr=True, token="hf_other0000", **LICENSED).result()
    assert theirs.url.endswith("/2")
    change(pruned, 5)
    assert propose(client, pruned).url.endswith("/3")
    assert hub.files(NAME, "refs/pr/1")["notes.md"] == b"better"
    assert json.loads(hub.files(NAME, "refs/pr/2")["flab_report.json"])["seed"] != 5
    repository.requests[2]["status"] = "merged"
    change(pruned, 6)
    assert propose(client, pruned).url.endswith("/4")


def test_what_main_holds_already_is_not_proposed(pruned, hub, client, repository):
    client(push, str(pruned), NAME, **LICENSED).result()
    found = propose(client, pruned)
    assert found.changes.send == () and repository.requests == []


def test_a_push_of_an_earlier_commit_in_main_is_no_pull_request_of_ours(pruned, hub, client, repository):
    client(push, str(pruned), NAME, **LICENSED).result()
    head = repository.branches["main"]
    repository.propose({**repository.commits[head], "notes.md": hub.blob(b"x")}, head, "A typo", "by hand")
    repository.commit("main", {**repository.commits[head], "notes.md": hub.blob(b"y")})
    change(pruned, 5)
    assert propose(client, pruned).url.endswith("/2")
    assert hub.files(NAME, "refs/pr/1")["notes.md"] == b"x"


# --- what commits say


def test_a_commit_says_what_it_brings(pruned, hub, client):
    client(push, str(pruned), NAME, **LICENSED).result()
    change(pruned, 5)
    client(push, str(pruned), NAME, **LICENSED).result()
    message = "Seed 6\n\nIt was luckier."
    change(pruned, 6)
    client(push, str(pruned), NAME, commit_message=message, **LICENSED).result()
    report = json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))
    removed, of_body = report["removed_ratio"], report["removed_body_ratio"]
    said = [(log["title"], log["message"]) for log in hub.repositories[NAME].history("main")]
    signature = said[1][1]
    assert signature.startswith(SIGNATURE)
    assert said[:3] == [
        ("Seed 6", f"It was luckier.\n\n{signature}"),
        ("Update README.md, flab_report.json", signature),
        (f"Upload tiny-qwen2, pruned by {removed:.1%} ({of_body:.1%} of the body)", signature),
    ]


@pytest.mark.parametrize("message", ["", " \n "])
def test_an_empty_message_is_refused_before_any_request(pruned, hub, client, message):
    error = client(push, str(pruned), NAME, commit_message=message, **LICENSED).error
    assert isinstance(error, ConfigurationError) and "commit_message: " in str(error) and hub.requests == []


def test_a_commit_without_weights_names_its_files():
    many = Changes(("README.md", "a.json", "b.json", "c.json"), (), ("merges.txt",), ())
    assert commit_text(None, "Upload", many)[0] == "Update README.md, a.json, b.json and 2 more"
    assert commit_text(None, "Upload", Changes(("model.safetensors",), (), (), ()))[0] == "Upload"
