"""Pruned folders in an environment with transformers 4.57: the same tokens, the same numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.saving import save_checkpoint
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.families import family_for, known_families
from optimum_flab.records.checkpoint import Checkpoint

from . import reader
from .conftest import TEXTS, byte_level_tokenizer, plan_of, tiny_model
from .families.zoo import EVERY, member
from .rope import ROPES, rope_like, rope_of
from .vocabulary.llama_files import write_llama
from .vocabulary.tiny_tokenizers import byte_level, gemma, qwen, unigram, unigram_with_bytes, word_ends, wordpiece


pytestmark = pytest.mark.thorough

LENGTH = 200
OLDER = ("transformers==4.57.*", "tokenizers==0.22.*", "huggingface_hub<1")
# by name: family, rotary embedding, tokenizer, and other fields of the configuration
CASES = {
    "llama": ("llama", "default", "llama-2", {}),
    "llama-linear": ("llama", "linear", byte_level, {}),
    "llama-dynamic": ("llama", "dynamic", "code-llama", {}),
    "llama-yarn": ("llama", "yarn", byte_level, {}),
    "llama-llama3": ("llama", "llama3", byte_level_tokenizer, {"attention_bias": True, "mlp_bias": True}),
    "llama-longrope": ("llama", "longrope", "both-ends", {}),
    "mistral": ("mistral", "default", "legacy", {}),
    "mistral-yarn": ("mistral", "yarn", "no-prefix", {}),
    "qwen2": ("qwen2", "default", qwen, {}),
    "qwen2-sliding": (
        "qwen2",
        "yarn",
        qwen,
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", "default", qwen, {}),
    "qwen3-yarn": ("qwen3", "yarn", byte_level, {}),
    "gemma3": ("gemma3_text", "default", gemma, {}),
    "gemma3-linear": ("gemma3_text", "linear", gemma, {}),
    "unigram": ("llama", "default", unigram, {}),
    "unigram-bytes": ("qwen3", "default", unigram_with_bytes, {}),
    "wordpiece": ("mistral", "default", wordpiece, {}),
    "word-ends": ("llama", "default", word_ends, {}),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    data = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}
    return FlabPrunerConfig(
        data={**data, "corpus": [str(file)]},
        vocabulary={"keep_merges": 0},
        num_hidden_layers=3,
        intermediate_size=32,
        ffn={"multiple_of": 4},
    )


def dense_folder(folder: Path, family, rope, tokenizer, fields) -> None:
    if isinstance(tokenizer, str):
        rows = write_llama(folder, tokenizer).get_vocab_size()
        ids = {"bos_token_id": 1, "eos_token_id": 2}
    else:
        made = tokenizer()
        made.save_pretrained(folder)
        file = folder / "tokenizer_config.json"  # with a setting of Llama 3's
        file.write_text(json.dumps({**json.loads(file.read_text()), "clean_up_tokenization_spaces": True}))
        rows, ids = len(made), {"eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id}
    model = tiny_model(family, rows, rope_parameters=rope_of(family, rope), **ids, **fields)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def pruned(config, tmp_path_factory):
    """A folder by case."""
    folders = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        dense_folder(folder / "dense", *case)
        optimizer = FlabOptimizer.from_pretrained(folder / "dense", device="cpu")
        optimizer.prune(config)
        optimizer.save_pretrained(folder / "out")
        folders[name] = folder / "out"
    return folders


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A folder of packages that come before those of this environment, which has the others."""
    folder = tmp_path_factory.mktemp("older")
    install(folder, *OLDER)
    return folder


def install(folder: Path, *packages: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder]
    run = subprocess.run([*map(str, command), *packages], capture_output=True, text=True, timeout=300, check=False)
    if run.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be installed here: {run.stderr.strip()[-200:]}")


def run_with(packages: Path, *command) -> str:
    environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def found(pruned, older):
    """What transformers 4.57 reads from each folder."""
    run_with(older, reader.__file__, LENGTH, *pruned.values())
    return {name: json.loads(Path(f"{folder}.read").read_text()) for name, folder in pruned.items()}


@pytest.mark.parametrize("name", CASES)
def test_both_read_the_same(name, pruned, found):
    there, here = dict(found[name]), json.loads(json.dumps(reader.read(pruned[name], LENGTH)))
    assert there.pop("version").startswith("4.57.") and reader.__version__.split(".")[0] == "5"
    logits = [torch.tensor(side.pop("logits", ())) for side in (there, here)]
    assert there == here
    assert here["not loaded"] == [] and len(here["ids"]) > len(reader.TEXTS)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


# every kind of rotary embedding with the first model of a family, the default one with the others
MEMBERS = [
    (model_type, number, kind)
    for model_type, options in EVERY.items()
    for number in range(len(options))
    for kind in (ROPES if number == 0 else ["default"])
    if model_type != "phi3" or kind in ("default", "longrope")  # its class allows no other
]


@pytest.fixture(scope="module")
def members(older, tmp_path_factory):
    """By member: the version that its pruned folder says it needs, and what both versions make of it."""
    root, folders = tmp_path_factory.mktemp("members"), {}
    for model_type, number, kind in MEMBERS:
        plain = member(model_type, number).config
        if kind != "default" and not rope_like(plain, kind):
            continue
        # of its heads, only a quarter is turned in some families: for a dynamic one that has to be more than 2 numbers
        sizes = {"hidden_size": 64} if kind == "dynamic" and model_type in ("gpt_neox", "stablelm") else {}
        sizes |= {} if hasattr(plain, "n_positions") else {"max_position_embeddings": 256}
        model = member(model_type, number, vocab_size=400, **{**sizes, **rope_like(plain, kind)})
        folder, family = root / f"{model_type}-{number}-{kind}", family_for(model.config)
        model.config.save_pretrained(folder)
        byte_level_tokenizer(400).save_pretrained(folder)
        removed = family.pruned_layers(model)[0]
        layers = [index for index in range(model.config.num_hidden_layers) if index != removed]
        pruned = operate(model, family, plan_of(list(range(400)), layers, {}))
        save_checkpoint(pruned, AutoTokenizer.from_pretrained(folder), folder / "out", family)
        folders[model_type, number, kind] = folder / "out"
    run_with(older, reader.__file__, 100, *folders.values())
    return {
        one: (
            Checkpoint(folder).transformers,
            json.loads(Path(f"{folder}.read").read_text()),
            reader.read(folder, 100),
        )
        for one, folder in folders.items()
    }


def test_every_family_is_read_the_same_or_said_to_need_version_5(members):
    assert {model_type for model_type, _, _ in members} == set(known_families())
    for one, (needed, there, here) in members.items():
        if needed == "5.0":
            assert "TokenizersBackend does not exist" in there["error"], one
            continue
        assert needed == "4.57" and there.get("error") is None, (one, there)
        logits = [torch.tensor(side.pop("logits")) for side in (there, here)]
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4, msg=lambda found, one=one: f"{one}: {found}")
        assert {**there, "version": None} == {**json.loads(json.dumps(here)), "version": None}, one


def test_the_table_in_the_documentation_is_what_was_found(members):
    text = Path(__file__).parents[1].joinpath("docs", "families.md").read_text(encoding="utf-8")
    table = text.partition("## In transformers 4.57\n")[2].partition("|---|")[2]
    rows = re.findall(r"^\| ([\w, ]+) \| ([\w, ]+) \| .* \|$", table, re.MULTILINE)
    said = {model_type: kinds.split(", ") for named, kinds in rows for model_type in named.split(", ")}
    found = {model_type: [] for model_type in known_families()}
    for (model_type, number, kind), (needed, _, _) in members.items():
        found[model_type] += [kind] * (number == 0 and needed == "4.57")
    assert said == {model_type: kinds or ["none"] for model_type, kinds in found.items()}


def test_what_it_would_read_otherwise_it_refuses(config, older, tmp_path):
    """Gemma 3 with another rotary embedding for the sliding layers, for which it has no words."""
    dense_folder(tmp_path / "dense", "gemma3_text", "default", gemma, {})
    fields = json.loads((tmp_path / "dense" / "config.json").read_text())
    fields["rope_parameters"] = rope_of("gemma3_text", "default", local="linear")
    (tmp_path / "dense" / "config.json").write_text(json.dumps(fields))
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", device="cpu")
    optimizer.prune(config)
    optimizer.save_pretrained(tmp_path / "out")
    run_with(older, reader.__file__, LENGTH, tmp_path / "out")
    read = json.loads((tmp_path / "out.read").read_text())
    assert "TokenizersBackend does not exist" in read["error"]


SENTENCEPIECE = """
import json, sys
from pathlib import Path
import sentencepiece
from transformers import AutoTokenizer, LlamaConfig
from optimum_flab.checkpoints.finding import ModelFiles
from optimum_flab.checkpoints.tokenizer import load_tokenizer
from optimum_flab.vocabulary.files import save_tokenizer
from optimum_flab.vocabulary.files import SAMPLES

folder, texts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts * 5), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=500,
    byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True, minloglevel=2,
)
original = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True}))
config = LlamaConfig(vocab_size=500)
config.save_pretrained(folder)
tokenizer, note = load_tokenizer(ModelFiles("tiny", str(folder), folder), config)
save_tokenizer(tokenizer, folder / "out")
config.save_pretrained(folder / "out")
again = AutoTokenizer.from_pretrained(folder / "out")
for text in [*texts, *SAMPLES]:
    ids = [original.bos_id(), *original.encode(text)]
    assert tokenizer(text)["input_ids"] == again(text)["input_ids"] == ids, text
    assert again.decode(ids, skip_special_tokens=True) == original.decode(ids), text
print(note)
"""


def test_a_sentencepiece_model_alone_is_cut_as_sentencepiece_cuts(tmp_path):
    """With the packages that read one, which are no dependencies."""
    install(tmp_path / "packages", "sentencepiece", "protobuf")
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(TEXTS))
    (tmp_path / "model").mkdir()
    note = run_with(tmp_path / "packages", "-c", SENTENCEPIECE, tmp_path / "model", texts)
    assert "would load the tokenizer as LlamaTokenizer, which tokenises" in note
