"""What transformers makes of checkpoint folders: run with one version of it, called with another.

python reader.py FOLDER ...   writes FOLDER.read beside each
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__


MESSAGES = [{"role": "user", "content": "def add(a, b):"}, {"role": "assistant", "content": "  return a + b\n"}]
TEXTS = [
    "def add_alpha(a, b):\n    return a + b",
    "The quick brown fox, 1234 times.",
    "",
    " ",
    "  leading and trailing  ",
    "\n\n\tx",
    "naïve cafe\u0301 中文 日本 🙂",
    "▁a<0x41>",
    "f ( a , b ) . c do n't",
]


def read(folder: Path, length: int) -> dict[str, Any]:
    """Everything that must not depend on who reads a folder.

    Args:
        length: how many positions to compute, beyond the length that a scaled rotary embedding was trained on.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    specials = sorted(tokenizer.all_special_tokens)
    texts = [*TEXTS, *(f"a {token} b{token}c" for token in specials)]
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    inputs = tokenizer(TEXTS[0], return_tensors="pt")
    padded = tokenizer(TEXTS[:2], padding=True)["input_ids"] if tokenizer.pad_token is not None else None
    ids = torch.arange(length)[None] % model.config.vocab_size
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits[0]
        generated = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)[0]
    return {
        "not loaded": sorted(str(key) for kind in info for key in info[kind] if kind.endswith("_keys")),
        "backend": json.loads(tokenizer.backend_tokenizer.to_str()),
        "ids": encoded,
        "texts": [tokenizer.decode(ids) for ids in encoded],
        "without specials": [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded],
        "padded": padded,
        "inputs": sorted(inputs),
        "specials": specials,
        "chat": tokenizer.apply_chat_template(MESSAGES, tokenize=False) if tokenizer.chat_template else None,
        "longest": tokenizer.model_max_length,
        "generation": [
            getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        ],
        "generated": generated.tolist(),
        "logits": logits.tolist(),
    }


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        try:
            found = read(Path(argument), int(sys.argv[1]))
        except Exception as error:  # what is wrong is for the test to say
            found = {"error": repr(error)}
        Path(f"{argument}.read").write_text(json.dumps({"version": __version__, **found}), encoding="utf-8")
