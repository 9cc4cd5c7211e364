"""Sources, the division of texts into sets, and packed batches."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab.settings.pruning import DataSettings
from optimum_flab.texts import rows as rows_room
from optimum_flab.texts import sources as sources_room
from optimum_flab.texts.packing import pack
from optimum_flab.texts.passages import split_passages
from optimum_flab.texts.rows import HubRows
from optimum_flab.texts.sources import (
    Document,
    default_corpus,
    hub_datasets,
    parse_source,
    read_source,
    read_sources,
    row_documents,
)
from optimum_flab.utils.errors import FlabError
from optimum_flab.utils.hashing import texts_hash

from .conftest import text_sets, tiny_model


ROWS = [
    {"prompt": "def f():\n", "solution": "    return 1\n", "n": 3, "none": None},
    {"prompt": "é 你好\u2028🙂 ", "solution": "", "n": 4.5, "none": None},
]


def texts(spec):
    return [document.text for document in read_source(str(spec)).documents]


# --- sources


def test_parse_source_prefers_what_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "data").write_text("x")
    (tmp_path / "odd[1].txt").write_text("x")
    assert parse_source("org/data").path is not None
    assert parse_source("odd[1].txt").columns == ()
    (tmp_path / "org" / "data.jsonl").write_text("{}")
    assert parse_source("org/data.jsonl[a, b]").columns == ("a", "b")
    hub = parse_source("org/other:test[a]")
    assert (hub.rows, hub.columns, hub.path) == (HubRows("org/other", None, "test"), ("a",), None)
    assert parse_source("org/other").rows == HubRows("org/other", None, "train")
    assert parse_source("org/other:small:test[a]").rows == HubRows("org/other", "small", "test")
    assert hub_datasets(["org/data", "org/other:test[a]", "python-stdlib", "gone.txt", "org/other"]) == ["org/other"]


def test_a_pipe_is_refused_rather_than_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FlabError, match="is a pipe or a device"):
        parse_source(str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    "spec",
    [
        "nothing",
        "./nothing/here",
        "/no/such/folder",
        "data/problems.jsonl[a]",
        "a/b/c",
        "",
        "org/data[a,]",
        "a b/c",
        "a/b::c",
        "a/b:c:d:e",
    ],
)
def test_parse_source_refuses_what_is_neither_path_nor_hub_id(spec):
    with pytest.raises(FlabError, match="source"):
        parse_source(spec)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", lambda rows, path: rows.to_json(path, force_ascii=False)),
        ("a.json", lambda rows, path: path.write_text(json.dumps(ROWS), encoding="utf-8-sig")),
        ("a.parquet", Dataset.to_parquet),
        ("a.csv", Dataset.to_csv),
    ],
)
def test_columns_are_joined_as_they_stand(tmp_path, name, write):
    write(Dataset.from_list(ROWS), tmp_path / name)
    assert texts(f"{tmp_path / name}[prompt,solution]") == ["def f():\n    return 1\n", "é 你好\u2028🙂 "]
    assert [text[:1] for text in texts(f"{tmp_path / name}[n,none]")] == ["3", "4"]
    # an empty row goes, the numbers of the others stay
    names = [document.name for document in read_source(f"{tmp_path / name}[solution]").documents]
    assert names == [f"{tmp_path / name}#1"]
    with pytest.raises(FlabError, match=r"row 1: no column answer; columns found: prompt, solution, n, none"):
        texts(f"{tmp_path / name}[prompt,answer]")
    with pytest.raises(FlabError, match="no column text or content; columns found: prompt, solution"):
        texts(tmp_path / name)


def test_default_columns_and_row_of_the_missing_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "content": "one"}\n{"id": 2}\n')
    with pytest.raises(FlabError, match=r"a\.jsonl, row 2: no column content; columns found: id"):
        texts(path)
    path.write_text('{"content": "c", "text": "t"}\n')
    assert texts(path) == ["t"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{}\n{broken\n", "row 1|line 2 is not JSON"),
        ("a.jsonl", '{"text": "x"}\n{broken\n', "line 2 is not JSON"),
        ("a.jsonl", '"just a string"\n', "row 1: expected an object with columns, found str"),
        ("a.json", '{"text": "x"}', "holds a JSON dict"),
        ("a.json", "[1", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.txt", " \n", "holds no text"),
        ("a.json", "[]", "holds no text"),
        ("a.csv", "", "holds no text"),
    ],
)
def test_malformed_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(FlabError, match=message) as caught:
        texts(tmp_path / name)
    assert name in str(caught.value)


def test_lone_surrogates_become_encodable(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude42"}\n')
    assert texts(tmp_path / "a.jsonl") == ["a\ufffdb 🙂"]


def test_large_csv_field_and_line_ends_survive(tmp_path):
    long = "x" * 200_000
    (tmp_path / "a.csv").write_bytes(f'text,more\r\n"{long}\r\ny",1,extra\r\n'.encode())
    assert texts(tmp_path / "a.csv") == [f"{long}\r\ny"]


def test_plain_file_is_one_document_unchanged(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes("x = 'é'\r\n\tpass\n".encode())
    assert read_source(str(path)).documents == [Document("x = 'é'\r\n\tpass\n", str(path))]
    with pytest.raises(FlabError, match="has no columns; leave out the brackets"):
        texts(f"{path}[a]")
    path.write_bytes(b"latin \xe9")
    with pytest.raises(FlabError, match=r"a\.py' is not UTF-8 \(.* in position 6"):
        texts(path)


def test_folder_skips_and_counts_what_is_not_text(tmp_path):
    for name in ("b.py", "a/z.md", "a/deep/y.txt", ".hidden/x.py", "__pycache__/x.py", ".dotfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "binary.bin").write_bytes(b"text\0more")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.py").write_text("")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe")
    found = read_source(str(tmp_path))
    assert [document.text for document in found.documents] == [".dotfile", "a/deep/y.txt", "a/z.md", "b.py"]
    assert found.documents[1].name == f"{tmp_path.as_posix()}/a/deep/y.txt"
    assert found.skipped == 4
    with pytest.raises(FlabError, match="has no columns; leave out the brackets"):
        read_source(f"{tmp_path}[a]")


def test_several_sources_are_checked_before_any_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(FlabError, match="missing"):
        read_sources([str(tmp_path / "a.txt"), str(tmp_path / "missing")])
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    assert [d.text for d in read_sources([str(tmp_path / "b.txt"), str(tmp_path / "a.txt")]).documents] == ["b", "a"]


def test_text_larger_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    rows, folder = tmp_path / "rows.jsonl", tmp_path / "folder"
    rows.write_text('{"text": "a"}\n' * 40)
    folder.mkdir()
    (folder / "a.py").write_text("x" * 300)
    (folder / "weights.bin").write_bytes(bytes(2000))  # is not read as text
    sources = [str(rows), str(folder)]
    monkeypatch.setattr(sources_room, "available_memory", lambda: 1720)
    assert len(read_sources(sources).documents) == 41
    monkeypatch.setattr(sources_room, "available_memory", lambda: 1719)
    with pytest.raises(FlabError, match=r"rows.jsonl', '.*folder': .* memory are free; .*`flab count`.*data.counts"):
        read_sources(sources)
    monkeypatch.setattr(rows_room, "available_memory", lambda: 599)
    with pytest.raises(FlabError, match="a.py' is a single text that does not fit in memory; split it"):
        read_source(str(folder / "a.py"))


def test_rows_of_a_dataset():
    documents = list(row_documents(Dataset.from_list(ROWS), "org/data", ["prompt", "n"]))
    assert [document.text for document in documents] == ["def f():\n3.0", "é 你好\u2028🙂 4.5"]
    assert documents[1].name == "org/data#2"


def test_unreachable_hub_dataset_says_to_name_a_file(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(FlabError, match="dataset 'no-such-org/no-such-data'.*name a local file or folder"):
        read_source("no-such-org/no-such-data[text]")


def test_the_standard_library_comes_without_its_tests():
    corpus = read_source("python-stdlib")
    names = [document.name for document in corpus.documents]
    assert {"ast.py", "json/decoder.py"} <= set(names)
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert not [name for name in names if {"test", "tests", "site-packages", "idle_test"} & set(name.split("/"))]
    assert sum(len(document.text) for document in corpus.documents) > 5_000_000


def test_the_default_corpus_is_the_standard_library_and_installed_packages():
    corpus, library, packages = default_corpus(), read_source("python-stdlib"), read_source("python-packages")
    assert corpus.documents == [*library.documents, *packages.documents]
    assert {"torch", "transformers"} <= {document.name.split("/")[0] for document in packages.documents}


# --- sets


def count_words(batch):
    return [len(text.split()) for text in batch]


def write_rows(path, contents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in contents))
    return str(path)


def small(**settings):
    sizes = {"calibration_tokens": 60, "validation_tokens": 20, "held_out_tokens": 20, "sequence_length": 8}
    sizes |= {"mix": {"own": 1}}
    return DataSettings(**(sizes | settings))


def all_texts(documents):
    return [document.text for document in documents]


def test_sets_share_no_document_and_keep_to_their_shares(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [f"w{i} b c d" for i in range(100)] + ["w0 b c d"])
    sets = text_sets(small(corpus=[source]), count_words, seed=1)
    assert [len(part) for part in (sets.validation, sets.held_out, sets.calibration)] == [5, 5, 15]
    assert sets.set_aside == 10
    aside = set(all_texts(sets.validation)) | set(all_texts(sets.held_out))
    assert len(aside) == 10
    assert set(all_texts(sets.corpus)) == {f"w{i} b c d" for i in range(100)} - aside
    assert len(sets.corpus) == 90
    assert set(all_texts(sets.calibration)) <= set(all_texts(sets.corpus))
    assert sets.corpus_hash == texts_hash(all_texts(sets.corpus))


def test_seed_decides_the_sets(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [f"w{i} b c d" for i in range(50)])
    first, again, other = (text_sets(small(corpus=[source]), count_words, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.calibration != other.calibration


def test_at_most_a_fifth_is_set_aside(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [f"w{i}" for i in range(40)])
    sets = text_sets(small(corpus=[source], held_out_tokens=60), count_words, seed=0)
    assert (len(sets.validation), len(sets.held_out), len(sets.calibration)) == (2, 6, 32)
    few = write_rows(tmp_path / "few.jsonl", [f"w{i} b c d e f g h" for i in range(5)])
    sets = text_sets(small(corpus=[few]), count_words, seed=0)
    assert (len(sets.validation), len(sets.held_out), len(sets.calibration)) == (1, 1, 3)


def test_named_calibration_counts_as_corpus(tmp_path):
    corpus = write_rows(tmp_path / "corpus.jsonl", [f"c{i} b c d" for i in range(30)] + ["p0 b c d", "p1 b c d"])
    pool = write_rows(tmp_path / "pool.jsonl", [f"p{i} b c d" for i in range(20)])
    sets = text_sets(small(corpus=[corpus], calibration=[pool]), count_words, seed=0)
    aside = set(all_texts(sets.validation)) | set(all_texts(sets.held_out))
    assert len(aside) == sets.set_aside == 4
    everything = {f"c{i} b c d" for i in range(30)} | {f"p{i} b c d" for i in range(20)}
    assert set(all_texts(sets.corpus)) == everything - aside
    assert len(sets.corpus) == len(everything) - 4
    # whichever of the two texts that stand in both sources is set aside under some seed, is in no other set then
    for seed in range(30):
        sets = text_sets(small(corpus=[corpus], calibration=[pool]), count_words, seed=seed)
        aside = set(all_texts(sets.validation)) | set(all_texts(sets.held_out))
        assert not aside & set(all_texts(sets.corpus)) and not aside & set(all_texts(sets.calibration))


def test_named_held_out_texts_are_nowhere_else(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [f"w{i} b c d" for i in range(50)])
    held = write_rows(tmp_path / "h.jsonl", [f"w{i} b c d" for i in range(10)] + ["new b c d"])
    sets = text_sets(small(corpus=[source], held_out=[held], held_out_tokens=1000), count_words, seed=0)
    assert set(all_texts(sets.held_out)) == {f"w{i} b c d" for i in range(10)} | {"new b c d"}
    rest = {*all_texts(sets.corpus), *all_texts(sets.calibration), *all_texts(sets.validation)}
    assert rest == {f"w{i} b c d" for i in range(10, 50)}
    assert sets.set_aside == len(sets.validation) == 5


def test_too_little_text_is_an_error(tmp_path):
    four = write_rows(tmp_path / "four.jsonl", ["a", "b", "c", "d", "a"])
    with pytest.raises(FlabError, match="^4 different documents.*name more"):
        text_sets(small(corpus=[four]), count_words, seed=0)
    short = write_rows(tmp_path / "short.jsonl", ["a", "b", "c", "d", "e"])
    with pytest.raises(FlabError, match="have 3 tokens, fewer than one sequence of 8"):
        text_sets(small(corpus=[short]), count_words, seed=0)


def test_long_documents_give_one_passage_each_before_a_second(tmp_path):
    for index in range(10):
        (tmp_path / f"{index}.py").write_text("".join(f"f{index} line {line}\n" for line in range(100)))
    sets = text_sets(small(corpus=[str(tmp_path)], calibration_tokens=30), count_words, seed=0)
    assert len(sets.calibration) > 3
    assert len({text.split()[0] for text in all_texts(sets.calibration[:8])}) == min(8, len(sets.calibration))
    whole = {document.name: document.text for document in sets.corpus}
    for passage in sets.calibration:
        name, line = passage.name.rsplit(":", 1)
        assert len(passage.text) <= 4 * 8
        assert whole[name].split("\n", int(line) - 1)[-1].startswith(passage.text)
    # a budget beyond one round is still filled, by passages that differ
    sets = text_sets(small(corpus=[str(tmp_path)], calibration_tokens=1000), count_words, seed=0)
    assert 1000 <= sum(count_words(all_texts(sets.calibration))) < 1020
    assert len(set(all_texts(sets.calibration))) == len(sets.calibration)
    aside = {passage.name.rsplit(":", 1)[0] for passage in [*sets.validation, *sets.held_out]}
    assert len(aside) == sets.set_aside == 2
    assert aside.isdisjoint(document.name for document in sets.corpus)


def test_default_texts_calibrate_on_written_code():
    sets = text_sets(DataSettings(calibration_tokens=2000, mix={"own": 1}), count_words, seed=0)
    names = {document.name for document in sets.corpus}
    assert not any(name.startswith(("encodings/", "pydoc_data/")) for name in names)
    assert len({document.name.split(":")[0] for document in sets.calibration}) == len(sets.calibration)


@given(st.text(alphabet=st.sampled_from("ab \n\r\u2028é🙂"), max_size=300), st.integers(1, 40))
def test_passages_are_the_text(text, most):
    passages = split_passages(text, most)
    assert "".join(passages) == text
    assert all(len(passage) <= most for passage in passages)
    lines = text.splitlines(keepends=True)
    if all(len(line) <= most for line in lines):  # then cuts are at line borders only
        assert [line for passage in passages for line in passage.splitlines(keepends=True)] == lines


def test_corpus_hash_depends_on_borders():
    assert texts_hash(["ab", "c"]) != texts_hash(["a", "bc"])
    assert texts_hash(["ab", "c"]) != texts_hash(["c", "ab"])


# --- batches


token_lists = st.lists(st.lists(st.integers(1, 1000), max_size=30), max_size=20)


@given(token_lists, st.integers(1, 12), st.none() | st.integers(0, 100))
def test_every_token_is_packed_once(lists, length, most):
    packed = pack(lists, length, pad_id=0, max_tokens=most)
    flat = [token for tokens in lists for token in tokens][:most]
    assert packed.tokens == len(flat)
    assert packed.input_ids.shape == packed.position_ids.shape == packed.mask.shape == (len(packed.input_ids), length)
    assert sorted(packed.input_ids[packed.mask].tolist()) == sorted(flat)
    assert (packed.input_ids[~packed.mask] == 0).all()
    # runs of rising positions are the documents (chunks of the long ones), whole
    runs = []
    for ids, positions, mask in zip(packed.input_ids, packed.position_ids, packed.mask, strict=True):
        for token, position, real in zip(ids.tolist(), positions.tolist(), mask.tolist(), strict=True):
            if position == 0:
                runs.append(([], real))
            assert position == len(runs[-1][0]) and real == runs[-1][1]
            runs[-1][0].append(token)
    expected, left = [], len(flat)
    for tokens in lists:
        for start in range(0, len(tokens), length):
            expected.append(tokens[start : start + length][:left])
            left -= len(expected[-1])
    assert sorted(run for run, real in runs if real) == sorted(run for run in expected if run)


def test_first_fit_fills_rows_and_batches_are_the_rows():
    packed = pack([[1] * 5, [2] * 6, [3] * 3, [4] * 2, [5] * 20], 8, pad_id=9)
    assert packed.input_ids.tolist() == [
        [1, 1, 1, 1, 1, 3, 3, 3],
        [2, 2, 2, 2, 2, 2, 4, 4],
        [5] * 8,
        [5] * 8,
        [5] * 4 + [9] * 4,
    ]
    assert packed.position_ids[4].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    batches = list(packed.batches(2))
    assert [len(batch.input_ids) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([batch.input_ids for batch in batches]), packed.input_ids)
    assert sum(batch.tokens for batch in batches) == packed.tokens == 36


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_do_not_see_each_other(family, attention):
    model = tiny_model(family, attn_implementation=attention)
    documents = [list(range(1, 14)), [5], [6, 7], list(range(20, 33)), [40, 41, 42], list(range(50, 66)), [77]]
    packed = pack(documents, 16, pad_id=0)
    assert 1 < len(packed.input_ids) < len(documents) and not packed.mask.all()
    with torch.no_grad():
        for batch in packed.batches(3):
            logits = model(**batch.model_inputs()).logits
            for row, (ids, positions, mask) in enumerate(
                zip(batch.input_ids, batch.position_ids, batch.mask, strict=True)
            ):
                starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
                for start, end in pairwise(starts):
                    if mask[start]:
                        alone = model(input_ids=ids[None, start:end]).logits[0]
                        torch.testing.assert_close(logits[row, start:end], alone, atol=1e-4, rtol=0)
