"""The notebook among the examples does what it says, cell after cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .client import execute


NOTEBOOK = Path(__file__).parents[2] / "examples" / "prune_to_push.ipynb"
DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def as_script(folder: Path, **changes: str) -> str:
    """All cells as one script that runs in a folder, with other texts in place of some."""
    script = "\n".join([f"import os\nos.chdir({str(folder)!r})", *cells()])
    for old, new in changes.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return script


def check(found, folder: Path, hub, before) -> None:
    found.result()
    assert "--- dense\ndef fibonacci(n):" in found.output and "--- pruned\ndef fibonacci(n):" in found.output
    assert "def is_prime(n):" in found.output and "bits_per_byte" in found.output
    assert "nothing was sent (dry run)" in found.output and hub.repositories == before
    assert (folder / "demo-out" / "flab_report.html").is_file() and (folder / "demo-out.gguf").is_file()


def test_every_cell_runs_on_a_tiny_model(checkpoint, tmp_path, hub, client):
    checkpoint("qwen2")  # beside which is the dense one
    dense = checkpoint("qwen2").with_name("tiny-qwen2")
    data = {**DATA, "corpus": [str(dense.with_name("corpus.jsonl"))]}
    changes = {
        'MODEL = "flab-demo"': f"MODEL = {str(dense)!r}",
        '"google/gemma-3-270m", "gemma"': '"someone/tiny", "apache-2.0"',
        "target_ratio=0.5))\n": f"target_ratio=0.3, ffn={ {'multiple_of': 4} }, data={data}))\n",
    }
    before = dict(hub.repositories)
    check(client(execute, as_script(tmp_path, **changes)), tmp_path, hub, before)


@pytest.mark.thorough
def test_every_cell_runs_on_the_embedded_model(tmp_path, hub, client):
    before = dict(hub.repositories)
    check(client(execute, as_script(tmp_path)), tmp_path, hub, before)
