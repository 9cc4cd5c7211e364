"""Packaged words that decide the vocabulary."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import optimum_flab
from optimum_flab import ConfigurationError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.records.summary import report_summary
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.texts.presets import FOLDER, preset_file, preset_texts, preset_words
from optimum_flab.texts.reading import read_texts
from optimum_flab.texts.sets import divide_texts
from optimum_flab.texts.sources import SourceTexts, default_corpus

from .conftest import TEXTS, byte_level_tokenizer, text_sets, thorough_but, tiny_model
from .vocabulary.tiny_tokenizers import gemma


ONE_KIND = ["python", "web", "systems"]
DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}


def sources_file(name):
    return FOLDER / f"{name}.sources.json"


def count_words(batch):
    return [len(text.split()) for text in batch]


# --- what is packaged


def test_there_is_a_file_for_every_kind_and_no_other():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(
        file(name).name for name in ONE_KIND for file in (preset_file, sources_file)
    )
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert max(sizes.values()) <= 300_000 and sum(sizes.values()) <= 1_200_000


@pytest.mark.parametrize("name", ONE_KIND)
def test_words_are_counted_and_no_passages_of_text(name):
    (found,) = preset_words(name)
    assert len(found.words) == len(found.counts) == len(set(found.words)) > 30_000
    assert found.counts.dtype == np.int64 and found.counts.min() == 1
    # at most one run of letters, so that nothing of what was read can be put together again
    assert not [word for word in found.words if len(re.findall(r"[^\W\d_]+", word)) > 1]
    assert not [word for word in found.words if len(word) > 200]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("python", ["def", "\ndef", " self", ".append", " return", "):\n", "\n    ", "__", "_name"]),
        ("web", ["const", "\nconst", " function", ".querySelector", ");\n", "\n  ", " className"]),
        ("systems", ["struct", "\nfunc", " const", ".unwrap", "::", ";\n", "\n\t", " nullptr", "#include"]),
    ],
)
def test_the_words_are_those_of_the_kind_of_code(name, words):
    (found,) = preset_words(name)
    counts = dict(zip(found.words, found.counts.tolist(), strict=True))
    assert min(counts.get(word, 0) for word in words) > 20, [word for word in words if counts.get(word, 0) <= 20]


def test_all_code_is_all_of_them_each_by_itself():
    assert [part.words for part in preset_words("all-code")] == [preset_words(name)[0].words for name in ONE_KIND]
    assert preset_texts("all-code") == [text for name in ONE_KIND for text in preset_texts(name)]


@pytest.mark.parametrize("name", ONE_KIND)
def test_every_package_is_named_with_a_licence_and_a_version(name):
    sources = json.loads(sources_file(name).read_text(encoding="utf-8"))
    assert len({source["name"] for source in sources}) == len(sources) > 20
    for source in sources:
        assert source["version"] and source["name"] and source["files"] and source["bytes"], source
        assert not re.search("GPL|MPL|EPL|CDDL|SSPL|BUSL|UNKNOWN", source["licence"]), source


BENCHMARKS = Path(optimum_flab.__file__).parent.parent / "benchmarks"


@pytest.fixture
def counting(monkeypatch):
    """The script that makes the files."""
    if not BENCHMARKS.exists():
        pytest.skip("the package is installed without its sources")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("count_words")


def test_whoever_names_what_is_bundled_states_its_licence(counting):
    listed = yaml.safe_load(counting.LISTED.read_text(encoding="utf-8"))
    packages = {
        which: [counting.Package(**fields) for part in listed.values() for fields in part[which]]
        for which in ("counted", "held_out")
    }
    assert not [one.name for found in packages.values() for one in found if counting.has_unstated_licence(one)]
    assert counting.has_unstated_licence(counting.Package("npm", "one", folders=["src", "deps/other"]))
    assert not counting.has_unstated_licence(counting.Package("npm", "one", folders=["src"]))
    named = {one.name: one.licence for one in packages["counted"]}
    for source in (one for name in ONE_KIND for one in json.loads(sources_file(name).read_text(encoding="utf-8"))):
        assert named[source["name"]] in (None, source["licence"])


# --- what they decide


def test_a_preset_stands_for_the_default_corpus():
    mix = {"problems": 1}  # with a share of one's own the default corpus would be read every time
    sets = text_sets(DataSettings(**DATA, preset="web", mix=mix), count_words, seed=0)
    assert sets.preset == "web" and {document.source for document in sets.corpus} == {"calibration"}
    names = [*ONE_KIND, "all-code"]
    others = {name: text_sets(DataSettings(**DATA, preset=name, mix=mix), count_words, 0) for name in names}
    assert len({one.corpus_hash for one in others.values()}) == 4
    assert len({one.deciding_hash for one in others.values()}) == 4


@pytest.fixture(scope="module")
def few_default_files():
    """All of them would take longer than everything else."""
    return SourceTexts(default_corpus().documents[:60])


# a kind is not there without a format of the tokenizer: then its tokens, here all of them, go to one's own text
@pytest.mark.parametrize("mix", [{"own": 1}, {"own": 0.5, "chat": 0.5}, {"own": 0.5, "problems": 0.5}])
def test_a_preset_changes_nothing_but_the_vocabulary(mix, few_default_files):
    found = {}
    for preset in (None, "web"):
        data = DataSettings(**DATA, preset=preset, mix=mix)
        read = read_texts(data)
        place = "corpus" if preset is None else "spare"
        assert len(getattr(read, place).documents) > len(few_default_files.documents)
        found[preset] = divide_texts(replace(read, **{place: few_default_files}), data, count_words, 0)
    without, sets = found.values()
    for name in ("calibration", "validation", "held_out", "set_aside"):
        assert getattr(sets, name) == getattr(without, name) != [], name
    kinds = {document.kind for document in sets.calibration}
    assert kinds == ({"problems"} if "problems" in mix else {"own"})
    # what is calibrated on belongs to the corpus all the same, and nothing else of the default one does
    assert {document.text for document in sets.corpus} == {document.text for document in sets.calibration}
    assert {document.source for document in sets.corpus} == {"calibration"}


def test_the_default_corpus_is_not_read_where_there_is_text_of_ones_own(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for named in ({"corpus": [f"{file}[text]"]}, {"calibration": [f"{file}[text]"]}, {"mix": {"problems": 1}}):
        assert read_texts(DataSettings(**DATA, preset="web", **{"mix": {"own": 1}, **named})).spare is None


def pruned_with(tokenizer, tmp_path, family="qwen2", **settings):
    for made in (tiny_model(family, len(tokenizer)), tokenizer):
        made.save_pretrained(tmp_path / "dense")
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    data = {**DATA, "mix": {"own": 1}, "calibration": [str(file)], **settings.pop("data", {})}
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", device="cpu")
    optimizer.prune(FlabPrunerConfig(data=data, **settings))
    return optimizer


@pytest.mark.parametrize(
    ("make", "family", "name"),
    thorough_but(1, [(byte_level_tokenizer, "qwen2", "web"), (gemma, "gemma3_text", "systems")]),
)
def test_its_words_are_cut_as_before_and_the_card_names_it(make, family, name, tmp_path):
    optimizer = pruned_with(make(), tmp_path, family, data={"preset": name}, vocabulary={"keep_merges": 0})
    kept = optimizer.pruned.plan.kept_tokens
    (words,) = preset_words(name)
    dense, new = (
        [ids.ids for ids in one.backend_tokenizer.encode_batch(list(words.words), add_special_tokens=False)]
        for one in (optimizer.dense.tokenizer, optimizer.pruned.tokenizer)
    )
    assert len(kept) < len(optimizer.dense.tokenizer)
    assert [[kept[index] for index in ids] for ids in new] == dense
    texts = optimizer.pruned.report.texts
    assert (texts.preset_words, texts.preset_words_cut_differently) == (len(words.words), 0)
    optimizer.save_pretrained(tmp_path / "out")
    row = next(
        line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if line.startswith("| corpus")
    )
    assert f"the {len(words.words):,} packaged words of the preset `{name}` (" in row and "the default" not in row


def test_of_a_smaller_vocabulary_it_is_said_which_words_and_where_they_are_from(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    optimizer = pruned_with(
        byte_level_tokenizer(),
        tmp_path,
        data={"preset": "systems", "corpus": [f"{file}[text]"]},
        vocab_size=300,
        vocabulary={"keep_merges": 0},
    )
    texts = optimizer.pruned.report.texts
    words = texts.preset_words
    assert 0 < texts.preset_words_cut_differently < words
    said = f"{texts.preset_words_cut_differently:,} of {words:,} words of the preset are tokenised differently"
    assert said in report_summary(optimizer.pruned.report)
    optimizer.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`mine.jsonl[text]`, and the {words:,} packaged words of the preset `systems`" in card
    assert f"{texts.preset_words_cut_differently:,} of the {words:,} words of the preset are cut" in card


def test_a_preset_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="data.preset: 'pyton' should be 'python', 'web', 'systems' or 'all-"):
        FlabPrunerConfig(data={"preset": "pyton"})
