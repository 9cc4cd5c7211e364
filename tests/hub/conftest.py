from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, TEXTS, byte_level_tokenizer, tiny_model
from hub.faults import talking_to
from hub.loopback import Hub
from transformers import AutoTokenizer

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.hub import card
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.report import report_text
from optimum_flab.settings.hub import CardSettings


FIVE_FAMILIES = [family for family in FAMILIES if family != "llama-bias"]
DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 2000}
# what a training of a tiny model reported
RECOVERED = Path(__file__).parent.parent / "records" / "models" / "recovered" / "flab_report.json"
BASE_CARD = """---
license: apache-2.0
license_link: https://huggingface.co/someone/tiny/blob/main/LICENSE
language:
- en
---
# tiny

```
@misc{tiny2024, title = {A tiny model}, author = {Someone}}
```
"""


@pytest.fixture(scope="session")
def _serving(tmp_path_factory):
    with Hub().serving() as server, talking_to(server, str(tmp_path_factory.mktemp("hub"))):
        yield server


@pytest.fixture
def hub(_serving):
    """A Hub without repositories, which the library takes for the real one."""
    _serving.reset()
    return _serving


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Gives the folder of a tiny pruned model of a family, made through the front door."""
    made = {}
    root = tmp_path_factory.mktemp("checkpoints")
    (root / "corpus.jsonl").write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))

    def make(family):
        if family not in made:
            tokenizer = byte_level_tokenizer(600)
            ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            dense = root / f"tiny-{family}"
            model = tiny_model(family, vocab_size=608, initializer_range=0.1, **ids).to(torch.bfloat16)
            model.generation_config.eos_token_id = tokenizer.eos_token_id
            model.save_pretrained(dense)
            tokenizer.save_pretrained(dense)
            AutoTokenizer.from_pretrained(dense).save_pretrained(dense)
            (dense / "README.md").write_text(BASE_CARD, encoding="utf-8")
            (dense / "LICENSE").write_text("terms\n", encoding="utf-8")
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # matrices this small wait for threads more than they compute
            optimizer = FlabOptimizer.from_pretrained(dense)
            config = FlabPrunerConfig(
                data={**DATA, "corpus": [str(root / "corpus.jsonl")]},
                vocabulary={"keep_merges": 20},
                intermediate_size=48,
                ffn={"multiple_of": 4},
                num_hidden_layers=3,
            )
            optimizer.prune(config)
            optimizer.save_pretrained(root / f"out-{family}")
            torch.set_num_threads(threads)
            made[family] = root / f"out-{family}"
        return made[family]

    return make


@pytest.fixture
def pruned(checkpoint, tmp_path):
    """A copy of a tiny pruned model, to be changed."""
    return shutil.copytree(checkpoint("qwen2"), tmp_path / "pruned")


@pytest.fixture
def report(pruned):
    return json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path.parent


def change_json(path, **changes):
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def write_report(folder, report):
    (folder / "flab_report.json").write_text(report_text(report), encoding="utf-8")


def write_card(folder, **settings):
    """Writes the card of a folder, as `flab card` does; returns what the user is told."""
    return card.write_card(Checkpoint(folder, settings.get("results")), CardSettings(**settings))


def recovery_of(**changes):
    """The section of a report about a training, as one was written, but for some fields."""
    section = json.loads(RECOVERED.read_text(encoding="utf-8"))["recovery"]
    return {**section, "command": None, "notes": [], **changes}


def evaluation_of(report, **changes):
    """An evaluation file of a checkpoint and its dense model, as it is written."""
    rows = [
        ("humaneval", "pass@1", True, 164, 0.4, [0.3, 0.5], 0.39, [0.31, 0.47], 0.975, [0.9, 1.1]),
        ("perplexity", "bits_per_byte", False, 90, 0.41, None, 0.45, None, 1.097, None),
        ("recode", "robustness_drop", False, 20, 0.0, None, None, None, None, None),
    ]
    dense, pruned = report["base_model"]["weights_sha256"], report["weights_sha256"]
    return {
        "models": {
            "dense": {"name": "/data/somebody/dense", "weights_sha256": dense, "dtype": "bfloat16"},
            "pruned": {"name": "/data/somebody/out", "weights_sha256": pruned, "dtype": "bfloat16"},
        },
        "scores": [
            {
                **dict(zip(("task", "metric", "higher_is_better", "problems"), row[:4], strict=True)),
                "dense": {"value": row[4], "interval_95": row[5]},
                "pruned": {"value": row[6], "interval_95": row[7]},
                "retention": {"value": row[8], "interval_95": row[9]},
            }
            for row in rows
        ],
        "settings": {
            "limit": None,
            "samples": 1,
            "seed": 0,
            "data": {"humaneval": ["/data/somebody/HumanEval.jsonl"]},
        },
        "versions": {"python": "3.11", "lm_eval": "0.4.13"},
        **changes,
    }


def efficiency_of(report, folder, **changes):
    """An efficiency file of a checkpoint and its dense model, as it is written."""
    spread = {"median": 12.5, "lower_quartile": 12.0, "upper_quartile": 13.0, "repeats": 5}

    def row(metric, unit, baseline, model, ratio):
        return {
            **{"metric": metric, "unit": unit, "better": "lower"},
            **{"baseline": baseline, "model": model, "ratio": ratio},
        }

    measured = {
        **{"name": "x", "dtype": "bfloat16", "peak_rss_bytes": 3, "rss_before_loading_bytes": 1},
        **{"flops_per_token": {"prefill": 1.5, "decode": 2}, "time_to_first_token": {"1": spread}},
        **{"tokens_per_second": {"1": spread}, "runs": {"1": [{"first_token": 1.0, "last_token": 2.0}]}},
    }
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    return {
        "workload": {"prompt_tokens": 128, "new_tokens": 32, "repeats": 5},
        "device": "cpu",
        "machine": "a processor, 2 threads",
        "table": [
            row("parameters", "", 5000, 4000, 0.8),
            row("generation, batch 1", "tokens/s", spread, spread, 1.0),
            row("CO2e per 1000 tokens, estimate", "g", 0.5, 0.4, 0.8),
        ],
        "models": {
            "baseline": {**measured, "parameters": report["dense"]["parameters"], "checkpoint_bytes": 1},
            "model": {**measured, "parameters": report["pruned"]["parameters"], "checkpoint_bytes": size},
        },
        "notes": ["energy is an estimate"],
        "versions": {},
        **changes,
    }
