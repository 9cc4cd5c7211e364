"""`flab count`: sources of any size, in pieces, killed and started again."""

from __future__ import annotations

import csv
import json
import os
import tracemalloc
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimum_flab import (
    FlabError,
    FlabOptimizer,
    TokenCounts,
    count_sources,
    count_texts,
    counting,
)
from optimum_flab.records.pieces import Pieces
from optimum_flab.texts import rows
from optimum_flab.texts.sources import parse_source, read_source
from optimum_flab.texts.streams import TextStream
from optimum_flab.vocabulary import usage
from optimum_flab.vocabulary.usage import count_tokens, pieces_hash

from .conftest import TEXTS, byte_level_tokenizer, flab, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model("qwen2", 600).save_pretrained(folder)
    byte_level_tokenizer(600).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(model):
    """As a pruning has it."""
    return FlabOptimizer.from_pretrained(model, device="cpu").dense.tokenizer


@pytest.fixture
def loaded_once(monkeypatch):
    """Loading a tokenizer takes longer than everything else."""
    monkeypatch.setattr(counting, "_tokenizer_of", cache(counting._tokenizer_of))


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_csv(path, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["text"], *([text] for text in texts)])


def write_parquet(path, texts):
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts, "more": ["x" * 100] * len(texts)})
    pyarrow.parquet.write_table(table, path, use_dictionary=False, data_page_size=1 << 12, write_batch_size=16)


def write_folder(path, texts):
    path.mkdir()
    for number, text in enumerate(texts):
        (path / f"{number:05}.py").write_bytes(text.encode())


WRITERS = {"a.jsonl": write_jsonl, "a.csv": write_csv, "a.parquet": write_parquet, "folder": write_folder}


def same(one: TokenCounts, other: TokenCounts) -> bool:
    sizes = [[(s.texts, s.tokens, s.bytes) for s in counts.sources.values()] for counts in (one, other)]
    return one.hash == other.hash and sizes[0] == sizes[1]


# --- what is counted


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=30),
        min_size=4,
        max_size=12,
    ),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    kinds=st.lists(st.sampled_from(list(WRITERS)), min_size=4, max_size=4),
    at_once=st.integers(1, 60),
)
def test_pieces_of_a_source_give_the_counts_of_the_whole(
    texts, cuts, kinds, at_once, model, loaded_once, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("pieces")
    texts = [*texts, "x"]
    write_jsonl(folder / "whole.jsonl", texts)
    whole = count_sources(model, folder / "whole.jsonl", name="all", cache_dir=folder / "cache")
    bounds = [0, *sorted(cuts), len(texts)]
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "CHARACTERS_AT_ONCE", at_once)
        for number, (kind, start, stop) in enumerate(zip(kinds, bounds, bounds[1:], strict=False)):
            piece = texts[start:stop]
            if not any(text.strip() for text in piece):
                continue
            (folder / str(number)).mkdir()
            WRITERS[kind](folder / str(number) / kind, piece)
            parts.append(count_sources(model, folder / str(number) / kind, name="all", cache_dir=folder / "cache"))
    assert same(TokenCounts.merged(parts), whole)


def test_a_source_is_counted_as_a_corpus_would_be_read(model, tokenizer, tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, [*TEXTS, "  \n"])
    specs = [str(tmp_path / name) for name in WRITERS]
    counts = count_sources(model, specs, cache_dir=tmp_path / "cache")
    assert list(counts.sources) == sorted(specs) and counts.datasets == frozenset()
    assert (counts.model, counts.tokenizer) == (str(model), pieces_hash(tokenizer))
    for spec, found in counts.sources.items():
        expected = count_tokens(tokenizer, [document.text for document in read_source(spec).documents])
        assert np.array_equal(found.counts, expected.counts)
        assert (found.texts, found.tokens, found.bytes) == (len(TEXTS), expected.tokens, expected.bytes)
    together = count_sources(model, specs, name="all of it", cache_dir=tmp_path / "cache")
    (found,) = together.sources.values()
    assert list(together.sources) == ["all of it"] and found.texts == 4 * len(TEXTS)
    assert np.array_equal(found.counts, counts.total().counts)


def test_texts_of_another_program_are_counted_alike(model, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [*TEXTS, "a\ud800b"])
    found = count_texts(model, iter([*TEXTS, " \n", "", None, "a\ud800b"]), "mine")
    assert same(found, count_sources(model, tmp_path / "a.jsonl", name="mine", cache_dir=tmp_path / "cache"))
    assert count_texts(model, [], "mine").sources["mine"].tokens == 0  # a piece may be empty
    names = [*count_texts(model, TEXTS, "a\udcff").sources, *count_texts(model, TEXTS, "a\udcfe").sources]
    assert len(set(names)) == 2 and all(name.encode() for name in names)  # paths that are no text stay apart


# --- memory


@pytest.mark.parametrize("kind", WRITERS)
def test_memory_does_not_grow_with_a_source(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(rows, "READ_AHEAD", 1 << 12)
    number, pool, peaks = 80, pyarrow.default_memory_pool(), []
    rng = np.random.default_rng(0)
    for times in (1, 6):
        (tmp_path / str(times)).mkdir()
        path = tmp_path / str(times) / kind
        WRITERS[kind](path, [rng.bytes(2300).hex() for _ in range(number * times)])
        tracemalloc.start()
        try:
            of_tables = [pool.bytes_allocated() for _ in TextStream(parse_source(str(path))).texts()]
            peaks.append(tracemalloc.get_traced_memory()[1] + max(of_tables))
        finally:
            tracemalloc.stop()
        assert len(of_tables) == number * times
    assert peaks[1] - peaks[0] < number * 2300, peaks  # half of the smaller text; the larger has five times more


# --- interrupted


class Killed(BaseException):
    """As a kill is: nothing catches it."""


def killed_after(monkeypatch, number):
    write, done = Pieces.write, []

    def writing(self, *args, **facts):
        write(self, *args, **facts)
        done.append(0)
        if len(done) == number:
            raise Killed

    monkeypatch.setattr(Pieces, "write", writing)


def texts_that_are_counted(monkeypatch):
    own, found = counting.usage_so_far, []

    def usage_so_far(tokenizer, texts, before):
        return own(tokenizer, (found.append(text) or text for text in texts), before)

    monkeypatch.setattr(counting, "usage_so_far", usage_so_far)
    return found


@pytest.fixture
def on_the_hub(tmp_path, monkeypatch):
    """A dataset `org/data` with a configuration `small`, as a stream of two parquet files; says what was read."""
    state = SimpleNamespace(revision="1" * 40, asked=[], fails_at=None)
    for number, part in enumerate((TEXTS[:7], [*TEXTS[7:], "", " \n"])):
        write_parquet(tmp_path / f"{number}.parquet", part)
    files = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    load = datasets.load_dataset

    def load_dataset(name, config=None, *, split, revision=None, streaming=False):
        assert (name, config, split, streaming) == ("org/data", "small", "train", True)
        state.asked.append(revision)
        stream = load("parquet", data_files=files, split=split, streaming=True)

        def failing(row):
            if row["id"] == state.fails_at:
                raise ConnectionError("the line is dead")
            return row

        return stream if state.fails_at is None else stream.map(failing)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: SimpleNamespace(sha=state.revision))
    return state


@pytest.mark.parametrize("kind", ["a.jsonl", "folder", "hub"])
def test_a_count_that_was_killed_goes_on_where_it_was(kind, model, loaded_once, on_the_hub, tmp_path, monkeypatch):
    spec = "org/data:small:train" if kind == "hub" else str(tmp_path / kind)
    if kind != "hub":
        WRITERS[kind](tmp_path / kind, TEXTS)
    whole = count_sources(model, spec, cache_dir=tmp_path / "whole")
    assert whole.total().texts == len(TEXTS)
    monkeypatch.setattr(counting, "KEPT_EVERY", 400)
    monkeypatch.setattr(usage, "CHARACTERS_AT_ONCE", 300)
    for moment in (1, 3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_after(patch, moment)
            count_sources(model, spec, cache_dir=tmp_path / str(moment))
        with monkeypatch.context() as patch:
            counted = texts_that_are_counted(patch)
            assert same(count_sources(model, spec, cache_dir=tmp_path / str(moment)), whole)
        assert 0 < len(counted) < len(TEXTS) and TEXTS[-len(counted) :] == counted


def test_a_source_that_was_changed_is_counted_anew(model, loaded_once, on_the_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "KEPT_EVERY", 400)
    monkeypatch.setattr(usage, "CHARACTERS_AT_ONCE", 300)
    path = tmp_path / "folder"
    write_folder(path, TEXTS)
    for spec in (str(path), "org/data:small:train"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_after(patch, 2)
            count_sources(model, spec, cache_dir=tmp_path / "cache")
    (path / "00000.py").write_text("other = 1\n")
    on_the_hub.revision = "2" * 40
    found = count_sources(model, path, cache_dir=tmp_path / "cache")
    assert same(found, count_sources(model, path, cache_dir=tmp_path / "another"))
    count_sources(model, "org/data:small:train", cache_dir=tmp_path / "cache")
    assert on_the_hub.asked == ["1" * 40, "2" * 40]
    # and one that is as it was is not counted again, unless that is asked for
    monkeypatch.setattr(counting, "usage_so_far", None)
    assert same(count_sources(model, path, cache_dir=tmp_path / "cache"), found)
    with pytest.raises(TypeError):
        count_sources(model, path, cache_dir=tmp_path / "cache", resume=False)


# --- the Hub


def test_a_dataset_is_streamed_at_its_commit_and_named(model, tokenizer, loaded_once, on_the_hub, tmp_path):
    spec = "org/data:small:train[text]"
    found = count_sources(model, spec, cache_dir=tmp_path / "cache")
    assert on_the_hub.asked == ["1" * 40] and found.datasets == {"org/data"}
    assert np.array_equal(found.sources[spec].counts, count_tokens(tokenizer, TEXTS).counts)
    found.save(tmp_path / "a.npz")
    assert TokenCounts.load(tmp_path / "a.npz").datasets == {"org/data"}
    joined = count_sources(model, "org/data:small:train[text,id]", cache_dir=tmp_path / "cache").total()
    assert (joined.texts, joined.bytes) == (len(TEXTS) + 2, found.total().bytes + len(TEXTS) + 2 + len(" \n") + 1)
    with pytest.raises(FlabError, match="org/data, row 1: no column gone; columns found: id, text, more"):
        count_sources(model, "org/data:small:train[gone]", cache_dir=tmp_path / "cache")


def test_a_line_that_breaks_says_that_the_work_is_kept(model, loaded_once, on_the_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "KEPT_EVERY", 400)
    monkeypatch.setattr(usage, "CHARACTERS_AT_ONCE", 300)
    on_the_hub.fails_at = 6
    with pytest.raises(FlabError, match="'org/data' cannot be read after row 6 .the line is dead.; the same command"):
        count_sources(model, "org/data:small:train", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("so-far.safetensors"))


# --- what is refused


def test_what_cannot_be_counted_is_refused_before_anything_is(model, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "usage_so_far", None)  # nothing may be counted
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_jsonl(tmp_path / "blank.jsonl", ["", " \n"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "image.png").write_bytes(b"\0\1")
    good, blank, gone, folder = (str(tmp_path / name) for name in ("a.jsonl", "blank.jsonl", "gone", "b"))
    for sources, message in (
        ([], "there are no counts"),
        ([good, good], "is named twice"),
        ([good, gone], "does not exist"),
        ([good, blank], "holds no text"),
        ([good, folder], r"holds no text \(1 files"),
        ([good, f"{good}[gone]"], "row 1: no column gone; columns found: text"),
    ):
        with pytest.raises(FlabError, match=message):
            count_sources(model, sources, cache_dir=tmp_path / "cache")
    with pytest.raises(FlabError, match="no config.json and no GGUF file"):
        count_sources(tmp_path, good)


def test_a_folder_says_what_was_no_text(model, loaded_once, tmp_path, capsys):
    write_folder(tmp_path / "src", TEXTS[:3])
    (tmp_path / "src" / "image.png").write_bytes(b"\0\1")
    count_sources(model, tmp_path / "src", cache_dir=tmp_path / "cache")
    assert f"{tmp_path / 'src'}: 1 files that are not UTF-8 text were skipped" in capsys.readouterr().err


# --- the command


def test_the_command_counts_and_replaces_nothing(model, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_parquet(tmp_path / "b.parquet", TEXTS[:5])
    into = ["-m", model, "-o", "new/counts.npz", "--cache-dir", "cache"]
    done = flab("count", "a.jsonl", "b.parquet[text]", *into, cwd=tmp_path)
    found = TokenCounts.load(tmp_path / "new" / "counts.npz")
    assert done.code == 0 and list(found.sources) == ["a.jsonl", "b.parquet[text]"], done.err
    assert f"{found.total().tokens:,}" in done.out and "written to new/counts.npz in" in done.out
    again = flab("count", "a.jsonl", *into, cwd=tmp_path)
    exists = "output (--output): 'new/counts.npz' already exists; name another file, or set `overwrite` (--overwrite)"
    assert (again.code, again.err) == (2, f"optimum-cli flab: error: {exists}\n")
    assert os.listdir(tmp_path / "new") == ["counts.npz"]
    assert TokenCounts.load(tmp_path / "new" / "counts.npz").hash == found.hash
