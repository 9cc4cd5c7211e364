"""The whole way on a tiny model: real data files, real sandbox, real training, real checkpoints."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab import ConfigurationError, FlabError, FlabOptimizer, RecoveryConfig
from optimum_flab.loading import weights_hash


SMALL = {
    "sequence_length": 96,
    "max_new_tokens": 24,
    "rank": 4,
    "learning_rate": 5e-3,
    "max_steps": 8,
    "batch_size": 4,
    "evaluations": 2,
    "dtype": "float32",
    "validation_share": 0.2,
    "closed_form_tokens": 1024,
}


def optimizer_for(made) -> FlabOptimizer:
    optimizer = FlabOptimizer.from_pretrained(made / "dense")
    optimizer.load_pruned(made / "pruned")
    return optimizer


def config_for(made, *, data=("problems.jsonl", "alpaca.json"), **changes) -> RecoveryConfig:
    held_out = [f"{made / 'held_out.jsonl'}[text]"]
    return RecoveryConfig(**{"data": [str(made / name) for name in data], "held_out": held_out, **SMALL, **changes})


def recovered(made, **changes):
    optimizer = optimizer_for(made)
    optimizer.recover(config_for(made, **changes), confirm_run_unsafe_code=True, cache_dir=made / "cache")
    return optimizer


def test_recovery_gives_a_stock_checkpoint_nearer_to_the_dense_model(made):
    optimizer = recovered(made, keep_adapter=True)
    optimizer.save_pretrained(made / "recovered")
    loaded = AutoModelForCausalLM.from_pretrained(made / "recovered")
    before = AutoModelForCausalLM.from_pretrained(made / "pruned")
    report = json.loads((made / "recovered" / "flab_report.json").read_text())
    section = report["recovery"]
    assert section["held_out_after"]["divergence"] < section["held_out_before"]["divergence"]
    assert report["held_out"] == section["held_out_after"]
    assert report["weights_sha256"] == weights_hash(loaded) != weights_hash(before)
    assert {k: tuple(v.shape) for k, v in loaded.state_dict().items()} == {
        k: tuple(v.shape) for k, v in before.state_dict().items()
    }
    for name in ("config.json", "generation_config.json", "flab_plan.json", "tokenizer.json", "flab_config.json"):
        assert (made / "recovered" / name).read_bytes() == (made / "pruned" / name).read_bytes(), name
    assert AutoTokenizer.from_pretrained(made / "recovered").chat_template
    assert (made / "recovered" / "flab_recovery_loss.png").read_bytes()[:4] == b"\x89PNG"
    assert (made / "recovered" / "adapter" / "adapter_model.safetensors").is_file()
    assert section["data"]["examples"] == 48
    assert sum(section["data"]["answers"].values()) <= 48
    assert section["estimate"]["memory_bytes"] > 0
