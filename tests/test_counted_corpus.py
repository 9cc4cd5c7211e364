"""Counts that decide the vocabulary beside a corpus, or in its place."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optimum_flab import FlabError, FlabOptimizer, FlabPrunerConfig, TokenCounts, count_sources
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.paths import without_paths
from optimum_flab.records.summary import report_summary
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.texts.reading import read_texts
from optimum_flab.vocabulary.usage import TokenUsage

from .conftest import TEXTS, byte_level_tokenizer, tiny_model


DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}
DATA |= {"mix": {"own": 1}}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model, three sources that share no text, and counts of the first two."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model("llama", 600).save_pretrained(folder / "model")
    byte_level_tokenizer(600).save_pretrained(folder / "model")
    for name, texts in (("a", TEXTS[:3]), ("b", TEXTS[3:5]), ("mine", [text * 2 for text in TEXTS[5:]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name in "ab":
        counts = count_sources(folder / "model", folder / f"{name}.jsonl", cache_dir=folder / "cache")
        counts.save(folder / f"{name}.npz")
    return folder


@pytest.fixture(scope="module")
def optimizer(made):
    return FlabOptimizer.from_pretrained(made / "model", device="cpu")


def config(made, data, **settings):
    """Of what the files of the fixture hold, by their names."""
    named = {key: [str(made / name) for name in names] for key, names in data.items()}
    settings = {"vocabulary": {"keep_merges": 0}, **settings}
    return FlabPrunerConfig(data={**DATA, "calibration": [str(made / "mine.jsonl")], **named}, **settings)


def pruned(optimizer, made, tmp_path, data, **settings):
    return optimizer.prune(config(made, data, **settings), cache_dir=tmp_path / "cache")


# --- what they decide


@pytest.mark.parametrize("size", [None, 330])
def test_counts_of_sources_decide_as_the_sources_do(size, optimizer, made, tmp_path):
    kept = []
    for data in (
        {"corpus": ["a.jsonl", "b.jsonl"]},
        {"counts": ["a.npz", "b.npz"]},
        {"corpus": ["b.jsonl"], "counts": ["a.npz"]},
    ):
        found = pruned(optimizer, made, tmp_path, data, vocab_size=size, vocabulary={"keep_merges": 0})
        kept.append(found.plan.kept_tokens)
        assert (found.report.texts.counted_whole == 1) is (bool(found.report.texts.counts) and size is None)
    assert kept[0] == kept[1] == kept[2] and len(kept[0]) < 600
    without = pruned(optimizer, made, tmp_path, {"corpus": ["mine.jsonl"]})
    assert set(without.plan.kept_tokens) != set(kept[0])


def test_pieces_of_a_source_weigh_as_the_whole_of_it(optimizer, made, tmp_path):
    whole = TokenCounts.load(made / "a.npz")
    name, usage = next(iter(whole.sources.items()))
    half = usage.counts // 2
    for number, counts in enumerate((half, usage.counts - half)):
        part = TokenUsage(counts, 1, int(counts.sum()), 1)
        replace(whole, sources={name: part}).save(tmp_path / f"{number}.npz")
    pieces = [str(tmp_path / "0.npz"), str(tmp_path / "1.npz")]
    sized = {"vocabulary": {"keep_merges": 0, "coverage": 0.9}}
    found = [
        pruned(optimizer, made, tmp_path, {"corpus": ["b.jsonl"], "counts": counts}, **sized).plan.kept_tokens
        for counts in (["a.npz"], pieces)
    ]
    assert found[0] == found[1]


def test_they_stand_for_the_default_corpus_and_change_nothing_else(made):
    mine = str(made / "mine.jsonl")
    for data, corpus in (({"calibration": [mine]}, 0), ({"corpus": [mine]}, 11), ({"mix": {"problems": 1}}, 0)):
        read = read_texts(DataSettings(**{**DATA, **data, "counts": ["a.npz"]}))
        assert len(read.corpus.documents) == corpus and read.spare is None
    # one's own share is calibrated on the default corpus, as without counts
    own = DataSettings(**DATA, counts=["a.npz"])
    assert len(read_texts(own).spare.documents) == len(read_texts(DataSettings(**DATA)).corpus.documents)


def test_what_was_kept_is_used_again_for_the_same_counts_wherever_they_lie(optimizer, made, tmp_path, capsys):
    first = pruned(optimizer, made, tmp_path, {"counts": ["a.npz"]})
    shutil.copy(made / "a.npz", tmp_path / "moved.npz")
    capsys.readouterr()
    again = pruned(optimizer, made, tmp_path, {"counts": [str(tmp_path / "moved.npz")]})
    said = capsys.readouterr().err
    assert "plan: reused" in said
    assert again.plan.kept_tokens == first.plan.kept_tokens and again.plan.corpus_hash == first.plan.corpus_hash
    other = pruned(optimizer, made, tmp_path, {"counts": ["a.npz", "b.npz"]})
    said = capsys.readouterr().err
    assert "plan: reused" not in said and other.plan.corpus_hash != first.plan.corpus_hash


# --- what is said of them


def test_report_and_card_say_what_was_counted(optimizer, made, tmp_path):
    counts = TokenCounts.load(made / "a.npz")
    replace(counts, sources={"org/data:train[text]": counts.total()}, datasets=frozenset(["org/data"])).save(
        tmp_path / "hub.npz"
    )
    files = {"counts": [str(tmp_path / "hub.npz"), "b.npz"]}
    pruned(optimizer, made, tmp_path, files, vocab_size=320, vocabulary={"keep_merges": 0})
    optimizer.save_pretrained(tmp_path / "out")
    report = Checkpoint(tmp_path / "out").report
    first, second = report.texts.counts
    assert (first.file, second.file, first.sources) == ("hub.npz", "b.npz", ("org/data:train[text]",))
    assert (first.texts, first.tokens, first.bytes) == (3, counts.total().tokens, counts.total().bytes)
    assert 0 < first.whole_tokens < first.tokens and len(first.sha256) == 64
    assert report.datasets == ("org/data",)
    share = f"{report.texts.counted_whole:.3%} of the {report.texts.counted_tokens:,} tokens in files of counts"
    assert share in report_summary(report)
    assert any("text that was only counted may overlap with the text measured on" in note for note in report.notes)
    card = (tmp_path / "out" / "README.md").read_text()
    assert share in card and "\n- org/data\n" in card
    row = next(line for line in card.splitlines() if line.startswith("| corpus"))
    assert "the counts in `hub.npz`, `b.npz` (9 texts besides)" in row and "the default" not in row
    row = next(line for line in card.splitlines() if line.startswith("| counts in `hub.npz`"))
    assert f"3 texts, {first.tokens:,} tokens, {first.bytes:,} bytes of `org/data:train[text]`" in row
    assert f"SHA-256 `{first.sha256}`" in row
    assert "of `b.jsonl`" in next(line for line in card.splitlines() if line.startswith("| counts in `b.npz`"))
    sent = without_paths(optimizer.pruned.config.to_dict(), report.datasets)["data"]["counts"]
    assert sent == ["hub.npz", "b.npz"]
    sent = without_paths(report.model_dump(mode="json"), report.datasets)["texts"]["counts"]
    assert [one["sources"] for one in sent] == [["org/data:train[text]"], ["b.jsonl"]]
    assert sent[0]["datasets"] == ["org/data"] and sent[0]["sha256"] == first.sha256
    assert str(tmp_path) not in card and str(made) not in card


# --- what is refused


def test_counts_of_another_tokenizer_are_refused_before_weights_are_read(made, tmp_path):
    shutil.copytree(made / "model", tmp_path / "other")
    byte_level_tokenizer(500).save_pretrained(tmp_path / "other")
    count_sources(tmp_path / "other", made / "a.jsonl", cache_dir=tmp_path / "cache").save(tmp_path / "other.npz")
    shutil.copytree(made / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    asked = config(made, {"counts": ["a.npz", str(tmp_path / "other.npz")]})
    message = (
        rf"other\.npz' was counted with the tokenizer of '{tmp_path}/other', which .* from that of '{made}/model'"
    )
    with pytest.raises(FlabError, match=message):
        FlabOptimizer.from_pretrained(made / "model", device="cpu").prune(asked, cache_dir=tmp_path / "cache")
    with pytest.raises(FlabError, match=r"other\.npz' was counted with the tokenizer of"):
        FlabOptimizer.from_pretrained(tmp_path / "model", device="cpu", config=asked)
    # another chat template, or end of text, is no other tokenizer
    same = byte_level_tokenizer(600)
    same.chat_template, same.eos_token = "{{ messages }}", "<|pad|>"
    same.save_pretrained(tmp_path / "model")
    asked = config(made, {"counts": ["a.npz"]})
    with pytest.raises(FlabError, match="safetensors|weights"):
        FlabOptimizer.from_pretrained(tmp_path / "model", device="cpu", config=asked)


def test_counts_that_do_not_fit_the_model_are_refused(optimizer, made, tmp_path):
    counts = TokenCounts.load(made / "a.npz")
    (name,) = counts.sources
    longer = np.append(counts.sources[name].counts, 1)
    replace(counts, sources={name: TokenUsage(longer, 1, int(longer.sum()), 1)}).save(tmp_path / "longer.npz")
    (tmp_path / "text.npz").write_text("def f(): pass")
    for files, message in (
        (["longer.npz"], "longer.npz' was counted with the tokenizer of"),
        (["text.npz"], "text.npz' is not a file of counts, or damaged"),
        (["gone.npz"], "gone.npz' does not exist"),
    ):
        with pytest.raises(FlabError, match=message):
            pruned(optimizer, tmp_path, tmp_path, {"calibration": [str(made / "mine.jsonl")], "counts": files})
