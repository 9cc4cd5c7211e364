"""What Optimum's exporter makes of checkpoint folders, in ONNX Runtime: run where both are installed.

python onnx_reader.py TEXT FOLDER ...   writes FOLDER.logits.npy beside each
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from optimum.commands.optimum_cli import main
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer


def read(text: str, folder: Path) -> np.ndarray:
    """The logits of a text, read in two steps as in generation."""
    exported = Path(f"{folder}.onnx")
    sys.argv = ["optimum-cli", "export", "onnx", "--model", str(folder), "--task", "text-generation-with-past"]
    sys.argv.append(str(exported))
    main()
    model, ids = ORTModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)(text)
    ids = torch.tensor([ids["input_ids"]])
    half = ids.shape[1] // 2
    first = model(input_ids=ids[:, :half], attention_mask=torch.ones(1, half, dtype=torch.int64), use_cache=True)
    everything = torch.ones_like(ids)
    second = model(input_ids=ids[:, half:], attention_mask=everything, past_key_values=first.past_key_values)
    return torch.cat([first.logits, second.logits], 1)[0].numpy()


if __name__ == "__main__":
    text, *folders = sys.argv[1:]
    for argument in folders:
        np.save(f"{argument}.logits.npy", read(text, Path(argument)))
