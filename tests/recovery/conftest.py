"""A tiny dense model on disk, a pruning of it, and instruction data about the same texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from optimum_flab import FlabOptimizer, FlabPrunerConfig, RecoveryConfig
from optimum_flab.checkpoints.loading import LoadedModel
from optimum_flab.pruning.result import PrunedModel
from optimum_flab.records.work import WorkFolder
from optimum_flab.recovery.inputs import RecoveryInputs
from optimum_flab.recovery.pipeline import recover
from optimum_flab.running.run import Run

from ..conftest import TEXTS, byte_level_tokenizer, tiny_model


NAMES = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi".split()


SMALL = {
    "template": "plain",
    "sequence_length": 96,
    "max_new_tokens": 24,
    "rank": 4,
    "learning_rate": 5e-3,
    "max_steps": 8,
    "batch_size": 4,
    "evaluations": 2,
    "dtype": "float32",
    "validation_share": 0.2,
    "text_share": 0.0,
}


def problems(number: int = 24) -> list[dict[str, str]]:
    """Problems in the form of HumanEval, with tests that their solutions pass."""
    return [
        {
            "task_id": f"p/{n}",
            "prompt": f"def add_{name}_{n}(a, b):\n    '''Return the sum of {name} and b.'''\n",
            "canonical_solution": f"    total = a + b * {n}\n    return total\n",
            "entry_point": f"add_{name}_{n}",
            "test": f"def check(candidate):\n    assert candidate(1, 2) == {1 + 2 * n}\n",
        }
        for n, name in ((n, NAMES[n % len(NAMES)]) for n in range(number))
    ]


def alpaca(number: int = 24) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Write a class that holds {name} number {n}.",
            "input": f"value = {n}" if n % 2 else "",
            "output": f"class {name.title()}Holder:\n    value = {n}\n"
            f"    def get(self):\n        return self.value + {n * 7}\n",
        }
        for n, name in ((n, NAMES[n % len(NAMES)]) for n in range(number))
    ]


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Models this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    """`dense`, `pruned`, `problems.jsonl`, `alpaca.json` and `held_out.jsonl`."""
    folder = tmp_path_factory.mktemp("recovery")
    tokenizer = byte_level_tokenizer(600)
    tokenizer.chat_template = (
        "{% for message in messages %}<|pad|>{{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|pad|>assistant\n{% endif %}"
    )
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = tiny_model("qwen2", vocab_size=608, initializer_range=0.1, **ids)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder / "dense")
    tokenizer.save_pretrained(folder / "dense")
    corpus = write_lines(folder / "corpus.jsonl", [{"text": text * 2} for text in TEXTS])
    optimizer = FlabOptimizer.from_pretrained(folder / "dense")
    optimizer.prune(
        FlabPrunerConfig(
            target_ratio=0.4,
            data={
                "corpus": [corpus],
                "sequence_length": 64,
                "validation_tokens": 200,
                "held_out_tokens": 200,
                "mix": {"own": 1},
                "calibration_tokens": 2000,
            },
            vocabulary={"keep_merges": 20},
            ffn={"multiple_of": 4},
        )
    )
    optimizer.save_pretrained(folder / "pruned")
    write_lines(folder / "problems.jsonl", problems())
    (folder / "alpaca.json").write_text(json.dumps(alpaca()), encoding="utf-8")
    write_lines(folder / "held_out.jsonl", [{"text": text} for text in TEXTS[:6]])
    return folder


@pytest.fixture(scope="session")
def loaded(_made) -> tuple[LoadedModel, PrunedModel]:
    """Both models, which no test may change."""
    optimizer = FlabOptimizer.from_pretrained(_made / "dense")
    return optimizer.dense, optimizer.load_pruned(_made / "pruned")


def config_for(made: Path, *, data=("problems.jsonl", "alpaca.json"), **changes) -> RecoveryConfig:
    of_all_weights = {"rank": None} if changes.get("method") == "full" else {}
    return RecoveryConfig(**{"data": [str(made / name) for name in data], **SMALL, **of_all_weights, **changes})


def recovered(loaded, made: Path, cache: str = "cache", **changes) -> PrunedModel:
    config = config_for(made, **changes)
    return recover(*loaded, config, confirm_run_unsafe_code=True, cache_dir=made / cache)


def inputs_of(loaded, made: Path, settings: RecoveryConfig) -> RecoveryInputs:
    return RecoveryInputs(*loaded, settings.for_method("lora"), Run(WorkFolder(made / "work")), torch.device("cpu"))


@pytest.fixture
def made(_made, tmp_path) -> Path:
    """A copy for one test."""
    shutil.copytree(_made, tmp_path / "made")
    return tmp_path / "made"
