"""A trimmed model is published as it is, with a card that says what stayed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import TEXTS, byte_level_tokenizer, flab, tiny_model
from gguf_writer import write_random_gguf
from hub.card_rules import card_errors
from hub.faults import talking_to
from hub.loopback import Hub
from transformers import CONFIG_MAPPING

from optimum_flab import FlabError, TrimSettings
from optimum_flab.hub.frame import BEGIN, metadata_of
from optimum_flab.hub.push import push_to_hub
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.tensors.stored import tensor_hashes
from optimum_flab.trim.run import trim


NAME = "me/tiny"
LICENSED = {"license": "apache-2.0", "base_model": "someone/tiny"}
SIZES = {
    **{"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    with Hub().serving() as server, talking_to(server, str(tmp_path_factory.mktemp("hub"))):
        yield server


@pytest.fixture
def hub(serving):
    serving.reset()
    return serving


@pytest.fixture
def trimmed(tmp_path: Path) -> Path:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    source = tmp_path / "tiny.gguf"
    write_random_gguf(source, "llama", CONFIG_MAPPING["llama"](**SIZES), byte_level_tokenizer(600), head=True)
    data = {"validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000, "sequence_length": 64}
    corpus = [str(tmp_path / "texts.jsonl")]
    vocabulary = {"keep_merges": 0, "coverage": 1.0}
    trim(source, tmp_path / "out", TrimSettings(data={**data, "corpus": corpus}, vocabulary=vocabulary))
    return tmp_path / "out"


def test_all_that_was_written_is_sent_with_a_card_that_says_what_stayed(trimmed, hub):
    pushed = push_to_hub(trimmed, NAME, **LICENSED)
    files = hub.files(NAME)
    assert {path.name for path in trimmed.iterdir()} <= files.keys() == pushed.files.keys() | {".gitattributes"}
    assert files["tiny-trimmed.gguf"] == (trimmed / "tiny-trimmed.gguf").read_bytes()
    card, report = files["README.md"].decode(), Checkpoint(trimmed).trim
    assert "Every other weight is the original's, byte for byte" in card and report.copied_sha256 in card
    headings = re.findall(r"^(?:## |<details>|\*\*)([\w ]*)", card, re.MULTILINE)
    assert headings == ["What to expect", "Licence", "How to use it", "Limits", "Citation", ""]
    shown, _, folded = card.partition("<details>")
    assert "llama-cli -m tiny-trimmed.gguf" in shown and "AutoModel" not in card
    assert report.copied_sha256 in folded and card_errors(card) == []
    data = metadata_of(card)
    assert data["license"] == "apache-2.0" and data["base_model"] == "someone/tiny" and "gguf" in data["tags"]
    assert str(trimmed.parent) not in "".join(content.decode("utf-8", "replace") for content in files.values())
    title, _ = hub.repositories[NAME].titles[hub.repositories[NAME].branches["main"]]
    assert title == f"Upload tiny.gguf, trimmed from 600 to {report.tokens_after} tokens"
    again = push_to_hub(trimmed, NAME, **LICENSED)
    assert again.url == pushed.url


def test_what_a_user_wrote_into_the_card_stays(trimmed, hub):
    card = trimmed / "README.md"
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\nWritten by me."))
    push_to_hub(trimmed, NAME, **LICENSED)
    assert "Written by me." in hub.files(NAME)["README.md"].decode()


def test_the_card_is_written_anew_with_a_licence(trimmed):
    done = flab("card", "-m", trimmed, "--license", "mit", "--base-model", "someone/tiny")
    assert done.code == 0, done.err
    card = (trimmed / "README.md").read_text()
    assert metadata_of(card)["license"] == "mit" and "someone/tiny" in card
    (trimmed / "README.md").write_text("mine")
    assert flab("card", "-m", trimmed).code == 1 and (trimmed / "README.md").read_text() == "mine"


def test_files_that_were_changed_since_are_not_sent(trimmed, hub):
    path = trimmed / "tiny-trimmed.gguf"
    content = bytearray(path.read_bytes())
    content[-64] ^= 1
    path.write_bytes(content)
    with pytest.raises(FlabError, match="were changed since"):
        push_to_hub(trimmed, NAME, **LICENSED)
    path.unlink()
    with pytest.raises(FlabError, match="lacks tiny-trimmed.gguf"):
        push_to_hub(trimmed, NAME, **LICENSED)
    assert hub.state(NAME) is None


def test_a_model_of_the_hub_is_trimmed_and_one_without_safetensors_refused(hub, tmp_path):
    tokenizer = byte_level_tokenizer(600)
    folder = tmp_path / "dense"
    tiny_model("qwen2", vocab_size=600).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("someone/tiny", files)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    settings = TrimSettings(
        data={
            **{"validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000, "sequence_length": 64},
            "corpus": [str(tmp_path / "texts.jsonl")],
        },
        vocabulary={"keep_merges": 0, "coverage": 1.0},
    )
    report = trim("someone/tiny", tmp_path / "out", settings)
    assert report.base_model == "someone/tiny"
    assert report.base_revision == hub.repositories["someone/tiny"].branches["main"]
    assert (
        tensor_hashes([tmp_path / "out" / "model.safetensors"]).keys()
        == tensor_hashes([folder / "model.safetensors"]).keys()
    )
    hub.add("someone/pickled", {name: files[name] for name in files if name != "model.safetensors"})
    with pytest.raises(FlabError, match="'someone/pickled' has no model.safetensors, and only safetensors and GGUF"):
        trim("someone/pickled", tmp_path / "no", settings)
    assert not (tmp_path / "no").exists()
