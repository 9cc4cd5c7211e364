"""The notebook among the examples does what it says, cell after cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


NOTEBOOK = Path(__file__).parents[2] / "examples" / "prune_to_push.ipynb"
DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}


def run(folder: Path, monkeypatch, capsys, hub, **changes: str) -> None:
    """Runs all cells as one script in a folder, with other texts in place of some."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    script = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    for old, new in changes.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    before = dict(hub.repositories)
    monkeypatch.chdir(folder)
    exec(compile(script, str(NOTEBOOK), "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert "--- dense\ndef fibonacci(n):" in shown and "--- pruned\ndef fibonacci(n):" in shown
    assert "def is_prime(n):" in shown and "bits per byte" in shown
    assert "nothing was sent (dry run)" in shown and hub.repositories == before
    assert (folder / "demo-out" / "flab_report.html").is_file() and (folder / "demo-out.gguf").is_file()


def test_every_cell_runs_on_a_tiny_model(checkpoint, tmp_path, hub, monkeypatch, capsys):
    dense = checkpoint("qwen2").with_name("tiny-qwen2")
    data = {**DATA, "corpus": [str(dense.with_name("corpus.jsonl"))]}
    changes = {
        'MODEL = "flab-demo"': f"MODEL = {str(dense)!r}",
        '"google/gemma-3-270m", "gemma"': '"someone/tiny", "apache-2.0"',
        "target_ratio=0.5), s": f"target_ratio=0.3, ffn={ {'multiple_of': 4} }, data={data}), s",
    }
    run(tmp_path, monkeypatch, capsys, hub, **changes)


@pytest.mark.thorough
def test_every_cell_runs_on_the_embedded_model(tmp_path, hub, monkeypatch, capsys):
    run(tmp_path, monkeypatch, capsys, hub)
