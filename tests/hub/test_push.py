from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard

from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.hub.card import render_card, write_card
from optimum_flab.hub.push import card_to_push, check_pruned_folder, files_to_push, push_to_hub
from optimum_flab.report import HeldOut


REPORT = {
    "base_model": {"name": "someone/some-model", "revision": "0123abc"},
    "dense": {
        "parameters": 5000,
        "components": {
            "vocabulary": {"parameters": 1000, "bytes": 4000},
            "ffn": {"parameters": 4000, "bytes": 16000},
            "other": {"parameters": 0, "bytes": 0},
        },
    },
    "pruned": {
        "parameters": 4250,
        "components": {
            "vocabulary": {"parameters": 250, "bytes": 1000},
            "ffn": {"parameters": 4000, "bytes": 16000},
            "other": {"parameters": 0, "bytes": 0},
        },
    },
    "held_out": asdict(HeldOut(3, 900, 200, 180, 210, 1, 0.0712345, 0.001, 0.41, 0.45)),
}


@pytest.fixture
def pruned(tmp_path):
    folder = tmp_path / "pruned"
    folder.mkdir()
    for name in ("config.json", "flab_plan.json", "flab_config.json", "tokenizer.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "LICENSE").write_text("terms", encoding="utf-8")
    (folder / "flab_report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("x", encoding="utf-8")
    return folder


def test_the_card_reads_back_with_its_metadata(pruned):
    card = ModelCard.load(write_card(pruned))
    assert card.data.to_dict() == {
        "base_model": "someone/some-model",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["flab-pruner", "pruned", "code"],
    }
    assert card.content.startswith("---\n")
    assert "[someone/some-model](https://huggingface.co/someone/some-model) at revision `0123abc`" in card.text
    assert "| vocabulary | 1,000 | 250 | 75.0% |" in card.text
    assert "| total | 5,000 | 4,250 | 15.0% |" in card.text
    assert "| other | 0 | 0 | – |" in card.text
    assert "| divergence from the dense model (nats per token) | 0.07123 |" in card.text
    assert "| bits per byte, pruned | 0.45 |" in card.text
    assert "not measured" not in card.text and "not recorded" not in card.text
    assert 'from_pretrained("path/to/this/folder")' in card.text and "# `some-model`, pruned" in card.text
    assert "see `LICENSE`" in card.text


@pytest.mark.parametrize(
    "report", [None, {}, {"dense": 3, "pruned": {"components": 3}, "held_out": [], "base_model": "x"}]
)
def test_a_card_without_measurements_says_so(pruned, report):
    (pruned / "flab_report.json").unlink()
    if report is not None:
        (pruned / "flab_report.json").write_text(json.dumps(report), encoding="utf-8")
    card = ModelCard.load(write_card(pruned))
    assert card.data.base_model is None
    assert "Not recorded: the report lists no parameter counts." in card.text
    assert card.text.count("| not measured |") == 5


def test_a_card_does_not_depend_on_the_name_of_its_folder(pruned):
    before = str(render_card(pruned))
    assert str(render_card(pruned.rename(pruned.with_name(".other-name")))) == before


@pytest.mark.parametrize("name", ["/home/me/private/model", "./model", "models/a/b", "model.gguf", "gone\\model", 7])
def test_a_local_base_model_is_named_without_its_path(pruned, name):
    (pruned / "flab_report.json").write_text(json.dumps({"base_model": {"name": name}}), encoding="utf-8")
    card = render_card(pruned, "me/model-flab")
    assert "base_model" not in card.data.to_dict()
    assert "/home/me" not in card.content
    assert "# model-flab" in card.text and 'from_pretrained("me/model-flab")' in card.text


def test_a_local_folder_that_looks_like_a_hub_id_is_not_taken_for_one(pruned, tmp_path, monkeypatch):
    (tmp_path / "someone" / "some-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in render_card(pruned).data.to_dict()


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_broken_report_is_refused_by_name(pruned, content):
    (pruned / "flab_report.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(FlabError, match=r"flab_report\.json"):
        render_card(pruned)


def test_hidden_files_stay_behind(pruned):
    assert [path.name for path in files_to_push(pruned)] == sorted(
        path.name for path in pruned.iterdir() if path.is_file()
    )
    assert not [path for path in files_to_push(pruned) if path.name == "secret"]


@pytest.mark.parametrize("missing", ["config.json", "flab_plan.json", "model.safetensors"])
def test_a_folder_that_lacks_a_part_is_refused(pruned, missing):
    check_pruned_folder(pruned)
    (pruned / missing).unlink()
    with pytest.raises(ConfigurationError, match=f"since {missing} is missing"):
        push_to_hub(pruned, "me/model")
    assert not (pruned / "README.md").exists()


def test_every_missing_part_and_shard_is_named(pruned):
    (pruned / "model.safetensors").rename(pruned / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    (pruned / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (pruned / "config.json").unlink()
    with pytest.raises(ConfigurationError, match=r"since config.json, model-2.safetensors is missing"):
        check_pruned_folder(pruned)
    (pruned / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"is not a list of weight files"):
        check_pruned_folder(pruned)


@pytest.mark.parametrize("name", ["", "a/b/c", "me/über model", "me/--", "../x"])
def test_a_repository_name_that_is_none_is_refused(pruned, name):
    with pytest.raises(ConfigurationError) as caught:
        push_to_hub(pruned, name)
    assert repr(name) in str(caught.value)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one push of small files needs; it keeps what it was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.requests.append((self.path, token))
        if token != self.server.token:
            return self.reply(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            return self.reply(200, {"url": f"{self.server.url}/me/model"})
        if self.path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if self.path.startswith("/api/models/me/model/branch/"):
            return self.reply(200, {})
        if self.path.startswith("/api/models/me/model/preupload/"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if self.path.startswith("/api/models/me/model/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.commits.append(
                {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
            )
            url = f"{self.server.url}/me/model/commit/{'0' * 40}"
            return self.reply(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})
        return self.reply(404, {"error": self.path})

    def reply(self, code, value):
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.token, server.requests, server.commits = "hf_right", [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(hub, tmp_path, *arguments, token="hf_right") -> subprocess.CompletedProcess:
    # A process of its own: huggingface_hub reads the address of the Hub when it is imported.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    if token:
        environment["HF_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", "push", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_push_is_one_commit_of_every_file_with_a_card(pruned, hub, tmp_path):
    result = push(hub, tmp_path, pruned, "me/model", "--revision", "pruned")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{hub.url}/me/model/commit/{'0' * 40}"
    (commit,) = hub.commits
    card = commit.pop("README.md").decode()
    assert commit == {path.name: path.read_bytes() for path in pruned.iterdir() if path.is_file()}
    paths = [path for path, _ in hub.requests]
    assert paths.index("/api/models/me/model/branch/pruned") < paths.index("/api/models/me/model/commit/pruned")
    assert "base_model: someone/some-model" in card and 'from_pretrained("me/model")' in card


def test_the_card_that_pruning_wrote_is_made_out_to_the_repository(pruned):
    written = write_card(pruned).read_bytes()
    assert card_to_push(pruned, "me/model") == str(render_card(pruned, "me/model")).encode() != written
    (pruned / "README.md").unlink()
    assert card_to_push(pruned, "me/model") == str(render_card(pruned, "me/model")).encode()


def test_a_card_that_was_edited_is_pushed_as_it_is(pruned, hub, tmp_path):
    (pruned / "README.md").write_text("# mine\n", encoding="utf-8")
    assert push(hub, tmp_path, pruned, "me/model").returncode == 0
    assert hub.commits[0]["README.md"] == b"# mine\n"
    assert not [path for path, _ in hub.requests if "/branch/" in path]


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_push_without_the_right_token_says_what_to_do_and_does_not_show_the_token(pruned, hub, tmp_path, token):
    result = push(hub, tmp_path, pruned, "me/model", token=token)
    assert result.returncode == 1
    assert "HF_TOKEN gives a token that may write there" in result.stderr
    assert "Traceback" not in result.stderr and "hf_wrong" not in result.stderr + result.stdout
    assert hub.commits == []


def test_a_hub_that_cannot_be_reached_is_an_error_of_the_connection(pruned, hub, tmp_path):
    hub.shutdown()
    hub.server_close()
    result = push(hub, tmp_path, pruned, "me/model")
    assert result.returncode == 1
    assert "check the connection" in result.stderr and "Traceback" not in result.stderr
