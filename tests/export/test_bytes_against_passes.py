"""The benchmark of GGUF files: what is written, whose passes are whose, and what is taken up."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings
from optimum_flab.utils.hashing import file_sha256

from ..conftest import PROSE, TEXTS, byte_level_tokenizer, script
from ..llama import LlamaFile
from .test_weights import saved, tiny


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bytes_against_passes.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return script(SCRIPT)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models in files of the same name, and a copy of the second."""
    folder, paths = tmp_path_factory.mktemp("files"), []
    for number, family in enumerate(("llama", "qwen2")):
        paths.append(folder / str(number) / "model.gguf")
        paths[-1].parent.mkdir()
        model = saved(tiny(family), byte_level_tokenizer(600), folder / f"model{number}")
        export_gguf(model, paths[-1], ExportSettings(type="f32"))
    return [*map(str, paths), str(shutil.copy(paths[1], folder / "copy.gguf"))]


def run(benchmark, capsys, files, *arguments):
    labelled = [f"{number}={file}" for number, file in enumerate(files)]
    sys.argv = ["bytes_against_passes.py", *labelled, *map(str, arguments)]
    benchmark.main()
    return json.loads(capsys.readouterr().out)["rows"]


def test_files_are_told_apart_by_their_content(benchmark, files, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    kept = tmp_path / "measured.json"
    options = ["--work", tmp_path, "--limit", 1, "--tasks", "humaneval"]
    rows = run(benchmark, capsys, files, *options, "--max-new-tokens", 2)
    assert [(row["model"], row["type"]) for row in rows] == [("0", "file"), ("1", "file"), ("2", "file")]
    known = json.loads(kept.read_text("utf-8"))
    assert sorted(known.values()) == [[False], [False]]  # one for each content
    # what is known is taken up, and the first file is compared with by what itself passed
    (second,) = [key for key in known if file_sha256(Path(files[1])) in key]
    kept.write_text(json.dumps({**known, second: [True]}), "utf-8")
    rows = run(benchmark, capsys, files[:2], *options, "--max-new-tokens", 2)
    assert [row["humaneval"]["passes"] for row in rows] == [0, 1]
    # asked for other completions, files are asked again
    (row,) = run(benchmark, capsys, files[1:2], *options, "--max-new-tokens", 1)
    assert row["humaneval"]["passes"] == 0 and len(json.loads(kept.read_text("utf-8"))) == 3


def test_how_gaps_are_asked_for_decides_what_is_taken_up(benchmark):
    keys = {
        benchmark.key_of("0", name, benchmark.task_of(name, limit, template, 8))
        for template in ("<a>{prefix}<b>{suffix}<c>", "<d>{prefix}<e>{suffix}<f>")
        for limit in (1, 2)
        for name in ("infilling", "humaneval")
    }
    assert len(keys) == 4 + 2  # programs are asked for without gaps


@pytest.mark.parametrize("batch", [7, 512])
def test_bits_per_byte_are_those_of_the_model(batch, benchmark, files, monkeypatch):
    monkeypatch.setattr(sys.modules["llama_writer"], "BATCH", batch)
    folder = Path(files[0]).parents[1] / "model0"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    bits = 0.0
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            bits += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1) / math.log(2)
    expected = bits / sum(len(text.encode()) for text in TEXTS)
    assert benchmark.bits_per_byte(files[0], TEXTS, 1) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("parallel", [1, 3])
def test_what_is_written_is_most_likely_up_to_a_stop(parallel, benchmark, files):
    # after these no two tokens are nearly as likely; they begin alike, and so much is not read again
    prompts = [TEXTS[1][:30], TEXTS[1], TEXTS[1][:60], TEXTS[1][:60], PROSE[1][:20], TEXTS[0][:10], PROSE[0][:40]]
    with LlamaFile(files[0]) as file:
        tokens = [file.complete(file.tokenize(prompt), 12) for prompt in prompts]
        expected = [b"".join(map(file.piece, ids)).decode(errors="ignore") for ids in tokens]
    with benchmark.Writer(files[0], 1, parallel, 128) as writer:
        assert writer.completions(prompts, [], 12) == expected
        for stops in (list("aeiou"), [text[len(text) // 2 :][:3] for text in expected]):
            cut = [text[: min(text.find(stop) for stop in stops if stop in text)] for text in expected]
            assert writer.completions(prompts, stops, 12) == cut
        with pytest.raises(SystemExit, match="prompt 1 has 120 tokens, too many for 128"):
            writer.completions([PROSE[0], "0" * 120], [], 12)


def test_lines_are_filled_in_and_a_completion_is_timed(benchmark, files, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    options = ["--work", tmp_path, "--repeats", 1, "--limit", 1, "--tasks", "infilling", "--threads", 1]
    (found,) = run(benchmark, capsys, files[:1], *options)
    assert 0 < found["milliseconds"]["first_token"] < found["milliseconds"]["completion"]
    assert found["infilling"]["passes"] <= found["infilling"]["of"] > 1
    Path(files[0]).with_name("none.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match="none.gguf: llama.cpp cannot read this file"):
        run(benchmark, capsys, [Path(files[0]).with_name("none.gguf")], *options)
