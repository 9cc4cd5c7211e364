"""Pushes of a real tiny checkpoint with the real client to a Hub on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub.client import RIGHT, execute, load, push, push_constant, tensor_bytes
from hub.faults import REPOSITORY, SCENARIOS, STAGED, requests_of
from hub.loopback import Repository
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file

from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.hub.changes import RemoteFile, Target, changes_between
from optimum_flab.hub.conversation import Conversation, card_reader
from optimum_flab.hub.failures import scrubbed, told
from optimum_flab.hub.ownership import MARKED
from optimum_flab.hub.permissions import check_may_push, check_revision


NAME = "me/tiny-flab"
LICENSED = {"base_model": "someone/tiny"}


def files_there(hub, name=NAME, revision="main"):
    return set(hub.files(name, revision)) - {".gitattributes"}


def test_a_push_comes_back_bit_for_bit_and_the_printed_code_runs(pruned, hub, client):
    found = client(push, str(pruned), NAME, private=True, **LICENSED)
    pushed = found.result()
    assert pushed.url == f"{hub.url}/{NAME}/commit/{hub.repositories[NAME].branches['main']}"
    assert hub.repositories[NAME].private
    assert files_there(hub) == {path.name for path in pruned.iterdir()}
    commits = [path for _, path in hub.requests if "/commit/" in path]
    assert commits == [f"/api/models/{NAME}/commit/main"] == [hub.requests[-1][1]]
    assert any(path.startswith("/lfs/") for _, path in hub.requests)
    assert "model.safetensors" in found.output  # progress

    there = client(load, NAME).result()
    local = load_file(pruned / "model.safetensors")
    for name, tensor in local.items():
        assert there["weights"][name] == tensor_bytes(tensor)
    tokens = json.loads((pruned / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert tokens.items() <= there["tokens"].items()

    card = hub.files(NAME)["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert f'"{NAME}"' in code
    ran = client(execute, code)
    ran.result()
    assert "def fibonacci(n):" in ran.output


def test_the_printed_chat_runs(pruned, hub, client):
    client(push, str(pruned), NAME, revision="v1", **LICENSED).result()
    card = hub.files(NAME, "v1")["README.md"].decode()
    first, chat = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "apply_chat_template" in chat and f"vllm serve {NAME} --revision v1\n" in card
    client(execute, first + chat).result()


def test_a_second_push_of_the_same_changes_nothing(pruned, hub, client):
    client(push, str(pruned), NAME, **LICENSED).result()
    before = hub.state(NAME)
    again = client(push, str(pruned), NAME, **LICENSED).result()
    assert again.changes.send == () and hub.state(NAME) == before
    assert len(hub.repositories[NAME].commits) == 2


def test_an_update_removes_the_old_checkpoint_and_keeps_what_the_user_put_there(pruned, hub, client):
    old = {
        "model-00001-of-00002.safetensors": b"x" * 20_000,
        "model.safetensors.index.json": b"{}",
        "vocab.json": b"{}",
        "flab_layers.png": b"x",
        "flab_evaluation-2.json": b"{}",
        "flab_training_curve.png": b"mine",
        "flab_notes/mine.json": b"mine",
        "model-a/b-of-c.safetensors": b"mine",
        "model-old-of-mine.safetensors": b"mine",
        "notes.md": b"mine",
        "images/plot.png": b"mine",
        "onnx/model.safetensors": b"mine",
        ".gitattributes": b"x",
    }
    hub.add(NAME, old)
    pushed = client(push, str(pruned), NAME, **LICENSED).result()
    kept = {"notes.md", "images/plot.png", "onnx/model.safetensors", ".gitattributes", "flab_training_curve.png"}
    kept |= {"flab_notes/mine.json", "model-a/b-of-c.safetensors", "model-old-of-mine.safetensors"}
    new = {path.name for path in pruned.iterdir()}
    assert set(hub.files(NAME)) == new | kept
    assert set(pushed.changes.keep) == kept and set(pushed.changes.delete) == old.keys() - kept - new
    text = pushed.to_text()
    assert "  - vocab.json" in text and "  = notes.md (kept)" in text
    assert hub.files(NAME)["notes.md"] == b"mine"


def test_a_dry_run_sends_nothing(pruned, hub, client):
    found = client(push, str(pruned), NAME, dry_run=True, **LICENSED).result()
    assert found.url is None and "nothing was sent" in found.to_text() and "README.md" in found.changes.send
    assert hub.state(NAME) is None
    assert {method for method, path in hub.requests if path != "/api/validate-yaml"} == {"GET"}


@pytest.mark.parametrize("create_pr", [False, True])
def test_a_dry_run_without_a_token_checks_all_but_the_account(pruned, hub, client, create_pr):
    hub.add(NAME, {"notes.md": b"mine"})
    found = client(push, str(pruned), NAME, dry_run=True, create_pr=create_pr, token=None, **LICENSED).result()
    assert "README.md" in found.changes.send and found.changes.keep == ("notes.md",)
    assert f"note: there is no token for the Hub, so whether you may push to {NAME} was not checked" in found.to_text()
    assert not any("whoami" in path for _, path in hub.requests)
    assert not client(push, str(pruned), "me/new", dry_run=True, token=None, **LICENSED).result().target.exists
    for name, asked, message in (
        ("me/new", {"create_pr": True}, "nothing to propose"),
        (NAME, {"private": True}, "exists and is public"),
    ):
        assert message in str(client(push, str(pruned), name, dry_run=True, token=None, **asked, **LICENSED).error)
    refused = client(push, str(pruned), "model", dry_run=True, token=None, **LICENSED).error
    assert isinstance(refused, ConfigurationError) and "write OWNER/model" in str(refused)
    (pruned / "model.safetensors").write_bytes(b"damaged")
    assert "model.safetensors" in str(client(push, str(pruned), NAME, dry_run=True, token=None, **LICENSED).error)


def test_a_branch_starts_from_main_and_main_stays(pruned, hub, client):
    hub.add(NAME, {"notes.md": b"mine"})
    client(push, str(pruned), NAME, revision="v1/x", **LICENSED).result()
    assert files_there(hub) == {"notes.md"}
    assert files_there(hub, revision="v1/x") == {path.name for path in pruned.iterdir()} | {"notes.md"}
    client(push, str(pruned), NAME, revision="v1/x", **LICENSED).result()
    assert len(hub.repositories[NAME].commits) == 2


def test_the_printed_code_of_a_branch_loads_the_branch(pruned, hub, client):
    client(push, str(pruned), NAME, revision="v1", **LICENSED).result()
    card = hub.files(NAME, "v1")["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert code.count(f'("{NAME}", revision="v1")') == 2
    client(execute, code).result()


def test_the_same_is_proposed_once(pruned, hub, client):
    hub.add(NAME, {"notes.md": b"mine"})
    hub.add("other/model", {"notes.md": b"theirs"})
    first = client(push, str(pruned), NAME, create_pr=True, **LICENSED).result()
    assert first.url == f"{hub.url}/{NAME}/discussions/1" and files_there(hub) == {"notes.md"}
    tried = client(push, str(pruned), NAME, create_pr=True, dry_run=True, **LICENSED).result()
    assert tried.url is None and tried.changes.send == () and first.url in tried.to_text()
    again = client(push, str(pruned), NAME, create_pr=True, **LICENSED).result()
    assert again.url == first.url and len(hub.repositories[NAME].requests) == 1
    hub.repositories[NAME].requests[0]["status"] = "closed"
    assert client(push, str(pruned), NAME, create_pr=True, **LICENSED).result().url.endswith("/2")
    assert client(push, str(pruned), "other/model", create_pr=True, **LICENSED).result().url.endswith("/1")


def test_an_organisation_and_a_name_without_an_owner(pruned, hub, client):
    client(push, str(pruned), "team/model", **LICENSED).result()
    assert client(push, str(pruned), "model", **LICENSED).result().target.repo_id == "me/model"
    assert set(hub.repositories) == {"team/model", "me/model"}


def test_the_licence_is_read_from_the_base_models_card(pruned, hub, client):
    report = json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))
    report["base_model"] |= {"name": "someone/tiny", "revision": None, "card": None}
    (pruned / "flab_report.json").write_text(json.dumps(report), encoding="utf-8")
    (pruned / "README.md").unlink()
    base = hub.add("someone/tiny", {"README.md": b"---\nlicense: mit\nlanguage: en\n---\n# tiny\n"})
    client(push, str(pruned), NAME, base_model="someone/tiny").result()
    card = hub.files(NAME)["README.md"].decode()
    assert "license: mit" in card and "- en" in card and "base_model: someone/tiny" in card
    base.gated = True
    hub.add("someone/gated", {"README.md": b"x"}).gated = True
    refused = client(push, str(pruned), "me/other", base_model="someone/gated").error
    assert (
        isinstance(refused, ConfigurationError)
        and "it is gated" in str(refused)
        and "me/other" not in hub.repositories
    )


# --- refused


@pytest.mark.parametrize("name", ["", "a/b/c", "me/über model", "me/--", "../x"])
def test_a_repository_name_that_is_none(pruned, hub, client, name):
    error = client(push, str(pruned), name).error
    assert isinstance(error, ConfigurationError) and repr(name) in str(error) and hub.requests == []


@pytest.mark.parametrize(
    ("revision", "create_pr", "message"),
    [
        ("v1", True, "contradicts"),
        ("0" * 40, False, "cannot be changed"),
        ("a b", False, "not a name"),
        ("-x", False, "not a name"),
        ("a..b", False, "not a name"),
        ("HEAD", False, "not a branch"),
        ("refs/pr/7", False, "not a branch"),
    ],
)
def test_a_revision_that_one_cannot_push_to(revision, create_pr, message):
    with pytest.raises(ConfigurationError, match=message):
        check_revision(revision, create_pr)
    check_revision("feature/v1.0", False)
    check_revision("main", True)


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "there is no token"), ("hf_reader000", "token is read-only"), ("hf_unknown00", "HF_TOKEN")],
)
def test_a_token_that_may_not_write_is_reported_before_staging(pruned, hub, client, token, message):
    (pruned / "model.safetensors").write_bytes(b"damaged")  # which staging would report
    found = client(push, str(pruned), NAME, token=token, **LICENSED)
    assert isinstance(found.error, FlabError) and message in str(found.error)
    assert hub.state(NAME) is None and (token is None or token not in found.output + str(found.error))


@pytest.mark.parametrize("name", ["somebody/model", "watched/model"])
def test_a_namespace_where_one_may_not_write(pruned, hub, client, name):
    error = client(push, str(pruned), name, **LICENSED).error
    assert "may not write (it may as me, team)" in str(error) and name not in hub.repositories


def test_what_a_target_does_not_allow(pruned, hub, client):
    repository = hub.add(NAME, {"notes.md": b"x"})
    repository.tags["v1"] = repository.branches["main"]
    assert "exists and is public" in str(client(push, str(pruned), NAME, private=True, **LICENSED).error)
    assert "is a tag" in str(client(push, str(pruned), NAME, revision="v1", **LICENSED).error)
    assert "nothing to propose to" in str(client(push, str(pruned), "me/new", create_pr=True, **LICENSED).error)
    assert not any(method == "PUT" or "/commit/" in path for method, path in hub.requests)


def test_a_card_on_the_hub_that_somebody_wrote_stays(pruned, hub, client):
    hub.add(NAME, {"README.md": b"# theirs\n"})
    error = client(push, str(pruned), NAME, **LICENSED).error
    assert isinstance(error, ConfigurationError) and "`overwrite_card`" in str(error)
    assert hub.files(NAME) == {"README.md": b"# theirs\n"}
    client(push, str(pruned), NAME, overwrite_card=True, **LICENSED).result()
    assert b"optimum-flab" in hub.files(NAME)["README.md"]


def test_a_gitignore_that_would_keep_the_weights_out(pruned, hub, client):
    hub.add(NAME, {".gitignore": b"*.safetensors"})
    error = client(push, str(pruned), NAME, **LICENSED).error
    assert ".gitignore" in str(error) and "model.safetensors" in str(error)
    assert set(hub.files(NAME)) == {".gitignore"}


def test_metadata_that_the_hub_does_not_accept(pruned, hub, client):
    (pruned / "README.md").write_text("---\nlicense: my-own\n---\n# mine\n", encoding="utf-8")
    error = client(push, str(pruned), NAME).error
    assert isinstance(error, ConfigurationError) and "known identifiers" in str(error) and hub.state(NAME) is None


def test_a_concurrent_change_is_not_overwritten(pruned, hub, client):
    hub.add(NAME, {"notes.md": b"x"})

    def somebody(repository: Repository) -> None:
        hub.before_commit = None
        repository.commit("main", {"notes.md": hub.blob(b"changed")})

    hub.before_commit = somebody
    error = client(push, str(pruned), NAME, **LICENSED).error
    assert "changed by somebody else" in str(error) and hub.files(NAME) == {"notes.md": b"changed"}
    client(push, str(pruned), NAME, **LICENSED).result()
    assert hub.files(NAME)["notes.md"] == b"changed" and "config.json" in hub.files(NAME)


@pytest.mark.parametrize(
    ("files", "hidden", "message"),
    [({"README.md": b"# theirs"}, True, "meanwhile, so"), ({}, False, "meanwhile and is public")],
)
def test_a_repository_that_somebody_else_makes_meanwhile_is_theirs(pruned, hub, client, files, hidden, message):
    add = hub.add

    def somebody(name, _, private=False):
        hub.add = add
        return add(name, {".gitattributes": b"x", **files}, hidden)

    hub.add = somebody
    error = client(push, str(pruned), NAME, private=True, **LICENSED).error
    assert message in str(error) and "again" in str(error)
    assert hub.files(NAME) == {".gitattributes": b"x", **files}


@pytest.mark.parametrize(
    ("fault", "lasting", "messages", "branches"),
    [
        ("403", False, ("commit was refused, and me/model is unchanged", "may write there"), {"main"}),
        ("413", False, ("commit was refused, and me/model is unchanged", "again"), {"main"}),
        ("403", True, ("it is not known whether the commit arrived",), {"main", "v1"}),
        ("500", True, ("it is not known whether the commit arrived",), {"main", "v1"}),
    ],
)
def test_a_branch_that_was_made_for_a_refused_commit_is_taken_back(hub, client, fault, lasting, messages, branches):
    scenario = SCENARIOS["a new branch"]
    number = next(n for n, (_, path) in enumerate(requests_of(hub, client, scenario)) if "/commit/" in path)
    scenario.prepare(hub)
    hub.fault, hub.lasting = (number, fault), lasting
    error = client(push_constant, STAGED, REPOSITORY, timeout=0.3, revision="v1").error
    assert all(message in str(error) for message in messages), error
    assert set(hub.repositories[REPOSITORY].branches) == branches


def test_what_cannot_be_taken_back_is_said():
    class Api:
        def delete_branch(self, *arguments, **options):
            raise OSError("no")

    hub, target = Conversation(Api()), Target(NAME, "v1", head="0", files={"notes.md": RemoteFile(1, "x")})
    left = "the new branch v1 held what main holds"
    assert hub.not_committed(target, True, ValueError()) == f"the commit was refused, and {left}"
    late = hub.not_committed(target, True, HTTPError(""))
    assert late == f"no commit had arrived at {NAME} when this was checked, and {left}"
    assert hub.not_committed(target, False, ValueError()) == f"the commit was refused, and {NAME} is unchanged"


def test_a_fine_grained_token_must_be_one_for_the_owner():
    def account(*scoped):
        access = {"role": "fineGrained", "fineGrained": {"global": [], "scoped": list(scoped)}}
        return {"name": "me", "auth": {"accessToken": access}}

    def scope(name, permission):
        return {"entity": {"type": "user", "name": name}, "permissions": ["repo.content.read", permission]}

    target = Target(NAME, "main")
    check_may_push(target, account(scope("me", "repo.write")))
    check_may_push(target, account(scope(NAME, "repo.write")))
    for wrong in (
        account(),
        account(scope("team", "repo.write")),
        account(scope("me", "discussion.write")),
        account({}),
    ):
        with pytest.raises(FlabError, match="fine-grained"):
            check_may_push(target, wrong)


def test_a_base_card_that_cannot_be_read_offline_is_not_said_to_be_missing():
    def offline(*arguments, **options):
        raise LocalEntryNotFoundError("offline mode is enabled")

    api = SimpleNamespace(hf_hub_download=offline)
    text, trouble = card_reader(Conversation(api))("someone/tiny", None)
    assert text is None and "cannot be reached" in trouble and "it has none" not in trouble


def test_offline(pruned, hub, client):
    environment = {"HF_HUB_OFFLINE": "1"}
    found = client(offline_push, str(pruned), NAME, environment=environment)
    assert isinstance(found.error, FlabError) and "offline" in str(found.error).lower() and hub.requests == []


def offline_push(*arguments):
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True  # read from the environment at import
    return push(*arguments)


def test_a_hub_that_cannot_be_reached(pruned, hub, client):
    found = client(unreachable_push, str(pruned), NAME)
    assert "check the connection" in str(found.error) and "Traceback" not in str(found.error)


def unreachable_push(*arguments):
    from huggingface_hub import constants

    constants.ENDPOINT = "http://127.0.0.1:9"
    return push(*arguments)


# --- secrets


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("fault", [None, "500!", "reset!"])
def test_a_token_shows_nowhere(pruned, hub, client, tmp_path, place, fault):
    planted = "hf_plantedPLANTED1234"
    hub.tokens[planted] = "write"
    if fault:
        hub.fault, hub.lasting = (4, fault.removesuffix("!")), True
    (tmp_path / "token").write_text(planted, encoding="utf-8")
    if place == "environment":
        found = client(push, str(pruned), NAME, token=planted, **LICENSED)
    else:
        found = client(push_with_token_file, str(tmp_path / "token"), str(pruned), NAME, token=None, **LICENSED)
    assert (found.error is None) == (fault is None)
    assert planted not in found.output + found.failure + repr(found.error) + str(found.value)
    for path in pruned.rglob("*"):
        assert not path.is_file() or planted.encode() not in path.read_bytes()
    if fault is None:
        assert not any(planted.encode() in content for content in hub.files(NAME).values())
    assert not any(planted.encode() in body for body in hub.bodies)
    assert not any(planted in path for _, path in hub.requests)


def push_with_token_file(path, *arguments, **options):
    from huggingface_hub import constants

    constants.HF_TOKEN_PATH = path
    return push(*arguments, **options)


def test_errors_are_scrubbed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    with pytest.raises(FlabError) as raised, told("x"):
        raise OSError("PUT https://s3.example/x?X-Amz-Signature=abc my-own-token")
    trace = "".join(traceback.format_exception(raised.value))
    assert "Signature" not in trace and "my-own-token" not in trace
    text = "PUT https://s3.example/x?X-Amz-Signature=abc failed with my-own-token and hf_abcdefgh"
    assert scrubbed(text) == "PUT https://s3.example/x failed with *** and ***"


# --- plain values, the command line, the front door


def test_changes_between_a_checkpoint_and_a_repository():
    files = {"README.md": b"card", "config.json": b"{}", "model.safetensors": b"weights"}
    remote = {
        "config.json": RemoteFile(2, "9e26dfeeb6e641a33dae4961196235bdb965b21b"),
        "model.safetensors": RemoteFile(7, "x", "0" * 64),
        "merges.txt": RemoteFile(1, "x"),
        "deep/merges.txt": RemoteFile(1, "x"),
    }
    changes = changes_between(files, remote)
    assert changes.unchanged == ("config.json",) and changes.send == ("README.md", "model.safetensors")
    assert changes.delete == ("merges.txt",) and changes.keep == ("deep/merges.txt",)


def command(hub, tmp_path, *arguments):
    import os

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_TOKEN": RIGHT}
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.thorough
def test_the_command_line_writes_a_card_and_pushes(pruned, hub, tmp_path):
    hub.add("someone/tiny", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    wrote = command(hub, tmp_path, "card", pruned, "--base-model", "someone/tiny", "--repo-id", NAME)
    assert wrote.returncode == 0, wrote.stderr
    assert wrote.stdout.strip() == str(pruned / "README.md")
    assert "base_model: someone/tiny" in (pruned / "README.md").read_text(encoding="utf-8")
    pushed = command(hub, tmp_path, "push", pruned, NAME, "--private")
    assert pushed.returncode == 0, pushed.stderr
    head = hub.repositories[NAME].branches["main"]
    assert pushed.stdout.splitlines()[-1] == f"{hub.url}/{NAME}/commit/{head}"
    assert "base_model: someone/tiny" in hub.files(NAME)["README.md"].decode()


@pytest.mark.thorough
def test_the_command_of_a_pruning_reaches_the_card(pruned, hub, tmp_path):
    dense = json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))["base_model"]["name"]
    corpus = Path(dense).parent / "corpus.jsonl"
    out = tmp_path / "runs" / "out"
    made = command(hub, tmp_path, "prune", "-m", dense, out, "--corpus", corpus, "--no-layers", "--no-ffn")
    assert made.returncode == 0, made.stderr
    told = "optimum-cli flab prune -m tiny-qwen2 out --corpus corpus.jsonl --no-layers --no-ffn"
    assert json.loads((out / "flab_report.json").read_text(encoding="utf-8"))["command"] == told
    assert f"```\n{told}\n```" in (out / "README.md").read_text(encoding="utf-8")


def test_the_command_line_tells_faults_of_usage_from_others(pruned, hub, tmp_path):
    wrong = command(hub, tmp_path, "push", pruned, NAME, "--revision", "v1", "--create-pr")
    assert wrong.returncode == 2 and "contradicts" in wrong.stderr
    named = command(hub, tmp_path, "card", pruned, "--repo-id", "a/b/c")
    assert named.returncode == 2 and "a/b/c" in named.stderr
    (tmp_path / "empty").mkdir()
    other = command(hub, tmp_path, "card", tmp_path / "empty")
    assert other.returncode == 2 and "flab_report.json" in other.stderr and not list((tmp_path / "empty").iterdir())
    (pruned / "model.safetensors").write_bytes(b"damaged")
    damaged = command(hub, tmp_path, "push", pruned, NAME)
    assert damaged.returncode == 1 and "cannot be read" in damaged.stderr and "Traceback" not in damaged.stderr


def test_the_front_door_pushes_a_folder_that_was_pruned(pruned, hub, client):
    found = client(push_loaded, str(pruned), NAME, **LICENSED)
    assert found.result().url and files_there(hub) == {path.name for path in pruned.iterdir()}
    assert "save them to a folder of their own" in str(client(push_changed, str(pruned), NAME, **LICENSED).error)


def test_the_front_door_pushes_what_it_loaded_from_the_hub(recovered, hub, client):
    (recovered / "flab_recovery_loss.png").write_bytes(b"a curve")
    assert (recovered / "flab_plan.safetensors").is_file()
    client(push, str(recovered), NAME, **LICENSED).result()
    other = client(push_loaded, NAME, "me/other").result()
    assert other.notes == () and other.left == ()
    first, second = hub.files(NAME), hub.files("me/other")
    card = first.pop("README.md").decode().replace(NAME, "me/other").replace("# tiny-flab", "# other")
    assert without_mark(second.pop("README.md").decode()) == without_mark(card)
    assert first == second and "flab_recovery_loss.png" in second
    loaded = client(load, "me/other").result()
    weights = load_file(recovered / "model.safetensors")
    assert all(loaded["weights"][name] == tensor_bytes(tensor) for name, tensor in weights.items())
    assert client(push_loaded, "me/other", "me/other").result().changes.send == ()
    assert "save them to a folder of their own" in str(client(push_changed, "me/other", NAME).error)


def without_mark(card):
    return MARKED.sub("", card)


def push_loaded(folder, name, **options):
    from optimum_flab import FlabOptimizer

    return FlabOptimizer.from_pretrained(folder).push_to_hub(name, **options)


def push_changed(folder, name, **options):
    import torch

    from optimum_flab import FlabOptimizer

    optimizer = FlabOptimizer.from_pretrained(folder)
    with torch.no_grad():
        next(optimizer.dense.model.parameters()).add_(1)
    return optimizer.push_to_hub(name, **options)


def test_the_front_door_pushes_what_it_pruned(pruned, hub, client):
    base = json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))["base_model"]["name"]
    assert Path(base).is_dir()
    client(push_applied, base, str(pruned), NAME, **LICENSED).result()
    assert hub.files(NAME)["model.safetensors"] == (pruned / "model.safetensors").read_bytes()
    assert "apache-2.0" in hub.files(NAME)["README.md"].decode()


def push_applied(dense, pruned, name, **options):
    from optimum_flab import FlabOptimizer, PruningPlan

    optimizer = FlabOptimizer.from_pretrained(dense)
    optimizer.apply(PruningPlan.load(pruned))
    return optimizer.push_to_hub(name, **options)
