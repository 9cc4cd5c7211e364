"""GGUF files with fewer rows: what changes, what does not, and what is refused before anything is written."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from optimum_flab import ConfigurationError, FlabError, PruningPlan, TrimSettings
from optimum_flab.hub.frame import BEGIN
from optimum_flab.pruning.run import apply_plan
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.tensors import gguf_header
from optimum_flab.tensors.gguf_header import STRING, WHOLE_NUMBER, GgufField, packed_header, read_header
from optimum_flab.tensors.stored import tensor_hashes
from optimum_flab.trim import gguf as of_gguf
from optimum_flab.trim.run import tokens_hash, trim

from ..conftest import TEXTS, byte_level_tokenizer, flab, thorough_but
from ..gguf_writer import write_fields, write_random_gguf


ROWS = 600
SIZES = {
    **{"vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
DATA = {"validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000, "sequence_length": 64}
CHANGED = {"llama.vocab_size", *(f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))}
EOS = "tokenizer.ggml.eos_token_id"
TABLES = {"token_embd.weight", "output.weight"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    return str(file)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    path = tmp_path_factory.mktemp("dense") / "tiny.gguf"
    write_random_gguf(path, "llama", CONFIG_MAPPING["llama"](**SIZES), byte_level_tokenizer(ROWS), head=True)
    return path


@pytest.fixture(scope="module")
def few(corpus):
    """Settings by which about half of the tokens go."""
    return TrimSettings(data={**DATA, "corpus": [corpus]}, vocabulary={"keep_merges": 0, "coverage": 1.0})


def changed(few, **sections):
    values = few.model_dump()
    for name, value in sections.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return TrimSettings(**values)


def tokens_of(path):
    return read_header(path).fields["tokenizer.ggml.tokens"]


def rows_of(path, name):
    """The bytes of each row of a table."""
    tensor = read_header(path).tensors[name]
    with path.open("rb") as file:
        file.seek(tensor.start)
        content = file.read(tensor.bytes_of())
    width = len(content) // tensor.shape[0]
    return [content[place : place + width] for place in range(0, len(content), width)]


# --- what changes, and what does not


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0"])
def test_only_rows_of_the_vocabulary_go_whatever_the_type(kind, few, tmp_path):
    path, number = tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[kind]
    write_random_gguf(
        path, "llama", CONFIG_MAPPING["llama"](**SIZES), byte_level_tokenizer(ROWS), kinds=(number,), head=True
    )
    report = trim(path, tmp_path / "out", few)
    (new,) = (tmp_path / "out").glob("*.gguf")
    kept = PruningPlan.load(tmp_path / "out").kept_tokens
    assert len(kept) == report.tokens_after < ROWS == report.tokens_before
    before, after = tensor_hashes([path]), tensor_hashes([new])
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == TABLES == set(report.tables)
    for name in TABLES:
        assert rows_of(new, name) == [rows_of(path, name)[index] for index in kept]
    assert report.bytes_after == new.stat().st_size and report.bytes_before == path.stat().st_size


def test_fields_are_renumbered_and_all_others_kept(dense, few, tmp_path):
    trim(dense, tmp_path / "out", few)
    kept = PruningPlan.load(tmp_path / "out").kept_tokens
    (new,) = (tmp_path / "out").glob("*.gguf")
    before, after = read_header(dense).fields, read_header(new).fields
    tokens = before["tokenizer.ggml.tokens"]
    assert after["tokenizer.ggml.tokens"] == [tokens[index] for index in kept]
    assert after["llama.vocab_size"] == len(kept)
    for name in ("eos", "padding"):
        field = f"tokenizer.ggml.{name}_token_id"
        assert after["tokenizer.ggml.tokens"][after[field]] == tokens[before[field]]
    stay = set(after["tokenizer.ggml.tokens"])
    merges = [merge for merge in before["tokenizer.ggml.merges"] if merge.replace(" ", "") in stay]
    assert after["tokenizer.ggml.merges"] == merges
    others = {name for name in before if name.endswith("_token_id") or name in CHANGED}
    assert all(before[name] == after[name] for name in before.keys() - others)


def test_ids_that_llama_cpp_assumes_are_stated_where_the_file_does_not(dense, few, tmp_path):
    """Without a field it takes token 11 of a byte-level vocabulary for the beginning of a text: which one that is
    must not change with the others."""
    trim(dense, tmp_path / "out", few)
    (new,) = (tmp_path / "out").glob("*.gguf")
    assert "tokenizer.ggml.bos_token_id" not in read_header(dense).fields
    fields = read_header(new).fields
    assert fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.bos_token_id"]] == tokens_of(dense)[11]


def test_the_header_of_a_file_that_does_not_change_is_that_of_the_file(dense):
    head, _ = packed_header(read_header(dense), {}, lambda tensor: tensor.shape)
    assert dense.read_bytes().startswith(head)


def test_the_same_inputs_give_the_same_bytes(dense, few, tmp_path):
    for name in ("one", "other"):
        trim(dense, tmp_path / name, few)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


def test_a_file_stays_in_its_parts(few, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_random_gguf(path, "llama", CONFIG_MAPPING["llama"](**SIZES), byte_level_tokenizer(ROWS), head=True)
    whole = trim(path, tmp_path / "whole", few)
    header = read_header(path)
    names = list(header.tensors)
    for number, part in enumerate((names[:3], names[3:9], names[9:])):
        writer = gguf.GGUFWriter(tmp_path / f"split-{number + 1:05d}-of-00003.gguf", "llama")
        if number == 0:
            write_fields(writer, CONFIG_MAPPING["llama"](**SIZES), byte_level_tokenizer(ROWS))
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(names))
        reader = gguf.GGUFReader(path)
        for tensor in reader.tensors:
            if tensor.name in part:
                writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    report = trim(tmp_path / "split-00002-of-00003.gguf", tmp_path / "out", few)
    assert [*report.files] == [f"split-trimmed-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    assert report.tables == whole.tables and report.copied_sha256 == whole.copied_sha256
    (tmp_path / "split-00003-of-00003.gguf").unlink()
    with pytest.raises(FlabError, match="is one part of 3, and split-00003-of-00003.gguf is missing"):
        trim(tmp_path / "split-00001-of-00003.gguf", tmp_path / "other", few)


# --- which tokens stay


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(280, 570), multiple=st.sampled_from([None, 8, 64]))
def test_any_number_of_tokens(dense, few, tmp_path_factory, size, multiple):
    out = tmp_path_factory.mktemp("any") / "out"
    report = trim(dense, out, changed(few, vocab_size=size, vocabulary={"pad_to_multiple_of": multiple}))
    kept = PruningPlan.load(out).kept_tokens
    expected = min(-(-size // (multiple or 1)) * (multiple or 1), ROWS)
    assert len(kept) == report.tokens_after == expected
    (new,) = out.glob("*.gguf")
    assert rows_of(new, "output.weight") == [rows_of(dense, "output.weight")[index] for index in kept]
    assert tokens_of(new) == [tokens_of(dense)[index] for index in kept]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.86, 0.999))
def test_a_size_is_met_by_as_many_tokens_as_fit(dense, few, tmp_path_factory, share):
    out, most = tmp_path_factory.mktemp("size") / "out", int(dense.stat().st_size * share)
    report = trim(dense, out, changed(few, target_size=f"{most}B"))
    model = of_gguf.GgufModel(dense)
    kept = PruningPlan.load(out).kept_tokens
    assert report.bytes_after == model.bytes_with(kept) <= most
    assert len(kept) % 8 == 0 and most - report.bytes_after < 3 * (model.size - model.bytes_with(range(ROWS - 8)))


def test_a_size_below_the_least_is_refused_with_what_that_is(dense, few, tmp_path):
    with pytest.raises(FlabError, match=r"target_size: with the \d+ tokens that have to stay it takes \d"):
        trim(dense, tmp_path / "out", changed(few, target_size="10kB"))
    assert not (tmp_path / "out").exists()


def test_a_token_that_is_named_stays(dense, few, tmp_path):
    trim(dense, tmp_path / "out", few)
    gone = tokens_of(dense)[max({*range(ROWS)}.difference(PruningPlan.load(tmp_path / "out").kept_tokens))]
    trim(dense, tmp_path / "named", changed(few, vocabulary={"keep_tokens": [gone]}))
    (new,) = (tmp_path / "named").glob("*.gguf")
    assert gone in tokens_of(new)


# --- plans


def test_a_plan_fits_any_quantisation_of_the_same_model_and_no_other(dense, few, tmp_path):
    trim(dense, tmp_path / "out", few)
    other = tmp_path / "q8.gguf"
    tokenizer = byte_level_tokenizer(ROWS)
    write_random_gguf(
        other, "llama", CONFIG_MAPPING["llama"](**SIZES), tokenizer, kinds=(gguf.GGMLQuantizationType.Q8_0,), head=True
    )
    plan = PruningPlan.load(tmp_path / "out")
    report = trim(other, tmp_path / "again", plan=plan)
    (new,) = (tmp_path / "again").glob("*.gguf")
    assert rows_of(new, "output.weight") == [rows_of(other, "output.weight")[index] for index in plan.kept_tokens]
    assert report.held_out == {} and PruningPlan.load(tmp_path / "again").kept == plan.kept
    strange = tmp_path / "strange.gguf"
    others = byte_level_tokenizer(ROWS, "<|other|>")
    write_random_gguf(strange, "llama", CONFIG_MAPPING["llama"](**SIZES), others, head=True)
    with pytest.raises(FlabError, match="this model has others; name a file of the same model"):
        trim(strange, tmp_path / "no", plan=plan)
    assert not (tmp_path / "no").exists()
    with pytest.raises(FlabError, match="`FlabOptimizer.trim` applies it"):
        apply_plan(None, plan)


# --- refused before anything is written


def with_field(dense, name, value, kind):
    """The dense file in which a field has another value."""
    header = read_header(dense)
    entries = {**header.entries, **({name: GgufField(value, kind, (0, 0))} if name in header.entries else {})}
    head, _ = packed_header(replace(header, entries=entries), {name: value}, lambda tensor: tensor.shape)
    return head + dense.read_bytes()[min(tensor.start for tensor in header.tensors.values()) :]


def test_damaged_and_lying_files_are_refused_with_the_cause(dense, few, tmp_path):
    content, tensors = dense.read_bytes(), read_header(dense).tensors
    start = min(tensor.start for tensor in tensors.values())
    shape = content.index(b"token_embd.weight") + len("token_embd.weight")
    tokens = content.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens")
    blocks = next(name for name, tensor in tensors.items() if tensor.kind.name == "Q8_0")
    width = content.index(blocks.encode()) + len(blocks) + 4

    def put(at, value):
        return content[:at] + value + content[at + len(value) :]

    huge = struct.pack("<Q", 1 << 62)
    faults = {
        "empty": b"",
        "its magic alone": content[:4],
        "half of its header": content[: start // 2],
        "cut before its tensors": content[:start],
        "cut in its last tensor": content[:-100],
        "another magic": b"GGJT" + content[4:],
        "version 99": put(4, struct.pack("<I", 99)),
        "more tensors than there are": put(8, huge),
        "more fields than there are": put(16, huge),
        "a name without end": put(24, huge),
        "a list of no kind": put(tokens + 4, struct.pack("<I", 77)),
        "a list without end": put(tokens + 8, huge),
        "a field twice": content.replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.tokens"),
        "a tensor twice": content.replace(b"blk.0.attn_q.weight", b"blk.1.attn_q.weight"),
        "no dimensions": put(shape, struct.pack("<I", 0)),
        "a hundred dimensions": put(shape, struct.pack("<I", 100)),
        "rows without end": put(shape + 12, huge),
        "rows that end in the middle of a block": put(width, struct.pack("<Q", 33)),
        "a type that nobody knows": put(shape + 20, struct.pack("<I", 250)),
        "a place beyond the end": put(shape + 24, struct.pack("<Q", 1 << 40)),
        "the place of another tensor": put(shape + 24, struct.pack("<Q", 64)),
        "an alignment to nothing": with_field(dense, gguf_header.ALIGNMENT, 0, WHOLE_NUMBER),
        "an alignment without end": with_field(dense, gguf_header.ALIGNMENT, 1 << 31, WHOLE_NUMBER),
        "an alignment to a text": with_field(dense, gguf_header.ALIGNMENT, "x", STRING),
    }
    for fault, content in faults.items():
        path, out = tmp_path / "bad.gguf", tmp_path / "out"
        path.write_bytes(content)
        with pytest.raises(FlabError, match=r"bad\.gguf"):
            trim(path, out, few)
        assert [one.name for one in tmp_path.iterdir()] == ["bad.gguf"], fault


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        (EOS, "x", STRING),
        ("tokenizer.ggml.eog_token_ids", 7, WHOLE_NUMBER),
        ("tokenizer.ggml.model", [1], WHOLE_NUMBER),
        ("tokenizer.ggml.tokens", 7, WHOLE_NUMBER),
        ("tokenizer.ggml.token_type", ["x"], STRING),
        ("llama.vocab_size", "many", STRING),
    ],
)
def test_fields_that_are_not_what_their_names_say_are_refused(dense, few, tmp_path, name, value, kind):
    path = tmp_path / "bad.gguf"
    path.write_bytes(with_field(dense, name, value, kind))
    with pytest.raises(FlabError, match=rf"bad\.gguf' is damaged: {name} is "):
        trim(path, tmp_path / "out", few)
    assert not (tmp_path / "out").exists()


def test_a_header_takes_no_more_memory_than_that_of_any_model(dense, tmp_path, monkeypatch):
    path = tmp_path / "long.gguf"
    path.write_bytes(dense.read_bytes())
    monkeypatch.setattr(gguf_header, "MOST_BYTES", 5000)
    with pytest.raises(FlabError, match=r"long\.gguf' is damaged or truncated"):
        read_header(path)


def test_a_plan_that_lacks_what_a_model_names_is_refused(dense, few, tmp_path):
    trim(dense, tmp_path / "out", few)
    plan, tokens = PruningPlan.load(tmp_path / "out"), tokens_of(dense)
    few_tokens = [index for index in plan.kept_tokens if index != read_header(dense).fields[EOS]]
    lie = tokens_hash([tokens[index] for index in few_tokens], few_tokens)
    lacking = replace(plan, kept={**plan.kept, "vocab": few_tokens}, base_hash=lie, vocab_size=len(few_tokens))
    with pytest.raises(FlabError, match=r"lacks '<\|endoftext\|>', which this model names as a special token"):
        trim(dense, tmp_path / "no", plan=lacking)
    assert not (tmp_path / "no").exists()


def test_neither_what_is_read_nor_what_is_not_ours_is_replaced(dense, few, tmp_path):
    model, notes = tmp_path / "model.gguf", tmp_path / "notes.gguf"
    model.write_bytes(dense.read_bytes())
    notes.write_text("mine")
    with pytest.raises(ConfigurationError, match="is read by this run"):
        trim(model, model, few, overwrite=True)
    with pytest.raises(FlabError, match="was not written by a trim"):
        trim(model, notes, few, overwrite=True)
    assert model.read_bytes() == dense.read_bytes() and notes.read_text() == "mine"
    with pytest.raises(ConfigurationError, match="names one GGUF file, and .* is none; name a folder"):
        trim(tmp_path / "a-00001-of-00002.gguf", tmp_path / "new.gguf", few)
    trim(model, tmp_path / "out", few)
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\nWritten by me."))
    trim(model, tmp_path / "out", few, overwrite=True)
    assert "Written by me." in card.read_text()
    done = flab("apply", "-m", model, "--plan", tmp_path / "out", tmp_path / "out", "--overwrite")
    assert done.code == 2 and "which this run reads" in done.err


def with_tensors(path, dense, **tensors):
    """The dense file with other tensors added, or its own in another shape."""
    writer = gguf.GGUFWriter(path, "llama")
    write_fields(writer, CONFIG_MAPPING["llama"](**SIZES), byte_level_tokenizer(ROWS))
    for tensor in gguf.GGUFReader(dense).tensors:
        if tensor.name not in tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for name, values in tensors.items():
        if values is not None:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_is_not_known_to_be_cut_is_refused(dense, few, tmp_path):
    path, out = tmp_path / "odd.gguf", tmp_path / "out"
    with_tensors(path, dense, **{"draft_map": np.zeros(ROWS, dtype=np.float32)})
    with pytest.raises(FlabError, match="draft_map of 600, which may have a row for each of 600 tokens"):
        trim(path, out, few)
    with_tensors(path, dense, **{"output.weight": np.zeros((ROWS + 8, 64), dtype=np.float32)})
    with pytest.raises(FlabError, match="has 600 tokens, but 608 rows in output.weight"):
        trim(path, out, few)
    with_tensors(path, dense, **{"token_embd.weight": None})
    with pytest.raises(FlabError, match="has no token_embd.weight, so there is no vocabulary to trim"):
        trim(path, out, few)
    assert not out.exists()


def test_a_tokenizer_of_an_unknown_kind_can_be_named(dense, few, tmp_path):
    content = dense.read_bytes().replace(b"gpt-2", b"gpt-9")
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    with pytest.raises(FlabError, match="under the name 'gpt-9', which is not known here; to trim it, name a folder"):
        trim(path, tmp_path / "out", few)
    byte_level_tokenizer(ROWS).save_pretrained(tmp_path / "tokenizer")
    report = trim(path, tmp_path / "out", few, tokenizer=tmp_path / "tokenizer")
    kept, (new,) = PruningPlan.load(tmp_path / "out").kept_tokens, (tmp_path / "out").glob("*.gguf")
    assert rows_of(new, "output.weight") == [rows_of(dense, "output.weight")[index] for index in kept]
    assert "were not compared with llama.cpp's own" in report.notes[0]
    other = byte_level_tokenizer(ROWS, "<|other|>")
    other.save_pretrained(tmp_path / "strange")
    with pytest.raises(FlabError, match="has other tokens than the GGUF file"):
        trim(path, tmp_path / "no", few, tokenizer=tmp_path / "strange")


def test_a_difference_that_ids_do_not_explain_is_refused(dense, few, tmp_path, monkeypatch):
    found, calls = of_gguf.llama_tokens, []

    def one_less(path, texts):
        calls.append(path)
        return [ids[:-1] if len(calls) == 2 else ids for ids in found(path, texts)]

    monkeypatch.setattr(of_gguf, "llama_tokens", one_less)
    with pytest.raises(FlabError, match="llama.cpp would tokenise .* which the tokens that go do not explain"):
        trim(dense, tmp_path / "out", few)
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays_unless_it_may_be_replaced(dense, few, tmp_path):
    out, file = tmp_path / "out", tmp_path / "small.gguf"
    trim(dense, out, few)
    trim(dense, file, few)
    before = {path: path.read_bytes() for path in [*out.iterdir(), *tmp_path.glob("small*")]}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "small.gguf", "small.flab_plan.json"}
    with pytest.raises(FlabError, match="exists and is not empty"):
        trim(dense, out, few)
    with pytest.raises(ConfigurationError, match=r"small.gguf' already exists"):
        trim(dense, file, few)
    assert {path: path.read_bytes() for path in before} == before
    trim(dense, out, changed(few, vocab_size=300), overwrite=True)
    trim(dense, file, changed(few, vocab_size=300), overwrite=True)
    assert len(tokens_of(file)) == Checkpoint(out).trim.tokens_after == 300
    (out / "mine.txt").write_text("mine")
    with pytest.raises(FlabError, match="mine.txt, which is no part of a trimmed model"):
        trim(dense, out, few, overwrite=True)


def test_a_disk_without_room_is_said_before(dense, few, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000})())
    with pytest.raises(FlabError, match="the trimmed files take .* and the disk .* has 0 MB free"):
        trim(dense, tmp_path / "out", few)
    assert not (tmp_path / "out").exists()


# --- the command


def arguments(corpus):
    return ["--corpus", corpus, "--coverage", "1", "--keep-merges", "0"]


def test_the_command_says_what_it_did_and_how_it_ends(dense, corpus, tmp_path):
    done = flab("trim", "-m", dense, tmp_path / "out", *arguments(corpus))
    assert done.code == 0, done.err
    assert "600 -> " in done.out and "byte for byte" in done.out and "stay whole" in done.out
    assert f"written to {tmp_path / 'out'}" in done.out
    again = flab("trim", "-m", dense, tmp_path / "out", *arguments(corpus))
    assert again.code == 1 and "--overwrite" in again.err
    assert flab("trim", "-m", tmp_path / "none.gguf", tmp_path / "new", *arguments(corpus)).code == 1
    assert flab("trim", "-m", dense, tmp_path / "new", "--coverage", "2").code == 2
    assert flab("trim", "-m", dense, tmp_path / "new", "--target-size", "1MB", "--vocab-size", "300").code == 2
    as_json = flab("trim", "-m", dense, tmp_path / "json", *arguments(corpus), "--json")
    assert json.loads(as_json.out)["tokens_before"] == ROWS
    applied = flab("apply", "-m", dense, "--plan", tmp_path / "out", tmp_path / "applied")
    assert applied.code == 0, applied.err
    names = [path.name for path in (tmp_path / "out").glob("*.gguf")]
    assert (tmp_path / "out" / names[0]).read_bytes() == (tmp_path / "applied" / names[0]).read_bytes()


@pytest.mark.parametrize("number", thorough_but(1, [1, 0, 2, 3]))
def test_killed_at_any_moment_it_leaves_nothing_or_all(dense, corpus, tmp_path, number):
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", "trim", "-m", str(dense)]
    run = subprocess.Popen([*command, str(tmp_path / "out"), *arguments(corpus)], stdout=subprocess.PIPE)
    time.sleep(0.5 + 1.5 * number)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    names = {path.name for path in (tmp_path / "out").glob("*")} - {".flab-output"}
    assert not names or Checkpoint(tmp_path / "out").trim.tokens_after < ROWS
    assert flab("trim", "-m", dense, tmp_path / "out", *arguments(corpus), "--overwrite").code == 0
    assert ".flab-output" not in {path.name for path in (tmp_path / "out").iterdir()}
