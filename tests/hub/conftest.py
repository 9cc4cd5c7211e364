from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, TEXTS, byte_level_tokenizer, tiny_model
from hub.client import clients
from hub.loopback import Hub
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab import FlabOptimizer, FlabPrunerConfig


FIVE_FAMILIES = [family for family in FAMILIES if family != "llama-bias"]
DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 2000}
MEASURED = {"divergence": 0.2, "pruned_bits_per_byte": 0.5, "positions": 300}
# what a training of a tiny model reported
RECOVERED = Path(__file__).parent.parent / "records" / "format1" / "recovered" / "flab_report.json"
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
    with Hub().serving() as server, clients(server, tmp_path_factory.mktemp("home")) as client:
        yield server, client


@pytest.fixture
def hub(_serving):
    """A Hub without repositories."""
    _serving[0].reset()
    return _serving[0]


@pytest.fixture
def client(_serving, hub):
    """Calls functions against it, each in a process of its own."""
    return _serving[1]


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
                ffn={"multiple_of": 4, "intermediate_size": 48},
                layers={"num_hidden_layers": 3},
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


@pytest.fixture
def recovered(pruned):
    """A pruned model beside which an adapter was kept, as `flab recover --keep-adapter` leaves it."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.save_pretrained(pruned / "adapter")
    path = pruned / "flab_report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    before = {**report["held_out"], **MEASURED}
    report["recovery"] = recovery_of(held_out_before=before, held_out_after={**before, "divergence": 0.1})
    path.write_text(json.dumps(report), encoding="utf-8")
    return pruned


def recovery_of(**changes):
    """The section of a report about a training, as one was written, but for some fields."""
    section = json.loads(RECOVERED.read_text(encoding="utf-8"))["recovery"]
    return {**section, "command": None, "notes": [], **changes}


def evaluation_of(report, **changes):
    """An evaluation file of a checkpoint and its dense model, as the harness writes them."""
    from optimum_flab.evaluation.comparison import Comparison
    from optimum_flab.measuring.scores import Score

    rows = [
        Comparison(
            "humaneval",
            "pass@1",
            True,
            164,
            Score(0.39, (0.31, 0.47)),
            Score(0.4, (0.3, 0.5)),
            Score(0.975, (0.9, 1.1)),
        ),
        Comparison("perplexity", "bits_per_byte", False, 90, Score(0.45), Score(0.41), Score(1.097)),
        Comparison("recode", "robustness_drop", False, 20, Score(float("nan")), Score(0.0), Score(float("nan"))),
    ]
    dense, pruned = report["base_model"]["weights_sha256"], report["weights_sha256"]
    return {
        "models": {
            "dense": {"name": "/data/somebody/dense", "weights_sha256": dense, "dtype": "bfloat16"},
            "pruned": {"name": "/data/somebody/out", "weights_sha256": pruned, "dtype": "bfloat16"},
        },
        "scores": [row.to_dict() for row in rows],
        "settings": {
            "limit": None,
            "samples": 1,
            "seed": 0,
            "data": {"humaneval": ["/data/somebody/HumanEval.jsonl"]},
        },
        "versions": {"python": "3.11", "lm_eval": "0.4.13"},
        **changes,
    }


def efficiency_of(report, size, **changes):
    """An efficiency file of a checkpoint and its dense model, as the meter writes them."""
    spread = {"median": 12.5, "lower_quartile": 12.0, "upper_quartile": 13.0, "repeats": 5}
    return {
        "workload": {"prompt_tokens": 128, "new_tokens": 32, "repeats": 5},
        "device": "cpu",
        "machine": "a processor, 2 threads",
        "table": [
            {"metric": "parameters", "unit": "", "better": "lower", "baseline": 5000, "model": 4000, "ratio": 0.8},
            {
                "metric": "generation, batch 1",
                "unit": "tokens/s",
                "better": "higher",
                "baseline": spread,
                "model": spread,
                "ratio": 1.0,
            },
            {
                "metric": "CO2e per 1000 tokens, estimate",
                "unit": "g",
                "better": "lower",
                "baseline": 0.5,
                "model": 0.4,
                "ratio": 0.8,
            },
        ],
        "models": {
            "baseline": {"parameters": report["dense"]["parameters"], "checkpoint_bytes": 1},
            "model": {"parameters": report["pruned"]["parameters"], "checkpoint_bytes": size},
        },
        "notes": ["energy is an estimate"],
        "versions": {},
        **changes,
    }
