"""Chooses the calibration text for the figures from two data sets, without looking at any benchmark.

Calibration: every problem of a CodeHarmony-style file (prompt + canonical solution) and, from an Alpaca-style file,
rows whose answer is a Python function, in seeded order, up to a token budget. Held-out: further such rows, up to their
own budget. Writes `calibration.jsonl` and `held_out.jsonl` with a `text` column, and prints one JSON line.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
from pathlib import Path

from common import print_result
from transformers import AutoTokenizer


def is_python_function(answer: str) -> bool:
    try:
        return any(isinstance(node, ast.FunctionDef) for node in ast.parse(answer).body)
    except (SyntaxError, ValueError):
        return False


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder whose tokenizer counts")
    parser.add_argument("--problems", required=True, help="JSONL with prompt and canonical_solution")
    parser.add_argument("--instructions", required=True, help="JSON list with instruction, input and output")
    parser.add_argument("--output", required=True, type=Path, help="folder for the two files")
    parser.add_argument("--tokens", type=int, default=37_000, help="most tokens of calibration, validation included")
    parser.add_argument("--held-out-tokens", type=int, default=8_192, help="most held-out tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    with open(args.problems, encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    with open(args.instructions, encoding="utf-8") as file:
        instructions = json.load(file)
    calibration = [row["prompt"] + row["canonical_solution"] for row in problems]
    answers = [
        "\n".join(filter(None, (row["instruction"], row["input"], row["output"]))) + "\n"
        for row in instructions
        if is_python_function(row["output"])
    ]
    random.Random(args.seed).shuffle(answers)
    held_out: list[str] = []
    spent = {"calibration": sum(map(length, calibration)), "held_out": 0}
    for answer in answers:
        tokens = length(answer)
        for name, texts, most in (
            ("held_out", held_out, args.held_out_tokens),
            ("calibration", calibration, args.tokens),
        ):
            if spent[name] + tokens <= most:
                texts.append(answer)
                spent[name] += tokens
                break
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output / "calibration.jsonl", calibration)
    write(args.output / "held_out.jsonl", held_out)
    print_result(
        "choose_text", tokens=spent, texts={"calibration": len(calibration), "held_out": len(held_out)}, seed=args.seed
    )


if __name__ == "__main__":
    main()
