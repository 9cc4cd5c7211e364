"""What the files in `examples/` do; those with more to say have a test file of their own, which names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimum_flab import FlabOptimizer
from optimum_flab.export import export_gguf

from .conftest import byte_level_tokenizer, flab, script, small_config, tiny_model


TESTS, EXAMPLES = Path(__file__).parent, Path(__file__).parents[1] / "examples"


@pytest.fixture
def dense(tmp_path):
    tokenizer = byte_level_tokenizer(600)
    tiny_model("llama", 608, initializer_range=0.1).save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_a_model_is_pruned_and_both_are_asked(dense, tmp_path, monkeypatch, capsys):
    example = script(EXAMPLES / "prune.py")
    monkeypatch.setattr(example, "FlabPrunerConfig", lambda **asked: small_config(tmp_path, **asked))
    example.main(str(dense), str(tmp_path / "out"))
    shown = capsys.readouterr().out
    assert "--- dense\ndef fibonacci(n):" in shown and "--- pruned\ndef fibonacci(n):" in shown
    assert FlabOptimizer.from_pretrained(tmp_path / "out").dense.model.num_parameters() > 0


def test_a_gguf_file_continues_a_text(dense, tmp_path, capfd):
    pytest.importorskip("llama_cpp_py_sync")
    export_gguf(FlabOptimizer.from_pretrained(dense).dense, tmp_path / "model.gguf")
    capfd.readouterr()
    script(EXAMPLES / "complete_gguf.py").main(str(tmp_path / "model.gguf"), "def fibonacci(n):")
    shown = capfd.readouterr().out
    assert shown.startswith("def fibonacci(n):") and len(shown) > len("def fibonacci(n):\n")


def test_the_references_of_the_task_pass():
    asked = ["--tasks", "word_problems", "--include-path", EXAMPLES / "tasks", "--confirm-run-unsafe-code"]
    ended = flab("eval", "--check-references", *asked)
    assert (ended.code, ended.out) == (0, "word_problems: 2 of 2 reference solutions pass\n")


def test_each_example_is_run_by_a_test():
    tests = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    missing = [path.name for path in EXAMPLES.iterdir() if path.is_file() and f'"{path.name}"' not in tests]
    missing += [path.name for path in EXAMPLES.glob("tasks/*.yaml") if f'"{path.stem}"' not in tests]
    assert not missing
