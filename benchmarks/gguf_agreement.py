"""Whether llama.cpp does with a GGUF file what transformers does with the checkpoint that it was written from.

    python benchmarks/gguf_agreement.py --model OUT --gguf model.gguf

Tokens: strings of many kinds (source code of many languages and prose from installed packages, random Unicode, the
tokenizer's own special tokens) are tokenised by both; those that are tokenised alike only once they are in the Unicode
form NFC are counted separately: some tokenizers normalise text to it, and llama.cpp does not.

Completions: HumanEval's prompts are continued greedily by both, transformers in float32. If a token differs, the
difference between the two candidates' logits in transformers is reported. llama.cpp reads what transformers wrote, so
its token at each position, up to the first that differs, is the one it would have written.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from pathlib import Path
from unicodedata import normalize

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
    """How many strings both cut alike, as they are and in the form that the tokenizer's normaliser gives them."""
    same, same_normalised, different = 0, 0, list[str]()
    for number, text in enumerate(strings):
        expected = tokenizer(text, add_special_tokens=False).input_ids
        if llama.tokenize(text.encode(), add_bos=False, special=True) == expected:
            same += 1
        elif llama.tokenize(normalize("NFC", text).encode(), add_bos=False, special=True) == expected:
            same_normalised += 1
        else:
            different.append(text)
        progress(number + 1, len(strings), "strings")
    return {
        "strings": len(strings),
        "same": same,
        "same_in_nfc_only": same_normalised,
        "different": len(different),
        "examples": different[:5],
    }


def compare_completions(model, tokenizer, llama, prompts: list[str], tokens: int) -> dict[str, object]:
    """How many greedy completions are the same, and how near the tie was where one is not."""
    import torch

    same, gaps = 0, []
    for number, prompt in enumerate(prompts):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            whole = model.generate(
                ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, repetition_penalty=1.0
            )[0].tolist()
        start = ids.shape[1]
        llama.reset()
        llama.eval(whole)
        found = llama.scores[start - 1 : len(whole) - 1].argmax(-1).tolist()
        place = next(
            (at for at, pair in enumerate(zip(whole[start:], found, strict=True)) if len(set(pair)) > 1), None
        )
        if place is None:
            same += 1
        else:
            with torch.inference_mode():
                logits = model(torch.tensor([whole[: start + place]])).logits[0, -1].float()
            gaps.append(float(logits[whole[start + place]] - logits[found[place]]))
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
