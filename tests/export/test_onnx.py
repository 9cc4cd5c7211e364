"""Optimum's own exporter to ONNX on pruned folders, in an environment with the transformers that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab import FlabOptimizer, FlabPrunerConfig

from ..conftest import TEXTS, byte_level_tokenizer, tiny_model


pytestmark = pytest.mark.thorough

READER = Path(__file__).with_name("onnx_reader.py")
TEXT = "def add_alpha(a, b):\n    return a + b\n\nclass Holder:\n    value = 1\n"
FAMILIES = ("qwen2", "gemma3_text")
# what comes before the packages of this environment, which has the others
EXPORTER = ("optimum-onnx==0.1.*", "onnx", "ml_dtypes", "onnxruntime", "flatbuffers", "protobuf")
OLDER = ("transformers==4.57.*", "tokenizers==0.22.*", "huggingface_hub<1")


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", folder]
    command = [str(part) for part in (*command, *EXPORTER, *OLDER)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if run.returncode:
        pytest.skip(f"optimum-onnx cannot be installed here: {run.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> dict[str, Path]:
    """A folder by family, of which vocabulary, layers and width were pruned."""
    folder, tokenizer = tmp_path_factory.mktemp("pruned"), byte_level_tokenizer()
    corpus = folder / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    data = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}
    config = FlabPrunerConfig(
        data={**data, "corpus": [str(corpus)]},
        vocab_size=400,
        vocabulary={"keep_merges": 0},
        num_hidden_layers=3,
        intermediate_size=32,
        ffn={"multiple_of": 4},
    )
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for family in FAMILIES:
        tiny_model(family, len(tokenizer), **ids).save_pretrained(folder / "dense" / family)
        tokenizer.save_pretrained(folder / "dense" / family)
        optimizer = FlabOptimizer.from_pretrained(folder / "dense" / family, device="cpu")
        optimizer.prune(config)
        optimizer.save_pretrained(folder / family)
    return {family: folder / family for family in FAMILIES}


@pytest.fixture(scope="module")
def exported(packages, pruned) -> None:
    environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(READER), TEXT, *map(str, pruned.values())]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("exported")
def test_onnx_runtime_computes_what_transformers_does(family, pruned):
    folder = pruned[family]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    found = np.load(f"{folder}.logits.npy")
    assert found.shape == expected.shape == (ids.shape[1], 400)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
