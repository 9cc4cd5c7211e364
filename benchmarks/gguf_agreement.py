"""Whether llama.cpp does with a GGUF file what transformers does with the checkpoint it was written from.

    python benchmarks/gguf_agreement.py --model OUT --gguf model.gguf

Tokens: strings of many kinds (source code of many languages and prose from installed packages, random Unicode, the
tokenizer's own special tokens) are cut by both; strings that the tokenizer's normaliser changes are counted apart,
for llama.cpp has none.

Completions: HumanEval's prompts are continued greedily by both, transformers in float32. Where a token differs, the
difference between the two candidates' logits in transformers is reported, and the completion ends there: with two
histories nothing is to be compared any more.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from pathlib import Path

from common import humaneval_problems, load_model, load_tokenizer, print_result, progress


SUFFIXES = {
    *(".py", ".pyi", ".c", ".h", ".cpp", ".hpp", ".cu", ".cuh", ".js", ".ts", ".css", ".html", ".sh", ".cmake"),
    *(".txt", ".md", ".rst", ".json", ".yaml", ".yml", ".toml", ".cfg", ".xml", ".f90", ".pyx", ".jinja", ".tcl"),
}
RANGES = (
    *((0x20, 0x7F), (0xA0, 0x17F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1E00, 0x1EFF)),
    *((0x2000, 0x23FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF)),
)


def strings_of(tokenizer, number: int, seed: int) -> list[str]:
    """Half of them passages of files, a third random characters, the rest with special tokens."""
    draw = random.Random(seed)
    places = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = sorted({path for place in places for path in place.rglob("*") if path.suffix in SUFFIXES})
    by_kind: dict[str, list[Path]] = {}
    for path in files:
        by_kind.setdefault(path.suffix, []).append(path)
    strings = []
    while len(strings) < number // 2:
        path = draw.choice(by_kind[draw.choice(sorted(by_kind))])
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        start = draw.randrange(max(1, len(text)))
        strings.append(text[start : start + draw.randint(1, 600)])
    while len(strings) < number * 5 // 6:
        ranges = draw.choices(RANGES, k=draw.randint(1, 3))
        strings.append("".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 60))))
    special = sorted(tokenizer.get_added_vocab())
    while len(strings) < number:
        parts = [
            draw.choice([*special[:50], " ", "\n", "def f(x):\n    return x", "été"])
            for _ in range(draw.randint(1, 6))
        ]
        strings.append("".join(parts))
    return strings


def compare_tokens(tokenizer, llama, strings: list[str]) -> dict[str, object]:
    """How many strings both cut alike, and the first ones that they do not."""
    normalise = tokenizer.backend_tokenizer.normalizer
    same = changed = 0
    different: list[str] = []
    for number, text in enumerate(strings):
        found = llama.tokenize(text.encode(), add_bos=False, special=True)
        alike = found == tokenizer(text, add_special_tokens=False).input_ids
        same += alike
        if not alike:
            form = type(normalise).__name__ in ("NFC", "Sequence") and normalise.normalize_str(text) != text
            changed += form
            different += [] if form else [text]
        progress(number + 1, len(strings), "strings")
    return {
        "strings": len(strings),
        "same": same,
        "different_by_normaliser": changed,
        "different": len(different),
        "examples": different[:5],
    }


def compare_completions(model, tokenizer, llama, prompts: list[str], tokens: int) -> dict[str, object]:
    """How many greedy completions are the same, and how near the tie was where one is not."""
    import torch

    same, gaps = 0, []
    for number, prompt in enumerate(prompts):
        ids = tokenizer(prompt).input_ids
        llama.reset()
        llama.eval(ids)
        for _ in range(tokens):
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -1].float()
            expected, found = int(logits.argmax()), int(llama.scores[len(ids) - 1].argmax())
            if expected != found:
                gaps.append(float(logits[expected] - logits[found]))
                break
            ids = [*ids, expected]
            llama.eval([expected])
        else:
            same += 1
        progress(number + 1, len(prompts), "prompts")
    return {"prompts": len(prompts), "tokens": tokens, "same": same, "gaps": gaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--gguf", required=True, help="the file that was written from it")
    parser.add_argument("--strings", type=int, default=2000, help="strings to cut (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=20, help="prompts to continue (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to write for each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the strings (default: %(default)s)")
    args = parser.parse_args()

    from llama_cpp import Llama

    tokenizer = load_tokenizer(args.model)
    llama = Llama(args.gguf, n_ctx=1024, n_batch=512, logits_all=True, verbose=False)
    tokens = compare_tokens(tokenizer, llama, strings_of(tokenizer, args.strings, args.seed))
    completions = {}
    if args.prompts:
        prompts = [problem["prompt"] for problem in humaneval_problems(args.prompts)]
        completions = compare_completions(load_model(args.model, "float32"), tokenizer, llama, prompts, args.tokens)
    print_result("gguf_agreement", strings=tokens, completions=completions)


if __name__ == "__main__":
    sys.exit(main())
