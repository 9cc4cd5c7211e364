"""Only the files of a model are sent, and what the user names."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hub.client import push
from hub.conftest import evaluation_of
from hub.test_push import LICENSED, NAME, files_there
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.hub.adapter import stage_adapter
from optimum_flab.hub.ownership import BEGIN
from optimum_flab.hub.selection import grouped, is_replaceable, select_files
from optimum_flab.hub.staging import stage


STRAY = {
    "run.log": "x",
    "analysis.ipynb": "{}",
    "flab_evaluation.txt": "dense: /home/somebody/dense",
    "model.gguf": "GGUF",
    "__pycache__/a.pyc": "x",
    "__pycache__/b.pyc": "x",
    "checkpoint-100/optimizer.pt": "x",
    "onnx/config.json": "{}",
    "onnx/LICENSE": "terms",
    ".env": "SECRET=1",
    ".git/config": "x",
    ".cache/huggingface/x.lock": "",
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def test_what_is_not_the_models_stays_behind_and_is_listed(pruned, hub, client):
    own = {path.name for path in pruned.iterdir()}
    write(pruned, STRAY)
    tried = client(push, str(pruned), NAME, dry_run=True, **LICENSED).result()
    assert (
        "not sent: .cache/ (1 file), .env, .git/ (1 file), __pycache__/ (2 files), analysis.ipynb," in tried.to_text()
    )
    pushed = client(push, str(pruned), NAME, **LICENSED).result()
    assert files_there(hub) == own and set(pushed.left) == set(STRAY)
    assert "run.log" in pushed.to_text() and "`include` sends more" in pushed.to_text()


def test_what_the_user_names_is_sent(pruned, hub, client):
    own = {path.name for path in pruned.iterdir()}
    write(pruned, STRAY)
    found = client(push, str(pruned), NAME, include=["*.gguf", "onnx/", "./run.log"], **LICENSED).result()
    named = {"model.gguf", "onnx/config.json", "onnx/LICENSE", "run.log"}
    assert files_there(hub) == own | named and set(found.left) == STRAY.keys() - named
    kept = client(push, str(pruned), NAME, **LICENSED).result()
    assert set(kept.changes.keep) == named | {".gitattributes"} and files_there(hub) == own | named


def test_everything_is_not_what_is_hidden(pruned):
    write(pruned, STRAY)
    found = select_files(pruned, ["*"])
    assert set(found.left) == {".env", ".git/config", ".cache/huggingface/x.lock"}
    assert ".env" in select_files(pruned, [".env"]).files
    with pytest.raises(ConfigurationError, match="names no file"):
        select_files(pruned, [".git/*"])


def test_what_lies_in_a_folder_of_ours_is_not_replaced_with_it(tmp_path):
    for folder, own in {"adapter": "adapter_model.safetensors", "additional_chat_templates": "tool.jinja"}.items():
        write(tmp_path, {f"{folder}/{own}": "ours"})
        assert is_replaceable(tmp_path / folder)
        for mine in ("thesis.txt", "below/thesis.txt"):
            write(tmp_path, {f"{folder}/{mine}": "mine"})
            assert not is_replaceable(tmp_path / folder)
            (tmp_path / folder / mine).unlink()
        (tmp_path / folder / "below").rmdir()
    (tmp_path / "notes").mkdir()
    assert not is_replaceable(tmp_path / "notes")
    for name in ("license.key", "noticed.py", "license_server.txt"):
        assert not is_replaceable(tmp_path / name)


def test_a_folder_and_a_name_with_brackets_are_named_as_they_are(pruned):
    write(pruned, {"notes/a.md": "a", "notes/b/c.md": "c", "[x].md": "x", "x.md": "no"})
    for pattern, named in {"notes": {"notes/a.md", "notes/b/c.md"}, "[x].md": {"[x].md"}, "[xy].md": {"x.md"}}.items():
        assert select_files(pruned, [pattern]).files.keys() - select_files(pruned, []).files.keys() == named


@pytest.mark.parametrize("pattern", ["nothing.md", "*.md5", "/etc/passwd", "../*", ""])
def test_a_pattern_that_names_nothing_is_refused_before_any_request(pruned, hub, client, pattern):
    error = client(push, str(pruned), NAME, include=[pattern], **LICENSED).error
    assert isinstance(error, ConfigurationError) and f"include: {pattern!r}" in str(error) and hub.requests == []


# --- links


@pytest.fixture
def outside(tmp_path):
    write(tmp_path / "outside", {"secret.txt": "secret", "deep/er.txt": "secret"})
    return tmp_path / "outside"


def test_a_link_out_of_the_folder_is_followed_only_if_it_is_named(pruned, outside):
    (pruned / "notes.txt").symlink_to(outside / "secret.txt")
    (pruned / "data").symlink_to(outside, target_is_directory=True)
    (pruned / "gone").symlink_to(outside / "not-there")
    found = select_files(pruned, ["*.json", "*"])
    assert found.left == ("data/", "notes.txt")
    with pytest.raises(ConfigurationError, match="need their full name"):
        select_files(pruned, ["notes.*"])
    named = select_files(pruned, ["notes.txt"])
    assert named.files["notes.txt"].read_text(encoding="utf-8") == "secret" and named.left == ("data/",)
    with pytest.raises(ConfigurationError, match="names no file.*not entered"):
        select_files(pruned, ["data/*"])


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "config.json", "model.safetensors"])
def test_a_file_of_the_model_that_is_a_link_out_of_the_folder_is_refused(pruned, outside, name):
    shutil.move(pruned / name, outside / name)
    (pruned / name).symlink_to(outside / name)
    with pytest.raises(
        ConfigurationError, match=f"{name} in .* is a link that leads out of the folder.*`include` {name}"
    ):
        stage(pruned, NAME)
    assert name in stage(pruned, NAME, include=[name]).files


def test_links_within_the_folder_and_to_the_folder_are_followed(pruned, tmp_path):
    shutil.move(pruned / "LICENSE", pruned / "terms.txt")
    (pruned / "LICENSE").symlink_to("terms.txt")
    (tmp_path / "link").symlink_to(pruned, target_is_directory=True)
    found = select_files(tmp_path / "link")
    assert "LICENSE" in found.files and found.left == ("terms.txt",)


def test_in_the_cache_of_the_hub_a_model_is_links(pruned, tmp_path):
    root = tmp_path / "models--me--tiny"
    (root / "blobs").mkdir(parents=True)
    folder = root / "snapshots" / "abc"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(pruned.iterdir())):
        shutil.copy(path, root / "blobs" / str(number))
        (folder / path.name).symlink_to(os.path.relpath(root / "blobs" / str(number), folder))
    assert set(select_files(folder).files) == {path.name for path in pruned.iterdir()}
    (tmp_path / "other").write_text("secret", encoding="utf-8")
    (folder / "LICENSE").unlink()
    (folder / "LICENSE").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="leads out of the folder"):
        select_files(folder)


def test_an_adapter_that_is_a_link_out_of_the_folder_is_refused(recovered, tmp_path):
    weights = recovered / "adapter" / "adapter_model.safetensors"
    shutil.move(weights, tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    with pytest.raises(ConfigurationError, match="leads out of the folder"):
        stage_adapter(recovered, "me/lora", "me/tiny")


def test_an_adapter_is_sent_alone(recovered, hub, client):
    error = client(push, str(recovered), "me/lora", adapter_of=NAME, include=["*"]).error
    assert isinstance(error, ConfigurationError) and "pushed alone" in str(error)
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(stage(recovered, NAME).left)


# --- what the summary says


def test_a_card_that_shows_a_picture_that_stays_behind_says_so(pruned):
    write(pruned, {"images/plot.png": "x"})
    path = pruned / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace(BEGIN, f"{BEGIN}\n![mine](images/plot.png)"))
    assert any("images/ (1 file), not sent" in note for note in stage(pruned, NAME).notes)
    assert not any("not sent" in note for note in stage(pruned, NAME, include=["images/*"]).notes)


@given(st.lists(st.from_regex(r"[a-c](/[a-c]){0,2}", fullmatch=True), unique=True, min_size=1, max_size=30))
def test_every_file_is_counted_once(paths):
    text = grouped(paths)
    counted = sum(int(part.split("(")[1].split()[0]) if "(" in part else 1 for part in text.split(", "))
    assert counted == len(paths)


def test_a_long_list_is_cut():
    assert grouped([f"{number:03d}" for number in range(20)]).endswith("011 and 8 more")


# --- what only looks like a file of the model

LOOKALIKES = (
    *("license.key", "LICENSE_PASSWORD.txt", "licenses.sqlite", "noticeboard.db", "copying_notes.md", "LICENSE.swp"),
    *("license~", "use_policy_draft.md", "LICENSE-TOKEN", "notice.json", "LICENSE.txt.orig", "license_key.txt"),
    *("vocab.txt", "merges.txt", "vocab.json", "tokenizer.model", "spiece.model"),
)
TERMS = (
    *("LICENCE", "license.txt", "License.md", "NOTICE", "Notice.txt", "COPYING", "USE_POLICY.md", "LICENSE.pdf"),
    *("LICENSE-MIT", "LICENSE_APACHE-2.0.txt", "LICENSE-MODEL", "LICENSE-CODE", "license.rst", "NOTICE.html"),
)


def test_what_only_looks_like_a_file_of_the_model_stays_behind(pruned):
    write(pruned, dict.fromkeys((*LOOKALIKES, *TERMS), "x"))
    found = select_files(pruned)
    assert set(found.left) == set(LOOKALIKES) and set(TERMS) <= set(found.files)
    assert set(LOOKALIKES) <= set(select_files(pruned, LOOKALIKES).files)
    assert "LICENSE-MIT" in (card := stage(pruned, NAME).card) and "license.key" not in card


def test_results_of_other_weights_stay_behind(pruned, report):
    foreign = evaluation_of({**report, "weights_sha256": "e" * 64})
    write(
        pruned,
        {
            "flab_evaluation.json": json.dumps(evaluation_of(report)),
            "flab_evaluation-2.json": json.dumps(foreign),
            "flab_evaluation-3.json": "{}",
        },
    )
    with pytest.raises(FlabError, match="flab_evaluation-3.json.*models: Field required"):
        stage(pruned, NAME)
    (pruned / "flab_evaluation-3.json").unlink()
    staged = stage(pruned, NAME)
    assert "flab_evaluation.json" in staged.files and staged.left == ("flab_evaluation-2.json",)
    assert any("flab_evaluation-2.json is an evaluation of other weights" in note for note in staged.notes)
    assert "flab_evaluation-2.json" in stage(pruned, NAME, include=["*-2.json"]).files


SECRETS = (
    *(
        "id_rsa",
        "id_ed25519.pub",
        "server.pem",
        "LICENSE_PASSWORD.txt",
        "sub/private.key",
        "token",
        "hf_token.txt",
        ".netrc",
        "secrets.json",
    ),
    *("credentials", "sub/credentials.yaml", "Secret.txt", "key.p12", "id_ecdsa", "sub/.env", ".env.local", "_netrc"),
)


def test_secrets_are_sent_only_if_each_is_named(pruned):
    write(pruned, {**dict.fromkeys(SECRETS, "secret"), "tokens.md": "x", "keys.txt": "x"})
    write(pruned, {".mine": "x", "sub/a.md": "x"})
    for patterns in (["*"], ["*", ".*", "sub/", "sub/*"], ["*k*", "s*", "*e*"]):
        found = select_files(pruned, patterns)
        assert not set(SECRETS) & set(found.files) and found.secret
        assert set(SECRETS) <= set(found.left) and "tokens.md" in found.files
    with pytest.raises(ConfigurationError, match="server.pem looks like a secret.*`include` server.pem"):
        select_files(pruned, ["*.pem"])
    assert set(SECRETS) <= set(select_files(pruned, SECRETS).files)
    staged = stage(pruned, NAME, include=["*"])
    assert any("id_rsa" in note and "look like secrets" in note and "named in full" in note for note in staged.notes)
    assert not any("look like secrets" in note for note in stage(pruned, NAME, include=["keys.txt"]).notes)
