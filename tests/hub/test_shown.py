"""Everything that card, page and terminal say of four models, word for word: what is wanted is in `shown/`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub.conftest import change_json, efficiency_of, evaluation_of, write_json

from optimum_flab.hub import provenance
from optimum_flab.hub.card import CardRequest, render_card
from optimum_flab.records import verdict
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.comparison import comparison_text, read_models
from optimum_flab.records.summary import report_summary
from optimum_flab.settings.hub import TermsSettings


MODELS = Path(__file__).parents[1] / "records" / "models"
SHOWN = Path(__file__).with_name("shown")


def recovered(folder, report):
    """Its pruning measured several kinds of text; it was evaluated and timed beside the dense model."""
    cost = {"texts": 3, "bytes": 900, "positions": 1400, "dense_bits_per_byte": 3.25, "pruned_bits_per_byte": 3.5}
    kinds = {"own": {**cost, "divergence": 0.25}, "library": {**cost, "divergence": 0.75}}
    change_json(folder / "flab_report.json", notes=["a note with a /data/somebody/file.jsonl"], recovery={
        **report["recovery"],
        "pruning_held_out": {**report["held_out"], "by_kind": kinds},
        "settings": {**report["recovery"]["settings"], "data": ["/home/me/x.jsonl", "owner/taught"]},
        "datasets": ["owner/taught"],
        "notes": ["stopped early"],
    })  # fmt: skip
    settings = {"limit": 20, "samples": 5, "temperature": 0.8, "seed": 3, "max_new_tokens": 512}
    protocols = {"humaneval": "one greedy completion"}
    write_json(folder / "flab_evaluation.json", evaluation_of(report, settings=settings, protocols=protocols))
    write_json(folder / "flab_efficiency.json", efficiency_of(report, folder))


def searched(folder, report):
    """Its programs can be judged by those of its family, and so can those of its files; everything was measured by
    kind, token and layer. The matrices of a file have formats of their own."""
    held_out = report["held_out"]
    names = ("texts", "bytes", "positions", "divergence", "dense_bits_per_byte", "pruned_bits_per_byte")
    cost = {name: held_out[name] for name in names}
    measured = {
        **held_out,
        "by_kind": {"problems": {**cost, "divergence": 0.13}, "own": cost, "odd|kind": {**cost, "divergence": 0.0}},
        "by_token": {"names": {"positions": 1000, "divergence": 0.5}, "digits": {"positions": 10, "divergence": 0.0}},
        "by_layer": [{"layer": 0, "drift": 0.1}, {"layer": 2, "drift": 0.2}],
    }
    base = {**report["base_model"], "name": "Qwen/Qwen2.5-Coder-0.5B"}
    completions = [{"prompt": "def f(", "dense": "x):", "pruned": "\ny):"}]
    file = {"name": "a-q4_k_m.gguf", "type": "q4_k_m", "bytes": 231_400_000, "sha256": "0" * 64, "against": "dense"}
    kinds = {"problems": {**cost, "divergence": 0.016}}
    files = [{**file, "cost": cost, "by_kind": kinds}]
    other = {"against": "source", "cost": {**cost, "positions": 1_460}}
    formats = {"ffn_down": {"IQ4_XS": 1, "Q4_K": 3}, "attn_q": {"IQ4_NL": 4}}
    mixed = {"type": "mixture", "formats": formats, "bits_per_weight": 4.31}
    files.append({**file, **other, **mixed, "name": "b.gguf"})
    changes = {"completions": completions, "files": files}
    rounded = {"validation_rounding_bits_per_byte": 0.007}
    candidates = [{**one, **rounded} for one in report["search"]["candidates"]]
    changes["search"] = {**report["search"], "candidates": candidates}
    change_json(folder / "flab_report.json", held_out=measured, base_model=base, **changes)


def experts(folder, report):
    """Its vocabulary was decided by counts and a preset too; its evaluation had another baseline, its timing none."""
    text = {"file": "a.npz", "sha256": "0" * 64, "sources": ["owner/code[text]"], "texts": 3, "bytes": 99}
    counts = [{**text, "tokens": 40, "whole_tokens": 39, "datasets": ["owner/code"]}] * 10
    texts = {**report["texts"], "counts": counts, "preset_words": 20, "preset_words_cut_differently": 2}
    texts |= {"corpus_cut_differently": 1, "calibration_by_kind": {"own": 2, "odd|kind": 3}}
    change_json(folder / "flab_report.json", texts=texts, datasets=["owner/code"])
    data = json.loads((folder / "flab_config.json").read_text(encoding="utf-8"))["data"]
    change_json(folder / "flab_config.json", data={**data, "counts": ["/data/a.npz"], "preset": "web"})
    evaluation = evaluation_of(report)
    evaluation["models"]["dense"]["weights_sha256"] = "f" * 64
    write_json(folder / "flab_evaluation.json", evaluation)
    efficiency = efficiency_of(report, folder, table=[])
    efficiency["models"]["baseline"] |= {"parameters": 1, "dtype": "float32"}
    write_json(folder / "flab_efficiency.json", efficiency)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Copies of the models, beside each other in the current folder."""
    monkeypatch.setattr(provenance, "unevaluated_tasks", lambda evaluations: ["mbpp"])  # a new task changes nothing
    measured = [
        verdict.Measured(model="Qwen2.5-Coder-0.5B", label=label, divergence=divergence, share=share)
        for label, divergence, share in (("with a smaller vocabulary", 0.0, 1.0), ("at 0.26", 0.029, 0.91))
    ]
    known = verdict.KnownFamily(measured=measured)
    monkeypatch.setattr(verdict, "family_of", lambda name, body: known if "Qwen" in name else None)
    monkeypatch.chdir(tmp_path)
    for source in MODELS.iterdir():
        folder = shutil.copytree(source, tmp_path / source.name)
        change = {"experts": experts, "recovered": recovered, "searched": searched}.get(source.name)
        if change is not None:
            change(folder, json.loads((folder / "flab_report.json").read_text(encoding="utf-8")))
    return tmp_path


def check(texts, tmp_path):
    """What differs is written to a folder, where it can be looked at and copied from."""
    new = {name: text for name, text in texts.items() if text != (SHOWN / name).read_text(encoding="utf-8")}
    for name, text in new.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert not new, f"diff -r {SHOWN} {tmp_path}; if that is wanted, copy {', '.join(new)} from there"


@pytest.mark.parametrize("name", ["applied", "experts", "recovered", "searched"])
def test_what_is_shown_of_a_model_is_what_was_wanted(models, name):
    checkpoint = Checkpoint(models / name)
    card = render_card(checkpoint, CardRequest(TermsSettings(), ask_hub=False))
    texts = {"card.md": card.text, "page.html": card.page, "summary.txt": report_summary(checkpoint.report)}
    check({f"{name}.{kind}": text for kind, text in texts.items()}, models)


def test_models_side_by_side_are_shown_as_was_wanted(models):
    check({"compared.md": comparison_text(read_models(["applied", "experts", "recovered", "searched"]))}, models)
